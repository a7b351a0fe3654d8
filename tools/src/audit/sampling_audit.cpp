// Gamma and Dirichlet draws against their distributions, and implicit gradients against what they must be on
// average (docs/mathematics.md, section 4). Seeds are fixed, so a claim holds or fails for ever; the false
// alarm rate says how often a correct sampler would fail it at a fresh seed.
//
// Bounds: sqrt(n) D <= 2.23 for Kolmogorov-Smirnov, P = 2 exp(-2 2.23^2) = 1e-4 per test; 4.5 standard errors
// for a mean, P = 7e-6 each.
#include <algorithm>
#include <array>
#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "audit/math_areas.hpp"
#include "audit/worst.hpp"
#include "dirigo/core/philox.hpp"

namespace dirigo::tools {
namespace {

using Vector = std::vector<double>;

constexpr const char* kGammaFile = "core/src/gamma_sampling.cpp";
constexpr const char* kDirichletFile = "core/src/dirichlet_math.cpp";
constexpr const char* kSpecialFile = "core/src/special.cpp";
constexpr const char* kSection = "4 Sampling";
constexpr double kKolmogorovBound = 2.23, kStandardErrors = 4.5;
constexpr int kDraws = 40000;

const Vector kPaperPrior = {0.01, 0.86, 0.71};

PhiloxStream stream_of(std::uint32_t site, int element) {
  return PhiloxStream(random_key(20260, 0, Purpose::test, site), static_cast<std::uint32_t>(element));
}

double sum(const Vector& v) {
  double total = 0;
  for (const double value : v) total += value;
  return total;
}

// A sample mean and its standard error.
class Mean {
 public:
  void add(double value) {
    ++n_;
    const double step = value - mean_;
    mean_ += step / n_;
    squares_ += step * (value - mean_);
  }
  double value() const { return mean_; }
  double variance() const { return squares_ / (n_ - 1); }
  double standard_error() const { return std::sqrt(variance() / n_); }
  double distance(double expected) const { return std::fabs(mean_ - expected) / standard_error(); }

