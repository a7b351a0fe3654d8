// dirigo report: complete, honest, and safe whatever the text holds.
#include <doctest/doctest.h>

#include <cmath>

#include "dirigo/core/errors.hpp"
#include "report.hpp"
#include "report_assets.hpp"
#include "report_chart.hpp"
#include "report_study.hpp"
#include "run_fixture.hpp"

using namespace dirigo;
using namespace dirigo::tools;
using namespace dirigo::test;

namespace {

bool holds(const std::string& text, const std::string& words) {
  return text.find(words) != std::string::npos;
}

std::size_t count(const std::string& text, const std::string& words) {
  std::size_t n = 0;
  for (auto at = text.find(words); at != std::string::npos; at = text.find(words, at + 1)) ++n;
  return n;
}

const std::string evaluation =
    R"({"nll":1.25,"nll_se":0.01,"bpc":1.8,"tokens":640,"skipped_bytes":3,"seq_len":16,
  "routing_mode":"hard","evaluated_on":"training text","executed":{"attention_flops_vs_full":0.5,"model_flops_vs_full":0.9},
  "routing":{"layers":[],"overall":{"fraction_argmax":[0.5,0.25,0.25],"entropy_mean_pct":70,"entropy_sampled_pct":null}}})";

}  // namespace

TEST_CASE("report: HTML text is escaped") {
  CHECK(escape_html("<a href=\"x\">'&") == "&lt;a href=&quot;x&quot;&gt;&#39;&amp;");
  CHECK(escape_html(std::string("\x00\x1b\x7f", 3)) == "\\x00\\x1B\\x7F");
  CHECK(escape_html("caf\xC3\xA9") == "caf\xC3\xA9");
}

TEST_CASE("report: evaluations are read, damaged ones refused with their name") {
  const ResultRow row = parse_evaluation(evaluation, "eval.json");
  CHECK(row.nll == 1.25);
  CHECK(row.routing == "hard");
  CHECK(row.evaluated_on == "training text");
  CHECK(row.skipped_bytes == 3);
  CHECK(row.overall.fraction_argmax == std::vector<double>{0.5, 0.25, 0.25});
  CHECK(!row.overall.entropy_sampled_pct);
  CHECK(!row.entropy_floor);
  const auto routing = [](const std::string& options) {
    return parse_evaluation(R"({"options":")" + options + "\"," + evaluation.substr(1), "e").routing;
  };
  CHECK(parse_evaluation(R"({"reads_the_future":true,)" + evaluation.substr(1), "e").evaluated_on ==
        "training text, READS THE FUTURE");
  CHECK(routing("") == "hard");
  CHECK(routing("--expert linear --corpus a file --windows 128 --seq-len 64") ==
        "hard --expert linear --seq-len 64");
  const auto damaged = [](const std::string& from, const std::string& to) {
    std::string text = evaluation;
    return text.replace(text.find(from), from.size(), to);
  };
  // needs and gaps; files of older versions hold no accuracy
  const std::string need = R"({"tokens":4,"nll":0.5,"accuracy":0.75,"fraction_argmax_by_layer":[[1,0,0]]})";
  const ResultRow tagged = parse_evaluation(
      damaged("\"executed\"", R"("by_need":{"text":{"tokens":1,"nll":2,"fraction_argmax_by_layer":[]}},)"
                              R"("by_gap":[{"from":4,"to":7,)" +
                                  need.substr(1) + "],\"executed\""),
      "e");
  REQUIRE(tagged.needs.size() == 1);
  CHECK(!tagged.needs[0].accuracy);
  REQUIRE(tagged.gaps.size() == 1);
  CHECK(tagged.gaps[0].tag == "4-7");
  CHECK(tagged.gaps[0].tokens == 4);
  CHECK(tagged.gaps[0].accuracy == 0.75);
  CHECK_THROWS_WITH_AS(parse_evaluation("[1]", "eval.json"), doctest::Contains("eval.json"), IoError);
  CHECK_THROWS_AS(parse_evaluation(damaged("640", "-1"), "e"), IoError);
  CHECK_THROWS_AS(parse_evaluation(damaged("640", "\"many\""), "e"), IoError);
  CHECK_THROWS_AS(parse_evaluation(damaged("1.25", "null"), "e"), IoError);
  CHECK_THROWS_AS(parse_evaluation(damaged("[0.5,0.25,0.25]", "[0.5]"), "e"), IoError);
  CHECK_THROWS_AS(parse_evaluation(damaged("\"layers\":[]", "\"layers\":7"), "e"), IoError);
  CHECK_THROWS_AS(parse_evaluation(evaluation.substr(0, 40), "e"), IoError);
}

