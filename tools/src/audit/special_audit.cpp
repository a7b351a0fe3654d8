// The special functions and Dirichlet closed forms against 25-digit values at exact arguments, in every
// regime of core/src/special.cpp and on both sides of every seam.
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "audit/dirichlet_scale.hpp"
#include "audit/math_areas.hpp"
#include "audit/reference_values.hpp"
#include "audit/worst.hpp"

namespace dirigo::tools {
namespace {

constexpr const char* kSpecialFile = "core/src/special.cpp";
constexpr const char* kDirichletFile = "core/src/dirichlet_math.cpp";
constexpr const char* kClosedForms = "3 Closed forms";
constexpr const char* kSampling = "4 Sampling";
constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::string count_of(std::size_t n) {
  return std::to_string(n) + " 25-digit values at exact arguments, seams included";
}

// --- The Gamma family, in ulp

struct Regime {
  const char* name;
  double from, to;  // from <= x < to
};

Claim unary_claim(const char* function, const Regime& regime, double (*f)(double),
                  long double GammaFamilyValue::*expected) {
  double worst = 0;
  std::size_t n = 0;
  for (const GammaFamilyValue& value : gamma_family_values()) {
    if (!(regime.from <= value.x && value.x < regime.to)) continue;
    worst = worse(worst, ulp_error(f(value.x), value.*expected));
    ++n;
  }
  return {std::string("special/") + function + ": " + regime.name + ", ulp",
          count_of(n),
          worst,
          8,
          kSpecialFile,
          kClosedForms};
}

std::vector<Claim> unary_claims(const char* function, const std::vector<Regime>& regimes, double (*f)(double),
                                long double GammaFamilyValue::*expected) {
  std::vector<Claim> claims;
  for (const Regime& regime : regimes) claims.push_back(unary_claim(function, regime, f, expected));
  return claims;
}

std::vector<Claim> lgamma_claims(double (*f)(double)) {
  const std::vector<Regime> regimes = {{"x < 1/2", 0, 0.5},
                                       {"1/2 <= x < 5/4 and the root 1", 0.5, 1.25},
                                       {"5/4 <= x < 5/2 and the root 2", 1.25, 2.5},
                                       {"5/2 <= x < 10", 2.5, 10},
                                       {"x >= 10", 10, kInfinity}};
  auto claims = unary_claims("lgamma", regimes, f, &GammaFamilyValue::lgamma);
  claims.push_back({"special/lgamma: lgamma(1) = lgamma(2) = 0", "exactly", std::fabs(f(1)) + std::fabs(f(2)),
                    0, kSpecialFile, kClosedForms});
  return claims;
}

std::vector<Claim> digamma_claims(double (*f)(double)) {
  const std::vector<Regime> regimes = {{"x < 1", 0, 1},
                                       {"1 <= x <= 2 and the root 1.4616", 1, std::nextafter(2.0, 3.0)},
                                       {"2 < x < 3", std::nextafter(2.0, 3.0), 3},
                                       {"3 <= x < 10", 3, 10},
                                       {"x >= 10", 10, kInfinity}};
  return unary_claims("digamma", regimes, f, &GammaFamilyValue::digamma);
}

std::vector<Claim> trigamma_claims(double (*f)(double)) {
  const std::vector<Regime> regimes = {{"x < 1", 0, 1}, {"1 <= x < 10", 1, 10}, {"x >= 10", 10, kInfinity}};
  return unary_claims("trigamma", regimes, f, &GammaFamilyValue::trigamma);
}

// gamma_family shares work between the three; it must not change a bit.
std::vector<Claim> family_claims(const AuditedMath& math) {
  double differing = 0;
  for (const GammaFamilyValue& value : gamma_family_values()) {
    const special::GammaFamily all = special::gamma_family(value.x);
    const bool same = all.lgamma == math.lgamma(value.x) && all.digamma == math.digamma(value.x) &&
                      all.trigamma == math.trigamma(value.x);
    differing += same ? 0 : 1;
  }
  return {{"special/gamma_family: equals the single functions bitwise",
           "arguments that differ, of " + std::to_string(gamma_family_values().size()), differing, 0,
           kSpecialFile, kClosedForms}};
}

// --- D(a, y)

struct DerivativeRegime {
  const char* name;
  bool (*holds)(double a, double y);
  double bound;
};

// The switch from the series to the continued fraction, as in special.cpp.
double log_distance_from_seam(double a, double y) {
  return y - std::fmax(0.0, std::log(a));
}

const DerivativeRegime kDerivativeRegimes[] = {
    {"lower tail, y from -30 to -10000", [](double a, double y) { return a <= 1e3 && y <= -30; }, 1e-12},
    {"series, a < 1",
     [](double a, double y) { return a < 1 && y > -30 && log_distance_from_seam(a, y) <= -1e-3; }, 1e-12},
    {"series, a >= 1",
     [](double a, double y) {
       return a >= 1 && a <= 1e3 && y > -30 && log_distance_from_seam(a, y) <= -1e-3;
     },
     1e-12},
    {"both sides of the seam x = max(1, a)",
     [](double a, double y) { return a <= 1e3 && std::fabs(log_distance_from_seam(a, y)) < 1e-3; }, 1e-12},
    {"continued fraction, a < 1",
     [](double a, double y) { return a < 1 && log_distance_from_seam(a, y) >= 1e-3 && y < 13; }, 1e-12},
    {"continued fraction, a >= 1",
     [](double a, double y) { return a >= 1 && a <= 1e3 && log_distance_from_seam(a, y) >= 1e-3 && y < 13; },
     1e-12},
    {"upper tail, y from 13 to 700", [](double a, double y) { return a <= 1e3 && y >= 13; }, 1e-12},
    // The factor y - psi(a + 1), about 1 / (2a), is a difference: its rounding grows with sqrt(a) log a.
    {"a from 1e4 to 1e7", [](double a, double) { return a > 1e3; }, 1e-10},
};

std::vector<Claim> derivative_table_claims(double (*derivative)(double, double)) {
  std::vector<Claim> claims;
  for (const DerivativeRegime& regime : kDerivativeRegimes) {
    double worst = 0;
    std::size_t n = 0;
    for (const DrawDerivativeValue& value : draw_derivative_values()) {
      if (!regime.holds(value.a, value.y)) continue;
      worst = worse(worst, relative_error(derivative(value.a, value.y), value.d));
      ++n;
    }
    claims.push_back({std::string("special/draw_derivative: ") + regime.name + ", relative", count_of(n),
                      worst, regime.bound, kSpecialFile, kSampling});
  }
  return claims;
}

// The derivatives of E[y] = psi(a) and E[e^y] = a at fixed quantiles: E[D] = psi1(a), E[e^y D] = 1. The
// integrands are analytic and vanish at both ends, so the trapezoidal rule converges exponentially; the
// values come from no table.
std::vector<Claim> derivative_integral_claims(const AuditedMath& math) {
  double worst_mean = 0, worst_linear = 0;
  for (const double a : {0.01, 0.1, 0.5, 1.0, 1.5, 4.0, 20.0, 100.0}) {
    const double width = 1 / std::sqrt(a), step = std::fmin(1.0 / 16, width / 8);
    const double from = std::log(a + 1) - 45 / std::fmin(a, std::sqrt(a)),
                 to = std::log(a + 60 + 12 * a * width);
    double mean = 0, linear = 0;
    for (double y = from; y < to; y += step) {
      const double weight = step * std::exp(a * y - std::exp(y) - math.lgamma(a));
      if (weight < 1e-22) continue;
      const double d = weight * math.draw_derivative(a, y);
      mean += d;
      linear += std::exp(y) * d;
    }
    worst_mean = worse(worst_mean, relative_error(mean, math.trigamma(a)));
    worst_linear = worse(worst_linear, relative_error(linear, 1));
  }
  const std::string how = "trapezoidal quadrature, a from 0.01 to 100";
  return {{"special/draw_derivative: E[D] = psi1(a)", how, worst_mean, 1e-12, kSpecialFile, kSampling},
          {"special/draw_derivative: E[e^y D] = 1", how, worst_linear, 1e-12, kSpecialFile, kSampling}};
}

std::vector<Claim> derivative_claims(const AuditedMath& math) {
  auto claims = derivative_table_claims(math.draw_derivative);
  for (Claim& claim : derivative_integral_claims(math)) claims.push_back(std::move(claim));
  return claims;
}

// --- Dirichlet closed forms, relative to the largest of the value and its terms

double worst_of_gradient(std::span<const double> got, const std::array<long double, 3>& expected,
                         double (*magnitude)(const DirichletValue&, std::size_t),
                         const DirichletValue& value) {
  double worst = 0;
  for (std::size_t i = 0; i < expected.size(); ++i)
    worst = worse(worst, relative_error(got[i], expected[i], magnitude(value, i)));
  return worst;
}

// sum |b_i - 1| |log alpha_i| + the terms of log B(b)
double log_prob_scale(const DirichletValue& value) {
  const double total = dirichlet::log_sum_exp(value.y);
  double terms = scale::log_beta(value.b);
  for (std::size_t i = 0; i < 3; ++i) terms += std::fabs((value.b[i] - 1) * (value.y[i] - total));
  return terms;
}

std::vector<Claim> dirichlet_claims(const AuditedMath& math) {
  double log_beta = 0, kl = 0, kl_gradient = 0, entropy = 0, entropy_gradient = 0, expected_entropy = 0,
         information = 0, log_prob = 0;
  for (const DirichletValue& value : dirichlet_values()) {
    const auto& b = value.b;
    const auto& p = value.p;
    std::array<double, 3> gradient{};
    const double entropy_scale = scale::expected_entropy(b);
    log_beta = worse(log_beta, relative_error(math.log_beta(b), value.log_beta, scale::log_beta(b)));
    kl = worse(kl, relative_error(math.kl(b, p), value.kl, scale::kl(b, p)));
    math.kl_gradient(b, p, gradient);
    kl_gradient = worse(
        kl_gradient,
        worst_of_gradient(
            gradient, value.kl_gradient,
            [](const DirichletValue& v, std::size_t i) { return scale::kl_gradient(v.b, v.p, i); }, value));
    entropy = worse(entropy, relative_error(math.entropy(b), value.entropy, scale::entropy(b)));
    math.entropy_gradient(b, gradient);
    entropy_gradient = worse(
        entropy_gradient,
        worst_of_gradient(
            gradient, value.entropy_gradient,
            [](const DirichletValue& v, std::size_t i) { return scale::entropy_gradient(v.b, i); }, value));
    expected_entropy =
        worse(expected_entropy, relative_error(math.expected_categorical_entropy(b),
                                               value.expected_categorical_entropy, entropy_scale));
    information = worse(information,
                        relative_error(math.mutual_information(b), value.mutual_information, entropy_scale));
    log_prob =
        worse(log_prob, relative_error(math.log_prob(b, value.y), value.log_prob, log_prob_scale(value)));
  }
  const std::string how = std::to_string(dirichlet_values().size()) +
                          " rows of 25-digit values, b from 0.001 to 1000, relative to the sum of |terms|";
  const auto claim = [&](const char* name, double worst) {
    return Claim{std::string("special/dirichlet: ") + name, how, worst, 1e-14, kDirichletFile, kClosedForms};
  };
  return {claim("log_beta", log_beta),
          claim("kl", kl),
          claim("kl_gradient", kl_gradient),
          claim("entropy", entropy),
          claim("entropy_gradient", entropy_gradient),
          claim("expected_categorical_entropy", expected_entropy),
          claim("mutual_information", information),
          claim("log_prob", log_prob)};
}

}  // namespace

std::vector<AuditTask> special_audit(const AuditedMath& math) {
  return {
      {"special/lgamma", [math](const Context&) { return lgamma_claims(math.lgamma); }},
      {"special/digamma", [math](const Context&) { return digamma_claims(math.digamma); }},
      {"special/trigamma", [math](const Context&) { return trigamma_claims(math.trigamma); }},
      {"special/gamma_family", [math](const Context&) { return family_claims(math); }},
      {"special/draw_derivative", [math](const Context&) { return derivative_claims(math); }},
      {"special/dirichlet", [math](const Context&) { return dirichlet_claims(math); }},
  };
}

}  // namespace dirigo::tools
