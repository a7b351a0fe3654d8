// The Gamma family, the implicit derivative of a log-space Gamma draw, and the draw itself, in lanes of
// doubles. Formulas and sources as in special.cpp and gamma_sampling.cpp.
//
// Each function acts on every lane alone, and a loop leaves the lanes that have converged as they are: an
// element's bits depend neither on its position in an array nor on its neighbours.
#pragma once

#include "dirigo/core/philox.hpp"
#include "dirigo/core/special.hpp"
#include "gamma_series.hpp"
#include "kernels/math.inl.hpp"
#include "kernels/philox.inl.hpp"

namespace dirigo::kernels {

using gamma_series::Series;

template <class Arch>
using Doubles = Batch<Arch, double>;

inline constexpr double not_a_number = __builtin_nan("");

// Sum of c[k] z^k in pairs (Estrin's scheme).
template <class Arch, int N>
DIRIGO_INLINE Doubles<Arch> pairwise(const Doubles<Arch> (&c)[N], const Doubles<Arch>& z) {
  if constexpr (N == 1) {
    return c[0];
  } else {
    Doubles<Arch> pairs[(N + 1) / 2];
#pragma GCC unroll 32
    for (int i = 0; i < N / 2; ++i) pairs[i] = multiply_add(z, c[2 * i + 1], c[2 * i]);
    if constexpr (N % 2 == 1) pairs[N / 2] = c[N - 1];
    return pairwise<Arch>(pairs, z * z);
  }
}

template <class Arch, int N>
DIRIGO_INLINE Doubles<Arch> polynomial(const Series<N>& series, const Doubles<Arch>& z) {
  Doubles<Arch> c[N];
#pragma GCC unroll 64
  for (int i = 0; i < N; ++i) c[i] = Doubles<Arch>(series.c[i]);
  return pairwise<Arch>(c, z);
}

template <class Arch>
DIRIGO_INLINE Doubles<Arch> nan_unless_positive(const Doubles<Arch>& x, const Doubles<Arch>& value) {
  return xsimd::select(x > Doubles<Arch>(0.0), value, Doubles<Arch>(not_a_number));
}

// Below 10, x is stepped down to t in [3/2, 5/2) and lgamma(t) = lgamma(2 + z) is a Taylor series; below 5/4
// the step goes up instead.
template <class Arch>
DIRIGO_INLINE Doubles<Arch> lgamma_vector(const Doubles<Arch>& x) {
  using V = Doubles<Arch>;
  const auto large = x >= V(gamma_series::kAsymptotic);
  const auto up_two = x < V(0.5), up = x < V(1.25);
  V t = x, product(1.0);
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const auto step = t >= V(2.5);
    t = xsimd::select(step, t - V(1.0), t);
    product = xsimd::select(step, product * t, product);
  }
  const V z = xsimd::select(up_two, x, xsimd::select(up, x - V(1.0), t - V(2.0)));
  const V factor = xsimd::select(up_two, x * (x + V(1.0)), xsimd::select(up, x, product));
  const V logarithm = xsimd::log(xsimd::select(large, x, factor));
  const V reduced = multiply_add(z, polynomial<Arch>(gamma_series::kLgammaTaylorWide, z),
                                 xsimd::select(up, -logarithm, logarithm));
  const V inverse = V(1.0) / x;
  const V rest = multiply_add(inverse, polynomial<Arch>(gamma_series::kLgammaSeries, inverse * inverse),
                              V(gamma_series::kHalfLogTwoPi - 0.5));
  const V stirling = multiply_add(x - V(0.5), logarithm - V(1.0), rest);
  return nan_unless_positive<Arch>(x, xsimd::select(large, stirling, reduced));
}

