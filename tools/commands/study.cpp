// dirigo study: many runs against each other, to one table and one report.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "commands.hpp"
#include "console.hpp"
#include "dirigo/core/errors.hpp"
#include "dirigo/meta_attention/cost_model.hpp"
#include "dirigo/meta_attention/run_files.hpp"
#include "progress.hpp"
#include "studies/studies.hpp"
#include "study.hpp"
#include "study_results.hpp"

namespace dirigo::tools {

namespace {

namespace fs = std::filesystem;

constexpr std::int64_t max_arms_bytes = 16 << 20;
constexpr const char* quick_corpus = "synthetic:fables";

struct Arguments {
  std::string name, arms_file;
  std::vector<std::string> settings;
  std::optional<std::int64_t> seeds, steps;
  StudyOptions options;
  StudyDataOptions data;
  SectionOptions sections;
  bool json = false;
};

bool needs_a_corpus(const StudyList& list) {
  return std::any_of(list.arms.begin(), list.arms.end(),
                     [](const StudyArm& arm) { return arm.data.corpus.empty(); });
}

StudyList read_list(const Arguments& a) {
  if (a.arms_file.empty()) return built_in_study(a.name);
  StudyList list = parse_arms(meta::read_text_file(a.arms_file, max_arms_bytes), a.arms_file);
  list.name = a.name;
  return list;
}

void check_positive(const char* flag, const std::optional<std::int64_t>& value) {
  if (value && *value < 1)
    throw ValueError(fmt::format("[study] {}: expected at least 1, got {}", flag, *value));
}

StudyOptions study_options(const Arguments& a) {
  StudyOptions options = a.options;
  check_positive("--seeds", a.seeds);
  check_positive("--steps", a.steps);
  options.seeds = a.seeds.value_or(options.arms.quick ? 1 : 0);
  options.arms.steps = a.steps.value_or(0);
  for (const std::string& setting : a.settings) {
    const std::size_t equals = setting.find('=');
    if (equals == std::string::npos)
      throw ValueError(fmt::format("[study] --set: expected KEY=VALUE, got '{}'", setting));
    options.arms.set.emplace_back(setting.substr(0, equals), setting.substr(equals + 1));
  }
  return options;
}

// One live line on a terminal, a line per finished run everywhere.
class StudyProgress {
 public:
  StudyProgress(std::FILE* out, std::int64_t runs) : out_(out), live_(is_terminal(out)), runs_(runs) {}
  ~StudyProgress() { erase(); }

  void finished(const StudyRun& run, const StudyRunResult& result) {
    erase();
    const std::string what =
        !result.failure.empty()
            ? "failed: " + one_line(result.failure)
            : fmt::format("development NLL {:.4f}{}, trained in {}", result.development_nll,
                          result.hard ? fmt::format(", test {:.4f}", result.hard->nll) : "",
                          duration_text(result.train_s));
    fmt::print(out_, "[{:3.0f}%, {} left] {}: {}\n", 100 * done_, left(), run.name, what);
    std::fflush(out_);
  }

  void update(double done, const std::vector<std::pair<std::string, double>>& at_work) {
    if (start_ < 0) start_ = done;
    done_ = done;
    if (!live_) return;
    std::string line = fmt::format("{:3.0f}% of {} runs, {} left", 100 * done, runs_, left());
    for (const auto& [name, fraction] : at_work) line += fmt::format("  {} {:.0f}%", name, 100 * fraction);
    fmt::print(out_, "\r\x1b[K{}", line.substr(0, static_cast<std::size_t>(terminal_width(out_) - 1)));
    std::fflush(out_);
  }

 private:
  std::string left() const {
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
    if (done_ <= start_) return "?";
    return duration_text(seconds * (1 - done_) / (done_ - start_));
  }
  void erase() {
    if (live_) fmt::print(out_, "\r\x1b[K");
  }

