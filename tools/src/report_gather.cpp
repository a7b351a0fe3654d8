// From a run directory to what the report shows of it.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <limits>

#include "data_source.hpp"
#include "dirigo/meta_attention/run_files.hpp"
#include "evaluate_run.hpp"
#include "report.hpp"
#include "report_study.hpp"

namespace dirigo::tools {

namespace {

namespace fs = std::filesystem;

constexpr std::int64_t quick_tokens = 16384;  // of the evaluation where there is none yet
constexpr std::int64_t max_json_bytes = 64 << 20;
constexpr std::int64_t study_text_bytes = 4 * report_text_bytes;  // of all runs of a study together

// Sorted, so that the same directory gives the same report.
std::vector<fs::path> evaluation_files(const std::string& directory) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind("eval-", 0) == 0 && entry.path().extension() == ".json") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<ResultRow> quick_evaluations(const Context& context, meta::LanguageModel& model,
                                         const std::string& name, const OpenedText& text,
                                         std::int64_t length) {
  const std::int64_t windows = std::max<std::int64_t>(1, quick_tokens / length);
  std::vector<ResultRow> rows;
  for (const auto mode : {meta::RoutingMode::soft, meta::RoutingMode::hard}) {
    meta::EvaluationOptions options;
    options.routing = mode;
    const meta::Evaluation evaluation = meta::evaluate(
        context, model, evaluation_text(*text.source, text.source->evaluation(length, 0, windows)), options);
    const std::string flags = fmt::format("--windows {}", evaluation.windows);
    rows.push_back(parse_evaluation(evaluation_json(evaluation, name, text.label, flags), name));
  }
  return rows;
}

std::vector<ReportByte> score_window(const Context& context, const meta::LoadedRun& run,
                                     const DataSource& source, const Batch& batch) {
  const std::string text = source.vocabulary().decode(batch.inputs);
  const std::span<const std::uint8_t> bytes(reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
  std::vector<ReportByte> window;
  meta::score_text(context, *run.model, run.description.vocabulary, bytes, {},
                   [&](const meta::ByteScore& score) {
                     if (!window.empty()) window.back().next_nll = score.nll;
                     ReportByte byte{score, "", std::nullopt};
                     if (!batch.needs.empty())
                       byte.need = need_names()[std::size_t(batch.needs[window.size()])];
                     window.push_back(std::move(byte));
                   });
  return window;
}

// The first windows of the held-out text; of a file they follow each other.
std::vector<std::vector<ReportByte>> score_windows(const Context& context, const meta::LoadedRun& run,
                                                   const DataSource& source, std::int64_t length,
                                                   std::int64_t text_bytes) {
  std::vector<std::vector<ReportByte>> windows;
  const std::int64_t wanted = (text_bytes + length - 1) / length;
  if (wanted == 0) return windows;
  // A synthetic language has as many windows as one asks for.
  const EvaluationSet set = source.evaluation(length, 0, source.has_needs() ? wanted : 0);
  const std::int64_t count = std::min(set.windows(), wanted);
  for (std::int64_t w = 0; w < count; ++w)
    windows.push_back(score_window(context, run, source, set.batch(w, 1)));
  return windows;
}

std::vector<std::pair<std::string, std::string>> facts(const meta::LoadedRun& run, const OpenedText& text) {
  const meta::Config& c = run.description.config;
  const auto value = [fields = meta::describe_fields(c)](const std::string& key) {
    const auto found =
        std::find_if(fields.begin(), fields.end(), [&](const auto& field) { return field.key == key; });
    return found == fields.end() ? std::string("?") : found->value;
  };
  return {
      {"preset", c.preset.empty() ? "none" : c.preset},
      {"corpus", c.data.corpus},
      {"held-out text", text.label.corpus},
      {"model", fmt::format("{} layer{}, D={}, {} heads, {} parameters, projections {}", c.model.layers,
                            c.model.layers == 1 ? "" : "s", c.model.d_model, c.model.heads,
                            run.model->parameter_count(), value("attention.projections"))},
      {"attention", fmt::format("T={}, positions {}, local window {}", c.train.seq_len,
                                value("model.positions"), c.attention.window)},
      {"router", fmt::format("{}, posterior {}, cost model {}", value("router.kind"),
                             value("router.posterior"), value("router.cost_model"))},
      {"objective", fmt::format("w_kl {} ({})", value("objective.w_kl"), value("objective.w_kl_schedule"))},
      {"training",
       fmt::format("{} steps, batch {}, {} sampling, straight-through {}, hard-routed {}, seed {}",
                   c.train.steps, c.train.batch, value("train.sampling"), value("train.straight_through"),
                   value("train.hard_routed"), c.train.seed)},
      {"written by", "dirigo " + run.description.version},
  };
}

}  // namespace

ReportRun gather_report(const Context& context, const std::string& directory, std::int64_t text_bytes) {
  const meta::LoadedRun run = meta::load_run(context, directory);
  const OpenedText text = open_evaluation_text(run.description, std::nullopt);
  const std::int64_t length = run.description.config.train.seq_len;

  ReportRun report;
  report.name = directory;
  report.facts = facts(run, text);
  report.null_router = meta::null_router(*run.model);
  for (const fs::path& file : evaluation_files(directory)) {
    report.results.push_back(
        parse_evaluation(meta::read_text_file(file.string(), max_json_bytes), file.string()));
  }
  if (report.results.empty())
    report.results = quick_evaluations(context, *run.model, directory, text, length);
  const fs::path metrics = fs::path(directory) / "metrics.jsonl";
  if (fs::exists(metrics)) {
    const std::string lines =
        meta::read_text_file(metrics.string(), std::numeric_limits<std::int64_t>::max());
    report.curve = parse_metrics(lines, metrics.string());
  }
  if (run.description.config.attention.leaky)
    return report;  // no byte is scored given the bytes before it alone
  report.corpus = text.label.corpus;
  report.continuous = !text.source->has_needs();
  report.windows = score_windows(context, run, *text.source, length, text_bytes);
  return report;
}

bool is_study(const std::string& directory) {
  return fs::exists(fs::path(directory) / "study.json");
}

void gather_directory(const Context& context, const std::string& directory,
                      std::optional<std::int64_t> text_bytes, ReportContent& content) {
  if (!is_study(directory)) {
    content.runs.push_back(gather_report(context, directory, text_bytes.value_or(report_text_bytes)));
    return;
  }
  const std::string file = (fs::path(directory) / "study.json").string();
  const StudySection section = study_section(meta::read_text_file(file, max_json_bytes), file);
  content.lead += section.html;
  std::vector<std::pair<std::string, fs::path>> runs;
  for (const std::string& name : section.runs) {
    const fs::path run = fs::path(directory) / "runs" / name;
    // A study's results may be kept without its runs; a training that failed has no weights.
    if (fs::exists(run / "model.safetensors") && !fs::exists(run / "failed.json"))
      runs.emplace_back(name, run);
  }
  const std::int64_t share =
      std::max<std::int64_t>(1, study_text_bytes / std::max<std::int64_t>(1, std::ssize(runs)));
  for (const auto& [name, run] : runs) {
    content.runs.push_back(gather_report(context, run.string(), text_bytes.value_or(share)));
    content.runs.back().name = name;
  }
}

}  // namespace dirigo::tools
