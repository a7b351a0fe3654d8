// The tasks with a known per-token need: what every language promises, and what each one is, by brute force.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <set>
#include <string>

#include "dirigo/core/errors.hpp"
#include "dirigo/core/ignored_target.hpp"
#include "dirigo/data/synthetic.hpp"

using namespace dirigo;

namespace {

struct Named {
  std::string name;
  std::unique_ptr<Language> language;
};

std::vector<Named> all_languages() {
  std::vector<Named> list;
  list.push_back({"recall", make_recall({.keys = 6, .active_keys = 4, .key_rate = 0.3})});
  list.push_back({"fables", make_fables({})});
  list.push_back({"mqar", make_mqar({.pairs = 5, .keys = 9, .values = 7})});
  list.push_back({"copy", make_copy({.tokens = 6, .symbols = 3})});
  list.push_back({"induction", make_induction({.queries = 3, .symbols = 4})});
  list.push_back({"bijection", make_bijection({.values = 6})});
  list.push_back({"hmm", make_hmm({.states = 3, .symbols = 4, .seed = 2})});
  list.push_back(
      {"composite", make_composite({.keys = 4, .segment = 5, .states = 3, .symbols = 4, .seed = 2})});
  return list;
}

Sequence sequence(const Language& language, std::uint32_t index, std::int64_t length,
                  std::int64_t window = 16) {
  PhiloxStream random(random_key(3, 0, Purpose::test), index);
  return language.generate(random, length, window);
}

std::string text_of(const Sequence& s) {
  return {s.bytes.begin(), s.bytes.end()};
}

bool is_capital(char c) {
  return c >= 'A' && c <= 'Z';
}

std::vector<double> row_of(const Language& language, const std::vector<double>& rows, std::size_t t) {
  const auto classes = std::ptrdiff_t(language.vocabulary().size());
  return {rows.begin() + std::ptrdiff_t(t) * classes, rows.begin() + std::ptrdiff_t(t + 1) * classes};
}

// P(next byte | bytes) for every token, from a joint probability of the beginnings of sequences.
std::vector<double> conditional(const Language& language, const std::string& bytes,
                                const std::function<double(const std::string&)>& joint) {
  std::vector<double> p;
  for (const int byte : language.vocabulary().byte_values())
    p.push_back(joint(bytes + char(byte)) / joint(bytes));
  return p;
}

void check_predictive(const Language& language, const std::string& text,
                      const std::function<double(const std::string&)>& joint) {
  const std::vector<std::uint8_t> bytes(text.begin(), text.end());
  const std::vector<double> got = language.predictive(bytes);
  for (std::size_t t = 0; t + 1 < text.size(); ++t) {
    const std::vector<double> row = row_of(language, got, t);
    const std::vector<double> expected = conditional(language, text.substr(0, t + 1), joint);
    for (std::size_t v = 0; v < row.size(); ++v)
      REQUIRE(row[v] == doctest::Approx(expected[v]).epsilon(1e-9));
  }
}

}  // namespace

TEST_CASE("languages: sequences of every length are valid and keep what the tags promise") {
  for (const Named& named : all_languages()) {
    const Language& language = *named.language;
    CAPTURE(named.name);
    const std::vector<Need> tags = language.tags();
    CHECK(std::is_sorted(tags.begin(), tags.end()));
    std::set<Need> seen;
    for (std::int64_t length = 1; length <= 300; length += length < 50 ? 1 : 25) {
      CAPTURE(length);
      const Sequence s = sequence(language, std::uint32_t(length), length);
      REQUIRE(s.bytes.size() == std::size_t(length) + 1);
      REQUIRE(s.needs.size() == std::size_t(length));
      REQUIRE(s.gaps.size() == std::size_t(length));
      REQUIRE(language.vocabulary().count_unknown(s.bytes) == 0);
      for (std::size_t t = 0; t < s.needs.size(); ++t) {
        const Need need = s.needs[t];
        seen.insert(need);
        REQUIRE(std::find(tags.begin(), tags.end(), need) != tags.end());
        const bool recalled = need == Need::recall_near || need == Need::recall_far;
        REQUIRE((s.gaps[t] > 0) == (recalled || need == Need::copy));
        if (recalled) REQUIRE((s.gaps[t] >= 16) == (need == Need::recall_far));
        if (s.gaps[t] > 0) REQUIRE(s.bytes[t + 1] == s.bytes[t + 1 - std::size_t(s.gaps[t])]);
      }
    }
    CHECK(seen.size() == tags.size());
    const std::int64_t least = language.least_length();
    for (std::int64_t length = 1; length < least; ++length) {
      CHECK(text_of(sequence(language, 1, length)) ==
            text_of(sequence(language, 1, least)).substr(0, std::size_t(length) + 1));
    }
    CHECK(text_of(sequence(language, 1, 60)) == text_of(sequence(language, 1, 60)));
    CHECK(text_of(sequence(language, 1, 60)) != text_of(sequence(language, 2, 60)));
  }
}

