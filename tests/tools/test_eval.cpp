// dirigo eval: what it measures, how it labels it, and what it refuses.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "evaluate_run.hpp"
#include "evaluation_table.hpp"
#include "run_fixture.hpp"

using namespace dirigo;
using namespace dirigo::tools;
using namespace dirigo::test;
using nlohmann::json;

TEST_CASE("eval: the JSON on stdout is the file's and what the library measures") {
  const RunDirectory directory;
  const auto result = directory.command("eval run --routing hard --json");
  CHECK(result.err == "");
  REQUIRE(result.code == 0);
  CHECK(result.out == read_file(directory / "run/eval-hard.json"));
  const json evaluation = json::parse(result.out);
  for (const char* key : {"nll", "nll_se", "ppl", "bpc", "tokens", "skipped_bytes", "seq_len", "routing_mode",
                          "routing", "executed", "null_router", "format_version", "evaluated_on", "corpus"}) {
    CAPTURE(key);
    CHECK(evaluation.contains(key));
  }
  CHECK(evaluation["evaluated_on"] == "held-out text");

  const Context context;
  const auto run = meta::load_run(context, directory / "run");
  const auto source = make_run_source(run.description);
  meta::EvaluationOptions options;
  options.routing = meta::RoutingMode::hard;
  const auto expected =
      meta::evaluate(context, *run.model, evaluation_text(*source, source->evaluation(16)), options);
  CHECK(evaluation["nll"].get<double>() == expected.nll);
  CHECK(evaluation["tokens"].get<std::int64_t>() == expected.tokens);
}

TEST_CASE("eval: the text that trained is labelled, another one too") {
  const RunDirectory directory;
  write_file(directory / "other", "an old red fox sees a big dog and likes a cat\n\x01 and so on and on");
  const auto training = directory.command("eval run --corpus text --json");
  const auto other = directory.command("eval run --corpus other --json");
  REQUIRE(training.code == 0);
  REQUIRE(other.code == 0);
  CHECK(json::parse(training.out)["evaluated_on"] == "training text");
  CHECK(json::parse(other.out)["evaluated_on"] == "other text");
  CHECK(json::parse(other.out)["skipped_bytes"] > 0);
  CHECK(fs::exists(directory / "run/eval-soft-corpus-text.json"));

  const auto table = directory.command("eval run --corpus text");
  REQUIRE(table.code == 0);
  for (const char* words :
       {"on training text", "null router", "0 skipped", "of static full", "nominal constants"}) {
    CAPTURE(words);
    CHECK(table.out.find(words) != std::string::npos);
  }
}

TEST_CASE("eval: forced experts run alone, deltas and needs appear where they belong") {
  const RunDirectory directory;
  const auto forced = directory.command("eval run --expert local --seq-len 8 --windows 3 --json");
  REQUIRE(forced.code == 0);
  const json evaluation = json::parse(forced.out);
  CHECK(evaluation["executed"]["tokens_per_expert"] == json({{0, 0, 24}, {0, 0, 24}}));
  const json& executed = evaluation["executed"];
  double attention = 0, padding = 0;
  for (std::size_t l = 0; l < 2; ++l) {
    const json &own = executed["attention_flops_per_expert"][l],
               &masked = executed["padded_flops_per_expert"][l];
    CHECK(own[0] == 0);
    CHECK(own[1] == 0);
    CHECK(own[2].get<double>() > 0);
    attention += own[2].get<double>();
    padding += masked[2].get<double>();
    CHECK(executed["projection_flops_per_expert"][l] == json({0, 0, 0}));  // shared
  }
  CHECK(attention == executed["attention_flops"].get<double>());
  CHECK(padding == executed["padded_flops"].get<double>());
  CHECK(evaluation["options"] == "--expert local --seq-len 8 --windows 3");
  CHECK(fs::exists(directory / "run/eval-soft-expert-local-seq-len-8-windows-3.json"));

  const auto tagged = directory.command("eval fables --windows 8 --deltas --json");
  REQUIRE(tagged.code == 0);
  const json fables = json::parse(tagged.out);
  CHECK(fables["by_need"].size() == 5);
  CHECK(fables["by_need"].contains("recall"));
  CHECK(fables["accuracy"].is_number());
  CHECK(fables["by_gap"].is_array());
  CHECK(fables["entropy_floor"].is_number());
  CHECK(fables["deltas"]["permutation_delta_nll"].is_number());
  const auto table = directory.command("eval fables --windows 8 --deltas");
  CHECK(table.out.find("recall_far") != std::string::npos);
  CHECK(table.out.find("permuted over tokens") != std::string::npos);
  CHECK(table.out.find("right%") != std::string::npos);
}

