#include <doctest/doctest.h>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "dirigo/core/context.hpp"
#include "dirigo/core/dirichlet_math.hpp"
#include "dirigo/core/errors.hpp"
#include "dirigo/core/special.hpp"

using namespace dirigo;
using special::digamma;
using special::trigamma;
using Vector = std::vector<double>;

namespace {

double number(const nlohmann::json& value) {
  return std::stod(value.get<std::string>());
}

Vector numbers(const nlohmann::json& values) {
  Vector out;
  for (const auto& value : values) out.push_back(number(value));
  return out;
}

double sum(const Vector& v) {
  double total = 0;
  for (const double v_i : v) total += v_i;
  return total;
}

// Sum of the absolute terms of log_beta, against which its rounding is judged.
double log_beta_scale(const Vector& b) {
  double total = std::fabs(special::lgamma(sum(b)));
  for (const double b_i : b) total += std::fabs(special::lgamma(b_i));
  return total;
}

// Error as a multiple of the bound 1e-12 max(|value|, sum of |terms|).
double error_over_bound(double got, double expected, double terms) {
  return std::fabs(got - expected) / (1e-12 * std::max(std::fabs(expected), terms));
}

const Vector kPaperPrior = {0.01, 0.86, 0.71};

}  // namespace

TEST_CASE("Dirichlet closed forms agree with 25-digit values to 1e-12 of their largest terms") {
  const auto golden = nlohmann::json::parse(std::ifstream(DIRIGO_TEST_DIR "/golden/special.json"));
  REQUIRE(golden["dirichlet"].size() >= 400);
  for (const auto& row : golden["dirichlet"]) {
    const Vector b = numbers(row["b"]), p = numbers(row["p"]);
    CAPTURE(row.dump());
    const std::size_t size = b.size();
    const double k = static_cast<double>(size), s = sum(b), s_p = sum(p);

    double kl_terms = log_beta_scale(b) + log_beta_scale(p);
    double entropy_terms = log_beta_scale(b) + std::fabs((s - k) * digamma(s));
    double expected_terms = std::fabs(digamma(s + 1));
    for (std::size_t i = 0; i < size; ++i) {
      kl_terms += std::fabs((b[i] - p[i]) * digamma(b[i])) + std::fabs((b[i] - p[i]) * digamma(s));
      entropy_terms += std::fabs((b[i] - 1) * digamma(b[i]));
      expected_terms += std::fabs(b[i] / s * digamma(b[i] + 1));
    }
    CHECK(error_over_bound(dirichlet::kl(b, p), number(row["kl"]), kl_terms) <= 1);
    CHECK(dirichlet::kl(b, p, dirichlet::log_beta(p)) == dirichlet::kl(b, p));
    CHECK(error_over_bound(dirichlet::entropy(b), number(row["entropy"]), entropy_terms) <= 1);
    CHECK(error_over_bound(dirichlet::expected_categorical_entropy(b),
                           number(row["expected_categorical_entropy"]), expected_terms) <= 1);

    const Vector dkl = numbers(row["dkl_db"]), dentropy = numbers(row["dentropy_db"]);
    Vector got_dkl(size), got_dentropy(size);
    dirichlet::kl_gradient(b, p, got_dkl);
    dirichlet::entropy_gradient(b, got_dentropy);
    for (std::size_t i = 0; i < size; ++i) {
      const double kl_scale = std::fabs((b[i] - p[i]) * trigamma(b[i])) + std::fabs((s - s_p) * trigamma(s));
      const double entropy_scale = std::fabs((s - k) * trigamma(s)) + std::fabs((b[i] - 1) * trigamma(b[i]));
      CHECK(error_over_bound(got_dkl[i], dkl[i], kl_scale) <= 1);
      CHECK(error_over_bound(got_dentropy[i], dentropy[i], entropy_scale) <= 1);
    }
  }
}

