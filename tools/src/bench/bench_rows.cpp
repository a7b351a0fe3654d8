#include "bench/bench_rows.hpp"

#include <fmt/format.h>

#include "bench/peak.hpp"
#include "dirigo/core/errors.hpp"
#include "dirigo/core/philox.hpp"

namespace dirigo::tools {

PeakRows::PeakRows(const Context& context) {
  contexts_.push_back(std::make_unique<Context>(Context::Options{.threads = 1, .isa = context.isa()}));
  if (context.threads() == 1) return;
  contexts_.push_back(
      std::make_unique<Context>(Context::Options{.threads = context.threads(), .isa = context.isa()}));
}

std::vector<TimedWork> PeakRows::work() const {
  std::vector<TimedWork> work;
  for (const auto& context : contexts_) work.push_back(peak_work(*context));
  return work;
}

void PeakRows::add_to(BenchReport& report, const Sampling& sampling, const std::vector<Timing>& timings) {
  for (std::size_t i = 0; i < contexts_.size(); ++i) {
    flops_per_ms_.push_back(peak_flops(*contexts_[i]) / timings[i].median_ms);
    nlohmann::ordered_json row = timed_row(*contexts_[i], sampling, "peak", timings[i]);
    row["gflop_per_s"] = flops_per_ms_.back() / 1e6;
    row["share_of_peak"] = 1;
    report.results.push_back(row);
  }
}

double PeakRows::share(double flops, const Timing& timing) const {
  return flops / timing.median_ms / flops_per_ms();
}

std::string PeakRows::text() const {
  std::string text = fmt::format("FMA peak, {}:", isa_name(contexts_.front()->isa()));
  for (std::size_t i = 0; i < contexts_.size(); ++i) {
    const int threads = contexts_[i]->threads();
    text += fmt::format("{} {:.1f} GFLOP/s on {} thread{}", i == 0 ? "" : ",", flops_per_ms_[i] / 1e6,
                        threads, threads == 1 ? "" : "s");
  }
  return text + "\n";
}

nlohmann::ordered_json timed_row(const Context& context, const Sampling& sampling, const std::string& name,
                                 const Timing& timing) {
  return {{"name", name},
          {"threads", context.threads()},
          {"isa", std::string(isa_name(context.isa()))},
          {"clock", sampling.source == TimeSource::elapsed ? "elapsed" : "processor"},
          {"median_ms", timing.median_ms},
          {"min_ms", timing.min_ms},
          {"spread", timing.spread}};
}

meta::Config bench_configuration(const std::string& preset, const std::vector<std::string>& settings) {
  meta::Config config = meta::preset(preset);
  for (const std::string& setting : settings) {
    const std::size_t equals = setting.find('=');
    if (equals == std::string::npos)
      throw ValueError(fmt::format("[bench] --set: expected KEY=VALUE, got '{}'", setting));
    meta::set_field(config, setting.substr(0, equals), setting.substr(equals + 1));
  }
  meta::resolve(config);
  return config;
}

double flops_so_far(const Context& context) {
  const FlopCounter& flops = context.flops();
  return static_cast<double>(flops.products + flops.attention);
}

std::string percent(double fraction) {
  return fmt::format("{:.1f}%", 100 * fraction);
}

Tensor uniform_tensor(const Context& context, const Shape& shape, std::uint32_t site) {
  Tensor values = Tensor::empty(context, shape);
  philox_uniform(random_key(1, 0, Purpose::test, site), 0, values.span<float>());
  for (float& value : values.span<float>()) value = 2 * value - 1;
  return values;
}

}  // namespace dirigo::tools
