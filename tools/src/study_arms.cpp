#include "study_arms.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "dirigo/core/errors.hpp"
#include "dirigo/core/suggest.hpp"

namespace dirigo::tools {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t quick_steps = 150, quick_tokens = 512;  // of a step
constexpr std::int64_t quick_eval_every = 30;                  // evaluations read more than the training
constexpr std::int64_t quick_shortest = 64, quick_longest = 256;
const Settings quick_settings{{"model.d_model", "32"},
                              {"model.layers", "2"},
                              {"model.heads", "2"},
                              {"router.hidden", "16"},
                              {"attention.window", "16"}};

// Set by the study itself, for all arms alike.
const std::array<std::string_view, 4> study_keys{"data.corpus", "data.valid", "data.train_bytes",
                                                 "train.seed"};

// Reads one object of an arms file; every message names the file and the arm.
class ArmsReader {
 public:
  ArmsReader(const Json& json, std::string where) : json_(json), where_(std::move(where)) {
    if (!json.is_object())
      fail("content", "a JSON object", json.is_discarded() ? "invalid JSON" : json.dump());
  }

  void only(const std::vector<std::string>& keys) const {
    for (const auto& [key, value] : json_.items()) {
      if (std::find(keys.begin(), keys.end(), key) != keys.end()) continue;
      fail("key", fmt::format("one of {}", fmt::join(keys, ", ")),
           fmt::format("'{}'{}", key, did_you_mean(key, keys)));
    }
  }
  std::string text(const char* key, const std::string& fallback) const {
    if (!json_.contains(key)) return fallback;
    if (!json_[key].is_string()) fail(key, "text", json_[key].dump());
    return json_[key].get<std::string>();
  }
  // A name that can be part of a file's name.
  std::string name(const char* key, const std::string& fallback) const {
    const std::string value = text(key, fallback);
    const auto plain = [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '.' || c == '-'; };
    const bool good = !value.empty() && value.size() <= 64 && value.front() != '.' &&
                      std::all_of(value.begin(), value.end(), plain);
    if (!good) fail(key, "1 to 64 letters, digits, _ . or -", value.empty() ? "none" : "'" + value + "'");
    return value;
  }
  std::int64_t count(const char* key, std::int64_t fallback) const {
    if (!json_.contains(key)) return fallback;
    const Json& value = json_[key];
    if (!value.is_number_integer() || value.get<std::int64_t>() < 1)
      fail(key, "a whole number >= 1", value.dump());
    return value.get<std::int64_t>();
  }
  std::vector<double> rates(const std::vector<double>& fallback) const {
    const char* key = "learning_rates";
    if (!json_.contains(key)) return fallback;
    if (!json_[key].is_array()) fail(key, "a list of numbers > 0", json_[key].dump());
    std::vector<double> rates;
    for (const Json& value : json_[key]) {
      const bool good = value.is_number() && value.get<double>() > 0;
      if (!good || std::count(rates.begin(), rates.end(), value.get<double>()) > 0)
        fail(key, "distinct numbers > 0", value.dump());
      rates.push_back(value.get<double>());
    }
    return rates;
  }
  Settings settings() const {
    Settings set;
    if (!json_.contains("set")) return set;
    if (!json_["set"].is_object()) fail("set", "{\"KEY\": VALUE, ...}", json_["set"].dump());
    for (const auto& [key, value] : json_["set"].items())
      set.emplace_back(key, value.is_string() ? value.get<std::string>() : value.dump());
    return set;
  }
  const Json& list(const char* key) const {
    if (!json_.contains(key) || !json_[key].is_array() || json_[key].empty())
      fail(key, "a list of at least one arm", json_.contains(key) ? json_[key].dump() : "none");
    return json_[key];
  }

  [[noreturn]] void fail(const std::string& what, const std::string& expected, const std::string& got) const {
    throw ValueError(fmt::format("[{}] {}: expected {}, got {}", where_, what, expected, got.substr(0, 80)));
  }