TEST_CASE("eval: languages with ignored targets and exact distributions") {
  const RunDirectory directory;
  meta::Config config = small_config("synthetic:hmm");
  write_run(directory / "hmm", config);
  config.data.corpus = "synthetic:mqar?pairs=2";
  write_run(directory / "mqar", config);

  const auto hmm = directory.command("eval hmm --windows 8 --json");
  CHECK(hmm.err == "");
  REQUIRE(hmm.code == 0);
  const json filtered = json::parse(hmm.out);
  // an untrained model's loss is what the exact prediction costs, and its error
  CHECK(filtered["posterior_error_bits"].get<double>() > 0);
  CHECK(filtered["by_need"]["filter"]["posterior_error_bits"] == filtered["posterior_error_bits"]);
  CHECK(filtered["tokens"] == 8 * 16);
  CHECK(directory.command("eval hmm --windows 8").out.find("bits from the exact distribution") !=
        std::string::npos);

  const auto mqar = directory.command("eval mqar --windows 8 --json");
  REQUIRE(mqar.code == 0);
  const json recalled = json::parse(mqar.out);
  CHECK(recalled["tokens"] == 8 * 2);
  CHECK(recalled["by_need"]["recall"]["tokens"] == 8 * 2);
  std::int64_t told = 0;
  for (const json& gap : recalled["by_gap"]) {
    for (const char* key : {"from", "to", "nll", "accuracy"}) CHECK(gap[key].is_number());
    CHECK(gap["fraction_argmax_by_layer"].size() == 2);
    told += gap["tokens"].get<std::int64_t>();
  }
  CHECK(told == 8 * 2);
  CHECK(recalled["by_need"]["unscored"]["tokens"] == 8 * 14);
  CHECK(recalled["by_need"]["unscored"]["nll"].is_null());
  CHECK(recalled["entropy_floor"] == 0);
  CHECK(recalled["posterior_error_bits"].is_null());
  const std::string table = directory.command("eval mqar --windows 8").out;
  CHECK(table.find("8 windows of 16 bytes") != std::string::npos);
  CHECK(table.find("told so many bytes back") != std::string::npos);
  CHECK(directory.command("report mqar -o report.html").code == 0);
  CHECK(read_file(directory / "report.html").find("told so many bytes back</th>") != std::string::npos);
  CHECK(directory.command("compare mqar mqar --windows 8").code == 0);
  CHECK(directory.refusal_fault("eval mqar --seq-len 3", "at least one scored target") == "");
}

TEST_CASE("eval: the table names an evidence lower bound only where training maximised one") {
  const Context context;
  const RunDirectory directory;
  const auto run = meta::load_run(context, directory / "run");
  const auto source = make_run_source(run.description);
  const auto evaluation =
      meta::evaluate(context, *run.model, evaluation_text(*source, source->evaluation(16)), {});
  const EvaluationSubject subject{"run", "held-out text", "text", ""};
  const std::string words = "no evidence lower bound";
  CHECK(evaluation_table(evaluation, subject, run.description.config).find(words) != std::string::npos);
  CHECK(evaluation_table(evaluation, subject, meta::preset("paper")).find(words) == std::string::npos);
}

TEST_CASE("a run that reads the future: trained, evaluated and described as such, refused elsewhere") {
  const RunDirectory directory;
  const std::string train =
      "train --preset paper --corpus text --steps 2 --out leaky --set attention.leaky=true "
      "--set model.d_model=16 --set model.heads=2 --set train.seq_len=16 --set train.batch=2";
  CHECK(directory.refusal_fault(train + " --sample-every 1",
                                "--sample-every: expected 0 with attention.leaky") == "");
  const auto trained = directory.command(train);
  CAPTURE(trained.err);
  REQUIRE(trained.code == 0);
  CHECK(trained.out.find("READS THE FUTURE") != std::string::npos);
  for (const char* routing : {"soft", "hard"}) {
    const auto table = directory.command(fmt::format("eval leaky --routing {}", routing));
    CHECK(table.code == 0);
    CHECK(table.out.find("READS THE FUTURE") != std::string::npos);
    const auto printed = directory.command(fmt::format("eval leaky --routing {} --json", routing));
    CHECK(json::parse(printed.out)["reads_the_future"] == true);
  }
  CHECK(directory.command("eval run").out.find("FUTURE") == std::string::npos);
  const auto described = directory.command("info leaky");
  CHECK(described.out.find("attention.leaky              true") != std::string::npos);
  CHECK(directory.refusal_fault("score leaky --text text --out scores", "does not read the future") == "");
  CHECK(directory.refusal_fault("score leaky --text text --show", "does not read the future") == "");
  CHECK(directory.refusal_fault("sample leaky", "does not read the future") == "");
}

