#include <map>
#include <memory>

#include "hidden_markov.hpp"
#include "language_parts.hpp"
#include "need_tagger.hpp"
#include "text_table.hpp"

namespace dirigo {
namespace {

// The kinds of segments, and of tokens: each kind's marker is the token of its number.
enum Kind : std::size_t { kText, kHidden, kFacts, kKinds };

class Composite final : public Language {
 public:
  explicit Composite(const CompositeOptions& options)
      : keys_(static_cast<std::size_t>(options.keys)),
        symbols_(static_cast<std::size_t>(options.symbols)),
        end_(1 / static_cast<double>(options.segment)),
        text_(options.seed),
        process_(static_cast<std::size_t>(options.states), symbols_, options.stay, options.seed),
        vocabulary_(Alphabet()
                        .take("({[", kKinds)
                        .take(TextTable::bytes, TextTable::symbols)
                        .take("0123456789", symbols_)
                        .take("ABCDEFGHIJKLMNOPQRSTUVWXYZ", keys_)
                        .take("!?@#$%&*+=<>/^~|", keys_)
                        .vocabulary()) {}

  const Vocabulary& vocabulary() const override { return vocabulary_; }
  std::vector<Need> tags() const override {
    return {Need::text, Need::first, Need::recall_near, Need::recall_far, Need::filter, Need::noise};
  }
  Sequence generate(PhiloxStream& random, std::int64_t length, std::int64_t window) const override;
  std::vector<double> predictive(std::span<const std::uint8_t> bytes) const override;
  std::optional<double> entropy_floor(std::int64_t length) const override {
    return sampled_entropy_floor(*this, length);
  }

 private:
  // The first tokens of each class.
  static constexpr std::size_t text_begin = kKinds, hidden_begin = text_begin + TextTable::symbols;
  std::size_t keys_begin() const { return hidden_begin + symbols_; }
  std::size_t values_begin() const { return keys_begin() + keys_; }

  std::size_t keys_, symbols_;
  double end_;  // probability that a segment ends behind a slot
  TextTable text_;
  HiddenMarkov process_;
  Vocabulary vocabulary_;
};

Sequence Composite::generate(PhiloxStream& random, std::int64_t length, std::int64_t window) const {
  constexpr Need need_of[kKinds] = {Need::text, Need::filter, Need::noise};
  NeedTagger tagger(length, window);
  Sequence sequence;
  const auto wanted = static_cast<std::size_t>(length) + 1;
  const auto emit = [&](std::size_t token, Need need) {
    if (sequence.bytes.size() < wanted - 1) tagger.tag(sequence.bytes.size(), need);
    sequence.bytes.push_back(vocabulary_.byte(static_cast<int>(token)));
  };
  std::vector<std::optional<std::size_t>> value_of(keys_);
  std::size_t kind = random.below(kKinds);
  while (sequence.bytes.size() < wanted) {
    emit(kind, need_of[kind]);
    TextTable::Context context;
    std::size_t state = process_.first_state(random);
    do {
      if (kind == kText) {
        context.push(text_.draw(random, context));
        emit(text_begin + context.one_back, Need::text);
      } else if (kind == kHidden) {
        emit(hidden_begin + process_.symbol(random, state), Need::filter);
        state = process_.next_state(random, state);
      } else {
        const std::size_t key = random.below(keys_);
        if (!value_of[key]) value_of[key] = random.below(keys_);
        tagger.key(sequence.bytes.size(), key);
        sequence.bytes.push_back(vocabulary_.byte(static_cast<int>(keys_begin() + key)));
        emit(values_begin() + *value_of[key], Need::noise);
      }
    } while (sequence.bytes.size() < wanted && random.uniform() >= end_);
    kind = (kind + 1 + random.below(kKinds - 1)) % kKinds;
  }
  sequence.bytes.resize(wanted);
  tagger.move_to(sequence);
  return sequence;
}

std::vector<double> Composite::predictive(std::span<const std::uint8_t> bytes) const {
  const auto classes = static_cast<std::size_t>(vocabulary_.size());
  std::vector<double> result((bytes.size() - 1) * classes);
  std::vector<std::optional<std::size_t>> value_of(keys_);
  std::size_t kind = kKinds;
  std::size_t key = keys_;  // none: the last token is no key
  TextTable::Context context;
  HiddenMarkov::Belief belief;
  for (std::size_t t = 0; t + 1 < bytes.size(); ++t) {
    const auto token = static_cast<std::size_t>(vocabulary_.token(bytes[t]));
    const auto row = std::span(result).subspan(t * classes, classes);
    const bool begins = token < kKinds;
    if (begins) {
      kind = token;
      context = {};
      belief = process_.prior();
    } else if (kind == kText) {
      context.push(token - text_begin);
    } else if (kind == kHidden) {
      process_.observe(belief, token - hidden_begin);
    } else if (key < keys_) {
      value_of[key] = token - values_begin();
      key = keys_;
    } else {
      key = token - keys_begin();
      for (std::size_t v = 0; v < keys_; ++v) {
        const double p = value_of[key] ? (v == *value_of[key] ? 1.0 : 0.0) : 1 / static_cast<double>(keys_);
        row[values_begin() + v] = p;
      }
      continue;
    }
    const double goes_on = begins ? 1 : 1 - end_;
    for (std::size_t other = 0; other < kKinds; ++other) {
      if (other != kind) row[other] = (1 - goes_on) / (kKinds - 1);
    }
    if (kind == kText) text_.predict(context, goes_on, row.subspan(text_begin));
    if (kind == kHidden) process_.predict(belief, goes_on, row.subspan(hidden_begin));
    if (kind == kFacts) {
      for (std::size_t k = 0; k < keys_; ++k) row[keys_begin() + k] = goes_on / static_cast<double>(keys_);
    }
  }
  return result;
}

}  // namespace

std::unique_ptr<Language> make_composite(const CompositeOptions& options) {
  require_range<std::int64_t>("composite", "keys", options.keys, 1, 64);
  require_range<std::int64_t>("composite", "segment", options.segment, 1, 1000);
  require_range<std::int64_t>("composite", "states", options.states, 1, 16);
  require_range<std::int64_t>("composite", "symbols", options.symbols, 2, 36);
  require_range("composite", "stay", options.stay, 0.0, 0.999);
  return std::make_unique<Composite>(options);
}

}  // namespace dirigo
