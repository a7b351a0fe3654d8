// dirigo bench: how fast this machine runs the pieces.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "commands.hpp"
#include "dirigo/core/errors.hpp"
#include "dirigo/core/philox.hpp"
#include "dirigo/core/suggest.hpp"
#include "table.hpp"
#include "training_step.hpp"

namespace dirigo::tools {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr int warm_up_steps = 3;

struct BenchArguments {
  std::string name, preset = "tiny";
  std::vector<std::string> settings;
  int threads = 0;
  std::int64_t steps = 20, vocabulary = 96;
  bool json = false;
};

Batch random_batch(const meta::TrainConfig& train, std::int64_t vocabulary) {
  const auto size = static_cast<std::size_t>(train.batch * train.seq_len);
  Batch batch{
      train.batch, train.seq_len, std::vector<std::int32_t>(size), std::vector<std::int32_t>(size), {}};
  PhiloxStream random(random_key(1, 0, Purpose::data), 0);
  const auto draw = [&] {
    return static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(vocabulary)));
  };
  std::generate(batch.inputs.begin(), batch.inputs.end(), draw);
  std::generate(batch.targets.begin(), batch.targets.end(), draw);
  return batch;
}

double flops_so_far(const Context& context) {
  const FlopCounter& flops = context.flops();
  return static_cast<double>(flops.products + flops.attention);
}

// Times whole training steps: forward, objective, backward, clipping, Adam.
Json bench_step(const BenchArguments& arguments) {
  meta::Config config = meta::preset(arguments.preset);
  for (const std::string& setting : arguments.settings) {
    const std::size_t equals = setting.find('=');
    if (equals == std::string::npos)
      throw ValueError(fmt::format("[bench] --set: expected KEY=VALUE, got '{}'", setting));
    meta::set_field(config, setting.substr(0, equals), setting.substr(equals + 1));
  }
  meta::resolve(config);
  Context::Options options;
  options.threads = arguments.threads;
  const Context context(options);
  meta::LanguageModel model(context, config, arguments.vocabulary, 1);
  nn::Adam adam = make_optimiser(context, model);
  TrainingStep step(context, model, adam);
  const Batch batch = random_batch(config.train, arguments.vocabulary);

  std::vector<double> milliseconds;
  double flops = 0;
  for (std::int64_t i = 0; i < warm_up_steps + arguments.steps; ++i) {
    const double flops_before = flops_so_far(context);
    const auto begin = Clock::now();
    step(batch, 0);
    const double elapsed = std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
    if (i >= warm_up_steps) milliseconds.push_back(elapsed);
    flops = flops_so_far(context) - flops_before;
  }
  std::sort(milliseconds.begin(), milliseconds.end());
  const std::size_t n = milliseconds.size();
  const double median = (milliseconds[(n - 1) / 2] + milliseconds[n / 2]) / 2;
  return {{"name", "step"},
          {"preset", arguments.preset},
          {"median_ms", median},
          {"min_ms", milliseconds.front()},
          {"spread", (milliseconds[3 * (n - 1) / 4] - milliseconds[(n - 1) / 4]) / median},
          {"gflop", flops / 1e9},
          {"gflop_per_s", flops / median / 1e6},
          {"tokens_per_s", 1000 * static_cast<double>(config.train.batch * config.train.seq_len) / median},
          {"steps", arguments.steps},
          {"threads", context.threads()},
          {"isa", std::string(isa_name(context.isa()))}};
}

void check_at_least_one(const char* what, std::int64_t value) {
  if (value < 1) throw ValueError(fmt::format("[bench] {}: expected at least 1, got {}", what, value));
}

int run_bench(const BenchArguments& arguments) {
  if (arguments.name != "step") {
    throw ValueError(fmt::format("[bench] name: expected step, got '{}'{}", arguments.name,
                                 did_you_mean(arguments.name, {"step"})));
  }
  check_at_least_one("--steps", arguments.steps);
  check_at_least_one("--vocabulary", arguments.vocabulary);
  const Json result = bench_step(arguments);
  if (arguments.json) {
    fmt::print("{}\n", Json{{"format_version", 1}, {"results", Json::array({result})}}.dump(2));
    return 0;
  }
  Table table({"bench", "preset", "median ms", "min ms", "quartiles", "GFLOP/s", "tokens/s"});
  const auto number = [&](const char* key) { return result[key].get<double>(); };
  table.add({"step", arguments.preset, fmt::format("{:.1f}", number("median_ms")),
             fmt::format("{:.1f}", number("min_ms")), fmt::format("{:.1f}%", 100 * number("spread")),
             fmt::format("{:.1f}", number("gflop_per_s")), fmt::format("{:.0f}", number("tokens_per_s"))});
  fmt::print("{}{} threads, {}\n", table.text(), result["threads"].get<int>(),
             result["isa"].get<std::string>());
  return 0;
}

}  // namespace

void add_bench(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("bench", "Time the pieces on this machine");
  const auto arguments = std::make_shared<BenchArguments>();
  command->add_option("name", arguments->name, "What to time: step (a training step on random tokens)")
      ->required();
  command->add_option("--preset", arguments->preset, "Configuration to time")->capture_default_str();
  command->add_option("--set", arguments->settings, "KEY=VALUE: set a field (repeatable)")
      ->expected(1)
      ->take_all();
  command->add_option("--threads", arguments->threads, "Threads (default: what this process may use)");
  command->add_option("--steps", arguments->steps, "Steps to time, after a warm-up")->capture_default_str();
  command->add_option("--vocabulary", arguments->vocabulary, "Number of tokens")->capture_default_str();
  command->add_flag("--json", arguments->json, "Print JSON");
  command->footer("Example: dirigo bench step --preset paper --threads 2 --json");
  command->callback([arguments, &run] { run = [arguments] { return run_bench(*arguments); }; });
}

}  // namespace dirigo::tools
