// Elementwise kernels, sums, dropout and the optimiser's update.
#pragma once

#include "dirigo/core/kernels.hpp"
#include "kernels/math.inl.hpp"
#include "kernels/philox.inl.hpp"

namespace dirigo::kernels {

// y_i = f(x_i)
template <class Arch, class T, class F>
DIRIGO_INLINE void map(std::int64_t n, const T* x, T* y, const F& f) {
  for_each_vector<Arch, T>(n, [&](std::int64_t i, auto part) { part.store(y + i, f(part.load(x + i))); });
}

// y_i = f(a_i, b_i)
template <class Arch, class T, class F>
DIRIGO_INLINE void map(std::int64_t n, const T* a, const T* b, T* y, const F& f) {
  for_each_vector<Arch, T>(
      n, [&](std::int64_t i, auto part) { part.store(y + i, f(part.load(a + i), part.load(b + i))); });
}

template <class Arch, class T>
void add(std::int64_t n, const T* a, const T* b, T* y) noexcept {
  map<Arch, T>(n, a, b, y, [](auto u, auto v) { return u + v; });
}

template <class Arch, class T>
void multiply(std::int64_t n, const T* a, const T* b, T* y) noexcept {
  map<Arch, T>(n, a, b, y, [](auto u, auto v) { return u * v; });
}

template <class Arch, class T>
void scale(std::int64_t n, T factor, const T* x, T* y) noexcept {
  const Batch<Arch, T> f(factor);
  map<Arch, T>(n, x, y, [&](auto u) { return f * u; });
}

template <class Arch, class T>
void add_scaled(std::int64_t n, T factor, const T* x, T* y) noexcept {
  const Batch<Arch, T> f(factor);
  map<Arch, T>(n, x, y, y, [&](auto u, auto v) { return multiply_add(f, u, v); });
}

template <class Arch, class T>
void exp(std::int64_t n, const T* x, T* y) noexcept {
  map<Arch, T>(n, x, y, [](auto u) { return exp_vector<Arch, T>(u); });
}

// x Phi(x). At x = -inf the product is -inf * 0, but the limit is 0.
template <class Arch, class T>
void gelu(std::int64_t n, const T* x, T* y) noexcept {
  using V = Batch<Arch, T>;
  map<Arch, T>(n, x, y, [](auto u) {
    return xsimd::select(u == V(-infinity<T>), V(T(0)), u * normal_distribution<Arch, T>(u).cumulative);
  });
}

// gelu'(x) = Phi(x) + x phi(x), phi(x) = exp(-x^2/2) / sqrt(2 pi); the second term vanishes at infinity.
template <class Arch, class T>
void gelu_vjp(std::int64_t n, const T* x, const T* dy, T* dx) noexcept {
  using V = Batch<Arch, T>;
  map<Arch, T>(n, x, dy, dx, [](auto u, auto d) {
    const auto normal = normal_distribution<Arch, T>(u);
    const V density_term = u * (V(T(0.3989422804014327)) * normal.kernel);
    return d * (normal.cumulative + xsimd::select(normal.kernel > V(T(0)), density_term, V(T(0))));
  });
}

template <class Arch, class T>
void softplus(std::int64_t n, const T* x, T* y) noexcept {
  map<Arch, T>(n, x, y, [](auto u) { return softplus_vector<Arch, T>(u); });
}

template <class Arch, class T>
void softplus_vjp(std::int64_t n, const T* x, const T* dy, T* dx) noexcept {
  map<Arch, T>(n, x, dy, dx, [](auto u, auto d) { return d * sigmoid_vector<Arch, T>(u); });
}

template <class Arch, class T>
void elu1(std::int64_t n, const T* x, T* y) noexcept {
  using V = Batch<Arch, T>;
  map<Arch, T>(n, x, y,
               [](auto u) { return xsimd::select(u > V(T(0)), u + V(T(1)), exp_vector<Arch, T>(u)); });
}

template <class Arch, class T>
void elu1_vjp(std::int64_t n, const T* x, const T* dy, T* dx) noexcept {
  using V = Batch<Arch, T>;
  map<Arch, T>(n, x, dy, dx, [](auto u, auto d) {
    return d * xsimd::select(u > V(T(0)), V(T(1)), exp_vector<Arch, T>(u));
  });
}

// Sum of term(i) in double: 32 interleaved partial sums, then these in order. The same bits on every
// instruction set; plain loops, because the compilers vectorise the conversions well.
template <class Arch, class Term>
DIRIGO_INLINE double sum_in_double(std::int64_t n, const Term& term) {
  constexpr int partials = 32;
  double partial[partials] = {};
  std::int64_t i = 0;
  for (; i + partials <= n; i += partials) {
    for (int l = 0; l < partials; ++l) partial[l] += term(i + l);
  }
  for (int l = 0; i + l < n; ++l) partial[l] += term(i + l);
  double total = 0;
  for (const double value : partial) total += value;
  return total;
}

template <class Arch, class T>
double sum(std::int64_t n, const T* x) noexcept {
  return sum_in_double<Arch>(n, [x](std::int64_t i) { return double(x[i]); });
}

template <class Arch, class T>
double sum_squares(std::int64_t n, const T* x) noexcept {
  return sum_in_double<Arch>(n, [x](std::int64_t i) { return double(x[i]) * double(x[i]); });
}

template <class Arch, class T>
double dot(std::int64_t n, const T* a, const T* b) noexcept {
  return sum_in_double<Arch>(n, [a, b](std::int64_t i) { return double(a[i]) * double(b[i]); });
}

// Philox in 64-bit lanes for philox_blocks consecutive first counter words; the four words of a block stand
// together.
template <class Arch>
inline constexpr int philox_blocks =
    4 * lanes<Arch, std::uint64_t>;  // four chains, to overlap their latencies

// x_0 y_0 x_1 y_1 ... as pairs of 32-bit values.
template <class Arch, class Word>
DIRIGO_INLINE void store_interleaved(const Batch<Arch, Word>& x, const Batch<Arch, Word>& y,
                                     std::uint32_t* to) {
  using Lanes [[gnu::vector_size(sizeof(Batch<Arch, Word>))]] = Word;
  Lanes a, b, low, high;
  __builtin_memcpy(&a, &x, sizeof a);
  __builtin_memcpy(&b, &y, sizeof b);
  if constexpr (sizeof(x) == 64) {
    low = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
    high = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
  } else if constexpr (sizeof(x) == 32) {
    low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  } else {
    low = __builtin_shufflevector(a, b, 0, 2);
    high = __builtin_shufflevector(a, b, 1, 3);
  }
  __builtin_memcpy(to, &low, sizeof low);
  __builtin_memcpy(to + sizeof(x) / sizeof *to, &high, sizeof high);
}

template <class Arch>
DIRIGO_INLINE void philox(std::uint32_t first, std::uint32_t step, std::uint32_t purpose, std::uint64_t seed,
                          std::uint32_t (&word)[4 * philox_blocks<Arch>]) {
  using V = Batch<Arch, std::uint64_t>;
  constexpr int width = lanes<Arch, std::uint64_t>, vectors = philox_blocks<Arch> / width;
  V c[vectors][4];
  for (int i = 0; i < vectors; ++i) {
    std::uint64_t counter[width];
    for (int j = 0; j < width; ++j) counter[j] = first + std::uint64_t(i * width + j);
    c[i][0] = V::load_unaligned(counter);
    c[i][1] = V(std::uint64_t{0});
    c[i][2] = V(std::uint64_t{step});
    c[i][3] = V(std::uint64_t{purpose});
  }
  philox_rounds<Arch>(seed, c);
  const V low(std::uint64_t{0xFFFFFFFFU});
  for (int i = 0; i < vectors; ++i) {
    store_interleaved<Arch, std::uint64_t>((c[i][0] & low) | (c[i][1] << 32),
                                           (c[i][2] & low) | (c[i][3] << 32), word + 4 * width * i);
  }
}

template <class Arch, class T>
void dropout(std::int64_t n, std::uint32_t first_block, std::uint64_t seed, std::uint32_t step,
             std::uint32_t purpose, T p, const T* x, T* y) noexcept {
  constexpr int chunk = 4 * philox_blocks<Arch>;
  const T keep_factor = T(1) / (T(1) - p);
  // word >= p 2^32 for an integer word: word >= ceil(p 2^32), which is exact in double.
  const std::uint64_t threshold = std::uint64_t(__builtin_ceil(double(p) * 4294967296.0));
  for (std::int64_t i = 0; i < n; i += chunk) {
    std::uint32_t word[chunk];
    philox<Arch>(first_block + std::uint32_t(i / 4), step, purpose, seed, word);
    T factor[chunk];
    for (int j = 0; j < chunk; ++j) factor[j] = word[j] >= threshold ? keep_factor : T(0);
    const std::int64_t count = n - i < chunk ? n - i : chunk;
    map<Arch, T>(count, x + i, factor, y + i, [](auto u, auto v) { return u * v; });
  }
}

// Adam (Kingma, Ba 2015, algorithm 1) with decoupled weight decay (Loshchilov, Hutter 2019).
template <class Arch, class T>
void adam(std::int64_t n, const AdamStep& step, const T* gradient, T* parameter, T* moment1,
          T* moment2) noexcept {
  using V = Batch<Arch, T>;
  const V gradient_scale(T(step.gradient_scale)), eps(T(step.eps));
  const V beta1(T(step.beta1)), rest1(T(1 - step.beta1)), beta2(T(step.beta2)), rest2(T(1 - step.beta2));
  const V decay(T(1 - step.lr * step.weight_decay)), rate(T(step.lr / step.correction1));
  const V root_correction(T(1 / __builtin_sqrt(step.correction2)));
  for_each_vector<Arch, T>(n, [&](std::int64_t i, auto part) {
    const V g = gradient_scale * part.load(gradient + i);
    const V m = multiply_add(beta1, part.load(moment1 + i), rest1 * g);
    const V v = multiply_add(beta2, part.load(moment2 + i), rest2 * g * g);
    const V update = rate * m / multiply_add(xsimd::sqrt(v), root_correction, eps);
    part.store(moment1 + i, m);
    part.store(moment2 + i, v);
    part.store(parameter + i, decay * part.load(parameter + i) - update);
  });
}

}  // namespace dirigo::kernels