TEST_CASE("languages: training and evaluation streams differ, ignored targets are those unscored") {
  for (const std::string name :
       {"recall", "fables", "mqar", "copy", "induction", "bijection", "hmm", "composite"}) {
    CAPTURE(name);
    const auto source = make_source("synthetic:" + name, {});
    const EvaluationSet set = source->evaluation(64);
    const Batch trained = source->training_batch(0, 4, 64), held_out = set.batch(0, 4);
    CHECK(trained.inputs != held_out.inputs);
    CHECK(make_source("synthetic:" + name + "?stream=1", {})->evaluation(64).batch(0, 4).inputs !=
          held_out.inputs);
    for (std::size_t i = 0; i < trained.targets.size(); ++i) {
      REQUIRE((trained.targets[i] == ignored_target) == (trained.needs[i] == Need::unscored));
      if (trained.targets[i] != ignored_target && i % 64 != 63)
        REQUIRE(trained.targets[i] == trained.inputs[i + 1]);
    }
    // the exact distribution in a wider vocabulary
    SourceOptions wide;
    wide.bytes256 = true;
    const auto narrow_rows = set.predictive(2),
               wide_rows = make_source("synthetic:" + name, wide)->evaluation(64).predictive(2);
    const auto classes = std::size_t(source->vocabulary().size());
    REQUIRE(wide_rows.size() == narrow_rows.size() / classes * 256);
    for (std::size_t i = 0; i < narrow_rows.size(); ++i) {
      const std::size_t byte = source->vocabulary().byte(int(i % classes));
      REQUIRE(wide_rows[i / classes * 256 + byte] == narrow_rows[i]);
    }
    CHECK(std::accumulate(wide_rows.begin(), wide_rows.end(), 0.0) ==
          doctest::Approx(std::accumulate(narrow_rows.begin(), narrow_rows.end(), 0.0)));
    CHECK_THROWS_AS(set.predictive(256), ValueError);
  }
}

TEST_CASE("languages: exact distributions sum to one, and the floor is the mean of their NLL") {
  for (const Named& named : all_languages()) {
    const Language& language = *named.language;
    CAPTURE(named.name);
    constexpr std::int64_t length = 96;
    double total = 0, squares = 0, exact = 0;
    constexpr std::uint32_t sequences = 1500;
    for (std::uint32_t i = 0; i < sequences; ++i) {
      const Sequence s = sequence(language, i, length);
      const std::vector<double> rows = language.predictive(s.bytes);
      if (rows.empty()) break;
      double sum = 0, scored = 0;
      for (std::size_t t = 0; t < s.needs.size(); ++t) {
        const std::vector<double> row = row_of(language, rows, t);
        const bool asked = s.needs[t] != Need::unscored;
        REQUIRE(std::accumulate(row.begin(), row.end(), 0.0) ==
                doctest::Approx(asked ? 1 : 0).epsilon(1e-12));
        REQUIRE(*std::min_element(row.begin(), row.end()) >= 0);
        if (!asked) continue;
        const double p = row[std::size_t(language.vocabulary().token(s.bytes[t + 1]))];
        REQUIRE(p > 0);
        sum -= std::log(p);
        scored += 1;
      }
      total += sum / scored;
      squares += sum / scored * sum / scored;
      exact += 1;
    }
    const std::set<std::string> known{"recall", "bijection", "hmm", "composite"};
    CHECK((exact > 0) == (known.count(named.name) == 1));
    if (exact == 0) continue;
    const double mean = total / exact, error = std::sqrt((squares / exact - mean * mean) / exact);
    CHECK(error < 0.01);
    // hmm and composite average over sequences themselves: 1365 of them here
    CHECK(std::abs(*language.entropy_floor(length) - mean) < 1e-9 + 5 * error);
  }
  for (const auto& language : {make_mqar({}), make_copy({}), make_induction({})}) {
    CHECK(language->entropy_floor(language->least_length()) == 0.0);
    CHECK(language->entropy_floor(language->least_length() - 1) == std::nullopt);
  }
}

