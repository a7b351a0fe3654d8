// Where training and evaluation windows come from: a text file or a synthetic language.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dirigo/data/corpus.hpp"
#include "dirigo/data/vocabulary.hpp"

namespace dirigo {

// What predicting the byte after an input position needs, where the language knows it. Routing and NLL are
// taken at that input position. The tag `recall` that people read is the union of recall_near and recall_far.
enum class Need : std::uint8_t {
  text,         // the last few bytes, or nothing that the context holds
  first,        // a fact stated for the first time: unpredictable
  recall_near,  // a fact stated before; its key occurred last fewer than `window` positions ago
  recall_far,   // a fact stated before; its key occurred last at least `window` positions ago
};

// The names of the values of Need, in order.
const std::vector<std::string>& need_names();

// Windows of equal length, row-major: element (b, t) is number b * length + t.
struct Batch {
  std::int64_t rows = 0;              // B
  std::int64_t length = 0;            // T
  std::vector<std::int32_t> inputs;   // (B,T) tokens
  std::vector<std::int32_t> targets;  // (B,T) targets[b,t] = the token after inputs[b,t]
  std::vector<Need> needs;            // (B,T), or empty for a source without tags
  // (B,T), or empty without tags: how far back the byte to predict stood when it was last told, at least 1
  // (for a key: the distance to its last occurrence); 0 where it was not
  std::vector<std::int32_t> gaps;
};

struct SourceOptions {
  std::uint64_t seed = 0;         // of the training windows or sequences
  std::uint64_t train_bytes = 0;  // files: train on the first so many bytes only; 0 = all
  std::string valid;              // files: path of a separate held-out file; empty = last tenth of the corpus
  bool bytes256 = false;          // vocabulary of all bytes instead of the observed ones
  std::optional<Vocabulary> vocabulary;  // the vocabulary of an existing run; overrides `bytes256`
  bool evaluation_only = false;          // files: the whole file is held-out text and nothing trains
  std::int64_t window = 32;              // w, which divides recall_near from recall_far
  std::uint64_t table_seed = 0;          // synthetic: value of the specification's `seed` if it has none
  std::uint64_t pool = 0;                // while step < pool_steps, training draws from this many fixed
  std::uint64_t pool_steps = 0;          //   windows or sequences only (0 = no pool): repetition comes first
  std::string pool_spec;  // the pool's own synthetic language, easier say (empty = the same corpus)
};

// What a run records about its data, enough to recognise the same bytes again.
struct FileDescription {
  std::string path;
  std::string sha256;
  std::uint64_t bytes = 0;
};
struct SourceDescription {
  std::string spec;                      // the specification with every option resolved
  std::optional<FileDescription> file;   // absent for a synthetic language
  std::optional<FileDescription> valid;  // the separate held-out file, if any
  Split split;                           // zero for a synthetic language
};

class EvaluationSet;

// Training windows are a pure function of (seed, step, row): resuming needs the step alone.
class DataSource {
 public:
  virtual ~DataSource() = default;
  DataSource(const DataSource&) = delete;
  DataSource& operator=(const DataSource&) = delete;

  const Vocabulary& vocabulary() const { return vocabulary_; }

  // `rows` training windows of `length` inputs for a step (steps count from 0). Throws ValueError if the
  // training text is shorter than one window (length + 1 bytes) or a size is below 1; StateError if nothing
  // trains.
  Batch training_batch(std::uint64_t step, std::int64_t rows, std::int64_t length) const;

  // The held-out windows of `length` inputs, all positions scored, no context across windows.
  // Files: window starts are `stride` apart (0 = length, so that windows do not overlap); an incomplete last
  // window is dropped; `windows` > 0 takes at most that many, evenly spaced.
  // Synthetic: `windows` independent sequences (0 = 256) of a stream apart from the training one and the same
  // for every training seed; stride must be 0 or length. Throws ValueError if the text is shorter than one
  // window. The set refers to this source.
  EvaluationSet evaluation(std::int64_t length, std::int64_t stride = 0, std::int64_t windows = 0) const;

  // The tags that its batches can carry, in the order of Need; none for a file.
  virtual std::vector<Need> tags() const = 0;
  // Whether batches carry needs and gaps.
  bool has_needs() const { return !tags().empty(); }

  // Expected NLL per byte of the generating process itself, given all earlier bytes of the window, averaged
  // over the targets of windows of `length` inputs; none where it is unknown.
  virtual std::optional<double> entropy_floor(std::int64_t length) const = 0;

  // Hashes the files: reads them whole.
  virtual SourceDescription describe() const = 0;

 protected:
  // One row of a batch; `needs` and `gaps` are empty without tags.
  struct Row {
    std::span<std::int32_t> inputs;
    std::span<std::int32_t> targets;
    std::span<Need> needs;
    std::span<std::int32_t> gaps;
  };
  // The windows that an evaluation reads: number i is `stride` * floor(i * available / count).
  struct EvaluationPlan {
    std::uint64_t available = 0;
    std::uint64_t count = 0;
    std::uint64_t stride = 1;
    std::uint64_t skipped_bytes = 0;
  };

  DataSource(Vocabulary vocabulary, const SourceOptions& options);

  const SourceOptions& options() const { return options_; }

  // Window number `index` of the endless training stream; the plan has been checked for rows of this length.
  virtual void training_row(std::uint64_t index, Row row) const = 0;
  virtual void check_training(std::int64_t length) const = 0;
  virtual void evaluation_row(std::uint64_t position, Row row) const = 0;
  virtual EvaluationPlan plan_evaluation(std::int64_t length, std::int64_t stride,
                                         std::int64_t windows) const = 0;

 private:
  friend class EvaluationSet;
  friend std::unique_ptr<DataSource> make_source(const std::string& spec, const SourceOptions& options);
  std::uint64_t stream_index(std::uint64_t step, std::int64_t rows, std::int64_t row) const;
  Batch empty_batch(std::int64_t rows, std::int64_t length) const;
  static Row row_of(Batch& batch, std::int64_t row);

  Vocabulary vocabulary_;
  SourceOptions options_;
  std::unique_ptr<DataSource> pool_;  // of pool_spec
};

// Held-out windows, encoded when asked for. Refers to the source it came from.
class EvaluationSet {
 public:
  std::int64_t windows() const { return static_cast<std::int64_t>(plan_.count); }
  std::int64_t length() const { return length_; }
  // Unknown bytes that were removed from the whole held-out text beforehand.
  std::uint64_t skipped_bytes() const { return plan_.skipped_bytes; }
  // Windows first .. first + rows - 1. Throws ValueError outside [0, windows()).
  Batch batch(std::int64_t first, std::int64_t rows) const;

 private:
  friend class DataSource;
  EvaluationSet(const DataSource& source, DataSource::EvaluationPlan plan, std::int64_t length)
      : source_(&source), plan_(plan), length_(length) {}

  const DataSource* source_;
  DataSource::EvaluationPlan plan_;
  std::int64_t length_;
};

// `spec` is the path of a file, or `synthetic:NAME?option=value&option=value` with NAME `recall` or `fables`
// (their options: synthetic.hpp; those of every language: `seed` of the tables, `pool`, and `stream`, which
// of the held-out streams, that share no sequence, is evaluated). Throws IoError for an unusable file;
// ValueError, naming the nearest known word, for an unknown language or option, and for a value out of range
// or an option that does not apply.
std::unique_ptr<DataSource> make_source(const std::string& spec, const SourceOptions& options);

}  // namespace dirigo
