// The Gamma kernels of every instruction set of this machine, against 25-digit values and the scalar
// functions.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "dirigo/core/context.hpp"
#include "dirigo/core/dirichlet_math.hpp"
#include "dirigo/core/errors.hpp"
#include "dirigo/core/gamma_sampling.hpp"
#include "dirigo/core/kernels.hpp"
#include "dirigo/core/special.hpp"

using namespace dirigo;
using Vector = std::vector<double>;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double ulp = std::numeric_limits<double>::epsilon();

template <class Body>
void for_each_isa(const Body& body) {
  for (const Isa isa : available_isas()) {
    CAPTURE(std::string(isa_name(isa)));
    const Context context({.threads = 1, .isa = isa});
    body(context.kernels<float>().gamma);
  }
  body(Context({.threads = 1}).kernels<double>().gamma);
}

const nlohmann::json& golden() {
  static const nlohmann::json values =
      nlohmann::json::parse(std::ifstream(DIRIGO_TEST_DIR "/golden/special.json"));
  return values;
}

double number(const nlohmann::json& value) {
  return std::stod(value.get<std::string>());
}

Vector column(const char* list, const char* name) {
  Vector values;
  for (const auto& row : golden()[list]) values.push_back(number(row[name]));
  return values;
}

Vector uniform(std::size_t n, double low, double high, unsigned seed) {
  std::mt19937_64 generator(seed);
  std::uniform_real_distribution<double> distribution(low, high);
  Vector values(n);
  for (double& value : values) value = distribution(generator);
  return values;
}

// Spread evenly over the logarithm.
Vector log_uniform(std::size_t n, double low, double high, unsigned seed) {
  Vector values = uniform(n, std::log(low), std::log(high), seed);
  for (double& value : values) value = std::exp(value);
  return values;
}

using Unary = void (*)(std::int64_t, const double*, double*) noexcept;

Vector apply(Unary kernel, const Vector& x) {
  Vector y(x.size());
  kernel(std::int64_t(x.size()), x.data(), y.data());
  return y;
}

Vector derivatives(const GammaKernels& kernels, const Vector& a, const Vector& y) {
  Vector d(a.size());
  kernels.log_gamma_draw_derivative(std::int64_t(a.size()), a.data(), y.data(), d.data());
  return d;
}

// The largest error relative to max(|expected|, floor).
double worst_error(const Vector& got, const Vector& expected, double floor = 0) {
  double worst = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double error = std::fabs(got[i] - expected[i]) / std::max(std::fabs(expected[i]), floor);
    if (got[i] != expected[i] && !(error <= worst)) worst = error;
  }
  return worst;
}

Vector scalar(double (*f)(double), const Vector& x) {
  Vector y(x.size());
  std::transform(x.begin(), x.end(), y.begin(), f);
  return y;
}

bool same_bits(double a, double b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

// Arguments on both sides of every seam of the lanes' formulas, the roots, and the ends of the domain.
Vector arguments() {
  Vector x = log_uniform(4000, 1e-3, 1e3, 1);
  for (const double seam : {0.5, 1.0, 1.25, 1.4616321449683622, 2.0, 2.5, 3.5, 9.5, 10.0})
    for (const double value : {std::nextafter(seam, 0.0), seam, std::nextafter(seam, 100.0)})
      x.push_back(value);
  for (const double value : {1e-150, 1e-20, 1e15, 1e300}) x.push_back(value);
  return x;
}

// Shapes a from 0.001 on, and y of draws of Gamma(a) in both tails and about the seam x = max(1, a) + 1 of
// the kernel.
void draw_arguments(double largest, Vector& a, Vector& y) {
  a = log_uniform(6000, 1e-3, largest, 5);
  y.clear();
  const Vector u = uniform(a.size(), -1, 1, 6);
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double seam = std::log(std::max(1.0, a[i]) + 1), wide = 4 / std::min(1.0, std::sqrt(a[i]));
    y.push_back(seam + (i % 4 == 0 ? 1e-9 * u[i] : i % 4 == 1 ? std::fabs(u[i]) * 2 : u[i] * wide));
  }
}

}  // namespace