TEST_CASE("recall: the exact distribution, by summing over all sets of active keys") {
  const auto language = make_recall({.keys = 3, .active_keys = 2, .key_rate = 0.4, .seed = 9});
  PhiloxStream tables(random_key(9, 0, Purpose::data), 0);
  std::array<std::array<std::uint64_t, 33>, 33> table{};
  for (auto& row : table) {
    for (auto& next : row) next = tables.below(32);
  }
  const auto joint = [&](const std::string& bytes) {
    double sum = 0;
    for (int missing = 0; missing < 3; ++missing) {  // the key that is not active
      double p = 1;
      std::size_t two_back = 32, one_back = 32;
      std::map<int, int> bound;
      for (std::size_t t = 0; t < bytes.size(); ++t) {
        const int token = language->vocabulary().token(std::uint8_t(bytes[t]));
        const int before = t == 0 ? 0 : language->vocabulary().token(std::uint8_t(bytes[t - 1]));
        if (t > 0 && before >= 32 && before < 35) {  // behind a key
          if (token < 35) p = 0;
          const bool is_new = bound.count(before) == 0;
          if (is_new) bound[before] = token;
          p *= is_new ? 1.0 / 3 : bound[before] == token ? 1 : 0;
        } else if (token >= 35) {
          p = 0;
        } else if (token >= 32) {
          p *= token - 32 == missing ? 0 : 0.4 / 2;
        } else {
          p *= 0.6 * (0.1 / 32 + (table[two_back][one_back] == std::uint64_t(token) ? 0.9 : 0));
          two_back = one_back;
          one_back = std::size_t(token);
        }
      }
      sum += p / 3;
    }
    return sum;
  };
  for (std::uint32_t i = 0; i < 20; ++i)
    check_predictive(*language, text_of(sequence(*language, i, 30)), joint);
}

TEST_CASE("hmm: the exact distribution, by summing over all paths of states") {
  constexpr std::size_t states = 3, symbols = 4;
  const auto language = make_hmm({.states = states, .symbols = symbols, .stay = 0.7, .seed = 4});
  PhiloxStream tables(random_key(4, 0, Purpose::data), 1);
  const auto dirichlet = [&](std::size_t size) {
    std::vector<double> row(size);
    for (double& value : row) value = -std::log(tables.uniform());
    const double total = std::accumulate(row.begin(), row.end(), 0.0);
    for (double& value : row) value /= total;
    return row;
  };
  std::vector<std::vector<double>> transition, emission;
  for (std::size_t s = 0; s < states; ++s) {
    transition.push_back(dirichlet(states));
    for (std::size_t to = 0; to < states; ++to)
      transition[s][to] = 0.3 * transition[s][to] + (to == s ? 0.7 : 0);
    emission.push_back(dirichlet(symbols));
  }
  const std::function<double(const std::string&, std::size_t, std::size_t)> paths =
      [&](const std::string& bytes, std::size_t t, std::size_t state) -> double {
    const double p = emission[state][std::size_t(bytes[t] - '0')];
    if (t + 1 == bytes.size()) return p;
    double sum = 0;
    for (std::size_t next = 0; next < states; ++next)
      sum += transition[state][next] * paths(bytes, t + 1, next);
    return p * sum;
  };
  const auto joint = [&](const std::string& bytes) {
    double sum = 0;
    for (std::size_t state = 0; state < states; ++state) sum += paths(bytes, 0, state) / states;
    return sum;
  };
  for (std::uint32_t i = 0; i < 10; ++i)
    check_predictive(*language, text_of(sequence(*language, i, 7)), joint);
  // what is drawn follows it: the first two symbols, over many sequences
  std::map<std::string, double> count;
  constexpr std::uint32_t sequences = 20000;
  for (std::uint32_t i = 0; i < sequences; ++i) ++count[text_of(sequence(*language, i, 1))];
  for (const auto& entry : count) {
    const double p = joint(entry.first);
    CHECK(std::abs(entry.second / sequences - p) < 5 * std::sqrt(p * (1 - p) / sequences));
  }
}