 private:
  double n_ = 0, mean_ = 0, squares_ = 0;
};

// sqrt(n) times the greatest distance between the sample's distribution function and the uniform one.
double kolmogorov(Vector u) {
  for (const double u_i : u) {
    if (std::isnan(u_i)) return u_i;  // cannot be sorted
  }
  std::sort(u.begin(), u.end());
  const double n = double(u.size());
  double distance = 0;
  for (std::size_t i = 0; i < u.size(); ++i)
    distance = worse(distance, std::fmax(u[i] - double(i) / n, double(i + 1) / n - u[i]));
  return std::sqrt(n) * distance;
}

// P(a, e^y) = e^(a y - x) / Gamma(a + 1) sum x^n / ((a + 1)...(a + n)): positive terms, for any y.
double gamma_cdf(double a, double y) {
  const double x = std::exp(y);
  double term = 1, total = 1;
  for (int n = 1; term > 1e-17 * total; ++n) total += term *= x / (a + n);
  return std::exp(a * y - x - special::lgamma(a + 1)) * total;
}

// A part of the Beta distribution: probability = power * sum, power = x^a (1 - x)^b / (a B(a, b)).
struct BetaPart {
  double log_power, sum;
};

// I_x(a, b) = power * sum_n (a + b)_n / (a + 1)_n x^n (DLMF 8.17.8): positive terms; x from its logarithm.
BetaPart lower_beta(double a, double b, double log_x, double log_rest) {
  const double x = std::exp(log_x);
  double term = 1, total = 1;
  for (int n = 0; term > 1e-17 * total; ++n) total += term *= (a + b + n) / (a + 1 + n) * x;
  const double log_beta = special::lgamma(a) + special::lgamma(b) - special::lgamma(a + b);
  return {a * log_x + b * log_rest - std::log(a) - log_beta, total};
}

// Below this x the series of I_x converges fast; above it, that of 1 - I_x = I_(1-x)(b, a).
bool takes_lower(double a, double b, double log_x) {
  return std::exp(log_x) < (a + 1) / (a + b + 2);
}

double beta_cdf(double a, double b, double log_x, double log_rest) {
  const bool lower = takes_lower(a, b, log_x);
  const BetaPart part = lower ? lower_beta(a, b, log_x, log_rest) : lower_beta(b, a, log_rest, log_x);
  const double probability = std::exp(part.log_power) * part.sum;
  return lower ? probability : 1 - probability;
}

// --- Gamma

std::vector<Claim> gamma_claims(const AuditedMath& math) {
  double kolmogorov_worst = 0, log_moments = 0, moments = 0, correlation = 0;
  std::uint32_t site = 0;
  for (const double a : {0.01, 0.3, 0.999, 1.0, 1.001, 2.5, 50.0, 1000.0}) {
    const double mean = special::digamma(a), variance = special::trigamma(a);
    Mean log_mean, log_variance, linear_mean, linear_variance, product;
    Vector probabilities(kDraws);
    PhiloxStream stream = stream_of(++site, 0);
    double previous = 0;
    for (int i = 0; i < kDraws; ++i) {
      const double y = math.draw(stream, a), g = std::exp(y), deviation = y - mean;
      probabilities[i] = gamma_cdf(a, y);
      log_mean.add(deviation);
      log_variance.add(deviation * deviation);
      linear_mean.add(g);
      linear_variance.add((g - a) * (g - a));
      if (i > 0) product.add(deviation * previous);
      previous = deviation;
    }
    kolmogorov_worst = worse(kolmogorov_worst, kolmogorov(std::move(probabilities)));
    log_moments = worse(log_moments, worse(log_mean.distance(0), log_variance.distance(variance)));
    moments = worse(moments, worse(linear_mean.distance(a), linear_variance.distance(a)));
    correlation = worse(correlation, product.distance(0));
  }
  const std::string draws = "40000 draws for each of 8 shapes from 0.01 to 1000";
  const auto z = ", in standard errors; false alarm 7e-6 per mean";
  return {{"sampling/gamma: distribution", "Kolmogorov-Smirnov, " + draws + "; false alarm 1e-4 per shape",
           kolmogorov_worst, kKolmogorovBound, kGammaFile, kSection},
          {"sampling/gamma: E[log g] = psi(a), Var[log g] = psi1(a)", draws + z, log_moments, kStandardErrors,
           kGammaFile, kSection},
          {"sampling/gamma: E[g] = Var[g] = a", draws + z, moments, kStandardErrors, kGammaFile, kSection},
          {"sampling/gamma: consecutive draws are uncorrelated", draws + z, correlation, kStandardErrors,
           kGammaFile, kSection}};
}

// a = 0.01: what a float cannot hold. Below y = c far under 0, P(y) ~ e^(a y), so a (c - y) ~ Exp(1).
std::vector<Claim> tail_claims(const AuditedMath& math) {
  constexpr double a = 0.01;
  const double float_limit = std::log(double{FLT_MIN}), double_limit = std::log(DBL_MIN);
  Mean below_float, below_double;
  Vector tail;
  double not_finite = 0;
  for (int i = 0; i < kDraws; ++i) {
    PhiloxStream stream = stream_of(100, i);
    const double y = math.draw(stream, a);
    not_finite += std::isfinite(y) ? 0 : 1;
    below_float.add(y < float_limit ? 1 : 0);
    below_double.add(y < double_limit ? 1 : 0);
    if (y < float_limit) tail.push_back(std::exp(a * (y - float_limit)));
  }
  const double frequency = worse(below_float.distance(gamma_cdf(a, float_limit)),
                                 below_double.distance(gamma_cdf(a, double_limit)));
  return {{"sampling/tail: draws of log Gamma(0.01) are finite", "infinite or NaN among 40000 draws",
           not_finite, 0, kGammaFile, kSection},
          {"sampling/tail: Gamma(0.01) underflows float in 41.8%, double in 0.085% of draws",
           "frequencies in 40000 draws against P(a, x), in standard errors; false alarm 7e-6 each", frequency,
           kStandardErrors, kGammaFile, kSection},
          {"sampling/tail: a (c - log g) ~ Exp(1) where g underflows float",
           "Kolmogorov-Smirnov over the tail of 40000 draws; false alarm 1e-4", kolmogorov(std::move(tail)),
           kKolmogorovBound, kGammaFile, kSection}};
}

// --- Dirichlet

const std::vector<Vector> kConcentrations = {kPaperPrior, {1, 1, 1}, {0.3, 1.2, 2.5, 20}};

struct Draw {
  Vector y, alpha, log_alpha;
  double log_total = 0;
};

Draw draw_of(const AuditedMath& math, const Vector& b, std::uint32_t site, int element) {
  Draw draw{Vector(b.size()), Vector(b.size()), Vector(b.size()), 0};
  PhiloxStream stream = stream_of(site, element);
  math.sample(b, stream, draw.y, draw.alpha);
  draw.log_total = dirichlet::log_sum_exp(draw.y);
  for (std::size_t i = 0; i < b.size(); ++i) draw.log_alpha[i] = draw.y[i] - draw.log_total;
  return draw;
}

// log(1 - alpha_i), without the cancellation.
double log_rest(const Draw& draw, std::size_t i) {
  Vector others = draw.y;
  others.erase(others.begin() + static_cast<std::ptrdiff_t>(i));
  return dirichlet::log_sum_exp(others) - draw.log_total;
}

// The sums of a Dirichlet sample and what they must be near.
class DirichletSample {
 public:
  DirichletSample(const AuditedMath& math, Vector b) : math_(math), b_(std::move(b)), s_(sum(b_)) {
    const std::size_t k = b_.size();
    marginals_.resize(k);
    alpha_.resize(k);
    log_alpha_.resize(k);
    with_total_.resize(k);
    products_.resize(k * k);
  }

