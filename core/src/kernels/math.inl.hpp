// Vector building blocks: whole and partial loads, exp, log, and the normal distribution.
//
// Each function acts on every lane alone, so an element's bits do not depend on its position in an array.
#pragma once

#include "kernels/simd.hpp"

namespace dirigo::kernels {

template <class T>
inline constexpr T infinity = T(__builtin_inf());

// How a vector meets memory: all its lanes, or the first `count` (the rest read as `fill`).
template <class Arch, class T>
struct Whole {
  using V = Batch<Arch, T>;
  DIRIGO_INLINE V load(const T* p, T = 0) const { return V::load_unaligned(p); }
  DIRIGO_INLINE void store(T* p, const V& x) const { x.store_unaligned(p); }
};

template <class Arch, class T>
struct Part {
  using V = Batch<Arch, T>;
  int count;
  DIRIGO_INLINE V load(const T* p, T fill = 0) const {
    T lane[lanes<Arch, T>];
    for (int i = 0; i < lanes<Arch, T>; ++i) lane[i] = i < count ? p[i] : fill;
    return V::load_unaligned(lane);
  }
  DIRIGO_INLINE void store(T* p, const V& x) const {
    T lane[lanes<Arch, T>];
    x.store_unaligned(lane);
    for (int i = 0; i < count; ++i) p[i] = lane[i];
  }
};

// Calls body(i, part) for consecutive vectors that cover [0, n): Whole ones, then at most one Part.
template <class Arch, class T, class Body>
DIRIGO_INLINE void for_each_vector(std::int64_t n, const Body& body) {
  constexpr int width = lanes<Arch, T>;
  std::int64_t i = 0;
  for (; i + width <= n; i += width) body(i, Whole<Arch, T>{});
  if (i < n) body(i, Part<Arch, T>{int(n - i)});
}

// A vector from a scalar function, for the double kernels of audits, where accuracy matters and speed does
// not.
template <class Arch, class T, class F>
DIRIGO_INLINE Batch<Arch, T> lanewise(const Batch<Arch, T>& x, const F& f) {
  T lane[lanes<Arch, T>];
  x.store_unaligned(lane);
  for (int i = 0; i < lanes<Arch, T>; ++i) lane[i] = f(lane[i]);
  return load<Arch, T>(lane);
}

// x 2^n for |x| in [1/2, 2), n in the low bits of `shifted`: an addition to x's exponent. In the compiler's
// own vectors, because xsimd's bit casts differ by version.
template <class Arch, class T, class Int, int mantissa_bits>
DIRIGO_INLINE Batch<Arch, T> add_to_exponent(const Batch<Arch, T>& x, const Batch<Arch, T>& shifted) {
  using V = Batch<Arch, T>;
  using Ints [[gnu::vector_size(sizeof(V))]] = Int;
  Ints bits, n;
  __builtin_memcpy(&bits, &x, sizeof bits);
  __builtin_memcpy(&n, &shifted, sizeof n);
  bits += n << mantissa_bits;
  V y;
  __builtin_memcpy(static_cast<void*>(&y), &bits, sizeof y);
  return y;
}

template <class Arch, class T>
struct ExpConstants;

template <class Arch>
struct ExpConstants<Arch, float> {
  using Int = std::uint32_t;
  static constexpr int degree = 7, mantissa_bits = 23;
  static constexpr float round = 0x1.8p23f;           // adding it rounds to an integer
  static constexpr float ln2_high = 0x1.63p-1f;       // 9 bits: exact times any exponent
  static constexpr float ln2_low = -0x1.bd0106p-13f;  // ln 2 - ln2_high
  static constexpr float lowest = -0x1.5d589ep6f;     // exp is normal from here ...
  static constexpr float highest = 0x1.62e42ep6f;     // ... and finite up to here
};

template <class Arch>
struct ExpConstants<Arch, double> {
  using Int = std::uint64_t;
  static constexpr int degree = 13, mantissa_bits = 52;
  static constexpr double round = 0x1.8p52;
  static constexpr double ln2_high = 0x1.62e42feep-1;  // 32 bits
  static constexpr double ln2_low = 0x1.a39ef35793c76p-33;
  static constexpr double lowest = -0x1.6232bdd7abcd2p9;
  static constexpr double highest = 0x1.62e42fefa39efp9;
};

// exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln 2 / 2, exp(r) by its Taylor series. 1 ulp.
// Results below the smallest normal number are 0.
template <class Arch, class T>
DIRIGO_INLINE Batch<Arch, T> exp_vector(const Batch<Arch, T>& x) {
  using V = Batch<Arch, T>;
  using C = ExpConstants<Arch, T>;
  const V shifted = multiply_add(x, V(T(1.4426950408889634)), V(C::round));
  const V n = shifted - V(C::round);
  const V r = multiply_add(n, V(-C::ln2_low), multiply_add(n, V(-C::ln2_high), x));
  T factorial = 1;
  for (int i = 2; i <= C::degree; ++i) factorial *= T(i);
  V tail(T(1) / factorial);
#pragma GCC unroll 16
  for (int i = C::degree; i > 2; --i) {
    factorial /= T(i);
    tail = multiply_add(tail, r, V(T(1) / factorial));
  }
  const V y = V(T(1)) + multiply_add(tail * r, r, r);
  const V scaled = add_to_exponent<Arch, T, typename C::Int, C::mantissa_bits>(y, shifted);
  const V bounded = xsimd::select(x <= V(C::highest), scaled, x * V(infinity<T>));  // inf or NaN above
  return xsimd::select(x < V(C::lowest), V(T(0)), bounded);
}

// log(1 + e^x) without overflow.
template <class Arch, class T>
DIRIGO_INLINE Batch<Arch, T> softplus_vector(const Batch<Arch, T>& x) {
  using V = Batch<Arch, T>;
  return xsimd::max(x, V(T(0))) + xsimd::log1p(exp_vector<Arch, T>(-xsimd::abs(x)));
}

// The logistic function, from exp(-|x|) so that it never overflows.
template <class Arch, class T>
DIRIGO_INLINE Batch<Arch, T> sigmoid_vector(const Batch<Arch, T>& x) {
  using V = Batch<Arch, T>;
  const V e = exp_vector<Arch, T>(-xsimd::abs(x));
  return xsimd::select(x < V(T(0)), e, V(T(1))) / (V(T(1)) + e);
}

// The standard normal distribution at x: Phi(x), and exp(-x^2 / 2).
template <class Arch, class T>
struct Normal {
  Batch<Arch, T> cumulative, kernel;
};

template <class Arch, class T>
DIRIGO_INLINE Normal<Arch, T> normal_distribution(const Batch<Arch, T>& x) {
  using V = Batch<Arch, T>;
  const V kernel = exp_vector<Arch, T>(V(T(-0.5)) * x * x);
  if constexpr (sizeof(T) == sizeof(double)) {
    const V cumulative =
        lanewise<Arch, T>(x, [](T u) { return T(0.5) * __builtin_erfc(T(-0.70710678118654752) * u); });
    return {cumulative, kernel};
  } else {
    // Phi(-a) = exp(-a^2/2) P(t), t = 1 / (1 + 0.35 a), a >= 0. P is our minimax fit to erfcx(a/sqrt 2) / 2,
    // weighted by max(a, 1) exp(-a^2/2): the error of a Phi(-a) is 8e-9 before rounding.
    const V a = xsimd::abs(x);
    const V t = V(1.0F) / multiply_add(V(0.35F), a, V(1.0F));
    V p = multiply_add(V(0.03419255093F), t, V(-0.1361903995F));
    p = multiply_add(p, t, V(0.1191062331F));
    p = multiply_add(p, t, V(0.1013199016F));
    p = multiply_add(p, t, V(0.09163797647F));
    p = multiply_add(p, t, V(0.1519730687F));
    p = multiply_add(p, t, V(0.1379606724F));
    const V tail = kernel * p * t;
    return {xsimd::select(x < V(0.0F), tail, V(1.0F) - tail), kernel};
  }
}

// The natural logarithm of one value.
template <class Arch, class T>
DIRIGO_INLINE T log_scalar(T x) {
  T lane[lanes<Arch, T>];
  xsimd::log(Batch<Arch, T>(x)).store_unaligned(lane);
  return lane[0];
}

}  // namespace dirigo::kernels
