// dirigo info: the machine, a preset, a run.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "dirigo/core/context.hpp"
#include "model_summary.hpp"
#include "run_fixture.hpp"

using namespace dirigo;
using namespace dirigo::tools;
using namespace dirigo::test;
using nlohmann::json;

TEST_CASE("info: what this machine offers") {
  const RunDirectory directory;
  const auto result = directory.command("info --json");
  REQUIRE(result.code == 0);
  const json info = json::parse(result.out);
  CHECK(info["isa"]["active"] == std::string(isa_name(choose_isa())));
  CHECK(info["isa"]["available"].size() == available_isas().size());
  CHECK(info["threads"]["count"] == thread_limit().threads);
  CHECK(info["threads"]["decided_by"] == std::string(thread_limit().decided_by));
  CHECK(info["memory_bytes"] > 0);
  const auto text = directory.command("info");
  CHECK(text.code == 0);
  CHECK(text.out.find("decided by") != std::string::npos);
}

TEST_CASE("info: the paper's preset has the paper's null row") {
  const RunDirectory directory;
  const auto result = directory.command("info --preset paper --json");
  REQUIRE(result.code == 0);
  const json preset = json::parse(result.out)["preset"];
  CHECK(preset["null_router"]["entropy_sampled_pct"].get<double>() == doctest::Approx(42.7).epsilon(0.002));
  CHECK(preset["null_router"]["entropy_mean_pct"].get<double>() == doctest::Approx(65.8).epsilon(0.002));
  CHECK(preset["null_router"]["projected_cost_pct"].get<double>() == doctest::Approx(22.3).epsilon(0.003));
  CHECK(preset["config"]["train"]["seq_len"] == 64);
  std::int64_t sum = 0;
  for (const auto& [name, count] : preset["parameters_by_module"].items()) sum += count.get<std::int64_t>();
  CHECK(sum == preset["parameters"].get<std::int64_t>());
  // Mathematics, section 7, at T=64, D=128, d=32, w=32.
  CHECK(preset["experts"][0]["core_multiply_adds"].get<double>() == doctest::Approx(65 * 128));
  CHECK(preset["experts"][1]["core_multiply_adds"].get<double>() == doctest::Approx(2 * 128 * 33));
  CHECK(preset["experts"][2]["core_multiply_adds"].get<double>() ==
        doctest::Approx(2.0 * 128 * (32 * 33 / 2 + 32 * 32) / 64));
}

TEST_CASE("info: a run, in words and as JSON") {
  const RunDirectory directory;
  const auto text = directory.command("info run");
  REQUIRE(text.code == 0);
  for (const char* words :
       {"blocks.1.controller", "router.posterior", "Null router", "analytic c", "per token"}) {
    CAPTURE(words);
    CHECK(text.out.find(words) != std::string::npos);
  }
  const auto result = directory.command("info run --json");
  REQUIRE(result.code == 0);
  CHECK(json::parse(result.out)["run"]["config"]["model"]["d_model"] == 16);
}

TEST_CASE("info: unusable input is one line") {
  const RunDirectory directory;
  CHECK(directory.refusal_fault("info --preset papper", "'paper'") == "");
  CHECK(directory.refusal_fault("info run --preset paper", "got both") == "");
  CHECK(directory.refusal_fault("info nowhere", "nowhere") == "");
  CHECK(directory.refusal_fault("info nowhere --json", "nowhere") == "");
}
