// The text of the recall and composite languages: 32 symbols, of which each is, with probability 0.9, the one
// that a fixed table gives for the two text symbols before it, else uniform.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "dirigo/core/philox.hpp"

namespace dirigo {

class TextTable {
 public:
  static constexpr std::size_t symbols = 32;
  static constexpr std::string_view bytes = "abcdefghijklmnopqrstuvwxyz.,;:-'";
  static constexpr double follow = 0.9;  // how often the text follows the table

  // The last two text symbols; before the beginning both stand at index 32.
  struct Context {
    std::size_t two_back = symbols, one_back = symbols;

    void push(std::size_t symbol) {
      two_back = one_back;
      one_back = symbol;
    }
  };

  explicit TextTable(std::uint64_t seed) {
    PhiloxStream random(random_key(seed, 0, Purpose::data), 0);
    for (auto& row : table_) {
      for (auto& next : row) next = static_cast<std::uint8_t>(random.below(symbols));
    }
  }

  std::size_t draw(PhiloxStream& random, const Context& context) const {
    const bool follows = random.uniform() < follow;
    return follows ? table_[context.two_back][context.one_back] : random.below(symbols);
  }

  // Adds `weight` times the distribution of the next symbol to probabilities[symbol].
  void predict(const Context& context, double weight, std::span<double> probabilities) const {
    for (std::size_t i = 0; i < symbols; ++i) probabilities[i] += weight * (1 - follow) / symbols;
    probabilities[table_[context.two_back][context.one_back]] += weight * follow;
  }

 private:
  std::array<std::array<std::uint8_t, symbols + 1>, symbols + 1> table_{};  // [two back][one back]
};

}  // namespace dirigo