TEST_CASE("report: metrics are read; a last line that is being written is left out") {
  const std::string lines =
      "{\"step\":10,\"nll\":3.5,\"valid_nll\":null}\n{\"step\":20,\"nll\":3,\"valid_nll\":3.1}\n";
  const auto curve = parse_metrics(lines + "{\"step\":30,\"nl", "metrics.jsonl");
  REQUIRE(curve.size() == 2);
  CHECK(curve[0].step == 10);
  CHECK(!curve[0].valid_nll);
  CHECK(*curve[1].valid_nll == 3.1);
  CHECK_THROWS_WITH_AS(parse_metrics("broken\n" + lines, "metrics.jsonl"),
                       doctest::Contains("metrics.jsonl:1"), IoError);
  CHECK(parse_metrics("", "metrics.jsonl").empty());
}

TEST_CASE("report: a chart is data for its script; long lines are thinned out") {
  Chart chart{"Loss", "a < b", {"step"}, {"NLL"}, {}};
  for (int i = 1; i <= 3000; ++i) {
    if (i == 1) chart.series.push_back({"held-out </script>", {}});
    chart.series[0].points.push_back({double(i), 3.0 / i + 1});
  }
  const std::string html = chart_html(chart);
  CHECK(html.size() < 10000);
  CHECK(holds(html, "<canvas tabindex=\"0\" role=\"img\" aria-label=\"Loss;"));
  CHECK(holds(html, "a &lt; b"));
  CHECK(holds(html, "held-out \\u003c/script>"));
  CHECK(count(html, "</script>") == 1);
  CHECK(holds(html, "[4.5,"));  // the mean of steps 1 to 8

  chart.series = {{"points", {{1, 2, Interval{1.5, 2.5}, "soft"}, {std::nan(""), 2}, {0, 3}}, false}};
  chart.x.logarithmic = true;
  CHECK(holds(chart_html(chart), "\"points\":[[1.0,2.0,1.5,2.5,\"soft\"]]"));
  chart.series[0].points = {{-1, 2}};
  CHECK(holds(chart_html(chart), "Nothing to draw"));
  CHECK(!holds(chart_html(chart), "<canvas"));
}

TEST_CASE("report: base64 and the digest of a script as browsers want them") {
  CHECK(base64("") == "");
  CHECK(base64("f") == "Zg==");
  CHECK(base64("fo") == "Zm8=");
  CHECK(base64("foo") == "Zm9v");
  CHECK(base64(std::string("\xff\x00\xfe\x80", 4)) == "/wD+gA==");
}

TEST_CASE("report: charts of a training") {
  std::vector<CurvePoint> curve;
  for (int i = 1; i <= 3; ++i)
    curve.push_back({10 * i,
                     3.0,
                     i == 3 ? std::optional(3.1) : std::nullopt,
                     {},
                     0.5,
                     {{0.5, 0.25, 0.25}},
                     {{"text", 2.5}}});
  const std::string html = training_charts(curve, 0.9);
  CHECK(count(html, "<figure") == 4);  // loss, loss by need, one layer's experts, KL
  CHECK(holds(html, "entropy floor 0.900"));
  CHECK(holds(html, "[30.0,3.1]"));
  CHECK(holds(html, "[10.0,25.0]"));
  CHECK(!holds(training_charts(curve, std::nullopt), "entropy floor"));
  CHECK(holds(training_charts({}, 1.0), "No training"));
  CHECK(!holds(training_charts({{5, std::nan(""), {}}, {6, 2.0, {}}}, {}), "nan"));
}

