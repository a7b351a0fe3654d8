// Every kernel of every instruction set of this machine, against plain double loops.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "dirigo/core/context.hpp"
#include "dirigo/core/kernels.hpp"
#include "dirigo/core/philox.hpp"

using namespace dirigo;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();
constexpr float quiet_nan = std::numeric_limits<float>::quiet_NaN();

// Calls body(table) for each float table and the double one.
template <class Body>
void for_each_table(const Body& body) {
  for (const Isa isa : available_isas()) {
    CAPTURE(std::string(isa_name(isa)));
    const Context context({.threads = 1, .isa = isa});
    body(context.kernels<float>());
    if (isa == Isa::portable) body(context.kernels<double>());
  }
}

template <class T>
std::vector<T> random_values(std::size_t n, double low, double high, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<double> uniform(low, high);
  std::vector<T> values(n);
  for (T& value : values) value = T(uniform(generator));
  return values;
}

template <class T>
T epsilon() {
  return std::numeric_limits<T>::epsilon();
}

// Units in the last place between a result and the exact value; values below the smallest normal count as 0.
template <class T>
double ulps(T got, double exact) {
  if (std::isnan(exact) || std::isnan(got)) return std::isnan(exact) && std::isnan(got) ? 0 : inf;
  const double smallest = double(std::numeric_limits<T>::min());
  if (std::isinf(T(exact)) || std::isinf(got)) return double(got) == double(T(exact)) ? 0 : inf;
  if (std::abs(exact) < smallest && std::abs(double(got)) <= smallest) return 0;
  const double unit = std::ldexp(double(epsilon<T>()), std::max(std::ilogb(exact), -1022 + 53));
  return std::abs(double(got) - exact) / unit;
}

template <class T>
using Unary = void (*)(std::int64_t, const T*, T*) noexcept;
template <class T>
using Binary = void (*)(std::int64_t, const T*, const T*, T*) noexcept;

// An element's bits depend neither on its position nor on n, nothing past n is written, and y may alias x.
template <class T>
void check_positions(Unary<T> kernel, double low, double high) {
  const std::vector<T> x = random_values<T>(96, low, high, 7);
  std::vector<T> alone(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) kernel(1, &x[i], &alone[i]);
  bool same = true, guarded = true;
  for (std::size_t offset = 0; offset < 17; ++offset) {
    for (std::size_t n = 0; n <= 67; ++n) {
      std::vector<T> y(x.size(), T(-77)), aliased = x;
      kernel(std::int64_t(n), &x[offset], &y[offset]);
      kernel(std::int64_t(n), &aliased[offset], &aliased[offset]);
      for (std::size_t i = 0; i < x.size(); ++i) {
        const bool inside = i >= offset && i < offset + n;
        if (inside) same = same && y[i] == alone[i] && aliased[i] == alone[i];
        if (!inside) guarded = guarded && y[i] == T(-77) && aliased[i] == x[i];
      }
    }
  }
  CHECK(same);
  CHECK(guarded);
}

template <class T>
void check_positions(Binary<T> kernel) {
  const std::vector<T> a = random_values<T>(96, -4, 4, 8), b = random_values<T>(96, -4, 4, 9);
  std::vector<T> alone(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) kernel(1, &a[i], &b[i], &alone[i]);
  bool same = true;
  for (std::size_t offset = 0; offset < 17; ++offset) {
    for (std::size_t n = 0; n <= 67; ++n) {
      std::vector<T> y = a;
      kernel(std::int64_t(n), &y[offset], &b[offset], &y[offset]);
      for (std::size_t i = 0; i < a.size(); ++i) {
        same = same && y[i] == (i >= offset && i < offset + n ? alone[i] : a[i]);
      }
    }
  }
  CHECK(same);
}

