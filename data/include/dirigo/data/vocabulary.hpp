// The byte vocabulary: one token per byte value.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace dirigo {

// An ordered list of distinct byte values; a token is an index into it.
class Vocabulary {
 public:
  static constexpr std::int16_t kUnknown = -1;

  // Token i stands for byte_values[i]. Throws ValueError if the list is empty or has a value twice or above
  // 255.
  explicit Vocabulary(const std::vector<int>& byte_values);

  // The distinct bytes of `text`, sorted. Throws ValueError for an empty text.
  static Vocabulary observed(std::span<const std::uint8_t> text);

  // All 256 byte values: token = byte.
  static Vocabulary bytes256();

  int size() const { return static_cast<int>(bytes_.size()); }

  // The token of a byte, kUnknown for one outside the vocabulary.
  std::int16_t token(std::uint8_t byte) const { return table_[byte]; }

  // The byte of a token. Throws ValueError outside [0, size()).
  std::uint8_t byte(int token) const;

  // The byte values in token order, as the constructor takes them.
  std::vector<int> byte_values() const { return {bytes_.begin(), bytes_.end()}; }

  struct Encoded {
    std::vector<std::int32_t> tokens;
    std::size_t skipped = 0;  // unknown bytes, removed from the tokens
  };
  Encoded encode(std::span<const std::uint8_t> text) const;
  Encoded encode(const std::string& text) const;

  std::string decode(std::span<const std::int32_t> tokens) const;

  // How many bytes of `text` the vocabulary does not know.
  std::size_t count_unknown(std::span<const std::uint8_t> text) const;

  bool operator==(const Vocabulary& other) const { return bytes_ == other.bytes_; }

 private:
  std::vector<std::uint8_t> bytes_;
  std::array<std::int16_t, 256> table_{};
};

}  // namespace dirigo
