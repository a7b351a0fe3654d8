// The report: one self-contained HTML file about one or several runs.
//
// Two halves: what is in the report (report_gather.cpp and report_files.cpp) and how it looks
// (report_html.cpp). Nothing in the page comes from the network, and all text from files is escaped.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dirigo/core/context.hpp"
#include "dirigo/meta_attention/evaluation.hpp"
#include "dirigo/meta_attention/score.hpp"

namespace dirigo::tools {

// A point of metrics.jsonl.
struct CurvePoint {
  std::int64_t step = 0;
  std::optional<double> nll, valid_nll;
  std::optional<double> tokens_per_s = {};  // since the point before
};

// One evaluation of a run (an eval-*.json), as far as the report shows it.
struct ResultRow {
  std::string routing;       // soft, hard or gated, with what differs from the default
  std::string evaluated_on;  // "held-out text", "training text", ...
  double nll = 0, nll_se = 0, bpc = 0;
  std::int64_t tokens = 0, skipped_bytes = 0, seq_len = 0;
  std::optional<double> entropy_floor;
  std::optional<double> attention_flops, model_flops, attention_flops_vs_full, model_flops_vs_full, wall_s;
  struct Routing {
    std::vector<double> fraction_argmax;
    std::optional<double> entropy_mean_pct, entropy_sampled_pct, projected_cost_pct, argmax_cost_pct;
    std::optional<double> kl, mi_token_expert;
  };
  Routing overall;
  std::vector<Routing> layers;
  std::optional<Routing> null_router;
  std::optional<meta::Deltas> deltas;
  struct Need {
    std::string tag;
    std::int64_t tokens = 0;
    double nll = 0;
    std::optional<double> accuracy;  // none in files of older versions
    std::vector<std::vector<double>> fraction_argmax_by_layer;
  };
  std::vector<Need> needs;
  std::vector<Need> gaps;  // `tag` is the range of bytes
};

// A byte of held-out text with its score, and what predicting the byte after it needs.
struct ReportByte {
  meta::ByteScore score;
  std::string need;                // empty for untagged text
  std::optional<double> next_nll;  // of the byte after it; none for a window's last
};

struct ReportRun {
  std::string name;
  std::vector<std::pair<std::string, std::string>> facts;  // for people: preset, corpus, parameters ...
  std::vector<ResultRow> results;
  meta::RoutingStatistics null_router;
  std::vector<CurvePoint> curve;
  std::vector<std::vector<ReportByte>> windows;
};

// An eval-*.json. Throws IoError naming `where` and the field for content that is not one.
ResultRow parse_evaluation(std::string_view json, const std::string& where);

// The lines of metrics.jsonl. A last line that is cut off (a run that is being written) is left out; any
// other damaged line throws IoError naming it.
std::vector<CurvePoint> parse_metrics(std::string_view text, const std::string& where);

inline constexpr std::int64_t report_text_bytes = 3000;  // of held-out text for each run

// Reads a run directory; evaluates a few windows where it holds no eval-*.json. At least a window of text is
// shown. Throws IoError or ValueError.
ReportRun gather_report(const Context& context, const std::string& directory,
                        std::int64_t text_bytes = report_text_bytes);

// & < > " ' and line breaks as entities, other control bytes as \xNN: safe as text and inside quoted
// attributes.
std::string escape_html(std::string_view text);

// The curve as an inline SVG with axes; a dashed line at the entropy floor where it is known.
std::string loss_chart(const std::vector<CurvePoint>& curve, std::optional<double> entropy_floor);

// `lead`: HTML that comes before all else, of the report of a study.
std::string report_html(const std::vector<ReportRun>& runs, const std::string& lead = "");

}  // namespace dirigo::tools
