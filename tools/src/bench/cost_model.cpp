// dirigo bench cost-model: what a layer's attention costs with each expert, its projections included, as the
// analytic cost model counts it.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "bench/bench.hpp"
#include "bench/bench_rows.hpp"
#include "dirigo/core/atomic_file.hpp"
#include "dirigo/meta_attention/cost_model.hpp"
#include "dirigo/meta_attention/expert.hpp"
#include "table.hpp"

namespace dirigo::tools {
namespace {

// One expert for all tokens of a sequence: q, k, v, the core, o.
class Attention {
 public:
  Attention(const Context& context, const meta::Config& config)
      : context_(context), experts_(meta::make_experts(config.model, config.attention)) {
    const std::int64_t width = config.model.d_model;
    x_ = uniform_tensor(context, {1, config.train.seq_len, width}, 1);
    for (std::uint32_t i = 0; i < weights_.size(); ++i) {
      weights_[i] = uniform_tensor(context, {width, width}, 2 + i);
      for (float& weight : weights_[i].span<float>()) weight /= float(width);
    }
  }

  void run(int expert) const {
    Tape tape(context_, Tape::Mode::inference);
    const Variable x = tape.constant(x_);
    const auto projected = [&](const Variable& rows, std::size_t i) {
      return ops::linear(rows, tape.constant(weights_[i]));
    };
    const Variable out =
        experts_[std::size_t(expert)]->attend(projected(x, 0), projected(x, 1), projected(x, 2), {});
    projected(out, 3);
  }

  double flops(int expert) const {
    const auto count = [&] { return double(context_.flops().products + context_.flops().attention); };
    const double before = count();
    run(expert);
    return count() - before;
  }

 private:
  const Context& context_;
  std::vector<std::unique_ptr<meta::Expert>> experts_;
  Tensor x_;
  std::array<Tensor, 4> weights_;
};

}  // namespace

BenchReport bench_cost_model(const Context& context, const CostModelBench& options,
                             const Sampling& sampling) {
  std::vector<std::string> settings = options.settings;
  settings.push_back(fmt::format("train.seq_len={}", options.seq_len));
  settings.push_back("model.max_len=0");
  const meta::Config config = bench_configuration(options.preset, settings);
  AtomicFile file(options.output);  // opened first: a path that cannot be written is known before the work
  const Attention attention(context, config);
  PeakRows peak(context);
  std::vector<TimedWork> work = peak.work();
  for (int e = 0; e < meta::expert_count; ++e) work.push_back({[&attention, e] { attention.run(e); }});
  const std::vector<Timing> timings = time_in_turns(work, sampling);

  meta::MeasuredCosts measured{.isa = std::string(isa_name(context.isa())),
                               .threads = context.threads(),
                               .seq_len = options.seq_len,
                               .d_model = config.model.d_model,
                               .heads = config.model.heads,
                               .window = config.attention.window,
                               .chunk = config.attention.chunk};
  BenchReport report;
  peak.add_to(report, sampling, timings);
  const double full_ms = timings[peak.size()].median_ms;
  Table table({"expert", "us per token", "quartiles", "cost", "of peak"});
  for (int e = 0; e < meta::expert_count; ++e) {
    const Timing& timing = timings[peak.size() + std::size_t(e)];
    const std::string name(meta::expert_name(meta::ExpertKind(e)));
    const double microseconds = 1000 * timing.median_ms / double(options.seq_len);
    const double cost = timing.median_ms / full_ms, share = peak.share(attention.flops(e), timing);
    measured.microseconds_per_token[std::size_t(e)] = microseconds;
    measured.spread[std::size_t(e)] = timing.spread;
    nlohmann::ordered_json row = timed_row(context, sampling, name, timing);
    row.update({{"length", options.seq_len}, {"microseconds_per_token", microseconds}, {"cost", cost}});
    row["share_of_peak"] = share;
    report.results.push_back(row);
    table.add({name, fmt::format("{:.3f}", microseconds), percent(timing.spread), fmt::format("{:.4f}", cost),
               percent(share)});
  }
  const std::string json = meta::cost_model_json(measured);
  file.write(json.data(), json.size());
  file.commit();
  report.text = table.text() +
                fmt::format("{} heads of {}, window {}, T = {}, projections included; written to {}\n",
                            config.model.heads, config.model.d_model / config.model.heads,
                            config.attention.window, options.seq_len, options.output) +
                peak.text();
  return report;
}

}  // namespace dirigo::tools
