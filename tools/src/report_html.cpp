// How the report looks: structs to HTML. Every string that comes from a file passes escape_html.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "byte_text.hpp"
#include "report.hpp"
#include "report_page.hpp"

namespace dirigo::tools {

namespace {

constexpr const char* none = "&ndash;";

template <class... Values>
void append(std::string& out, fmt::format_string<Values...> format, Values&&... values) {
  fmt::format_to(std::back_inserter(out), format, std::forward<Values>(values)...);
}

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

std::string result_table(const std::vector<ReportRun>& runs) {
  std::string html =
      "<div class=\"scroll\" tabindex=\"0\" role=\"region\" "
      "aria-label=\"Results\"><table><thead><tr><th>run, routing</th>";
  for (const Column& column : columns)
    append(html, "<th title=\"{}\">{}</th>", escape_html(column.meaning), column.title);
  html += "</tr></thead><tbody>\n";
  for (const ReportRun& run : runs) {
    for (const ResultRow& row : run.results) {
      append(html,
             "<tr><td>{}: {}, {}</td><td>{:.4f} &plusmn; {:.4f}</td><td>{:.4f}</td><td>{}</td><td>{}</td>",
             escape_html(run.name), escape_html(row.routing), escape_html(row.evaluated_on), row.nll,
             row.nll_se, row.bpc, row.tokens, row.skipped_bytes);
      append(html, "{}<td>{}</td><td>{}</td></tr>\n", routing_cells(row.overall),
             percent(row.attention_flops_vs_full), percent(row.model_flops_vs_full));
    }
    append(html,
           "<tr class=\"null\"><td>{}: null "
           "router</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>{}<td>{}</td><td>{}</td></tr>\n",
           escape_html(run.name), none, none, none, none, routing_cells(null_cells(run.null_router)), none,
           none);
  }
  return html + "</tbody></table></div>\n";
}

std::string glossary() {
  std::string html = "<details open><summary>What the columns mean</summary><dl>\n";
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
  std::string html = "<div class=\"scroll\"><table><thead><tr>";
  append(html, "<th>{}</th><th>bytes</th><th>NLL</th><th>right %</th>", what);
  for (std::size_t l = 0; l < layers; ++l) append(html, "<th>layer {}</th>", l);
  html += "</tr></thead><tbody>\n";
  for (const ResultRow::Need& need : needs) {
    append(html, "<tr><td>{}</td><td>{}</td><td>{:.4f}</td><td>{}</td>", escape_html(need.tag), need.tokens,
           need.nll, need.accuracy ? fmt::format("{:.1f}", 100 * *need.accuracy) : none);
    for (const auto& fractions : need.fraction_argmax_by_layer) append(html, "<td>{}</td>", mix(fractions));
    html += "</tr>\n";
  }
  return html + "</tbody></table></div>\n";
}

std::string need_tables(const ResultRow& row) {
  std::string html =
      "<p>By what predicting the next byte needs: <b>text</b> the last few bytes, <b>first</b> a fact stated "
      "for the first "
      "time (unpredictable), <b>recall</b> a fact stated before, <b>recall_far</b> one from beyond the local "
      "window. Right: how often the most likely byte came. Shares are full / linear / local in "
      "percent.</p>\n";
  html += need_rows("need", row.needs, row.layers.size());
  if (!row.gaps.empty()) html += need_rows("told so many bytes back", row.gaps, row.layers.size());
  return html;
}

// How sure the choice is: 0 where all weights are equal, 1 where one has all. (The Dirichlet's differential
// entropy U is no certainty: it calls a collapsed posterior certain.)
double certainty(const std::vector<double>& weights) {
  const double uniform = 1.0 / double(weights.size());
  return std::max(0.0, (*std::max_element(weights.begin(), weights.end()) - uniform) / (1 - uniform));
}

std::string byte_title(const ReportByte& byte) {
  const meta::ByteScore& score = byte.score;
  std::string title = fmt::format("byte {} at position {}", int(score.byte), score.pos);
  if (score.byte > 0x20 && score.byte < 0x7F) append(title, " ({})", char(score.byte));
  if (score.skipped) return title + ": not in the vocabulary, skipped";
  append(title, "; NLL {}", score.nll ? fmt::format("{:.3f}", *score.nll) : "none (first of its window)");
  if (byte.next_nll)
    append(title, "\nnext byte: NLL {:.3f}{}", *byte.next_nll,
           byte.need.empty() ? "" : ", needs " + byte.need);
  for (std::size_t l = 0; l < score.layers.size(); ++l) {
    const auto& layer = score.layers[l];
    append(title, "\nlayer {}: {}; full {:.2f} linear {:.2f} local {:.2f}", l,
           meta::expert_name(layer.chosen), layer.weights[0], layer.weights[1], layer.weights[2]);
    if (layer.uncertainty) append(title, "; U {:.2f}", *layer.uncertainty);
    if (layer.mi) append(title, "; MI {:.3f}", *layer.mi);
  }
  return title;
}

std::string need_class(const std::string& need) {
  if (need == "recall_far") return " need-far";
  if (need == "recall_near") return " need-near";
  return need == "first" ? " need-first" : "";
}

std::string byte_html(const ReportByte& byte, const std::string& glyph) {
  std::string classes, style;
  for (std::size_t l = 0; l < byte.score.layers.size(); ++l) {
    const auto& layer = byte.score.layers[l];
    append(classes, "{}{}-{}", l == 0 ? "" : " ", meta::expert_name(layer.chosen), l);
    append(style, "--o{}:{:.2f};", l, 0.08 + 0.5 * certainty(layer.weights));
  }
  // A newline is shown as a sign of its own, before it breaks the line.
  const std::string shown = glyph == "\n" ? "\xE2\x86\xB5\n" : escape_html(glyph);
  return fmt::format("<b class=\"{}{}\" style=\"{}\" title=\"{}\">{}</b>", classes, need_class(byte.need),
                     style, escape_html(byte_title(byte)), shown);
}

std::string window_html(const std::vector<ReportByte>& window) {
  std::vector<std::uint8_t> bytes;
  for (const ReportByte& byte : window) bytes.push_back(byte.score.byte);
  const std::vector<std::string> glyphs = byte_glyphs(bytes);
  std::string html;
  for (std::size_t i = 0; i < window.size(); ++i) html += byte_html(window[i], glyphs[i]);
  return html;
}

std::size_t layer_count(const ReportRun& run) {
  for (const auto& window : run.windows) {
    for (const ReportByte& byte : window) {
      if (!byte.score.skipped) return byte.score.layers.size();
    }
  }
  return 0;
}

// Radio buttons choose the layer by CSS alone: `.layer-1:checked ~ .text .full-1`.
std::string layer_style(std::size_t layers) {
  std::string css;
  for (std::size_t l = 0; l < layers; ++l) {
    for (int k = 0; k < meta::expert_count; ++k) {
      const auto name = meta::expert_name(meta::ExpertKind(k));
      const char* mark = name == "full" ? "solid" : name == "linear" ? "dotted" : "none";
      append(css, ".layer-{0}:checked ~ .text .{1}-{0} {{ background: rgb(var(--{1}) / var(--o{0}));", l,
             name);
      if (name != "local") append(css, " border-top: 2px {} rgb(var(--{}));", mark, name);
      css += " }\n";
    }
  }
  return css;
}

std::string text_legend(bool needs) {
  std::string html =
      "<p class=\"legend\"><span><span class=\"sample is-full\">a</span> full (solid line)</span>"
      "<span><span class=\"sample is-linear\">a</span> linear (dotted line)</span>"
      "<span><span class=\"sample is-local\">a</span> local (no line)</span><span>stronger colour: surer "
      "choice</span>";
  if (needs) {
    html +=
        "<span><span class=\"need-far\">a</span> next byte needs recall_far</span>"
        "<span><span class=\"need-near\">a</span> recall_near</span><span><span "
        "class=\"need-first\">a</span> first</span>";
  }
  return html + "<span>&middot; a byte that is not shown</span></p>\n";
}

std::string text_section(const ReportRun& run, std::size_t index) {
  const std::size_t layers = layer_count(run);
  if (layers == 0) return "";
  bool needs = false;
  for (const auto& window : run.windows) {
    needs |= std::any_of(window.begin(), window.end(), [](const ReportByte& b) { return !b.need.empty(); });
  }
  std::string html =
      "<h3>Held-out text, coloured by expert</h3>\n<p>Each byte shows the attention that reads it in order "
      "to predict the next "
      "one. Hover, tap, or focus the text and use the arrow keys for its weights.</p>\n" +
      text_legend(needs) + "<div class=\"reader\">\n";
  for (std::size_t l = 0; l < layers; ++l) {
    append(html,
           "<input type=\"radio\" class=\"layer-{0}\" name=\"layer-{1}\" id=\"layer-{1}-{0}\"{2}><label "
           "for=\"layer-{1}-{0}\">layer {0}</label>\n",
           l, index, l + 1 == layers ? " checked" : "");
  }
  html +=
      "<div class=\"text\" tabindex=\"0\" role=\"group\" aria-label=\"Held-out text; arrow keys move byte by "
      "byte\">";
  for (std::size_t w = 0; w < run.windows.size(); ++w) {
    if (run.windows.size() > 1) append(html, "<span class=\"break\">window {}</span>", w + 1);
    html += window_html(run.windows[w]);
  }
  return html + "</div>\n<output class=\"detail\" aria-live=\"polite\">No byte chosen.</output>\n</div>\n";
}

std::string run_section(const ReportRun& run, std::size_t index) {
  std::string html = fmt::format("<section>\n<h2>{}</h2>\n<dl class=\"facts\">\n", escape_html(run.name));
  for (const auto& [name, value] : run.facts)
    append(html, "<dt>{}</dt><dd>{}</dd>\n", escape_html(name), escape_html(value));
  html += "</dl>\n<h3>Loss curve</h3>\n";
  const ResultRow* last = run.results.empty() ? nullptr : &run.results.back();
  html += loss_chart(run.curve, last ? last->entropy_floor : std::nullopt);
  html += text_section(run, index);
  for (const ResultRow& row : run.results) {
    append(html, "<h3>Routing by layer: {}, {}</h3>\n", escape_html(row.routing),
           escape_html(row.evaluated_on));
    html += layer_table(row);
    if (!row.needs.empty()) html += need_tables(row);
  }
  return html + "</section>\n";
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

}  // namespace

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '\n':
        out += "&#10;";
        break;
      default:
        if (byte < 0x20 || byte == 0x7F) {
          append(out, "\\x{:02X}", byte);
        } else {
          out += c;
        }
    }
  }
  return out;
}

std::string report_html(const std::vector<ReportRun>& runs, const std::string& lead) {
  std::size_t layers = 0;
  for (const ReportRun& run : runs) layers = std::max(layers, layer_count(run));
  std::string html =
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta name=\"generator\" content=\"dirigo report, format_version 1\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
      "script-src 'unsafe-inline'\">\n<title>Dirigo report</title>\n<style>";
  html += report_style + layer_style(layers) +
          "</style>\n</head>\n<body>\n<h1>Dirigo: per-token attention routing</h1>\n";
  html += honest_note;
  html += lead;
  html += "<h2>Results</h2>\n" + result_table(runs) + glossary();
  for (std::size_t i = 0; i < runs.size(); ++i) html += run_section(runs[i], i);
  html +=
      "<footer>Written by <code>dirigo report</code>. This file is complete: it loads "
      "nothing.</footer>\n<script>";
  return html + report_script + "</script>\n</body>\n</html>\n";
}

}  // namespace dirigo::tools
