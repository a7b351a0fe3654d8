// dirigo bench attention: the cores of the experts and their mixture, one sequence of 4 heads of 32.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>

#include "bench/bench.hpp"
#include "bench/bench_rows.hpp"
#include "dirigo/autograd/ops.hpp"
#include "table.hpp"

namespace dirigo::tools {
namespace {

constexpr std::int64_t width = 128, window = 64;
constexpr int heads = 4;

struct Mechanism {
  const char* name;
  std::int64_t (*visible_pairs)(std::int64_t length);  // of query and key; null: counted by the kernel
  Variable (*attend)(const Variable& q, const Variable& k, const Variable& v);
};

std::int64_t pairs_within(std::int64_t length, std::int64_t reach) {
  const std::int64_t ramp = std::min(length, reach);
  return ramp * (ramp + 1) / 2 + (length - ramp) * reach;
}

Variable full(const Variable& q, const Variable& k, const Variable& v) {
  return ops::full_attention(q, k, v, heads);
}
Variable local(const Variable& q, const Variable& k, const Variable& v) {
  return ops::local_attention(q, k, v, heads, window);
}
Variable linear(const Variable& q, const Variable& k, const Variable& v) {
  return ops::linear_attention(q, k, v, heads);
}
// All three at equal weights, which want a gradient too.
Variable mixed(const Variable& q, const Variable& k, const Variable& v) {
  const Shape weights{q.shape()[0] * q.shape()[1], 3};
  return ops::mixed_attention(q.tape().leaf(Tensor::full(q.context(), weights, 1.0 / 3)), q, k, v, heads,
                              window);
}

constexpr std::array<Mechanism, 4> mechanisms{{
    {"full", [](std::int64_t length) { return pairs_within(length, length); }, full},
    {"local", [](std::int64_t length) { return pairs_within(length, window); }, local},
    {"linear", nullptr, linear},
    {"mixed", nullptr, mixed},
}};

// One mechanism at one length, in one direction.
class Case {
 public:
  Case(const Context& context, const Mechanism& mechanism, std::int64_t length, bool backward)
      : context_(context), mechanism_(mechanism), length_(length), backward_(backward), tape_(context) {
    for (std::uint32_t i = 0; i < inputs_.size(); ++i) {
      inputs_[i] = uniform_tensor(context, {1, length, width}, 10 + i);
    }
    seed_ = uniform_tensor(context, {1, length, width}, 20);
  }

  TimedWork work() {
    if (backward_) return {[this] { tape_.backward(output_, seed_); }, [this] { record(); }};
    return {[this] {
      Tape tape(context_, Tape::Mode::inference);
      mechanism_.attend(tape.constant(inputs_[0]), tape.constant(inputs_[1]), tape.constant(inputs_[2]));
    }};
  }

  // Softmax attention: 4 D per visible pair forward (scores and weighted sum), 10 D backward (the scores
  // again, and the gradients of scores, q, k and v). The others: as their kernels count them.
  double flops() {
    if (mechanism_.visible_pairs != nullptr) {
      return double((backward_ ? 10 : 4) * width * mechanism_.visible_pairs(length_));
    }
    if (backward_) record();
    const std::uint64_t before = context_.flops().attention;
    work().run();
    return double(context_.flops().attention - before);
  }

  const char* mechanism() const noexcept { return mechanism_.name; }
  std::int64_t length() const noexcept { return length_; }
  bool backward() const noexcept { return backward_; }
  std::string name() const { return fmt::format("{} {}", mechanism(), backward_ ? "backward" : "forward"); }

 private:
  void record() {
    tape_.clear();
    output_ = mechanism_.attend(tape_.leaf(inputs_[0]), tape_.leaf(inputs_[1]), tape_.leaf(inputs_[2]));
  }

  const Context& context_;
  const Mechanism& mechanism_;
  std::int64_t length_;
  bool backward_;
  std::array<Tensor, 3> inputs_;
  Tensor seed_;
  Tape tape_;
  Variable output_;
};

std::vector<std::unique_ptr<Case>> make_cases(const Context& context,
                                              const std::vector<std::int64_t>& lengths, bool forward_only) {
  std::vector<std::unique_ptr<Case>> cases;
  for (const std::int64_t length : lengths) {
    for (const bool backward : {false, true}) {
      if (backward && forward_only) continue;
      for (const Mechanism& mechanism : mechanisms) {
        cases.push_back(std::make_unique<Case>(context, mechanism, length, backward));
      }
    }
  }
  return cases;
}

}  // namespace

BenchReport bench_attention(const Context& context, const std::vector<std::int64_t>& lengths,
                            bool forward_only, const Sampling& sampling) {
  const auto cases = make_cases(context, lengths, forward_only);
  PeakRows peak(context);
  std::vector<TimedWork> work = peak.work();
  for (const auto& each : cases) work.push_back(each->work());
  const std::vector<Timing> timings = time_in_turns(work, sampling);

  BenchReport report;
  peak.add_to(report, sampling, timings);
  Table table({"attention", "T", "median ms", "quartiles", "GFLOP/s", "of peak", "full / this"});
  for (std::size_t i = 0; i < cases.size(); ++i) {
    Case& c = *cases[i];
    const Timing& timing = timings[peak.size() + i];
    const Timing& full = timings[peak.size() + i / mechanisms.size() * mechanisms.size()];
    const double flops = c.flops();
    nlohmann::ordered_json row = timed_row(context, sampling, c.name(), timing);
    row.update({{"mechanism", c.mechanism()}, {"backward", c.backward()}, {"length", c.length()}});
    row["gflop"] = flops / 1e9;
    row["gflop_per_s"] = flops / timing.median_ms / 1e6;
    row["share_of_peak"] = peak.share(flops, timing);
    row["full_over_this"] = full.median_ms / timing.median_ms;
    report.results.push_back(row);
    table.add({c.name(), fmt::format("{}", c.length()), fmt::format("{:.3f}", timing.median_ms),
               percent(timing.spread), fmt::format("{:.1f}", flops / timing.median_ms / 1e6),
               percent(peak.share(flops, timing)), fmt::format("{:.2f}", full.median_ms / timing.median_ms)});
  }
  report.text = table.text() +
                fmt::format("{} heads of {}, window {}, one sequence\n", heads, width / heads, window) +
                peak.text();
  return report;
}

}  // namespace dirigo::tools
