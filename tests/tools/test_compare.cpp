// dirigo compare: the same bytes, paired; anything else is refused.
#include <doctest/doctest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "compare_runs.hpp"
#include "dirigo/core/errors.hpp"
#include "run_fixture.hpp"

using namespace dirigo;
using namespace dirigo::tools;
using namespace dirigo::test;
using nlohmann::json;

namespace {

// A run on `corpus` with a window of its own and these changes.
void write_variant(const std::string& directory, const std::string& corpus,
                   const std::vector<std::pair<const char*, const char*>>& settings) {
  meta::Config config = small_config(corpus);
  config.model.max_len = 0;
  for (const auto& [key, value] : settings) meta::set_field(config, key, value);
  meta::resolve(config);
  write_run(directory, config);
}

}  // namespace

TEST_CASE("compare: differences are paired, and the null router is there") {
  const RunDirectory directory;
  write_variant(directory / "full", directory / "text",
                {{"router.kind", "static"}, {"router.expert", "full"}});
  const auto result = directory.command("compare run full run --json");
  CHECK(result.err == "");
  REQUIRE(result.code == 0);
  const json comparison = json::parse(result.out);
  CHECK(comparison["format_version"] == 1);
  const auto& rows = comparison["rows"];
  REQUIRE(rows.size() == 3);
  CHECK(rows[0]["difference"].is_null());
  CHECK(rows[0]["routing_mode"] == "hard");
  CHECK(rows[1]["difference"].get<double>() ==
        doctest::Approx(rows[1]["nll"].get<double>() - rows[0]["nll"].get<double>()).epsilon(1e-6));
  CHECK(rows[1]["difference_ci95"][0] <= rows[1]["difference"]);
  CHECK(rows[1]["difference_ci95"][1] >= rows[1]["difference"]);
  CHECK(rows[2]["difference"] == 0);  // itself
  CHECK(rows[2]["difference_ci95"] == json({0.0, 0.0}));
  CHECK(comparison["null_router"]["mi_token_expert"] == 0);

  // as `eval` measures it
  const json evaluation = json::parse(directory.command("eval run --routing hard --json").out);
  CHECK(rows[0]["nll"] == evaluation["nll"]);
  CHECK(rows[0]["tokens"] == evaluation["tokens"]);

  const auto table = directory.command("compare run full --routing soft");
  REQUIRE(table.code == 0);
  for (const char* words :
       {"soft routing on held-out text", "null router", "95% interval", "block bootstrap"}) {
    CAPTURE(words);
    CHECK(table.out.find(words) != std::string::npos);
  }
}

TEST_CASE("compare: runs of different lengths predict the same bytes") {
  const RunDirectory directory;
  write_variant(directory / "short", directory / "text", {{"train.seq_len", "4"}});
  write_variant(directory / "odd", directory / "text", {{"train.seq_len", "5"}});
  const auto result = directory.command("compare short run --json");
  REQUIRE(result.code == 0);
  const json rows = json::parse(result.out)["rows"];
  CHECK(rows[0]["seq_len"] == 4);
  CHECK(rows[1]["seq_len"] == 16);
  CHECK(rows[0]["tokens"] == rows[1]["tokens"]);
  CHECK(directory.command("compare short run").out.find("bytes of context") != std::string::npos);
  const auto few = directory.command("compare short run --windows 3 --json");
  CHECK(json::parse(few.out)["rows"][0]["tokens"] == 48);
  CHECK(directory.refusal_fault("compare run odd", "divisor") == "");
}

TEST_CASE("compare: other bytes, another vocabulary and damaged runs are refused in one line") {
  const RunDirectory directory;
  std::string text = small_text();
  std::reverse(text.begin(), text.end());
  write_file(directory / "reversed", text);
  write_run(directory / "other", small_config(directory / "reversed"));
  write_file(directory / "wide", small_text() + "!?");
  write_variant(directory / "bytes256", directory / "text", {{"model.vocabulary", "bytes256"}});
  write_variant(directory / "seed2", "synthetic:fables?stream=1", {});
  const auto fault = [&](const std::string& arguments, const std::string& words) {
    return directory.refusal_fault("compare " + arguments, words);
  };
  CHECK(fault("run other", "held-out bytes") == "");
  CHECK(fault("run bytes256", "vocabulary") == "");
  CHECK(fault("run fables", "vocabulary") == "");
  CHECK(fault("fables seed2", "held-out bytes") == "");
  CHECK(fault("run", "at least two") == "");
  CHECK(fault("run nowhere", "nowhere") == "");
  CHECK(fault("run run --windows -1", "--windows") == "");
  CHECK(fault("run run --routing hrd", "'hard'") == "");
  CHECK(fault("run run --corpus missing", "missing") == "");
  CHECK(directory.command("compare run other --corpus text").code == 0);  // a common text
  fs::remove(directory / "other/model.safetensors");
  CHECK(fault("run other --corpus text", "model.safetensors") == "");
  write_file(directory / "other/config.json", "{");
  CHECK(fault("run other", "config.json") == "");
}
