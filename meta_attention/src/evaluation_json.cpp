// The JSON form of an evaluation; its keys are those of docs/file-formats.md.
#include <cmath>
#include <nlohmann/json.hpp>

#include "dirigo/meta_attention/evaluation.hpp"

namespace dirigo::meta {

namespace {

using Json = nlohmann::ordered_json;

Json optional(const std::optional<double>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json routing_json(const RoutingStatistics& s) {
  return {{"mean_weights", s.mean_weights},
          {"fraction_argmax", s.fraction_argmax},
          {"entropy_mean_pct", s.entropy_mean_pct},
          {"entropy_sampled_pct", optional(s.entropy_sampled_pct)},
          {"projected_cost_pct", s.projected_cost_pct},
          {"argmax_cost_pct", s.argmax_cost_pct},
          {"kl", optional(s.kl)},
          {"mi_token_expert", s.mi_token_expert},
          {"kl_aggregate", s.kl_aggregate},
          {"uncertainty_mean", optional(s.uncertainty_mean)}};
}

// One count of every expert of every layer.
Json per_expert(const Executed& e, std::uint64_t ExpertFlops::*count) {
  Json layers = Json::array();
  for (const auto& layer : e.flops_per_expert) {
    Json experts = Json::array();
    for (const ExpertFlops& flops : layer) experts.push_back(flops.*count);
    layers.push_back(experts);
  }
  return layers;
}

Json executed_json(const Executed& e) {
  return {{"tokens_per_expert", e.tokens_per_expert},
          {"attention_flops_per_expert", per_expert(e, &ExpertFlops::attention)},
          {"padded_flops_per_expert", per_expert(e, &ExpertFlops::padding)},
          {"projection_flops_per_expert", per_expert(e, &ExpertFlops::products)},
          {"attention_flops", e.attention_flops},
          {"padded_flops", e.padded_flops},
          {"model_flops", e.model_flops},
          {"attention_flops_vs_full", e.attention_flops_vs_full},
          {"model_flops_vs_full", e.model_flops_vs_full},
          {"wall_s", e.wall_s},
          {"tokens_per_s", e.tokens_per_s}};
}

Json need_json(const NeedStatistics& need) {
  return {{"tokens", need.tokens},
          {"nll", need.nll},
          {"accuracy", need.accuracy},
          {"fraction_argmax_by_layer", need.fraction_argmax_by_layer}};
}

Json gap_json(const GapStatistics& gap) {
  Json json{{"from", gap.from}, {"to", gap.to}};
  json.update(need_json(gap));
  return json;
}

}  // namespace

std::string to_json(const Evaluation& e) {
  Json json;
  json["format_version"] = 1;
  json["nll"] = e.nll;
  json["nll_se"] = e.nll_se;
  json["ppl"] = std::exp(e.nll);
  json["bpc"] = e.nll / std::log(2.0);
  json["accuracy"] = e.accuracy;
  json["tokens"] = e.tokens;
  json["skipped_bytes"] = e.skipped_bytes;
  json["seq_len"] = e.seq_len;
  json["routing_mode"] = std::string(name_of(e.routing_mode));
  Json layers = Json::array();
  for (const auto& layer : e.layers) layers.push_back(routing_json(layer));
  json["routing"] = {{"layers", layers}, {"overall", routing_json(e.overall)}};
  json["executed"] = executed_json(e.executed);
  json["deltas"] = e.deltas ? Json{{"permutation_delta_nll", e.deltas->permutation},
                                   {"prior_delta_nll", e.deltas->prior},
                                   {"position_only_delta_nll", e.deltas->position_only}}
                            : Json(nullptr);
  Json by_context = Json::array();
  for (const ContextNll& c : e.nll_by_context)
    by_context.push_back({{"from", c.from}, {"to", c.to}, {"nll", c.nll}});
  json["nll_by_context"] = by_context;
  json["null_router"] = routing_json(e.null);
  if (!e.by_need.empty()) {
    for (const auto& [name, need] : e.by_need) json["by_need"][name] = need_json(need);
    json["by_gap"] = Json::array();
    for (const GapStatistics& gap : e.by_gap) json["by_gap"].push_back(gap_json(gap));
    json["entropy_floor"] = optional(e.entropy_floor);
  }
  return json.dump(2);
}

}  // namespace dirigo::meta
