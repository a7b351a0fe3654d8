#include <doctest/doctest.h>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "dirigo/core/gamma_sampling.hpp"
#include "dirigo/core/special.hpp"

using namespace dirigo;

namespace {

// P(a, e^y) = e^(a y - x) / Gamma(a + 1) * sum x^n / ((a+1)...(a+n)): positive terms, good in log space.
double gamma_cdf(double a, double y) {
  const double x = std::exp(y);
  double term = 1, sum = 1;
  for (int n = 1; term > 1e-17 * sum; ++n) sum += term *= x / (a + n);
  return std::exp(a * y - x - special::lgamma(a + 1)) * sum;
}

std::vector<double> draws(double a, int n) {
  std::vector<double> y(n);
  for (int i = 0; i < n; ++i) {
    PhiloxStream stream(random_key(99, 0, Purpose::test), static_cast<std::uint32_t>(i));
    y[i] = log_gamma_draw(stream, a);
  }
  return y;
}

constexpr int kDraws = 40000;
constexpr double kShapes[] = {0.01, 0.3, 0.999, 1.0, 2.5, 50.0};

}  // namespace

TEST_CASE("log-space Gamma draws pass a Kolmogorov-Smirnov test") {
  for (const double a : kShapes) {
    CAPTURE(a);
    std::vector<double> y = draws(a, kDraws);
    std::sort(y.begin(), y.end());
    double distance = 0;
    for (int i = 0; i < kDraws; ++i) {
      const double cdf = gamma_cdf(a, y[i]);
      distance = std::max({distance, cdf - i / double{kDraws}, (i + 1) / double{kDraws} - cdf});
    }
    CHECK(distance * std::sqrt(double{kDraws}) < 1.95);  // a false alarm of 0.1% per shape, at a fixed seed
  }
}

TEST_CASE("log-space Gamma draws have the exact moments") {
  // E[y] = psi(a), Var[y] = psi1(a), E[g] = a, Var[g] = a; bounds of four standard errors.
  for (const double a : kShapes) {
    CAPTURE(a);
    const std::vector<double> y = draws(a, kDraws);
    const double mean = special::digamma(a), variance = special::trigamma(a);
    double sum = 0, squares = 0, fourth = 0, linear = 0;
    for (const double value : y) {
      const double deviation = value - mean;
      sum += deviation;
      squares += deviation * deviation;
      fourth += deviation * deviation * deviation * deviation;
      linear += std::exp(value);
    }
    CHECK(std::fabs(sum / kDraws) < 4 * std::sqrt(variance / kDraws));
    const double variance_error = std::sqrt((fourth / kDraws - variance * variance) / kDraws);
    CHECK(std::fabs(squares / kDraws - variance) < 4 * variance_error);
    CHECK(std::fabs(linear / kDraws - a) < 4 * std::sqrt(a / kDraws));
  }
}

TEST_CASE("draws stay finite where the linear scale underflows, and invalid shapes give NaN") {
  PhiloxStream stream(random_key(1, 0, Purpose::test), 0);
  int underflows = 0;
  for (int i = 0; i < 1000; ++i) {
    const double y = log_gamma_draw(stream, 1e-3);
    REQUIRE(std::isfinite(y));
    underflows += std::exp(y) == 0.0 ? 1 : 0;
  }
  CHECK(underflows > 400);  // P(y < -745) = 0.47
  for (const double a : {0.0, -1.0, std::numeric_limits<double>::quiet_NaN()}) {
    CHECK(std::isnan(log_gamma_draw(stream, a)));
  }
}
