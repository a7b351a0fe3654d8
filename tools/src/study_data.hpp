// The three texts of a study. A run trains on the first, is selected on the second (its own held-out text),
// and only then, with nothing left to choose, evaluated on the third.
//
// A file is cut in three. With a test text of its own: training is the first `train_bytes` bytes (0: nine
// tenths), development the rest. Without: training is the first nine tenths (of which `train_bytes` are
// used), development and test are the halves of the last one. A synthetic language is developed on its
// held-out stream 0 and tested on stream 1.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "dirigo/data/corpus.hpp"

namespace dirigo::tools {

struct StudyDataOptions {
  std::string corpus;  // SPEC
  std::string valid;   // a separate test text; files only
  std::int64_t train_bytes = 0;

  bool operator==(const StudyDataOptions&) const = default;
};

struct StudyData {
  std::string corpus;  // data.corpus of every run
  std::string valid;   // data.valid: the development text; empty for a synthetic language
  std::string test;    // SPEC of the test text
};

class StudyTexts {
 public:
  // Writes nothing. Throws ValueError or IoError for an unusable corpus, or one that leaves a part without a
  // window of `length` bytes.
  StudyTexts(const StudyDataOptions& options, std::int64_t length);

  // What place() returns for a synthetic language; none for a file.
  std::optional<StudyData> synthetic() const { return synthetic_; }
  // Writes DIRECTORY/{train,development,test}.txt, unless the corpus is synthetic. Parts that are there
  // already must have the same bytes. Throws ValueError or IoError.
  StudyData place(const std::string& directory) const;

 private:
  using Bytes = std::span<const std::uint8_t>;
  void cut(const StudyDataOptions& options);

  std::optional<StudyData> synthetic_;
  std::optional<MappedFile> corpus_, test_;
  Bytes train_part_, development_part_, test_part_;
};

}  // namespace dirigo::tools