TEST_CASE("info: a run with empirical Bayes shows the prior of each layer") {
  const RunDirectory directory;
  const auto trained = directory.command(
      "train --preset tiny --corpus text --steps 4 --out bayes --set router.empirical_bayes=true "
      "--set router.empirical_bayes_every=2 --set router.warmup=0 --set model.d_model=16 --set model.heads=2 "
      "--set train.seq_len=16 --set train.batch=2");
  CAPTURE(trained.err);
  REQUIRE(trained.code == 0);
  CHECK(directory.command("info bayes").out.find("estimated prior") != std::string::npos);
  CHECK(directory.command("info run").out.find("estimated prior") == std::string::npos);
  const Context context;
  const auto run = meta::load_run(context, directory / "bayes");
  const auto priors = json::parse(directory.command("info bayes --json").out)["run"]["estimated_priors"];
  REQUIRE(priors.size() == 2);
  for (std::size_t k = 0; k < 3; ++k) CHECK(priors[1][k] == run.model->prior(1)[k]);
}

TEST_CASE("eval: beyond max_len with positions that go on, an error with learned ones") {
  const RunDirectory directory;
  for (const char* positions : {"rotary", "window_bias"}) {
    CAPTURE(positions);
    meta::Config config = small_config(directory / "text");
    meta::set_field(config, "model.positions", positions);
    meta::resolve(config);
    write_run(directory / positions, config);
    for (const char* routing : {"soft", "hard"}) {
      const auto result =
          directory.command(fmt::format("eval {} --seq-len 64 --routing {} --json", positions, routing));
      CAPTURE(result.err);
      REQUIRE(result.code == 0);
      const auto evaluation = nlohmann::json::parse(result.out);
      CHECK(evaluation["seq_len"] == 64);
      CHECK(evaluation["nll"].get<double>() > 0);
    }
    CHECK(directory.command(fmt::format("eval {} --seq-len 64 --windows 1 --deltas", positions)).code == 0);
    CHECK(directory.command(fmt::format("score {} --text text --out {}.jsonl", positions, positions)).code ==
          0);
    CHECK(directory.command(fmt::format("sample {} --tokens 30", positions)).code == 0);
  }
  CHECK(directory.refusal_fault("eval run --seq-len 64",
                                "1 to the model's max_len = 16, beyond which learned positions do not reach, "
                                "got 64") == "");
}

TEST_CASE("eval: unusable input is one line and makes no file") {
  const RunDirectory directory;
  const auto fault = [&](const std::string& arguments, const std::string& words) {
    return directory.refusal_fault("eval " + arguments, words);
  };
  CHECK(fault("run --seq-len 17", "max_len = 16, beyond which learned positions do not reach, got 17") == "");
  CHECK(fault("run --seq-len 0", "--seq-len") == "");
  CHECK(fault("run --routing sofft", "'soft'") == "");
  CHECK(fault("run --gate mii", "'mi'") == "");
  CHECK(fault("run --expert fulll", "'full'") == "");
  CHECK(fault("run --windows -1", "windows") == "");
  CHECK(fault("run --threads -1", "threads") == "");
  CHECK(fault("nowhere", "nowhere") == "");
  CHECK(fault("run --corpus missing", "missing") == "");
  write_file(directory / "short", "fox");
  CHECK(fault("run --corpus short", "17 bytes") == "");

  const std::string weights = read_file(directory / "run/model.safetensors");
  write_file(directory / "run/model.safetensors", weights.substr(0, weights.size() - 8));
  CHECK(fault("run", "model.safetensors") == "");
  fs::remove(directory / "run/model.safetensors");
  CHECK(fault("run", "model.safetensors") == "");
  write_file(directory / "run/config.json", "{");
  CHECK(fault("run", "config.json") == "");
}
