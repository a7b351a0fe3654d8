#include "dirigo/nn/schedule.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "dirigo/core/errors.hpp"

namespace dirigo::nn {
namespace {

// In the order of the enumerators.
constexpr std::array<std::string_view, 3> learning_rate_names = {"constant", "cosine", "linear"};
constexpr std::array<std::string_view, 3> kl_weight_names = {"constant", "linear", "cyclical"};

template <class Kind>
Kind parse_kind(std::string_view what, std::string_view name, const std::array<std::string_view, 3>& names) {
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) {
    throw ValueError(
        fmt::format("[schedule] {}: expected {}, got \"{}\"", what, fmt::join(names, "|"), name));
  }
  return Kind(found - names.begin());
}

void check_step(std::int64_t step, std::int64_t total) {
  if (step < 0 || total < 1) {
    throw ValueError(
        fmt::format("[schedule] step: expected step >= 0 of total >= 1, got step {} of {}", step, total));
  }
}

}  // namespace

double LearningRate::at(std::int64_t step, std::int64_t total) const {
  check_step(step, total);
  if (kind == Kind::constant) return peak;
  if (step < warmup) return peak * double(step + 1) / double(warmup);
  const std::int64_t span = total - 1 - warmup;  // steps from the peak to the last
  const double progress = span > 0 ? std::min(1.0, double(step - warmup) / double(span)) : 0.0;
  const double remaining =
      kind == Kind::cosine ? 0.5 * (1 + std::cos(std::numbers::pi * progress)) : 1 - progress;
  return peak * (final_fraction + (1 - final_fraction) * remaining);
}

double KlWeight::at(std::int64_t step, std::int64_t total) const {
  check_step(step, total);
  if (kind == Kind::constant) return value;
  if (kind == Kind::linear) return step < warmup ? value * double(step) / double(warmup) : value;
  if (cycles < 1) throw ValueError(fmt::format("[schedule] cycles: expected at least 1, got {}", cycles));
  if (step >= total) return value;
  const double phase = double(step * cycles % total) / double(total);  // in [0, 1) within the cycle
  return phase < ramp ? value * phase / ramp : value;
}

// Derivation: docs/mathematics/straight-through.md
bool EntropyDrop::observe(State& state, std::int64_t step, const std::vector<double>& entropy) const {
  constexpr double rate = 1.0 / 50;
  if (state.average.empty()) {
    state.average = state.highest = entropy;
    state.low.assign(entropy.size(), 0);
  }
  if (state.average.size() != entropy.size()) {
    throw ValueError(fmt::format("[schedule] entropies: expected those of {} layers, got {}",
                                 state.average.size(), entropy.size()));
  }
  if (state.switched_at >= 0) return false;
  for (std::size_t l = 0; l < entropy.size(); ++l) {
    state.average[l] += rate * (entropy[l] - state.average[l]);
    state.highest[l] = std::max(state.highest[l], state.average[l]);
    state.low[l] = state.average[l] <= (1 - drop) * state.highest[l] ? state.low[l] + 1 : 0;
    if (state.low[l] >= hold && state.layer < 0) state.layer = std::int64_t(l);
  }
  if (state.layer < 0 && step + 1 < fallback) return false;
  state.switched_at = step + 1;
  return true;
}

LearningRate::Kind parse_learning_rate_kind(std::string_view name) {
  return parse_kind<LearningRate::Kind>("learning-rate schedule", name, learning_rate_names);
}

KlWeight::Kind parse_kl_weight_kind(std::string_view name) {
  return parse_kind<KlWeight::Kind>("w_kl schedule", name, kl_weight_names);
}

std::string_view name_of(LearningRate::Kind kind) noexcept {
  return learning_rate_names[std::size_t(kind)];
}
std::string_view name_of(KlWeight::Kind kind) noexcept {
  return kl_weight_names[std::size_t(kind)];
}

}  // namespace dirigo::nn
