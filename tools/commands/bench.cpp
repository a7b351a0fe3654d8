// dirigo bench: how fast this machine runs the pieces.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>

#include "bench/bench.hpp"
#include "commands.hpp"
#include "dirigo/core/errors.hpp"
#include "dirigo/core/suggest.hpp"
#include "progress.hpp"

namespace dirigo::tools {
namespace {

using Json = nlohmann::ordered_json;

struct BenchArguments {
  std::string name;
  StepBench step;
  DecodeBench decode;
  RouteBench route;
  std::string run;
  CostModelBench cost_model;
  std::optional<std::string> isa;
  std::optional<int> rounds;
  int threads = 0, steps = 20;
  bool long_sequences = false, forward_only = false, processor_time = false, json = false;
  std::vector<std::int64_t> lengths;
  std::map<const CLI::Option*, std::vector<std::string>> only_for;  // options that just some benches take

  int samples() const { return name == "step" ? steps : rounds.value_or(name == "route" ? 5 : 15); }
};

void check_at_least_one(const char* what, std::int64_t value) {
  if (value < 1) throw ValueError(fmt::format("[bench] {}: expected at least 1, got {}", what, value));
}

void check(const BenchArguments& a) {
  const std::vector<std::string> names{"gemm",  "kernels", "attention", "step",
                                       "route", "decode",  "cost-model"};
  if (std::find(names.begin(), names.end(), a.name) == names.end()) {
    throw ValueError(fmt::format("[bench] name: expected one of {}, got '{}'{}", fmt::join(names, ", "),
                                 a.name, did_you_mean(a.name, names)));
  }
  for (const auto& [option, benches] : a.only_for) {
    if (option->count() == 0 || std::find(benches.begin(), benches.end(), a.name) != benches.end()) continue;
    throw ValueError(fmt::format("[bench] {}: expected with {}, got with {}", option->get_name(),
                                 fmt::join(benches, " or "), a.name));
  }
  check_at_least_one("--rounds", a.rounds.value_or(1));
  check_at_least_one("--steps", a.steps);
  check_at_least_one("--vocabulary", a.step.vocabulary);
  check_at_least_one("--tokens", a.decode.tokens);
  check_at_least_one("--context", a.decode.context);
  if (a.decode.sessions < 0) {
    throw ValueError(fmt::format("[bench] --sessions: expected 0 or more, got {}", a.decode.sessions));
  }
  check_at_least_one("--width", a.route.width);
  check_at_least_one("--heads", a.route.heads);
  check_at_least_one("--window", a.route.window);
  check_at_least_one("--seq-len", a.cost_model.seq_len);
  if (a.name == "cost-model" && a.cost_model.output.empty())
    throw ValueError("[bench] -o: expected a file for the cost model, got none");
  for (const std::int64_t length : a.lengths) check_at_least_one("--lengths", length);
}

BenchReport timed(const BenchArguments& a) {
  Context::Options options;
  options.threads = a.name == "kernels" ? 1 : a.threads;
  if (a.isa) options.isa = parse_isa(*a.isa);
  const Context context(options);
  ProgressNote note(stderr, "timing");
  Sampling sampling;
  sampling.rounds = a.samples();
  sampling.source = a.processor_time ? TimeSource::processor : TimeSource::elapsed;
  sampling.progress = [&](double fraction) { note.update(fraction); };
  if (a.name == "gemm") return bench_gemm(context, sampling);
  if (a.name == "kernels") return bench_kernels(context, sampling);
  if (a.name == "step") return bench_step(context, a.step, sampling);
  if (a.name == "cost-model") {
    CostModelBench bench = a.cost_model;
    bench.preset = a.step.preset;
    bench.settings = a.step.settings;
    return bench_cost_model(context, bench, sampling);
  }
  if (a.name == "decode") {
    DecodeBench decode = a.decode;
    decode.run = a.run;
    decode.preset = a.step.preset;
    decode.settings = a.step.settings;
    decode.vocabulary = a.step.vocabulary;
    if (!a.lengths.empty()) decode.lengths = a.lengths;
    return bench_decode(context, decode, sampling);
  }
  if (a.name == "route") {
    RouteBench route = a.route;
    route.run = a.run;
    if (!a.lengths.empty()) route.lengths = a.lengths;
    return bench_route(context, route, sampling);
  }
  std::vector<std::int64_t> lengths =
      a.lengths.empty() ? std::vector<std::int64_t>{256, 1024, 4096} : a.lengths;
  if (a.long_sequences) lengths.push_back(16384);
  return bench_attention(context, lengths, a.forward_only, sampling);
}

int run_bench(const BenchArguments& a) {
  check(a);
  const BenchReport report = timed(a);
  if (a.json) {
    fmt::print("{}\n", Json{{"format_version", 1}, {"results", report.results}}.dump(2));
  } else {
    fmt::print("{}", report.text);
  }
  return 0;
}

}  // namespace

void add_bench(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("bench", "Time the pieces on this machine");
  const auto arguments = std::make_shared<BenchArguments>();
  BenchArguments& a = *arguments;
  command
      ->add_option(
          "name", a.name,
          "What to time, each in turns with the FMA peak:\n"
          "gemm (matrix products, beside Eigen's), kernels (all other inner loops, one thread),\n"
          "attention (the experts' cores, forward and backward), step (a training step on random tokens),\n"
          "route (a routed attention layer by length and routing, against all tokens at full),\n"
          "decode (a session's tokens one by one, at contexts of several lengths),\n"
          "cost-model (a layer's attention with each expert, for router.cost_model)")
      ->required();
  const auto only = [&](const CLI::Option* option, std::vector<std::string> benches) {
    a.only_for[option] = std::move(benches);
  };
  command->add_option("--isa", a.isa, "instruction set (default: the fastest)");
  only(command->add_option("--threads", a.threads, "0: as many as this process may use")
           ->capture_default_str(),
       {"gemm", "attention", "step", "route", "decode", "cost-model"});
  only(command->add_option("--rounds", a.rounds, "samples of each row (default: 15, route: 5)"),
       {"gemm", "kernels", "attention", "route", "decode", "cost-model"});
  only(
      command
          ->add_option("--lengths", a.lengths,
                       "values of T (default: 256 1024 4096; route: 1024 4096 16384 65536; decode: 1024 4096 "
                       "16384)")
          ->expected(1, -1),
      {"attention", "route", "decode"});
  only(command->add_flag("--long", a.long_sequences, "T = 16384 too"), {"attention"});
  only(command->add_flag("--forward", a.forward_only, "no backward passes"), {"attention"});
  const std::vector<std::string> route{"route"};
  only(command->add_option("--width", a.route.width, "D, the width of the layer")->capture_default_str(),
       route);
  only(command->add_option("--heads", a.route.heads, "heads of the layer")->capture_default_str(), route);
  only(command->add_option("--window", a.route.window, "w of local attention")->capture_default_str(), route);
  only(command->add_flag("--core", a.route.core, "the experts alone, without controller and projections"),
       route);
  only(command->add_option(
           "--run", a.run,
           "a trained run. route: its model too, with its own routes, on its held-out text, at "
           "the lengths it allows; decode: its model instead of a preset's, routed hard too"),
       {"route", "decode"});
  const std::vector<std::string> step{"step"}, model{"step", "decode", "cost-model"},
      cost_model{"cost-model"}, decode{"decode"};
  only(command->add_option("--preset", a.step.preset, "configuration to time")->capture_default_str(), model);
  only(command->add_option("--set", a.step.settings, "KEY=VALUE: set a field (repeatable)")
           ->expected(1)
           ->take_all(),
       model);
  only(command->add_option("--seq-len", a.cost_model.seq_len, "T")->capture_default_str(), cost_model);
  only(command->add_option("-o,--out", a.cost_model.output, "file of the cost model (replaced)"), cost_model);
  only(command->add_option("--steps", a.steps, "steps to time, after a warm-up")->capture_default_str(),
       step);
  only(command->add_option("--vocabulary", a.step.vocabulary, "number of tokens")->capture_default_str(),
       {"step", "decode"});
  only(command->add_flag("--profile", a.step.profile, "where a step's time goes, by operation"), step);
  only(command->add_option("--trace", a.step.trace,
                           "write the timed steps' operations to a file that ui.perfetto.dev shows"),
       step);
  only(command->add_option("--tokens", a.decode.tokens, "steps of a sample")->capture_default_str(), decode);
  only(command->add_option("--sessions", a.decode.sessions,
                           "so many sessions stepped together, instead of one"),
       decode);
  only(command->add_option("--context", a.decode.context, "length of their texts")->capture_default_str(),
       decode);
  command->add_flag(
      "--cpu-time", a.processor_time,
      "processor time of the calling thread instead of elapsed time: for --threads 1 on a machine "
      "that others use too");
  command->add_flag("--json", a.json, "JSON alone on stdout");
  command->footer(
      "Each row has the median of its samples and the distance of their quartiles in percent of it.\n\n"
      "Example: dirigo bench step --preset paper --threads 2 --profile --trace trace.json\n"
      "Example: dirigo bench route --lengths 1024 4096 --run runs/my-run\n"
      "Example: dirigo bench decode --lengths 1024 16384 --threads 1\n"
      "Example: dirigo bench decode --sessions 1000 --context 1024");
  command->callback([arguments, &run] { run = [arguments] { return run_bench(*arguments); }; });
}

}  // namespace dirigo::tools
