// Schedules of the learning rate and of w_kl, pure functions of the step, and of the switch from soft to hard
// routing, which follows what the routing does.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace dirigo::nn {

// Learning rate. `constant`: the peak at every step. `cosine`: linear warm-up over `warmup` steps, peak *
// (step + 1) / warmup, then a half cosine from the peak at step `warmup` down to `final_fraction` of it at
// the last step, total - 1. `linear`: warm-up, then a straight line down to it.
struct LearningRate {
  enum class Kind { constant, cosine, linear };
  Kind kind = Kind::constant;
  double peak = 1e-3;
  std::int64_t warmup = 0;
  double final_fraction = 0.1;

  // step counts from 0 (past the last step: as there); total >= 1. Throws ValueError outside.
  double at(std::int64_t step, std::int64_t total) const;
};

// w_kl. `constant`: the value at every step. `linear`: from 0 at step 0 to the value at step `warmup`.
// `cyclical` (Fu et al. 2019): `cycles` equal cycles of total / cycles steps, in each a ramp from 0 over the
// first `ramp` fraction, then constant.
struct KlWeight {
  enum class Kind { constant, linear, cyclical };
  Kind kind = Kind::constant;
  double value = 1;
  std::int64_t warmup = 0;
  std::int64_t cycles = 4;
  double ramp = 0.5;

  // Throws ValueError unless step >= 0, total >= 1, cycles >= 1.
  double at(std::int64_t step, std::int64_t total) const;
};

// When to switch from soft to hard routing: once a layer's routing has become decided and stays so.
//
// Of every layer's routing entropy (a share of ln K, of the batch) an average is kept, a_t = a_(t-1) + (e_t -
// a_(t-1)) / 50, and its running maximum. The switch comes when some layer's average has been at most (1 -
// drop) of its maximum for `hold` steps on end, or else at the step `fallback`. It is never taken back.
struct EntropyDrop {
  double drop = 0.5;
  std::int64_t hold = 100;
  std::int64_t fallback = 0;

  // All that a resumed run needs besides.
  struct State {
    std::vector<double> average, highest;  // of each layer; empty before the first step
    std::vector<std::int64_t> low;         // for how many steps the average has been low
    std::int64_t switched_at = -1;         // the first hard step; -1: still soft
    std::int64_t layer = -1;               // whose entropy dropped; -1: none did
    bool operator==(const State&) const = default;
  };

  // To be told of each step in turn (from 0), with the entropy of every layer. Returns whether the next step
  // is the first hard one. Throws ValueError if the number of layers changes.
  bool observe(State& state, std::int64_t step, const std::vector<double>& entropy) const;
};

// Throw ValueError naming the known kinds.
LearningRate::Kind parse_learning_rate_kind(std::string_view name);
KlWeight::Kind parse_kl_weight_kind(std::string_view name);
std::string_view name_of(LearningRate::Kind kind) noexcept;
std::string_view name_of(KlWeight::Kind kind) noexcept;

}  // namespace dirigo::nn
