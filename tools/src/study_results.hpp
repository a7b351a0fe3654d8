// The results of a study as JSON and as a table.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "statistics.hpp"
#include "studies/studies.hpp"
#include "study.hpp"

namespace dirigo::tools {

// One arm over its seeds, or the null router. Numbers without an interval are means over the seeds.
struct StudyRow {
  std::string arm, method, label, preset, corpus, exhibit;
  std::int64_t seq_len = 0, batch = 0, steps = 0;
  std::int64_t seeds = 0, failed = 0;  // runs with a result, and runs without
  std::optional<double> learning_rate;
  struct Mode {
    std::string routing;  // soft, hard or gated
    Estimate nll;
    std::optional<double> attention_flops, model_flops, attention_flops_vs_full, model_flops_vs_full, wall_s;
  };
  std::vector<Mode> modes;
  std::optional<ResultRow::Routing> routing;
  std::optional<meta::Deltas> deltas;
  std::optional<double> train_s;
  struct GridPoint {
    double learning_rate = 0;
    std::optional<double> development_nll;  // none for a training that failed
  };
  std::vector<GridPoint> grid;
  std::vector<std::string> runs;

  const Mode* mode(const std::string& routing) const;
};

struct StudyResults {
  std::string study, corpus;  // that of arms without their own; may be empty
  std::int64_t seeds = 0;
  std::vector<StudyRow> rows;  // the arms in order, then a null router for every corpus and length
  StudySections sections;      // of a built-in study
};

// Of a study whose work is done.
StudyResults study_results(const Study& study, const std::string& corpus, const SectionOptions& options = {});

std::string study_json(const StudyResults& results);
std::string study_table(const StudyResults& results);
// What a built-in study adds, each table below its name; empty for any other.
std::string study_sections_text(const StudyResults& results);

}  // namespace dirigo::tools
