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
  CostModelBench cost_model;
  std::optional<std::string> isa;
  int threads = 0, rounds = 15, steps = 20;
  bool long_sequences = false, processor_time = false, json = false;
  std::vector<std::int64_t> lengths{256, 1024, 4096};
  std::map<const CLI::Option*, std::vector<std::string>> only_for;  // options that just some benches take
};

void check_at_least_one(const char* what, std::int64_t value) {
  if (value < 1) throw ValueError(fmt::format("[bench] {}: expected at least 1, got {}", what, value));
}

void check(const BenchArguments& a) {
  const std::vector<std::string> names{"gemm", "kernels", "attention", "step", "cost-model"};
  if (std::find(names.begin(), names.end(), a.name) == names.end()) {
    throw ValueError(fmt::format("[bench] name: expected one of {}, got '{}'{}", fmt::join(names, ", "),
                                 a.name, did_you_mean(a.name, names)));
  }
  for (const auto& [option, benches] : a.only_for) {
    if (option->count() == 0 || std::find(benches.begin(), benches.end(), a.name) != benches.end()) continue;
    throw ValueError(fmt::format("[bench] {}: expected with {}, got with {}", option->get_name(),
                                 fmt::join(benches, " or "), a.name));
  }
  check_at_least_one("--rounds", a.rounds);
  check_at_least_one("--steps", a.steps);
  check_at_least_one("--vocabulary", a.step.vocabulary);
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
  sampling.rounds = a.name == "step" ? a.steps : a.rounds;
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
  std::vector<std::int64_t> lengths = a.lengths;
  if (a.long_sequences) lengths.push_back(16384);
  return bench_attention(context, lengths, sampling);
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
          "cost-model (a layer's attention with each expert, for router.cost_model)")
      ->required();
  const auto only = [&](const CLI::Option* option, std::vector<std::string> benches) {
    a.only_for[option] = std::move(benches);
  };
  command->add_option("--isa", a.isa, "instruction set (default: the fastest)");
  only(command->add_option("--threads", a.threads, "0: as many as this process may use")
           ->capture_default_str(),
       {"gemm", "attention", "step", "cost-model"});
  only(command->add_option("--rounds", a.rounds, "samples of each row")->capture_default_str(),
       {"gemm", "kernels", "attention", "cost-model"});
  only(command->add_option("--lengths", a.lengths, "values of T")->expected(1, -1)->capture_default_str(),
       {"attention"});
  only(command->add_flag("--long", a.long_sequences, "T = 16384 too"), {"attention"});
  const std::vector<std::string> step{"step"}, configured{"step", "cost-model"}, cost_model{"cost-model"};
  only(command->add_option("--seq-len", a.cost_model.seq_len, "T")->capture_default_str(), cost_model);
  only(command->add_option("-o,--out", a.cost_model.output, "file of the cost model (replaced)"), cost_model);
  only(command->add_option("--preset", a.step.preset, "configuration to time")->capture_default_str(),
       configured);
  only(command->add_option("--set", a.step.settings, "KEY=VALUE: set a field (repeatable)")
           ->expected(1)
           ->take_all(),
       configured);
  only(command->add_option("--steps", a.steps, "steps to time, after a warm-up")->capture_default_str(),
       step);
  only(command->add_option("--vocabulary", a.step.vocabulary, "number of tokens")->capture_default_str(),
       step);
  only(command->add_flag("--profile", a.step.profile, "where a step's time goes, by operation"), step);
  only(command->add_option("--trace", a.step.trace,
                           "write the timed steps' operations to a file that ui.perfetto.dev shows"),
       step);
  command->add_flag(
      "--cpu-time", a.processor_time,
      "processor time of the calling thread instead of elapsed time: for --threads 1 on a machine "
      "that others use too");
  command->add_flag("--json", a.json, "JSON alone on stdout");
  command->footer(
      "Each row has the median of its samples and the distance of their quartiles in percent of it.\n\n"
      "Example: dirigo bench step --preset paper --threads 2 --profile --trace trace.json");
  command->callback([arguments, &run] { run = [arguments] { return run_bench(*arguments); }; });
}

}  // namespace dirigo::tools