// psi(x) = psi(x + 10) - sum_{k<10} 1 / (x + k) below 10, the sum as one fraction.
template <class Arch>
DIRIGO_INLINE Doubles<Arch> digamma_vector(const Doubles<Arch>& x) {
  using V = Doubles<Arch>;
  V numerator(1.0), denominator = x;
#pragma GCC unroll 16
  for (int k = 1; k < 10; ++k) {
    const V factor = x + V(double(k));
    numerator = multiply_add(numerator, factor, denominator);
    denominator = denominator * factor;
  }
  const auto small = x < V(gamma_series::kAsymptotic);
  const V sum = xsimd::select(small, numerator / denominator, V(0.0));
  const V shifted = xsimd::select(small, x + V(10.0), x);
  const V inverse = V(1.0) / shifted, square = inverse * inverse;
  const V correction =
      multiply_add(square, polynomial<Arch>(gamma_series::kDigammaSeries, square), V(0.5) * inverse);
  return nan_unless_positive<Arch>(x, (xsimd::log(shifted) - sum) - correction);
}

// psi1(x) = psi1(x + 10) + sum_{k<10} 1 / (x + k)^2 below 10. The first term apart: its square may overflow.
template <class Arch>
DIRIGO_INLINE Doubles<Arch> trigamma_vector(const Doubles<Arch>& x) {
  using V = Doubles<Arch>;
  const V next = x + V(1.0);
  V numerator(1.0), denominator = next * next;
#pragma GCC unroll 16
  for (int k = 2; k < 10; ++k) {
    const V root = x + V(double(k)), factor = root * root;
    numerator = multiply_add(numerator, factor, denominator);
    denominator = denominator * factor;
  }
  const auto small = x < V(gamma_series::kAsymptotic);
  const V first = V(1.0) / x;
  const V sum = xsimd::select(small, multiply_add(first, first, numerator / denominator), V(0.0));
  const V inverse = V(1.0) / xsimd::select(small, x + V(10.0), x), square = inverse * inverse;
  const V series =
      multiply_add(inverse * square, polynomial<Arch>(gamma_series::kBernoulli, square), V(0.5) * square);
  return nan_unless_positive<Arch>(x, (inverse + series) + sum);
}

template <class Arch>
void lgamma(std::int64_t n, const double* x, double* y) noexcept {
  for_each_vector<Arch, double>(
      n, [&](std::int64_t i, auto part) { part.store(y + i, lgamma_vector<Arch>(part.load(x + i, 1.0))); });
}

template <class Arch>
void digamma(std::int64_t n, const double* x, double* y) noexcept {
  for_each_vector<Arch, double>(
      n, [&](std::int64_t i, auto part) { part.store(y + i, digamma_vector<Arch>(part.load(x + i, 1.0))); });
}

template <class Arch>
void trigamma(std::int64_t n, const double* x, double* y) noexcept {
  for_each_vector<Arch, double>(
      n, [&](std::int64_t i, auto part) { part.store(y + i, trigamma_vector<Arch>(part.load(x + i, 1.0))); });
}

// D by the power series, two terms to a division. A lane is done when its term no longer changes its sum;
// from then on it adds zeros.
template <class Arch>
struct DerivativeBySeries {
  using V = Doubles<Arch>;
  DIRIGO_INLINE V operator()(const V& a, const V& x, const V& y) const {
    V term(1.0), harmonic(0.0), sum(1.0), weighted_sum(0.0), last = a;
    do {
      const V next = last + V(1.0), after = last + V(2.0);
      const V both = V(1.0) / (next * after);
      const V reciprocal[2] = {after * both, next * both};
      for (const V& r : reciprocal) {
        term = term * (x * r);
        harmonic = harmonic + r;
        sum = sum + term;
        weighted_sum = multiply_add(term, harmonic, weighted_sum);
      }
      last = after;
      term = xsimd::select(term > V(1e-17) * sum, term, V(0.0));
    } while (xsimd::any(term > V(0.0)));
    return multiply_add(digamma_vector<Arch>(a + V(1.0)) - y, sum, weighted_sum) / a;
  }
};