TEST_CASE("Dirichlet closed forms at distributions known by hand") {
  const Vector uniform = {1, 1, 1};
  CHECK(dirichlet::log_beta(uniform) == doctest::Approx(-std::log(2.0)).epsilon(1e-15));
  CHECK(dirichlet::entropy(uniform) == doctest::Approx(-std::log(2.0)).epsilon(1e-14));
  CHECK(dirichlet::log_prob(uniform, Vector{5.0, -3.0, 0.2}) ==
        doctest::Approx(std::log(2.0)).epsilon(1e-14));
  CHECK(dirichlet::expected_categorical_entropy(uniform) ==
        doctest::Approx(1.0 / 2 + 1.0 / 3).epsilon(1e-14));
  CHECK(dirichlet::categorical_entropy(Vector{0.25, 0.5, 0.25, 0.0}) ==
        doctest::Approx(1.5 * std::log(2.0)).epsilon(1e-15));
  CHECK(std::fabs(dirichlet::kl(kPaperPrior, kPaperPrior)) < 1e-14);
  // The null router's numbers.
  const double s = sum(kPaperPrior);
  const Vector mean = {kPaperPrior[0] / s, kPaperPrior[1] / s, kPaperPrior[2] / s};
  CHECK(dirichlet::mutual_information(kPaperPrior) == doctest::Approx(0.253).epsilon(2e-3));
  CHECK(dirichlet::entropy(kPaperPrior) == doctest::Approx(-95).epsilon(0.01));
  CHECK(dirichlet::expected_categorical_entropy(kPaperPrior) / std::log(3.0) ==
        doctest::Approx(0.427).epsilon(2e-3));
  CHECK(dirichlet::categorical_entropy(mean) / std::log(3.0) == doctest::Approx(0.658).epsilon(2e-3));
  // One route has nothing to decide.
  CHECK(dirichlet::mutual_information(Vector{2.5}) == doctest::Approx(0.0));
  CHECK(dirichlet::kl(Vector{2.5}, Vector{0.3}) == doctest::Approx(0.0));
}

TEST_CASE("the gradient of the KL keeps its digits near b = p") {
  // b - p = (0, 0, d): dKL/db_i = d (psi1(b_3) [i = 3] - psi1(s)), to the last places however small d is.
  Vector b = kPaperPrior, gradient(3);
  for (const double step : {1e-3, 1e-7, 1e-12}) {
    b[2] = kPaperPrior[2] + step;
    const double d = b[2] - kPaperPrior[2];
    dirichlet::kl_gradient(b, kPaperPrior, gradient);
    for (std::size_t i = 0; i < 3; ++i) {
      const double expected = d * ((i == 2 ? trigamma(b[2]) : 0.0) - trigamma(sum(b)));
      CHECK(std::fabs(gradient[i] - expected) <= 1e-15 * d * (trigamma(b[2]) + trigamma(sum(b))));
    }
  }
}

TEST_CASE("log_prob integrates to one and takes unnormalised logarithms") {
  // K = 2, alpha = (sigma(t), 1 - sigma(t)), d alpha = alpha_1 alpha_2 dt: the trapezoidal rule converges
  // exponentially.
  for (const Vector& b : {Vector{0.3, 1.7}, Vector{5.0, 2.0}, Vector{1.0, 1.0}}) {
    double integral = 0;
    for (double t = -150; t <= 150; t += 0.05) {
      const double log_total = dirichlet::log_sum_exp(Vector{t, 0.0});
      integral += 0.05 * std::exp(dirichlet::log_prob(b, Vector{t, 0.0}) + t - 2 * log_total);
    }
    CHECK(integral == doctest::Approx(1.0).epsilon(1e-12));
  }
  const Vector y = {-2.0, 0.5, -900.0}, shifted = {-2.0 + 64, 0.5 + 64, -900.0 + 64};
  CHECK(dirichlet::log_prob(kPaperPrior, y) ==
        doctest::Approx(dirichlet::log_prob(kPaperPrior, shifted)).epsilon(1e-13));
}

TEST_CASE("log_sum_exp neither overflows nor underflows") {
  CHECK(dirichlet::log_sum_exp(Vector{1000.0, 1000.0}) ==
        doctest::Approx(1000.0 + std::log(2.0)).epsilon(1e-15));
  CHECK(dirichlet::log_sum_exp(Vector{-1e5, -1e5 - 800}) == -1e5);
  const double infinity = std::numeric_limits<double>::infinity();
  CHECK(dirichlet::log_sum_exp(Vector{-infinity, -infinity}) == -infinity);
}

