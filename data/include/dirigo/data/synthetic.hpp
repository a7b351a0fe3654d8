// Languages whose per-token need is known: what a router should have learnt can be checked, token by token.
#pragma once

#include <cstdint>
#include <optional>
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

  // A fresh sequence: `length` inputs and one more byte. `window` divides recall_near from recall_far.
  virtual Sequence generate(PhiloxStream& random, std::int64_t length, std::int64_t window) const = 0;

  // Mean entropy in nats of the next byte given the whole sequence so far, over the `length` targets.
  virtual double entropy_floor(std::int64_t length) const = 0;
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

}  // namespace dirigo