template <class T, class F>
double worst_ulps(Unary<T> kernel, const F& exact, double low, double high) {
  const std::vector<T> x = random_values<T>(20000, low, high, 3);
  std::vector<T> y(x.size());
  kernel(std::int64_t(x.size()), x.data(), y.data());
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) worst = std::max(worst, ulps(y[i], exact(double(x[i]))));
  return worst;
}

// The factor by which a vector-Jacobian product multiplies 1.
template <class T>
T slope(Binary<T> vjp, T x) {
  const T one = 1;
  T y = 0;
  vjp(1, &x, &one, &y);
  return y;
}

template <class T>
T value(Unary<T> kernel, T x) {
  T y = 0;
  kernel(1, &x, &y);
  return y;
}

double phi(double x) {
  return 0.5 * std::erfc(-x / std::sqrt(2.0));
}
double density(double x) {
  return std::exp(-0.5 * x * x) / std::sqrt(2 * 3.14159265358979323846);
}

}  // namespace

TEST_CASE("elementwise kernels: position, remainder and aliasing") {
  for_each_table([]<class T>(const KernelTable<T>& kernels) {
    check_positions<T>(kernels.exp, -20, 20);
    check_positions<T>(kernels.gelu, -5, 5);
    check_positions<T>(kernels.softplus, -20, 20);
    check_positions<T>(kernels.elu1, -5, 5);
    check_positions<T>(kernels.add);
    check_positions<T>(kernels.multiply);
    check_positions<T>(kernels.gelu_vjp);
    check_positions<T>(kernels.softplus_vjp);
    check_positions<T>(kernels.elu1_vjp);
  });
}

TEST_CASE("linear elementwise kernels") {
  for_each_table([]<class T>(const KernelTable<T>& kernels) {
    const std::vector<T> a = random_values<T>(67, -4, 4, 1), b = random_values<T>(67, -4, 4, 2);
    std::vector<T> y(67);
    kernels.add(67, a.data(), b.data(), y.data());
    for (std::size_t i = 0; i < 67; ++i) REQUIRE(y[i] == a[i] + b[i]);
    kernels.multiply(67, a.data(), b.data(), y.data());
    for (std::size_t i = 0; i < 67; ++i) REQUIRE(y[i] == a[i] * b[i]);
    kernels.scale(67, T(0.3), a.data(), y.data());
    for (std::size_t i = 0; i < 67; ++i) REQUIRE(y[i] == T(0.3) * a[i]);
    y = b;
    kernels.add_scaled(67, T(0.3), a.data(), y.data());
    for (std::size_t i = 0; i < 67; ++i) {
      REQUIRE(std::abs(y[i] - (b[i] + T(0.3) * a[i])) <= 4 * epsilon<T>());
    }
  });
}

TEST_CASE("elementwise kernels: accuracy over the whole range") {
  for_each_table([]<class T>(const KernelTable<T>& kernels) {
    const auto exponential = [](double x) { return std::exp(x); };
    const auto softplus = [](double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); };
    const auto elu1 = [](double x) { return x > 0 ? x + 1 : std::exp(x); };
    const double edge = std::log(double(std::numeric_limits<T>::max()));
    CHECK(worst_ulps<T>(kernels.exp, exponential, -1, 1) <= 2);
    CHECK(worst_ulps<T>(kernels.exp, exponential, -0.98 * edge, edge) <= 2);
    CHECK(worst_ulps<T>(kernels.exp, exponential, 0.99 * edge, 1.01 * edge) <= 2);
    CHECK(worst_ulps<T>(kernels.softplus, softplus, -80, 80) <= 2);
    CHECK(worst_ulps<T>(kernels.softplus, softplus, -3, 3) <= 2);
    CHECK(worst_ulps<T>(kernels.elu1, elu1, -80, 80) <= 2);
    CHECK(worst_ulps<T>(kernels.elu1, elu1, -2, 2) <= 2);

    // GELU and its derivative: 4 ulp, or 2e-7 (float) absolute where Phi or the sum cancels.
    const double absolute = std::is_same_v<T, float> ? 2e-7 : 1e-15;
    double worst_value = 0, worst_slope = 0;
    for (double u = -12; u < 12; u += 0.001) {
      const double x = double(T(u));
      const double y = double(value<T>(kernels.gelu, T(u))), s = double(slope<T>(kernels.gelu_vjp, T(u)));
      const double exact = x * phi(x), exact_slope = phi(x) + x * density(x);
      if (ulps(T(y), exact) > 4) worst_value = std::max(worst_value, std::abs(y - exact));
      if (ulps(T(s), exact_slope) > 4) worst_slope = std::max(worst_slope, std::abs(s - exact_slope));
    }
    CHECK(worst_value <= absolute);
    CHECK(worst_slope <= absolute);
    for (double u = -40; u < 40; u += 0.01) {
      const double x = double(T(u));
      REQUIRE(std::abs(double(slope<T>(kernels.softplus_vjp, T(u))) - 1 / (1 + std::exp(-x))) <=
              2 * double(epsilon<T>()));
      REQUIRE(ulps(slope<T>(kernels.elu1_vjp, T(u)), x > 0 ? 1.0 : std::exp(x)) <= 2);
    }
  });
}

