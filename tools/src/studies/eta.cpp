// eta: which measure of certainty tells when a token may be routed hard? The gates swept over their
// thresholds, and their certainty judged by the forced-expert oracle (docs/study.md, section eta).
#include <fmt/format.h>

#include "dirigo/core/errors.hpp"
#include "studies/gates.hpp"
#include "studies/studies.hpp"

namespace dirigo::tools {
namespace {

StudyList list() {
  const Settings budget{{"train.seq_len", "256"}, {"train.batch", "8"}, {"train.steps", "2000"}};
  const Settings wait{{"router.warmup", "400"}};
  const Settings ours = join(budget, wait);
  const auto fixed = [&](const char* expert) {
    return StudyArm{fmt::format("static_{}", expert),
                    fmt::format("static {}", expert),
                    "tiny",
                    join(ours, static_expert(expert)),
                    {}};
  };
  return {"eta",
          3,
          {{"ours", "ours (tiny)", "tiny", ours, {}},
           {"ours_soft",
            "ours, trained soft to the end",
            "tiny",
            join(ours, {{"train.straight_through", "off"}}),
            {}},
           {"bayesian", "Bayesian (paper)", "paper", budget, {}},
           fixed("full"),
           fixed("linear"),
           fixed("local")}};
}

// A leaky model runs every expert on every token, whatever the gate says.
bool has_gates(const meta::Config& config) {
  return config.router.kind == meta::RouterKind::bayes && !config.attention.leaky;
}

const StudyProbe gate_probe{"gates", has_gates, measure_gates, true};

// What the probe has measured of a run.
Json measured(const Study& study, const StudyRun& run) {
  const std::string path = study.probe_file(run, gate_probe);
  Json json = read_object(path);
  for (const char* key :
       {"sweep", "calibration", "gates", "risk_coverage", "reliability", "raw_reliability"}) {
    if (!json.contains(key) || !json[key].is_array() || json[key].empty())
      throw IoError(fmt::format("[{}] {}: expected a list, got none", path, key));
  }
  return json;
}

// A run's records of one kind, each behind the run's own keys.
void append(const Study& study, const StudyRun& run, const Json& records, Json& curve) {
  for (const Json& item : records) {
    Json record = record_of(study, run);
    record.update(item);
    curve.push_back(std::move(record));
  }
}

// Over the runs' records at one place of a list.
void add_calibration(const Study& study, std::size_t arm, const std::vector<Json>& runs, Json& table) {
  for (std::size_t i = 0; i < runs.front()["calibration"].size(); ++i) {
    const Json& first = runs.front()["calibration"][i];
    Json record = record_of(study, arm);
    record["gate"] = first["gate"];
    record["layer"] = first["layer"];
    const auto values = [&](const std::string& key) {
      return numbers_at(runs, fmt::format("/calibration/{}/{}", i, key));
    };
    put_mean(record, "error_rate", values("error_rate"));
    put_estimate(record, "auroc", values("auroc"));
    for (const char* key : {"aurc", "ece", "brier", "raw_ece", "raw_brier"})
      put_mean(record, key, values(key));
    table.push_back(std::move(record));
  }
}

// Better than chance: surely so where there are seeds to tell.
bool better_than(double chance, const Json& record, const char* key) {
  const Json& interval = record[std::string(key) + "_ci95"];
  if (interval.is_array()) return interval[0].get<double>() > chance;
  return record[key].is_number() && record[key].get<double>() > chance;
}

void add_gates(const Study& study, std::size_t arm, const std::vector<Json>& runs, Json& table) {
  for (std::size_t i = 0; i < runs.front()["gates"].size(); ++i) {
    Json record = record_of(study, arm);
    record["gate"] = runs.front()["gates"][i]["gate"];
    put_estimate(record, "auroc", numbers_at(runs, fmt::format("/gates/{}/auroc", i)));
    put_estimate(record, "gain", numbers_at(runs, fmt::format("/gates/{}/gain", i)));
    record["fit"] = better_than(0.5, record, "auroc") && better_than(0, record, "gain");
    table.push_back(std::move(record));
  }
}

StudySections sections(const Study& study, const SectionOptions&) {
  StudySections result;
  for (const char* name : {"calibration", "gates"}) result.tables[name] = Json::array();
  for (const char* name : {"gates", "risk_coverage", "reliability", "raw_reliability"})
    result.curves[name] = Json::array();
  for (std::size_t arm = 0; arm < study.list().arms.size(); ++arm) {
    if (!has_gates(study.config(arm))) continue;
    std::vector<Json> all;
    for (const StudyRun& run : good_runs(study, arm)) {
      all.push_back(measured(study, run));
      append(study, run, all.back()["sweep"], result.curves["gates"]);
      for (const char* name : {"risk_coverage", "reliability", "raw_reliability"})
        append(study, run, all.back()[name], result.curves[name]);
    }
    if (all.empty()) continue;
    add_calibration(study, arm, all, result.tables["calibration"]);
    add_gates(study, arm, all, result.tables["gates"]);
  }
  return result;
}

std::vector<ShownTable> shown() {
  return {
      {"gates",
       {{"arm", "/arm"}, {"gate", "/gate"}, {"AUROC", "/auroc", 3}, {"gain", "/gain", 4}, {"fit", "/fit"}}},
      {"calibration",
       {{"arm", "/arm"},
        {"gate", "/gate"},
        {"layer", "/layer"},
        {"error rate", "/error_rate", 3},
        {"AUROC", "/auroc", 3},
        {"AURC", "/aurc", 3},
        {"ECE", "/ece", 3},
        {"Brier", "/brier", 3},
        {"raw ECE", "/raw_ece", 3},
        {"raw Brier", "/raw_brier", 3}}}};
}

}  // namespace

const StudyKind eta_study{"eta", list, sections, shown, &gate_probe};

}  // namespace dirigo::tools
