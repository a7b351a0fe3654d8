// A training run: the loop, and what it leaves in the run's directory.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "checkpoint.hpp"
#include "dirigo/data/source.hpp"
#include "dirigo/meta_attention/run_files.hpp"
#include "metrics_log.hpp"
#include "training_step.hpp"

namespace dirigo::tools {

class Trainer {
 public:
  // Builds the model and checks that training and held-out text hold a window; writes nothing. All arguments
  // but `run` must outlive the trainer. Throws ValueError.
  Trainer(const Context& context, const meta::RunDescription& description, const DataSource& source,
          std::string run);

  // Begins the run: config.json and a checkpoint of step 0. The directory must be new or empty; a failure (no
  // disk space) leaves it so. Throws IoError.
  void start();
  // Goes on from the run's checkpoint. Throws IoError or ValueError for a damaged one.
  void resume();

  struct Progress {
    const StepReport& report;
    std::string event;                // what just happened, for people; mostly empty
    std::optional<double> valid_nll;  // when this step ended with an evaluation: soft routing, some windows
  };
  // Trains to the end, or until `observe`, called after every step, returns false. Saves at every evaluation,
  // every five minutes, and in the end. Returns whether all steps are done. Throws NumericError
  // (TrainingStep): the checkpoint of before is kept.
  bool train(const std::function<bool(const Progress&)>& observe);

  meta::LanguageModel& model() noexcept { return model_; }
  const TrainingState& state() const noexcept { return state_; }

 private:
  StepReport next_step();
  std::optional<PeriodicEvaluation> evaluate_if_due();
  std::string event_of(const StepReport& report) const;
  void save();

  const Context& context_;
  const meta::RunDescription& description_;
  const DataSource& source_;
  std::string run_;
  meta::LanguageModel model_;
  nn::Adam adam_;
  TrainingStep step_;
  TrainingState state_;
  std::int64_t saved_step_ = -1;
};

}  // namespace dirigo::tools
