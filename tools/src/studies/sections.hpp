// `tables` and `curves` of study.json: records, and where their numbers come from.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "study.hpp"

namespace dirigo::tools {

using Json = nlohmann::ordered_json;

struct StudySections {
  Json tables = Json::object(), curves = Json::object();
};

// One of `tables` as people read it.
struct ShownTable {
  struct Column {
    std::string title;
    std::string value;  // where a record has it: a JSON pointer
    int decimals = 0;   // of a number
    double scale = 1;   // which is multiplied by this
  };
  std::string name;
  std::vector<Column> columns;
};
// A line per record: numbers with half their 95% interval where the record has one (KEY_ci95), a dash for
// null.
std::string table_text(const Json& records, const ShownTable& shown);

struct SectionOptions {
  std::vector<std::string> cost_models;  // files of measured costs
};

// {arm, method, corpus, seq_len}: how every record begins.
Json record_of(const Study& study, std::size_t arm);
// The same with the run's seed.
Json record_of(const Study& study, const StudyRun& run);

// Names the bytes that the arm's runs are tested on: only what shares them can be ranked. Sequences of a
// synthetic language are others at another length.
std::string tested_on(const Study& study, std::size_t arm);

// The arm's runs with the chosen rate whose training stayed finite, by seed.
std::vector<StudyRun> good_runs(const Study& study, std::size_t arm);

// The object in a file of a run. Throws IoError naming it for one that cannot be read or is none.
Json read_object(const std::string& path);

// An evaluation of the run on the test text, as its file has it; null where there is none.
Json test_evaluation(const Study& study, const StudyRun& run, meta::RoutingMode mode);
// The lines of its metrics.jsonl.
std::vector<Json> training_log(const StudyRun& run);

// The number at a JSON pointer ("/routing/overall/kl"); none for null, or where there is none.
std::optional<double> number_at(const Json& json, const std::string& pointer);
// The same of each; none if one of them has none.
std::optional<std::vector<double>> numbers_at(const std::vector<Json>& all, const std::string& pointer);

Json or_null(const std::optional<double>& value);  // also null for what is not finite
// Adds KEY: the mean; put_estimate also KEY_ci95.
void put_mean(Json& record, const std::string& key, const std::optional<std::vector<double>>& values);
void put_estimate(Json& record, const std::string& key, const std::optional<std::vector<double>>& values);

// The lines with an evaluation on held-out text.
std::vector<Json> evaluated_lines(const std::vector<Json>& log);
// Of a line: the mean over the layers of its batch's `routing.layers[].KEY`; none where a layer lacks it.
std::optional<double> batch_mean(const Json& line, const std::string& key);
// The sum of a list of numbers, one for each layer, that an evaluation has added to a line.
std::optional<double> sum_of(const Json& line, const std::string& key);
// {seed, step, nll, valid_nll, kl, entropy_mean_pct, mi_token_expert, active_units}: one value per
// evaluation.
Json training_curve(const Study& study, const StudyRun& run, const std::vector<Json>& log);

}  // namespace dirigo::tools
