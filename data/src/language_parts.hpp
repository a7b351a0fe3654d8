// What several synthetic languages are made of.
#pragma once

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string_view>
#include <vector>

#include "dirigo/core/errors.hpp"
#include "dirigo/core/philox.hpp"
#include "dirigo/data/synthetic.hpp"

namespace dirigo {

inline double plogp(double p) {
  return p > 0 ? -p * std::log(p) : 0.0;
}

template <class Number>
void require_range(std::string_view language, std::string_view option, Number value, Number least,
                   Number most) {
  if (value >= least && value <= most) return;
  throw ValueError(
      fmt::format("[synthetic:{}] {}: expected {} to {}, got {}", language, option, least, most, value));
}

// Gives bytes to symbols, in the order of their tokens: the wanted printable ones, then those from 128 on,
// then any.
class Alphabet {
 public:
  // Appends `count` bytes. At most 256 are there in all.
  Alphabet& take(std::string_view wanted, std::size_t count) {
    const std::size_t size = bytes_.size() + count;
    for (const char c : wanted) take_byte(static_cast<unsigned char>(c), size);
    for (int i = 0; i < 256; ++i) take_byte((i + 128) % 256, size);
    return *this;
  }
  Vocabulary vocabulary() const { return Vocabulary(bytes_); }

 private:
  void take_byte(int byte, std::size_t size) {
    if (bytes_.size() == size || taken_[static_cast<std::size_t>(byte)]) return;
    taken_[static_cast<std::size_t>(byte)] = true;
    bytes_.push_back(byte);
  }

  std::array<bool, 256> taken_{};
  std::vector<int> bytes_;
};

// `count` different numbers below `bound`, in random order: the first steps of a Fisher-Yates shuffle.
inline std::vector<std::size_t> draw_different(PhiloxStream& random, std::size_t count, std::size_t bound) {
  std::vector<std::size_t> numbers(bound);
  std::iota(numbers.begin(), numbers.end(), std::size_t{0});
  for (std::size_t i = 0; i < count; ++i) std::swap(numbers[i], numbers[i + random.below(bound - i)]);
  numbers.resize(count);
  return numbers;
}

// A sequence in the making, all of it unscored; as long as asked for, or as the language needs at least.
inline Sequence unscored_sequence(std::int64_t length, std::int64_t least_length) {
  const auto size = static_cast<std::size_t>(std::max(length, least_length));
  return {std::vector<std::uint8_t>(size + 1), std::vector<Need>(size, Need::unscored),
          std::vector<std::int32_t>(size)};
}

inline void cut(Sequence& sequence, std::int64_t length) {
  const auto size = static_cast<std::size_t>(length);
  sequence.bytes.resize(size + 1);
  sequence.needs.resize(size);
  sequence.gaps.resize(size);
}

// The byte after `position` is to be recalled: its key stood there and `gap` bytes before.
inline void tag_recall(Sequence& sequence, std::size_t position, std::size_t gap, std::int64_t window) {
  sequence.needs[position] = static_cast<std::int64_t>(gap) < window ? Need::recall_near : Need::recall_far;
  sequence.gaps[position] = static_cast<std::int32_t>(gap);
}

// The floor of a language that knows its predictive distributions: their exact entropies, averaged over
// some generated sequences.
inline double sampled_entropy_floor(const Language& language, std::int64_t length) {
  constexpr std::int64_t tokens = 1 << 17;
  const auto sequences = static_cast<std::uint32_t>(std::max<std::int64_t>(16, tokens / length));
  double total = 0;
  for (std::uint32_t i = 0; i < sequences; ++i) {
    PhiloxStream random(random_key(0, 0, Purpose::data, 2), i);
    for (const double p : language.predictive(language.generate(random, length, 1).bytes)) total += plogp(p);
  }
  return total / (static_cast<double>(sequences) * static_cast<double>(length));
}

}  // namespace dirigo
