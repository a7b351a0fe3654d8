#include "dirigo/data/vocabulary.hpp"

#include <fmt/core.h>

#include <numeric>

#include "dirigo/core/errors.hpp"

namespace dirigo {
namespace {

std::span<const std::uint8_t> as_bytes(const std::string& text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

}  // namespace

Vocabulary::Vocabulary(const std::vector<int>& byte_values) {
  if (byte_values.empty()) throw ValueError("[vocabulary] byte values: expected at least one, got none");
  table_.fill(kUnknown);
  for (const int value : byte_values) {
    if (value < 0 || value > 255) {
      throw ValueError(fmt::format("[vocabulary] byte value: expected 0 to 255, got {}", value));
    }
    const auto byte = static_cast<std::uint8_t>(value);
    if (table_[byte] != kUnknown) {
      throw ValueError(fmt::format("[vocabulary] byte values: expected distinct ones, got {} twice", value));
    }
    table_[byte] = static_cast<std::int16_t>(bytes_.size());
    bytes_.push_back(byte);
  }
}

Vocabulary Vocabulary::observed(std::span<const std::uint8_t> text) {
  std::array<bool, 256> seen{};
  for (const std::uint8_t byte : text) seen[byte] = true;
  std::vector<int> values;
  for (int value = 0; value < 256; ++value) {
    if (seen[static_cast<std::size_t>(value)]) values.push_back(value);
  }
  return Vocabulary(values);
}

Vocabulary Vocabulary::bytes256() {
  std::vector<int> values(256);
  std::iota(values.begin(), values.end(), 0);
  return Vocabulary(values);
}

std::uint8_t Vocabulary::byte(int token) const {
  if (token < 0 || token >= size()) {
    throw ValueError(fmt::format("[vocabulary] token: expected 0 to {}, got {}", size() - 1, token));
  }
  return bytes_[static_cast<std::size_t>(token)];
}

Vocabulary::Encoded Vocabulary::encode(std::span<const std::uint8_t> text) const {
  Encoded encoded;
  encoded.tokens.reserve(text.size());
  for (const std::uint8_t byte : text) {
    if (table_[byte] != kUnknown) encoded.tokens.push_back(table_[byte]);
  }
  encoded.skipped = text.size() - encoded.tokens.size();
  return encoded;
}

Vocabulary::Encoded Vocabulary::encode(const std::string& text) const {
  return encode(as_bytes(text));
}

std::string Vocabulary::decode(std::span<const std::int32_t> tokens) const {
  std::string text;
  text.reserve(tokens.size());
  for (const std::int32_t t : tokens) text += static_cast<char>(byte(t));
  return text;
}

std::size_t Vocabulary::count_unknown(std::span<const std::uint8_t> text) const {
  std::size_t unknown = 0;
  for (const std::uint8_t byte : text) unknown += table_[byte] == kUnknown;
  return unknown;
}

}  // namespace dirigo