  std::FILE* out_;
  bool live_;
  std::int64_t runs_;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  double start_ = -1, done_ = 0;
};

bool work(const Study& study, std::FILE* out) {
  const InterruptGuard interrupt;
  StudyProgress progress(out, study.run_count());
  StudyObserver observer;
  observer.finished = [&](const StudyRun& run, const StudyRunResult& result) {
    progress.finished(run, result);
  };
  observer.progress = [&](double done, const auto& at_work) { progress.update(done, at_work); };
  observer.stop = [&] { return interrupt.raised(); };
  return study.work(observer);
}

// Of the study.json that has been written, and the run with seed 1 of every arm.
void write_report(const std::string& directory, int threads, const std::string& path) {
  const Context context({.threads = threads});
  ReportContent content;
  gather_directory(context, directory, std::nullopt, content);
  meta::write_file_atomically(path, report_html(content.runs, content.lead));
}

int study_command(Arguments a) {
  const StudyList list = read_list(a);
  if (a.data.corpus.empty() && a.options.arms.quick && needs_a_corpus(list)) a.data.corpus = quick_corpus;
  for (const std::string& file : a.sections.cost_models) meta::read_cost_model(file);
  const Study study(list, study_options(a), a.data);
  std::FILE* out = a.json ? stderr : stdout;  // --json: stdout carries JSON alone
  fmt::print(out, "Study {}: {} arms, {} seeds, {} runs in {}, {} at a time\n", list.name, list.arms.size(),
             study.seeds(), study.run_count(), a.options.directory, study.workers());
  std::fflush(out);
  if (!work(study, out)) {
    fmt::print(out, "Interrupted: finished runs are kept, the others saved. The same command goes on.\n");
    return 0;
  }
  const StudyResults results = study_results(study, a.data.corpus, a.sections);
  const std::string json = study_json(results);
  const fs::path directory = a.options.directory;
  meta::write_file_atomically((directory / "study.json").string(), json);
  const std::string report = (directory / "report.html").string();
  write_report(a.options.directory, a.options.threads, report);
  fmt::print(out, "\n{}\nnull router: a controller that emits the prior; rows near it show no learning.\n",
             study_table(results));
  fmt::print(out, "{}\nResults: {}\nReport: {}\n", study_sections_text(results),
             (directory / "study.json").string(), report);
  if (a.json) fmt::print("{}", json);
  return 0;
}

}  // namespace

void add_study(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  Arguments& a = *arguments;
  CLI::App* command =
      app.add_subcommand("study", "train many runs against each other: one table, one report");
  command->add_option("NAME", a.name, fmt::format("{}; with --arms any name", fmt::join(study_names(), ", ")))
      ->required();
  command->add_option("--out", a.options.directory, "Directory of the study; an interrupted one goes on")
      ->required();
  command->add_option("--corpus", a.data.corpus,
                      "Text: a file or synthetic:NAME (with --quick default: synthetic:fables)");
  command->add_option("--valid", a.data.valid,
                      "Test text (default: the second half of the corpus's last tenth)");
  command->add_option("--train-bytes", a.data.train_bytes,
                      "Train on the first so many bytes; with --valid the rest is for selection");
  command->add_option("--seeds", a.seeds, "Seeds per arm (default: the study's; 1 with --quick)");
  command->add_flag("--quick", a.options.arms.quick, "A tiny model and budget: shows that all works");
  command->add_option("--arms", a.arms_file, "JSON file with a list of arms: docs/file-formats.md");
  command->add_option("--steps", a.steps, "Training steps of every arm; warm-ups shrink with them");
  command->add_option("--set", a.settings, "KEY=VALUE: set a field in every arm (repeatable)")
      ->expected(1)
      ->take_all();
  command->add_option("--windows", a.options.windows,
                      "Windows of the test text to read (default: about 131072 bytes)");
  command
      ->add_option("--cost-model", a.sections.cost_models,
                   "File of `dirigo bench cost-model`: pareto prices runs of its length with it (repeatable)")
      ->expected(1)
      ->take_all();
  command->add_option("--threads", a.options.threads, "So many runs at a time, one thread each");
  command->add_flag("--json", a.json, "Print study.json on stdout, all else on stderr");
  command->footer(
      "Example: dirigo study table3 --corpus valid.txt --train-bytes 1000000 --valid test.txt --seeds 5 "
      "--out studies/table3");
  command->callback([arguments, &run] { run = [arguments] { return study_command(*arguments); }; });
}

}  // namespace dirigo::tools
