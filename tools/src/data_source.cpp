#include "data_source.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "dirigo/core/errors.hpp"

namespace dirigo::tools {
namespace {

SourceOptions source_options(const meta::Config& config, const std::optional<Vocabulary>& vocabulary) {
  SourceOptions options;
  options.seed = static_cast<std::uint64_t>(config.train.seed);
  options.train_bytes = static_cast<std::uint64_t>(config.data.train_bytes);
  options.valid = config.data.valid;
  options.bytes256 = config.model.vocabulary == meta::VocabularyKind::bytes256;
  options.vocabulary = vocabulary;
  options.window = config.attention.window;
  options.table_seed = static_cast<std::uint64_t>(config.data.seed);
  options.pool = static_cast<std::uint64_t>(config.data.pool);
  options.pool_spec = config.data.pool_corpus;
  options.pool_steps = static_cast<std::uint64_t>(
      std::llround(config.data.pool_until * static_cast<double>(config.train.steps)));
  return options;
}

}  // namespace

std::unique_ptr<DataSource> make_run_source(const meta::Config& config,
                                            const std::optional<Vocabulary>& vocabulary) {
  if (config.data.corpus.empty()) {
    throw ValueError("[train] --corpus: expected a file or synthetic:NAME, got none");
  }
  return make_source(config.data.corpus, source_options(config, vocabulary));
}

std::unique_ptr<DataSource> make_run_source(const meta::RunDescription& run) {
  auto source = make_run_source(run.config, vocabulary_of(run));
  const auto corpora = describe_corpora(*source);
  for (const auto& recorded : run.corpora) {
    const auto same = std::find_if(corpora.begin(), corpora.end(),
                                   [&](const auto& corpus) { return corpus.role == recorded.role; });
    const std::string got = same == corpora.end() ? "none" : same->sha256;
    if (got != recorded.sha256) {
      throw ValueError(fmt::format("[{}] {}: expected the run's bytes (SHA-256 {}), got others ({})",
                                   recorded.spec, recorded.role, recorded.sha256, got));
    }
  }
  return source;
}

std::unique_ptr<DataSource> make_evaluation_source(const meta::RunDescription& run, const std::string& spec) {
  SourceOptions options = source_options(run.config, vocabulary_of(run));
  const bool synthetic = spec.rfind("synthetic:", 0) == 0;
  options.evaluation_only = !synthetic;
  options.valid.clear();
  options.train_bytes = 0;
  return make_source(spec, options);
}

Vocabulary vocabulary_of(const meta::RunDescription& run) {
  return Vocabulary(std::vector<int>(run.vocabulary.begin(), run.vocabulary.end()));
}

std::vector<meta::RunDescription::Corpus> describe_corpora(const DataSource& source) {
  const SourceDescription description = source.describe();
  const auto number = [](std::uint64_t value) { return static_cast<std::int64_t>(value); };
  meta::RunDescription::Corpus corpus{"corpus", description.spec, "", 0, 0, 0, 0, 0};
  if (!description.file) return {corpus};
  corpus.sha256 = description.file->sha256;
  corpus.bytes = number(description.file->bytes);
  corpus.train_begin = number(description.split.train.begin);
  corpus.train_end = number(description.split.train.end);
  if (!description.valid) {
    corpus.valid_begin = number(description.split.held_out.begin);
    corpus.valid_end = number(description.split.held_out.end);
    return {corpus};
  }
  const FileDescription& file = *description.valid;
  return {corpus,
          {"valid", file.path, file.sha256, number(file.bytes), 0, 0,
           number(description.split.held_out.begin), number(description.split.held_out.end)}};
}

meta::EvaluationText evaluation_text(const DataSource& source, EvaluationSet set) {
  meta::EvaluationText text;
  text.windows = set.windows();
  text.length = set.length();
  text.skipped_bytes = static_cast<std::int64_t>(set.skipped_bytes());
  text.entropy_floor = source.entropy_floor(set.length());
  std::array<std::uint8_t, 256> index{};  // of a tag, among those of this source
  for (const Need need : source.tags()) {
    index[static_cast<std::size_t>(need)] = static_cast<std::uint8_t>(text.need_names.size());
    text.need_names.push_back(need_names()[static_cast<std::size_t>(need)]);
  }
  text.window = [set, index](std::int64_t window, const meta::EvaluationWindow& to) {
    const Batch batch = set.batch(window, 1);
    std::copy(batch.inputs.begin(), batch.inputs.end(), to.inputs.begin());
    std::copy(batch.targets.begin(), batch.targets.end(), to.targets.begin());
    if (to.needs.empty()) return;
    std::transform(batch.needs.begin(), batch.needs.end(), to.needs.begin(),
                   [&](Need need) { return index[static_cast<std::size_t>(need)]; });
    std::copy(batch.gaps.begin(), batch.gaps.end(), to.gaps.begin());
  };
  return text;
}

}  // namespace dirigo::tools
