#include "compare_runs.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "dirigo/core/errors.hpp"
#include "dirigo/data/sha256.hpp"
#include "evaluation_table.hpp"
#include "table.hpp"

namespace dirigo::tools {
namespace {

using Json = nlohmann::ordered_json;

// A run with its text, opened but not yet evaluated.
struct Opened {
  std::string run;
  meta::RunDescription description;
  OpenedText text;
  std::int64_t length = 0;
};

Opened open_run(const std::string& run, const std::optional<std::string>& corpus) {
  Opened opened{run, meta::read_run_description(run), {}, 0};
  opened.text = open_evaluation_text(opened.description, corpus);
  opened.length = opened.description.config.train.seq_len;
  return opened;
}

void check_vocabularies(const std::vector<Opened>& runs) {
  for (const Opened& run : runs) {
    if (run.description.vocabulary == runs.front().description.vocabulary) continue;
    throw ValueError(fmt::format("[{}] vocabulary: expected that of {} ({} bytes), got another ({} bytes)",
                                 run.run, runs.front().run, runs.front().description.vocabulary.size(),
                                 run.description.vocabulary.size()));
  }
}

// The windows of a comparison: `bytes` long each, numbers `chosen` of those that the text holds.
struct Windows {
  std::int64_t bytes = 0;
  std::vector<std::int64_t> chosen;
};

Windows choose_windows(const std::vector<Opened>& runs, std::int64_t wanted) {
  Windows windows;
  for (const Opened& run : runs) windows.bytes = std::max(windows.bytes, run.length);
  for (const Opened& run : runs) {
    if (windows.bytes % run.length == 0) continue;
    throw ValueError(
        fmt::format("[{}] train.seq_len: expected a divisor of the longest of the compared runs, {}, got {}",
                    run.run, windows.bytes, run.length));
  }
  const auto& source = *runs.front().text.source;
  const std::int64_t available = source.evaluation(windows.bytes).windows();
  const std::int64_t count = wanted == 0 ? available : std::min(wanted, available);
  for (std::int64_t i = 0; i < count; ++i) windows.chosen.push_back(i * available / count);
  return windows;
}

// The text of a run in windows of its own length, those that make up the chosen windows of the comparison.
meta::EvaluationText windows_of(const Opened& run, const Windows& windows) {
  meta::EvaluationText text = evaluation_text(*run.text.source, run.text.source->evaluation(run.length));
  const std::int64_t parts = windows.bytes / run.length;
  const std::int64_t available = text.windows;
  text.windows = static_cast<std::int64_t>(windows.chosen.size()) * parts;
  text.window = [read = text.window, chosen = windows.chosen, parts, available](
                    std::int64_t index, const meta::EvaluationWindow& to) {
    const std::int64_t window = chosen[static_cast<std::size_t>(index / parts)] * parts + index % parts;
    // A synthetic language has no more windows of a short length than of a long one: other bytes, refused.
    if (window < available) read(window, to);
  };
  return text;
}

// SHA-256 over the bytes to be predicted: runs that agree in it were asked the same.
std::string hash_of_targets(const Opened& run, const meta::EvaluationText& text) {
  const auto size = static_cast<std::size_t>(text.length);
  std::vector<std::int32_t> inputs(size), targets(size);
  std::vector<std::uint8_t> bytes;
  for (std::int64_t w = 0; w < text.windows; ++w) {
    text.window(w, {inputs, targets, {}, {}});
    for (const std::int32_t token : targets)
      bytes.push_back(run.description.vocabulary[static_cast<std::size_t>(token)]);
  }
  return sha256_hex(bytes);
}

void check_bytes(const std::vector<Opened>& runs, const Windows& windows) {
  const std::string first = hash_of_targets(runs.front(), windows_of(runs.front(), windows));
  for (const Opened& run : runs) {
    const std::string hash = hash_of_targets(run, windows_of(run, windows));
    if (hash == first) continue;
    throw ValueError(
        fmt::format("[{}] held-out bytes: expected those of {} (SHA-256 {:.12}...), got others ({:.12}...)",
                    run.run, runs.front().run, first, hash));
  }
}

std::vector<double> means_of_groups(const std::vector<double>& values, std::size_t group) {
  std::vector<double> means;
  for (auto at = values.begin(); at != values.end(); at += std::ptrdiff_t(group))
    means.push_back(std::accumulate(at, at + std::ptrdiff_t(group), 0.0) / double(group));
  return means;
}

ComparedRun evaluate_run(const Context& context, const Opened& opened, const Windows& windows,
                         const meta::EvaluationOptions& options) {
  const meta::LoadedRun run = meta::load_run(context, opened.run);
  ComparedRun result;
  result.run = opened.run;
  result.evaluation = meta::evaluate(context, *run.model, windows_of(opened, windows), options);
  result.window_nll =
      means_of_groups(result.evaluation.window_nll, static_cast<std::size_t>(windows.bytes / opened.length));
  return result;
}

void compare_with(const ComparedRun& first, ComparedRun& run, std::uint64_t seed) {
  std::vector<double> differences(run.window_nll.size());
  std::transform(run.window_nll.begin(), run.window_nll.end(), first.window_nll.begin(), differences.begin(),
                 std::minus<>());
  run.difference =
      std::accumulate(differences.begin(), differences.end(), 0.0) / static_cast<double>(differences.size());
  run.ci95 = block_bootstrap(differences, seed);
}

std::string context_table(const Comparison& comparison) {
  std::vector<std::string> header{"NLL by bytes of context"};
  const auto& longest = *std::max_element(
      comparison.runs.begin(), comparison.runs.end(),
      [](const ComparedRun& a, const ComparedRun& b) { return a.evaluation.seq_len < b.evaluation.seq_len; });
  for (const auto& group : longest.evaluation.nll_by_context)
    header.push_back(group.from == group.to ? fmt::format("{}", group.to)
                                            : fmt::format("{}-{}", group.from, group.to));
  Table table(header);
  for (const ComparedRun& run : comparison.runs) {
    std::vector<std::string> row{run.run};
    for (const auto& group : run.evaluation.nll_by_context) row.push_back(fmt::format("{:.3f}", group.nll));
    row.resize(header.size(), "-");
    table.add(std::move(row));
  }
  return table.text();
}

Json run_json(const ComparedRun& run, bool first) {
  Json json = Json::parse(meta::to_json(run.evaluation));
  json.erase("format_version");
  json["run"] = run.run;
  json["difference"] = first ? Json(nullptr) : Json(run.difference);
  json["difference_ci95"] = first || !run.ci95 ? Json(nullptr) : Json::array({run.ci95->low, run.ci95->high});
  return json;
}

}  // namespace

Comparison compare_runs(const Context& context, const std::vector<std::string>& runs,
                        const ComparisonOptions& options) {
  if (runs.size() < 2)
    throw ValueError(fmt::format("[compare] RUN: expected at least two, got {}", runs.size()));
  if (options.windows < 0)
    throw ValueError(fmt::format("[compare] --windows: expected at least 0, got {}", options.windows));
  std::vector<Opened> opened;
  for (const std::string& run : runs) opened.push_back(open_run(run, options.corpus));
  check_vocabularies(opened);
  const Windows windows = choose_windows(opened, options.windows);
  check_bytes(opened, windows);

  Comparison comparison{
      opened.front().text.label, static_cast<std::int64_t>(windows.chosen.size()), windows.bytes, {}};
  for (const Opened& run : opened)
    comparison.runs.push_back(evaluate_run(context, run, windows, options.evaluation));
  for (ComparedRun& run : comparison.runs)
    compare_with(comparison.runs.front(), run, options.evaluation.seed);
  return comparison;
}

std::string comparison_table(const Comparison& comparison) {
  const meta::Evaluation& first = comparison.runs.front().evaluation;
  std::string text =
      fmt::format("{} routing on {} ({}), {} windows of {} bytes; {} bytes skipped\n",
                  meta::name_of(first.routing_mode), comparison.text.evaluated_on, comparison.text.corpus,
                  comparison.windows, comparison.window_bytes, first.skipped_bytes);
  Table table({"run", "NLL", "difference", "95% interval", "attention FLOPs", "% of full", "model FLOPs",
               "seconds", "argmax cost%", "MI"});
  for (const ComparedRun& run : comparison.runs) {
    const meta::Evaluation& e = run.evaluation;
    const bool is_first = &run == &comparison.runs.front();
    table.add({run.run, fmt::format("{:.4f}", e.nll), is_first ? "-" : fmt::format("{:+.4f}", run.difference),
               is_first || !run.ci95 ? "-" : fmt::format("{:+.4f} to {:+.4f}", run.ci95->low, run.ci95->high),
               fmt::format("{:.4g}", e.executed.attention_flops),
               fmt::format("{:.1f}", 100 * e.executed.attention_flops_vs_full),
               fmt::format("{:.4g}", e.executed.model_flops), fmt::format("{:.2f}", e.executed.wall_s),
               fmt::format("{:.1f}", e.overall.argmax_cost_pct),
               fmt::format("{:.4f}", e.overall.mi_token_expert)});
  }
  table.add({"null router", "-", "-", "-", "-", "-", "-", "-",
             fmt::format("{:.1f}", first.null.argmax_cost_pct),
             fmt::format("{:.4f}", first.null.mi_token_expert)});
  text += table.text();
  text += fmt::format(
      "difference: paired by window, to {}; below 0 is better. Interval: circular block bootstrap, blocks of "
      "{} windows, {} resamples.\n",
      comparison.runs.front().run, bootstrap_block(comparison.windows), bootstrap_resamples);
  const bool lengths_differ =
      std::any_of(comparison.runs.begin(), comparison.runs.end(),
                  [&](const ComparedRun& run) { return run.evaluation.seq_len != first.seq_len; });
  return lengths_differ ? text + "\n" + context_table(comparison) : text;
}

std::string comparison_json(const Comparison& comparison, const ComparisonOptions& options) {
  Json json;
  json["format_version"] = 1;
  json["corpus"] = comparison.text.corpus;
  json["evaluated_on"] = comparison.text.evaluated_on;
  json["windows"] = comparison.windows;
  json["window_bytes"] = comparison.window_bytes;
  json["bootstrap"] = {{"level", 0.95},
                       {"block_windows", bootstrap_block(comparison.windows)},
                       {"resamples", bootstrap_resamples},
                       {"seed", options.evaluation.seed}};
  json["rows"] = Json::array();
  for (const ComparedRun& run : comparison.runs)
    json["rows"].push_back(run_json(run, &run == &comparison.runs.front()));
  json["null_router"] = json["rows"].front()["null_router"];
  // A path need not be UTF-8.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace dirigo::tools
