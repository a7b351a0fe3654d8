#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "dirigo/core/errors.hpp"
#include "dirigo/data/synthetic.hpp"
#include "need_tagger.hpp"

namespace dirigo {
namespace {

// Names with different initials: the capital initial is the key, and the house number stands directly behind
// it, the form of fact that two layers of attention learn to look up first.
constexpr std::array<std::string_view, 10> kNames = {"ant", "bear", "cat",  "dog",  "elk",
                                                     "fox", "goat", "hare", "ibex", "jay"};
constexpr std::array<std::string_view, 4> kFillers = {"it rains. ", "a bird sings. ", "the sun is up. ",
                                                      "all is still. "};
constexpr std::array<std::string_view, 2> kLists = {"walk to ", "mail for "};

// The key of an animal: its capital initial.
char capital(std::size_t name) {
  return static_cast<char>('A' + name);
}

double plogp(double p) {
  return p > 0 ? -p * std::log(p) : 0.0;
}

// The story under way, and the entropy of each of its bytes given the earlier ones.
class Writer {
 public:
  struct Choice {
    std::string text;
    double probability;
  };

  // Entropies are only kept if `measured`: training does without them.
  Writer(PhiloxStream& random, bool measured) : random_(random), measured_(measured) {}

  // Bytes that follow from what stands there already.
  void say(std::string_view text) {
    text_ += text;
    if (measured_) entropy_.resize(text_.size(), 0.0);
  }

  void say(char byte) { say(std::string_view(&byte, 1)); }

  // One of `count` bytes from `first` on, uniformly; returns which.
  std::size_t uniform(char first, std::size_t count) {
    const std::size_t i = random_.below(count);
    text_ += static_cast<char>(first + static_cast<char>(i));
    if (measured_) entropy_.push_back(std::log(static_cast<double>(count)));
    return i;
  }

  // One of the choices, none of which is a prefix of another; returns which.
  std::size_t choose(const std::vector<Choice>& choices) {
    const std::size_t chosen = draw(choices);
    const std::string& text = choices[chosen].text;
    for (std::size_t i = 0; measured_ && i < text.size(); ++i) {
      entropy_.push_back(byte_entropy(choices, text, i));
    }
    text_ += text;
    return chosen;
  }

  const std::string& text() const { return text_; }
  const std::vector<double>& entropy() const { return entropy_; }

 private:
  std::size_t draw(const std::vector<Choice>& choices) {
    double u = random_.uniform();
    std::size_t i = 0;
    while (i + 1 < choices.size() && u >= choices[i].probability) u -= choices[i++].probability;
    return i;
  }

  // Entropy of byte i of the choice, given its first i bytes.
  static double byte_entropy(const std::vector<Choice>& choices, const std::string& text, std::size_t i) {
    std::array<double, 128> weight{};
    double total = 0;
    for (const Choice& choice : choices) {
      if (choice.text.compare(0, i, text, 0, i) != 0) continue;
      weight[static_cast<std::size_t>(choice.text[i])] += choice.probability;
      total += choice.probability;
    }
    double entropy = 0;
    for (const double w : weight) entropy += plogp(w / total);
    return entropy;
  }

  PhiloxStream& random_;
  bool measured_;
  std::string text_;
  std::vector<double> entropy_;
};

class Fables final : public Language {
 public:
  explicit Fables(const FablesOptions& options)
      : names_(static_cast<std::size_t>(options.names)),
        objects_(static_cast<std::size_t>(options.objects)),
        stops_(options.stops),
        openings_(body_openings(names_, options.filler)),
        vocabulary_(fables_vocabulary(names_, objects_)) {}

  const Vocabulary& vocabulary() const override { return vocabulary_; }
  std::vector<Need> tags() const override { return NeedTagger::tags(); }
  Sequence generate(PhiloxStream& random, std::int64_t length, std::int64_t window) const override;
  double entropy_floor(std::int64_t length) const override;

 private:
  struct Story {
    std::string text;
    std::vector<double> entropy;
    std::vector<std::pair<std::size_t, std::size_t>> keys;  // position of a capital, animal
  };
  Story tell(PhiloxStream& random, std::size_t bytes, bool measured) const;

  static std::vector<Writer::Choice> body_openings(std::size_t names, double filler);
  static Vocabulary fables_vocabulary(std::size_t names, std::size_t objects);

