#include <memory>

#include "language_parts.hpp"

namespace dirigo {
namespace {

class Induction final : public Language {
 public:
  explicit Induction(const InductionOptions& options)
      : queries_(static_cast<std::size_t>(options.queries)),
        symbols_(static_cast<std::size_t>(options.symbols)),
        vocabulary_(Alphabet().take("abcdefghijklmnopqrstuvwxyz", symbols_).take("*", 1).vocabulary()) {}

  const Vocabulary& vocabulary() const override { return vocabulary_; }
  std::vector<Need> tags() const override { return {Need::recall_near, Need::recall_far, Need::unscored}; }
  std::int64_t least_length() const override { return 2 * static_cast<std::int64_t>(queries_) + 1; }
  Sequence generate(PhiloxStream& random, std::int64_t length, std::int64_t window) const override;
  std::optional<double> entropy_floor(std::int64_t length) const override {
    return length < least_length() ? std::nullopt : std::optional(0.0);
  }

 private:
  std::uint8_t draw_symbol(PhiloxStream& random) const {
    return vocabulary_.byte(static_cast<int>(random.below(symbols_)));
  }

  std::size_t queries_, symbols_;
  Vocabulary vocabulary_;
};

// Slots of two bytes, the last of which ends the sequence and always asks.
Sequence Induction::generate(PhiloxStream& random, std::int64_t length, std::int64_t window) const {
  Sequence sequence = unscored_sequence(length, least_length());
  const std::size_t slots = sequence.bytes.size() / 2, begin = sequence.bytes.size() % 2;
  std::vector<std::size_t> chosen = draw_different(random, queries_, slots - 1);
  std::sort(chosen.begin(), chosen.end());
  chosen.push_back(slots - 1);
  for (auto& byte : sequence.bytes) byte = draw_symbol(random);
  const std::uint8_t answer = draw_symbol(random);
  std::size_t last = 0;
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    const std::size_t position = begin + 2 * chosen[i];
    sequence.bytes[position] = '*';
    sequence.bytes[position + 1] = answer;
    if (i > 0) tag_recall(sequence, position, position - last, window);
    last = position;
  }
  cut(sequence, length);
  return sequence;
}

}  // namespace

std::unique_ptr<Language> make_induction(const InductionOptions& options) {
  require_range<std::int64_t>("induction", "queries", options.queries, 1, 4096);
  require_range<std::int64_t>("induction", "symbols", options.symbols, 2, 26);
  return std::make_unique<Induction>(options);
}

}  // namespace dirigo