TEST_CASE("elementwise kernels: special values") {
  for_each_table([]<class T>(const KernelTable<T>& kernels) {
    const T huge = std::numeric_limits<T>::max(), tiny = std::numeric_limits<T>::denorm_min();
    for (const Unary<T> kernel : {kernels.exp, kernels.gelu, kernels.softplus, kernels.elu1}) {
      CHECK(std::isnan(value<T>(kernel, T(quiet_nan))));
      CHECK(std::isnan(value<T>(kernel, -T(quiet_nan))));
      CHECK(value<T>(kernel, T(inf)) == T(inf));
      CHECK(value<T>(kernel, -T(inf)) == T(0));
      CHECK(value<T>(kernel, -huge) == T(0));
    }
    CHECK(value<T>(kernels.exp, huge) == T(inf));
    for (const Unary<T> kernel : {kernels.gelu, kernels.softplus, kernels.elu1}) {
      CHECK(value<T>(kernel, huge) == huge);
    }
    for (const T zero : {T(0), T(-0.0), tiny, -tiny}) {
      CHECK(value<T>(kernels.exp, zero) == T(1));
      CHECK(value<T>(kernels.elu1, zero) == T(1));
      CHECK(std::abs(value<T>(kernels.gelu, zero)) <= tiny);
      CHECK(slope<T>(kernels.gelu_vjp, zero) == doctest::Approx(0.5).epsilon(1e-7));
    }
    for (const Binary<T> vjp : {kernels.gelu_vjp, kernels.softplus_vjp, kernels.elu1_vjp}) {
      CHECK(std::isnan(slope<T>(vjp, T(quiet_nan))));
      for (const T large : {T(1e6), huge, T(inf)}) {
        CHECK(slope<T>(vjp, large) == T(1));
        CHECK(slope<T>(vjp, -large) == T(0));
      }
    }
    const T one = 1, not_a_number = T(quiet_nan);
    T y = 0;
    kernels.add(1, &one, &not_a_number, &y);
    CHECK(std::isnan(y));
  });
}

TEST_CASE("sums in double: accurate, and the same bits on every instruction set") {
  for (const std::size_t n : {0, 1, 3, 31, 32, 33, 67, 1000}) {
    const std::vector<float> a = random_values<float>(n, -1, 1, 5), b = random_values<float>(n, -1, 1, 6);
    long double total = 0, squares = 0, products = 0;
    for (std::size_t i = 0; i < n; ++i) {
      total += a[i];
      squares += (long double)(a[i]) * a[i];
      products += (long double)(a[i]) * b[i];
    }
    const Context portable({.threads = 1, .isa = Isa::portable});
    const auto& first = portable.kernels<float>();
    for_each_table([&]<class T>(const KernelTable<T>& kernels) {
      const std::vector<T> u(a.begin(), a.end()), v(b.begin(), b.end());
      const std::int64_t count = std::int64_t(n);
      CHECK(kernels.sum(count, u.data()) == first.sum(count, a.data()));
      CHECK(kernels.dot(count, u.data(), v.data()) == first.dot(count, a.data(), b.data()));
      CHECK(kernels.sum_squares(count, u.data()) == first.sum_squares(count, a.data()));
      CHECK(std::abs(kernels.sum(count, u.data()) - double(total)) <= 1e-12);
      CHECK(std::abs(kernels.sum_squares(count, u.data()) - double(squares)) <= 1e-12);
      CHECK(std::abs(kernels.dot(count, u.data(), v.data()) - double(products)) <= 1e-12);
    });
  }
}

