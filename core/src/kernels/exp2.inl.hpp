// Exponentials of a batch: 2^x = 2^n p(x - n), n = x rounded to nearest, p a minimax polynomial.
//
// For float: at most 2 ulp, exactly 1 at 0, 0 where the result is below the normal numbers (-inf included;
// with AVX-512, exp2 is 0 there only while denormals are flushed), NaN for NaN. The argument must be at most
// 127 (exp2) or 88 (exp): attention only needs arguments of about 0 or less. For double: xsimd's, at most 1
// ulp.
#pragma once

#include "kernels/simd.hpp"

namespace dirigo::kernels {

// The integer part of t = x + exponent_magic stands in the low bits of t, biased by 127: shifting them into
// the exponent field gives 2^n. 1.5 * 2^23 keeps t's last place at 1 for both signs of x.
inline constexpr float exponent_rounder = 12582912.0f;
inline constexpr float exponent_magic = exponent_rounder + 127.0f;

template <class Arch>
DIRIGO_INLINE Batch<Arch, float> power_of_two(const Batch<Arch, float>& biased) {
#if XSIMD_VERSION_MAJOR >= 10
  return xsimd::bitwise_cast<float>(xsimd::bitwise_cast<std::int32_t>(biased) << 23);
#else
  using Bits = Batch<Arch, std::int32_t>;
  return xsimd::bitwise_cast<Batch<Arch, float> >(xsimd::bitwise_cast<Bits>(biased) << 23);
#endif
}

template <class Arch, class T>
struct Exponential;

template <class Arch>
struct Exponential<Arch, float> {
  using B = Batch<Arch, float>;

  // 2^r for r in [-1/2, 1/2] by (2^r - 1) / r, weighted for the relative error of 2^r (9e-8).
  static DIRIGO_INLINE B exp2_fraction(const B& r) {
    B p(0.001326472731307149f);
    p = multiply_add(p, r, B(0.009671512991189957f));
    p = multiply_add(p, r, B(0.05550733581185341f));
    p = multiply_add(p, r, B(0.24022242426872253f));
    p = multiply_add(p, r, B(0.6931470036506653f));
    return multiply_add(p, r, B(1.0f));
  }

  static DIRIGO_INLINE B exp2(const B& x) {
#if defined(__AVX512DQ__)
    if constexpr (sizeof(x) == 64) {  // x - n in one instruction, and 2^n without clamping
      const __m512 r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      return _mm512_scalef_ps(exp2_fraction(r), x - B(r));
    }
#endif
    const B clamped = xsimd::max(B(-127.0f), x);  // where 2^n = 0; in this order, NaN stays
    const B biased = clamped + B(exponent_magic);
    const B r = clamped - (biased - B(exponent_magic));
    return exp2_fraction(r) * power_of_two<Arch>(biased);
  }

  static DIRIGO_INLINE B exp(const B& x) {
    const B clamped = xsimd::max(B(-88.0f), x);
    const B biased = multiply_add(clamped, B(1.44269504f), B(exponent_magic));
    const B n = biased - B(exponent_magic);
    // ln 2 in two parts (Cody and Waite): n times the first is exact.
    const B r = multiply_add(n, B(2.12194440e-4f), multiply_add(n, B(-0.693359375f), clamped));
    // (e^r - 1 - r) / r^2, weighted for the relative error of e^r (3e-9).
    B p(0.0013814608297403855f);
    p = multiply_add(p, r, B(0.008368711340144276f));
    p = multiply_add(p, r, B(0.04166838753506293f));
    p = multiply_add(p, r, B(0.16666520676814667f));
    p = multiply_add(p, r, B(0.49999993450749236f));
    p = multiply_add(p, r, B(1.0f));
    p = multiply_add(p, r, B(1.0f));
    return p * power_of_two<Arch>(biased);
  }
};

template <class Arch>
struct Exponential<Arch, double> {
  using B = Batch<Arch, double>;
  static DIRIGO_INLINE B exp2(const B& x) { return xsimd::exp2(x); }
  static DIRIGO_INLINE B exp(const B& x) { return xsimd::exp(x); }
};

}  // namespace dirigo::kernels
