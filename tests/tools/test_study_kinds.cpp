// What single studies add: texts of their own, tables, curves, and the measures behind them.
#include <doctest/doctest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "data_source.hpp"
#include "dirigo/core/errors.hpp"
#include "evaluate_run.hpp"
#include "run_fixture.hpp"
#include "studies/emergence.hpp"
#include "studies/gates.hpp"
#include "studies/studies.hpp"

using namespace dirigo;
using namespace dirigo::tools;
using namespace dirigo::test;
using nlohmann::json;

namespace {

const char* small = R"("preset": "tiny",
  "set": {"model.d_model": 16, "model.heads": 2, "router.hidden": 8, "attention.window": 4, "train.batch": 4,
          "train.seq_len": 16, "train.steps": 12, "train.eval_every": 3, "router.warmup": 4,
          "train.log_deltas": true})";

// Arms over two files and a language, two lengths on one of them.
std::string mixed_arms() {
  return std::string(R"({"format_version": 1, )") + small + R"(,
  "arms": [
    {"method": "ours"},
    {"method": "ours", "name": "ours_t8", "set": {"train.seq_len": 8}},
    {"method": "static_full", "set": {"router.kind": "static"}, "exhibit": "for the test"},
    {"method": "ours", "name": "other_ours", "corpus": "other", "label": "on another text"},
    {"method": "static_full", "name": "recall_full", "corpus": "synthetic:recall?keys=4",
     "set": {"router.kind": "static"}},
    {"method": "ours", "name": "recall_ours", "corpus": "synthetic:recall?keys=4"},
    {"method": "leaky", "set": {"attention.leaky": true, "model.positions": "learned"}, "exhibit": "reads the future"}]})";
}

class MixedStudy : public RunDirectory {
 public:
  MixedStudy() {
    write_file(*this / "arms.json", mixed_arms());
    write_file(*this / "other", "other words in other order and more of them " + small_text() + small_text());
  }
  Result study(const std::string& name, const std::string& flags = "") const {
    return command("study " + name +
                   " --arms arms.json --corpus text --out out --windows 4 --seeds 1 --threads 2 --json " +
                   flags);
  }
};

std::set<std::string> arms_of(const json& records) {
  std::set<std::string> arms;
  for (const json& record : records) arms.insert(record["arm"].get<std::string>());
  return arms;
}

// The bytes that windows of `length` predict.
std::vector<std::int32_t> targets(const DataSource& source, const AlignedWindows& windows,
                                  std::int64_t length) {
  const meta::EvaluationText text = aligned_text(source, windows, length);
  std::vector<std::int32_t> all, inputs(static_cast<std::size_t>(length)),
      window(static_cast<std::size_t>(length));
  for (std::int64_t w = 0; w < text.windows; ++w) {
    text.window(w, {inputs, window, {}, {}});
    all.insert(all.end(), window.begin(), window.end());
  }
  return all;
}

}  // namespace

TEST_CASE("study kinds: windows of different length predict the same bytes") {
  const RunDirectory directory;
  const auto source = make_run_source(small_config(directory / "text"));
  const AlignedWindows windows = align_windows(*source, 32, 3);
  REQUIRE(windows.chosen.size() == 3);
  const auto whole = targets(*source, windows, 32);
  CHECK(whole.size() == 96);
  CHECK(targets(*source, windows, 16) == whole);
  CHECK(targets(*source, windows, 4) == whole);
  CHECK(align_windows(*source, 32, 0).chosen.size() ==
        static_cast<std::size_t>(source->evaluation(32).windows()));
}