TEST_CASE("dropout keeps the elements that Philox says") {
  constexpr std::uint64_t seed = 0x123456789ABCDEF0;
  constexpr std::uint32_t first_block = 0xFFFFFFF0, step = 17, purpose = 0x01000005;
  for_each_table([&]<class T>(const KernelTable<T>& kernels) {
    for (const std::size_t n : {0, 1, 5, 63, 64, 65, 200}) {
      for (const double p : {0.0, 0.1, 0.5, 0.999}) {
        const std::vector<T> x = random_values<T>(n, 1, 2, 4);
        std::vector<T> y(n + 1, T(-77));
        kernels.dropout(std::int64_t(n), first_block, seed, step, purpose, T(p), x.data(), y.data());
        for (std::size_t i = 0; i < n; ++i) {
          const PhiloxCounter block = philox4x32({first_block + std::uint32_t(i / 4), 0, step, purpose},
                                                 {std::uint32_t(seed), std::uint32_t(seed >> 32)});
          const bool keep = double(block[i % 4]) >= double(T(p)) * 4294967296.0;
          REQUIRE(y[i] == (keep ? x[i] * (T(1) / (T(1) - T(p))) : T(0)));
        }
        REQUIRE(y[n] == T(-77));
      }
    }
    const T x[2] = {T(quiet_nan), T(quiet_nan)};
    T y[2] = {};
    kernels.dropout(2, 0, seed, step, purpose, T(0.5), x, y);
    CHECK(std::isnan(y[0]));
    CHECK(std::isnan(y[1]));
  });
}

TEST_CASE("softmax and its vector-Jacobian product") {
  for_each_table([]<class T>(const KernelTable<T>& kernels) {
    for (std::size_t cols = 1; cols <= 67; ++cols) {
      const std::vector<T> x = random_values<T>(3 * cols, -9, 9, 1),
                           dy = random_values<T>(3 * cols, -1, 1, 2);
      std::vector<T> y = x, dx(3 * cols);
      kernels.softmax(3, std::int64_t(cols), y.data(), y.data());
      kernels.softmax_vjp(3, std::int64_t(cols), y.data(), dy.data(), dx.data());
      for (std::size_t r = 0; r < 3; ++r) {
        double total = 0, mean = 0;
        for (std::size_t j = 0; j < cols; ++j) total += std::exp(double(x[r * cols + j]));
        for (std::size_t j = 0; j < cols; ++j) {
          mean += std::exp(double(x[r * cols + j])) / total * double(dy[r * cols + j]);
        }
        for (std::size_t j = 0; j < cols; ++j) {
          const double exact = std::exp(double(x[r * cols + j])) / total;
          REQUIRE(std::abs(double(y[r * cols + j]) - exact) <= 16 * double(epsilon<T>()) * exact);
          REQUIRE(std::abs(double(dx[r * cols + j]) - exact * (double(dy[r * cols + j]) - mean)) <=
                  16 * double(epsilon<T>()) * exact);
        }
      }
    }
    // Masked entries, nothing but masked entries, and NaN.
    T rows[] = {1, -T(inf), 1, -T(inf), -T(inf), -T(inf), 0, T(quiet_nan), 0, T(1e30), 0, T(1e30)};
    kernels.softmax(4, 3, rows, rows);
    CHECK(rows[0] == T(0.5));
    CHECK(rows[1] == T(0));
    for (int i = 3; i < 9; ++i) CHECK(std::isnan(rows[i]));
    CHECK(rows[9] == T(0.5));
  });
}