  void add(const Draw& draw) {
    const std::size_t k = b_.size();
    const double total_deviation = draw.log_total - special::digamma(s_);
    totals_.push_back(gamma_cdf(s_, draw.log_total));
    for (std::size_t i = 0; i < k; ++i) {
      const double deviation = draw.alpha[i] - b_[i] / s_;
      marginals_[i].push_back(beta_cdf(b_[i], s_ - b_[i], draw.log_alpha[i], log_rest(draw, i)));
      alpha_[i].add(deviation);
      log_alpha_[i].add(draw.log_alpha[i]);
      with_total_[i].add(deviation * total_deviation);
      for (std::size_t j = 0; j < k; ++j) products_[i * k + j].add(deviation * (draw.alpha[j] - b_[j] / s_));
    }
    entropy_.add(dirichlet::categorical_entropy(draw.alpha));
    const double log_q = math_.log_prob(b_, draw.y), log_p = math_.log_prob(Vector(k, 1.5), draw.y);
    differential_entropy_.add(-log_q);
    kl_.add(log_q - log_p);
    off_simplex_ = worse(off_simplex_, std::fabs(sum(draw.alpha) - 1));
  }

  double off_simplex() const { return off_simplex_; }
  double distribution() const {
    double worst = kolmogorov(totals_);
    for (const Vector& marginal : marginals_) worst = worse(worst, kolmogorov(marginal));
    return worst;
  }
  // E[alpha_i] = m_i, Cov = (m_i [i = j] - m_i m_j) / (s + 1), E[log alpha_i] = psi(b_i) - psi(s).
  double moments() const {
    double worst = 0;
    const std::size_t k = b_.size();
    for (std::size_t i = 0; i < k; ++i) {
      worst = worse(worst, alpha_[i].distance(0));
      worst = worse(worst, log_alpha_[i].distance(special::digamma(b_[i]) - special::digamma(s_)));
      for (std::size_t j = 0; j < k; ++j) {
        const double m_i = b_[i] / s_, m_j = b_[j] / s_;
        worst = worse(worst, products_[i * k + j].distance(((i == j ? m_i : 0) - m_i * m_j) / (s_ + 1)));
      }
    }
    return worst;
  }
  double dependence_on_total() const {
    double worst = 0;
    for (const Mean& mean : with_total_) worst = worse(worst, mean.distance(0));
    return worst;
  }
  double closed_forms() const {
    const double worst = worse(entropy_.distance(math_.expected_categorical_entropy(b_)),
                               kl_.distance(math_.kl(b_, Vector(b_.size(), 1.5))));
    // Constant, up to rounding, for the uniform distribution: no standard error to measure in.
    return differential_entropy_.variance() < 1e-20
               ? worst
               : worse(worst, differential_entropy_.distance(math_.entropy(b_)));
  }

