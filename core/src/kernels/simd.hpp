// The vector types of one instruction set, and the few spellings that differ between xsimd versions.
//
// Private to the kernels: included only by isa_*.cpp (through the *.inl.hpp files), each compiled with its
// own instruction-set flags. Everything is templated on Arch, so that no symbol is shared between those
// files.
#pragma once

#include <cstdint>
#include <xsimd/xsimd.hpp>

namespace dirigo::kernels {

#define DIRIGO_INLINE inline __attribute__((always_inline))

template <class Arch, class T>
using Batch = xsimd::batch<T, Arch>;

template <class Arch, class T>
inline constexpr int lanes = int(xsimd::batch<T, Arch>::size);

template <class Arch, class T>
DIRIGO_INLINE Batch<Arch, T> load(const T* p) {
  return Batch<Arch, T>::load_unaligned(p);
}

// x * y + z, fused wherever the instruction set can. xsimd 8.1 has no fused form for AVX-512: it would
// multiply, round and add, at half the speed.
template <class T, class Arch>
DIRIGO_INLINE xsimd::batch<T, Arch> multiply_add(const xsimd::batch<T, Arch>& x,
                                                 const xsimd::batch<T, Arch>& y,
                                                 const xsimd::batch<T, Arch>& z) {
#if defined(__AVX512F__)
  if constexpr (sizeof(z) == 64 && sizeof(T) == 4) return _mm512_fmadd_ps(x, y, z);
  if constexpr (sizeof(z) == 64 && sizeof(T) == 8) return _mm512_fmadd_pd(x, y, z);
#endif
  return xsimd::fma(x, y, z);
}

// The smaller of x and limit; the limit where x is NaN, which is what min of x86 gives and that of NEON does
// not.
template <class T, class Arch>
DIRIGO_INLINE xsimd::batch<T, Arch> limited(const xsimd::batch<T, Arch>& x,
                                            const xsimd::batch<T, Arch>& limit) {
#if defined(__aarch64__)
  return xsimd::select(x < limit, x, limit);
#else
  return xsimd::min(x, limit);
#endif
}

// The 64-bit products of the lanes' low halves.
template <class Arch>
DIRIGO_INLINE Batch<Arch, std::uint64_t> multiply_low_halves(const Batch<Arch, std::uint64_t>& x,
                                                             const Batch<Arch, std::uint64_t>& y) {
#if defined(__AVX512F__)
  if constexpr (sizeof(x) == 64) return _mm512_mul_epu32(x, y);
#endif
#if defined(__AVX2__)
  if constexpr (sizeof(x) == 32) return _mm256_mul_epu32(x, y);
#endif
#if defined(__SSE2__)
  if constexpr (sizeof(x) == 16) return _mm_mul_epu32(x, y);
#elif defined(__ARM_NEON)
  return vmull_u32(vmovn_u64(x), vmovn_u64(y));
#endif
}

template <class Arch, class T>
DIRIGO_INLINE T horizontal_sum(const Batch<Arch, T>& x) {
#if XSIMD_VERSION_MAJOR >= 10
  return xsimd::reduce_add(x);
#else
  return xsimd::hadd(x);
#endif
}

}  // namespace dirigo::kernels
