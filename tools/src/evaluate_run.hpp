// Evaluating a run on its own held-out text or on another one.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data_source.hpp"
#include "dirigo/meta_attention/evaluation.hpp"
#include "dirigo/meta_attention/run_files.hpp"

namespace dirigo::tools {

struct TextLabel {
  std::string corpus;        // its specification
  std::string evaluated_on;  // "held-out text", "training text" or "other text"
};

struct OpenedText {
  std::unique_ptr<DataSource> source;
  TextLabel label;
};

// The run's own held-out text.
TextLabel own_text(const meta::RunDescription& run);

// The text of `corpus`, or the run's held-out one. A file with the same bytes as the run's corpus is training
// text.
OpenedText open_evaluation_text(const meta::RunDescription& run, const std::optional<std::string>& corpus);

// Windows for runs of different length that are to predict the same bytes: `bytes` long each, numbers
// `chosen` of those that the text holds, evenly spaced.
struct AlignedWindows {
  std::int64_t bytes = 0;
  std::vector<std::int64_t> chosen;
};
// At most `wanted` of them (0: all).
AlignedWindows align_windows(const DataSource& source, std::int64_t bytes, std::int64_t wanted);
// Those windows cut into windows of `length`, which divides them. `source` must outlive the text.
meta::EvaluationText aligned_text(const DataSource& source, const AlignedWindows& windows,
                                  std::int64_t length);

// `eval --json`: the library's keys and what was evaluated.
std::string evaluation_json(const meta::Evaluation& evaluation, const std::string& run, const TextLabel& text,
                            const std::string& options);

// "PREFIX.json", or with what differs from the default: "PREFIX-seq-len-64.json".
std::string result_file_name(std::string prefix, const std::string& options);
// "eval-hard.json", or with what differs from the default: "eval-hard-seq-len-64.json".
std::string evaluation_file_name(meta::RoutingMode mode, const std::string& options);

}  // namespace dirigo::tools