// Numerators or denominators of the continued fraction's convergents: special.cpp has the recurrence.
template <class Arch>
struct Convergents {
  using V = Doubles<Arch>;
  V value, difference, d_value, d_difference;

  DIRIGO_INLINE void advance(const V& inverse_m, const V& x_over_m, const V& coefficient) {
    d_difference = multiply_add(x_over_m, d_value, coefficient * d_difference - inverse_m * difference);
    difference = multiply_add(x_over_m, value, coefficient * difference);
    value = value + difference;
    d_value = d_value + d_difference;
  }
  DIRIGO_INLINE void scale(const V& factor) {
    value = value * factor;
    difference = difference * factor;
    d_value = d_value * factor;
    d_difference = d_difference * factor;
  }
};

// D by the continued fraction. A lane keeps its result from the look on that changes it no more.
template <class Arch>
struct DerivativeByFraction {
  using V = Doubles<Arch>;
  DIRIGO_INLINE V operator()(const V& a, const V& x, const V& y) const {
    constexpr int steps_per_look = 7, most_looks = 10000;
    const V log_distance = y - digamma_vector<Arch>(a);
    Convergents<Arch> p{V(1.0), V(1.0), V(0.0), V(0.0)};
    Convergents<Arch> q{x + V(1.0) - a, x - a, V(-1.0), V(-1.0)};
    double m = 1.0;
    V result(0.0);
    auto active = x > V(0.0);
    for (int look = 0; look < most_looks && xsimd::any(active); ++look) {
#pragma GCC unroll 7
      for (int i = 0; i < steps_per_look; ++i) {
        const V inverse_m(1.0 / (m + 1.0));
        const V x_over_m = x * inverse_m, coefficient = (V(m) - a) * inverse_m;
        p.advance(inverse_m, x_over_m, coefficient);
        q.advance(inverse_m, x_over_m, coefficient);
        m += 1.0;
      }
      const V factor = V(1.0) / q.value;
      p.scale(factor);
      q.scale(factor);
      const V previous = result;
      const V latest = (p.d_value - p.value * q.d_value) + p.value * log_distance;
      result = xsimd::select(active, latest, previous);
      active = active & (xsimd::abs(latest - previous) > V(4e-16) * latest);
    }
    return result;
  }
};

// d[i] = derivative of elements i = index[0], ..., index[count - 1]; the last fills the lanes left over.
template <class Arch, class Derivative>
DIRIGO_INLINE void derivative_at(const std::int32_t* index, int count, const double* a, const double* x,
                                 const double* y, double* d) {
  constexpr int width = lanes<Arch, double>;
  for (int j = 0; j < count; j += width) {
    double la[width], lx[width], ly[width], ld[width];
    std::int32_t at[width];
    for (int l = 0; l < width; ++l) {
      at[l] = index[j + l < count ? j + l : count - 1];
      la[l] = a[at[l]];
      lx[l] = x[at[l]];
      ly[l] = y[at[l]];
    }
    Derivative()(load<Arch>(la), load<Arch>(lx), load<Arch>(ly)).store_unaligned(ld);
    for (int l = 0; l < width; ++l) d[at[l]] = ld[l];
  }
}

