// The Gamma family by its classical expansions (DLMF 5.5, 5.7, 5.11), and the implicit derivative of a
// log-space Gamma draw (docs/mathematics.md, section 4; DLMF 8.7, 8.9).
#include "dirigo/core/special.hpp"

#include <array>
#include <cmath>
#include <limits>

#include "gamma_series.hpp"

namespace dirigo::special {
namespace {

using namespace gamma_series;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// Sum of c[k] z^k in pairs (Estrin's scheme): a third of Horner's latency.
template <int N>
inline double polynomial(const Series<N>& series, double z) {
  if constexpr (N == 1) {
    return series.c[0];
  } else {
    Series<(N + 1) / 2> pairs;
    for (int i = 0; i < N / 2; ++i) pairs.c[i] = series.c[2 * i] + z * series.c[2 * i + 1];
    if constexpr (N % 2 == 1) pairs.c[N / 2] = series.c[N - 1];
    return polynomial(pairs, z * z);
  }
}

// --- Large arguments (from kAsymptotic on): asymptotic series in 1/x^2.

// Stirling: (x - 1/2) log x - x + log(2 pi)/2 + sum B_2k / (2k (2k-1) x^(2k-1)), written to overflow late.
double lgamma_asymptotic(double x, double log_x) {
  const double inverse = 1.0 / x;
  return (x - 0.5) * (log_x - 1.0) +
         (kHalfLogTwoPi - 0.5 + inverse * polynomial(kLgammaSeries, inverse * inverse));
}

// psi(x) = log x - c(x), c(x) = 1/(2x) + sum B_2k / (2k x^2k)
double digamma_correction(double x) {
  const double inverse = 1.0 / x;
  const double square = inverse * inverse;
  return 0.5 * inverse + square * polynomial(kDigammaSeries, square);
}

// 1/x + 1/(2x^2) + sum B_2k / x^(2k+1)
double trigamma_asymptotic(double x) {
  const double inverse = 1.0 / x;
  const double square = inverse * inverse;
  return inverse + (0.5 * square + inverse * square * polynomial(kBernoulli, square));
}

// --- lgamma below 10: reduction to z = x - 2 in [-3/4, 1/2] by lgamma(x+1) = lgamma(x) + log x, where that
// cancels little, and the Taylor series about the root 2 (DLMF 5.7.3): lgamma(2 + z) = (1 - gamma) z +
// sum_{k>=2} (-1)^k (zeta(k) - 1) z^k / k.
double lgamma_near_two(double z) {
  return z * polynomial(kLgammaTaylor, z);
}

double lgamma_reduced(double x) {  // 0 < x < 10
  if (x < 0.5) return lgamma_near_two(x) - std::log(x * (x + 1.0));
  if (x < 1.25) return lgamma_near_two(x - 1.0) - std::log(x);
  if (x < 1.5) return (x - 2.0) * polynomial(kLgammaTaylorWide, x - 2.0);
  if (x < 2.5) return lgamma_near_two(x - 2.0);
  double product = 1.0;
  while (x >= 2.5) {
    x -= 1.0;
    product *= x;
  }
  return lgamma_near_two(x - 2.0) + std::log(product);
}

// --- digamma and trigamma below 10: shift by 10 (DLMF 5.5.2, 5.15.5). For digamma below 3, where that would
// cancel, shift by one to [1, 2] and the Taylor series about its root.
constexpr int kShift = 10;

struct ReciprocalSums {
  double first;   // sum 1 / (x + k), k = 0..9
  double second;  // sum 1 / (x + k)^2
};

ReciprocalSums reciprocal_sums(double x) {
  std::array<double, kShift> r;
  for (int k = 0; k < kShift; ++k) r[k] = 1.0 / (x + k);
  ReciprocalSums sums{0.0, 0.0};
  for (int k = kShift - 1; k >= 0; --k) {  // smallest first
    sums.first += r[k];
    sums.second += r[k] * r[k];
  }
  return sums;
}

double digamma_near_root(double x) {  // 1 <= x <= 2
  const double z = (x - kRoot) - kRootLow;
  return z * polynomial(kRootTaylor, z);
}

constexpr double kRootSeries = 3.0;  // below, digamma is reduced to its root's series

double digamma_by_root_series(double x) {  // 0 < x < 3
  if (x < 1.0) return digamma_near_root(x + 1.0) - 1.0 / x;
  if (x <= 2.0) return digamma_near_root(x);
  return digamma_near_root(x - 1.0) + 1.0 / (x - 1.0);
}

// The logarithm and the sum are the large terms: their difference first, for it is nearly exact.
double digamma_shifted(double x, double reciprocal_sum) {
  const double shifted = x + kShift;
  return (std::log(shifted) - reciprocal_sum) - digamma_correction(shifted);
}

// --- The implicit derivative. Both regimes add up positive terms (but for a mild cancellation where a < 1).
// Derivation: docs/mathematics/implicit-reparameterisation.md

// sum c_n and sum c_n h_n with c_0 = 1, c_n = c_{n-1} x / (a + n), h_n = sum_{k<=n} 1 / (a + k), from
// P(a, x) = x^a e^-x / Gamma(a + 1) * sum c_n:  a D = (psi(a + 1) - y) sum c_n + sum c_n h_n.
double derivative_by_series(double a, double x, double y) {
  double term = 1.0;
  double harmonic = 0.0;
  double sum = 1.0;
  double weighted_sum = 0.0;
  double denominator = a;
  do {
    denominator += 1.0;
    const double r = 1.0 / denominator;
    term *= x * r;
    harmonic += r;
    sum += term;
    weighted_sum += term * harmonic;
  } while (term > 1e-17 * sum);
  return ((digamma(a + 1.0) - y) * sum + weighted_sum) / a;
}

// Numerators or denominators of the convergents below: value l_m, difference e_m = l_m - l_{m-1}, and the
// derivatives of both in a.
struct Convergent {
  double value;
  double difference;
  double d_value;
  double d_difference;

