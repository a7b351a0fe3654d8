// From a configuration, or a run, to its text.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dirigo/data/source.hpp"
#include "dirigo/meta_attention/evaluation.hpp"
#include "dirigo/meta_attention/run_files.hpp"

namespace dirigo::tools {

// The corpus of a resolved configuration, with the vocabulary given or observed. Throws ValueError when there
// is no corpus, and what make_source throws.
std::unique_ptr<DataSource> make_run_source(const meta::Config& config,
                                            const std::optional<Vocabulary>& vocabulary = {});
// The corpus of a run. Throws ValueError if it no longer has the bytes (SHA-256) that the run recorded.
std::unique_ptr<DataSource> make_run_source(const meta::RunDescription& run);
// Another text for a run, with the run's vocabulary: a file is evaluated whole, a synthetic language on its
// held-out stream.
std::unique_ptr<DataSource> make_evaluation_source(const meta::RunDescription& run, const std::string& spec);

Vocabulary vocabulary_of(const meta::RunDescription& run);

// What config.json records of the data.
std::vector<meta::RunDescription::Corpus> describe_corpora(const DataSource& source);

// Held-out windows as evaluate() reads them. The source must outlive the result.
meta::EvaluationText evaluation_text(const DataSource& source, EvaluationSet set);

}  // namespace dirigo::tools
