// dirigo bench step: whole training steps on random tokens.
#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "bench/bench.hpp"
#include "bench/bench_rows.hpp"
#include "bench/step_profile.hpp"
#include "dirigo/core/atomic_file.hpp"
#include "dirigo/core/errors.hpp"
#include "dirigo/core/philox.hpp"
#include "table.hpp"
#include "training_step.hpp"

namespace dirigo::tools {
namespace {

Batch random_batch(const meta::TrainConfig& train, std::int64_t vocabulary) {
  const auto size = static_cast<std::size_t>(train.batch * train.seq_len);
  Batch batch{
      train.batch, train.seq_len, std::vector<std::int32_t>(size), std::vector<std::int32_t>(size), {}, {}};
  PhiloxStream random(random_key(1, 0, Purpose::data), 0);
  const auto draw = [&] {
    return static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(vocabulary)));
  };
  std::generate(batch.inputs.begin(), batch.inputs.end(), draw);
  std::generate(batch.targets.begin(), batch.targets.end(), draw);
  return batch;
}

}  // namespace

BenchReport bench_step(const Context& context, const StepBench& options, const Sampling& sampling) {
  const meta::Config config = bench_configuration(options.preset, options.settings);
  std::optional<AtomicFile> trace;  // opened first: a path that cannot be written is known before the work
  if (!options.trace.empty()) trace.emplace(options.trace);
  meta::LanguageModel model(context, config, options.vocabulary, 1);
  nn::Adam adam = make_optimiser(context, model);
  TrainingStep step(context, model, adam);
  const Batch batch = random_batch(config.train, options.vocabulary);
  const bool observed = options.profile || trace;
  StepProfiler profiler(context, sampling.source);
  if (observed) step.observe(&profiler);

  double flops = 0;
  const auto run = [&] {
    const double before = flops_so_far(context);
    if (observed) profiler.begin_step();
    step(batch, 0);
    if (observed) profiler.end_step();
    flops = flops_so_far(context) - before;
  };
  PeakRows peak(context);
  std::vector<TimedWork> work = peak.work();
  work.push_back({run, [] {}});  // one step is a sample
  const std::vector<Timing> timings = time_in_turns(work, sampling);
  const Timing& timing = timings.back();

  BenchReport report;
  peak.add_to(report, sampling, timings);
  const auto tokens = static_cast<double>(config.train.batch * config.train.seq_len);
  nlohmann::ordered_json row = timed_row(context, sampling, "step", timing);
  row.update({{"preset", options.preset},
              {"gflop", flops / 1e9},
              {"gflop_per_s", flops / timing.median_ms / 1e6},
              {"share_of_peak", peak.share(flops, timing)},
              {"tokens_per_s", 1000 * tokens / timing.median_ms},
              {"steps", sampling.rounds}});
  Table table(
      {"bench", "preset", "median ms", "min ms", "quartiles", "GFLOP", "GFLOP/s", "of peak", "tokens/s"});
  table.add({"step", options.preset, fmt::format("{:.2f}", timing.median_ms),
             fmt::format("{:.2f}", timing.min_ms), percent(timing.spread), fmt::format("{:.3f}", flops / 1e9),
             fmt::format("{:.1f}", flops / timing.median_ms / 1e6), percent(peak.share(flops, timing)),
             fmt::format("{:.0f}", 1000 * tokens / timing.median_ms)});
  report.text = table.text() + peak.text();
  if (observed) {
    // The last are those that were timed; those before them warmed up.
    const std::vector<std::vector<StepEvent>> steps(profiler.steps().end() - sampling.rounds,
                                                    profiler.steps().end());
    if (options.profile) {
      row["profile"] = step_profile(steps);
      report.text += "\n" + step_profile_text(row["profile"]);
    }
    if (trace) {
      const std::string text = chrome_trace(steps, "dirigo bench step --preset " + options.preset);
      trace->write(text.data(), text.size());
      trace->commit();
    }
  }
  report.results.push_back(row);
  return report;
}

}  // namespace dirigo::tools
