#include "file_source.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "dirigo/core/errors.hpp"
#include "dirigo/core/philox.hpp"

namespace dirigo {
namespace {

std::span<const std::uint8_t> part(const MappedFile& file, ByteRange range) {
  return file.bytes().subspan(range.begin, range.size());
}

FileDescription describe_file(const MappedFile& file) {
  return {file.path().string(), file.sha256(), file.bytes().size()};
}

// A window is `length` inputs and, shifted by one, as many targets.
void read_window(const TokenText& text, std::uint64_t begin, std::span<std::int32_t> inputs,
                 std::span<std::int32_t> targets) {
  text.read(begin, inputs);
  text.read(begin + 1, targets);
}

void check_holds_a_window(const char* what, const TokenText& text, std::int64_t length) {
  if (text.size() > static_cast<std::uint64_t>(length)) return;
  throw ValueError(fmt::format("[data] {}: expected at least seq_len + 1 = {} bytes for one window, got {}",
                               what, length + 1, text.size()));
}

Vocabulary choose_vocabulary(std::span<const std::uint8_t> train, const SourceOptions& options) {
  if (options.vocabulary) return *options.vocabulary;
  return options.bytes256 ? Vocabulary::bytes256() : Vocabulary::observed(train);
}

}  // namespace

std::span<const std::uint8_t> FileSource::Files::train_bytes() const {
  return part(corpus, split.train);
}

std::span<const std::uint8_t> FileSource::Files::held_out_bytes() const {
  return part(valid ? *valid : corpus, split.held_out);
}

std::unique_ptr<FileSource> FileSource::open(const std::string& path, const SourceOptions& options) {
  Files files{MappedFile(path), std::nullopt, {}};
  if (options.evaluation_only) {
    files.split = {{0, 0}, {0, files.corpus.bytes().size()}};
  } else {
    std::optional<std::uint64_t> valid_bytes;
    if (!options.valid.empty()) valid_bytes = files.valid.emplace(options.valid).bytes().size();
    files.split = split_corpus(files.corpus.bytes().size(), options.train_bytes, valid_bytes);
  }
  const auto observable = options.evaluation_only ? files.corpus.bytes() : files.train_bytes();
  const Vocabulary vocabulary = choose_vocabulary(observable, options);
  return std::unique_ptr<FileSource>(new FileSource(std::move(files), vocabulary, options));
}

FileSource::FileSource(Files files, const Vocabulary& vocabulary, const SourceOptions& options)
    : DataSource(vocabulary, options),
      files_(std::move(files)),
      train_(files_.train_bytes(), vocabulary),
      held_out_(files_.held_out_bytes(), vocabulary) {}

SourceDescription FileSource::describe() const {
  SourceDescription description;
  description.spec = files_.corpus.path().string();
  description.file = describe_file(files_.corpus);
  if (files_.valid) description.valid = describe_file(*files_.valid);
  description.split = files_.split;
  return description;
}

void FileSource::check_training(std::int64_t length) const {
  if (options().evaluation_only) {
    throw StateError(
        "[data] training batch: expected a source that trains, got one opened for evaluation only");
  }
  check_holds_a_window("training text", train_, length);
}

void FileSource::training_row(std::uint64_t index, Row row) const {
  const RandomKey key = random_key(options().seed, static_cast<std::uint32_t>(index >> 32), Purpose::batch);
  PhiloxStream random(key, static_cast<std::uint32_t>(index));
  read_window(train_, random.below(train_.size() - row.inputs.size()), row.inputs, row.targets);
}

void FileSource::evaluation_row(std::uint64_t position, Row row) const {
  read_window(held_out_, position, row.inputs, row.targets);
}

DataSource::EvaluationPlan FileSource::plan_evaluation(std::int64_t length, std::int64_t stride,
                                                       std::int64_t windows) const {
  check_holds_a_window("held-out text", held_out_, length);
  EvaluationPlan plan;
  plan.stride = static_cast<std::uint64_t>(stride == 0 ? length : stride);
  plan.available = (held_out_.size() - static_cast<std::uint64_t>(length) - 1) / plan.stride + 1;
  plan.count = windows == 0 ? plan.available : std::min(plan.available, static_cast<std::uint64_t>(windows));
  plan.skipped_bytes = held_out_.skipped();
  return plan;
}

}  // namespace dirigo
