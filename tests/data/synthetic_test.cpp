#include "dirigo/data/synthetic.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>

using dirigo::FablesOptions;
using dirigo::Language;
using dirigo::make_fables;
using dirigo::make_recall;
using dirigo::Need;
using dirigo::PhiloxStream;
using dirigo::Purpose;
using dirigo::random_key;
using dirigo::RecallOptions;
using dirigo::Sequence;

namespace {

Sequence sequence(const Language& language, std::uint32_t index, std::int64_t length,
                  std::int64_t window = 16) {
  PhiloxStream random(random_key(1, 0, Purpose::test), index);
  return language.generate(random, length, window);
}

std::string text_of(const Sequence& s) {
  return {s.bytes.begin(), s.bytes.end()};
}

// Checks that keys and only keys are tagged, by the definition of the tags, and that a key's value never
// changes.
void check_facts(const Sequence& s, std::size_t length, std::size_t window, bool (*is_key)(std::uint8_t)) {
  REQUIRE(s.bytes.size() == length + 1);
  REQUIRE(s.needs.size() == length);
  REQUIRE(s.gaps.size() == length);
  std::map<std::uint8_t, std::size_t> last;
  std::map<std::uint8_t, std::uint8_t> value;
  for (std::size_t t = 0; t < length; ++t) {
    if (!is_key(s.bytes[t])) {
      REQUIRE(s.needs[t] == Need::text);
      REQUIRE(s.gaps[t] == 0);
      continue;
    }
    const auto seen = last.find(s.bytes[t]);
    if (seen == last.end()) {
      REQUIRE(s.needs[t] == Need::first);
      REQUIRE(s.gaps[t] == 0);
      value[s.bytes[t]] = s.bytes[t + 1];
    } else {
      REQUIRE(s.needs[t] == (t - seen->second >= window ? Need::recall_far : Need::recall_near));
      REQUIRE(s.gaps[t] == std::int32_t(t - seen->second));
      REQUIRE(s.bytes[t + 1] == value[s.bytes[t]]);
    }
    last[s.bytes[t]] = t;
  }
}

bool is_capital(std::uint8_t byte) {
  return byte >= 'A' && byte <= 'Z';
}

}  // namespace

TEST_CASE("recall: symbols in the order text, keys, values") {
  const auto language = make_recall({});
  const auto& vocabulary = language->vocabulary();
  CHECK(vocabulary.size() == 64);
  CHECK(vocabulary.byte(0) == 'a');
  CHECK(vocabulary.byte(31) == '\'');
  CHECK(vocabulary.byte(32) == 'A');
  CHECK(vocabulary.byte(47) == 'P');
  CHECK(vocabulary.byte(48) == '0');
  RecallOptions most;
  most.keys = most.active_keys = 64;
  CHECK(make_recall(most)->vocabulary().size() == 160);
}

TEST_CASE("recall: facts and tags") {
  const auto language = make_recall({});
  for (std::uint32_t i = 0; i < 50; ++i) check_facts(sequence(*language, i, 256, 32), 256, 32, is_capital);
  check_facts(sequence(*language, 0, 1), 1, 16, is_capital);
}

