// Reading what a run directory holds for the report: eval-*.json and metrics.jsonl.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "dirigo/core/errors.hpp"
#include "report.hpp"

namespace dirigo::tools {

namespace {

using Json = nlohmann::ordered_json;

[[noreturn]] void refuse(const std::string& where, std::string_view key, std::string_view expected,
                         const Json& got) {
  throw IoError(fmt::format("[{}] {}: expected {}, got {}", where, key, expected,
                            got.is_structured() ? got.type_name() : got.dump()));
}

// A member, or null where there is none.
const Json& member(const Json& object, const char* key) {
  static const Json none;
  if (!object.is_object()) return none;
  const auto found = object.find(key);
  return found == object.end() ? none : *found;
}

std::optional<double> optional_number(const Json& object, const char* key, const std::string& where) {
  const Json& value = member(object, key);
  if (value.is_null()) return std::nullopt;
  if (!value.is_number()) refuse(where, key, "a number", value);
  return value.get<double>();
}

double number(const Json& object, const char* key, const std::string& where) {
  const auto value = optional_number(object, key, where);
  if (!value) refuse(where, key, "a number", Json());
  return *value;
}

std::int64_t count(const Json& object, const char* key, const std::string& where) {
  const Json& value = member(object, key);
  if (!value.is_number_integer() || value.get<std::int64_t>() < 0)
    refuse(where, key, "a whole number >= 0", value);
  return value.get<std::int64_t>();
}

// One value per expert.
std::vector<double> fractions(const Json& value, const char* key, const std::string& where) {
  if (!value.is_array() || value.size() != meta::expert_count) refuse(where, key, "three numbers", value);
  std::vector<double> result;
  for (const Json& item : value) {
    if (!item.is_number()) refuse(where, key, "three numbers", item);
    result.push_back(item.get<double>());
  }
  return result;
}

const Json& array(const Json& object, const char* key, const std::string& where) {
  const Json& value = member(object, key);
  if (!value.is_array()) refuse(where, key, "a list", value);
  return value;
}

ResultRow::Routing parse_routing(const Json& json, const std::string& where) {
  ResultRow::Routing routing;
  routing.fraction_argmax = fractions(member(json, "fraction_argmax"), "fraction_argmax", where);
  routing.entropy_mean_pct = optional_number(json, "entropy_mean_pct", where);
  routing.entropy_sampled_pct = optional_number(json, "entropy_sampled_pct", where);
  routing.projected_cost_pct = optional_number(json, "projected_cost_pct", where);
  routing.argmax_cost_pct = optional_number(json, "argmax_cost_pct", where);
  routing.kl = optional_number(json, "kl", where);
  routing.mi_token_expert = optional_number(json, "mi_token_expert", where);
  return routing;
}

std::optional<meta::Deltas> parse_deltas(const Json& json, const std::string& where) {
  if (!json.is_object()) return std::nullopt;
  return meta::Deltas{number(json, "permutation_delta_nll", where), number(json, "prior_delta_nll", where),
                      number(json, "position_only_delta_nll", where)};
}

ResultRow::Need parse_need(const std::string& tag, const Json& json, const std::string& where) {
  ResultRow::Need need{tag,
                       count(json, "tokens", where),
                       number(json, "nll", where),
                       optional_number(json, "accuracy", where),
                       {}};
  for (const Json& layer : array(json, "fraction_argmax_by_layer", where)) {
    need.fraction_argmax_by_layer.push_back(fractions(layer, "fraction_argmax_by_layer", where));
  }
  return need;
}

ResultRow::Need parse_gap(const Json& json, const std::string& where) {
  const std::int64_t from = count(json, "from", where), to = count(json, "to", where);
  return parse_need(from == to ? fmt::format("{}", to) : fmt::format("{}-{}", from, to), json, where);
}

std::string text(const Json& object, const char* key, const std::string& fallback) {
  const Json& value = member(object, key);
  return value.is_string() ? value.get<std::string>() : fallback;
}

}  // namespace

ResultRow parse_evaluation(std::string_view content, const std::string& where) {
  const Json json = Json::parse(content.begin(), content.end(), nullptr, false);
  if (!json.is_object()) {
    throw IoError(fmt::format("[{}] content: expected a JSON object, got {}", where,
                              json.is_discarded() ? "invalid JSON" : json.type_name()));
  }
  ResultRow row;
  row.routing = text(json, "routing_mode", "soft");
  if (const std::string options = text(json, "options", ""); !options.empty()) row.routing += " " + options;
  row.evaluated_on = text(json, "evaluated_on", "held-out text");
  row.nll = number(json, "nll", where);
  row.nll_se = optional_number(json, "nll_se", where).value_or(0);
  row.bpc = number(json, "bpc", where);
  row.tokens = count(json, "tokens", where);
  row.skipped_bytes = count(json, "skipped_bytes", where);
  row.seq_len = count(json, "seq_len", where);
  row.entropy_floor = optional_number(json, "entropy_floor", where);
  const Json& routing = member(json, "routing");
  row.overall = parse_routing(member(routing, "overall"), where);
  for (const Json& layer : array(routing, "layers", where)) row.layers.push_back(parse_routing(layer, where));
  const Json& executed = member(json, "executed");
  row.attention_flops = optional_number(executed, "attention_flops", where);
  row.model_flops = optional_number(executed, "model_flops", where);
  row.wall_s = optional_number(executed, "wall_s", where);
  row.attention_flops_vs_full = optional_number(executed, "attention_flops_vs_full", where);
  row.model_flops_vs_full = optional_number(executed, "model_flops_vs_full", where);
  if (const Json& null = member(json, "null_router"); null.is_object())
    row.null_router = parse_routing(null, where);
  row.deltas = parse_deltas(member(json, "deltas"), where);
  const Json& needs = member(json, "by_need");
  if (needs.is_object()) {
    for (const auto& [tag, need] : needs.items()) row.needs.push_back(parse_need(tag, need, where));
  }
  if (json.contains("by_gap")) {
    for (const Json& gap : array(json, "by_gap", where)) row.gaps.push_back(parse_gap(gap, where));
  }
  return row;
}

std::vector<CurvePoint> parse_metrics(std::string_view content, const std::string& where) {
  std::vector<CurvePoint> curve;
  std::size_t line_number = 0;
  while (!content.empty()) {
    const std::size_t end = content.find('\n');
    const bool cut_off = end == std::string_view::npos;
    const std::string_view line = content.substr(0, end);
    content.remove_prefix(cut_off ? content.size() : end + 1);
    const std::string place = fmt::format("{}:{}", where, ++line_number);
    const Json json = Json::parse(line.begin(), line.end(), nullptr, false);
    if (!json.is_object()) {
      if (cut_off) break;  // a run that is still being written
      throw IoError(
          fmt::format("[{}] line: expected a JSON object, got '{}'", place, escape_html(line.substr(0, 40))));
    }
    curve.push_back({count(json, "step", place), optional_number(json, "nll", place),
                     optional_number(json, "valid_nll", place),
                     optional_number(json, "tokens_per_s", place)});
  }
  return curve;
}

}  // namespace dirigo::tools
