#include "languages.hpp"

#include <array>

#include "synthetic_spec.hpp"

namespace dirigo {
namespace {

std::unique_ptr<Language> read_recall(SyntheticSpec& spec, std::uint64_t seed) {
  RecallOptions options;
  options.seed = seed;
  options.keys = spec.number("keys", options.keys);
  options.active_keys = spec.number("active_keys", options.keys);
  options.key_rate = spec.number("key_rate", options.key_rate);
  return make_recall(options);
}

std::unique_ptr<Language> read_fables(SyntheticSpec& spec, std::uint64_t /*seed*/) {
  FablesOptions options;
  options.names = spec.number("names", options.names);
  options.objects = spec.number("objects", options.objects);
  options.stops = spec.number("stops", options.stops);
  options.filler = spec.number("filler", options.filler);
  return make_fables(options);
}

std::unique_ptr<Language> read_mqar(SyntheticSpec& spec, std::uint64_t /*seed*/) {
  MqarOptions options;
  options.pairs = spec.number("pairs", options.pairs);
  options.keys = spec.number("keys", options.keys);
  options.values = spec.number("values", options.values);
  return make_mqar(options);
}

std::unique_ptr<Language> read_copy(SyntheticSpec& spec, std::uint64_t /*seed*/) {
  CopyOptions options;
  options.tokens = spec.number("tokens", options.tokens);
  options.symbols = spec.number("symbols", options.symbols);
  return make_copy(options);
}

std::unique_ptr<Language> read_induction(SyntheticSpec& spec, std::uint64_t /*seed*/) {
  InductionOptions options;
  options.queries = spec.number("queries", options.queries);
  options.symbols = spec.number("symbols", options.symbols);
  return make_induction(options);
}

std::unique_ptr<Language> read_bijection(SyntheticSpec& spec, std::uint64_t /*seed*/) {
  BijectionOptions options;
  options.values = spec.number("values", options.values);
  return make_bijection(options);
}

std::unique_ptr<Language> read_hmm(SyntheticSpec& spec, std::uint64_t seed) {
  HmmOptions options;
  options.seed = seed;
  options.states = spec.number("states", options.states);
  options.symbols = spec.number("symbols", options.symbols);
  options.stay = spec.number("stay", options.stay);
  return make_hmm(options);
}

std::unique_ptr<Language> read_composite(SyntheticSpec& spec, std::uint64_t seed) {
  CompositeOptions options;
  options.seed = seed;
  options.keys = spec.number("keys", options.keys);
  options.segment = spec.number("segment", options.segment);
  options.states = spec.number("states", options.states);
  options.symbols = spec.number("symbols", options.symbols);
  options.stay = spec.number("stay", options.stay);
  return make_composite(options);
}

struct Entry {
  const char* name;
  std::unique_ptr<Language> (*read)(SyntheticSpec& spec, std::uint64_t seed);
};

constexpr std::array<Entry, 8> entries = {{
    {"recall", read_recall},
    {"fables", read_fables},
    {"mqar", read_mqar},
    {"copy", read_copy},
    {"induction", read_induction},
    {"bijection", read_bijection},
    {"hmm", read_hmm},
    {"composite", read_composite},
}};

}  // namespace

const std::vector<std::string>& language_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> list;
    for (const Entry& entry : entries) list.emplace_back(entry.name);
    return list;
  }();
  return names;
}

std::unique_ptr<Language> make_language(SyntheticSpec& spec, std::uint64_t seed) {
  std::size_t i = 0;
  while (spec.language() != entries[i].name) ++i;  // a SyntheticSpec names one of them
  return entries[i].read(spec, seed);
}

}  // namespace dirigo
