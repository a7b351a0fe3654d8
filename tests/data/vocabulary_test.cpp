#include "dirigo/data/vocabulary.hpp"

#include <doctest/doctest.h>

#include "dirigo/core/errors.hpp"
#include "dirigo/core/suggest.hpp"

using dirigo::Vocabulary;

namespace {

std::vector<std::uint8_t> bytes(const std::string& text) {
  return {text.begin(), text.end()};
}

}  // namespace

TEST_CASE("the observed vocabulary is the sorted distinct bytes") {
  const Vocabulary vocabulary = Vocabulary::observed(bytes("banana\xff split"));
  CHECK(vocabulary.byte_values() == std::vector<int>{' ', 'a', 'b', 'i', 'l', 'n', 'p', 's', 't', 255});
  CHECK(vocabulary.size() == 10);
  CHECK(vocabulary.token('b') == 2);
  CHECK(vocabulary.token(0xff) == 9);
  CHECK(vocabulary.token('z') == Vocabulary::kUnknown);
}

TEST_CASE("encoding removes and counts unknown bytes, decoding inverts it") {
  const Vocabulary vocabulary({'c', 'a', 'b'});
  const auto encoded = vocabulary.encode(std::string("abxcyya"));
  CHECK(encoded.tokens == std::vector<std::int32_t>{1, 2, 0, 1});
  CHECK(encoded.skipped == 3);
  CHECK(vocabulary.decode(encoded.tokens) == "abca");
  CHECK(vocabulary.count_unknown(bytes("abxcyya")) == 3);
}

TEST_CASE("bytes256 is the identity") {
  const Vocabulary vocabulary = Vocabulary::bytes256();
  CHECK(vocabulary.size() == 256);
  for (int value = 0; value < 256; ++value) {
    CHECK(vocabulary.token(static_cast<std::uint8_t>(value)) == value);
    CHECK(vocabulary.byte(value) == value);
  }
}

TEST_CASE("a vocabulary comes back from its byte values") {
  const Vocabulary vocabulary = Vocabulary::observed(bytes("some text"));
  CHECK(Vocabulary(vocabulary.byte_values()) == vocabulary);
  CHECK_FALSE(Vocabulary::bytes256() == vocabulary);
}

TEST_CASE("unusable vocabularies and tokens are refused") {
  CHECK_THROWS_AS(Vocabulary({}), dirigo::ValueError);
  CHECK_THROWS_AS(Vocabulary({1, 256}), dirigo::ValueError);
  CHECK_THROWS_AS(Vocabulary({-1}), dirigo::ValueError);
  CHECK_THROWS_WITH_AS(Vocabulary({7, 8, 7}), "[vocabulary] byte values: expected distinct ones, got 7 twice",
                       dirigo::ValueError);
  CHECK_THROWS_AS(Vocabulary::observed({}), dirigo::ValueError);
  CHECK_THROWS_WITH_AS(Vocabulary({1, 2}).byte(2), "[vocabulary] token: expected 0 to 1, got 2",
                       dirigo::ValueError);
  CHECK_THROWS_AS(Vocabulary({1, 2}).byte(-1), dirigo::ValueError);
}

TEST_CASE("edit distance and the nearest word") {
  CHECK(dirigo::edit_distance("", "") == 0);
  CHECK(dirigo::edit_distance("", "abc") == 3);
  CHECK(dirigo::edit_distance("abc", "") == 3);
  CHECK(dirigo::edit_distance("kitten", "sitting") == 3);
  CHECK(dirigo::edit_distance("flaw", "lawn") == 2);
  CHECK(dirigo::nearest("recal", {"fables", "recall"}) == "recall");
  CHECK(dirigo::nearest("x", {"ab", "ac"}) == "ab");
  CHECK(dirigo::nearest("x", {}).empty());
}
