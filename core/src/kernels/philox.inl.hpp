// The rounds of Philox4x32-10 (Salmon et al. 2011) in 64-bit lanes.
#pragma once

#include "kernels/simd.hpp"

namespace dirigo::kernels {

// Counters to random words, in place, for several vectors at once to overlap their latencies. A word is the
// low half of a 64-bit lane: the products need no widening, and what gathers in the high halves never reaches
// a low one. The same bits on every instruction set.
template <class Arch, int vectors>
DIRIGO_INLINE void philox_rounds(std::uint64_t seed, Batch<Arch, std::uint64_t> (&c)[vectors][4]) {
  using V = Batch<Arch, std::uint64_t>;
  const V factor0(std::uint64_t{0xD2511F53U}), factor1(std::uint64_t{0xCD9E8D57U});
  std::uint32_t key0 = std::uint32_t(seed), key1 = std::uint32_t(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const V k0(std::uint64_t{key0}), k1(std::uint64_t{key1});
#pragma GCC unroll 8
    for (int i = 0; i < vectors; ++i) {
      const V product0 = multiply_low_halves<Arch>(c[i][0], factor0);
      const V product1 = multiply_low_halves<Arch>(c[i][2], factor1);
      c[i][0] = (product1 >> 32) ^ c[i][1] ^ k0;
      c[i][1] = product1;
      c[i][2] = (product0 >> 32) ^ c[i][3] ^ k1;
      c[i][3] = product0;
    }
    key0 += 0x9E3779B9U;
    key1 += 0xBB67AE85U;
  }
}

}  // namespace dirigo::kernels