 private:
  const AuditedMath& math_;
  Vector b_;
  double s_;
  std::vector<Vector> marginals_;
  Vector totals_;
  std::vector<Mean> alpha_, log_alpha_, with_total_, products_;
  Mean entropy_, differential_entropy_, kl_;
  double off_simplex_ = 0;
};

std::vector<Claim> dirichlet_claims(const AuditedMath& math) {
  double off_simplex = 0, distribution = 0, moments = 0, dependence = 0, closed_forms = 0;
  std::uint32_t site = 200;
  for (const Vector& b : kConcentrations) {
    DirichletSample sample(math, b);
    ++site;
    for (int i = 0; i < kDraws; ++i) sample.add(draw_of(math, b, site, i));
    off_simplex = worse(off_simplex, sample.off_simplex());
    distribution = worse(distribution, sample.distribution());
    moments = worse(moments, sample.moments());
    dependence = worse(dependence, sample.dependence_on_total());
    closed_forms = worse(closed_forms, sample.closed_forms());
  }
  const std::string draws = "40000 draws each of 3 concentrations, the paper's prior among them";
  const std::string z = draws + ", in standard errors; false alarm 7e-6 per mean";
  const auto claim = [](const char* name, const std::string& how, double worst, double bound) {
    return Claim{std::string("sampling/dirichlet: ") + name, how, worst, bound, kDirichletFile, kSection};
  };
  return {claim("sum of alpha is 1", draws, off_simplex, 1e-14),
          claim("marginals are Beta, the total Gamma",
                "Kolmogorov-Smirnov in log space, " + draws + "; false alarm 1e-4 per marginal", distribution,
                kKolmogorovBound),
          claim("means, covariances and E[log alpha]", z, moments, kStandardErrors),
          claim("alpha is independent of the total", z, dependence, kStandardErrors),
          claim("E[H(alpha)], entropy and KL equal their closed forms", z, closed_forms, kStandardErrors)};
}

// --- Implicit gradients

// Means of sampled gradients against analytic ones. `power` is the largest standard error as a fraction of
// the largest gradient: a test of unbiasedness whose noise hides the gradient would say nothing.
struct Unbiasedness {
  double distance = 0, power = 0;
  void add(const std::vector<Mean>& means, const Vector& expected) {
    double largest = 0, noise = 0;
    for (std::size_t i = 0; i < means.size(); ++i) {
      distance = worse(distance, means[i].distance(expected[i]));
      largest = std::fmax(largest, std::fabs(expected[i]));
      noise = worse(noise, means[i].standard_error());
    }
    power = worse(power, noise / largest);
  }
};

// d E[c . alpha] / db_i = (c_i - c . m) / s
Vector gradient_of_linear(const Vector& b, const Vector& c) {
  const double s = sum(b);
  double mean = 0;
  for (std::size_t i = 0; i < b.size(); ++i) mean += c[i] * b[i] / s;
  Vector gradient(b.size());
  for (std::size_t i = 0; i < b.size(); ++i) gradient[i] = (c[i] - mean) / s;
  return gradient;
}

// d E[log alpha_k] / db_i = [i = k] psi1(b_i) - psi1(s)
Vector gradient_of_log(const Vector& b, std::size_t k) {
  Vector gradient(b.size(), -special::trigamma(sum(b)));
  gradient[k] += special::trigamma(b[k]);
  return gradient;
}

std::vector<Claim> gradient_claims(const AuditedMath& math) {
  Unbiasedness linear, logarithmic;
  std::uint32_t site = 300;
  for (const Vector& b : kConcentrations) {
    const std::size_t k = b.size();
    Vector c = {1.0, -0.7, 0.4, 2.0}, db(k);
    c.resize(k);
    std::vector<Mean> of_linear(k), of_log(k * k);
    ++site;
    for (int n = 0; n < kDraws; ++n) {
      const Draw draw = draw_of(math, b, site, n);
      math.sample_vjp(b, draw.y, draw.alpha, c, db);
      for (std::size_t i = 0; i < k; ++i) {
        of_linear[i].add(db[i]);
        // The cotangent 1 / alpha_k may overflow, so in log space: d log alpha_j / db_i = ([i = j] - alpha_i)
        // D.
        const double d = math.draw_derivative(b[i], draw.y[i]);
        for (std::size_t j = 0; j < k; ++j) of_log[j * k + i].add(((i == j ? 1 : 0) - draw.alpha[i]) * d);
      }
    }
    linear.add(of_linear, gradient_of_linear(b, c));
    for (std::size_t j = 0; j < k; ++j) {
      const auto first = of_log.begin() + static_cast<std::ptrdiff_t>(j * k);
      logarithmic.add({first, first + static_cast<std::ptrdiff_t>(k)}, gradient_of_log(b, j));
    }
  }
  const auto how = [](const Unbiasedness& u) {
    return "mean of 40000 for each of 3 concentrations against the analytic gradient, in standard errors (at "
           "most " +
           std::to_string(int(std::ceil(100 * u.power))) + "% of the gradient); false alarm 7e-6 per mean";
  };
  const double noise = worse(linear.power, logarithmic.power);
  return {{"sampling/implicit gradient: of E[c . alpha] is unbiased", how(linear), linear.distance,
           kStandardErrors, kDirichletFile, kSection},
          {"sampling/implicit gradient: of E[log alpha] is unbiased", how(logarithmic), logarithmic.distance,
           kStandardErrors, kSpecialFile, kSection},
          {"sampling/implicit gradient: the noise does not hide a bias",
           "largest standard error over the largest gradient", noise, 0.05, kSpecialFile, kSection}};
}

// --- The Dirichlet form: what is left of D once the total S ~ Gamma(s), independent of alpha, is averaged
// out

// E_S[D(b, log alpha + log S)] by the trapezoidal rule in u = log S; nodes and weights are shared by many b.
class TotalAverage {
 public:
  TotalAverage(double s, double step) {
    const double from = std::log(s + 1) - 45 / std::fmin(s, std::sqrt(s));
    const double to = std::log(s + 60 + 12 * std::sqrt(s));
    for (double u = from; u < to; u += step) {
      const double weight = step * std::exp(s * u - std::exp(u) - special::lgamma(s));
      if (weight > 1e-22) nodes_.push_back({u, weight});
    }
  }
  double derivative(const AuditedMath& math, double b, double log_alpha) const {
    double total = 0;
    for (const auto& [u, weight] : nodes_) total += weight * math.draw_derivative(b, log_alpha + u);
    return total;
  }

