#include "study_run.hpp"

#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "checkpoint.hpp"
#include "dirigo/core/errors.hpp"
#include "evaluate_run.hpp"
#include "trainer.hpp"
#include "training_run.hpp"

namespace dirigo::tools {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr double share_of_steps = 0.95;  // the rest are the evaluations in the end
constexpr std::int64_t max_failure_bytes = 1 << 16;

std::string file(const std::string& directory, const std::string& name) {
  return (fs::path(directory) / name).string();
}

// A process that was killed while it made the directory leaves at most the first files, some of them under
// temporary names, and no checkpoint.
bool only_just_begun(const std::string& directory) {
  if (fs::exists(fs::path(directory) / "checkpoint" / "latest")) return false;
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    const bool first = name.rfind("config.json", 0) == 0 || name.rfind("model.safetensors", 0) == 0;
    if (!first && name != "checkpoint") return false;
  }
  return true;
}

void check_configuration(const std::string& directory, const meta::Config& config) {
  const auto found = meta::describe_fields(meta::read_run_description(directory).config);
  const auto wanted = meta::describe_fields(config);
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (found[i].value == wanted[i].value) continue;
    throw ValueError(fmt::format("[{}] {}: expected {} as this study says, got {}",
                                 file(directory, "config.json"), wanted[i].key, wanted[i].value,
                                 found[i].value));
  }
}

bool has_evaluations(const std::string& directory) {
  return fs::exists(file(directory, evaluation_file_name(meta::RoutingMode::soft, ""))) &&
         fs::exists(file(directory, evaluation_file_name(meta::RoutingMode::hard, "")));
}

bool train(const Context& context, const TrainingPlan& plan, bool resuming,
           const std::function<bool(double)>& progress) {
  Trainer trainer(context, plan.description, *plan.source, plan.directory);
  resuming ? trainer.resume() : trainer.start();
  const auto steps = static_cast<double>(plan.description.config.train.steps);
  const bool done = trainer.train([&](const Trainer::Progress& step) {
    return progress(share_of_steps * static_cast<double>(step.report.step) / steps);
  });
  if (!done) return false;
  for (const auto mode : {meta::RoutingMode::soft, meta::RoutingMode::hard})
    final_evaluation(context, trainer.model(), plan, mode, [&](double) { return progress(share_of_steps); });
  return true;
}

void write_failure(const std::string& directory, const std::string& message) {
  const Json json{{"format_version", 1}, {"message", message}};
  meta::write_file_atomically(file(directory, "failed.json"),
                              json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace

StudyRunState study_run_state(const std::string& directory, const meta::Config& config) {
  if (!fs::exists(directory)) return StudyRunState::absent;
  if (fs::is_directory(directory) && only_just_begun(directory)) return StudyRunState::absent;
  check_configuration(directory, config);
  if (fs::exists(file(directory, "failed.json"))) return StudyRunState::failed;
  const bool all_steps = checkpoint_step(directory) == config.train.steps;
  return all_steps && has_evaluations(directory) ? StudyRunState::trained : StudyRunState::begun;
}

bool train_study_run(const Context& context, const std::string& directory, const meta::Config& config,
                     const std::function<bool(double)>& progress) {
  const StudyRunState state = study_run_state(directory, config);
  if (state == StudyRunState::trained || state == StudyRunState::failed) return true;
  const bool resuming = state == StudyRunState::begun;
  if (!resuming) fs::remove_all(directory);
  const TrainingPlan plan = resuming ? plan_resumed_run(directory) : plan_new_run(config, directory);
  try {
    return train(context, plan, resuming, progress);
  } catch (const meta::Interrupted&) {
    return false;
  } catch (const NumericError& error) {
    write_failure(directory, error.what());
    return true;
  }
}

std::string read_failure(const std::string& directory) {
  const std::string path = file(directory, "failed.json");
  const Json json = Json::parse(meta::read_text_file(path, max_failure_bytes), nullptr, false);
  if (!json.is_object() || !json.contains("message") || !json["message"].is_string())
    throw IoError(fmt::format("[{}] message: expected text, got none", path));
  return json["message"].get<std::string>();
}

}  // namespace dirigo::tools