  std::size_t names_;
  std::size_t objects_;
  std::int64_t stops_;                    // homes per list
  std::vector<Writer::Choice> openings_;  // questions by animal, lists, fillers
  Vocabulary vocabulary_;
};

std::vector<Writer::Choice> Fables::body_openings(std::size_t names, double filler) {
  const double form = (1 - filler) / (1 + kLists.size());  // a question, or one of the lists
  std::vector<Writer::Choice> openings;
  for (std::size_t name = 0; name < names; ++name) {
    openings.push_back({fmt::format("{}? at ", kNames[name]), form / static_cast<double>(names)});
  }
  for (const std::string_view list : kLists) openings.push_back({std::string(list), form});
  if (filler > 0) {
    for (const std::string_view text : kFillers) {
      openings.push_back({std::string(text), filler / kFillers.size()});
    }
  }
  return openings;
}

Vocabulary Fables::fables_vocabulary(std::size_t names, std::size_t objects) {
  std::string text = " lives at .";
  for (const Writer::Choice& opening : body_openings(names, 0.5)) text += opening.text;
  for (std::size_t name = 0; name < names; ++name) text += capital(name);
  for (std::size_t i = 0; i < objects; ++i) text += static_cast<char>('0' + i);
  return Vocabulary::observed({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
}

Fables::Story Fables::tell(PhiloxStream& random, std::size_t bytes, bool measured) const {
  Writer writer(random, measured);
  std::vector<std::pair<std::size_t, std::size_t>> keys;
  std::vector<char> home(names_);
  const auto note_key = [&](std::size_t name) { keys.emplace_back(writer.text().size(), name); };

  std::vector<std::size_t> untold(names_);
  for (std::size_t name = 0; name < names_; ++name) untold[name] = name;
  while (!untold.empty()) {
    std::vector<Writer::Choice> introductions;
    for (const std::size_t name : untold) {
      introductions.push_back(
          {fmt::format("{} lives at ", kNames[name]), 1.0 / static_cast<double>(untold.size())});
    }
    const std::size_t chosen = writer.choose(introductions);
    const std::size_t name = untold[chosen];
    untold.erase(untold.begin() + static_cast<std::ptrdiff_t>(chosen));
    note_key(name);
    writer.say(capital(name));
    home[name] = static_cast<char>('0' + writer.uniform('0', objects_));
    writer.say(". ");
  }
  while (writer.text().size() < bytes) {
    const std::size_t opening = writer.choose(openings_);
    if (opening < names_) {
      note_key(opening);
      writer.say(capital(opening));
      writer.say(home[opening]);
      writer.say(". ");
    } else if (opening < names_ + kLists.size()) {
      for (std::int64_t stop = 1; stop <= stops_; ++stop) {
        const std::size_t name = writer.uniform('A', names_);
        keys.emplace_back(writer.text().size() - 1, name);
        writer.say(home[name]);
      }
      writer.say(". ");
    }
  }
  return {writer.text(), writer.entropy(), std::move(keys)};
}

Sequence Fables::generate(PhiloxStream& random, std::int64_t length, std::int64_t window) const {
  const std::size_t bytes = static_cast<std::size_t>(length) + 1;
  const Story story = tell(random, bytes, false);
  NeedTagger tagger(length, window);
  for (const auto& [position, name] : story.keys) tagger.key(position, name);
  Sequence sequence;
  sequence.bytes.assign(story.text.begin(), story.text.begin() + static_cast<std::ptrdiff_t>(bytes));
  tagger.move_to(sequence);
  return sequence;
}

// The conditional entropies are exact; their mean over stories is an average over kStories of them (standard
// error below 0.002 nats from 128 bytes on).
double Fables::entropy_floor(std::int64_t length) const {
  constexpr std::uint32_t kStories = 512;
  const auto targets = static_cast<std::ptrdiff_t>(length);
  double total = 0;
  for (std::uint32_t i = 0; i < kStories; ++i) {
    PhiloxStream random(random_key(0, 0, Purpose::data, 2), i);
    const Story story = tell(random, static_cast<std::size_t>(length) + 1, true);
    for (auto h = story.entropy.begin() + 1; h != story.entropy.begin() + 1 + targets; ++h) total += *h;
  }
  return total / (static_cast<double>(kStories) * static_cast<double>(length));
}

}  // namespace

std::unique_ptr<Language> make_fables(const FablesOptions& options) {
  const auto names = static_cast<std::int64_t>(kNames.size());
  if (options.names < 1 || options.names > names) {
    throw ValueError(fmt::format("[synthetic:fables] names: expected 1 to {}, got {}", names, options.names));
  }
  if (options.objects < 2 || options.objects > 10) {
    throw ValueError(fmt::format("[synthetic:fables] objects: expected 2 to 10, got {}", options.objects));
  }
  if (options.stops < 1 || options.stops > 8) {
    throw ValueError(fmt::format("[synthetic:fables] stops: expected 1 to 8, got {}", options.stops));
  }
  if (!(options.filler >= 0 && options.filler <= 0.9)) {
    throw ValueError(fmt::format("[synthetic:fables] filler: expected 0 to 0.9, got {}", options.filler));
  }
  return std::make_unique<Fables>(options);
}

}  // namespace dirigo
