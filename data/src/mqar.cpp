#include <cmath>
#include <memory>

#include "language_parts.hpp"

namespace dirigo {
namespace {

constexpr std::size_t kFillers = 16;
constexpr double kPower = 0.01;  // of the gaps: slot g has weight g^(power - 1)

class Mqar final : public Language {
 public:
  explicit Mqar(const MqarOptions& options)
      : pairs_(static_cast<std::size_t>(options.pairs)),
        keys_(static_cast<std::size_t>(options.keys)),
        values_(static_cast<std::size_t>(options.values)),
        vocabulary_(Alphabet()
                        .take("abcdefghijklmnop", kFillers)
                        .take("ABCDEFGHIJKLMNOPQRSTUVWXYZ", keys_)
                        .take("0123456789", values_)
                        .vocabulary()) {}

  const Vocabulary& vocabulary() const override { return vocabulary_; }
  std::vector<Need> tags() const override { return {Need::recall_near, Need::recall_far, Need::unscored}; }
  std::int64_t least_length() const override { return 4 * static_cast<std::int64_t>(pairs_); }
  Sequence generate(PhiloxStream& random, std::int64_t length, std::int64_t window) const override;
  std::optional<double> entropy_floor(std::int64_t length) const override {
    return length < least_length() ? std::nullopt : std::optional(0.0);
  }

 private:
  std::uint8_t byte(std::size_t token) const { return vocabulary_.byte(static_cast<int>(token)); }
  std::vector<std::size_t> draw_slots(PhiloxStream& random, std::size_t slots) const;

  std::size_t pairs_, keys_, values_;
  Vocabulary vocabulary_;
};

// For each pair one of the slots, each of them taken once, with probabilities by the power law among those
// that are free.
std::vector<std::size_t> Mqar::draw_slots(PhiloxStream& random, std::size_t slots) const {
  std::vector<double> sums;  // of the weights so far
  for (std::size_t g = 1; g <= slots; ++g) {
    const double weight = std::pow(static_cast<double>(g), kPower - 1);
    sums.push_back((sums.empty() ? 0 : sums.back()) + weight);
  }
  std::vector<bool> taken(slots);
  std::vector<std::size_t> chosen;
  while (chosen.size() < pairs_) {
    const double u = random.uniform() * sums.back();
    const auto found = static_cast<std::size_t>(std::upper_bound(sums.begin(), sums.end(), u) - sums.begin());
    const std::size_t slot = std::min(found, slots - 1);
    if (taken[slot]) continue;
    taken[slot] = true;
    chosen.push_back(slot);
  }
  return chosen;
}

Sequence Mqar::generate(PhiloxStream& random, std::int64_t length, std::int64_t window) const {
  Sequence sequence = unscored_sequence(length, least_length());
  const std::vector<std::size_t> keys = draw_different(random, pairs_, keys_),
                                 values = draw_different(random, pairs_, values_),
                                 slots = draw_slots(random, (sequence.needs.size() - 2 * pairs_) / 2);
  for (auto& filler : sequence.bytes) filler = byte(random.below(kFillers));
  for (std::size_t i = 0; i < pairs_; ++i) {
    const std::size_t told = 2 * i, asked = 2 * pairs_ + 2 * slots[i];
    for (const std::size_t position : {told, asked}) {
      sequence.bytes[position] = byte(kFillers + keys[i]);
      sequence.bytes[position + 1] = byte(kFillers + keys_ + values[i]);
    }
    tag_recall(sequence, asked, asked - told, window);
  }
  cut(sequence, length);
  return sequence;
}

}  // namespace

std::unique_ptr<Language> make_mqar(const MqarOptions& options) {
  require_range<std::int64_t>("mqar", "keys", options.keys, 1, 120);
  require_range<std::int64_t>("mqar", "values", options.values, 1, 120);
  require_range<std::int64_t>("mqar", "pairs", options.pairs, 1, std::min(options.keys, options.values));
  return std::make_unique<Mqar>(options);
}

}  // namespace dirigo
