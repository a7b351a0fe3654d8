#include "training_run.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "data_source.hpp"
#include "dirigo/core/errors.hpp"
#include "evaluate_run.hpp"
#include "progress.hpp"
#include "version.hpp"

namespace dirigo::tools {
namespace {

// Weights, gradients and two moments must fit into memory, or the system would end the process without a
// word.
void check_memory(const meta::RunDescription& run) {
  const double needed =
      16 * meta::parameter_count(run.config, static_cast<std::int64_t>(run.vocabulary.size()));
  const double memory =
      static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
  if (needed <= memory) return;
  throw ValueError(fmt::format("[train] model: expected one that fits into {}B of memory, got one of {}B",
                               count_text(memory), count_text(needed)));
}

}  // namespace

TrainingPlan plan_new_run(const meta::Config& config, const std::string& directory) {
  TrainingPlan plan;
  plan.description.config = config;
  plan.directory = directory;
  plan.source = make_run_source(config);
  for (const int byte : plan.source->vocabulary().byte_values()) {
    plan.description.vocabulary.push_back(static_cast<std::uint8_t>(byte));
  }
  check_memory(plan.description);
  plan.description.version = version();
  plan.description.corpora = describe_corpora(*plan.source);
  return plan;
}

TrainingPlan plan_resumed_run(const std::string& directory) {
  TrainingPlan plan;
  plan.directory = directory;
  plan.description = meta::read_run_description(directory);
  check_memory(plan.description);
  plan.source = make_run_source(plan.description);
  return plan;
}

meta::Evaluation final_evaluation(const Context& context, meta::LanguageModel& model,
                                  const TrainingPlan& plan, meta::RoutingMode routing,
                                  const std::function<bool(double fraction)>& progress) {
  const std::int64_t length = plan.description.config.train.seq_len;
  const auto text = evaluation_text(*plan.source, plan.source->evaluation(length, 0, final_windows));
  meta::EvaluationOptions options;
  options.routing = routing;
  options.progress = progress;
  meta::Evaluation evaluation = meta::evaluate(context, model, text, options);
  if (!std::isfinite(evaluation.nll)) {
    throw NumericError(fmt::format("[train] held-out NLL, {} routing: expected a finite number, got {}",
                                   meta::name_of(routing), evaluation.nll));
  }
  const bool all = plan.source->evaluation(length).windows() <= final_windows;
  const std::string flags = all ? "" : fmt::format("--windows {}", final_windows);
  const auto file = std::filesystem::path(plan.directory) / evaluation_file_name(routing, "");
  meta::write_file_atomically(file.string(),
                              evaluation_json(evaluation, plan.directory, own_text(plan.description), flags));
  return evaluation;
}

}  // namespace dirigo::tools
