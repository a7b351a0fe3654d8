#include "synthetic_source.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "dirigo/core/errors.hpp"
#include "dirigo/core/philox.hpp"
#include "synthetic_spec.hpp"

namespace dirigo {
namespace {

constexpr std::int64_t kDefaultWindows = 256;
// Sites of Purpose::data; the languages use 0 (tables) and 2 (entropy floor).
constexpr std::uint32_t kHeldOutSite = 1;
// A held-out stream has room for 2^48 sequences before the next one begins.
constexpr unsigned kStreamShift = 48;
constexpr std::uint64_t kStreams = 1u << 16;

PhiloxStream sequence_stream(std::uint64_t seed, Purpose purpose, std::uint32_t site, std::uint64_t index) {
  return {random_key(seed, static_cast<std::uint32_t>(index >> 32), purpose, site),
          static_cast<std::uint32_t>(index)};
}

// A run's vocabulary may be wider than the language's (all bytes, say) but must know all of it.
Vocabulary choose_vocabulary(const Language& language, const SourceOptions& options,
                             const std::string& spec) {
  if (!options.vocabulary) return options.bytes256 ? Vocabulary::bytes256() : language.vocabulary();
  for (const int byte : language.vocabulary().byte_values()) {
    if (options.vocabulary->token(static_cast<std::uint8_t>(byte)) == Vocabulary::kUnknown) {
      throw ValueError(
          fmt::format("[data] {}: expected a language within the vocabulary of {} bytes, got byte {}", spec,
                      options.vocabulary->size(), byte));
    }
  }
  return *options.vocabulary;
}

}  // namespace

SyntheticSource::SyntheticSource(std::unique_ptr<Language> language, std::string spec, std::uint64_t seed,
                                 std::uint64_t held_out_stream, const SourceOptions& options)
    : DataSource(choose_vocabulary(*language, options, spec), options),
      language_(std::move(language)),
      spec_(std::move(spec)),
      seed_(seed),
      held_out_stream_(held_out_stream) {}

std::optional<double> SyntheticSource::entropy_floor(std::int64_t length) const {
  if (length < 1) throw ValueError(fmt::format("[data] seq_len: expected at least 1, got {}", length));
  return language_->entropy_floor(length);
}

SourceDescription SyntheticSource::describe() const {
  SourceDescription description;
  description.spec = spec_;
  return description;
}

void SyntheticSource::fill(PhiloxStream random, Row row) const {
  const auto length = static_cast<std::int64_t>(row.inputs.size());
  const Sequence sequence = language_->generate(random, length, options().window);
  for (std::size_t t = 0; t < row.inputs.size(); ++t) {
    row.inputs[t] = vocabulary().token(sequence.bytes[t]);
    row.targets[t] = vocabulary().token(sequence.bytes[t + 1]);
  }
  std::copy(sequence.needs.begin(), sequence.needs.end(), row.needs.begin());
  std::copy(sequence.gaps.begin(), sequence.gaps.end(), row.gaps.begin());
}

void SyntheticSource::training_row(std::uint64_t index, Row row) const {
  fill(sequence_stream(options().seed, Purpose::batch, 0, index), row);
}

void SyntheticSource::evaluation_row(std::uint64_t number, Row row) const {
  const std::uint64_t position = held_out_stream_ << kStreamShift | number;
  fill(sequence_stream(seed_, Purpose::data, kHeldOutSite, position), row);
}

DataSource::EvaluationPlan SyntheticSource::plan_evaluation(std::int64_t length, std::int64_t stride,
                                                            std::int64_t windows) const {
  if (stride != 0 && stride != length) {
    throw ValueError(fmt::format("[data] stride: expected seq_len = {} (sequences are independent), got {}",
                                 length, stride));
  }
  EvaluationPlan plan;
  plan.count = static_cast<std::uint64_t>(windows == 0 ? kDefaultWindows : windows);
  plan.available = plan.count;
  return plan;
}

std::unique_ptr<DataSource> make_synthetic_source(const std::string& spec, const SourceOptions& given) {
  if (!given.valid.empty()) {
    throw ValueError(fmt::format(
        "[data] valid: expected none with {} (it has its own held-out stream), got {}", spec, given.valid));
  }
  if (given.train_bytes > 0) {
    throw ValueError(fmt::format("[data] train_bytes: expected 0 with {} (its stream has no end), got {}",
                                 spec, given.train_bytes));
  }
  SourceOptions options = given;
  SyntheticSpec parsed(spec);
  const std::uint64_t seed = parsed.number<std::uint64_t>("seed", given.table_seed);
  options.pool = parsed.number<std::uint64_t>("pool", given.pool);
  const std::uint64_t stream = parsed.number<std::uint64_t>("stream", 0);
  if (stream >= kStreams) {
    throw ValueError(fmt::format("[synthetic:{}] stream: expected 0 to {}, got {}", parsed.language(),
                                 kStreams - 1, stream));
  }
  std::unique_ptr<Language> language;
  if (parsed.language() == "recall") {
    RecallOptions recall;
    recall.seed = seed;
    recall.keys = parsed.number("keys", recall.keys);
    recall.active_keys = parsed.number("active_keys", recall.keys);
    recall.key_rate = parsed.number("key_rate", recall.key_rate);
    language = make_recall(recall);
  } else {
    FablesOptions fables;
    fables.names = parsed.number("names", fables.names);
    fables.objects = parsed.number("objects", fables.objects);
    fables.stops = parsed.number("stops", fables.stops);
    fables.filler = parsed.number("filler", fables.filler);
    language = make_fables(fables);
  }
  parsed.refuse_unread();
  return std::make_unique<SyntheticSource>(std::move(language), parsed.resolved(), seed, stream, options);
}

}  // namespace dirigo
