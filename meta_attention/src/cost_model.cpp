#include "dirigo/meta_attention/cost_model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "dirigo/core/errors.hpp"
#include "dirigo/meta_attention/run_files.hpp"

namespace dirigo::meta {

namespace {

using Json = nlohmann::ordered_json;
constexpr int format_version = 1;
constexpr std::int64_t max_file_bytes = 1 << 20;

// An object of a file, for messages.
struct Section {
  const Json& json;
  std::string file, name;

  [[noreturn]] void fail(const std::string& key, const std::string& expected, const std::string& got) const {
    throw ValueError(fmt::format("[{}] {}{}: expected {}, got {}", file, name, key, expected, got));
  }
  const Json& at(const std::string& key, const std::string& expected) const {
    const auto found = json.find(key);
    if (found == json.end()) fail(key, expected, "nothing");
    return *found;
  }
  Section section(const std::string& key) const {
    const Json& value = at(key, "an object");
    if (!value.is_object()) fail(key, "an object", value.dump());
    return {value, file, fmt::format("{}{}.", name, key)};
  }
  std::int64_t whole(const std::string& key) const {
    const Json& value = at(key, "a whole number >= 1");
    if (!value.is_number_integer() || value.get<std::int64_t>() < 1) {
      fail(key, "a whole number >= 1", value.dump());
    }
    return value.get<std::int64_t>();
  }
  double number(const std::string& key, bool positive) const {
    const char* expected = positive ? "a number > 0" : "a number >= 0";
    const Json& value = at(key, expected);
    if (!value.is_number()) fail(key, expected, value.dump());
    const auto number = value.get<double>();
    if (!std::isfinite(number) || number < 0 || (positive && number == 0)) fail(key, expected, value.dump());
    return number;
  }
  std::array<double, expert_count> by_expert(const std::string& key, bool positive) const {
    const Section values = section(key);
    std::array<double, expert_count> numbers{};
    for (int k = 0; k < expert_count; ++k) {
      numbers[std::size_t(k)] = values.number(std::string(expert_name(ExpertKind(k))), positive);
    }
    return numbers;
  }
};

Json by_expert(const std::array<double, expert_count>& values) {
  Json json;
  for (int k = 0; k < expert_count; ++k)
    json[std::string(expert_name(ExpertKind(k)))] = values[std::size_t(k)];
  return json;
}

}  // namespace

std::string cost_model_json(const MeasuredCosts& measured) {
  std::array<double, expert_count> costs = measured.microseconds_per_token;
  for (double& cost : costs) cost /= measured.microseconds_per_token[std::size_t(ExpertKind::full)];
  const Json json{{"format_version", format_version},
                  {"isa", measured.isa},
                  {"threads", measured.threads},
                  {"seq_len", measured.seq_len},
                  {"attention",
                   {{"d_model", measured.d_model},
                    {"heads", measured.heads},
                    {"window", measured.window},
                    {"chunk", measured.chunk}}},
                  {"costs", by_expert(costs)},
                  {"microseconds_per_token", by_expert(measured.microseconds_per_token)},
                  {"spread", by_expert(measured.spread)}};
  return json.dump(2) + "\n";
}

std::vector<double> read_cost_model(const std::string& file) {
  const Json json = Json::parse(read_text_file(file, max_file_bytes), nullptr, false);
  if (!json.is_object()) {
    throw ValueError(fmt::format("[{}] content: expected a JSON object, got {}", file,
                                 json.is_discarded() ? "invalid JSON" : json.type_name()));
  }
  const Section top{json, file, ""};
  if (top.whole("format_version") != format_version) {
    top.fail("format_version", fmt::format("{}", format_version), json["format_version"].dump());
  }
  const Json& isa = top.at("isa", "text");
  if (!isa.is_string()) top.fail("isa", "text", isa.dump());
  top.whole("threads");
  top.whole("seq_len");
  const Section attention = top.section("attention");
  for (const char* key : {"d_model", "heads", "window", "chunk"}) attention.whole(key);
  top.by_expert("microseconds_per_token", true);
  top.by_expert("spread", false);
  const auto costs = top.by_expert("costs", true);
  if (costs[std::size_t(ExpertKind::full)] != 1) {
    top.fail("costs.full", "1, the unit of the others",
             fmt::format("{}", costs[std::size_t(ExpertKind::full)]));
  }
  std::vector<double> relative(costs.begin(), costs.end());
  const double most = *std::max_element(relative.begin(), relative.end());
  for (double& cost : relative) cost /= most;
  return relative;
}

}  // namespace dirigo::meta