TEST_CASE("study kinds: arms with texts and lengths of their own, and the tables of every study") {
  const MixedStudy directory;
  const auto result = directory.study("mine");
  CAPTURE(result.err);
  REQUIRE(result.code == 0);
  const json study = json::parse(result.out);
  const json& rows = study["rows"];
  // seven arms; a null router for each corpus and length that has a router
  REQUIRE(rows.size() == 7 + 4);
  CHECK(rows[0]["corpus"] == "text");
  CHECK(rows[3]["corpus"] == "other");
  CHECK(rows[4]["corpus"] == "synthetic:recall?keys=4");
  CHECK(rows[1]["seq_len"] == 8);
  CHECK(rows[1]["method"] == "ours");
  CHECK(rows[1]["arm"] == "ours_t8");
  CHECK(rows[2]["exhibit"] == "for the test");
  std::set<std::pair<std::string, int>> nulls;
  for (std::size_t i = 7; i < rows.size(); ++i) {
    CHECK(rows[i]["method"] == "null_router");
    nulls.emplace(rows[i]["corpus"].get<std::string>(), rows[i]["seq_len"].get<int>());
  }
  CHECK(nulls == std::set<std::pair<std::string, int>>{
                     {"text", 8}, {"text", 16}, {"other", 16}, {"synthetic:recall?keys=4", 16}});
  // each arm on its own text
  const auto corpus_of = [&](const std::string& run) {
    return json::parse(read_file(directory / ("out/runs/" + run + "/config.json")))["corpora"][0]["spec"]
        .get<std::string>();
  };
  CHECK(corpus_of("ours-lr0.002-seed1") == corpus_of("ours_t8-lr0.002-seed1"));
  CHECK(corpus_of("ours-lr0.002-seed1") != corpus_of("other_ours-lr0.002-seed1"));
  CHECK(corpus_of("recall_full-lr0.002-seed1").find("keys=4") != std::string::npos);
  // the short one reads the same windows in halves
  const auto tokens = [&](const std::string& file) {
    return json::parse(read_file(directory / ("out/runs/" + file)))["tokens"].get<int>();
  };
  CHECK(tokens("ours-lr0.002-seed1/eval-hard-corpus-test.txt-windows-4.json") == 64);
  CHECK(tokens("ours_t8-lr0.002-seed1/eval-hard-corpus-test.txt-windows-4-16-bytes-each-.json") == 64);
  const auto faults = [&](const std::string& flags, const std::string& words) {
    return directory.refusal_fault("study mine --arms arms.json --windows 4 " + flags, words);
  };
  CHECK(faults("--out new", "--corpus") == "");
  write_file(directory / "odd.json", [] {
    std::string text = mixed_arms();
    return text.replace(text.find("\"train.seq_len\": 8"), 18, "\"train.seq_len\": 5");
  }());
  CHECK(directory.refusal_fault("study mine --arms odd.json --corpus text --out new",
                                "arm 'ours_t8' train.seq_len: expected a divisor") == "");
  CHECK(directory.refusal_fault("study need --corpus text --out new", "--corpus: expected none") == "");
  CHECK(directory.refusal_fault("study need --quick --corpus text --out new", "--corpus: expected none") ==
        "");

  write_file(directory / "unscored.json", R"({"format_version": 1, "preset": "tiny", "arms": [
    {"method": "ours", "corpus": "synthetic:mqar?pairs=4", "set": {"train.seq_len": 16}}]})");
  CHECK(directory.refusal_fault("study eta --arms unscored.json --out new",
                                "arm 'ours' corpus: expected a text of which every byte is scored, got "
                                "synthetic:mqar?pairs=4") == "");

  // the same runs under the names of the built-in studies
  const auto named = [&](const std::string& name, const std::string& flags = "") {
    const auto again = directory.study(name, flags);
    CAPTURE(name);
    CAPTURE(again.err);
    REQUIRE(again.code == 0);
    const json results = json::parse(again.out);
    // its tables are printed, and every column is there in some record
    for (const ShownTable& shown : find_study(name)->shown()) {
      CHECK(again.err.find("\n" + shown.name + "\narm ") != std::string::npos);
      for (const ShownTable::Column& column : shown.columns) {
        CAPTURE(column.value);
        CHECK(std::any_of(
            results["tables"][shown.name].begin(), results["tables"][shown.name].end(),
            [&](const json& record) { return record.contains(json::json_pointer(column.value)); }));
      }
    }
    return results;
  };
  const json table3 = named("table3");
  const json& ranking = table3["tables"]["ranking"];
  CHECK(arms_of(ranking) ==
        std::set<std::string>{"ours", "ours_t8", "other_ours", "recall_full", "recall_ours"});
  for (const json& record : ranking) {
    CHECK(record["difference"].get<double>() >= 0);
    if (record["rank"] == 1) CHECK(record["difference"] == 0);
  }
  CHECK(table3["rows"] == study["rows"]);

  const json collapse = named("collapse");
  const json& boundary = collapse["tables"]["boundary"];
  CHECK(arms_of(boundary) == std::set<std::string>{"ours", "ours_t8", "other_ours", "recall_ours", "leaky"});
  for (const json& record : boundary) {
    CHECK(record["posterior"] == "free");
    CHECK(record["schedule"] == "constant");
    CHECK(record["w_kl"] == 0.003);
    CHECK(record["collapsed"] == (record["mi_token_expert"].get<double>() < 0.001));
    CHECK(record["kl"].get<double>() > 0);
    CHECK(record["permutation_delta_nll"].is_number());
  }
  REQUIRE(collapse["curves"]["training"].size() == 5);
  const json& curve = collapse["curves"]["training"][0];
  CHECK(curve["step"] == json({3, 6, 9, 12}));
  CHECK(curve["valid_nll"].size() == 4);
  CHECK(curve["kl"][3].get<double>() > 0);
  for (const char* key : {"entropy_mean_pct", "mi_token_expert", "active_units"}) {
    REQUIRE(curve[key].size() == 4);
    CHECK(curve[key][3].get<double>() >= 0);
  }
  CHECK(boundary[0]["active_units"] == curve["active_units"][3]);

  const json emergence = named("emergence");
  CHECK(arms_of(emergence["tables"]["drops"]).size() == 7);
  for (const json& record : emergence["curves"]["recall"]) {
    const bool tagged = record["corpus"] == "synthetic:recall?keys=4";
    CHECK(record["step"].size() == (tagged ? 4 : 0));
    if (tagged) CHECK(record["nll"][3].get<double>() > 0);
  }
  CHECK(emergence["tables"]["drops"][4]["keys"] == 4);
  CHECK(emergence["tables"]["drops"][5]["switch_step"] == 10);  // `tiny` is hard for the last 30% of 12
  CHECK(emergence["tables"]["drops"][4]["first_nll"] == emergence["curves"]["recall"][4]["nll"][0]);

  const json need = named("need");
  CHECK(arms_of(need["tables"]["confusion"]) == std::set<std::string>{"recall_full", "recall_ours"});
  for (const json& record : need["tables"]["confusion"]) {
    double sum = 0;
    for (const json& share : record["fraction_argmax"]) sum += share.get<double>();
    CHECK(sum == doctest::Approx(1));
    if (record["method"] == "static_full") CHECK(record["fraction_argmax"][0] == 1);
  }
  CHECK(need["tables"]["needs"][0]["nll"].is_number());
  REQUIRE(need["tables"]["runs"].size() == 2);
  CHECK(need["tables"]["runs"][0]["on_full"] == 1);

  write_file(directory / "costs.json", R"({"format_version": 1, "isa": "any", "threads": 1, "seq_len": 8,
    "attention": {"d_model": 16, "heads": 2, "window": 4, "chunk": 64},
    "costs": {"full": 1, "linear": 0.5, "local": 0.25},
    "microseconds_per_token": {"full": 4, "linear": 2, "local": 1},
    "spread": {"full": 0, "linear": 0, "local": 0}})");
  const json pareto = named("pareto", "--cost-model costs.json");
  int fronts = 0;
  for (const json& a : pareto["tables"]["points"]) {
    fronts += a["front_model_flops"] == true && a["corpus"] == "text" ? 1 : 0;
    if (a["arm"] == "static_full" || a["arm"] == "leaky") CHECK(a["front_model_flops"] == false);  // exhibits
    for (const json& b : pareto["tables"]["points"]) {
      if (a["corpus"] == b["corpus"] && a["front_model_flops"] == true && b["arm"] != "static_full" &&
          b["arm"] != "leaky") {
        const bool beaten = b["nll"] < a["nll"] && b["model_flops_per_byte"] < a["model_flops_per_byte"];
        CHECK_FALSE(beaten);
      }
    }
  }
  CHECK(fronts > 0);
  for (const json& record : pareto["tables"]["costs"]) {
    const bool measured = record["cost_model"] == "measured" && record["seq_len"] == 8;
    if (measured) {
      CHECK(record["costs"] == json({1.0, 0.5, 0.25}));
      CHECK(record["projected_cost_pct"].get<double>() >= 25);
    }
    if (record["cost_model"] == "measured" && !measured) CHECK(record["argmax_cost_pct"].is_null());
    // the nominal price of the same routing is what its evaluation says
    if (record["cost_model"] == "nominal") {
      for (const json& row : study["rows"]) {
        if (row["arm"] != record["arm"] || row["method"] == "null_router") continue;
        CHECK(record["argmax_cost_pct"].get<double>() ==
              doctest::Approx(row["routing"]["argmax_cost_pct"].get<double>()));
        CHECK(record["projected_cost_pct"].get<double>() ==
              doctest::Approx(row["routing"]["projected_cost_pct"].get<double>()));
      }
    }
  }
  write_file(directory / "bad.json", "{}");
  CHECK(directory.refusal_fault("study pareto --arms arms.json --corpus text --out out --cost-model bad.json",
                                "bad.json") == "");

  const json eta = named("eta");
  CHECK(arms_of(eta["tables"]["gates"]) ==
        std::set<std::string>{"ours", "ours_t8", "other_ours", "recall_ours"});  // no leaky one
  CHECK(eta["tables"]["gates"].size() == 4 * 3);
  CHECK(eta["tables"]["calibration"].size() == 4 * 3 * 3);  // two layers and their mean
  for (const json& sweep : eta["curves"]["gates"]) {
    const auto certain = sweep["certain"].get<std::vector<double>>();
    REQUIRE(certain.size() == 11);
    CHECK(std::is_sorted(certain.begin(), certain.end()));
    CHECK(certain.front() == 0);
    CHECK(certain.back() == 1);
    CHECK(sweep["attention_flops"][0].get<double>() > sweep["attention_flops"][10].get<double>());
  }
  for (const json& record : eta["tables"]["calibration"]) {
    CHECK(record["error_rate"].get<double>() >= 0);
    CHECK(record["raw_brier"].is_number() == (record["gate"] == "max_mean"));
  }
  CHECK(eta["curves"]["reliability"].size() == 4 * 3 * 2);
  CHECK(eta["curves"]["raw_reliability"].size() == 4 * 2);
  const std::string gates = directory / "out/runs/ours-lr0.002-seed1/gates-corpus-test.txt-windows-4.json";
  const std::string kept = read_file(gates);
  REQUIRE(!kept.empty());
  write_file(gates, "{");
  CHECK(directory.study("eta").code == 2);
  fs::remove(gates);
  REQUIRE(directory.study("eta").code == 0);
  const json before = json::parse(kept), after = json::parse(read_file(gates));
  for (const char* key : {"calibration", "gates", "risk_coverage", "reliability", "raw_reliability"})
    CHECK(before[key] == after[key]);
}