 private:
  std::vector<std::pair<double, double>> nodes_;
};

// f'(x), eighth order: error about 64 (h/x)^8 for a logarithm.
template <class F>
double derivative_of(const F& f, double x, double h) {
  const auto odd = [&](double steps) { return f(x + steps * h) - f(x - steps * h); };
  return (4.0 / 5 * odd(1) - 1.0 / 5 * odd(2) + 4.0 / 105 * odd(3) - 1.0 / 280 * odd(4)) / h;
}

// -(dF/db) / (alpha (1 - alpha) f) for the marginal alpha ~ Beta(b, rest), by differencing log F or
// log(1 - F), whichever is small.
double marginal_derivative(double b, double rest, double log_alpha, double log_one_minus) {
  const bool lower = takes_lower(b, rest, log_alpha);
  const auto part = [&](double shape) {
    return lower ? lower_beta(shape, rest, log_alpha, log_one_minus)
                 : lower_beta(rest, shape, log_one_minus, log_alpha);
  };
  const auto log_probability = [&](double shape) {
    const BetaPart p = part(shape);
    return p.log_power + std::log(p.sum);
  };
  const double slope = derivative_of(log_probability, b, 0.01 * b);
  return lower ? -part(b).sum / b * slope : part(b).sum / rest * slope;
}

std::vector<Claim> dirichlet_form_claims(const AuditedMath& math) {
  const std::array<std::pair<double, double>, 7> shapes = {
      {{0.01, 1.57}, {0.86, 0.72}, {0.3, 2.2}, {1, 1}, {5, 3}, {20, 4}, {0.5, 60}}};
  double worst = 0;
  for (const auto& [b, rest] : shapes) {
    const double s = b + rest;
    const TotalAverage average(s, std::fmin(1.0 / 16, 1 / (8 * std::sqrt(s))));
    for (const double alpha : {1e-300, 1e-12, 1e-3, 0.1, 0.4, 0.6, 0.9, 0.999}) {
      const double expected = marginal_derivative(b, rest, std::log(alpha), std::log1p(-alpha));
      worst = worse(worst, relative_error(average.derivative(math, b, std::log(alpha)), expected));
    }
  }
  return {{"sampling/dirichlet form: alpha_i E[D(b_i, log alpha_i + log S)] is the marginal's derivative",
           "quadrature over S ~ Gamma(s) against eighth-order differences of the Beta distribution function",
           worst, 1e-9, kSpecialFile, kSection}};
}

// --- Gradient variance against the alternatives

// A draw by Marsaglia and Tsang's accepted normals, boosted B times (Naesseth, Ruiz, Linderman, Blei 2017):
// z = h(e, a + B) prod u_j^(1 / (a + j)), j = 0..B-1, whose gradient has a pathwise part, f'(z) dz/da, and a
// correction for the rejection, f(z) times d/da log(q(h) dh/de).
struct BoostedDraw {
  double y = 0;           // log z
  double path = 0;        // d log z / da
  double correction = 0;  // of one shape; those of a Dirichlet apply to their own b_i
};

double accepted_normal(PhiloxStream& stream, double d, double c) {
  for (;;) {
    const double e = stream.normal(), root = 1 + c * e;
    if (root <= 0) continue;
    const double v = root * root * root;
    if (std::log(stream.uniform()) < 0.5 * e * e + d * (1 - v + std::log(v))) return e;
  }
}

BoostedDraw boosted_draw(PhiloxStream& stream, double a, int boosts) {
  const double shape = a + boosts, d = shape - 1.0 / 3, c = 1 / std::sqrt(9 * d);
  const double e = accepted_normal(stream, d, c);
  const double root = 1 + c * e, dc = -c / (2 * d);
  const double log_h = std::log(d) + 3 * std::log(root), d_log_h = 1 / d + 3 * e * dc / root;
  BoostedDraw draw;
  draw.y = log_h;
  draw.path = d_log_h;
  // log q(h) = (shape - 1) log h - h - log Gamma(shape) and log dh/de = log(3 c d) + 2 log root.
  draw.correction = log_h + (shape - 1 - std::exp(log_h)) * d_log_h - special::digamma(shape) + 1 / d +
                    dc / c + 2 * e * dc / root;
  for (int j = 0; j < boosts; ++j) {
    const double log_u = std::log(stream.uniform());
    draw.y += log_u / (a + j);
    draw.path -= log_u / ((a + j) * (a + j));
  }
  return draw;
}

constexpr std::array<int, 2> kBoosts = {1, 5};
constexpr int kVarianceDraws = 100000;
constexpr int kFormDraws = 10000;  // of those: each needs a quadrature

// f(alpha) = c . alpha, a cost, or log(c . alpha), the evidence of one observation.
struct Objective {
  Vector c;
  bool logarithm;
  double value(const Vector& alpha) const {
    double total = 0;
    for (std::size_t i = 0; i < c.size(); ++i) total += c[i] * alpha[i];
    return logarithm ? std::log(total) : total;
  }
  Vector gradient(const Vector& alpha) const {
    Vector g = c;
    if (logarithm) {
      const double total = std::exp(value(alpha));
      for (double& g_i : g) g_i /= total;
    }
    return g;
  }
};

using GradientMeans = std::array<Mean, 3>;

double total_variance(const GradientMeans& means) {
  return means[0].variance() + means[1].variance() + means[2].variance();
}

// How far two estimates of the same gradient lie apart, in standard errors.
double disagreement(const GradientMeans& a, const GradientMeans& b) {
  double worst = 0;
  for (std::size_t i = 0; i < 3; ++i) {
    const double error = std::hypot(a[i].standard_error(), b[i].standard_error());
    worst = worse(worst, std::fabs(a[i].value() - b[i].value()) / error);
  }
  return worst;
}

struct VarianceRatios {
  std::array<double, kBoosts.size()> boosted{};
  double score = 0, form = 0, disagreement = 0;
};

// The pathwise factor alpha_i (g_i - g . alpha) of every estimator but the score's.
std::array<double, 3> softmax_gradient(const Vector& alpha, const Vector& g) {
  const double mean = alpha[0] * g[0] + alpha[1] * g[1] + alpha[2] * g[2];
  return {alpha[0] * (g[0] - mean), alpha[1] * (g[1] - mean), alpha[2] * (g[2] - mean)};
}

GradientMeans boosted_gradient(const Vector& b, const Objective& f, double baseline, int boosts,
                               std::uint32_t site) {
  GradientMeans means;
  for (int n = 0; n < kVarianceDraws; ++n) {
    PhiloxStream stream = stream_of(site, n);
    std::array<BoostedDraw, 3> draws;
    Vector y(3), alpha(3);
    for (std::size_t i = 0; i < 3; ++i) {
      draws[i] = boosted_draw(stream, b[i], boosts);
      y[i] = draws[i].y;
    }
    const double log_total = dirichlet::log_sum_exp(y);
    for (std::size_t i = 0; i < 3; ++i) alpha[i] = std::exp(y[i] - log_total);
    const auto factor = softmax_gradient(alpha, f.gradient(alpha));
    const double centred = f.value(alpha) - baseline;
    for (std::size_t i = 0; i < 3; ++i)
      means[i].add(factor[i] * draws[i].path + centred * draws[i].correction);
  }
  return means;
}

VarianceRatios variance_ratios(const AuditedMath& math, const Vector& b, const Objective& f,
                               std::uint32_t site) {
  const double s = sum(b);
  const TotalAverage average(s, std::fmin(0.25, 0.5 / std::sqrt(s)));
  std::vector<Draw> draws;
  Mean value;
  for (int n = 0; n < kVarianceDraws; ++n) {
    draws.push_back(draw_of(math, b, site, n));
    value.add(f.value(draws.back().alpha));
  }
  GradientMeans ours, ours_beside_form, form, score;
  Vector db(3);
  for (std::size_t n = 0; n < draws.size(); ++n) {
    const Draw& draw = draws[n];
    const Vector g = f.gradient(draw.alpha);
    const auto factor = softmax_gradient(draw.alpha, g);
    math.sample_vjp(b, draw.y, draw.alpha, g, db);
    const double centred = f.value(draw.alpha) - value.value();
    for (std::size_t i = 0; i < 3; ++i) {
      ours[i].add(db[i]);
      score[i].add(centred * (draw.log_alpha[i] - special::digamma(b[i]) + special::digamma(s)));
      if (n >= kFormDraws) continue;
      ours_beside_form[i].add(db[i]);
      form[i].add(factor[i] == 0 ? 0 : factor[i] * average.derivative(math, b[i], draw.log_alpha[i]));
    }
  }
  VarianceRatios ratios;
  const double variance = total_variance(ours);
  ratios.form = total_variance(form) / total_variance(ours_beside_form);
  ratios.score = variance / total_variance(score);
  for (std::size_t i = 0; i < kBoosts.size(); ++i) {
    const GradientMeans boosted =
        boosted_gradient(b, f, value.value(), kBoosts[i], site + 1 + static_cast<std::uint32_t>(i));
    ratios.boosted[i] = variance / total_variance(boosted);
    ratios.disagreement = worse(ratios.disagreement, disagreement(ours, boosted));
  }
  return ratios;
}

std::vector<Claim> variance_claims(const AuditedMath& math) {
  struct Case {
    const char* name;
    Vector b;
  };
  const std::vector<Case> cases = {{"(0.01, 0.86, 0.71)", kPaperPrior},
                                   {"(1, 1, 1)", {1, 1, 1}},
                                   {"(2, 5, 1)", {2, 5, 1}},
                                   {"(20, 30, 10)", {20, 30, 10}}};
  const Objective cost{{1.0, 0.15, 0.30}, false}, evidence{{0.2, 0.5, 0.05}, true};
  const std::string how =
      "trace of the covariance of the gradient, 100000 draws each (10000 for the Dirichlet form); the worse "
      "of "
      "f = c . alpha and log(c . alpha)";
  std::vector<Claim> claims;
  double apart = 0;
  std::uint32_t site = 400;
  for (const Case& c : cases) {
    const VarianceRatios first = variance_ratios(math, c.b, cost, site),
                         second = variance_ratios(math, c.b, evidence, site + 10);
    site += 20;
    apart = worse(apart, worse(first.disagreement, second.disagreement));
    const auto add = [&](const std::string& name, double a, double b) {
      claims.push_back({"sampling/gradient variance: " + name + ", b = " + c.name, how, worse(a, b), 1,
                        kSpecialFile, kSection});
    };
    for (std::size_t i = 0; i < kBoosts.size(); ++i)
      add("implicit over boosted " + std::to_string(kBoosts[i]) + "x", first.boosted[i], second.boosted[i]);
    add("implicit over score function", first.score, second.score);
    add("Dirichlet form over implicit", first.form, second.form);
  }
  claims.push_back({"sampling/gradient variance: the alternatives agree on the gradient",
                    "difference of the means, in standard errors; false alarm 7e-6 per mean", apart,
                    kStandardErrors, kSpecialFile, kSection});
  return claims;
}

}  // namespace

std::vector<AuditTask> sampling_audit(const AuditedMath& math) {
  return {
      {"sampling/gamma", [math](const Context&) { return gamma_claims(math); }},
      {"sampling/tail", [math](const Context&) { return tail_claims(math); }},
      {"sampling/dirichlet", [math](const Context&) { return dirichlet_claims(math); }},
      {"sampling/implicit gradient", [math](const Context&) { return gradient_claims(math); }},
      {"sampling/dirichlet form", [math](const Context&) { return dirichlet_form_claims(math); }},
      {"sampling/gradient variance", [math](const Context&) { return variance_claims(math); }},
  };
}

}  // namespace dirigo::tools
