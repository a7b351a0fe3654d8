// Intervals around means: over seeds, and over windows of text.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

namespace dirigo::tools {

struct Interval {
  double low = 0, high = 0;
};

// P(|T| <= t) for Student's t with a whole number of degrees of freedom, in closed form (Abramowitz and
// Stegun, 26.7.3 and 26.7.4).
double student_t_within(double t, std::int64_t degrees_of_freedom);

struct Estimate {
  double mean = 0;
  std::optional<Interval> ci95;  // Student's t over independent values; none for a single one
};

// Precondition: at least one value.
Estimate mean_estimate(std::span<const double> values);

inline constexpr std::int64_t bootstrap_resamples = 10000;

// Windows per block: the whole part above the cube root of their number, so that blocks grow with the text
// and so does their number.
std::int64_t bootstrap_block(std::int64_t windows);

// 95% percentile interval of the mean of values in text order, by the circular block bootstrap (Politis and
// Romano 1992): resamples are made of whole blocks of neighbours, whose correlation they so keep. A function
// of the values and the seed (Philox). None for fewer than two values.
std::optional<Interval> block_bootstrap(std::span<const double> values, std::uint64_t seed);

}  // namespace dirigo::tools