  // m e_m = x l_{m-1} + (m - 1 - a) e_{m-1}, with x / m and (m - 1 - a) / m given.
  void advance(double inverse_m, double x_over_m, double coefficient) {
    d_difference = x_over_m * d_value + (coefficient * d_difference - inverse_m * difference);
    difference = x_over_m * value + coefficient * difference;
    value += difference;
    d_value += d_difference;
  }
  void scale(double factor) {
    value *= factor;
    difference *= factor;
    d_value *= factor;
    d_difference *= factor;
  }
};

// From Q(a, x) = A x^a e^-x / Gamma(a):  D = dA/da + A (y - psi(a)), with the continued fraction (DLMF 8.9.2,
// even part) A = 1/(b_0 + a_1/(b_1 + a_2/(b_2 + ...))), b_n = x + 2n + 1 - a, a_n = n (a - n).
//
// Its convergents are p_m / q_m, where p_m and q_m = L_m^(-a)(-x) (Laguerre) obey
// m l_m = (x + 2m - 1 - a) l_{m-1} - (m - 1 - a) l_{m-2}.
// Evaluated forward, derivatives beside the values, in terms of the differences e_m: where m > a the direct
// form subtracts nearly equal terms and loses three digits.
double derivative_by_continued_fraction(double a, double x, double y) {
  // Odd, since convergents alternate around the limit while m < a: two looks must not agree by parity alone.
  constexpr int kStepsPerLook = 7;
  constexpr int kMostLooks = 10000;  // more than a = 1e7 needs; bounds the time whatever the input
  const double log_distance = y - digamma(a);
  Convergent p{1.0, 1.0, 0.0, 0.0};              // p_0 = 0, p_1 = 1
  Convergent q{x + 1.0 - a, x - a, -1.0, -1.0};  // q_0 = 1, q_1 = x + 1 - a
  double m = 1.0;
  double result = 0.0;
  for (int look = 0; look < kMostLooks; ++look) {
    for (int i = 0; i < kStepsPerLook; ++i) {
      const double coefficient = m - a;
      m += 1.0;
      const double inverse_m = 1.0 / m;
      p.advance(inverse_m, x * inverse_m, coefficient * inverse_m);
      q.advance(inverse_m, x * inverse_m, coefficient * inverse_m);
    }
    const double factor = 1.0 / q.value;  // keeps the recurrences from overflowing, too
    p.scale(factor);
    q.scale(factor);
    const double previous = result;
    result = (p.d_value - p.value * q.d_value) + p.value * log_distance;
    if (std::fabs(result - previous) <= 4e-16 * result) break;
  }
  return result;
}

}  // namespace

double lgamma(double x) {
  if (!(x > 0.0)) return kNan;
  return x < kAsymptotic ? lgamma_reduced(x) : lgamma_asymptotic(x, std::log(x));
}

double digamma(double x) {
  if (!(x > 0.0)) return kNan;
  if (x >= kAsymptotic) return std::log(x) - digamma_correction(x);
  return x < kRootSeries ? digamma_by_root_series(x) : digamma_shifted(x, reciprocal_sums(x).first);
}

double trigamma(double x) {
  if (!(x > 0.0)) return kNan;
  if (x >= kAsymptotic) return trigamma_asymptotic(x);
  return trigamma_asymptotic(x + kShift) + reciprocal_sums(x).second;
}

// Derivation: docs/mathematics/empirical-bayes.md
// Minka, "Estimating a Dirichlet distribution" (2000), appendix C. Each step doubles the digits.
double inverse_digamma(double y) {
  if (!std::isfinite(y)) return kNan;
  constexpr double kEuler = 0.57721566490153286;  // -psi(1)
  double x = y >= -2.22 ? std::exp(y) + 0.5 : -1.0 / (y + kEuler);
  for (int i = 0; i < 6; ++i) x -= (digamma(x) - y) / trigamma(x);
  return x;
}

GammaFamily gamma_family(double x) {
  if (!(x > 0.0)) return {kNan, kNan, kNan};
  if (x >= kAsymptotic) {
    const double log_x = std::log(x);
    return {lgamma_asymptotic(x, log_x), log_x - digamma_correction(x), trigamma_asymptotic(x)};
  }
  const ReciprocalSums sums = reciprocal_sums(x);
  return {lgamma_reduced(x), x < kRootSeries ? digamma_by_root_series(x) : digamma_shifted(x, sums.first),
          trigamma_asymptotic(x + kShift) + sums.second};
}

double log_gamma_draw_derivative(double a, double y) {
  constexpr double kLargestShape = 1e7;
  if (!(a > 0.0 && a <= kLargestShape && std::isfinite(y))) return kNan;
  const double x = std::exp(y);
  if (!(x > 1.0 && x > a)) return derivative_by_series(a, x, y);
  // Here A = 1/x to the last place, and the recurrence would overflow.
  if (x > 1e30) return (y - digamma(a)) * std::exp(-y);
  return derivative_by_continued_fraction(a, x, y);
}

}  // namespace dirigo::special
