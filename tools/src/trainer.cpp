#include "trainer.hpp"

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <filesystem>

#include "data_source.hpp"
#include "dirigo/core/errors.hpp"
#include "dirigo/meta_attention/evaluation.hpp"

namespace dirigo::tools {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::int64_t log_every = 10;
constexpr std::int64_t periodic_windows = 64;
constexpr auto save_interval = std::chrono::minutes(5);

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Empties a directory that this process has begun to fill.
void remove_contents(const std::string& directory) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(directory, ignored)) fs::remove_all(entry.path(), ignored);
}

}  // namespace

Trainer::Trainer(const Context& context, const meta::RunDescription& description, const DataSource& source,
                 std::string run)
    : context_(context),
      description_(description),
      source_(source),
      run_(std::move(run)),
      model_(context, description.config, source.vocabulary().size(),
             static_cast<std::uint64_t>(description.config.train.seed)),
      adam_(make_optimiser(context, model_)),
      step_(context, model_, adam_) {
  state_.seed = description.config.train.seed;
  const std::int64_t length = description.config.train.seq_len;
  source.training_batch(0, 1, length);  // both throw for a text shorter than one window
  source.evaluation(length, 0, 1);
}

void Trainer::start() {
  std::error_code error;
  const bool created = fs::create_directories(run_, error);
  if (error)
    throw IoError(fmt::format("[{}] --out: expected a writable place, got {}", run_, error.message()));
  try {
    meta::write_run_description(run_, description_);
    save();
  } catch (...) {
    remove_contents(run_);
    if (created) fs::remove(run_, error);
    throw;
  }
}

void Trainer::resume() {
  state_ = load_checkpoint(context_, run_, model_, adam_);
  step_.entropy_drop() = state_.entropy_drop;
  const meta::TrainConfig& train = description_.config.train;
  if (state_.seed != train.seed || state_.step > train.steps) {
    throw IoError(
        fmt::format("[{}] checkpoint: expected seed {} and at most {} steps, got seed {} and {} steps", run_,
                    train.seed, train.steps, state_.seed, state_.step));
  }
  saved_step_ = state_.step;
}

// The checkpoint comes last: whoever finds it may rely on weights at least as new.
void Trainer::save() {
  if (saved_step_ == state_.step) return;
  save_weights(run_, "model.safetensors", model_);
  save_checkpoint(run_, model_, adam_, state_);
  saved_step_ = state_.step;
}

std::optional<PeriodicEvaluation> Trainer::evaluate_if_due() {
  const meta::TrainConfig& train = description_.config.train;
  if (train.eval_every == 0 || (state_.step % train.eval_every != 0 && state_.step != train.steps)) return {};
  const auto text = evaluation_text(source_, source_.evaluation(train.seq_len, 0, periodic_windows));
  meta::EvaluationOptions options;
  options.deltas = train.log_deltas;
  meta::Evaluation evaluation = meta::evaluate(context_, model_, text, options);
  const double nll = evaluation.nll;
  if (!std::isfinite(nll)) {
    throw NumericError(fmt::format("[train] held-out NLL after step {}: expected a finite number, got {}",
                                   state_.step, nll));
  }
  if (!state_.best_valid_nll || nll < *state_.best_valid_nll) {
    save_weights(run_, "best.safetensors", model_);
    state_.best_valid_nll = nll;
  }
  return PeriodicEvaluation{nll, std::move(evaluation.layers), evaluation.deltas,
                            std::move(evaluation.by_need)};
}

std::string Trainer::event_of(const StepReport& report) const {
  if (!report.switched) return "";
  const nn::EntropyDrop::State& drop = state_.entropy_drop;
  if (drop.layer < 0)
    return fmt::format("straight-through from step {}: no entropy has dropped", report.step);
  const auto layer = static_cast<std::size_t>(drop.layer);
  return fmt::format(
      "straight-through from step {}: routing entropy of layer {} fell from {:.3f} to {:.3f} ln K",
      report.step, layer, drop.highest[layer], drop.average[layer]);
}

// When the numbers fail, the message also says what is kept on disk.
StepReport Trainer::next_step() {
  const meta::TrainConfig& train = description_.config.train;
  const auto batch =
      source_.training_batch(static_cast<std::uint64_t>(state_.step), train.batch, train.seq_len);
  try {
    const StepReport report = step_(batch, state_.step);
    state_.entropy_drop = step_.entropy_drop();
    return report;
  } catch (const NumericError& error) {
    throw NumericError(
        fmt::format("{}; the state of step {} is kept in {}", error.what(), saved_step_, run_));
  }
}

bool Trainer::train(const std::function<bool(const Progress&)>& observe) {
  const meta::TrainConfig& train = description_.config.train;
  MetricsLog log(run_, state_.step);
  auto last_save = Clock::now(), last_log = last_save;
  std::int64_t tokens = 0;
  bool go_on = true;
  while (go_on && state_.step < train.steps) {
    const StepReport report = next_step();
    ++state_.step;
    tokens += train.batch * train.seq_len;
    const double tokens_per_s = static_cast<double>(tokens) / seconds_since(last_log);

    const std::optional<PeriodicEvaluation> evaluation = evaluate_if_due();
    const std::string event = event_of(report);
    const bool done = state_.step == train.steps;
    if (state_.step % log_every == 0 || done || evaluation || !event.empty()) {
      log.add(report, evaluation, event, tokens_per_s);
      last_log = Clock::now();
      tokens = 0;
    }
    go_on = observe({report, event, evaluation ? std::optional(evaluation->nll) : std::nullopt});
    if (done || !go_on || evaluation || Clock::now() - last_save > save_interval) {
      save();
      last_save = Clock::now();
    }
  }
  return state_.step == train.steps;
}

}  // namespace dirigo::tools