TEST_CASE("lgamma, digamma and trigamma in lanes agree with 25-digit values and the scalar functions") {
  const Vector table = column("unary", "x"), x = arguments();
  for_each_isa([&](const GammaKernels& kernels) {
    CHECK(worst_error(apply(kernels.lgamma, table), column("unary", "lgamma")) <= 1e-12);
    CHECK(worst_error(apply(kernels.digamma, table), column("unary", "digamma")) <= 1e-12);
    CHECK(worst_error(apply(kernels.trigamma, table), column("unary", "trigamma")) <= 1e-12);
    CHECK(worst_error(apply(kernels.lgamma, x), scalar(special::lgamma, x)) <= 8 * ulp);
    CHECK(worst_error(apply(kernels.digamma, x), scalar(special::digamma, x), 1) <= 8 * ulp);
    CHECK(worst_error(apply(kernels.trigamma, x), scalar(special::trigamma, x)) <= 8 * ulp);
    CHECK(apply(kernels.lgamma, {1, 2}) == Vector{0, 0});
  });
}

TEST_CASE("the Gamma family in lanes at the ends of its domain and outside") {
  for_each_isa([](const GammaKernels& kernels) {
    CHECK(apply(kernels.lgamma, {infinity})[0] == infinity);
    CHECK(apply(kernels.digamma, {infinity})[0] == infinity);
    CHECK(apply(kernels.trigamma, {infinity, 1e-300}) == Vector{0, infinity});
    const Vector outside = {0, -0.5, -3, -infinity, std::nan("")};
    for (const Unary kernel : {kernels.lgamma, kernels.digamma, kernels.trigamma})
      for (const double value : apply(kernel, outside)) CHECK(std::isnan(value));
  });
}

TEST_CASE("the derivative of a log-Gamma draw in lanes agrees with 25-digit values and the scalar function") {
  const Vector a = column("gamma_draw_derivative", "a"), y = column("gamma_draw_derivative", "y");
  REQUIRE(a.size() >= 400);
  for_each_isa([&](const GammaKernels& kernels) {
    CHECK(worst_error(derivatives(kernels, a, y), column("gamma_draw_derivative", "D")) <= 1e-13);
  });
  for (const double largest : {1e2, 1e3}) {
    CAPTURE(largest);
    Vector shapes, draws, expected;
    draw_arguments(largest, shapes, draws);
    for (std::size_t i = 0; i < shapes.size(); ++i)
      expected.push_back(special::log_gamma_draw_derivative(shapes[i], draws[i]));
    for_each_isa([&](const GammaKernels& kernels) {
      // Near a = 1000 both keep 1e-13 but need not err alike.
      CHECK(worst_error(derivatives(kernels, shapes, draws), expected) <= (largest < 1e3 ? 1e-13 : 2e-13));
    });
  }
}

TEST_CASE("the derivative in lanes where the scalar function takes over, and outside the domain") {
  const double nan = std::nan("");
  // y = 1000 and 70: e^y above 1e30; the last six are outside the domain.
  const Vector a = {2, 2, 0.3, 1e6, 0, -1, 1.1e7, nan, 1, 1},
               y = {70, 1000, -1e4, 13.9, 0, 0, 0, 0, infinity, nan};
  for_each_isa([&](const GammaKernels& kernels) {
    const Vector d = derivatives(kernels, a, y);
    for (std::size_t i = 0; i < a.size(); ++i) {
      CAPTURE(i);
      const double expected = special::log_gamma_draw_derivative(a[i], y[i]);
      CHECK(std::isnan(d[i]) == std::isnan(expected));
      if (!std::isnan(expected)) CHECK(std::fabs(d[i] - expected) <= 1e-10 * expected);
    }
  });
}

