#include "study_results.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "table.hpp"

namespace dirigo::tools {
namespace {

using Json = nlohmann::ordered_json;
using Optional = std::optional<double>;

// The mean over the results that have the value; none if one of them has not.
template <class Item, class Get>
Optional mean_over(const std::vector<Item>& items, Get get) {
  if (items.empty()) return std::nullopt;
  double sum = 0;
  for (const Item& item : items) {
    const Optional value = get(item);
    if (!value) return std::nullopt;
    sum += *value;
  }
  return sum / static_cast<double>(items.size());
}

StudyRow::Mode mode_of(const std::string& routing, const std::vector<ResultRow>& evaluations) {
  StudyRow::Mode mode;
  mode.routing = routing;
  std::vector<double> nll;
  for (const ResultRow& evaluation : evaluations) nll.push_back(evaluation.nll);
  mode.nll = mean_estimate(nll);
  const auto mean = [&](Optional ResultRow::*value) {
    return mean_over(evaluations, [&](const ResultRow& row) { return row.*value; });
  };
  mode.attention_flops = mean(&ResultRow::attention_flops);
  mode.model_flops = mean(&ResultRow::model_flops);
  mode.attention_flops_vs_full = mean(&ResultRow::attention_flops_vs_full);
  mode.model_flops_vs_full = mean(&ResultRow::model_flops_vs_full);
  mode.wall_s = mean(&ResultRow::wall_s);
  return mode;
}

ResultRow::Routing mean_routing(const std::vector<ResultRow>& evaluations) {
  ResultRow::Routing routing;
  const auto mean = [&](Optional ResultRow::Routing::*value) {
    return mean_over(evaluations, [&](const ResultRow& row) { return row.overall.*value; });
  };
  routing.fraction_argmax.assign(meta::expert_count, 0.0);
  for (const ResultRow& row : evaluations) {
    for (std::size_t k = 0; k < meta::expert_count; ++k)
      routing.fraction_argmax[k] += row.overall.fraction_argmax[k] / static_cast<double>(evaluations.size());
  }
  routing.entropy_mean_pct = mean(&ResultRow::Routing::entropy_mean_pct);
  routing.entropy_sampled_pct = mean(&ResultRow::Routing::entropy_sampled_pct);
  routing.projected_cost_pct = mean(&ResultRow::Routing::projected_cost_pct);
  routing.argmax_cost_pct = mean(&ResultRow::Routing::argmax_cost_pct);
  routing.kl = mean(&ResultRow::Routing::kl);
  routing.mi_token_expert = mean(&ResultRow::Routing::mi_token_expert);
  return routing;
}

std::optional<meta::Deltas> mean_deltas(const std::vector<ResultRow>& evaluations) {
  const auto mean = [&](double meta::Deltas::*value) {
    return mean_over(evaluations, [&](const ResultRow& row) {
      return row.deltas ? Optional((*row.deltas).*value) : std::nullopt;
    });
  };
  const Optional permutation = mean(&meta::Deltas::permutation);
  if (!permutation) return std::nullopt;
  return meta::Deltas{*permutation, *mean(&meta::Deltas::prior), *mean(&meta::Deltas::position_only)};
}

std::vector<ResultRow> evaluations_of(const std::vector<StudyRunResult>& results,
                                      std::optional<ResultRow> StudyRunResult::*which) {
  std::vector<ResultRow> rows;
  for (const StudyRunResult& result : results) {
    if (result.*which) rows.push_back(*(result.*which));
  }
  return rows;
}

struct ArmResults {
  std::vector<StudyRunResult> good;
  std::vector<std::string> names;
  std::int64_t failed = 0;
};

ArmResults arm_results(const Study& study, std::size_t arm) {
  ArmResults results;
  for (const StudyRun& run : study.chosen_runs(arm)) {
    StudyRunResult result = study.result(run);
    results.names.push_back(run.name);
    if (result.failure.empty()) {
      results.good.push_back(std::move(result));
    } else {
      ++results.failed;
    }
  }
  if (results.names.empty()) results.failed = study.seeds();  // no rate of the grid could be trained
  return results;
}

void add_modes(StudyRow& row, const std::vector<StudyRunResult>& results) {
  const std::pair<const char*, std::optional<ResultRow> StudyRunResult::*> modes[] = {
      {"soft", &StudyRunResult::soft}, {"hard", &StudyRunResult::hard}, {"gated", &StudyRunResult::gated}};
  for (const auto& [name, which] : modes) {
    const auto evaluations = evaluations_of(results, which);
    if (!evaluations.empty()) row.modes.push_back(mode_of(name, evaluations));
  }
}

// What the arm is, and how its trainings went.
StudyRow describe_arm(const Study& study, std::size_t arm, const ArmResults& results) {
  const StudyArm& description = study.list().arms[arm];
  const meta::TrainConfig& train = study.config(arm).train;
  StudyRow row;
  row.arm = description.name;
  row.method = description.method;
  row.label = description.label;
  row.preset = description.preset;
  row.corpus = study.corpus(arm);
  row.exhibit = description.exhibit;
  row.seq_len = train.seq_len;
  row.batch = train.batch;
  row.steps = train.steps;
  row.seeds = static_cast<std::int64_t>(results.good.size());
  row.failed = results.failed;
  row.runs = results.names;
  return row;
}

StudyRow arm_row(const Study& study, std::size_t arm) {
  const ArmResults results = arm_results(study, arm);
  StudyRow row = describe_arm(study, arm, results);
  for (const StudyRun& run : study.grid(arm)) {
    const StudyRunResult result = study.result(run);
    row.grid.push_back(
        {run.config.train.lr.peak, result.failure.empty() ? Optional(result.development_nll) : std::nullopt});
  }
  if (const auto best = study.best_of_grid(arm)) row.learning_rate = row.grid[*best].learning_rate;
  if (results.good.empty()) return row;
  add_modes(row, results.good);
  const auto hard = evaluations_of(results.good, &StudyRunResult::hard);
  row.routing = mean_routing(hard);
  row.deltas = mean_deltas(evaluations_of(results.good, &StudyRunResult::soft));
  row.train_s = mean_over(results.good, [](const StudyRunResult& r) { return Optional(r.train_s); });
  return row;
}

// What the runs of one arm lose when a controller that emits the prior takes the place of theirs: soft by the
// prior's mean, hard by its expert.
StudyRow null_row(const Study& study, std::size_t arm) {
  const ArmResults results = arm_results(study, arm);
  StudyRow row = describe_arm(study, arm, results);
  row.method = "null_router";
  row.label = "null router (in " + row.arm + ")";
  row.preset.clear();
  if (results.good.empty()) return row;
  std::vector<double> soft;
  for (const ResultRow& evaluation : evaluations_of(results.good, &StudyRunResult::soft))
    soft.push_back(evaluation.nll + (evaluation.deltas ? evaluation.deltas->prior : 0));
  StudyRow::Mode mode;
  mode.routing = "soft";
  mode.nll = mean_estimate(soft);
  row.modes = {mode, mode_of("hard", evaluations_of(results.good, &StudyRunResult::null_hard))};
  row.routing = results.good.front().hard->null_router;
  return row;
}

// A list without a controller still has the row that others look for.
StudyRow null_router_of_nothing() {
  StudyRow row;
  row.method = "null_router";
  row.label = "null router";
  return row;
}

Json optional(Optional value) {
  return value && std::isfinite(*value) ? Json(*value) : Json(nullptr);
}

Json interval(const std::optional<Interval>& interval) {
  return interval ? Json::array({interval->low, interval->high}) : Json(nullptr);
}

Json mode_json(const StudyRow::Mode& mode) {
  return {{"nll", mode.nll.mean},
          {"nll_ci95", interval(mode.nll.ci95)},
          {"attention_flops", optional(mode.attention_flops)},
          {"model_flops", optional(mode.model_flops)},
          {"attention_flops_vs_full", optional(mode.attention_flops_vs_full)},
          {"model_flops_vs_full", optional(mode.model_flops_vs_full)},
          {"wall_s", optional(mode.wall_s)}};
}

Json routing_json(const ResultRow::Routing& r) {
  return {{"fraction_argmax", r.fraction_argmax},
          {"entropy_mean_pct", optional(r.entropy_mean_pct)},
          {"entropy_sampled_pct", optional(r.entropy_sampled_pct)},
          {"projected_cost_pct", optional(r.projected_cost_pct)},
          {"argmax_cost_pct", optional(r.argmax_cost_pct)},
          {"kl", optional(r.kl)},
          {"mi_token_expert", optional(r.mi_token_expert)}};
}

Json text_or_null(const std::string& text) {
  return text.empty() ? Json(nullptr) : Json(text);
}

Json row_json(const StudyRow& row) {
  const StudyRow::Mode* hard = row.mode("hard");
  Json json;
  json["arm"] = row.arm;
  json["method"] = row.method;
  json["label"] = row.label;
  json["preset"] = text_or_null(row.preset);
  json["corpus"] = row.corpus;
  json["seq_len"] = row.seq_len;
  json["batch"] = row.batch;
  json["steps"] = row.steps;
  json["exhibit"] = text_or_null(row.exhibit);
  json["seeds"] = row.seeds;
  json["failed"] = row.failed;
  json["learning_rate"] = optional(row.learning_rate);
  json["routing_mode"] = "hard";
  json["nll"] = hard ? Json(hard->nll.mean) : Json(nullptr);
  json["nll_ci95"] = hard ? interval(hard->nll.ci95) : Json(nullptr);
  for (const char* name : {"soft", "hard", "gated"}) {
    const StudyRow::Mode* mode = row.mode(name);
    json[name] = mode ? mode_json(*mode) : Json(nullptr);
  }
  json["routing"] = row.routing ? routing_json(*row.routing) : Json(nullptr);
  json["deltas"] = row.deltas ? Json{{"permutation_delta_nll", row.deltas->permutation},
                                     {"prior_delta_nll", row.deltas->prior},
                                     {"position_only_delta_nll", row.deltas->position_only}}
                              : Json(nullptr);
  json["train_s"] = optional(row.train_s);
  json["grid"] = Json::array();
  for (const StudyRow::GridPoint& point : row.grid)
    json["grid"].push_back(
        {{"learning_rate", point.learning_rate}, {"development_nll", optional(point.development_nll)}});
  json["runs"] = row.runs;
  return json;
}

std::string number(Optional value, int decimals) {
  if (!value || !std::isfinite(*value)) return "-";
  const bool zero = std::abs(*value) < 0.5 * std::pow(10, -decimals);  // not "-0.0"
  return fmt::format("{:.{}f}", zero ? 0 : *value, decimals);
}

std::string percent(Optional ratio) {
  return ratio ? number(100 * *ratio, 1) : "-";
}

// "1.7123", or "1.7123 +- 0.0042" where there is an interval.
std::string estimate(const StudyRow::Mode* mode, const char* sign) {
  if (!mode) return "-";
  std::string text = fmt::format("{:.4f}", mode->nll.mean);
  if (mode->nll.ci95) text += fmt::format(" {} {:.4f}", sign, mode->nll.ci95->high - mode->nll.mean);
  return text;
}

// What they mean is said in the report (report_study.cpp).
const std::vector<std::string> columns{
    "method",       "seeds", "lr", "NLL hard", "NLL soft",         "NLL gated",    "sampled%", "cost%",
    "argmax cost%", "KL",    "MI", "permuted", "attention FLOPs%", "model FLOPs%", "train s"};

// The label, with corpus and length where the study has several: such rows are not to be compared.
std::string full_label(const StudyRow& row, const StudyResults& results) {
  const StudyRow& first = results.rows.front();
  const auto differ = [&](auto member) {
    return std::any_of(results.rows.begin(), results.rows.end(),
                       [&](const StudyRow& other) { return other.*member != first.*member; });
  };
  std::string label = row.label;
  if (differ(&StudyRow::corpus)) label += ", " + row.corpus;
  if (differ(&StudyRow::seq_len)) label += fmt::format(", T={}", row.seq_len);
  if (!row.exhibit.empty()) label += " [exhibit: " + row.exhibit + "]";
  return label;
}

std::vector<std::string> cells(const StudyRow& row, const StudyResults& results, const char* sign) {
  const StudyRow::Mode* hard = row.mode("hard");
  const ResultRow::Routing routing = row.routing.value_or(ResultRow::Routing{});
  return {full_label(row, results),
          row.failed > 0 ? fmt::format("{} +{}", row.seeds, row.failed) : fmt::format("{}", row.seeds),
          row.learning_rate ? fmt::format("{}", *row.learning_rate) : "-",
          estimate(hard, sign),
          estimate(row.mode("soft"), sign),
          estimate(row.mode("gated"), sign),
          number(routing.entropy_sampled_pct, 1),
          number(routing.projected_cost_pct, 1),
          number(routing.argmax_cost_pct, 1),
          number(routing.kl, 4),
          number(routing.mi_token_expert, 4),
          row.deltas ? fmt::format("{:+.4f}", row.deltas->permutation) : "-",
          percent(hard ? hard->attention_flops_vs_full : std::nullopt),
          percent(hard ? hard->model_flops_vs_full : std::nullopt),
          number(row.train_s, 1)};
}

}  // namespace

const StudyRow::Mode* StudyRow::mode(const std::string& name) const {
  const auto found =
      std::find_if(modes.begin(), modes.end(), [&](const Mode& m) { return m.routing == name; });
  return found == modes.end() ? nullptr : &*found;
}

StudyResults study_results(const Study& study, const std::string& corpus, const SectionOptions& options) {
  StudyResults results{study.list().name, corpus, study.seeds(), {}, {}};
  for (std::size_t arm = 0; arm < study.list().arms.size(); ++arm)
    results.rows.push_back(arm_row(study, arm));
  for (const std::size_t arm : study.null_arms()) results.rows.push_back(null_row(study, arm));
  if (study.null_arms().empty()) results.rows.push_back(null_router_of_nothing());
  if (const StudyKind* kind = find_study(study.list().name))
    results.sections = kind->sections(study, options);
  return results;
}

std::string study_json(const StudyResults& results) {
  Json json;
  json["format_version"] = 1;
  json["study"] = results.study;
  json["corpus"] = text_or_null(results.corpus);
  json["seeds"] = results.seeds;
  json["rows"] = Json::array();
  for (const StudyRow& row : results.rows) json["rows"].push_back(row_json(row));
  json["tables"] = results.sections.tables;
  json["curves"] = results.sections.curves;
  // A label or a path need not be UTF-8.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string study_table(const StudyResults& results) {
  Table table(columns);
  for (const StudyRow& row : results.rows) table.add(cells(row, results, "+-"));
  return table.text();
}

std::string study_sections_text(const StudyResults& results) {
  const StudyKind* kind = find_study(results.study);
  if (kind == nullptr) return "";
  std::string text;
  for (const ShownTable& shown : kind->shown()) {
    const Json& records = results.sections.tables.at(shown.name);
    if (!records.empty()) text += fmt::format("\n{}\n{}", shown.name, table_text(records, shown));
  }
  return text;
}

}  // namespace dirigo::tools