TEST_CASE("samples lie on the simplex with the Dirichlet's mean, and the implicit gradient is unbiased") {
  // E[c . alpha] = sum c_i b_i / s has the gradient (c_i - c . m) / s: the mean of the sampled gradients must
  // agree within 4.5 standard errors (a false alarm of 7e-6 per check, at a fixed seed).
  constexpr int n = 40000;
  for (const Vector& b : {kPaperPrior, Vector{0.3, 1.2, 2.5, 20.0}}) {
    const std::size_t k = b.size();
    const Vector c = {1.0, -0.7, 0.4, 2.0};
    const Vector g(c.begin(), c.begin() + static_cast<std::ptrdiff_t>(k));
    Vector y(k), alpha(k), db(k), mean_alpha(k), mean_db(k), squared_db(k);
    double worst_total = 0;
    for (int i = 0; i < n; ++i) {
      PhiloxStream stream(random_key(7, 0, Purpose::test, 1), static_cast<std::uint32_t>(i));
      dirichlet::sample(b, stream, y, alpha);
      dirichlet::sample_vjp(b, y, alpha, g, db);
      worst_total = std::max(worst_total, std::fabs(sum(alpha) - 1));
      for (std::size_t j = 0; j < k; ++j) {
        mean_alpha[j] += alpha[j] / n;
        mean_db[j] += db[j] / n;
        squared_db[j] += db[j] * db[j] / n;
      }
    }
    CHECK(worst_total < 1e-14);
    const double s = sum(b);
    double g_mean = 0, largest = 0;
    for (std::size_t j = 0; j < k; ++j) g_mean += g[j] * b[j] / s;
    for (std::size_t j = 0; j < k; ++j) largest = std::max(largest, std::fabs(g[j] - g_mean) / s);
    for (std::size_t j = 0; j < k; ++j) {
      CAPTURE(j);
      const double m = b[j] / s;
      CHECK(std::fabs(mean_alpha[j] - m) < 4.5 * std::sqrt(m * (1 - m) / (s + 1) / n));
      const double standard_error = std::sqrt((squared_db[j] - mean_db[j] * mean_db[j]) / n);
      CHECK(std::fabs(mean_db[j] - (g[j] - g_mean) / s) < 4.5 * standard_error);
      CHECK(standard_error < 0.05 * largest);  // so that the check above has power
    }
  }
}

TEST_CASE(
    "averaged over the total, the Gamma derivative gives the implicit derivative of the Beta distribution") {
  // alpha ~ Beta(b, 1) has the CDF alpha^b, hence d alpha / db = -alpha log(alpha) / b. Through the Gamma
  // draws it is alpha (1 - alpha) E[D(b, log alpha + log S)], S ~ Gamma(b + 1); integrated over u = log S.
  for (const double b : {0.2, 1.0, 3.5}) {
    for (const double alpha : {1e-6, 0.1, 0.6, 0.97}) {
      CAPTURE(b);
      CAPTURE(alpha);
      const double s = b + 1, step = 1.0 / 64;
      double expectation = 0;
      for (double u = -40; u < 5; u += step) {
        const double density = std::exp(s * u - std::exp(u) - special::lgamma(s));
        expectation += step * density * special::log_gamma_draw_derivative(b, std::log(alpha) + u);
      }
      CHECK(alpha * (1 - alpha) * expectation ==
            doctest::Approx(-alpha * std::log(alpha) / b).epsilon(1e-10));
    }
  }
}

TEST_CASE("the sample's gradient is zero for constant g and finite where alpha underflows") {
  const Vector b = {0.01, 0.86, 0.71}, y = {-3000.0, -0.2, -1.1};
  const double log_total = dirichlet::log_sum_exp(y);
  Vector alpha(3), db(3);
  for (int i = 0; i < 3; ++i) alpha[i] = std::exp(y[i] - log_total);
  dirichlet::sample_vjp(b, y, alpha, Vector{2.0, 2.0, 2.0}, db);
  for (const double db_i : db) CHECK(std::fabs(db_i) < 1e-14);
  dirichlet::sample_vjp(b, y, alpha, Vector{1.0, 2.0, 3.0}, db);
  CHECK(db[0] == 0.0);
  CHECK(db[1] < 0.0);
  CHECK(db[2] > 0.0);
}

