// Elementwise kernels, sums, dropout and the optimiser's update.
#pragma once

#include "dirigo/core/kernels.hpp"
#include "kernels/math.inl.hpp"

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

// Philox4x32-10 (Salmon et al. 2011) for `philox_blocks` consecutive first counter words: word w of block j
// is word[w][j]. Integer loops that the compilers vectorise: the same bits on every instruction set.
inline constexpr int philox_blocks = 16;

template <class Arch>
DIRIGO_INLINE void philox(std::uint32_t first, std::uint32_t step, std::uint32_t purpose, std::uint64_t seed,
                          std::uint32_t (&word)[4][philox_blocks]) {
  for (int j = 0; j < philox_blocks; ++j) {
    word[0][j] = first + std::uint32_t(j);
    word[1][j] = 0;
    word[2][j] = step;
    word[3][j] = purpose;
  }
  std::uint32_t key0 = std::uint32_t(seed), key1 = std::uint32_t(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int j = 0; j < philox_blocks; ++j) {
      const std::uint64_t product0 = std::uint64_t(0xD2511F53U) * word[0][j];
      const std::uint64_t product1 = std::uint64_t(0xCD9E8D57U) * word[2][j];
      word[0][j] = std::uint32_t(product1 >> 32) ^ word[1][j] ^ key0;
      word[1][j] = std::uint32_t(product1);
      word[2][j] = std::uint32_t(product0 >> 32) ^ word[3][j] ^ key1;
      word[3][j] = std::uint32_t(product0);
    }
    key0 += 0x9E3779B9U;
    key1 += 0xBB67AE85U;
  }
}

template <class Arch, class T>
void dropout(std::int64_t n, std::uint32_t first_block, std::uint64_t seed, std::uint32_t step,
             std::uint32_t purpose, T p, const T* x, T* y) noexcept {
  constexpr int chunk = 4 * philox_blocks;
  const T keep_factor = T(1) / (T(1) - p);
  // word >= p 2^32 for an integer word: word >= ceil(p 2^32), which is exact in double.
  const std::uint64_t threshold = std::uint64_t(__builtin_ceil(double(p) * 4294967296.0));
  for (std::int64_t i = 0; i < n; i += chunk) {
    std::uint32_t word[4][philox_blocks];
    philox<Arch>(first_block + std::uint32_t(i / 4), step, purpose, seed, word);
    T factor[chunk];
    for (int j = 0; j < philox_blocks; ++j) {
      for (int w = 0; w < 4; ++w) factor[4 * j + w] = word[w][j] >= threshold ? keep_factor : T(0);
    }
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
