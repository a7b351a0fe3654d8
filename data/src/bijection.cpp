#include <memory>

#include "language_parts.hpp"

namespace dirigo {
namespace {

class Bijection final : public Language {
 public:
  explicit Bijection(const BijectionOptions& options)
      : values_(static_cast<std::size_t>(options.values)),
        vocabulary_(Alphabet()
                        .take("\n", 1)
                        .take("ABCDEFGHIJKLMNOPQRSTUVWXYZ", values_)
                        .take("abcdefghijklmnopqrstuvwxyz", values_)
                        .vocabulary()) {}

  const Vocabulary& vocabulary() const override { return vocabulary_; }
  std::vector<Need> tags() const override { return {Need::eliminate, Need::unscored}; }
  Sequence generate(PhiloxStream& random, std::int64_t length, std::int64_t window) const override;
  std::vector<double> predictive(std::span<const std::uint8_t> bytes) const override;
  std::optional<double> entropy_floor(std::int64_t length) const override;

 private:
  std::size_t round_bytes() const { return 2 * values_ + 1; }
  // Whether a key stands at this position, and its number in the round.
  bool is_key(std::size_t position) const {
    return position % round_bytes() % 2 == 0 && position % round_bytes() != 2 * values_;
  }
  std::size_t pair(std::size_t position) const { return position % round_bytes() / 2; }

  std::size_t values_;
  Vocabulary vocabulary_;
};

Sequence Bijection::generate(PhiloxStream& random, std::int64_t length, std::int64_t) const {
  Sequence sequence = unscored_sequence(length, 1);
  const auto byte = [&](std::size_t token) { return vocabulary_.byte(static_cast<int>(token)); };
  std::vector<std::size_t> keys, values;  // both in the order of this round
  for (std::size_t t = 0; t < sequence.bytes.size(); ++t) {
    if (t % round_bytes() == 0) {
      keys = draw_different(random, values_, values_);
      values = draw_different(random, values_, values_);
    }
    if (is_key(t)) {
      sequence.bytes[t] = byte(1 + keys[pair(t)]);
      if (t < sequence.needs.size()) sequence.needs[t] = Need::eliminate;
    } else {
      sequence.bytes[t] = pair(t) == values_ ? '\n' : byte(1 + values_ + values[pair(t)]);
    }
  }
  return sequence;
}

// At a key: uniform over the values that this round has not shown.
std::vector<double> Bijection::predictive(std::span<const std::uint8_t> bytes) const {
  const auto classes = static_cast<std::size_t>(vocabulary_.size());
  std::vector<double> result((bytes.size() - 1) * classes);
  std::vector<bool> shown;
  for (std::size_t t = 0; t + 1 < bytes.size(); ++t) {
    const auto token = static_cast<std::size_t>(vocabulary_.token(bytes[t]));
    if (t % round_bytes() == 0) shown.assign(values_, false);
    if (is_key(t)) {
      const double p = 1 / static_cast<double>(values_ - pair(t));
      for (std::size_t v = 0; v < values_; ++v) {
        if (!shown[v]) result[t * classes + 1 + values_ + v] = p;
      }
    } else if (token > values_) {
      shown[token - 1 - values_] = true;
    }
  }
  return result;
}

std::optional<double> Bijection::entropy_floor(std::int64_t length) const {
  double total = 0, keys = 0;
  for (std::size_t t = 0; t < static_cast<std::size_t>(length); ++t) {
    if (!is_key(t)) continue;
    total += std::log(static_cast<double>(values_ - pair(t)));
    keys += 1;
  }
  return total / keys;
}

}  // namespace

std::unique_ptr<Language> make_bijection(const BijectionOptions& options) {
  require_range<std::int64_t>("bijection", "values", options.values, 2, 100);
  return std::make_unique<Bijection>(options);
}

}  // namespace dirigo