TEST_CASE("cross-entropy") {
  for_each_table([]<class T>(const KernelTable<T>& kernels) {
    for (std::size_t cols = 1; cols <= 67; ++cols) {
      const std::vector<T> logits = random_values<T>(2 * cols, -30, 30, 1);
      const std::int32_t targets[2] = {0, std::int32_t(cols) - 1};
      std::vector<T> gradient = logits;
      T losses[2], alone[2];
      kernels.cross_entropy(2, std::int64_t(cols), logits.data(), targets, alone, nullptr);
      kernels.cross_entropy(2, std::int64_t(cols), gradient.data(), targets, losses, gradient.data());
      for (std::size_t r = 0; r < 2; ++r) {
        const std::size_t target = std::size_t(targets[r]);
        double total = 0;
        for (std::size_t j = 0; j < cols; ++j) total += std::exp(double(logits[r * cols + j]));
        const double exact = std::log(total) - double(logits[r * cols + target]);
        REQUIRE(losses[r] == alone[r]);
        REQUIRE(std::abs(double(losses[r]) - exact) <= 8 * double(epsilon<T>()) * std::max(1.0, exact));
        for (std::size_t j = 0; j < cols; ++j) {
          const double slope_ = std::exp(double(logits[r * cols + j])) / total - (j == target ? 1 : 0);
          REQUIRE(std::abs(double(gradient[r * cols + j]) - slope_) <= 16 * double(epsilon<T>()));
        }
      }
    }
    // an ignored target: no loss and no gradient, and the other rows as without it
    const std::vector<T> logits = random_values<T>(3 * 5, -3, 3, 2);
    const std::int32_t some[] = {4, -1, 2}, all[] = {4, 1, 2};
    T some_losses[3], all_losses[3], some_gradient[15], all_gradient[15];
    kernels.cross_entropy(3, 5, logits.data(), some, some_losses, some_gradient);
    kernels.cross_entropy(3, 5, logits.data(), all, all_losses, all_gradient);
    for (int r = 0; r < 3; ++r) {
      CHECK(some_losses[r] == (r == 1 ? T(0) : all_losses[r]));
      for (int j = 0; j < 5; ++j)
        CHECK(some_gradient[5 * r + j] == (r == 1 ? T(0) : all_gradient[5 * r + j]));
    }
    const T rows[] = {0, -T(inf), 0, -T(inf), 0, T(quiet_nan)};
    const std::int32_t targets[] = {1, 0, 0};
    T losses[3], gradient[6];
    kernels.cross_entropy(3, 2, rows, targets, losses, gradient);
    CHECK(losses[0] == T(inf));
    CHECK(losses[1] == T(0));
    CHECK(std::isnan(losses[2]));
    CHECK(gradient[0] == T(1));
    CHECK(gradient[1] == T(-1));
  });
}

