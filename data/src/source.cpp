#include "dirigo/data/source.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "dirigo/core/errors.hpp"
#include "file_source.hpp"
#include "synthetic_source.hpp"

namespace dirigo {
namespace {

constexpr std::uint32_t kPoolSite = 1;  // of Purpose::batch; the windows themselves use 0

void check_at_least_one(const char* what, std::int64_t value) {
  if (value < 1) throw ValueError(fmt::format("[data] {}: expected at least 1, got {}", what, value));
}

bool is_synthetic(const std::string& spec) {
  return spec.rfind("synthetic:", 0) == 0;
}

}  // namespace

const std::vector<std::string>& need_names() {
  static const std::vector<std::string> names{"text", "first", "recall_near", "recall_far"};
  return names;
}

DataSource::DataSource(Vocabulary vocabulary, const SourceOptions& options)
    : vocabulary_(std::move(vocabulary)), options_(options) {
  check_at_least_one("window", options.window);
}

Batch DataSource::empty_batch(std::int64_t rows, std::int64_t length) const {
  const auto size = static_cast<std::size_t>(rows * length);
  Batch batch{rows, length, std::vector<std::int32_t>(size), std::vector<std::int32_t>(size), {}, {}};
  if (has_needs()) {
    batch.needs.resize(size);
    batch.gaps.resize(size);
  }
  return batch;
}

DataSource::Row DataSource::row_of(Batch& batch, std::int64_t row) {
  const auto length = static_cast<std::size_t>(batch.length);
  const std::size_t begin = static_cast<std::size_t>(row) * length;
  Row view{std::span(batch.inputs).subspan(begin, length),
           std::span(batch.targets).subspan(begin, length),
           {},
           {}};
  if (!batch.needs.empty()) {
    view.needs = std::span(batch.needs).subspan(begin, length);
    view.gaps = std::span(batch.gaps).subspan(begin, length);
  }
  return view;
}

// The endless stream in order, or, while the pool lasts, one of its first windows drawn with replacement: a
// fixed order would repeat the same batches.
std::uint64_t DataSource::stream_index(std::uint64_t step, std::int64_t rows, std::int64_t row) const {
  if (options_.pool == 0 || step >= options_.pool_steps) {
    return step * static_cast<std::uint64_t>(rows) + static_cast<std::uint64_t>(row);
  }
  const RandomKey key =
      random_key(options_.seed, static_cast<std::uint32_t>(step), Purpose::batch, kPoolSite);
  return PhiloxStream(key, static_cast<std::uint32_t>(row)).below(options_.pool);
}

Batch DataSource::training_batch(std::uint64_t step, std::int64_t rows, std::int64_t length) const {
  check_at_least_one("batch", rows);
  check_at_least_one("seq_len", length);
  check_training(length);
  Batch batch = empty_batch(rows, length);
  const DataSource& from = pool_ && step < options_.pool_steps ? *pool_ : *this;
  for (std::int64_t row = 0; row < rows; ++row)
    from.training_row(stream_index(step, rows, row), row_of(batch, row));
  return batch;
}

EvaluationSet DataSource::evaluation(std::int64_t length, std::int64_t stride, std::int64_t windows) const {
  check_at_least_one("seq_len", length);
  if (stride < 0) throw ValueError(fmt::format("[data] stride: expected at least 0, got {}", stride));
  if (windows < 0) throw ValueError(fmt::format("[data] windows: expected at least 0, got {}", windows));
  return EvaluationSet(*this, plan_evaluation(length, stride, windows), length);
}

Batch EvaluationSet::batch(std::int64_t first, std::int64_t rows) const {
  if (first < 0 || rows < 1 || rows > windows() - first) {
    throw ValueError(fmt::format("[data] evaluation windows: expected some of 0 to {}, got {} from {}",
                                 windows() - 1, rows, first));
  }
  Batch batch = source_->empty_batch(rows, length_);
  for (std::int64_t row = 0; row < rows; ++row) {
    const auto window = static_cast<std::uint64_t>(first + row);
    // floor(window * available / count) without overflow of the product
    const std::uint64_t chosen =
        window * (plan_.available / plan_.count) + window * (plan_.available % plan_.count) / plan_.count;
    source_->evaluation_row(chosen * plan_.stride, DataSource::row_of(batch, row));
  }
  return batch;
}

std::unique_ptr<DataSource> make_source(const std::string& spec, const SourceOptions& options) {
  if (!is_synthetic(spec)) return FileSource::open(spec, options);
  auto source = make_synthetic_source(spec, options);
  if (!options.pool_spec.empty()) {
    if (!is_synthetic(options.pool_spec)) {
      throw ValueError(fmt::format("[data] pool_corpus: expected synthetic:NAME, got {}", options.pool_spec));
    }
    SourceOptions same_vocabulary = options;
    same_vocabulary.vocabulary = source->vocabulary();
    source->pool_ = make_synthetic_source(options.pool_spec, same_vocabulary);
  }
  return source;
}

}  // namespace dirigo
