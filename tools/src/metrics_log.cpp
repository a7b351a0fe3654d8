#include "metrics_log.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "dirigo/core/errors.hpp"
#include "dirigo/meta_attention/run_files.hpp"

namespace dirigo::tools {
namespace {

using Json = nlohmann::ordered_json;

Json optional(const std::optional<double>& value) {
  return value ? Json(*value) : Json(nullptr);
}

// What the needs of a tagged text cost; null without tags.
Json needs_json(const std::map<std::string, meta::NeedStatistics>& by_need) {
  Json needs;
  for (const auto& [tag, need] : by_need) {
    if (need.scored == 0) continue;  // nothing is asked
    needs[tag] = {{"tokens", need.tokens}, {"nll", need.nll}, {"accuracy", need.accuracy}};
  }
  return needs;
}

// What replacing the routing costs, and how far it follows the token, layer by layer.
void add_deltas(const PeriodicEvaluation& evaluation, Json& json) {
  Json active = Json::array(), mi = Json::array();
  for (const meta::RoutingStatistics& layer : evaluation.layers) {
    active.push_back(layer.active_units);
    mi.push_back(layer.mi_token_expert);
  }
  json["deltas"] = {{"permutation_delta_nll", evaluation.deltas->permutation},
                    {"prior_delta_nll", evaluation.deltas->prior},
                    {"position_only_delta_nll", evaluation.deltas->position_only}};
  json["active_units"] = active;
  json["mi_token_expert"] = mi;
}

// A last line that a killed process left incomplete does not parse and is dropped, too.
std::string lines_up_to(const std::string& text, std::int64_t steps_done) {
  std::istringstream lines(text);
  std::string kept;
  for (std::string line; std::getline(lines, line);) {
    const Json json = Json::parse(line, nullptr, false);
    if (!json.is_object() || !json.contains("step") || !json["step"].is_number_integer()) continue;
    if (json["step"].get<std::int64_t>() <= steps_done) kept += line + "\n";
  }
  return kept;
}

}  // namespace

MetricsLog::MetricsLog(const std::string& run, std::int64_t steps_done)
    : path_((std::filesystem::path(run) / "metrics.jsonl").string()) {
  if (std::filesystem::exists(path_)) {
    const std::string text = meta::read_text_file(path_, std::numeric_limits<std::int64_t>::max());
    meta::write_file_atomically(path_, lines_up_to(text, steps_done));
  }
  file_.reset(std::fopen(path_.c_str(), "ab"));
  if (!file_)
    throw IoError(fmt::format("[{}] file: expected a writable place, got {}", path_, std::strerror(errno)));
}

void MetricsLog::add(const StepReport& report, const std::optional<PeriodicEvaluation>& evaluation,
                     const std::string& event, double tokens_per_s) {
  Json routing = Json::array();
  for (const auto& layer : report.routing) {
    routing.push_back({{"mean_weights", layer.mean_weights},
                       {"fraction_argmax", layer.fraction_argmax},
                       {"entropy", layer.entropy},
                       {"one_hot", layer.one_hot}});
  }
  Json json;
  json["format_version"] = 1;
  json["step"] = report.step;
  json["loss"] = report.loss;
  json["nll"] = report.nll;
  json["valid_nll"] = optional(evaluation ? std::optional(evaluation->nll) : std::nullopt);
  json["valid_by_need"] = evaluation ? needs_json(evaluation->by_need) : Json(nullptr);
  json["kl"] = optional(report.kl);
  json["lr"] = report.lr;
  json["w_kl"] = report.w_kl;
  json["grad_norm"] = report.grad_norm;
  json["tokens_per_s"] = tokens_per_s;
  json["routing"] = {{"layers", routing}};
  if (!report.priors.empty()) json["priors"] = report.priors;
  if (evaluation && evaluation->deltas) add_deltas(*evaluation, json);
  if (!event.empty()) json["event"] = event;
  const std::string line = json.dump() + "\n";
  if (std::fwrite(line.data(), 1, line.size(), file_.get()) != line.size() || std::fflush(file_.get()) != 0) {
    throw IoError(fmt::format("[{}] file: expected room for a line, got {}", path_, std::strerror(errno)));
  }
}

}  // namespace dirigo::tools
