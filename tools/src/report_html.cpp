// How the report looks: structs to HTML. Every string that comes from a file passes escape_html.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "dirigo/data/sha256.hpp"
#include "report.hpp"
#include "report_assets.hpp"
#include "report_text.hpp"

namespace dirigo::tools {

namespace {

std::string fixed(std::optional<double> value, int decimals) {
  return value && std::isfinite(*value) ? fmt::format("{:.{}f}", *value, decimals) : none;
}

std::string mix(const std::vector<double>& fractions) {
  std::string text;
  for (const double f : fractions) append(text, "{}{:.0f}", text.empty() ? "" : " / ", 100 * f);
  return text;
}

struct Column {
  const char* title;
  const char* meaning;
};

constexpr Column columns[] = {
    {"NLL",
     "Mean negative log-likelihood of the next byte in nats, with its standard error over windows; lower is "
     "better."},
    {"bits/byte", "The same divided by ln 2."},
    {"bytes", "How many bytes were scored."},
    {"skipped", "Bytes outside the vocabulary, removed before scoring."},
    {"H(mean) %",
     "Mean entropy of the routing weights m, in percent of its maximum ln 3: 100 is undecided, 0 is "
     "decided."},
    {"H(sampled) %",
     "Mean entropy of weights drawn from the posterior (closed form), in percent of ln 3: the paper's "
     "entropy."},
    {"projected cost %",
     "Cost of the routing weights under the cost model, in percent of the dearest expert: the paper's cost. "
     "Soft "
     "routing does not save it: it runs every expert."},
    {"argmax cost %",
     "Cost if each token runs its most probable expert alone: what hard routing would save at best."},
    {"KL",
     "Divergence of the posterior from the prior, nats per token and layer. Near 0 is posterior collapse."},
    {"MI", "Mutual information of token and expert in nats: 0 means that routing ignores the token."},
    {"full / linear / local %",
     "Share of tokens whose most probable expert is full, linear or local attention (mean over layers)."},
    {"attention FLOPs %",
     "Attention-core operations that really ran, in percent of the same model with full attention."},
    {"model FLOPs %", "The same for the whole model, router included."},
};

std::string routing_cells(const ResultRow::Routing& r) {
  return fmt::format("<td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>",
                     fixed(r.entropy_mean_pct, 1), fixed(r.entropy_sampled_pct, 1),
                     fixed(r.projected_cost_pct, 1), fixed(r.argmax_cost_pct, 1), fixed(r.kl, 4),
                     fixed(r.mi_token_expert, 4), mix(r.fraction_argmax));
}

std::string percent(std::optional<double> ratio) {
  return ratio ? fixed(100 * *ratio, 1) : none;
}

ResultRow::Routing null_cells(const meta::RoutingStatistics& null) {
  return {null.fraction_argmax,    null.entropy_mean_pct, null.entropy_sampled_pct,
          null.projected_cost_pct, null.argmax_cost_pct,  null.kl,
          null.mi_token_expert};
}

// What the rows of a table have in common. Of a file all predict the same bytes, of a language those of the
// same length.
std::string text_of(const ResultRow& row) {
  if (row.corpus.empty()) return "the run's own text";
  return row.corpus.rfind("synthetic:", 0) == 0 ? fmt::format("{}, T={}", row.corpus, row.seq_len)
                                                : row.corpus;
}

// The texts on which there are results, in order of appearance.
std::vector<std::string> texts(const std::vector<ReportRun>& runs) {
  std::vector<std::string> all;
  for (const ReportRun& run : runs) {
    for (const ResultRow& row : run.results) {
      if (std::find(all.begin(), all.end(), text_of(row)) == all.end()) all.push_back(text_of(row));
    }
  }
  return all;
}

std::string result_table(const std::vector<ReportRun>& runs, const std::string& text) {
  std::string html =
      "<div class=\"scroll\" tabindex=\"0\" role=\"region\" "
      "aria-label=\"Results\"><table><thead><tr><th scope=\"col\">run, routing</th>";
  for (const Column& column : columns)
    append(html, "<th scope=\"col\" title=\"{}\">{}</th>", escape_html(column.meaning), column.title);
  html += "</tr></thead><tbody>\n";
  for (const ReportRun& run : runs) {
    bool any = false;
    for (const ResultRow& row : run.results) {
      if (text_of(row) != text) continue;
      any = true;
      append(html,
             "<tr><td>{}: {}, {}</td><td>{:.4f} &plusmn; {:.4f}</td><td>{:.4f}</td><td>{}</td><td>{}</td>",
             escape_html(run.name), escape_html(row.routing), escape_html(row.evaluated_on), row.nll,
             row.nll_se, row.bpc, row.tokens, row.skipped_bytes);
      append(html, "{}<td>{}</td><td>{}</td></tr>\n", routing_cells(row.overall),
             percent(row.attention_flops_vs_full), percent(row.model_flops_vs_full));
    }
    if (!any) continue;
    append(html,
           "<tr class=\"null\"><td>{}: null "
           "router</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>{}<td>{}</td><td>{}</td></tr>\n",
           escape_html(run.name), none, none, none, none, routing_cells(null_cells(run.null_router)), none,
           none);
  }
  return html + "</tbody></table></div>\n";
}

std::string result_tables(const std::vector<ReportRun>& runs) {
  const auto all = texts(runs);
  std::string html;
  if (all.size() > 1)
    html += "<p>These runs were evaluated on different texts: only rows of one table can be compared.</p>\n";
  for (const std::string& text : all) {
    if (all.size() > 1) append(html, "<h3>On {}</h3>\n", escape_html(text));
    html += result_table(runs, text);
  }
  return html;
}

std::string glossary() {
  std::string html = "<details><summary>What the columns mean</summary><dl>\n";
  for (const Column& column : columns)
    append(html, "<dt>{}</dt><dd>{}</dd>\n", column.title, escape_html(column.meaning));
  return html + "</dl></details>\n";
}

std::string layer_table(const ResultRow& row) {
  std::string html = "<div class=\"scroll\"><table><thead><tr><th>layer</th>";
  for (int i = 4; i < 11; ++i) append(html, "<th>{}</th>", columns[i].title);
  html += "</tr></thead><tbody>\n";
  for (std::size_t l = 0; l < row.layers.size(); ++l)
    append(html, "<tr><td>{}</td>{}</tr>\n", l, routing_cells(row.layers[l]));
  return html + "</tbody></table></div>\n";
}

std::string need_rows(const char* what, const std::vector<ResultRow::Need>& needs, std::size_t layers) {
  std::string html =
      "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Needs\"><table><thead><tr>";
  for (const char* title : {what, "bytes", "NLL", "right %"})
    append(html, "<th rowspan=\"2\">{}</th>", title);
  for (std::size_t l = 0; l < layers; ++l) append(html, "<th colspan=\"3\">layer {}</th>", l);
  html += "</tr><tr>";
  for (std::size_t l = 0; l < layers; ++l) html += "<th>full</th><th>linear</th><th>local</th>";
  html += "</tr></thead><tbody>\n";
  for (const ResultRow::Need& need : needs) {
    append(html, "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td>", escape_html(need.tag), need.tokens,
           fixed(need.nll, 4), need.accuracy ? fmt::format("{:.1f}", 100 * *need.accuracy) : none);
    for (const auto& fractions : need.fraction_argmax_by_layer) {
      for (const double share : fractions)
        append(html, "<td class=\"heat heat-{}\">{:.1f}</td>", std::lround(10 * std::clamp(share, 0.0, 1.0)),
               100 * share);
    }
    html += "</tr>\n";
  }
  return html + "</tbody></table></div>\n";
}

std::string need_tables(const ResultRow& row) {
  std::string html =
      "<p>By what predicting the next byte needs: <b>text</b> the last few bytes, <b>first</b> a fact stated "
      "for the first time (unpredictable), <b>recall</b> a fact stated before, <b>recall_far</b> one from "
      "beyond the local window. Right: how often the most likely byte came. Shares of its bytes by expert, "
      "in "
      "percent.</p>\n";
  html += need_rows("need", row.needs, row.layers.size());
  if (!row.gaps.empty()) html += need_rows("told so many bytes back", row.gaps, row.layers.size());
  return html;
}

std::string run_body(const ReportRun& run, std::size_t index) {
  std::string html = "<dl class=\"facts\">\n";
  for (const auto& [name, value] : run.facts)
    append(html, "<dt>{}</dt><dd>{}</dd>\n", escape_html(name), escape_html(value));
  html += "</dl>\n<h3>Training</h3>\n";
  const ResultRow* last = run.results.empty() ? nullptr : &run.results.back();
  html += training_charts(run.curve, last ? last->entropy_floor : std::nullopt);
  html += reader_html(run, index);
  for (const ResultRow& row : run.results) {
    append(html, "<h3>Routing by layer: {}, {}</h3>\n", escape_html(row.routing),
           escape_html(row.evaluated_on));
    html += layer_table(row);
    if (!row.needs.empty()) html += need_tables(row);
  }
  return html;
}

// Of many runs each is folded, and drawn when it is opened.
std::string run_section(const ReportRun& run, std::size_t index, bool folded) {
  const std::string title = fmt::format("<h2 id=\"run-{}\">{}</h2>", index, escape_html(run.name));
  return fmt::format("<section>\n{}{}{}\n{}{}</section>\n", folded ? "<details class=\"run\"><summary>" : "",
                     title, folded ? "</summary>" : "", run_body(run, index), folded ? "</details>\n" : "");
}

std::string navigation(const std::vector<ReportRun>& runs, bool study) {
  std::string html = "<nav aria-label=\"Parts of this page\"><ul>";
  if (study) html += "<li><a href=\"#study\">Study</a></li>";
  if (!runs.empty()) html += "<li><a href=\"#results\">Results</a></li>";
  for (std::size_t i = 0; i < runs.size(); ++i)
    append(html, "<li><a href=\"#run-{}\">{}</a></li>", i, escape_html(runs[i].name));
  return html + "</ul></nav>\n";
}

constexpr const char* honest_note =
    "<p class=\"note\">The row <b>null router</b> is a controller that emits the run's own prior for every "
    "token. Entropy and cost "
    "near that row show posterior collapse, not learning: judge by NLL, MI and the FLOPs that ran. With the "
    "paper's prior "
    "it reads 42.7% sampled entropy and 22.3% projected cost. Only training with w_kl = 1 and sampled soft "
    "routing "
    "maximises an evidence lower bound (ELBO); any other weight makes the KL a regulariser. Nominal costs "
    "are "
    "constants from the paper, not measurements.</p>\n";

// What a Content-Security-Policy calls a script or style that may run: nothing else on the page can.
std::string hash_source(std::string_view text) {
  const std::string hex = sha256_hex({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
  std::string digest;
  for (std::size_t i = 0; i < hex.size(); i += 2)
    digest += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return " 'sha256-" + base64(digest) + "'";
}

// Escaped, but for the line breaks of a <pre>.
std::string escape_lines(std::string_view text) {
  std::string html;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    html += escape_html(text.substr(begin, end - begin)) + '\n';
    begin = end + 1;
  }
  return html;
}

std::string script_element(std::string_view text) {
  return text.empty() ? "" : fmt::format("<script>{}</script>\n", text);
}

constexpr std::size_t most_unfolded = 3;

}  // namespace

std::string report_html(const std::vector<ReportRun>& runs, const std::string& lead) {
  const std::string_view scripts[] = {assets::chart_js, assets::charts, assets::reader};
  std::string allowed;
  for (const std::string_view script : scripts) {
    if (!script.empty()) allowed += hash_source(script);
  }
  std::string html = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; base-uri 'none'; "
      "form-action 'none'; "
      "style-src{}; script-src{}\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta name=\"generator\" content=\"dirigo report, format_version 1\">\n<title>Dirigo "
      "report</title>\n<style>{}"
      "</style>\n</head>\n<body>\n<h1>Dirigo: per-token attention routing</h1>\n",
      hash_source(assets::style), allowed, assets::style);
  html += navigation(runs, !lead.empty());
  html += honest_note;
  html += "<noscript><p>Charts and coloured text need JavaScript; the tables do not.</p></noscript>\n";
  html += lead;
  if (!runs.empty()) html += "<h2 id=\"results\">Results of runs</h2>\n" + result_tables(runs) + glossary();
  for (std::size_t i = 0; i < runs.size(); ++i) html += run_section(runs[i], i, runs.size() > most_unfolded);
  html += "<footer><p>Written by <code>dirigo report</code>. This file is complete: it loads nothing.</p>\n";
  if (!assets::chart_js.empty()) {
    append(html,
           "<details><summary>Charts are drawn by Chart.js; its licence</summary><pre>{}</pre></details>\n",
           escape_lines(assets::chart_js_license));
  } else {
    html += "<p>This build of dirigo had no Chart.js: charts are shown as tables.</p>\n";
  }
  html += "</footer>\n";
  for (const std::string_view script : scripts) html += script_element(script);
  return html + "</body>\n</html>\n";
}

}  // namespace dirigo::tools