TEST_CASE("layer norm and its vector-Jacobian product") {
  for_each_table([]<class T>(const KernelTable<T>& kernels) {
    constexpr std::size_t rows = 3;
    constexpr double eps = 1e-5;
    for (std::size_t cols = 2; cols <= 67; ++cols) {
      const std::size_t n = rows * cols;
      // A large mean: the variance must not be computed as E[x^2] - E[x]^2.
      const std::vector<T> x = random_values<T>(n, 99, 101, 1), dy = random_values<T>(n, -1, 1, 2);
      const std::vector<T> gamma = random_values<T>(cols, 0.5, 2, 3), beta = random_values<T>(cols, -1, 1, 4);
      std::vector<T> y(n), mean(rows), rstd(rows), dx(n), dgamma(cols, T(1)), dbeta(cols, T(2)), dx_alone(n);
      const std::int64_t c = std::int64_t(cols);
      kernels.layer_norm(rows, c, T(eps), x.data(), gamma.data(), beta.data(), y.data(), mean.data(),
                         rstd.data());
      kernels.layer_norm_vjp(rows, c, x.data(), gamma.data(), mean.data(), rstd.data(), dy.data(), dx.data(),
                             dgamma.data(), dbeta.data());
      kernels.layer_norm_vjp(rows, c, x.data(), gamma.data(), mean.data(), rstd.data(), dy.data(),
                             dx_alone.data(), nullptr, nullptr);
      REQUIRE(dx == dx_alone);
      std::vector<double> sum_gamma(cols, 1), sum_beta(cols, 2);
      // Rounding x - mean at |x| = 100 costs 100 epsilon / deviation.
      const double tolerance = 1000 * double(epsilon<T>());
      for (std::size_t r = 0; r < rows; ++r) {
        const T* const u = &x[r * cols];
        double m = 0, variance = 0, g_mean = 0, gx_mean = 0;
        for (std::size_t j = 0; j < cols; ++j) m += double(u[j]) / double(cols);
        for (std::size_t j = 0; j < cols; ++j)
          variance += (double(u[j]) - m) * (double(u[j]) - m) / double(cols);
        const double s = 1 / std::sqrt(variance + eps);
        for (std::size_t j = 0; j < cols; ++j) {
          const double normal = (double(u[j]) - m) * s, g = double(dy[r * cols + j]) * double(gamma[j]);
          g_mean += g / double(cols);
          gx_mean += g * normal / double(cols);
          sum_gamma[j] += double(dy[r * cols + j]) * normal;
          sum_beta[j] += double(dy[r * cols + j]);
        }
        const double bound = tolerance * std::max(1.0, s);
        for (std::size_t j = 0; j < cols; ++j) {
          const double normal = (double(u[j]) - m) * s, g = double(dy[r * cols + j]) * double(gamma[j]);
          REQUIRE(std::abs(double(y[r * cols + j]) - (normal * double(gamma[j]) + double(beta[j]))) <= bound);
          REQUIRE(std::abs(double(dx[r * cols + j]) - s * (g - g_mean - normal * gx_mean)) <= bound * s);
        }
        for (std::size_t j = 0; j < cols && r + 1 == rows; ++j) {
          REQUIRE(std::abs(double(dgamma[j]) - sum_gamma[j]) <= 40 * bound);
          REQUIRE(std::abs(double(dbeta[j]) - sum_beta[j]) <= 8 * double(epsilon<T>()));
        }
      }
    }
  });
}

TEST_CASE("column sums") {
  for_each_table([]<class T>(const KernelTable<T>& kernels) {
    for (std::size_t cols = 1; cols <= 131; ++cols) {
      const std::size_t rows = 5, stride = cols + 3;
      const std::vector<T> x = random_values<T>(rows * stride, -1, 1, 1);
      std::vector<T> y(cols + 1, T(3));
      kernels.add_column_sums(rows, std::int64_t(cols), x.data(), std::int64_t(stride), y.data());
      for (std::size_t j = 0; j < cols; ++j) {
        T total = 0;
        for (std::size_t r = 0; r < rows; ++r) total += x[r * stride + j];
        REQUIRE(y[j] == T(3) + total);
      }
      REQUIRE(y[cols] == T(3));
    }
  });
}

