#include <memory>

#include "language_parts.hpp"

namespace dirigo {
namespace {

class Copy final : public Language {
 public:
  explicit Copy(const CopyOptions& options)
      : tokens_(static_cast<std::size_t>(options.tokens)),
        symbols_(static_cast<std::size_t>(options.symbols)),
        vocabulary_(Alphabet()
                        .take("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", symbols_)
                        .take(".>", 2)
                        .vocabulary()) {}

  const Vocabulary& vocabulary() const override { return vocabulary_; }
  std::vector<Need> tags() const override { return {Need::copy, Need::unscored}; }
  std::int64_t least_length() const override { return 2 * static_cast<std::int64_t>(tokens_); }
  Sequence generate(PhiloxStream& random, std::int64_t length, std::int64_t window) const override;
  std::optional<double> entropy_floor(std::int64_t length) const override {
    return length < least_length() ? std::nullopt : std::optional(0.0);
  }

 private:
  std::size_t tokens_, symbols_;
  Vocabulary vocabulary_;
};

Sequence Copy::generate(PhiloxStream& random, std::int64_t length, std::int64_t) const {
  Sequence sequence = unscored_sequence(length, least_length());
  const std::size_t marker = sequence.needs.size() - tokens_;
  std::fill(sequence.bytes.begin(), sequence.bytes.end(), '.');
  sequence.bytes[marker] = '>';
  std::vector<std::size_t> places = draw_different(random, tokens_, marker);
  std::sort(places.begin(), places.end());
  for (std::size_t i = 0; i < tokens_; ++i) {
    const std::size_t copied = marker + 1 + i;
    const std::uint8_t symbol = vocabulary_.byte(static_cast<int>(random.below(symbols_)));
    sequence.bytes[places[i]] = sequence.bytes[copied] = symbol;
    sequence.needs[copied - 1] = Need::copy;
    sequence.gaps[copied - 1] = static_cast<std::int32_t>(copied - places[i]);
  }
  cut(sequence, length);
  return sequence;
}

}  // namespace

std::unique_ptr<Language> make_copy(const CopyOptions& options) {
  require_range<std::int64_t>("copy", "tokens", options.tokens, 1, 4096);
  require_range<std::int64_t>("copy", "symbols", options.symbols, 2, 62);
  return std::make_unique<Copy>(options);
}

}  // namespace dirigo
