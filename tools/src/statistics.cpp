#include "statistics.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <vector>

#include "dirigo/core/philox.hpp"

namespace dirigo::tools {
namespace {

double mean_of(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

// The t for which P(|T| <= t) is 0.95, by bisection.
double student_t_95(std::int64_t degrees_of_freedom) {
  double low = 0, high = 16;  // 12.7 for one degree of freedom, less for more
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (student_t_within(middle, degrees_of_freedom) < 0.95 ? low : high) = middle;
  }
  return high;
}

}  // namespace

double student_t_within(double t, std::int64_t degrees_of_freedom) {
  const double n = static_cast<double>(degrees_of_freedom);
  const double angle = std::atan(t / std::sqrt(n));
  const double cosine = std::cos(angle), sine = std::sin(angle);
  const bool odd = degrees_of_freedom % 2 == 1;
  // The series 1 + 1/2 cos^2 + (1 3)/(2 4) cos^4 + ... (even), cos + 2/3 cos^3 + ... (odd), up to cos^(n-2).
  double term = odd ? cosine : 1, sum = 0;
  for (std::int64_t power = odd ? 1 : 0; power <= degrees_of_freedom - 2; power += 2) {
    sum += term;
    const auto p = static_cast<double>(power);
    term *= cosine * cosine * (p + 1) / (p + 2);
  }
  return odd ? 2 / std::numbers::pi * (angle + sine * sum) : sine * sum;
}

Estimate mean_estimate(std::span<const double> values) {
  Estimate estimate{mean_of(values), std::nullopt};
  const auto n = static_cast<double>(values.size());
  if (values.size() < 2) return estimate;
  double squares = 0;
  for (const double value : values) squares += (value - estimate.mean) * (value - estimate.mean);
  const double half =
      student_t_95(static_cast<std::int64_t>(values.size()) - 1) * std::sqrt(squares / (n - 1) / n);
  estimate.ci95 = {estimate.mean - half, estimate.mean + half};
  return estimate;
}

std::int64_t bootstrap_block(std::int64_t windows) {
  std::int64_t block = 1;
  while (block * block * block < windows) ++block;
  return block;
}

std::optional<Interval> block_bootstrap(std::span<const double> values, std::uint64_t seed) {
  const std::size_t n = values.size();
  if (n < 2) return std::nullopt;
  const auto block = static_cast<std::size_t>(bootstrap_block(static_cast<std::int64_t>(n)));
  std::vector<double> sums(n + block + 1, 0.0);  // of the values laid in a circle: a block is a difference
  for (std::size_t i = 0; i < n + block; ++i) sums[i + 1] = sums[i] + values[i % n];

  std::vector<double> means(bootstrap_resamples);
  for (std::size_t resample = 0; resample < means.size(); ++resample) {
    PhiloxStream random(random_key(seed, 0, Purpose::bootstrap), static_cast<std::uint32_t>(resample));
    double sum = 0;
    for (std::size_t filled = 0; filled < n; filled += block) {
      const std::size_t begin = random.below(n);
      sum += sums[begin + std::min(block, n - filled)] - sums[begin];
    }
    means[resample] = sum / static_cast<double>(n);
  }
  std::sort(means.begin(), means.end());
  const auto cut = static_cast<std::size_t>(0.025 * static_cast<double>(means.size()));
  return Interval{means[cut], means[means.size() - 1 - cut]};
}

}  // namespace dirigo::tools