TEST_CASE("report: one complete file that loads nothing, with the null row") {
  const RunDirectory directory;
  write_file(directory / "run/eval-hard.json", evaluation);
  write_file(directory / "run/metrics.jsonl", "{\"step\":10,\"nll\":3.5,\"valid_nll\":3.6}\n");
  const auto result = directory.command("report run fables -o report.html");
  CHECK(result.err == "");
  REQUIRE(result.code == 0);
  const std::string html = read_file(directory / "report.html");
  CHECK(html.rfind("<!DOCTYPE html>", 0) == 0);
  CHECK(holds(html, "</html>"));
  for (const char* words : {"src=\"", "<link", "@import", "url(", " style=\"", " onclick"}) {
    CAPTURE(words);
    CHECK(!holds(html, words));
  }
  CHECK(holds(html, "default-src 'none'"));
  CHECK(count(html, "'sha256-") == (assets::chart_js.empty() ? 3 : 4));
  CHECK(!holds(html, "unsafe-inline"));
  CHECK(count(html, "class=\"null\"") == 2);
  CHECK(holds(html, "1.2500 &plusmn; 0.0100"));
  CHECK(holds(html, "run: hard, training text"));
  CHECK(holds(html, "fables: soft, held-out text"));  // evaluated here: there was no eval-*.json
  CHECK(holds(html, "evidence lower bound (ELBO)"));
  CHECK(holds(html,
              "<th rowspan=\"2\">need</th><th rowspan=\"2\">bytes</th><th rowspan=\"2\">NLL</th><th "
              "rowspan=\"2\">right %</th>"));
  CHECK(holds(html, "next byte needs recall_far"));
  CHECK(holds(html, "\"needs\":[\"\","));
  CHECK(holds(html, "class=\"heat heat-"));
  CHECK(holds(html, "name=\"layer-1\" value=\"1\" checked"));
  CHECK(holds(html, "name=\"viewport\""));
  CHECK(holds(html, "prefers-color-scheme: dark"));
  // Chart.js's licence is in the page that holds it.
  CHECK(holds(html, "Permission is hereby granted") == !assets::chart_js.empty());

  REQUIRE(directory.command("report run fables -o again.html").code == 0);
  // The quick evaluation's times are not shown: the same runs give the same file.
  CHECK(read_file(directory / "again.html") == html);
}

TEST_CASE("report: runs on different texts have tables of their own") {
  const RunDirectory directory;
  REQUIRE(directory.command("report run fables -o both.html").code == 0);
  const std::string both = read_file(directory / "both.html");
  CHECK(holds(both, "<h3>On " + (directory / "text") + "</h3>"));
  CHECK(holds(both, "<h3>On synthetic:fables, T=16</h3>"));
  CHECK(holds(both, "only rows of one table can be compared"));
  REQUIRE(directory.command("report run -o one.html").code == 0);
  CHECK(!holds(read_file(directory / "one.html"), "only rows of one table"));
}

TEST_CASE("report: --bytes says how much text is shown") {
  const RunDirectory directory;
  const auto windows = [&](const std::string& arguments) {
    const auto result = directory.command("report fables -o r.html " + arguments);
    REQUIRE(result.code == 0);
    const std::string html = read_file(directory / "r.html");
    const auto at = html.find("\"starts\":[");
    return at == std::string::npos ? 0 : 1 + count(html.substr(at, html.find(']', at) - at), ",");
  };
  CHECK(windows("--bytes 0") == 0);
  CHECK(windows("--bytes 17") == 2);  // whole windows of 16
  CHECK(windows("--bytes 6400") == 400);
  CHECK(directory.refusal_fault("report run -o n.html --bytes -1", "--bytes") == "");
  CHECK(directory.refusal_fault("report run -o n.html --bytes 1000001", "1000000") == "");
}

namespace {

const std::string study =
    R"({"format_version":1,"study":"<b>s","corpus":null,"seeds":2,"rows":[
  {"arm":"a1","method":"a","label":"A","corpus":"one","seq_len":64,"exhibit":null,"seeds":2,"failed":1,"learning_rate":0.001,
   "nll":1.5,"nll_ci95":[1.4,1.6],"hard":{"nll":1.5,"nll_ci95":[1.4,1.6],"attention_flops":2000,"attention_flops_vs_full":0.25},
   "soft":{"nll":1.6,"nll_ci95":null,"attention_flops":8000},"gated":null,
   "routing":{"kl":0.1,"mi_token_expert":0.02},"deltas":{"permutation_delta_nll":0.5},"grid":[{"learning_rate":0.001,"development_nll":1.45}],
   "runs":["a-lr0.001-seed1","a-lr0.001-seed2"]},
  {"arm":"b1","method":"b","label":"B","corpus":"two","seq_len":128,"exhibit":"leaks","seeds":2,"hard":{"nll":0.5,"nll_ci95":null},"runs":[]}],
 "tables":{"confusion":[{"arm":"a1","method":"a","corpus":"one","layer":1,"need":"text","tokens":9,"fraction_argmax":[0.125,0.875,0]}],
  "boundary":[{"arm":"a1","method":"a","corpus":"one","posterior":"free","schedule":"warmup","w_kl":0.1,"kl":0.5,"mi_token_expert":0.0001,"collapsed":true}],
  "drops":[{"arm":"a1","method":"a","corpus":"one","seed":1,"keys":16,"last_accuracy":0.875},
   {"arm":"a1","method":"a","corpus":"one","seed":1,"keys":8,"last_accuracy":1},
   {"arm":"b1","method":"b","corpus":"two","seed":1,"keys":8,"last_accuracy":null}],
  "unheard_of":[{"arm":"b1","method":"b","corpus":"two","some_number":3.25,"some_number_ci95":[3,3.5],"yes":true,"none":null}]},
 "curves":{"gates":[{"arm":"a1","method":"a","corpus":"one","seed":1,"gate":"mi","eta":[null,0.5,null],"certain":[0,0.5,1],"nll":[1.6,1.55,1.5]}],
  "training":[{"arm":"a1","method":"a","corpus":"one","seed":1,"step":[10,20],"kl":[0.75,0.5],"nll":[null,null]}]}})";

}  // namespace

