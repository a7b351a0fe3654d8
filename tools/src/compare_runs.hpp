// Runs against each other on the same held-out bytes, window by window.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dirigo/meta_attention/evaluation.hpp"
#include "evaluate_run.hpp"
#include "statistics.hpp"

namespace dirigo::tools {

struct ComparisonOptions {
  meta::EvaluationOptions evaluation;  // `seed` is also that of the bootstrap
  std::optional<std::string> corpus;   // another text than the runs' own held-out one
  std::int64_t windows = 0;            // evenly spaced ones; 0: all
};

struct ComparedRun {
  std::string run;
  meta::Evaluation evaluation;
  std::vector<double> window_nll;  // of each window of the comparison
  // NLL of this run minus that of the first one; the interval is block_bootstrap's.
  double difference = 0;
  std::optional<Interval> ci95;
};

struct Comparison {
  TextLabel text;
  std::int64_t windows = 0, window_bytes = 0;
  std::vector<ComparedRun> runs;
};

// Every run reads windows of its own training length; the comparison's windows are as long as the longest,
// which the others must divide, so that all predict the same bytes. Throws ValueError or IoError, before
// anything is evaluated, for runs whose held-out bytes or vocabularies differ.
Comparison compare_runs(const Context& context, const std::vector<std::string>& runs,
                        const ComparisonOptions& options);

std::string comparison_table(const Comparison& comparison);
std::string comparison_json(const Comparison& comparison, const ComparisonOptions& options);

}  // namespace dirigo::tools
