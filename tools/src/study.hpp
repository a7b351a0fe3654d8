// A study: many runs in one directory, trained side by side, that can be interrupted at any moment.
//
//   DIR/arms.json    the arms, in the form of --arms          DIR/study.json, DIR/report.html   the results
//   DIR/data/        training, development and test text      DIR/runs/NAME-lrX-seedN/          ordinary runs
//
// Arms may have texts of their own. Runs on one file that differ in length are tested on the same bytes.
// Every arm is trained with every learning rate of its grid, seed 1. The rate with the lowest development NLL
// (hard routing) is then trained with all seeds, and only those runs are evaluated on the test text. What the
// directory holds already is not done again.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data_source.hpp"
#include "report.hpp"
#include "study_arms.hpp"
#include "study_data.hpp"

namespace dirigo::tools {

struct StudyOptions {
  std::string directory;
  std::int64_t seeds = 0;    // 0: the list's own number
  int threads = 0;           // so many runs at a time, one thread each; 0: as many as help
  std::int64_t windows = 0;  // of an evaluation on the test text; 0: about 131072 bytes, quick 8192
  ArmOptions arms;
};

struct StudyRun {
  std::string name, directory;
  meta::Config config;
  std::size_t arm = 0;
};

// What a study measures of a trained run on the test text beyond its evaluations. The result is kept in the
// run's directory as PREFIX-*.json.
struct StudyProbe {
  std::string_view prefix;
  bool (*applies)(const meta::Config& config) = nullptr;
  // As JSON. `progress` gets the share that is done; where it returns false, throws meta::Interrupted.
  std::string (*measure)(const Context& context, meta::LanguageModel& model, const meta::EvaluationText& text,
                         const std::function<bool(double)>& progress) = nullptr;
  bool every_byte = false;  // it has no meaning where targets are ignored: such texts are refused
};

// What a finished run has shown.
struct StudyRunResult {
  std::string failure;         // why the training left the finite numbers; then nothing else is there
  double development_nll = 0;  // hard routing
  double train_s = 0;
  // On the test text, chosen rates only; gated for a Dirichlet router only, and only hard for a static one.
  std::optional<ResultRow> soft, hard, gated;
  std::optional<ResultRow> null_hard;  // every token to the null router's expert; one arm only
};

// Is told what happens, from several threads, one at a time.
struct StudyObserver {
  std::function<void(const StudyRun& run, const StudyRunResult& result)> finished;
  // The share of all work that is done, and the runs at work with the share of each.
  std::function<void(double done, const std::vector<std::pair<std::string, double>>& at_work)> progress;
  std::function<bool()> stop;
};

class DirectoryLock;

class Study {
 public:
  // Checks what can be checked before the work begins: arms and texts, before anything is written, and the
  // runs that the directory holds. `data` is for arms without a text of their own. Throws ValueError or
  // IoError.
  Study(StudyList list, StudyOptions options, const StudyDataOptions& data);
  ~Study();

  // Works until everything is done, or `stop` says true: then every run is saved where it is. Returns whether
  // it is done. Throws IoError or ValueError for a damaged run, or when the disk is full.
  bool work(const StudyObserver& observer) const;

  const StudyList& list() const { return list_; }
  std::int64_t seeds() const { return seeds_; }
  std::int64_t run_count() const;  // trainings in all
  int workers() const { return workers_; }

  // The runs of an arm's grid, seed 1; and, once they are trained, which of them is the best (none if all
  // failed) and its runs by seed.
  const std::vector<StudyRun>& grid(std::size_t arm) const { return grid_[arm]; }
  std::optional<std::size_t> best_of_grid(std::size_t arm) const;
  std::vector<StudyRun> chosen_runs(std::size_t arm) const;
  StudyRunResult result(const StudyRun& run) const;
  const meta::Config& config(std::size_t arm) const { return configs_[arm]; }  // before rate and seed
  // What the arm's runs train on, as the user said it.
  const std::string& corpus(std::size_t arm) const { return texts_[text_of_arm_[arm]].options.corpus; }
  // The arms whose runs show what the null router does, one for every corpus and length: the first with a
  // controller, a Bayesian one if any.
  const std::vector<std::size_t>& null_arms() const { return null_arms_; }
  // Files in the run's directory about the test text; they exist once the work is done.
  std::string evaluation_file(const StudyRun& run, meta::RoutingMode mode) const;
  std::string probe_file(const StudyRun& run, const StudyProbe& probe) const;

 private:
  struct Task;
  class Crew;
  struct Evaluation {  // on the test text
    meta::RoutingMode routing;
    bool null_router;  // every token to the prior's expert
  };
  struct Text {
    StudyDataOptions options;
    std::int64_t longest = 1;  // of its arms' lengths
    StudyData data = {};
  };
  void add_arm(std::size_t arm, const StudyDataOptions& common);
  void check_lengths() const;
  void choose_null_arms();
  bool is_null_arm(std::size_t arm) const;
  const StudyProbe* missing_probe(const StudyRun& run) const;
  StudyRun make_run(std::size_t arm, double learning_rate, std::int64_t seed) const;
  std::vector<double> rates(std::size_t arm) const;
  void check_directory() const;
  std::vector<Task> grid_tasks() const;
  std::vector<Task> seed_tasks() const;
  double total_weight() const;
  void check_sources(std::size_t text, const StudyData& data) const;
  meta::EvaluationText test_text(const DataSource& source, const StudyRun& run) const;
  std::string test_flags(const StudyRun& run, std::optional<meta::ExpertKind> expert) const;
  std::int64_t test_window_bytes(const StudyRun& run) const;
  std::int64_t test_windows(const StudyRun& run) const;
  std::vector<Evaluation> missing_evaluations(const StudyRun& run, bool with_null) const;
  // Whether there was something to evaluate.
  bool evaluate_on_test(const Context& context, const StudyRun& run, bool with_null,
                        const std::function<bool(double)>& progress) const;

  StudyList list_;
  StudyOptions options_;
  const StudyProbe* probe_ = nullptr;  // of the built-in study with this name
  std::vector<Text> texts_;
  std::vector<std::size_t> text_of_arm_;
  std::int64_t seeds_ = 1;
  int workers_ = 1;
  std::vector<std::size_t> null_arms_;
  std::vector<meta::Config> configs_;  // by arm; corpus, rate and seed not yet set
  std::vector<std::vector<StudyRun>> grid_;
  std::unique_ptr<DirectoryLock> lock_;
};

}  // namespace dirigo::tools