TEST_CASE("an element's bits depend on it alone") {
  Vector a, y;
  draw_arguments(1e3, a, y);
  const Vector x = arguments();
  for_each_isa([&](const GammaKernels& kernels) {
    bool same = true;
    for (const Unary kernel : {kernels.exp, kernels.lgamma, kernels.digamma, kernels.trigamma}) {
      const Vector together = apply(kernel, x);
      for (std::size_t i = 0; i < x.size(); i += 3)
        same = same && same_bits(apply(kernel, {x[i]})[0], together[i]);
    }
    const Vector together = derivatives(kernels, a, y);
    for (std::size_t i = 0; i < a.size(); ++i)
      same = same && same_bits(derivatives(kernels, {a[i]}, {y[i]})[0], together[i]);
    // One place further on, so that everything has other neighbours and is in another chunk.
    Vector moved(a.size() - 1);
    kernels.log_gamma_draw_derivative(std::int64_t(moved.size()), a.data() + 1, y.data() + 1, moved.data());
    for (std::size_t i = 0; i < moved.size(); ++i) same = same && same_bits(moved[i], together[i + 1]);
    CHECK(same);
  });
}

TEST_CASE("rows drawn in lanes are those of the streams, but for rejected proposals") {
  constexpr std::size_t rows = 3001;
  RandomKey key = random_key(0x123456789abcdef, 7, Purpose::test, 3);
  key.first = 0xFFFFFFF0U;  // element numbers wrap around
  for (const std::size_t cols : {1U, 2U, 3U, 4U, 7U}) {
    CAPTURE(cols);
    const Vector b = log_uniform(rows * cols, 0.02, 30, unsigned(cols));
    Vector expected(b.size());
    for (std::size_t i = 0; i < rows; ++i) {
      PhiloxStream stream(key, std::uint32_t(i));
      for (std::size_t k = 0; k < cols; ++k) expected[i * cols + k] = log_gamma_draw(stream, b[i * cols + k]);
    }
    for_each_isa([&](const GammaKernels& kernels) {
      Vector y(b.size()), alone(cols);
      kernels.log_gamma_draws(std::int64_t(rows), std::int64_t(cols), key, b.data(), y.data());
      std::size_t left = 0;
      double worst = 0;
      bool same = true;
      for (std::size_t i = 0; i < rows; ++i) {
        kernels.log_gamma_draws(1, std::int64_t(cols), key.from(std::int64_t(i)), &b[i * cols], alone.data());
        same = same && std::isnan(alone[0]) == std::isnan(y[i * cols]);
        if (std::isnan(y[i * cols])) {
          ++left;
          continue;
        }
        for (std::size_t k = 0; k < cols; ++k) {
          const std::size_t at = i * cols + k;
          same = same && same_bits(alone[k], y[at]);
          worst = std::max(worst, std::fabs(y[at] - expected[at]) / std::max(1.0, std::fabs(expected[at])));
        }
      }
      CHECK(same);
      CHECK(worst <= 1e-14);
      // A proposal is rejected in at most 4.8% of cases, and in 1.2% at a = 2.
      CHECK(double(left) <= 0.04 * double(cols) * rows);
      CHECK(left >= rows / 200);
    });
  }
}

TEST_CASE("rows with a shape outside the kernel's range are left to the caller") {
  for_each_isa([](const GammaKernels& kernels) {
    for (const double bad : {0.0, -1.0, std::nan(""), infinity, 1e16}) {
      const Vector b = {bad, 1, 1, 1, bad, 1, 1, 1, bad};
      Vector y(b.size());
      kernels.log_gamma_draws(3, 3, random_key(1, 0, Purpose::test), b.data(), y.data());
      for (std::size_t row = 0; row < 3; ++row) CHECK(std::isnan(y[3 * row]));
    }
  });
}