TEST_CASE("mixtures of experts") {
  for_each_table([]<class T>(const KernelTable<T>& kernels) {
    constexpr std::size_t rows = 3, experts = 4;
    for (std::size_t cols = 1; cols <= 67; ++cols) {
      const std::size_t n = rows * cols;
      const std::vector<T> w = random_values<T>(rows * experts, 0, 1, 1), dy = random_values<T>(n, -1, 1, 2);
      const std::vector<T> x0 = random_values<T>(n, -1, 1, 3), x2 = random_values<T>(n, -1, 1, 4);
      const T* const x[experts] = {x0.data(), nullptr, x2.data(), nullptr};
      std::vector<T> y(n), dx0(n), dx1(n), dw(rows * experts);
      T* const dx[experts] = {dx0.data(), dx1.data(), nullptr, nullptr};
      const std::int64_t c = std::int64_t(cols);
      kernels.mix(rows, c, experts, w.data(), x, y.data());
      kernels.mix_vjp(rows, c, experts, w.data(), x, dy.data(), dx, dw.data());
      for (std::size_t t = 0; t < rows; ++t) {
        double dot0 = 0, dot2 = 0;
        for (std::size_t i = t * cols; i < (t + 1) * cols; ++i) {
          const T* const weight = &w[t * experts];
          REQUIRE(std::abs(y[i] - (weight[0] * x0[i] + weight[2] * x2[i])) <= 4 * epsilon<T>());
          REQUIRE(dx0[i] == weight[0] * dy[i]);
          REQUIRE(dx1[i] == weight[1] * dy[i]);
          dot0 += double(dy[i]) * double(x0[i]);
          dot2 += double(dy[i]) * double(x2[i]);
        }
        REQUIRE(std::abs(double(dw[t * experts]) - dot0) <= 64 * double(epsilon<T>()));
        REQUIRE(std::abs(double(dw[t * experts + 2]) - dot2) <= 64 * double(epsilon<T>()));
        REQUIRE(dw[t * experts + 1] == T(0));
      }
      std::vector<T> dw_alone(rows * experts);
      kernels.mix_vjp(rows, c, experts, w.data(), x, dy.data(), nullptr, dw_alone.data());
      REQUIRE(dw_alone == dw);
      kernels.mix_vjp(rows, c, experts, w.data(), x, dy.data(), dx, nullptr);
    }
    const T zero = 0, not_a_number = T(quiet_nan);
    const T* const x[1] = {&not_a_number};
    T y = 0;
    kernels.mix(1, 1, 1, &zero, x, &y);
    CHECK(std::isnan(y));  // an expert of zero weight still counts
  });
}

TEST_CASE("Adam with decoupled weight decay") {
  const AdamStep step{.lr = 0.01,
                      .beta1 = 0.9,
                      .beta2 = 0.99,
                      .eps = 1e-8,
                      .weight_decay = 0.1,
                      .correction1 = 1 - 0.9 * 0.9,
                      .correction2 = 1 - 0.99 * 0.99,
                      .gradient_scale = 0.5};
  for_each_table([&]<class T>(const KernelTable<T>& kernels) {
    for (std::size_t n = 0; n <= 67; ++n) {
      const std::vector<T> gradient = random_values<T>(n, -1, 1, 1), start = random_values<T>(n, -1, 1, 2);
      const std::vector<T> m0 = random_values<T>(n, -0.1, 0.1, 3), v0 = random_values<T>(n, 0, 0.1, 4);
      std::vector<T> parameter = start, m = m0, v = v0;
      kernels.adam(std::int64_t(n), step, gradient.data(), parameter.data(), m.data(), v.data());
      for (std::size_t i = 0; i < n; ++i) {
        const double g = 0.5 * double(gradient[i]);
        const double moment1 = 0.9 * double(m0[i]) + 0.1 * g, moment2 = 0.99 * double(v0[i]) + 0.01 * g * g;
        const double update =
            0.01 * (moment1 / step.correction1) / (std::sqrt(moment2 / step.correction2) + 1e-8);
        const double bound = 4 * double(epsilon<T>());
        REQUIRE(std::abs(double(m[i]) - moment1) <= bound);
        REQUIRE(std::abs(double(v[i]) - moment2) <= bound);
        REQUIRE(std::abs(double(parameter[i]) - (double(start[i]) * (1 - 0.001) - update)) <= bound);
      }
    }
  });
}
