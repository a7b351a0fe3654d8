// dirigo report: complete, honest, and safe whatever the text holds.
#include <doctest/doctest.h>

#include <cmath>

#include "dirigo/core/errors.hpp"
#include "report.hpp"
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

TEST_CASE("report: the chart draws both curves and the floor") {
  std::vector<CurvePoint> curve;
  for (int i = 1; i <= 3000; ++i) {
    curve.push_back({i, 3.0 / i + 1, i % 100 == 0 ? std::optional(3.0 / i + 1.1) : std::nullopt});
  }
  const std::string svg = loss_chart(curve, 0.9);
  CHECK(count(svg, "<polyline") == 2);
  CHECK(holds(svg, "class=\"floor\""));
  CHECK(holds(svg, "aria-label="));
  CHECK(svg.size() < 20000);  // thinned out
  CHECK(!holds(loss_chart(curve, std::nullopt), "class=\"floor\""));
  CHECK(!holds(svg, "nan"));
  CHECK(holds(loss_chart({}, 1.0), "No loss"));
  CHECK(!holds(loss_chart({{0, 2.0, {}}}, {}), "nan"));
  CHECK(!holds(loss_chart({{5, std::nan(""), {}}, {6, 2.0, {}}}, {}), "nan"));
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
  for (const char* words : {"http://", "https://", "src=", "@import", "url("}) {
    CAPTURE(words);
    CHECK(!holds(html, words));
  }
  CHECK(count(html, "class=\"null\"") == 2);
  CHECK(holds(html, "1.2500 &plusmn; 0.0100"));
  CHECK(holds(html, "run: hard, training text"));
  CHECK(holds(html, "fables: soft --windows"));  // evaluated here: there was no eval-*.json
  CHECK(holds(html, "evidence lower bound (ELBO)"));
  CHECK(holds(html, "<polyline"));
  CHECK(holds(html, "needs recall_far"));
  CHECK(holds(html, "need-far"));
  CHECK(holds(html, "<th>need</th><th>bytes</th><th>NLL</th><th>right %</th>"));
  CHECK(holds(html, "for=\"layer-1-1\""));
  CHECK(holds(html, "name=\"viewport\""));
  CHECK(holds(html, "prefers-color-scheme: dark"));
  CHECK(count(html, "<b class=") == count(html, "style=\"--o0:"));

  REQUIRE(directory.command("report run fables -o again.html").code == 0);
  // The quick evaluation's times are not shown: the same runs give the same file.
  CHECK(read_file(directory / "again.html") == html);
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
  CHECK(count(html, "<script") == 1);  // ours
  CHECK(!holds(html, "<i>run"));
  CHECK(!holds(html, "<b>hostile"));
  CHECK(holds(html, "&lt;i&gt;run"));
  CHECK(html.find('\x01') == std::string::npos);
  CHECK(html.find('\x1b') == std::string::npos);
  CHECK(holds(html, ">&lt;</b>"));
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