TEST_CASE("Dirichlet rows: draws, divergences and gradients are those of the rows alone") {
  constexpr std::size_t rows = 500;
  const RandomKey key = random_key(5, 2, Purpose::test);
  for (const std::size_t k : {1U, 2U, 3U, 5U}) {
    CAPTURE(k);
    const Vector b = log_uniform(rows * k, 0.01, 20, 11), g = uniform(rows * k, -1, 1, 12),
                 p = uniform(k, 0.1, 2, 13);
    const double log_beta = dirichlet::log_beta(p);
    for_each_isa([&](const GammaKernels& kernels) {
      Vector y(b.size()), alpha(b.size()), db(b.size()), kl(rows), slope(b.size());
      dirichlet::sample_rows(kernels, k, b, key, y, alpha);
      dirichlet::sample_vjp_rows(kernels, k, b, y, alpha, g, db);
      dirichlet::kl_rows(kernels, b, p, log_beta, kl);
      dirichlet::kl_gradient_rows(kernels, b, p, slope);
      double draw_error = 0, kl_error = 0, slope_error = 0;
      for (std::size_t i = 0; i < rows; ++i) {
        const auto row = [&](const Vector& v) { return std::span<const double>(v).subspan(i * k, k); };
        PhiloxStream stream(key, std::uint32_t(i));
        Vector one_y(k), one_alpha(k), one_db(k), one_slope(k);
        dirichlet::sample(row(b), stream, one_y, one_alpha);
        dirichlet::sample_vjp(row(b), row(y), row(alpha), row(g), one_db);
        dirichlet::kl_gradient(row(b), p, one_slope);
        const double one_kl = dirichlet::kl(row(b), p, log_beta);
        const double s = dirichlet::log_beta(row(b));
        kl_error =
            std::max(kl_error, std::fabs(kl[i] - one_kl) / std::max({1.0, std::fabs(s), std::fabs(one_kl)}));
        for (std::size_t j = 0; j < k; ++j) {
          const std::size_t at = i * k + j;
          draw_error = std::max({draw_error, std::fabs(y[at] - one_y[j]) / std::max(1.0, std::fabs(one_y[j])),
                                 std::fabs(alpha[at] - one_alpha[j]) / std::max(1e-300, one_alpha[j]) /
                                     std::max(1.0, std::fabs(one_y[j])),
                                 std::fabs(db[at] - one_db[j]) / std::max(std::fabs(one_db[j]), 1e-3)});
          const double scale =
              std::fabs((b[at] - p[j]) * special::trigamma(b[at])) + std::fabs(one_slope[j]) + 1;
          slope_error = std::max(slope_error, std::fabs(slope[at] - one_slope[j]) / scale);
        }
      }
      CHECK(draw_error <= 1e-13);
      CHECK(kl_error <= 1e-13);
      CHECK(slope_error <= 1e-14);
    });
  }
}

TEST_CASE("Dirichlet rows: at the prior, the divergence's gradient is exactly zero") {
  const Vector p = {0.01, 0.86, 0.71}, b = {0.01, 0.86, 0.71, 0.01, 0.86, 0.71};
  for_each_isa([&](const GammaKernels& kernels) {
    Vector slope(6, 1.0), kl(2);
    dirichlet::kl_gradient_rows(kernels, b, p, slope);
    dirichlet::kl_rows(kernels, b, p, dirichlet::log_beta(p), kl);
    CHECK(slope == Vector(6, 0.0));
    CHECK(std::fabs(kl[0]) <= 1e-14);
    CHECK(kl[1] == kl[0]);
  });
}

TEST_CASE("Dirichlet rows of wrong sizes throw") {
  const GammaKernels& kernels = Context({.threads = 1}).kernels<double>().gamma;
  const Vector six(6, 1.0), five(5, 1.0), two(2, 1.0);
  Vector out(6), wrong(5);
  const RandomKey key = random_key(1, 0, Purpose::test);
  CHECK_THROWS_AS(dirichlet::kl_rows(kernels, six, two, 0.0, wrong), ValueError);
  CHECK_THROWS_AS(dirichlet::kl_gradient_rows(kernels, five, two, wrong), ValueError);
  CHECK_THROWS_AS(dirichlet::kl_gradient_rows(kernels, six, two, wrong), ValueError);
  CHECK_THROWS_AS(dirichlet::sample_rows(kernels, 2, five, key, wrong, wrong), ValueError);
  CHECK_THROWS_AS(dirichlet::sample_rows(kernels, 0, six, key, out, out), ValueError);
  CHECK_THROWS_AS(dirichlet::sample_rows(kernels, 2, six, key, out, wrong), ValueError);
  CHECK_THROWS_AS(dirichlet::sample_vjp_rows(kernels, 2, six, six, six, five, out), ValueError);
  CHECK_THROWS_WITH_AS(dirichlet::sample_vjp_rows(kernels, 4, six, six, six, six, out),
                       "[dirichlet sample_vjp_rows] size of b: expected rows of 4, got 6", ValueError);
}