TEST_CASE("bijection: rounds, tags, and the exact distribution by counting all bijections") {
  const auto language = make_bijection({.values = 4});
  for (std::uint32_t i = 0; i < 20; ++i) {
    const Sequence s = sequence(*language, i, 40);
    const std::string text = text_of(s);
    const std::vector<double> rows = language->predictive(s.bytes);
    std::map<char, char> told;
    for (std::size_t t = 0; t < 40; ++t) {
      if (t % 9 == 8) CHECK(text[t] == '\n');
      REQUIRE((s.needs[t] == Need::eliminate) == (t % 9 % 2 == 0 && t % 9 != 8));
      if (t % 9 == 0) told.clear();
      if (s.needs[t] != Need::eliminate) continue;
      REQUIRE(told.count(text[t]) == 0);
      std::string image = "abcd";
      std::map<char, double> consistent;
      double all = 0;
      do {
        const auto agrees = [&](const auto& pair) {
          return image[std::size_t(pair.first - 'A')] == pair.second;
        };
        if (!std::all_of(told.begin(), told.end(), agrees)) continue;
        ++consistent[image[std::size_t(text[t] - 'A')]];
        ++all;
      } while (std::next_permutation(image.begin(), image.end()));
      const std::vector<double> row = row_of(*language, rows, t);
      for (char value = 'a'; value <= 'd'; ++value) {
        const int token = language->vocabulary().token(std::uint8_t(value));
        REQUIRE(row[std::size_t(token)] == doctest::Approx(consistent[value] / all));
      }
      told[text[t]] = text[t + 1];
    }
  }
  CHECK(*language->entropy_floor(9) == doctest::Approx(std::log(24.0) / 4));
}

TEST_CASE("mqar: each key told once, then asked once, in slots that follow the power law") {
  const auto language = make_mqar({.pairs = 8, .keys = 20, .values = 12});
  constexpr std::size_t length = 128, slots = (length - 16) / 2;
  std::vector<double> asked_in(slots);
  std::set<std::size_t> first_slots;
  constexpr std::uint32_t sequences = 4000;
  for (std::uint32_t i = 0; i < sequences; ++i) {
    const Sequence s = sequence(*language, i, length, 32);
    const std::string text = text_of(s);
    const auto kind = [&](std::size_t t) {
      const int token = language->vocabulary().token(s.bytes[t]);
      return token < 16 ? 'f' : token < 36 ? 'k' : 'v';
    };
    std::map<char, std::size_t> told;
    std::set<char> values;
    for (std::size_t t = 0; t < 16; t += 2) {
      REQUIRE(kind(t) == 'k');
      REQUIRE(kind(t + 1) == 'v');
      REQUIRE(told.emplace(text[t], t).second);
      REQUIRE(values.insert(text[t + 1]).second);
    }
    std::size_t queries = 0;
    for (std::size_t t = 0; t < length; ++t) {
      const bool query = t >= 16 && kind(t) == 'k';
      REQUIRE((s.needs[t] == Need::unscored) == !query);
      if (!query) continue;
      ++queries;
      REQUIRE(t % 2 == 0);
      const std::size_t key = told.at(text[t]);
      told.erase(text[t]);  // asked once
      REQUIRE(text[t + 1] == text[key + 1]);
      REQUIRE(s.gaps[t] == std::int32_t(t - key));
      REQUIRE(s.needs[t] == (t - key < 32 ? Need::recall_near : Need::recall_far));
      ++asked_in[(t - 16) / 2];
      if (key == 0) first_slots.insert((t - 16) / 2);
    }
    REQUIRE(queries == 8);
    for (std::size_t t = 16; t <= length; ++t) {
      if (kind(t) == 'v') REQUIRE(kind(t - 1) == 'k');
    }
  }
  CHECK(first_slots.size() == slots);  // a pair's slot does not depend on its place
  // Slot 1 has the weight of the last 17 slots together, but is taken once: most sequences ask there.
  CHECK(asked_in.front() / sequences > 0.85);
  CHECK(asked_in.back() / sequences < 0.1);
  // Drawn one by one without replacement: the first draw alone decides for 1 of 8; exact for one pair.
  const auto single = make_mqar({.pairs = 1, .keys = 3, .values = 3});
  std::array<double, 3> count{};
  for (std::uint32_t i = 0; i < sequences; ++i) {
    const Sequence s = sequence(*single, i, 8);
    for (std::size_t slot = 0; slot < 3; ++slot)
      count[slot] += s.needs[2 + 2 * slot] != Need::unscored ? 1 : 0;
  }
  const double weights[] = {1, std::pow(2, -0.99), std::pow(3, -0.99)};
  for (std::size_t slot = 0; slot < 3; ++slot) {
    const double p = weights[slot] / (weights[0] + weights[1] + weights[2]);
    CHECK(std::abs(count[slot] / sequences - p) < 5 * std::sqrt(p * (1 - p) / sequences));
  }
  CHECK(make_mqar({})->vocabulary().size() == 256);
}