TEST_CASE("study kinds: AUROC counts pairs, ties half") {
  const auto pairs = [](const Judged& judged) {
    double wins = 0, count = 0;
    for (std::size_t i = 0; i < judged.wrong.size(); ++i) {
      for (std::size_t j = 0; j < judged.wrong.size(); ++j) {
        if (judged.wrong[i] || !judged.wrong[j]) continue;
        count += 1;
        wins += judged.certainty[i] > judged.certainty[j]    ? 1
                : judged.certainty[i] == judged.certainty[j] ? 0.5
                                                             : 0;
      }
    }
    return wins / count;
  };
  const Judged judged{{3, 1, 2, 2, 5, 2, 0, 5}, {false, true, false, true, false, true, false, true}};
  CHECK(*auroc(judged) == doctest::Approx(pairs(judged)));
  CHECK(*auroc({{1, 2}, {true, false}}) == 1);
  CHECK(*auroc({{2, 1}, {true, false}}) == 0);
  CHECK(*auroc({{1, 1, 1}, {true, false, false}}) == 0.5);
  CHECK_FALSE(auroc({{1, 2}, {true, true}}).has_value());
  CHECK_FALSE(auroc({{1, 2}, {false, false}}).has_value());
}

TEST_CASE("study kinds: risk against coverage, by hand") {
  const RiskCoverage best = risk_coverage({{4, 3, 2, 1}, {false, false, true, true}});
  CHECK(best.area == doctest::Approx((0 + 0 + 1. / 3 + 0.5) / 4));
  const RiskCoverage worst = risk_coverage({{1, 2, 3, 4}, {false, false, true, true}});
  CHECK(worst.area == doctest::Approx((1 + 1 + 2. / 3 + 0.5) / 4));
  // all ties: whatever the order they come in, the share of wrong ones
  const RiskCoverage ties = risk_coverage({{1, 1, 1, 1}, {true, false, false, false}});
  for (const double risk : ties.risk) CHECK(risk == doctest::Approx(0.25));
  CHECK(ties.area == doctest::Approx(0.25));
  CHECK(ties.coverage.back() == 1);
  CHECK(ties.coverage.size() == ties.risk.size());
}

