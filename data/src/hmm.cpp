#include <memory>

#include "hidden_markov.hpp"
#include "language_parts.hpp"

namespace dirigo {
namespace {

class Hmm final : public Language {
 public:
  explicit Hmm(const HmmOptions& options)
      : process_(static_cast<std::size_t>(options.states), static_cast<std::size_t>(options.symbols),
                 options.stay, options.seed),
        vocabulary_(
            Alphabet()
                .take("0123456789abcdefghijklmnopqrstuvwxyz", static_cast<std::size_t>(options.symbols))
                .vocabulary()) {}

  const Vocabulary& vocabulary() const override { return vocabulary_; }
  std::vector<Need> tags() const override { return {Need::filter}; }
  Sequence generate(PhiloxStream& random, std::int64_t length, std::int64_t window) const override;
  std::vector<double> predictive(std::span<const std::uint8_t> bytes) const override;
  std::optional<double> entropy_floor(std::int64_t length) const override {
    return sampled_entropy_floor(*this, length);
  }

 private:
  HiddenMarkov process_;
  Vocabulary vocabulary_;
};

Sequence Hmm::generate(PhiloxStream& random, std::int64_t length, std::int64_t) const {
  Sequence sequence = unscored_sequence(length, 1);
  std::fill(sequence.needs.begin(), sequence.needs.end(), Need::filter);
  std::size_t state = process_.first_state(random);
  for (auto& byte : sequence.bytes) {
    byte = vocabulary_.byte(static_cast<int>(process_.symbol(random, state)));
    state = process_.next_state(random, state);
  }
  return sequence;
}

std::vector<double> Hmm::predictive(std::span<const std::uint8_t> bytes) const {
  const auto classes = static_cast<std::size_t>(vocabulary_.size());
  std::vector<double> result((bytes.size() - 1) * classes);
  HiddenMarkov::Belief belief = process_.prior();
  for (std::size_t t = 0; t + 1 < bytes.size(); ++t) {
    process_.observe(belief, static_cast<std::size_t>(vocabulary_.token(bytes[t])));
    process_.predict(belief, 1, std::span(result).subspan(t * classes, classes));
  }
  return result;
}

}  // namespace

std::unique_ptr<Language> make_hmm(const HmmOptions& options) {
  require_range<std::int64_t>("hmm", "states", options.states, 1, 16);
  require_range<std::int64_t>("hmm", "symbols", options.symbols, 2, 36);
  require_range("hmm", "stay", options.stay, 0.0, 0.999);
  return std::make_unique<Hmm>(options);
}

}  // namespace dirigo
