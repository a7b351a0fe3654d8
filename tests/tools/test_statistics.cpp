// Intervals: against tables, and against what they claim to cover.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "dirigo/core/philox.hpp"
#include "statistics.hpp"

using namespace dirigo;
using namespace dirigo::tools;

TEST_CASE("statistics: Student's t at the quantiles of the tables") {
  const std::pair<std::int64_t, double> quantiles[] = {
      {1, 12.7062047362}, {2, 4.3026527297},  {3, 3.1824463053},   {4, 2.7764451052},   {5, 2.5705818356},
      {10, 2.2281388520}, {30, 2.0422724563}, {101, 1.9837310030}, {1000, 1.9623390808}};
  for (const auto& [degrees, t] : quantiles) {
    const std::int64_t shown = degrees;
    CAPTURE(shown);
    CHECK(student_t_within(t, degrees) == doctest::Approx(0.95).epsilon(1e-9));
    CHECK(student_t_within(0, degrees) == 0);
  }
  CHECK(student_t_within(1, 1) == doctest::Approx(0.5));  // Cauchy
}

TEST_CASE("statistics: a mean with its interval") {
  const Estimate one = mean_estimate(std::vector<double>{1.5});
  CHECK(one.mean == 1.5);
  CHECK_FALSE(one.ci95);
  const Estimate three = mean_estimate(std::vector<double>{1, 2, 3});
  CHECK(three.mean == 2);
  REQUIRE(three.ci95);
  CHECK(three.ci95->low == doctest::Approx(2 - 4.3026527297 / std::sqrt(3)));
  CHECK(three.ci95->high == doctest::Approx(2 + 4.3026527297 / std::sqrt(3)));
}

TEST_CASE("statistics: the block bootstrap is a function of values and seed") {
  CHECK(bootstrap_block(1) == 1);
  CHECK(bootstrap_block(27) == 3);
  CHECK(bootstrap_block(28) == 4);
  CHECK_FALSE(block_bootstrap(std::vector<double>{1}, 1));
  const std::vector<double> equal(10, 0.25);
  CHECK(block_bootstrap(equal, 1)->low == doctest::Approx(0.25));
  CHECK(block_bootstrap(equal, 1)->high == doctest::Approx(0.25));
  std::vector<double> values;
  for (int i = 0; i < 50; ++i) values.push_back(i % 7);
  CHECK(block_bootstrap(values, 1)->low == block_bootstrap(values, 1)->low);
  CHECK(block_bootstrap(values, 1)->low != block_bootstrap(values, 2)->low);
}

// The mean of n neighbours of x_t = r x_(t-1) + e_t has a variance of about 1 / (n (1 - r)^2).
TEST_CASE(
    "statistics: the block bootstrap is as wide as independent values ask, and wider for correlated ones") {
  const auto width = [](double r) {
    PhiloxStream random(random_key(3, 0, Purpose::test), 0);
    std::vector<double> values;
    double x = 0;
    for (int i = 0; i < 4000; ++i) values.push_back(x = r * x + random.normal());
    const auto interval = block_bootstrap(values, 1);
    return (interval->high - interval->low) / (2 * 1.96) * std::sqrt(4000.0);
  };
  CHECK(width(0) == doctest::Approx(1).epsilon(0.1));
  CHECK(width(0.5) > 1.6);  // 2 for blocks without end
  CHECK(width(0.5) < 2.2);
}
