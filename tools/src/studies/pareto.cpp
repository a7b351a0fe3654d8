// pareto: quality against executed FLOPs and seconds, at equal training tokens, over three lengths.
#include <fmt/format.h>

#include <algorithm>

#include "dirigo/meta_attention/cost_model.hpp"
#include "dirigo/meta_attention/expert.hpp"
#include "dirigo/meta_attention/run_files.hpp"
#include "studies/studies.hpp"

namespace dirigo::tools {
namespace {

constexpr std::int64_t tokens_per_step = 4096;
constexpr std::int64_t max_cost_model_bytes = 1 << 20;

Settings budget(std::int64_t length) {
  return {{"train.seq_len", fmt::format("{}", length)},
          {"train.batch", fmt::format("{}", tokens_per_step / length)},
          {"train.steps", "1500"}};
}

StudyList list() {
  const Settings wait{{"router.warmup", "300"}};  // `tiny` waits for a fifth of its steps
  StudyList list{"pareto", 1, {}};
  const auto add = [&](StudyArm arm, std::int64_t length) {
    arm.name = fmt::format("{}_t{}", arm.method, length);
    list.arms.push_back(std::move(arm));
  };
  for (const std::int64_t length : {64, 512}) {
    for (StudyArm arm : paper_arms()) {
      arm.set = join(budget(length), arm.set);
      add(std::move(arm), length);
    }
    for (StudyArm& arm : tiny_arms(join(budget(length), wait))) add(std::move(arm), length);
  }
  const std::vector<StudyArm> longest = tiny_arms(join(budget(4096), wait));
  for (std::size_t i = 0; i < 3; ++i) add(longest[i], 4096);  // ours, static full, static local
  return list;
}

Json point(const Study& study, std::size_t arm, const std::vector<StudyRun>& runs, meta::RoutingMode mode) {
  std::vector<Json> evaluations;
  std::vector<double> train_s;
  for (const StudyRun& run : runs) {
    evaluations.push_back(test_evaluation(study, run, mode));
    train_s.push_back(study.result(run).train_s);
  }
  Json record = record_of(study, arm);
  record["routing"] = std::string(meta::name_of(mode));
  put_estimate(record, "nll", numbers_at(evaluations, "/nll"));
  const auto per_byte = [&](const char* key, const char* pointer) {
    auto values = numbers_at(evaluations, pointer);
    const auto tokens = numbers_at(evaluations, "/tokens");
    for (std::size_t i = 0; values && tokens && i < values->size(); ++i) (*values)[i] /= (*tokens)[i];
    put_mean(record, key, values);
  };
  per_byte("attention_flops_per_byte", "/executed/attention_flops");
  per_byte("model_flops_per_byte", "/executed/model_flops");
  per_byte("seconds_per_byte", "/executed/wall_s");
  put_mean(record, "train_s", train_s);
  // For mark_front; not part of the record.
  record["exhibit"] = !study.list().arms[arm].exhibit.empty();
  record["tested_on"] = tested_on(study, arm);
  return record;
}

// No other point over the same bytes is better in one and at least as good in the other.
void mark_front(Json& points, const char* key, const char* mark) {
  const auto beats = [&](const Json& a, const Json& b) {
    if (a["tested_on"] != b["tested_on"] || a["exhibit"] == true || !a["nll"].is_number() ||
        !a[key].is_number())
      return false;
    const double nll_a = a["nll"], nll_b = b["nll"], cost_a = a[key], cost_b = b[key];
    return nll_a <= nll_b && cost_a <= cost_b && (nll_a < nll_b || cost_a < cost_b);
  };
  for (Json& candidate : points) {
    const bool there = candidate["nll"].is_number() && candidate[key].is_number();
    candidate[mark] = there && candidate["exhibit"] == false &&
                      std::none_of(points.begin(), points.end(),
                                   [&](const Json& other) { return beats(other, candidate); });
  }
}

// Sums weights[k] * costs[k] over the experts, mean over layers, in percent.
std::optional<double> priced(const Json& evaluation, const char* weights, const std::vector<double>& costs) {
  const Json::json_pointer layers("/routing/layers");
  if (!evaluation.contains(layers)) return std::nullopt;
  double sum = 0;
  for (const Json& layer : evaluation.at(layers)) {
    for (std::size_t k = 0; k < costs.size(); ++k) sum += layer[weights][k].get<double>() * costs[k];
  }
  return 100 * sum / static_cast<double>(evaluation.at(layers).size());
}

struct Prices {
  const char* model;
  std::optional<std::vector<double>> costs;
};

// The nominal costs are those of the configuration's defaults: an arm may have been trained with others.
std::vector<Prices> prices_of(const meta::Config& config, const SectionOptions& options) {
  meta::Config analytic = config;
  analytic.router.cost_model = meta::CostModel::analytic;
  std::vector<Prices> prices{{"nominal", meta::RouterConfig{}.costs},
                             {"analytic", meta::expert_costs(analytic, config.train.seq_len)},
                             {"measured", std::nullopt}};
  for (const std::string& file : options.cost_models) {
    const std::vector<double> costs = meta::read_cost_model(file);  // checks the file
    const Json measured = Json::parse(meta::read_text_file(file, max_cost_model_bytes));
    if (measured["seq_len"] == config.train.seq_len) prices[2].costs = costs;
  }
  return prices;
}

void add_costs(const Study& study, std::size_t arm, const std::vector<StudyRun>& runs,
               const SectionOptions& options, Json& table) {
  for (const Prices& prices : prices_of(study.config(arm), options)) {
    Json record = record_of(study, arm);
    record["cost_model"] = prices.model;
    record["costs"] = prices.costs ? Json(*prices.costs) : Json(nullptr);
    std::vector<double> projected, argmax;
    for (const StudyRun& run : runs) {
      const Json evaluation = test_evaluation(study, run, meta::RoutingMode::hard);
      if (!prices.costs || !evaluation.is_object()) continue;
      projected.push_back(priced(evaluation, "mean_weights", *prices.costs).value_or(0));
      argmax.push_back(priced(evaluation, "fraction_argmax", *prices.costs).value_or(0));
    }
    put_mean(record, "projected_cost_pct", projected);
    put_mean(record, "argmax_cost_pct", argmax);
    table.push_back(std::move(record));
  }
}

StudySections sections(const Study& study, const SectionOptions& options) {
  StudySections result;
  Json& points = result.tables["points"] = Json::array();
  Json costs = Json::array();
  for (std::size_t arm = 0; arm < study.list().arms.size(); ++arm) {
    const std::vector<StudyRun> runs = good_runs(study, arm);
    if (runs.empty()) continue;
    const StudyRunResult first = study.result(runs.front());
    if (first.soft) points.push_back(point(study, arm, runs, meta::RoutingMode::soft));
    points.push_back(point(study, arm, runs, meta::RoutingMode::hard));
    if (first.gated) points.push_back(point(study, arm, runs, meta::RoutingMode::gated));
    add_costs(study, arm, runs, options, costs);
  }
  mark_front(points, "attention_flops_per_byte", "front_attention_flops");
  mark_front(points, "model_flops_per_byte", "front_model_flops");
  mark_front(points, "seconds_per_byte", "front_seconds");
  for (Json& record : points) {
    record.erase("exhibit");
    record.erase("tested_on");
  }
  result.tables["costs"] = std::move(costs);
  return result;
}

std::vector<ShownTable> shown() {
  return {{"points",
           {{"arm", "/arm"},
            {"T", "/seq_len"},
            {"routing", "/routing"},
            {"NLL", "/nll", 4},
            {"attention FLOPs/byte", "/attention_flops_per_byte"},
            {"front", "/front_attention_flops"},
            {"model FLOPs/byte", "/model_flops_per_byte"},
            {"front", "/front_model_flops"},
            {"us/byte", "/seconds_per_byte", 2, 1e6},
            {"front", "/front_seconds"},
            {"train s", "/train_s", 1}}},
          {"costs",
           {{"arm", "/arm"},
            {"priced by", "/cost_model"},
            {"full", "/costs/0", 3},
            {"linear", "/costs/1", 3},
            {"local", "/costs/2", 3},
            {"projected%", "/projected_cost_pct", 1},
            {"argmax%", "/argmax_cost_pct", 1}}}};
}

}  // namespace

const StudyKind pareto_study{"pareto", list, sections, shown};

}  // namespace dirigo::tools
