#include "training_summary.hpp"

#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "model_summary.hpp"

namespace dirigo::tools {
namespace {

std::string number(const std::optional<double>& value, int digits) {
  return value && std::isfinite(*value) ? fmt::format("{:.{}f}", *value, digits) : "-";
}

std::vector<std::string> routing_cells(const meta::RoutingStatistics& routing) {
  return {number(routing.entropy_mean_pct, 1),
          number(routing.entropy_sampled_pct, 1),
          number(routing.projected_cost_pct, 1),
          number(routing.argmax_cost_pct, 1),
          number(routing.kl, 4),
          number(routing.mi_token_expert, 4)};
}

}  // namespace

std::string configuration_text(const meta::Config& config) {
  meta::Config start = config.preset.empty() ? meta::Config{} : meta::preset(config.preset);
  meta::resolve(start);
  const auto before = meta::describe_fields(start);
  const auto now = meta::describe_fields(config);
  std::string text, section;
  for (std::size_t i = 0; i < now.size(); ++i) {
    const std::size_t dot = now[i].key.find('.');
    if (now[i].key.substr(0, dot) != section) {
      section = now[i].key.substr(0, dot);
      text += fmt::format("{}  {:<9} ", text.empty() ? "" : "\n", section);
    }
    const char* mark = now[i].value == before[i].value ? "" : "*";
    const std::string& value = now[i].value;
    text += fmt::format(" {}{}={}", mark, now[i].key.substr(dot + 1), value.empty() ? "''" : value);
  }
  const std::string base = config.preset.empty() ? "the defaults" : "preset " + config.preset;
  return fmt::format("Configuration (* differs from {}):\n{}\n", base, text);
}

std::string parameters_text(meta::LanguageModel& model) {
  std::string text = fmt::format("Parameters: {}", model.parameter_count());
  const char* sign = " = ";
  for (const auto& [module, count] : parameters_by_module(model)) {
    text += fmt::format("{}{} {}", std::exchange(sign, " + "), module, count);
  }
  return text + "\n";
}

Table evaluation_table(const std::vector<std::pair<std::string, const meta::Evaluation*>>& rows) {
  Table table({"", "NLL", "bpc", "entropy%", "sampled%", "cost%", "argmax cost%", "KL", "MI"});
  const auto add = [&](std::vector<std::string> cells, const meta::RoutingStatistics& routing) {
    for (auto& cell : routing_cells(routing)) cells.push_back(std::move(cell));
    table.add(std::move(cells));
  };
  for (const auto& [name, evaluation] : rows) {
    add({name, number(evaluation->nll, 4), number(evaluation->nll / std::log(2.0), 4)}, evaluation->overall);
  }
  if (!rows.empty()) add({"null router", "-", "-"}, rows.front().second->null);
  return table;
}

Table need_table(const meta::Evaluation& evaluation) {
  Table table({"need", "tokens", "NLL", "right%", "to full%", "linear%", "local%"});
  for (const auto& [name, need] : evaluation.by_need) {
    std::vector<std::string> cells{name, std::to_string(need.tokens), number(need.nll, 4),
                                   number(100 * need.accuracy, 1)};
    for (std::size_t k = 0; k < meta::expert_count; ++k) {
      const bool known = !need.fraction_argmax_by_layer.empty();
      cells.push_back(known ? number(100 * need.fraction_argmax_by_layer.back()[k], 1) : "-");
    }
    table.add(std::move(cells));
  }
  return table;
}

}  // namespace dirigo::tools
