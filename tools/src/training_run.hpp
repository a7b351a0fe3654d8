// From a configuration to a trained and evaluated run directory: what `train` and `study` share.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "dirigo/data/source.hpp"
#include "dirigo/meta_attention/evaluation.hpp"
#include "dirigo/meta_attention/run_files.hpp"

namespace dirigo::tools {

// A description of what is to be trained, its text, and where.
struct TrainingPlan {
  meta::RunDescription description;
  std::unique_ptr<DataSource> source;
  std::string directory;
};

// `config` must be resolved. Reads the corpus, writes nothing. Throws ValueError or IoError, also for a model
// that does not fit into memory.
TrainingPlan plan_new_run(const meta::Config& config, const std::string& directory);
// The run that `directory` holds.
TrainingPlan plan_resumed_run(const std::string& directory);

inline constexpr std::int64_t final_windows = 200;  // of the evaluations that end a training

// Evaluates on at most final_windows windows of the run's held-out text and writes eval-MODE.json. Throws
// NumericError for an NLL that is not finite, meta::Interrupted where `progress` returned false.
meta::Evaluation final_evaluation(const Context& context, meta::LanguageModel& model,
                                  const TrainingPlan& plan, meta::RoutingMode routing,
                                  const std::function<bool(double fraction)>& progress);

}  // namespace dirigo::tools