TEST_CASE("recall: rates, and a table that the text follows") {
  const auto language = make_recall({});
  std::map<std::string, std::map<int, int>> next;  // by the last two text symbols
  std::int64_t slots = 0, keys = 0, values_after_keys = 0;
  std::map<int, int> key_counts;
  for (std::uint32_t i = 0; i < 400; ++i) {
    const Sequence s = sequence(*language, i, 1023);
    std::string context = "^^";
    for (std::size_t t = 0; t + 1 < s.bytes.size(); ++t) {
      const int symbol = language->vocabulary().token(s.bytes[t]);
      if (symbol < 32) {
        ++next[context][symbol];
        context = context.substr(1) + static_cast<char>(s.bytes[t]);
      }
      if (symbol < 48) ++slots;
      if (symbol >= 32 && symbol < 48) {
        ++keys;
        ++key_counts[symbol];
        values_after_keys += language->vocabulary().token(s.bytes[t + 1]) >= 48;
      }
    }
  }
  CHECK(values_after_keys == keys);
  const double n = static_cast<double>(slots);  // about 366,000
  CHECK(std::abs(static_cast<double>(keys) / n - 0.12) < 5 * std::sqrt(0.12 * 0.88 / n));
  CHECK(key_counts.size() == 16);
  for (const auto& [key, count] : key_counts) {
    CHECK(std::abs(count - static_cast<double>(keys) / 16) < 5 * std::sqrt(static_cast<double>(keys) / 16));
  }
  // the usual successor has probability 0.9 + 0.1/32 in every context
  std::int64_t usual = 0, total = 0;
  for (const auto& [context, counts] : next) {
    std::int64_t all = 0, most = 0;
    for (const auto& [symbol, count] : counts) {
      all += count;
      most = std::max<std::int64_t>(most, count);
    }
    if (all < 100) continue;  // where the most frequent one is surely the usual one
    usual += most;
    total += all;
  }
  REQUIRE(total > 100000);
  const double p = 0.9 + 0.1 / 32;
  CHECK(std::abs(static_cast<double>(usual) / static_cast<double>(total) - p) <
        5 * std::sqrt(p * (1 - p) / static_cast<double>(total)));
  CHECK(next.count("^^") == 1);
  // ... and depends on both bytes: of 32 successors behind the same last byte, two agree once in 32
  const auto successor = [&](const std::string& context) {
    const auto rarer = [](const auto& a, const auto& b) { return a.second < b.second; };
    return std::max_element(next[context].begin(), next[context].end(), rarer)->first;
  };
  int different = 0;
  for (char first = 'a'; first < 'j'; ++first) {
    const std::string one{first, 'z'}, other{static_cast<char>(first + 1), 'z'};
    if (!next[one].empty() && !next[other].empty()) different += successor(one) != successor(other) ? 1 : 0;
  }
  CHECK(different > 4);
}

TEST_CASE("recall: the seed fixes the table, active_keys the number of keys per sequence") {
  RecallOptions options;
  options.active_keys = 3;
  const auto language = make_recall(options);
  std::set<std::uint8_t> over_all;
  for (std::uint32_t i = 0; i < 40; ++i) {
    std::set<std::uint8_t> keys;
    for (const std::uint8_t byte : sequence(*language, i, 1000).bytes) {
      if (is_capital(byte)) keys.insert(byte);
    }
    CHECK(keys.size() == 3);
    over_all.insert(keys.begin(), keys.end());
  }
  CHECK(over_all.size() == 16);
  CHECK(text_of(sequence(*make_recall({}), 3, 99)) == text_of(sequence(*make_recall({}), 3, 99)));
  RecallOptions other;
  other.seed = 1;
  CHECK(text_of(sequence(*make_recall(other), 3, 99)) != text_of(sequence(*make_recall({}), 3, 99)));
}

TEST_CASE("recall: the entropy floor") {
  CHECK(std::abs(make_recall({})->entropy_floor(256) - 1.280) < 0.003);

  // against the entropy of each next symbol, from the definition, along generated sequences
  RecallOptions options;
  options.keys = 6;
  options.active_keys = 4;
  options.key_rate = 0.3;
  const auto language = make_recall(options);
  const double p = 0.9 + 0.1 / 32;
  const double text = -p * std::log(p) - 31 * (0.1 / 32) * std::log(0.1 / 32);
  const double kind = -0.3 * std::log(0.3) - 0.7 * std::log(0.7);
  double total = 0, squares = 0;
  constexpr int kSequences = 4000;
  for (std::uint32_t i = 0; i < kSequences; ++i) {
    const Sequence s = sequence(*language, i, 64);
    std::set<std::uint8_t> seen;
    double sum = 0;
    for (std::size_t t = 0; t < 64; ++t) {  // entropy of byte t + 1
      if (is_capital(s.bytes[t])) {
        if (seen.insert(s.bytes[t]).second) sum += std::log(6.0);
      } else {
        const auto m = static_cast<double>(seen.size());
        double key = m / 4 * std::log(4.0);
        if (m < 4) key += (4 - m) / 4 * std::log((6 - m) * 4 / (4 - m));
        sum += kind + 0.3 * key + 0.7 * text;
      }
    }
    total += sum / 64;
    squares += sum / 64 * sum / 64;
  }
  const double mean = total / kSequences;
  const double error = std::sqrt((squares / kSequences - mean * mean) / kSequences);
  CHECK(error < 0.002);
  CHECK(std::abs(language->entropy_floor(64) - mean) < 4 * error);
}