// The series up to x = max(1, a) + 1: it takes fewer steps than the fraction there, and the cancellation for
// a < 1 costs it a factor 30 at most. What is outside the fraction's range of doubles, or of the domain, is
// left to the scalar function.
template <class Arch>
void log_gamma_draw_derivative(std::int64_t n, const double* a, const double* y, double* d) noexcept {
  constexpr std::int64_t chunk = 256;
  for (std::int64_t start = 0; start < n; start += chunk, a += chunk, y += chunk, d += chunk) {
    const int size = int(n - start < chunk ? n - start : chunk);
    double x[chunk];
    for_each_vector<Arch, double>(
        size, [&](std::int64_t i, auto part) { part.store(x + i, exp_vector<Arch>(part.load(y + i))); });
    std::int32_t series[chunk], fraction[chunk];
    int in_series = 0, in_fraction = 0;
    for (int i = 0; i < size; ++i) {
      const bool usual = a[i] > 0.0 && a[i] <= 1e7 && x[i] <= 1e30 && y[i] > -infinity<double>;
      if (!usual) {
        d[i] = special::log_gamma_draw_derivative(a[i], y[i]);
        continue;
      }
      const bool by_series = x[i] <= (a[i] > 1.0 ? a[i] : 1.0) + 1.0;
      series[in_series] = fraction[in_fraction] = i;
      in_series += by_series ? 1 : 0;
      in_fraction += by_series ? 0 : 1;
    }
    derivative_at<Arch, DerivativeBySeries<Arch>>(series, in_series, a, x, y, d);
    derivative_at<Arch, DerivativeByFraction<Arch>>(fraction, in_fraction, a, x, y, d);
  }
}

// The uniforms of PhiloxStream, of one stream per lane.
template <class Arch>
struct UniformStreams {
  using V = Doubles<Arch>;
  using Words = Batch<Arch, std::uint64_t>;
  static constexpr int width = lanes<Arch, double>;
  RandomKey key;
  std::uint64_t element[width];
  std::uint64_t drawn[width] = {};  // uniforms so far: two of each Philox block

  // The next two of each stream. The caller says how many of them it used.
  struct Pair {
    V first, second;
  };
  DIRIGO_INLINE Pair next_two() const {
    Words c[2][4], odd[2];
    for (int i = 0; i < 2; ++i) {
      const Words at = load<Arch>(drawn) + Words(std::uint64_t(i));
      c[i][0] = load<Arch>(element);
      c[i][1] = at >> 1;
      c[i][2] = Words(std::uint64_t{key.step});
      c[i][3] = Words(std::uint64_t{key.purpose});
      odd[i] = Words(std::uint64_t{0}) - (at & Words(std::uint64_t{1}));
    }
    philox_rounds<Arch>(key.seed, c);
    return {open_unit(c[0], odd[0]), open_unit(c[1], odd[1])};
  }

  // (n + 1/2) 2^-52, n the high 52 bits of the block's first or (where odd is all ones) second 64. n becomes
  // a double as the low bits of 2^52 + n.
  static DIRIGO_INLINE V open_unit(const Words (&word)[4], const Words& odd) {
    const Words low_half = word[0] ^ ((word[0] ^ word[2]) & odd);
    const Words high_half = word[1] ^ ((word[1] ^ word[3]) & odd);
    const Words bits = ((low_half & Words(std::uint64_t{0xFFFFFFFFU})) | (high_half << 32)) >> 12;
    const Words shifted = bits | Words(std::uint64_t{0x4330000000000000});
    V y;
    __builtin_memcpy(static_cast<void*>(&y), &shifted, sizeof y);
    return ((y - V(0x1p52)) + V(0.5)) * V(0x1p-52);
  }
};

// cos and sin of 2 pi v, 0 <= v <= 1: v less the nearest quarter turn is exact, and |r| <= pi / 4 by the
// Taylor series.
template <class Arch>
struct Turned {
  Doubles<Arch> cosine, sine;
};

