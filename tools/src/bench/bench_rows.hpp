// What the benchmarks' rows have in common.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bench/bench.hpp"
#include "bench/timing.hpp"
#include "dirigo/core/tensor.hpp"
#include "dirigo/meta_attention/config.hpp"

namespace dirigo::tools {

// The FMA peak on one thread and on all, timed in turns with what is held against it.
class PeakRows {
 public:
  explicit PeakRows(const Context& context);

  std::size_t size() const noexcept { return contexts_.size(); }
  std::vector<TimedWork> work() const;  // to be timed first
  // Takes its timings off the front of all, and writes its rows.
  void add_to(BenchReport& report, const Sampling& sampling, const std::vector<Timing>& timings);
  double flops_per_ms() const noexcept { return flops_per_ms_.back(); }  // of all threads
  double share(double flops, const Timing& timing) const;
  std::string text() const;  // one line

 private:
  std::vector<std::unique_ptr<Context>> contexts_;  // one thread, and all where that is more
  std::vector<double> flops_per_ms_;
};

// {"name", "threads", "isa", "clock", "median_ms", "min_ms", "spread"}
nlohmann::ordered_json timed_row(const Context& context, const Sampling& sampling, const std::string& name,
                                 const Timing& timing);

// A preset with KEY=VALUE settings, resolved. Throws ValueError for what does not parse.
meta::Config bench_configuration(const std::string& preset, const std::vector<std::string>& settings);

double flops_so_far(const Context& context);  // products and attention

std::string percent(double fraction);

// Values in [-1, 1).
Tensor uniform_tensor(const Context& context, const Shape& shape, std::uint32_t site);

}  // namespace dirigo::tools
