// Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy
// as 1, 2, 3", SC 2011).
//
// A random number is a pure function of (seed, purpose and site, step, element, draw): nothing is stored,
// nothing depends on the order of evaluation or on the thread count, and a resumed run needs no generator
// state. Integers and uniforms have the same bits on every ISA and machine. Normals go through libm's log,
// sin and cos: the same bits for any DIRIGO_ISA and thread count, but another C library or CPU may differ in
// the last place.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace dirigo {

using PhiloxCounter = std::array<std::uint32_t, 4>;
using PhiloxKey = std::array<std::uint32_t, 2>;

// The block function: 128 random bits for a counter under a key (ten rounds).
constexpr PhiloxCounter philox4x32(PhiloxCounter counter, PhiloxKey key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53} * counter[0];
    const std::uint64_t product1 = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<std::uint32_t>(product1),
               static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<std::uint32_t>(product0)};
    key[0] += 0x9E3779B9;  // golden ratio
    key[1] += 0xBB67AE85;  // sqrt(3) - 1
  }
  return counter;
}

// What random numbers are for. Different purposes never share a counter, so that adding dropout, say, leaves
// the initialisation and the batches of a seed as they were. The values are part of the format: append only.
enum class Purpose : std::uint8_t {
  init = 0,
  dropout = 1,
  dirichlet = 2,
  batch = 3,
  permutation = 4,
  sampling = 5,
  data = 6,
  gumbel = 7,
  routing = 8,
  bootstrap = 9,
  explore = 10,
  test = 255,
};

// Everything but the element that addresses a random stream.
struct RandomKey {
  std::uint64_t seed = 0;
  std::uint32_t step = 0;
  std::uint32_t purpose = 0;  // purpose << 24 | site
  // The number of element 0: a part of a batch draws what it would draw within the whole.
  std::uint32_t first = 0;

  constexpr RandomKey from(std::int64_t element) const {
    return {seed, step, purpose, first + static_cast<std::uint32_t>(element)};
  }
};

// The key for a purpose at a site (a layer or parameter number; its low 24 bits count).
constexpr RandomKey random_key(std::uint64_t seed, std::uint32_t step, Purpose purpose,
                               std::uint32_t site = 0) {
  return {seed, step, static_cast<std::uint32_t>(purpose) << 24 | (site & 0xFFFFFFu), 0};
}

// The random numbers of one element (a token, a row, a parameter entry), drawn one after another.
// A stream holds 2^34 words and then repeats.
class PhiloxStream {
 public:
  PhiloxStream(RandomKey key, std::uint32_t element);

  std::uint32_t next_u32();
  std::uint64_t next_u64();
  // Uniform in the open interval (0, 1): a multiple of 2^-53, never 0 or 1, so that its logarithm is finite.
  double uniform();
  // Standard normal (Box-Muller; both values of a pair are used).
  double normal();
  // Uniform in [0, bound), without modulo bias. Throws ValueError if bound is 0.
  std::uint64_t below(std::uint64_t bound);

 private:
  PhiloxKey key_;
  PhiloxCounter counter_;  // (element, draw, step, purpose)
  PhiloxCounter block_{};
  unsigned used_ = 4;  // words of block_ already handed out
  double spare_normal_ = 0;
  bool has_spare_normal_ = false;
};

// Bulk draws: out[i] is word i % 4 of the block of element first_block + i / 4 (draw 0). A range may be
// filled in pieces that start at multiples of 4 and comes out the same bits.

// Uniform in the open interval (0, 1), multiples of 2^-24.
void philox_uniform(RandomKey key, std::uint32_t first_block, std::span<float> out);
// Standard normal.
void philox_normal(RandomKey key, std::uint32_t first_block, std::span<float> out);

}  // namespace dirigo