TEST_CASE("study kinds: reliability and calibrated probabilities, by hand") {
  const std::vector<double> probability{0.9, 0.9, 0.1, 0.1};
  const Reliability r = reliability(probability, {false, true, true, true});
  CHECK(r.brier == doctest::Approx((0.01 + 0.81 + 0.01 + 0.01) / 4));
  CHECK(r.ece == doctest::Approx((std::abs(1.8 - 1) + std::abs(0.2 - 0)) / 4));
  CHECK(r.tokens == std::vector<std::int64_t>{2, 2});
  CHECK(r.observed == std::vector<double>{0, 0.5});
  CHECK(reliability(std::vector<double>{1, 0}, {false, true}).ece == 0);

  Judged fitted;
  for (int i = 0; i < 30; ++i) {
    fitted.certainty.push_back(i);
    fitted.wrong.push_back(i < 15);
  }
  const auto p = calibrated(fitted, {{-5, 0, 29, 100}, {true, true, false, false}});
  CHECK(p == std::vector<double>{0, 0, 1, 1});
}

TEST_CASE("study kinds: a table as text") {
  const nlohmann::ordered_json records = nlohmann::ordered_json::parse(R"([
    {"arm": "ours", "nll": 1.25, "nll_ci95": [1.0, 1.5], "shares": [0.25, 0.75], "fit": true, "seconds": 2e-6},
    {"arm": "other", "nll": null, "nll_ci95": null, "shares": null, "fit": false, "seconds": 1e-7}])");
  const ShownTable shown{"gates",
                         {{"arm", "/arm"},
                          {"NLL", "/nll", 2},
                          {"second", "/shares/1", 1},
                          {"fit", "/fit"},
                          {"us", "/seconds", 1, 1e6},
                          {"not there", "/no"}}};
  CHECK(table_text(records, shown) ==
        "arm           NLL  second  fit   us  not there\n"
        "-----  ----------  ------  ---  ---  ---------\n"
        "ours   1.25+-0.25     0.8  yes  2.0          -\n"
        "other           -       -   no  0.1          -\n");
}

TEST_CASE("study kinds: drops and falls") {
  const std::vector<std::int64_t> steps{1, 2, 3, 4, 5, 6};
  const Drop drop = find_drop(steps, {2.0, 1.9, 1.7, 0.9, 0.5, 0.3});
  CHECK(drop.step == 4);
  CHECK(drop.begin == 3);
  CHECK(drop.end == 6);
  CHECK_FALSE(find_drop(steps, {2, 2, 2, 1.5, 1.2, 1.1}).step.has_value());
  CHECK_FALSE(find_drop({}, {}).step.has_value());
  const Drop half = find_drop(steps, {2, 2, 1, 1, 1, 1});
  CHECK(half.step == 3);
  CHECK(half.begin == 2);
  CHECK_FALSE(half.end.has_value());

  const Fall fall = steepest_fall(steps, {1, 1, 1, 0.2, 0.2, 0.2}, 2);
  CHECK(fall.step == 4);
  CHECK(fall.by == doctest::Approx(0.8));
  CHECK_FALSE(steepest_fall(steps, {1, 2, 3, 4, 5, 6}, 2).step.has_value());
  CHECK_FALSE(steepest_fall(steps, {1, 0}, 2).step.has_value());
}