TEST_CASE("copy: the symbols among the noise come again in order") {
  const auto language = make_copy({.tokens = 5, .symbols = 3});
  std::set<std::size_t> places;
  for (std::uint32_t i = 0; i < 200; ++i) {
    const Sequence s = sequence(*language, i, 40);
    const std::string text = text_of(s);
    CHECK(text[35] == '>');
    std::string symbols;
    std::vector<std::size_t> where;
    for (std::size_t t = 0; t < 35; ++t) {
      CHECK(s.needs[t] == Need::unscored);
      if (text[t] == '.') continue;
      symbols += text[t];
      where.push_back(t);
      places.insert(t);
    }
    REQUIRE(text.substr(36) == symbols);
    for (std::size_t k = 0; k < 5; ++k) {
      CHECK(s.needs[35 + k] == Need::copy);
      CHECK(s.gaps[35 + k] == std::int32_t(36 + k - where[k]));
    }
  }
  CHECK(places.size() == 35);
}

TEST_CASE("induction: one answer, asked again at the end") {
  const auto language = make_induction({.queries = 2, .symbols = 5});
  std::set<std::size_t> places;
  for (const std::int64_t length : {30, 31}) {
    for (std::uint32_t i = 0; i < 200; ++i) {
      const Sequence s = sequence(*language, i, length);
      const std::string text = text_of(s);
      CHECK(std::count(text.begin(), text.end(), '*') == 3);
      CHECK(text[std::size_t(length) - 1] == '*');
      std::size_t last = text.find('*');
      places.insert(last);
      for (std::size_t t = 0; t < std::size_t(length); ++t) {
        const bool asked = text[t] == '*' && t > text.find('*');
        REQUIRE((s.needs[t] != Need::unscored) == asked);
        if (!asked) continue;
        REQUIRE(text[t + 1] == text[text.find('*') + 1]);
        REQUIRE(s.gaps[t] == std::int32_t(t - last));
        last = t;
      }
    }
  }
  CHECK(places.size() > 20);
}

TEST_CASE("composite: segments, tags, and the parts' own exact distributions") {
  const auto language =
      make_composite({.keys = 4, .segment = 5, .states = 3, .symbols = 4, .stay = 0.8, .seed = 6});
  const auto hmm = make_hmm({.states = 3, .symbols = 4, .stay = 0.8, .seed = 6});
  const auto recall = make_recall({.keys = 1, .active_keys = 1, .key_rate = 0.5, .seed = 6});
  const std::string markers = "({[";
  double ends = 0, slots = 0;
  std::map<char, double> begun;
  for (std::uint32_t i = 0; i < 300; ++i) {
    const Sequence s = sequence(*language, i, 120, 16);
    const std::string text = text_of(s);
    const std::vector<double> rows = language->predictive(s.bytes);
    std::map<char, std::size_t> last;
    std::map<char, char> value;
    char kind = 0;
    std::string segment;
    for (std::size_t t = 0; t < 120; ++t) {
      const bool marker = markers.find(text[t]) != std::string::npos;
      if (marker) {
        REQUIRE(text[t] != kind);
        kind = text[t];
        ++begun[kind];
        segment.clear();
      } else {
        segment += text[t];
      }
      const bool inside_pair = kind == '[' && !marker && segment.size() % 2 == 1;
      if (!marker && !inside_pair) {
        ++slots;
        ends += markers.find(text[t + 1]) != std::string::npos ? 1 : 0;
      }
      const std::vector<double> row = row_of(*language, rows, t);
      const double goes_on = marker ? 1 : 0.8;
      const auto at = [&](int byte) {
        return row[std::size_t(language->vocabulary().token(std::uint8_t(byte)))];
      };
      for (const char other : markers) {
        if (!inside_pair) REQUIRE(at(other) == doctest::Approx(other == kind ? 0 : (1 - goes_on) / 2));
      }
      if (kind == '(') {
        REQUIRE(s.needs[t] == Need::text);
        const std::vector<std::uint8_t> bytes(segment.begin(), segment.end());
        if (segment.empty()) continue;
        std::vector<std::uint8_t> probe = bytes;
        probe.push_back('a');
        const std::vector<double> own = row_of(*recall, recall->predictive(probe), segment.size() - 1);
        for (std::size_t v = 0; v < 32; ++v)
          REQUIRE(at(recall->vocabulary().byte(int(v))) == doctest::Approx(goes_on * own[v] / 0.5));
      } else if (kind == '{') {
        REQUIRE(s.needs[t] == Need::filter);
        if (segment.empty()) continue;
        std::vector<std::uint8_t> probe(segment.begin(), segment.end());
        probe.push_back('0');
        const std::vector<double> own = row_of(*hmm, hmm->predictive(probe), segment.size() - 1);
        for (int v = 0; v < 4; ++v) REQUIRE(at('0' + v) == doctest::Approx(goes_on * own[std::size_t(v)]));
      } else if (!inside_pair) {
        REQUIRE(s.needs[t] == Need::noise);
        for (int k = 0; k < 4; ++k) REQUIRE(at('A' + k) == doctest::Approx(goes_on / 4));
      } else {
        REQUIRE(is_capital(text[t]));
        const bool known = last.count(text[t]) == 1;
        REQUIRE(s.needs[t] == (!known                    ? Need::first
                               : t - last[text[t]] >= 16 ? Need::recall_far
                                                         : Need::recall_near));
        if (known) REQUIRE(s.gaps[t] == std::int32_t(t - last[text[t]]));
        if (known) REQUIRE(text[t + 1] == value[text[t]]);
        REQUIRE(at(text[t + 1]) == doctest::Approx(known ? 1 : 0.25));
        last[text[t]] = t;
        value[text[t]] = text[t + 1];
      }
    }
  }
  CHECK(std::abs(ends / slots - 0.2) < 5 * std::sqrt(0.16 / slots));
  const double segments = begun['('] + begun['{'] + begun['['];
  for (const char marker : markers) CHECK(std::abs(begun[marker] / segments - 1.0 / 3) < 0.05);
}

