#include "dirigo/data/source.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <iterator>
#include <set>

#include "dirigo/core/errors.hpp"
#include "scratch_file.hpp"

using dirigo::Batch;
using dirigo::DataSource;
using dirigo::make_source;
using dirigo::Need;
using dirigo::SourceOptions;
using dirigo::ValueError;
using dirigo::test::ScratchFile;

namespace {

// Byte i is i mod 251, so that a window tells where it was taken (modulo 251).
std::string counting_text(std::size_t size) {
  std::string text;
  for (std::size_t i = 0; i < size; ++i) text += static_cast<char>(i % 251);
  return text;
}

SourceOptions all_bytes() {
  SourceOptions options;
  options.bytes256 = true;
  return options;
}

std::string error_of(const std::string& spec, const SourceOptions& options) {
  try {
    make_source(spec, options);
  } catch (const ValueError& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("training targets are the inputs shifted by one") {
  const ScratchFile text(counting_text(5000));
  const auto source = make_source(text.path(), all_bytes());
  const Batch batch = source->training_batch(3, 4, 20);
  REQUIRE(batch.inputs.size() == 80);
  REQUIRE(batch.targets.size() == 80);
  CHECK(batch.needs.empty());
  CHECK(batch.gaps.empty());
  for (std::size_t i = 0; i < 80; ++i) CHECK(batch.targets[i] == (batch.inputs[i] + 1) % 251);
  for (std::size_t i = 0; i + 1 < 80; ++i) {
    if (i % 20 != 19) CHECK(batch.inputs[i + 1] == batch.targets[i]);
  }
}

TEST_CASE("a training batch is a pure function of seed and step") {
  const ScratchFile text(counting_text(200));
  const auto source = make_source(text.path(), all_bytes());
  const auto again = make_source(text.path(), all_bytes());
  CHECK(source->training_batch(7, 8, 10).inputs == again->training_batch(7, 8, 10).inputs);
  CHECK(source->training_batch(7, 8, 10).inputs != source->training_batch(8, 8, 10).inputs);
  SourceOptions other = all_bytes();
  other.seed = 1;
  CHECK(make_source(text.path(), other)->training_batch(7, 8, 10).inputs !=
        source->training_batch(7, 8, 10).inputs);
}

TEST_CASE("training windows cover the training text uniformly and never touch the held-out tenth") {
  const ScratchFile text(counting_text(200));  // 180 train, starts 0..169 at length 10
  const auto source = make_source(text.path(), all_bytes());
  std::vector<int> starts(170);
  int last = 0;
  for (std::uint64_t step = 0; step < 200; ++step) {
    const Batch batch = source->training_batch(step, 85, 10);
    for (std::size_t row = 0; row < 85; ++row) {
      REQUIRE(batch.inputs[row * 10] < 170);
      ++starts[static_cast<std::size_t>(batch.inputs[row * 10])];
      last = std::max(last, batch.targets[row * 10 + 9]);
    }
  }
  CHECK(last == 179);
  // chi-square with 169 degrees of freedom: mean 169, standard deviation 18.4
  double chi = 0;
  for (const int n : starts) chi += (n - 100.0) * (n - 100.0) / 100.0;
  CHECK(chi < 169 + 5 * 18.4);
  CHECK(chi > 169 - 5 * 18.4);
}

TEST_CASE("train_bytes restricts the training text and its vocabulary") {
  const ScratchFile text(counting_text(5000));
  SourceOptions options;
  options.train_bytes = 40;
  const auto source = make_source(text.path(), options);
  CHECK(source->vocabulary().size() == 40);
  for (std::uint64_t step = 0; step < 50; ++step) {
    const Batch batch = source->training_batch(step, 8, 30);
    CHECK(*std::max_element(batch.targets.begin(), batch.targets.end()) < 40);
  }
  // bytes 4500..4999 are held out; 4500 = 17 * 251 + 233; values below 40 occur in two runs of 40
  const auto evaluation = source->evaluation(10);
  CHECK(evaluation.skipped_bytes() == 420);
  CHECK(evaluation.windows() == (80 - 11) / 10 + 1);
}

TEST_CASE("while the pool lasts, its windows are drawn with replacement") {
  const ScratchFile text(counting_text(5000));
  SourceOptions options = all_bytes();
  options.pool = 6;
  options.pool_steps = 10;
  const auto source = make_source(text.path(), options);
  const auto endless = make_source(text.path(), all_bytes());
  std::set<std::int32_t> pool, starts;
  const Batch first = endless->training_batch(0, 6, 10);
  for (std::size_t row = 0; row < 6; ++row) pool.insert(first.inputs[row * 10]);
  for (std::uint64_t step = 0; step < 10; ++step) {
    const Batch batch = source->training_batch(step, 4, 10);
    for (std::size_t row = 0; row < 4; ++row) starts.insert(batch.inputs[row * 10]);
  }
  CHECK(starts == pool);  // 40 draws miss none of 6
  CHECK(source->training_batch(3, 4, 10).inputs == source->training_batch(3, 4, 10).inputs);
  CHECK(source->training_batch(3, 4, 10).inputs != source->training_batch(0, 4, 10).inputs);
  CHECK(source->training_batch(10, 4, 10).inputs == endless->training_batch(10, 4, 10).inputs);
}

TEST_CASE("evaluation windows are consecutive, full and evenly thinned") {
  const ScratchFile text(counting_text(1000));  // held out: 900..999
  const auto source = make_source(text.path(), all_bytes());
  const auto start = [](const Batch& batch, std::size_t row) {
    return batch.inputs[row * static_cast<std::size_t>(batch.length)];
  };
  const auto all = source->evaluation(9);
  CHECK(all.windows() == 11);  // 11 * 9 inputs and one more target fill the 100 bytes exactly
  CHECK(all.length() == 9);
  const Batch batch = all.batch(0, 11);
  for (std::size_t row = 0; row < 11; ++row)
    CHECK(start(batch, row) == (900 + 9 * static_cast<int>(row)) % 251);
  CHECK(batch.targets.back() == 999 % 251);
  CHECK(source->evaluation(10).windows() == 9);  // the tenth window would lack its last target
  CHECK(source->evaluation(99).windows() == 1);
  CHECK(source->evaluation(10, 5).windows() == 18);
  CHECK(start(source->evaluation(10, 5).batch(17, 1), 0) == (900 + 85) % 251);
  const Batch thinned = source->evaluation(9, 0, 4).batch(0, 4);  // floor(i * 11 / 4) = 0, 2, 5, 8
  CHECK(start(thinned, 1) == (900 + 18) % 251);
  CHECK(start(thinned, 2) == (900 + 45) % 251);
  CHECK(start(thinned, 3) == (900 + 72) % 251);
  CHECK(source->evaluation(9, 0, 1000).windows() == 11);
  CHECK(all.batch(3, 2).inputs ==
        std::vector<std::int32_t>(batch.inputs.begin() + 27, batch.inputs.begin() + 45));
  CHECK_THROWS_AS(all.batch(0, 12), ValueError);
  CHECK_THROWS_AS(all.batch(-1, 1), ValueError);
  CHECK_THROWS_AS(all.batch(11, 1), ValueError);
}

TEST_CASE("a separate held-out file, with its unknown bytes removed") {
  const ScratchFile text("abcabcabcabc");
  const ScratchFile valid("a?b!cab");
  SourceOptions options;
  options.valid = valid.path();
  const auto source = make_source(text.path(), options);
  const auto evaluation = source->evaluation(4);
  CHECK(evaluation.windows() == 1);
  CHECK(evaluation.skipped_bytes() == 2);
  const Batch batch = evaluation.batch(0, 1);
  CHECK(source->vocabulary().decode(batch.inputs) == "abca");
  CHECK(source->vocabulary().decode(batch.targets) == "bcab");
  const auto description = source->describe();
  CHECK(description.spec == text.path());
  CHECK(description.file->bytes == 12);
  CHECK(description.file->sha256.size() == 64);
  CHECK(description.valid->bytes == 7);
  CHECK(description.split.train.size() == 12);
  CHECK(description.split.held_out.size() == 7);
  CHECK_FALSE(source->entropy_floor(4).has_value());
  CHECK_FALSE(source->has_needs());
}

TEST_CASE("evaluation only: the whole file is held-out text in the vocabulary of the run") {
  const ScratchFile text("abcdabcd");
  SourceOptions options;
  options.evaluation_only = true;
  options.vocabulary = dirigo::Vocabulary({'a', 'b', 'c'});
  const auto source = make_source(text.path(), options);
  CHECK(source->evaluation(2).windows() == 2);
  CHECK(source->evaluation(2).skipped_bytes() == 2);
  CHECK_THROWS_AS(source->training_batch(0, 1, 2), dirigo::StateError);
}

TEST_CASE("texts shorter than one window and sizes out of range are refused with the numbers") {
  const ScratchFile text(counting_text(100));
  const auto source = make_source(text.path(), all_bytes());
  CHECK(source->training_batch(0, 1, 89).inputs.size() == 89);
  CHECK_THROWS_WITH_AS(
      source->training_batch(0, 1, 90),
      "[data] training text: expected at least seq_len + 1 = 91 bytes for one window, got 90", ValueError);
  CHECK_THROWS_WITH_AS(
      source->evaluation(10),
      "[data] held-out text: expected at least seq_len + 1 = 11 bytes for one window, got 10", ValueError);
  CHECK_THROWS_AS(source->training_batch(0, 0, 10), ValueError);
  CHECK_THROWS_AS(source->training_batch(0, 1, 0), ValueError);
  CHECK_THROWS_AS(source->evaluation(0), ValueError);
  CHECK_THROWS_AS(source->evaluation(5, -1), ValueError);
  CHECK_THROWS_AS(source->evaluation(5, 0, -1), ValueError);
  SourceOptions options;
  options.window = 0;
  CHECK_THROWS_AS(make_source(text.path(), options), ValueError);
  CHECK_THROWS_AS(make_source("/nonexistent/text", {}), dirigo::IoError);
}

TEST_CASE("unusable synthetic specifications name the nearest known word") {
  CHECK(error_of("synthetic:recal", {}) ==
        "[data] synthetic language: expected recall or fables (nearest: recall), got recal");
  CHECK(error_of("synthetic:fable?names=3", {}).find("nearest: fables") != std::string::npos);
  CHECK(error_of("synthetic:recall?key=8", {}) ==
        "[synthetic:recall] option: expected keys (the nearest known one), got key");
  CHECK(error_of("synthetic:fables?name=3", {}).find("expected names") != std::string::npos);
  CHECK(error_of("synthetic:recall?keys", {}).find("expected name=value") != std::string::npos);
  CHECK(error_of("synthetic:recall?keys=8&keys=9", {}).find("each name once") != std::string::npos);
  CHECK(error_of("synthetic:recall?keys=eight", {}) ==
        "[synthetic:recall] keys: expected a number, got eight");
  CHECK(error_of("synthetic:recall?keys=8x", {}).find("expected a number") != std::string::npos);
  CHECK(error_of("synthetic:recall?keys=65", {}) == "[synthetic:recall] keys: expected 1 to 64, got 65");
  CHECK(error_of("synthetic:recall?keys=0", {}).find("expected 1 to 64") != std::string::npos);
  CHECK(error_of("synthetic:recall?keys=4&active_keys=5", {}).find("expected 1 to keys = 4, got 5") !=
        std::string::npos);
  CHECK(error_of("synthetic:recall?key_rate=1", {}) ==
        "[synthetic:recall] key_rate: expected a number between 0 and 1, got 1");
  CHECK(error_of("synthetic:recall?key_rate=nan", {}).find("between 0 and 1") != std::string::npos);
  CHECK(error_of("synthetic:fables?names=11", {}).find("names: expected 1 to 10, got 11") !=
        std::string::npos);
  CHECK(error_of("synthetic:fables?objects=1", {}).find("objects: expected 2 to 10, got 1") !=
        std::string::npos);
  CHECK(error_of("synthetic:fables?stops=9", {}).find("stops: expected 1 to 8, got 9") != std::string::npos);
  CHECK(error_of("synthetic:fables?filler=1", {}).find("filler: expected 0 to 0.9, got 1") !=
        std::string::npos);
  CHECK(error_of("synthetic:fables?filler=nan", {}).find("filler: expected 0 to 0.9") != std::string::npos);
  SourceOptions options;
  options.valid = "x";
  CHECK(error_of("synthetic:recall", options).find("valid: expected none") != std::string::npos);
  options = {};
  options.train_bytes = 5;
  CHECK(error_of("synthetic:recall", options).find("train_bytes: expected 0") != std::string::npos);
  options = {};
  options.vocabulary = dirigo::Vocabulary({'a'});
  CHECK(error_of("synthetic:recall", options).find("vocabulary of 1 bytes") != std::string::npos);
}

TEST_CASE("a synthetic source: streams, specification, vocabulary") {
  SourceOptions options;
  options.table_seed = 5;
  const auto source = make_source("synthetic:recall", options);
  CHECK(source->describe().spec ==
        "synthetic:recall?seed=5&pool=0&stream=0&keys=16&active_keys=16&key_rate=0.12");
  CHECK_FALSE(source->describe().file.has_value());
  CHECK(source->tags() == std::vector<Need>{Need::text, Need::first, Need::recall_near, Need::recall_far});
  const auto again = make_source(source->describe().spec, {});
  CHECK(source->training_batch(9, 4, 64).inputs == again->training_batch(9, 4, 64).inputs);
  CHECK(source->training_batch(9, 4, 64).needs == again->training_batch(9, 4, 64).needs);
  const Batch told = source->training_batch(9, 4, 64);
  for (std::size_t i = 0; i < 256; ++i) {
    const bool recalled = told.needs[i] == Need::recall_near || told.needs[i] == Need::recall_far;
    CHECK((told.gaps[i] > 0) == recalled);
    if (recalled) CHECK(told.inputs[i] == told.inputs[i - std::size_t(told.gaps[i])]);
  }
  CHECK(source->training_batch(9, 4, 64).inputs != source->training_batch(10, 4, 64).inputs);

  const Batch batch = source->training_batch(3, 4, 20);
  for (std::size_t i = 0; i + 1 < 80; ++i) {
    if (i % 20 != 19) CHECK(batch.targets[i] == batch.inputs[i + 1]);
  }

  // the held-out stream is another one, and the same for every training seed
  const auto evaluation = source->evaluation(64);
  CHECK(evaluation.windows() == 256);
  CHECK(source->evaluation(64, 64, 1000).windows() == 1000);
  CHECK_THROWS_AS(source->evaluation(64, 32), ValueError);
  CHECK(evaluation.batch(0, 4).inputs != source->training_batch(0, 4, 64).inputs);
  options.seed = 77;
  const auto other = make_source("synthetic:recall", options);
  CHECK(other->evaluation(64).batch(0, 4).inputs == evaluation.batch(0, 4).inputs);
  CHECK(other->training_batch(0, 4, 64).inputs != source->training_batch(0, 4, 64).inputs);

  // another held-out stream is other sequences of the same language; training stays the same
  const auto test = make_source("synthetic:recall?seed=5&stream=1", {});
  CHECK(test->evaluation(64).batch(0, 4).inputs != evaluation.batch(0, 4).inputs);
  CHECK(test->evaluation(64).batch(0, 4).inputs != evaluation.batch(1, 4).inputs);
  CHECK(test->training_batch(9, 4, 64).inputs == again->training_batch(9, 4, 64).inputs);
  CHECK(error_of("synthetic:recall?stream=65536", {}).find("65535") != std::string::npos);

  // another seed is another language
  CHECK(make_source("synthetic:recall?seed=6", {})->evaluation(64).batch(0, 1).inputs !=
        evaluation.batch(0, 1).inputs);

  // in a wider vocabulary the bytes stay the same
  const auto wide = make_source("synthetic:recall?seed=5", all_bytes());
  CHECK(wide->vocabulary().decode(wide->training_batch(1, 2, 64).inputs) ==
        source->vocabulary().decode(source->training_batch(1, 2, 64).inputs));
}

TEST_CASE("a pool may have an easier language of its own, in the vocabulary of the corpus") {
  SourceOptions options;
  options.pool = 8;
  options.pool_steps = 3;
  options.pool_spec = "synthetic:recall?active_keys=1";
  const auto source = make_source("synthetic:recall", options);
  const auto keys_of = [&](std::uint64_t step) {
    const Batch batch = source->training_batch(step, 1, 256);
    const std::string text = source->vocabulary().decode(batch.inputs);
    std::set<char> keys;
    std::copy_if(text.begin(), text.end(), std::inserter(keys, keys.end()),
                 [](char c) { return c >= 'A' && c <= 'Z'; });
    return keys.size();
  };
  CHECK(keys_of(0) == 1);
  CHECK(keys_of(2) == 1);
  CHECK(keys_of(3) > 1);  // the corpus itself
  CHECK(source->vocabulary().size() == 64);
  options.pool_spec = "a-file";
  CHECK_THROWS_WITH_AS(make_source("synthetic:recall", options),
                       "[data] pool_corpus: expected synthetic:NAME, got a-file", ValueError);
}

TEST_CASE("the pool option of a specification") {
  SourceOptions options;
  options.pool_steps = 100;
  const auto source = make_source("synthetic:fables?pool=1", options);
  CHECK(source->training_batch(2, 8, 64).inputs == source->training_batch(0, 8, 64).inputs);
  CHECK(source->training_batch(100, 8, 64).inputs != source->training_batch(0, 8, 64).inputs);
}
