#include "dirigo/core/philox.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <utility>

#include "dirigo/core/errors.hpp"

namespace dirigo {
namespace {

PhiloxKey seed_key(std::uint64_t seed) {
  return {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
}

// Two independent standard normals from two uniforms of (0, 1) (Box and Muller 1958).
std::pair<double, double> box_muller(double u, double v) {
  const double radius = std::sqrt(-2.0 * std::log(u));
  const double angle = 2.0 * std::numbers::pi * v;
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

// 23 bits and a half: the sum needs 24 bits, so it is exact and rounds to neither 0 nor 1.
float open_unit_float(std::uint32_t word) {
  return (static_cast<float>(word >> 9) + 0.5f) * 0x1p-23f;
}

double open_unit_double(std::uint32_t word) {
  return (static_cast<double>(word) + 0.5) * 0x1p-32;
}

// Calls fill(block, destination of 4 floats) for every block that `out` touches; the last may be cut short.
template <class Fill>
void for_each_block(RandomKey key, std::uint32_t first_block, std::span<float> out, Fill fill) {
  const PhiloxKey seed = seed_key(key.seed);
  std::uint32_t element = key.first + first_block;
  for (std::size_t i = 0; i < out.size(); i += 4, ++element) {
    const PhiloxCounter block = philox4x32({element, 0, key.step, key.purpose}, seed);
    if (out.size() - i >= 4) {
      fill(block, out.data() + i);
    } else {
      std::array<float, 4> last;
      fill(block, last.data());
      std::copy_n(last.begin(), out.size() - i, out.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
}

}  // namespace

PhiloxStream::PhiloxStream(RandomKey key, std::uint32_t element)
    : key_(seed_key(key.seed)), counter_{key.first + element, 0, key.step, key.purpose} {}

std::uint32_t PhiloxStream::next_u32() {
  if (used_ == 4) {
    block_ = philox4x32(counter_, key_);
    ++counter_[1];
    used_ = 0;
  }
  return block_[used_++];
}

std::uint64_t PhiloxStream::next_u64() {
  const std::uint64_t low = next_u32();
  return std::uint64_t{next_u32()} << 32 | low;
}

double PhiloxStream::uniform() {
  // 52 bits and a half: exact in 53 bits, hence neither 0 nor 1.
  return (static_cast<double>(next_u64() >> 12) + 0.5) * 0x1p-52;
}

double PhiloxStream::normal() {
  if (has_spare_normal_) {
    has_spare_normal_ = false;
    return spare_normal_;
  }
  const double u = uniform();
  const double v = uniform();
  const auto [first, second] = box_muller(u, v);
  spare_normal_ = second;
  has_spare_normal_ = true;
  return first;
}

std::uint64_t PhiloxStream::below(std::uint64_t bound) {
  if (bound == 0) throw ValueError("[PhiloxStream::below] bound: expected at least 1, got 0");
  // Of 2^64 values the first 2^64 mod bound are rejected: the rest is a whole number of periods.
  const std::uint64_t rejected = (std::uint64_t{0} - bound) % bound;
  std::uint64_t word = next_u64();
  while (word < rejected) word = next_u64();
  return word % bound;
}

void philox_uniform(RandomKey key, std::uint32_t first_block, std::span<float> out) {
  for_each_block(key, first_block, out, [](const PhiloxCounter& block, float* to) {
    for (int i = 0; i < 4; ++i) to[i] = open_unit_float(block[i]);
  });
}

void philox_normal(RandomKey key, std::uint32_t first_block, std::span<float> out) {
  for_each_block(key, first_block, out, [](const PhiloxCounter& block, float* to) {
    for (int i = 0; i < 4; i += 2) {
      const auto [first, second] = box_muller(open_unit_double(block[i]), open_unit_double(block[i + 1]));
      to[i] = static_cast<float>(first);
      to[i + 1] = static_cast<float>(second);
    }
  });
}

}  // namespace dirigo
