#include "studies/sections.hpp"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <numeric>
#include <sstream>

#include "dirigo/core/errors.hpp"
#include "dirigo/meta_attention/run_files.hpp"
#include "statistics.hpp"
#include "table.hpp"

namespace dirigo::tools {
namespace {

constexpr std::int64_t max_json_bytes = 64 << 20;

std::string cell(const Json& record, const ShownTable::Column& column) {
  const Json value = record.value(Json::json_pointer(column.value), Json());
  if (value.is_boolean()) return value ? "yes" : "no";
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_number()) return "-";
  const auto shown = [&](double number) {
    return fmt::format("{:.{}f}", column.scale * number, column.decimals);
  };
  const Json interval = record.value(column.value.substr(1) + "_ci95", Json());
  if (!interval.is_array()) return shown(value);
  const double half = (interval[1].get<double>() - interval[0].get<double>()) / 2;
  return shown(value) + "+-" + shown(half);
}

}  // namespace

std::string table_text(const Json& records, const ShownTable& shown) {
  std::vector<std::string> titles;
  for (const ShownTable::Column& column : shown.columns) titles.push_back(column.title);
  Table table(titles);
  for (const Json& record : records) {
    std::vector<std::string> cells;
    for (const ShownTable::Column& column : shown.columns) cells.push_back(cell(record, column));
    table.add(std::move(cells));
  }
  return table.text();
}

Json record_of(const Study& study, std::size_t arm) {
  const StudyArm& description = study.list().arms[arm];
  return {{"arm", description.name},
          {"method", description.method},
          {"corpus", study.corpus(arm)},
          {"seq_len", study.config(arm).train.seq_len}};
}

Json record_of(const Study& study, const StudyRun& run) {
  Json record = record_of(study, run.arm);
  record["seed"] = run.config.train.seed;
  return record;
}

std::string tested_on(const Study& study, std::size_t arm) {
  const std::string& corpus = study.corpus(arm);
  if (corpus.rfind("synthetic:", 0) != 0) return corpus;
  return fmt::format("{} {}", corpus, study.config(arm).train.seq_len);
}

std::vector<StudyRun> good_runs(const Study& study, std::size_t arm) {
  std::vector<StudyRun> runs;
  for (StudyRun& run : study.chosen_runs(arm)) {
    if (study.result(run).failure.empty()) runs.push_back(std::move(run));
  }
  return runs;
}

Json read_object(const std::string& path) {
  Json json = Json::parse(meta::read_text_file(path, max_json_bytes), nullptr, false);
  if (!json.is_object()) {
    throw IoError(fmt::format("[{}] content: expected a JSON object, got {}", path,
                              json.is_discarded() ? "invalid JSON" : json.type_name()));
  }
  return json;
}

Json test_evaluation(const Study& study, const StudyRun& run, meta::RoutingMode mode) {
  const std::string file = study.evaluation_file(run, mode);
  if (!std::filesystem::exists(file)) return nullptr;
  return read_object(file);
}

std::vector<Json> training_log(const StudyRun& run) {
  const std::string path = (std::filesystem::path(run.directory) / "metrics.jsonl").string();
  std::istringstream text(meta::read_text_file(path, std::numeric_limits<std::int64_t>::max()));
  std::vector<Json> lines;
  for (std::string line; std::getline(text, line);) {
    Json json = Json::parse(line, nullptr, false);
    if (json.is_object()) lines.push_back(std::move(json));
  }
  return lines;
}

std::optional<double> number_at(const Json& json, const std::string& pointer) {
  const Json::json_pointer place(pointer);
  if (!json.contains(place) || !json.at(place).is_number()) return std::nullopt;
  return json.at(place).get<double>();
}

std::optional<std::vector<double>> numbers_at(const std::vector<Json>& all, const std::string& pointer) {
  std::vector<double> numbers;
  for (const Json& json : all) {
    const auto number = number_at(json, pointer);
    if (!number) return std::nullopt;
    numbers.push_back(*number);
  }
  return numbers;
}

Json or_null(const std::optional<double>& value) {
  return value && std::isfinite(*value) ? Json(*value) : Json(nullptr);
}

void put_mean(Json& record, const std::string& key, const std::optional<std::vector<double>>& values) {
  const bool there = values && !values->empty();
  record[key] = there ? or_null(mean_estimate(*values).mean) : Json(nullptr);
}

void put_estimate(Json& record, const std::string& key, const std::optional<std::vector<double>>& values) {
  put_mean(record, key, values);
  const auto interval = values && !values->empty() ? mean_estimate(*values).ci95 : std::nullopt;
  record[key + "_ci95"] = interval ? Json::array({interval->low, interval->high}) : Json(nullptr);
}

std::vector<Json> evaluated_lines(const std::vector<Json>& log) {
  std::vector<Json> lines;
  for (const Json& line : log) {
    if (number_at(line, "/valid_nll")) lines.push_back(line);
  }
  return lines;
}

std::optional<double> batch_mean(const Json& line, const std::string& key) {
  const Json::json_pointer place("/routing/layers");
  if (!line.contains(place) || line.at(place).empty()) return std::nullopt;
  const Json& layers = line.at(place);
  const auto numbers = numbers_at({layers.begin(), layers.end()}, "/" + key);
  return numbers ? std::optional(mean_estimate(*numbers).mean) : std::nullopt;
}

std::optional<double> sum_of(const Json& line, const std::string& key) {
  if (!line.contains(key) || !line[key].is_array() || line[key].empty()) return std::nullopt;
  const auto numbers = numbers_at({line[key].begin(), line[key].end()}, "");
  return numbers ? std::optional(std::accumulate(numbers->begin(), numbers->end(), 0.0)) : std::nullopt;
}

Json training_curve(const Study& study, const StudyRun& run, const std::vector<Json>& log) {
  const auto layers = static_cast<double>(run.config.model.layers);
  Json curve = record_of(study, run);
  for (const char* key :
       {"step", "nll", "valid_nll", "kl", "entropy_mean_pct", "mi_token_expert", "active_units"})
    curve[key] = Json::array();
  for (const Json& line : evaluated_lines(log)) {
    for (const char* key : {"step", "nll", "valid_nll", "kl"})
      curve[key].push_back(line.value(key, Json(nullptr)));
    const auto entropy = batch_mean(line, "entropy");
    curve["entropy_mean_pct"].push_back(entropy ? Json(100 * *entropy) : Json(nullptr));
    const auto mi = sum_of(line, "mi_token_expert");
    curve["mi_token_expert"].push_back(mi ? Json(*mi / layers) : Json(nullptr));
    curve["active_units"].push_back(or_null(sum_of(line, "active_units")));
  }
  return curve;
}

}  // namespace dirigo::tools
