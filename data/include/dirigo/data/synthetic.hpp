// Languages whose per-token need is known: what a router should have learnt can be checked, token by token.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dirigo/core/philox.hpp"
#include "dirigo/data/source.hpp"
#include "dirigo/data/vocabulary.hpp"

namespace dirigo {

// A generated sequence: length + 1 bytes, and for the first `length` of them what predicting the next one
// needs and how far back it was told (Batch::gaps).
struct Sequence {
  std::vector<std::uint8_t> bytes;
  std::vector<Need> needs;
  std::vector<std::int32_t> gaps;
};

// A process that generates sequences.
class Language {
 public:
  virtual ~Language() = default;

  virtual const Vocabulary& vocabulary() const = 0;

  // The tags that its sequences can carry, in the order of Need.
  virtual std::vector<Need> tags() const = 0;

  // The shortest sequences that hold everything. Those of other lengths are the beginnings of such.
  virtual std::int64_t least_length() const { return 1; }

  // A fresh sequence: `length` inputs and one more byte. `window` divides recall_near from recall_far.
  virtual Sequence generate(PhiloxStream& random, std::int64_t length, std::int64_t window) const = 0;

  // The exact distribution of each byte but the first, given all bytes before it: (length, V) row-major over
  // the tokens of the vocabulary, for the length + 1 bytes of a sequence of this language. A row is zero
  // where nothing is scored. Empty where it is not known.
  virtual std::vector<double> predictive(std::span<const std::uint8_t> /*bytes*/) const { return {}; }

  // Mean entropy in nats of the next byte given the whole sequence so far, over the scored of `length`
  // targets; none if the sequences are too short to hold any.
  virtual std::optional<double> entropy_floor(std::int64_t length) const = 0;
};

// The recall language: a stochastic text with key-value pairs in it.
// Bytes: 32 text symbols a-z . , ; : - ' followed by `keys` keys (A-Z, then bytes from 128) and as many
// values (0-9 and punctuation, then bytes from 192); token ids in that order. A slot holds a text symbol or,
// with probability `key_rate`, a key, and then its value follows. The text symbol is the one that a fixed
// table gives for the last two text symbols with probability 0.9, else uniform; at the beginning both stand
// at index 32. The key is one of this sequence's `active_keys`, a random subset; its value is the one bound
// to it earlier in this sequence, else uniform.
struct RecallOptions {
  std::int64_t keys = 16;         // 1..64
  std::int64_t active_keys = 16;  // 1..keys
  double key_rate = 0.12;         // between 0 and 1
  std::uint64_t seed = 0;         // fixes the table
};
std::unique_ptr<Language> make_recall(const RecallOptions& options);

// Small stories. First every animal's home is told, in random order: `bear lives at B3. `; then the story
// goes on with sentences that name the homes again: `bear? at B3. `, `walk to B3A7A7C0. `, `mail for
// C0B3B3A7. `, and, with probability `filler`, ones that do not: `it rains. `. The capital names the animal
// and is predictable or uniform; the digit behind it is new in the first part and needs recall in the second.
// The walks and rounds of mail make recall dense and, with repetitions close by, learnable early.
struct FablesOptions {
  std::int64_t names = 3;     // animals, 1..10
  std::int64_t objects = 10;  // house numbers, 2..10
  std::int64_t stops = 4;     // homes in a walk or in a round of mail, 1..8
  double filler = 0.2;        // 0..0.9
};
std::unique_ptr<Language> make_fables(const FablesOptions& options);

// Multi-query associative recall (Arora et al. 2023, arXiv:2312.04927, "Zoology"): `pairs` different keys,
// each followed by its value, no value twice; then a text of 16 random fillers, in which each key comes once
// more, and its value behind it, in a slot of two bytes, drawn without replacement with weight g^(0.01 - 1)
// for slot g. Scored are the values asked for, at their keys: tagged recall_near or recall_far. Zoology has
// 8192 tokens (half keys, half values) and fills up with any of them. Ours are bytes: 120 keys and 120 values
// leave 16 for fillers, which are neither. There the value does not follow the key that asks for it; here it
// does, so that a target is always the next byte, and since no key is asked twice it tells nothing.
struct MqarOptions {
  std::int64_t pairs = 4;   // 1..the lesser of keys and values; sequences have at least 4 times as many bytes
  std::int64_t keys = 120;  // 1..120
  std::int64_t values = 120;  // 1..120
};
std::unique_ptr<Language> make_mqar(const MqarOptions& options);

// Selective copying (Gu, Dao 2023, arXiv:2312.00752): `tokens` symbols at random places among noise (`.`),
// then `>` and the same symbols in order. Scored are these, tagged `copy`; the gap is the distance to the
// original.
struct CopyOptions {
  std::int64_t tokens = 16;   // 1..4096; sequences have at least twice as many bytes
  std::int64_t symbols = 16;  // 2..62
};
std::unique_ptr<Language> make_copy(const CopyOptions& options);

// Induction heads (the same paper): random symbols, and somewhere `*` with a symbol behind it. `queries`
// times more, the last time at the end of the sequence, `*` comes again and the same symbol behind it: scored
// at `*`, tagged recall_near or recall_far. The paper asks once.
struct InductionOptions {
  std::int64_t queries = 1;   // 1..4096; sequences have more than twice as many bytes
  std::int64_t symbols = 16;  // 2..26
};
std::unique_ptr<Language> make_induction(const InductionOptions& options);

// Bijection elimination (Agarwal, Dalal, Misra 2025, arXiv:2512.22471): in each round a fresh bijection from
// `values` keys (A-Z ...) to as many values (a-z ...) is told, pair by pair in random order, each key once; a
// newline ends the round. Scored are the values, at their keys, tagged `eliminate`: uniform over those that
// the round has not shown.
struct BijectionOptions {
  std::int64_t values = 20;  // 2..100
};
std::unique_ptr<Language> make_bijection(const BijectionOptions& options);

// Filtering (the same paper): the symbols of a hidden Markov process. All are scored, tagged `filter`. The
// exact prediction takes the belief about the state, a sum over the whole past that fades with `stay`. The
// paper draws tables for each sequence and writes them at its beginning; here `seed` fixes them once, for the
// weights to learn.
struct HmmOptions {
  std::int64_t states = 4;   // 1..16
  std::int64_t symbols = 8;  // 2..36
  double stay = 0.9;         // 0..0.999: how often the state stays
  std::uint64_t seed = 0;    // fixes the tables
};
std::unique_ptr<Language> make_hmm(const HmmOptions& options);

// Segments of three kinds in random order, each begun by a marker: `(` text as in the recall language, `{`
// symbols of a hidden Markov process, `[` pairs of a key and its value, bound for the whole sequence. All
// start anew in each segment but the bindings. A segment ends behind a symbol or pair with probability 1 /
// `segment`; one of another kind follows. Tags: text, filter; at a key first, recall_near or recall_far; else
// between facts noise.
struct CompositeOptions {
  std::int64_t keys = 16;     // 1..64, and as many values
  std::int64_t segment = 16;  // mean number of symbols or pairs in a segment, 1..1000
  std::int64_t states = 4;    // as in HmmOptions
  std::int64_t symbols = 8;
  double stay = 0.9;
  std::uint64_t seed = 0;  // fixes the tables
};
std::unique_ptr<Language> make_composite(const CompositeOptions& options);

}  // namespace dirigo