TEST_CASE("report: a study's rows, tables and curves") {
  const StudySection section = study_section(study, "study.json");
  CHECK(section.runs == std::vector<std::string>{"a-lr0.001-seed1"});
  const std::string& html = section.html;
  CHECK(!holds(html, "<b>s"));
  CHECK(count(html, "<h4>On two</h4>") ==
        3);  // rows, points and drops; what is unheard of has one corpus only
  CHECK(holds(html, "<td>2 +1</td>"));
  CHECK(holds(html, "1.5000 &plusmn; 0.1000"));
  CHECK(holds(html, "<td>25.0</td>"));
  CHECK(holds(html, "B (exhibit), T=128"));
  CHECK(holds(html, "<b>0.001: 1.4500</b>"));
  CHECK(holds(html, "<td class=\"heat heat-9\">87.5</td>"));
  CHECK(holds(html, "0.0001 &times;"));
  CHECK(holds(html, "Table: unheard_of"));
  CHECK(holds(html, "3.2500 &plusmn; 0.2500"));
  CHECK(holds(html, "<td>yes</td>"));
  CHECK(holds(html, "[0.5,1.55]"));  // a gate's threshold; all soft and all hard have none
  CHECK(holds(html, "[20.0,0.5]"));
  CHECK(holds(html, "Recall after training"));
  CHECK(holds(html, "[[8.0,1.0,"));        // by keys, whatever the order of the runs
  CHECK(!holds(html, "Nothing to draw"));  // a curve of nulls is none
  CHECK(holds(html, "\"name\":\"front\",\"line\":true,\"style\":\"bound\",\"points\":[[2000.0,1.5,"));
  CHECK(!holds(html, "nan"));
}

TEST_CASE("report: training curves of a collapse study, by variant or else by weight") {
  std::string boundary, training;
  const auto add = [&](const std::string& arm, const std::string& posterior, const std::string& w_kl) {
    const std::string head = R"({"arm":")" + arm + R"(","method":")" + arm + R"(","corpus":"c",)";
    boundary += (boundary.empty() ? "" : ",") + head + R"("posterior":")" + posterior +
                R"(","schedule":"constant","w_kl":)" + w_kl + "}";
    training += (training.empty() ? "" : ",") + head + R"("seed":1,"step":[1,2],"kl":[3,4]})";
  };
  add("a", "free", "0.1");
  add("b", "free", "1");
  add("c", "additive", "1");
  add("d", "other", "1");
  const std::string html = study_section(R"({"format_version":1,"rows":[],"tables":{"boundary":[)" +
                                             boundary + R"(]},"curves":{"training":[)" + training + "]}}",
                                         "s")
                               .html;
  CHECK(count(html, "<b>KL: free, constant<") == 1);  // two weights, two lines
  CHECK(count(html, "<b>KL: w_kl 1<") == 1);          // two variants, two lines
  CHECK(count(html, "KL: additive") == 0);
  CHECK(count(html, "KL: other") == 0);
}

TEST_CASE("report: rows of a language are compared at one length only, those of a file at any") {
  const auto headings = [](const std::string& corpus) {
    const std::string row = R"({"method":"m","corpus":")" + corpus + R"(","seq_len":)";
    const std::string json = R"({"format_version":1,"rows":[)" + row + "64}," + row + "128}]}";
    return count(study_section(json, "s").html, "<h4>On ");
  };
  CHECK(headings("a-file") == 0);
  CHECK(headings("synthetic:recall") == 2);
}

