#include "evaluation_table.hpp"

#include <fmt/format.h>

#include <cmath>

#include "table.hpp"

namespace dirigo::tools {

namespace {

using Row = std::vector<std::string>;

std::string number(std::optional<double> value, int decimals) {
  return value ? fmt::format("{:.{}f}", *value, decimals) : "-";
}

std::string range(std::int64_t from, std::int64_t to) {
  return from == to ? fmt::format("{}", to) : fmt::format("{}-{}", from, to);
}

Row join(Row left, const Row& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

std::string headline(const meta::Evaluation& e, const EvaluationSubject& subject) {
  std::string text =
      fmt::format("{}: {} routing{} on {} ({}), {} windows of {} bytes\n", subject.run,
                  meta::name_of(e.routing_mode), subject.options.empty() ? "" : " (" + subject.options + ")",
                  subject.evaluated_on, subject.corpus, e.tokens / e.seq_len, e.seq_len);
  text += fmt::format("NLL {:.4f} +- {:.4f} nats per byte, perplexity {:.3f}, {:.4f} bits per byte", e.nll,
                      e.nll_se, std::exp(e.nll), e.nll / std::log(2.0));
  if (e.entropy_floor) text += fmt::format(", entropy floor {:.4f}", *e.entropy_floor);
  return text + fmt::format("; {} bytes scored, {} skipped\n", e.tokens, e.skipped_bytes);
}

std::string routing_table(const meta::Evaluation& e) {
  Table table(join({"routing", "NLL"}, routing_header()));
  table.add(join({"this run", number(e.nll, 4)}, routing_cells(e.overall)));
  for (std::size_t l = 0; l < e.layers.size(); ++l) {
    table.add(join({fmt::format("  layer {}", l), ""}, routing_cells(e.layers[l])));
  }
  table.add(join({"null router", "-"}, routing_cells(e.null)));
  return table.text();
}

std::string executed_table(const meta::Executed& e) {
  Table table({"executed", "full", "linear", "local"});
  for (std::size_t l = 0; l < e.tokens_per_expert.size(); ++l) {
    Row row{fmt::format("  tokens, layer {}", l)};
    for (const auto tokens : e.tokens_per_expert[l]) row.push_back(fmt::format("{}", tokens));
    table.add(row);
  }
  std::string text = table.text();
  text += fmt::format("  attention {:.4g} FLOPs, {:.1f}% of static full (and {:.4g} on masked pairs)\n",
                      e.attention_flops, 100 * e.attention_flops_vs_full, e.padded_flops);
  text += fmt::format("  model {:.4g} FLOPs, {:.1f}% of static full; {:.2f} s, {:.0f} bytes per second\n",
                      e.model_flops, 100 * e.model_flops_vs_full, e.wall_s, e.tokens_per_s);
  return text;
}

Row need_header(const char* what, const meta::Evaluation& e) {
  Row header{what, "bytes", "NLL", "right%"};
  for (std::size_t l = 0; l < e.layers.size(); ++l)
    header.push_back(fmt::format("layer {} full/linear/local %", l));
  return header;
}

Row need_row(const std::string& name, const meta::NeedStatistics& need, std::size_t layers) {
  Row row{"  " + name, fmt::format("{}", need.tokens), number(need.nll, 4), number(100 * need.accuracy, 1)};
  for (std::size_t l = 0; l < layers; ++l) {
    if (l >= need.fraction_argmax_by_layer.size() || need.tokens == 0) {
      row.push_back("-");
      continue;
    }
    const std::vector<double>& share = need.fraction_argmax_by_layer[l];
    row.push_back(fmt::format("{:.1f} / {:.1f} / {:.1f}", 100 * share[0], 100 * share[1], 100 * share[2]));
  }
  return row;
}

std::string need_tables(const meta::Evaluation& e) {
  Table needs(need_header("what the next byte needs", e));
  for (const auto& [tag, need] : e.by_need) needs.add(need_row(tag, need, e.layers.size()));
  if (e.by_gap.empty()) return needs.text();
  Table gaps(need_header("told so many bytes back", e));
  for (const auto& gap : e.by_gap) gaps.add(need_row(range(gap.from, gap.to), gap, e.layers.size()));
  return needs.text() + "\n" + gaps.text();
}

std::string context_table(const std::vector<meta::ContextNll>& groups) {
  Row header{"bytes of context"}, values{"NLL"};
  for (const auto& group : groups) {
    header.push_back(range(group.from, group.to));
    values.push_back(number(group.nll, 3));
  }
  Table table(header);
  table.add(values);
  return table.text();
}

std::string deltas_table(const meta::Deltas& d) {
  return fmt::format(
      "NLL change when the routing weights (soft) are replaced\n"
      "  permuted over tokens {:+.4f}   by the prior mean {:+.4f}   by their mean at each position {:+.4f}\n",
      d.permutation, d.prior, d.position_only);
}

std::string notes(const meta::Config& config) {
  std::string text =
      "null router: a controller that emits the run's prior; routing figures near it show no learning.\n";
  if (config.router.cost_model == meta::CostModel::nominal) {
    text += "Costs are the configuration's nominal constants, not measurements; \"executed\" is what ran.\n";
  }
  const bool elbo = config.router.kind == meta::RouterKind::bayes && config.objective.w_kl.value == 1 &&
                    config.objective.w_kl.kind == nn::KlWeight::Kind::constant &&
                    config.objective.free_bits == 0 && config.train.sampling == meta::Sampling::posterior &&
                    config.train.straight_through == 0 && config.train.hard_routed == 0;
  if (!elbo)
    text +=
        "The training objective was no evidence lower bound (that needs w_kl = 1 with sampled, soft "
        "routing).\n";
  return text;
}

}  // namespace

std::vector<std::string> routing_header() {
  return {"H(mean)%", "H(sampled)%", "projected cost%", "argmax cost%", "KL",
          "MI",       "full%",       "linear%",         "local%"};
}

std::vector<std::string> routing_cells(const meta::RoutingStatistics& s) {
  Row cells{number(s.entropy_mean_pct, 1),
            number(s.entropy_sampled_pct, 1),
            number(s.projected_cost_pct, 1),
            number(s.argmax_cost_pct, 1),
            number(s.kl, 4),
            number(s.mi_token_expert, 4)};
  for (const double fraction : s.fraction_argmax) cells.push_back(number(100 * fraction, 1));
  return cells;
}

std::string evaluation_table(const meta::Evaluation& evaluation, const EvaluationSubject& subject,
                             const meta::Config& config) {
  std::string text = headline(evaluation, subject) + "\n" + routing_table(evaluation) + "\n";
  text += executed_table(evaluation.executed) + "\n";
  text += context_table(evaluation.nll_by_context) + "\n";
  if (!evaluation.by_need.empty()) text += need_tables(evaluation) + "\n";
  if (evaluation.deltas) text += deltas_table(*evaluation.deltas) + "\n";
  return text + notes(config);
}

}  // namespace dirigo::tools
