// Reading what a run directory holds for the report: eval-*.json and metrics.jsonl.
#include <fmt/format.h>

#include "dirigo/core/errors.hpp"
#include "report.hpp"
#include "report_json.hpp"

namespace dirigo::tools {

namespace {

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
                       optional_number(json, "nll", where),
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

// The flags of an evaluation without those that the report shows elsewhere: the text, and how much of it.
std::string shown_options(std::string_view options) {
  std::string shown;
  while (!options.empty()) {
    const std::string_view flag = options.substr(0, options.find(" --", 1));
    options.remove_prefix(flag.size());
    if (flag.find("--windows ") != flag.npos || flag.find("--corpus ") != flag.npos) continue;
    if (flag.front() != ' ') shown += ' ';
    shown += flag;
  }
  return shown;
}

}  // namespace

ResultRow parse_evaluation(std::string_view content, const std::string& where) {
  const Json json = parse_object(content, where);
  ResultRow row;
  row.routing = text(json, "routing_mode", "soft");
  row.routing += shown_options(text(json, "options", ""));
  row.evaluated_on = text(json, "evaluated_on", "held-out text");
  if (member(json, "reads_the_future") == Json(true)) row.evaluated_on += ", READS THE FUTURE";
  row.corpus = text(json, "corpus", "");
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

namespace {

CurvePoint parse_point(const Json& json, const std::string& where) {
  CurvePoint point{count(json, "step", where),
                   optional_number(json, "nll", where),
                   optional_number(json, "valid_nll", where),
                   optional_number(json, "tokens_per_s", where),
                   optional_number(json, "kl", where),
                   {},
                   {}};
  if (const Json& needs = member(json, "valid_by_need"); needs.is_object()) {
    for (const auto& [tag, need] : needs.items()) point.need_nll[tag] = number(need, "nll", where);
  }
  const Json& layers = member(member(json, "routing"), "layers");
  if (layers.is_null()) return point;
  if (!layers.is_array()) refuse(where, "layers", "a list", layers);
  for (const Json& layer : layers)
    point.fraction_argmax.push_back(fractions(member(layer, "fraction_argmax"), "fraction_argmax", where));
  return point;
}

}  // namespace

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
    curve.push_back(parse_point(json, place));
  }
  return curve;
}

}  // namespace dirigo::tools