TEST_CASE("languages: options out of range are refused") {
  const auto fault = [](const std::string& spec) -> std::string {
    try {
      make_source("synthetic:" + spec, {});
    } catch (const ValueError& error) {
      return error.what();
    }
    return "";
  };
  CHECK(fault("mqar?pairs=121") == "[synthetic:mqar] pairs: expected 1 to 120, got 121");
  CHECK(fault("mqar?values=3") == "[synthetic:mqar] pairs: expected 1 to 3, got 4");
  CHECK(fault("mqar?keys=0") == "[synthetic:mqar] keys: expected 1 to 120, got 0");
  CHECK(fault("mqar?pair=3") == "[synthetic:mqar] option: expected pairs (the nearest known one), got pair");
  CHECK(fault("copy?tokens=0") == "[synthetic:copy] tokens: expected 1 to 4096, got 0");
  CHECK(fault("copy?symbols=63") == "[synthetic:copy] symbols: expected 2 to 62, got 63");
  CHECK(fault("induction?queries=0") == "[synthetic:induction] queries: expected 1 to 4096, got 0");
  CHECK(fault("induction?symbols=1") == "[synthetic:induction] symbols: expected 2 to 26, got 1");
  CHECK(fault("bijection?values=101") == "[synthetic:bijection] values: expected 2 to 100, got 101");
  CHECK(fault("hmm?states=17") == "[synthetic:hmm] states: expected 1 to 16, got 17");
  CHECK(fault("hmm?symbols=1") == "[synthetic:hmm] symbols: expected 2 to 36, got 1");
  CHECK(fault("hmm?stay=1") == "[synthetic:hmm] stay: expected 0 to 0.999, got 1");
  CHECK(fault("hmm?stay=nan") == "[synthetic:hmm] stay: expected 0 to 0.999, got nan");
  CHECK(fault("composite?keys=65") == "[synthetic:composite] keys: expected 1 to 64, got 65");
  CHECK(fault("composite?segment=0") == "[synthetic:composite] segment: expected 1 to 1000, got 0");
  CHECK(fault("composite?states=0") == "[synthetic:composite] states: expected 1 to 16, got 0");
  CHECK(fault("composite?symbols=37") == "[synthetic:composite] symbols: expected 2 to 36, got 37");
  CHECK(fault("composite?stay=2") == "[synthetic:composite] stay: expected 0 to 0.999, got 2");
  CHECK(fault("composite?keys=64&symbols=36") == "");
  const auto mqar = make_source("synthetic:mqar", {});
  CHECK_THROWS_WITH_AS(
      mqar->training_batch(0, 1, 15),
      "[synthetic:mqar?seed=0&pool=0&stream=0&pairs=4&keys=120&values=120] seq_len: expected at "
      "least 16, got 15",
      ValueError);
  CHECK(mqar->training_batch(0, 1, 16).length == 16);
}