TEST_CASE("report: an earlier study.json has less in it; a damaged one is refused with its name") {
  const std::string earlier =
      R"({"format_version":1,"study":"table3","corpus":"c","seeds":1,"rows":[{"method":"a","label":"A","corpus":"c","hard":{"nll":1}}]})";
  CHECK(holds(study_section(earlier, "s").html, "<td>1.0000</td>"));
  CHECK(study_section(R"({"format_version":1,"rows":[]})", "s").runs.empty());
  const auto damaged = [](const std::string& from, const std::string& to) {
    std::string text = study;
    return text.replace(text.find(from), from.size(), to);
  };
  CHECK_THROWS_WITH_AS(study_section(study.substr(0, 100), "DIR/study.json"),
                       doctest::Contains("DIR/study.json"), IoError);
  CHECK_THROWS_WITH_AS(study_section(damaged(":1,", ":2,"), "s"), doctest::Contains("format_version"),
                       IoError);
  CHECK_THROWS_AS(study_section(R"({"format_version":1})", "s"), IoError);
  CHECK_THROWS_AS(study_section(R"({"format_version":1,"rows":[7]})", "s"), IoError);
  CHECK_THROWS_WITH_AS(study_section(damaged("[1.4,1.6],\"att", "[1.4],\"att"), "s"),
                       doctest::Contains("nll_ci95"), IoError);
  CHECK_THROWS_AS(study_section(damaged("\"kl\":0.1,", "\"kl\":\"x\","), "s"), IoError);
  CHECK_THROWS_AS(study_section(damaged("[0.125,0.875,0]", "[\"0\"]"), "s"), IoError);
  CHECK_THROWS_AS(study_section(damaged("[10,20]", "10"), "s"), IoError);
  CHECK_THROWS_AS(study_section(damaged("\"method\":\"a\",\"label\"", "\"label\""), "s"), IoError);
}

TEST_CASE("report: a study's directory, with and without its runs") {
  const RunDirectory directory;
  fs::create_directories(directory / "study/runs");
  write_file(directory / "study/study.json", study);
  REQUIRE(directory.command("report study -o bare.html").code == 0);
  const std::string bare = read_file(directory / "bare.html");
  CHECK(holds(bare, "<h2 id=\"study\">Study &lt;b&gt;s</h2>"));
  CHECK(!holds(bare, "class=\"reader\""));
  fs::rename(directory / "run", directory / "study/runs/a-lr0.001-seed1");
  REQUIRE(directory.command("report study fables -o both.html").code == 0);
  const std::string both = read_file(directory / "both.html");
  CHECK(count(both, "class=\"reader\"") == 2);
  CHECK(holds(both, "<h2 id=\"run-0\">a-lr0.001-seed1</h2>"));
  write_file(directory / "study/study.json", study.substr(0, 200));
  CHECK(directory.refusal_fault("report study -o r.html", "study/study.json") == "");
}

TEST_CASE("report: a hostile text stays text") {
  const RunDirectory directory;
  std::string text;
  for (int i = 0; i < 60; ++i) text += "</div><script>alert('1')</script>\"&\x01\x1b[31m ";
  write_file(directory / "<b>hostile", text);
  write_run(directory / "<i>run", small_config(directory / "<b>hostile"));
  const auto result = directory.command("report '<i>run' -o report.html");
  REQUIRE(result.code == 0);
  const std::string html = read_file(directory / "report.html");
  CHECK(count(html, "<script>") == (assets::chart_js.empty() ? 2 : 3));  // ours
  CHECK(!holds(html, "<i>run"));
  CHECK(!holds(html, "<b>hostile"));
  CHECK(holds(html, "&lt;i&gt;run"));
  CHECK(html.find('\x01') == std::string::npos);
  CHECK(html.find('\x1b') == std::string::npos);
  CHECK(holds(html, "\"text\":\""));
  CHECK(count(html, "alert('1')") > 0);  // within its JSON
  CHECK(count(html, "</script>") == count(html, "<script"));
}

TEST_CASE("report: unusable input is one line and makes no file") {
  const RunDirectory directory;
  const auto fault = [&](const std::string& arguments, const std::string& words) {
    return directory.refusal_fault("report " + arguments, words);
  };
  CHECK(fault("run", "--out") == "");
  CHECK(fault("run nowhere -o r.html", "nowhere") == "");
  CHECK(fault("run -o none/r.html", "none/r.html") == "");
  write_file(directory / "run/eval-hard.json", evaluation.substr(0, 50));
  CHECK(fault("run -o r.html", "eval-hard.json") == "");
}