TEST_CASE("invalid concentrations give NaN, wrong sizes throw") {
  CHECK(std::isnan(dirichlet::kl(Vector{1.0, 0.0}, Vector{1.0, 1.0})));
  CHECK(std::isnan(dirichlet::entropy(Vector{-1.0, 2.0})));
  const Vector two = {1, 1}, three = {1, 1, 1}, none;
  Vector out(2), wrong(3);
  PhiloxStream stream(random_key(1, 0, Purpose::test), 0);
  CHECK_THROWS_AS(dirichlet::log_beta(none), ValueError);
  CHECK_THROWS_AS(dirichlet::entropy(none), ValueError);
  CHECK_THROWS_AS(dirichlet::expected_categorical_entropy(none), ValueError);
  CHECK_THROWS_AS(dirichlet::mutual_information(none), ValueError);
  CHECK_THROWS_AS(dirichlet::kl(two, three), ValueError);
  CHECK_THROWS_AS(dirichlet::kl_gradient(two, two, wrong), ValueError);
  CHECK_THROWS_AS(dirichlet::entropy_gradient(two, wrong), ValueError);
  CHECK_THROWS_AS(dirichlet::sample(two, stream, out, wrong), ValueError);
  CHECK_THROWS_AS(dirichlet::sample_vjp(two, two, two, three, out), ValueError);
  CHECK_THROWS_WITH_AS(dirichlet::log_prob(two, three), "[dirichlet log_prob] size of y: expected 2, got 3",
                       ValueError);
}

TEST_CASE("the Dirichlet of greatest likelihood: a reference solution, its optimum, and a known answer") {
  const std::vector<Vector> posteriors = {{0.3, 2.5, 1.1}, {4, 0.2, 0.6}, {0.05, 6, 1.5}, {1.2, 0.9, 3}};
  Vector mean_log(3);
  for (const Vector& b : posteriors) {
    for (std::size_t k = 0; k < 3; ++k) mean_log[k] += (digamma(b[k]) - digamma(sum(b))) / 4;
  }
  const auto mean_kl = [&](const Vector& p) {
    double total = 0;
    for (const Vector& b : posteriors) total += dirichlet::kl(b, p) / 4;
    return total;
  };
  // The stationary point of the mean KL, by a root finder at 40 digits with mpmath.
  const Vector expected = {0.12752672102840456155, 0.31059779911749168557, 0.37927784601642828821};
  for (const Vector& start : {kPaperPrior, Vector{50, 0.001, 7}}) {
    Vector p = start;
    dirichlet::maximum_likelihood(mean_log, p);
    for (std::size_t k = 0; k < 3; ++k) CHECK(p[k] == doctest::Approx(expected[k]).epsilon(1e-12));
    CHECK(mean_kl(p) == doctest::Approx(1.672489741856704537).epsilon(1e-12));
    for (std::size_t k = 0; k < 3; ++k) {
      for (const double factor : {0.99, 1.01}) {
        Vector beside = p;
        beside[k] *= factor;
        CHECK(mean_kl(beside) > mean_kl(p));
      }
    }
  }
  CHECK(mean_kl(kPaperPrior) == doctest::Approx(4.0422148967929855789).epsilon(1e-12));

  // All posteriors equal: the answer is that posterior, also where the fixed point is slow (s = 300).
  for (const Vector& b : {Vector{0.01, 0.86, 0.71}, Vector{100, 150, 50}}) {
    Vector p(3, 1.0);
    for (std::size_t k = 0; k < 3; ++k) mean_log[k] = digamma(b[k]) - digamma(sum(b));
    dirichlet::maximum_likelihood(mean_log, p);
    for (std::size_t k = 0; k < 3; ++k) CHECK(p[k] == doctest::Approx(b[k]).epsilon(1e-9));
  }

  Vector b(3, 1.0), wrong(2, 1.0);
  CHECK_THROWS_AS(dirichlet::maximum_likelihood(mean_log, wrong), ValueError);
  CHECK_THROWS_AS(dirichlet::maximum_likelihood(Vector{}, wrong), ValueError);
  // No distribution on the simplex has these mean logarithms: their exponentials add up to 1.2.
  CHECK_THROWS_AS(dirichlet::maximum_likelihood(Vector(3, std::log(0.4)), b), ValueError);
  CHECK_THROWS_AS(dirichlet::maximum_likelihood(Vector(3, std::nan("")), b), ValueError);
}

TEST_CASE("mean logarithms of the weights of many posteriors") {
  const Vector b = {0.3, 2.5, 1.1, 4, 0.2, 0.6, 0.05, 6, 1.5, 1.2, 0.9, 3};
  const Vector expected = {-7.300834816357030328, -2.4511850903074815392, -1.7937869172487384198};
  const Context context;
  Vector mean(3);
  dirichlet::mean_log_rows(context.kernels<float>().gamma, b, mean);
  for (std::size_t k = 0; k < 3; ++k) CHECK(mean[k] == doctest::Approx(expected[k]).epsilon(1e-13));
}