 private:
  const Json& json_;
  std::string where_;
};

StudyArm parse_arm(const Json& json, const std::string& where, const ArmsReader& common) {
  const ArmsReader reader(json, where);
  reader.only({"method", "name", "label", "preset", "set", "learning_rates", "corpus", "valid", "train_bytes",
               "exhibit"});
  StudyArm arm;
  arm.method = reader.name("method", "");
  arm.name = reader.name("name", arm.method);
  arm.label = reader.text("label", arm.method);
  arm.preset = reader.text("preset", common.text("preset", "paper"));
  arm.set = join(common.settings(), reader.settings());
  arm.learning_rates = reader.rates(common.rates({}));
  // A text of the arm's own is the arm's alone: nothing of the common one applies to it.
  const ArmsReader& text = json.contains("corpus") ? reader : common;
  arm.data = {text.text("corpus", ""), text.text("valid", ""), text.count("train_bytes", 0)};
  arm.exhibit = reader.text("exhibit", "");
  const bool cuts = json.contains("valid") || json.contains("train_bytes");
  if ((cuts && !json.contains("corpus")) || (arm.data.corpus.empty() && arm.data != StudyDataOptions{}))
    reader.fail("corpus", "one for valid and train_bytes", "none");
  if (arm.method == "null_router") reader.fail("method", "a name of your own", "null_router, which is added");
  return arm;
}

void check_names(const StudyList& list, const ArmsReader& reader) {
  std::vector<std::string> names;
  for (const StudyArm& arm : list.arms) {
    if (std::find(names.begin(), names.end(), arm.name) != names.end())
      reader.fail("name (or method)", "each once", "'" + arm.name + "' twice");
    names.push_back(arm.name);
  }
}

// So many steps, and what is counted in steps in proportion.
void set_steps(meta::Config& config, std::int64_t steps) {
  const double ratio = static_cast<double>(steps) / static_cast<double>(config.train.steps);
  for (std::int64_t* length : {&config.router.warmup, &config.objective.w_kl.warmup, &config.train.lr.warmup,
                               &config.train.eval_every}) {
    if (*length > 0) *length = std::max<std::int64_t>(1, std::llround(static_cast<double>(*length) * ratio));
  }
  config.train.steps = steps;
}

// A quarter of the length, in bounds: what differs in length still does.
void shrink(meta::Config& config) {
  config.train.seq_len = std::clamp(config.train.seq_len / 4, quick_shortest, quick_longest);
  config.train.batch = quick_tokens / config.train.seq_len;
  config.model.max_len = config.train.seq_len;
}

void apply(meta::Config& config, const Settings& settings) {
  for (const auto& [key, value] : settings) {
    if (std::find(study_keys.begin(), study_keys.end(), key) != study_keys.end()) {
      throw ValueError(
          fmt::format("[config] {}: expected none (--corpus, --valid, --train-bytes and --seeds, or the "
                      "arm's own keys, set it), got {}",
                      key, value));
    }
    meta::set_field(config, key, value);
  }
}

}  // namespace

Settings join(Settings first, const Settings& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

StudyList parse_arms(std::string_view text, const std::string& where) {
  const Json json = Json::parse(text.begin(), text.end(), nullptr, false);
  const ArmsReader reader(json, where);
  reader.only({"format_version", "name", "seeds", "preset", "set", "learning_rates", "corpus", "valid",
               "train_bytes", "arms"});
  if (!json.contains("format_version") || json["format_version"] != 1) {
    reader.fail("format_version", "1",
                json.contains("format_version") ? json["format_version"].dump() : "none");
  }
  StudyList list{reader.text("name", "arms"), reader.count("seeds", 1), {}};
  for (const Json& arm : reader.list("arms"))
    list.arms.push_back(parse_arm(arm, fmt::format("{} arm {}", where, list.arms.size() + 1), reader));
  check_names(list, reader);
  return list;
}

std::string arms_json(const StudyList& list) {
  Json json;
  json["format_version"] = 1;
  json["name"] = list.name;
  json["seeds"] = list.seeds;
  json["arms"] = Json::array();
  for (const StudyArm& arm : list.arms) {
    Json set = Json::object();
    for (const auto& [key, value] : arm.set) set[key] = value;
    Json item{{"method", arm.method}, {"name", arm.name}, {"label", arm.label},
              {"preset", arm.preset}, {"set", set},       {"learning_rates", arm.learning_rates}};
    if (!arm.data.corpus.empty()) item["corpus"] = arm.data.corpus;
    if (!arm.data.valid.empty()) item["valid"] = arm.data.valid;
    if (arm.data.train_bytes > 0) item["train_bytes"] = arm.data.train_bytes;
    if (!arm.exhibit.empty()) item["exhibit"] = arm.exhibit;
    json["arms"].push_back(std::move(item));
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

meta::Config arm_config(const StudyArm& arm, const ArmOptions& options) {
  try {
    meta::Config config = meta::preset(arm.preset);
    apply(config, arm.set);
    apply(config, options.set);
    if (options.quick) {
      apply(config, quick_settings);
      shrink(config);
    }
    if (options.quick || options.steps > 0)
      set_steps(config, options.steps > 0 ? options.steps : quick_steps);
    if (options.quick && config.train.eval_every > 0)
      config.train.eval_every = std::max(config.train.eval_every, quick_eval_every);
    meta::resolve(config);
    return config;
  } catch (const ValueError& error) {
    const std::string message = error.what();  // "[config] KEY: ..."
    throw ValueError(fmt::format("[arm '{}'{}", arm.name, message.substr(message.find(']'))));
  }
}

}  // namespace dirigo::tools
