#include <fmt/core.h>

#include <array>
#include <cmath>
#include <memory>
#include <numeric>
#include <string_view>

#include "dirigo/core/errors.hpp"
#include "dirigo/data/synthetic.hpp"
#include "need_tagger.hpp"

namespace dirigo {
namespace {

constexpr std::size_t kText = 32;             // text symbols
constexpr std::size_t kContexts = kText + 1;  // and the index that stands before the beginning
constexpr double kFollow = 0.9;               // how often the text follows the table

double plogp(double p) {
  return p > 0 ? -p * std::log(p) : 0.0;
}

// Byte of key or value i: one of `printable`, or from `rest` on.
int symbol_byte(std::string_view printable, int rest, std::size_t i) {
  return i < printable.size() ? printable[i] : rest + static_cast<int>(i - printable.size());
}

Vocabulary recall_vocabulary(std::size_t keys) {
  constexpr std::string_view text = "abcdefghijklmnopqrstuvwxyz.,;:-'";
  constexpr std::string_view key_bytes = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
  constexpr std::string_view value_bytes = "0123456789!?@#$%&*+=<>/^~|";
  static_assert(text.size() == kText);
  std::vector<int> bytes(text.begin(), text.end());
  for (std::size_t i = 0; i < keys; ++i) bytes.push_back(symbol_byte(key_bytes, 128, i));
  for (std::size_t i = 0; i < keys; ++i) bytes.push_back(symbol_byte(value_bytes, 192, i));
  return Vocabulary(bytes);
}

class Recall final : public Language {
 public:
  explicit Recall(const RecallOptions& options)
      : keys_(static_cast<std::size_t>(options.keys)),
        active_(static_cast<std::size_t>(options.active_keys)),
        key_rate_(options.key_rate),
        vocabulary_(recall_vocabulary(keys_)) {
    PhiloxStream random(random_key(options.seed, 0, Purpose::data), 0);
    for (auto& row : table_) {
      for (auto& next : row) next = static_cast<std::uint8_t>(random.below(kText));
    }
  }

  const Vocabulary& vocabulary() const override { return vocabulary_; }
  std::vector<Need> tags() const override { return NeedTagger::tags(); }
  Sequence generate(PhiloxStream& random, std::int64_t length, std::int64_t window) const override;
  double entropy_floor(std::int64_t length) const override;

 private:
  std::vector<std::size_t> draw_active_keys(PhiloxStream& random) const;
  double key_entropy(std::size_t seen) const;

  std::size_t keys_;
  std::size_t active_;
  double key_rate_;
  Vocabulary vocabulary_;
  std::array<std::array<std::uint8_t, kContexts>, kContexts>
      table_{};  // [two back][one back] -> usual next text
};

// A uniform subset: the first steps of a Fisher-Yates shuffle.
std::vector<std::size_t> Recall::draw_active_keys(PhiloxStream& random) const {
  std::vector<std::size_t> keys(keys_);
  std::iota(keys.begin(), keys.end(), std::size_t{0});
  for (std::size_t i = 0; i < active_; ++i) std::swap(keys[i], keys[i + random.below(keys_ - i)]);
  keys.resize(active_);
  return keys;
}

Sequence Recall::generate(PhiloxStream& random, std::int64_t length, std::int64_t window) const {
  const auto active = draw_active_keys(random);
  std::vector<int> value_of(keys_, -1);
  NeedTagger tagger(length, window);
  Sequence sequence;
  const auto emit = [&](std::size_t symbol) {
    sequence.bytes.push_back(vocabulary_.byte(static_cast<int>(symbol)));
  };
  std::size_t two_back = kText;
  std::size_t one_back = kText;
  const auto wanted = static_cast<std::size_t>(length) + 1;
  while (sequence.bytes.size() < wanted) {
    if (random.uniform() < key_rate_) {
      const std::size_t key = active[random.below(active_)];
      if (value_of[key] < 0) value_of[key] = static_cast<int>(random.below(keys_));
      tagger.key(sequence.bytes.size(), kText + key);
      emit(kText + key);
      emit(kText + keys_ + static_cast<std::size_t>(value_of[key]));
    } else {
      const bool follow = random.uniform() < kFollow;
      const std::size_t next = follow ? table_[two_back][one_back] : random.below(kText);
      two_back = one_back;
      one_back = next;
      emit(next);
    }
  }
  sequence.bytes.resize(wanted);
  tagger.move_to(sequence);
  return sequence;
}

// Entropy of the next key's identity when `seen` different keys have occurred: each of them has probability
// 1/active, and the unseen active ones are a uniform subset of the rest.
double Recall::key_entropy(std::size_t seen) const {
  const auto active = static_cast<double>(active_);
  const auto old_keys = static_cast<double>(seen);
  const auto unseen = static_cast<double>(keys_ - seen);
  double entropy = old_keys * plogp(1 / active);
  if (seen < active_) entropy += unseen * plogp((active - old_keys) / active / unseen);
  return entropy;
}

// Exact: P(slot t is free to hold text or a key, m different keys seen before) follows a small recursion, and
// the entropy of the next symbol depends on nothing else. Values cost log(keys) behind a new key, nothing
// behind an old one.
double Recall::entropy_floor(std::int64_t length) const {
  const double followed = kFollow + (1 - kFollow) / kText;
  const double text_entropy = plogp(followed) + (kText - 1) * plogp((1 - kFollow) / kText);
  const double kind_entropy = plogp(key_rate_) + plogp(1 - key_rate_);
  const auto targets = static_cast<std::size_t>(length);  // slots 1..length; slot 0 is given
  std::vector<std::vector<double>> free(targets + 3, std::vector<double>(active_ + 1));
  free[0][0] = 1;
  double total = 0;
  for (std::size_t t = 0; t <= targets; ++t) {
    for (std::size_t m = 0; m <= active_; ++m) {
      const double p = free[t][m];
      if (p == 0) continue;
      const double is_new = static_cast<double>(active_ - m) / static_cast<double>(active_);
      if (t > 0) total += p * (kind_entropy + key_rate_ * key_entropy(m) + (1 - key_rate_) * text_entropy);
      if (t < targets) total += p * key_rate_ * is_new * std::log(static_cast<double>(keys_));
      free[t + 1][m] += p * (1 - key_rate_);
      free[t + 2][m] += p * key_rate_ * (1 - is_new);
      if (m < active_) free[t + 2][m + 1] += p * key_rate_ * is_new;
    }
  }
  return total / static_cast<double>(length);
}

}  // namespace

std::unique_ptr<Language> make_recall(const RecallOptions& options) {
  if (options.keys < 1 || options.keys > 64) {
    throw ValueError(fmt::format("[synthetic:recall] keys: expected 1 to 64, got {}", options.keys));
  }
  if (options.active_keys < 1 || options.active_keys > options.keys) {
    throw ValueError(fmt::format("[synthetic:recall] active_keys: expected 1 to keys = {}, got {}",
                                 options.keys, options.active_keys));
  }
  if (!(options.key_rate > 0 && options.key_rate < 1)) {
    throw ValueError(fmt::format("[synthetic:recall] key_rate: expected a number between 0 and 1, got {}",
                                 options.key_rate));
  }
  return std::make_unique<Recall>(options);
}

}  // namespace dirigo