template <class Arch>
DIRIGO_INLINE Turned<Arch> turn(const Doubles<Arch>& v) {
  using V = Doubles<Arch>;
  const V quarters = V(4.0) * v;
  const V q = (quarters + V(0x1.8p52)) - V(0x1.8p52);
  const V r = (quarters - q) * V(1.5707963267948966), square = r * r;
  V c(1.0 / 20922789888000.0), s(-1.0 / 1307674368000.0);  // 1/16!, -1/15!
  double factorial = 1307674368000.0;
#pragma GCC unroll 8
  for (int i = 14; i > 2; i -= 2) {  // the terms r^i of cos and r^(i - 1) of sin
    factorial /= i + 1.0;
    const double sign = i % 4 == 0 ? 1.0 : -1.0;
    c = multiply_add(c, square, V(sign / factorial));
    factorial /= double(i);
    s = multiply_add(s, square, V(-sign / factorial));
  }
  c = multiply_add(multiply_add(c, square, V(-0.5)), square, V(1.0));
  s = multiply_add(s * square, r, r);
  const auto odd = (q == V(1.0)) | (q == V(3.0));
  const V cosine = xsimd::select(odd, s, c), sine = xsimd::select(odd, c, s);
  return {xsimd::select((q == V(1.0)) | (q == V(2.0)), -cosine, cosine),
          xsimd::select((q == V(2.0)) | (q == V(3.0)), -sine, sine)};
}

// The draws of `width` rows from `row` on, one row per lane, each from its own stream (gamma_sampling.cpp).
template <class Arch>
DIRIGO_INLINE void draw_rows(std::int64_t row, std::int64_t rows, std::int64_t cols, const RandomKey& key,
                             const double* a, double* y) {
  using V = Doubles<Arch>;
  constexpr int width = lanes<Arch, double>;
  UniformStreams<Arch> streams{key, {}};
  std::int64_t at[width];
  for (int l = 0; l < width; ++l) {
    const std::int64_t i = row + l < rows ? row + l : rows - 1;
    streams.element[l] = std::uint32_t(key.first + std::uint32_t(i));
    at[l] = i * cols;
  }
  auto settled = V(0.0) == V(0.0);
  V spare(0.0);
  for (std::int64_t k = 0; k < cols; ++k) {
    V z = spare;
    if (k % 2 == 0) {  // Box and Muller: both normals of a pair are used
      const auto [u, v] = streams.next_two();
      for (int l = 0; l < width; ++l) streams.drawn[l] += 2;
      const V radius = xsimd::sqrt(V(-2.0) * xsimd::log(u));
      const Turned<Arch> angle = turn<Arch>(v);
      z = radius * angle.cosine;
      spare = radius * angle.sine;
    }
    double lane[width];
    for (int l = 0; l < width; ++l) lane[l] = a[at[l] + k];
    const V shape = load<Arch>(lane);
    const auto [u, boost] = streams.next_two();
    for (int l = 0; l < width; ++l) streams.drawn[l] += lane[l] < 1.0 ? 2 : 1;

    const auto below_one = shape < V(1.0);
    const V d = xsimd::select(below_one, shape + V(1.0), shape) - V(1.0 / 3.0);
    const V c = V(1.0) / xsimd::sqrt(V(9.0) * d);
    const V root = multiply_add(c, z, V(1.0));
    const V z2 = z * z;
    const V log_v = V(3.0) * xsimd::log(root);
    const V limit = multiply_add(d, V(1.0) - root * root * root + log_v, V(0.5) * z2);
    const auto accepted = (u < V(1.0) - V(0.0331) * z2 * z2) | (xsimd::log(u) < limit);
    settled = settled & accepted & (root > V(0.0)) & (shape > V(0.0)) & (shape <= V(1e15));
    const V draw = xsimd::log(d) + log_v;
    xsimd::select(below_one, draw + xsimd::log(boost) / shape, draw).store_unaligned(lane);
    for (int l = 0; l < width; ++l) y[at[l] + k] = lane[l];
  }
  double first[width];
  xsimd::select(settled, V(0.0), V(not_a_number)).store_unaligned(first);
  for (int l = 0; l < width; ++l) y[at[l]] += first[l];
}

template <class Arch>
void log_gamma_draws(std::int64_t rows, std::int64_t cols, const RandomKey& key, const double* a,
                     double* y) noexcept {
  for (std::int64_t row = 0; row < rows; row += lanes<Arch, double>)
    draw_rows<Arch>(row, rows, cols, key, a, y);
}

}  // namespace dirigo::kernels
