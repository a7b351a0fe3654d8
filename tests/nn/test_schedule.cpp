#include <doctest/doctest.h>

#include "dirigo/core/errors.hpp"
#include "dirigo/nn/schedule.hpp"

using namespace dirigo;
using namespace dirigo::nn;
using doctest::Approx;

TEST_CASE("learning rate: constant") {
  const LearningRate rate{.kind = LearningRate::Kind::constant, .peak = 0.5};
  CHECK(rate.at(0, 10) == 0.5);
  CHECK(rate.at(9, 10) == 0.5);
}

TEST_CASE("learning rate: warm-up and half cosine") {
  const LearningRate rate{LearningRate::Kind::cosine, 2, 4, 0.1};
  CHECK(rate.at(0, 13) == Approx(0.5));  // 1/4 of the peak
  CHECK(rate.at(1, 13) == Approx(1));
  CHECK(rate.at(3, 13) == Approx(2));
  CHECK(rate.at(4, 13) == Approx(2));                               // the decay begins
  CHECK(rate.at(8, 13) == Approx(1.1));                             // half way: the mean of 2 and 0.2
  CHECK(rate.at(6, 13) == Approx(0.2 + 1.8 * 0.8535533905932737));  // (1 + cos(pi/4)) / 2
  CHECK(rate.at(12, 13) == Approx(0.2));                            // the last step
  CHECK(rate.at(50, 13) == Approx(0.2));
}

TEST_CASE("learning rate: warm-up and line") {
  const LearningRate rate{LearningRate::Kind::linear, 2, 0, 0};
  CHECK(rate.at(0, 5) == Approx(2));
  CHECK(rate.at(1, 5) == Approx(1.5));
  CHECK(rate.at(3, 5) == Approx(0.5));
  CHECK(rate.at(4, 5) == 0);
}

TEST_CASE("learning rate: runs as short as the warm-up") {
  const LearningRate rate{LearningRate::Kind::cosine, 1, 4, 0.1};
  CHECK(rate.at(0, 1) == Approx(0.25));
  CHECK(rate.at(3, 4) == Approx(1));
  CHECK(rate.at(4, 5) == Approx(1));
  CHECK(LearningRate{LearningRate::Kind::linear, 1, 0, 0.1}.at(0, 1) == Approx(1));
}

TEST_CASE("w_kl: constant and linear warm-up") {
  CHECK(KlWeight{.value = 0.3}.at(7, 10) == 0.3);
  const KlWeight linear{.kind = KlWeight::Kind::linear, .value = 0.5, .warmup = 4};
  CHECK(linear.at(0, 10) == 0);
  CHECK(linear.at(1, 10) == Approx(0.125));
  CHECK(linear.at(4, 10) == 0.5);
  CHECK(linear.at(9, 10) == 0.5);
  CHECK(KlWeight{.kind = KlWeight::Kind::linear, .value = 0.5}.at(0, 10) == 0.5);  // no warm-up
}

TEST_CASE("w_kl: cycles") {
  const KlWeight cyclical{.kind = KlWeight::Kind::cyclical, .value = 2, .cycles = 4, .ramp = 0.5};
  // Cycles of 10 steps: up during the first five, constant during the others.
  for (const std::int64_t cycle : {0, 10, 20, 30}) {
    CHECK(cyclical.at(cycle, 40) == 0);
    CHECK(cyclical.at(cycle + 1, 40) == Approx(0.4));
    CHECK(cyclical.at(cycle + 4, 40) == Approx(1.6));
    CHECK(cyclical.at(cycle + 5, 40) == 2);
    CHECK(cyclical.at(cycle + 9, 40) == 2);
  }
  CHECK(cyclical.at(40, 40) == 2);
  const KlWeight no_ramp{.kind = KlWeight::Kind::cyclical, .value = 2, .cycles = 1, .ramp = 0};
  CHECK(no_ramp.at(0, 40) == 2);
}

TEST_CASE("schedules refuse impossible steps") {
  CHECK_THROWS_AS(LearningRate{}.at(-1, 10), ValueError);
  CHECK_THROWS_AS(LearningRate{}.at(0, 0), ValueError);
  CHECK_THROWS_AS(KlWeight{}.at(-1, 10), ValueError);
  const KlWeight no_cycles{.kind = KlWeight::Kind::cyclical, .cycles = 0};
  CHECK_THROWS_AS(no_cycles.at(0, 10), ValueError);
}

TEST_CASE("schedule kinds have names") {
  using Rate = LearningRate::Kind;
  using Kl = KlWeight::Kind;
  for (const Rate kind : {Rate::constant, Rate::cosine, Rate::linear}) {
    CHECK(parse_learning_rate_kind(name_of(kind)) == kind);
  }
  for (const Kl kind : {Kl::constant, Kl::linear, Kl::cyclical})
    CHECK(parse_kl_weight_kind(name_of(kind)) == kind);
  CHECK(parse_learning_rate_kind("cosine") == Rate::cosine);
  CHECK(parse_kl_weight_kind("cyclical") == Kl::cyclical);
  CHECK_THROWS_WITH_AS(parse_learning_rate_kind("cyclical"), doctest::Contains("constant|cosine|linear"),
                       ValueError);
  CHECK_THROWS_WITH_AS(parse_kl_weight_kind(""), doctest::Contains("constant|linear|cyclical"), ValueError);
}

TEST_CASE("entropy drop: the switch comes once a layer's average has been low for long enough") {
  const EntropyDrop rule{.drop = 0.4, .hold = 20, .fallback = 1000};
  EntropyDrop::State state;
  // Layer 0 stays where it is; layer 1 falls from 0.8 to 0.2 at step 100, and back for five steps at 180.
  const auto entropy = [](std::int64_t step) {
    return std::vector<double>{0.6, step < 100 || (step >= 180 && step < 185) ? 0.8 : 0.2};
  };
  double average = 0.8, low = 0;
  std::int64_t expected = -1;
  for (std::int64_t step = 0; step < 400; ++step) {
    CAPTURE(step);
    average += (entropy(step)[1] - average) / 50;
    low = average <= 0.48 ? low + 1 : 0;
    if (low == 20 && expected < 0) expected = step + 1;
    CHECK(rule.observe(state, step, entropy(step)) == (step + 1 == expected));
    CHECK(state.average[0] == Approx(0.6));
    CHECK(state.highest[1] == Approx(0.8));
  }
  CHECK(expected == 100 + 38 + 19);  // 0.2 + 0.6 * 0.98^n <= 0.48 from n = 38 on
  CHECK(state.switched_at == expected);
  CHECK(state.layer == 1);
}

TEST_CASE("entropy drop: a start that is low already is no drop, two short ones neither; then the fallback") {
  const EntropyDrop rule{.drop = 0.3, .hold = 60, .fallback = 300};
  EntropyDrop::State state;
  for (std::int64_t step = 0; step < 300; ++step) {
    CAPTURE(step);
    const bool dip = (step >= 100 && step < 130) || (step >= 200 && step < 230);
    const double value = dip ? 0.0 : 0.1;
    CHECK(rule.observe(state, step, {value}) == (step == 299));
  }
  CHECK(state.switched_at == 300);
  CHECK(state.layer == -1);
  CHECK(state.highest[0] == Approx(0.1));
  CHECK_FALSE(rule.observe(state, 300, {0.1}));
  CHECK_THROWS_AS(rule.observe(state, 301, {0.1, 0.1}), ValueError);
}