TEST_CASE("fables: facts, tags and printable bytes") {
  for (const std::int64_t names : {1, 3, 10}) {
    FablesOptions options;
    options.names = names;
    const auto language = make_fables(options);
    for (std::uint32_t i = 0; i < 50; ++i) {
      const Sequence s = sequence(*language, i, 256);
      check_facts(s, 256, 16, is_capital);
      CHECK(language->vocabulary().count_unknown(s.bytes) == 0);
      for (const std::uint8_t byte : s.bytes) CHECK((byte >= ' ' && byte <= '~'));
    }
  }
}

TEST_CASE("fables: what is told first is asked for beyond the window") {
  const auto language = make_fables({});
  std::map<Need, int> count;
  std::set<std::string> openings;
  for (std::uint32_t i = 0; i < 200; ++i) {
    const Sequence s = sequence(*language, i, 128);
    for (const Need need : s.needs) ++count[need];
    openings.insert(text_of(s).substr(0, 17));
    CHECK(text_of(s).find(" lives at ") < 5);
  }
  const double total = 200 * 128;
  CHECK(count[Need::first] > 0.015 * total);
  CHECK(count[Need::recall_far] > 0.03 * total);
  CHECK(count[Need::recall_near] > 0.01 * total);
  CHECK(openings.size() > 10);  // any animal may come first, in any house
}

TEST_CASE("fables: the number of houses and of names, and no filler") {
  FablesOptions options;
  options.names = 2;
  options.objects = 3;
  options.filler = 0;
  const auto language = make_fables(options);
  std::set<char> seen;
  for (std::uint32_t i = 0; i < 50; ++i) {
    const std::string text = text_of(sequence(*language, i, 300));
    seen.insert(text.begin(), text.end());
    CHECK(text.find("rain") == std::string::npos);
  }
  for (const char c : {'A', 'B', '0', '1', '2'}) CHECK(seen.count(c) == 1);
  for (const char c : {'C', '3'}) CHECK(seen.count(c) == 0);
}

TEST_CASE("fables: the share of filler sentences") {
  FablesOptions options;
  options.filler = 0.6;
  const auto language = make_fables(options);
  int fillers = 0, sentences = 0;
  for (std::uint32_t i = 0; i < 100; ++i) {
    const std::string text = text_of(sequence(*language, i, 600));
    std::size_t t = text.find(". ", text.rfind(" lives at "));
    for (; t != std::string::npos && t + 6 <= text.size(); t = text.find(". ", t + 2)) {
      ++sentences;
      for (const char* opening : {"it r", "a bi", "the ", "all "}) {
        fillers += text.compare(t + 2, 4, opening) == 0 ? 1 : 0;
      }
    }
  }
  REQUIRE(sentences > 1000);
  CHECK(std::abs(fillers / double(sentences) - 0.6) < 5 * std::sqrt(0.24 / sentences));
}

TEST_CASE("fables: the entropy floor") {
  // One animal, two houses, no filler: ln 2 for its house and ln 3 for the first letter of each later
  // sentence (a question, a walk or mail) are all there is to know.
  FablesOptions options;
  options.names = 1;
  options.objects = 2;
  options.filler = 0;
  const auto language = make_fables(options);
  double total = 0;
  constexpr int kStories = 4000;
  for (std::uint32_t i = 0; i < kStories; ++i) {
    const std::string text = text_of(sequence(*language, i, 128));
    total += std::log(2.0);
    for (std::size_t t = 2; t < text.size(); ++t) total += text[t - 2] == '.' ? std::log(3.0) : 0.0;
  }
  CHECK(std::abs(language->entropy_floor(128) - total / (kStories * 128.0)) < 0.001);

  // The first byte is given: the one after it follows, a(nt) or b(ear).
  options.names = 2;
  CHECK(make_fables(options)->entropy_floor(1) == 0);
  options.names = 1;

  // More animals are harder to foresee; a filler sentence says less per byte than a list of homes.
  CHECK(make_fables({})->entropy_floor(128) > language->entropy_floor(128));
}
