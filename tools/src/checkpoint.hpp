// The state of a training run on disk, always complete.
//
// A checkpoint is a directory RUN/checkpoint/step-N with weights, moments and state.json; the file
// RUN/checkpoint/latest names the valid one. Its replacement is atomic, so that a process killed at any
// moment leaves either the old checkpoint or the new one, never a mixture.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "dirigo/meta_attention/language_model.hpp"
#include "dirigo/nn/optimizer.hpp"
#include "dirigo/nn/schedule.hpp"

namespace dirigo::tools {

// Random numbers and training windows are functions of seed and step: these two are all their state. Priors
// of empirical Bayes are with the weights.
struct TrainingState {
  std::int64_t step = 0;  // steps done
  std::int64_t seed = 0;
  std::optional<double> best_valid_nll;
  nn::EntropyDrop::State entropy_drop;  // of train.straight_through=auto
};

// RUN/FILE with the model's weights, whole or not at all. Throws IoError.
void save_weights(const std::string& run, const std::string& file, meta::LanguageModel& model);

// Throws IoError (no disk space, not writable); then the previous checkpoint is still there.
void save_checkpoint(const std::string& run, meta::LanguageModel& model, const nn::Adam& adam,
                     const TrainingState& state);
// The step of the latest checkpoint. Throws IoError naming the file that is missing or damaged.
std::int64_t checkpoint_step(const std::string& run);
// Throws IoError or ValueError naming the file that is missing or damaged.
TrainingState load_checkpoint(const Context& context, const std::string& run, meta::LanguageModel& model,
                              nn::Adam& adam);

}  // namespace dirigo::tools
