#include "study.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <filesystem>
#include <limits>
#include <mutex>
#include <thread>

#include "data_source.hpp"
#include "dirigo/core/errors.hpp"
#include "dirigo/data/sha256.hpp"
#include "evaluate_run.hpp"
#include "studies/studies.hpp"
#include "study_run.hpp"

namespace dirigo::tools {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::int64_t most_seeds = 1000;
constexpr std::int64_t test_bytes = 131072, quick_test_bytes = 8192;
constexpr double weight_of_test = 0.1;  // of a run's evaluations on the test text, beside its training
constexpr std::int64_t max_json_bytes = 16 << 20;

bool is_static(const meta::Config& config) {
  return config.router.kind == meta::RouterKind::static_expert;
}
bool is_bayesian(const meta::Config& config) {
  return config.router.kind == meta::RouterKind::bayes;
}
bool has_controller(const meta::Config& config) {
  return !is_static(config) && config.router.kind != meta::RouterKind::prior_mixture;
}

bool is_synthetic(const StudyDataOptions& text) {
  return text.corpus.rfind("synthetic:", 0) == 0;
}

// The study's own text lies in data/, those of arms in directories named by what was asked for.
std::string data_directory(const std::string& study, const StudyDataOptions& text,
                           const StudyDataOptions& common) {
  const fs::path data = fs::path(study) / "data";
  if (text == common) return data.string();
  const std::string asked = fmt::format("{}\n{}\n{}", text.corpus, text.valid, text.train_bytes);
  const std::span bytes(reinterpret_cast<const std::uint8_t*>(asked.data()), asked.size());
  return (data / sha256_hex(bytes).substr(0, 12)).string();
}

std::int64_t resolve_seeds(std::int64_t asked, std::int64_t of_list) {
  const std::int64_t seeds = asked == 0 ? of_list : asked;
  if (seeds >= 1 && seeds <= most_seeds) return seeds;
  throw ValueError(fmt::format("[study] --seeds: expected 1 to {}, got {}", most_seeds, seeds));
}

double training_tokens(const meta::Config& config) {
  return static_cast<double>(config.train.steps) * static_cast<double>(config.train.batch) *
         static_cast<double>(config.train.seq_len);
}

std::string file_of(const StudyRun& run, const std::string& name) {
  return (fs::path(run.directory) / name).string();
}

ResultRow read_evaluation(const std::string& path) {
  return parse_evaluation(meta::read_text_file(path, max_json_bytes), path);
}

std::optional<ResultRow> read_if_there(const std::string& path) {
  if (!fs::exists(path)) return std::nullopt;
  return read_evaluation(path);
}

// The seconds between the lines of metrics.jsonl, from the speed that each reports.
double training_seconds(const StudyRun& run) {
  const std::string path = file_of(run, "metrics.jsonl");
  const std::string lines = meta::read_text_file(path, std::numeric_limits<std::int64_t>::max());
  const auto tokens_per_step = static_cast<double>(run.config.train.batch * run.config.train.seq_len);
  double seconds = 0;
  std::int64_t before = 0;
  for (const CurvePoint& point : parse_metrics(lines, path)) {
    if (point.tokens_per_s && *point.tokens_per_s > 0)
      seconds += static_cast<double>(point.step - before) * tokens_per_step / *point.tokens_per_s;
    before = point.step;
  }
  return seconds;
}

// The expert that the null router sends every token to.
meta::ExpertKind null_expert(const meta::LanguageModel& model) {
  const auto chosen = meta::null_router(model).fraction_argmax;
  return static_cast<meta::ExpertKind>(std::max_element(chosen.begin(), chosen.end()) - chosen.begin());
}

}  // namespace

// Two studies in one directory would write the same files. The lock goes with the process, however it ends.
class DirectoryLock {
 public:
  explicit DirectoryLock(const std::string& directory) {
    const std::string path = (fs::path(directory) / ".lock").string();
    descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor_ < 0)
      throw IoError(fmt::format("[{}] --out: expected a writable place, got none", directory));
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) == 0) return;
    ::close(descriptor_);
    throw ValueError(fmt::format(
        "[{}] --out: expected a directory that no other study works in, got one in use", directory));
  }
  ~DirectoryLock() { ::close(descriptor_); }
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

 private:
  int descriptor_ = -1;
};

struct Study::Task {
  StudyRun run;
  bool test = false;       // evaluate on the test text, after training if need be
  bool with_null = false;  // and the null router
  double weight = 0;
};

// The threads that work on a list of tasks, one run and one Context each.
class Study::Crew {
 public:
  Crew(const Study& study, const StudyObserver& observer)
      : study_(study), observer_(observer), total_(study.total_weight()) {}

  // False if it was stopped. Throws the first error, when every other run has been saved.
  bool work(const std::vector<Task>& tasks) {
    next_ = 0;
    std::vector<std::thread> threads;
    const auto count = std::min(static_cast<std::size_t>(study_.workers_), tasks.size());
    for (std::size_t i = 0; i < count; ++i) threads.emplace_back([&] { serve(tasks); });
    for (std::thread& thread : threads) thread.join();
    if (error_) std::rethrow_exception(error_);
    return !halted_;
  }

 private:
  void serve(const std::vector<Task>& tasks) {
    try {
      const Context context({.threads = 1});
      for (std::size_t i = next_++; i < tasks.size() && !stopping(); i = next_++) perform(context, tasks[i]);
    } catch (const meta::Interrupted&) {
      halted_ = true;
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
      halted_ = true;
    }
  }

  bool stopping() {
    if (observer_.stop && observer_.stop()) halted_ = true;
    return halted_;
  }

  void perform(const Context& context, const Task& task) {
    bool worked = study_run_state(task.run.directory, task.run.config) < StudyRunState::trained;
    const double train_share = task.test ? 1 / (1 + weight_of_test) : 1;
    const bool trained = train_study_run(context, task.run.directory, task.run.config, [&](double fraction) {
      return report(task, train_share * fraction);
    });
    if (!trained) {
      halted_ = true;
      return;
    }
    if (task.test) {
      worked |= study_.evaluate_on_test(context, task.run, task.with_null, [&](double fraction) {
        return report(task, train_share + (1 - train_share) * fraction);
      });
    }
    finish(task, worked);
  }

  bool report(const Task& task, double fraction) {
    {
      const std::lock_guard lock(mutex_);
      const auto found = std::find_if(at_work_.begin(), at_work_.end(),
                                      [&](const auto& entry) { return entry.first == task.run.name; });
      if (found == at_work_.end()) {
        at_work_.emplace_back(task.run.name, fraction);
        weights_.push_back(task.weight);
      } else {
        found->second = fraction;
      }
      show();
    }
    return !stopping();
  }

  void finish(const Task& task, bool worked) {
    const std::lock_guard lock(mutex_);
    done_ += task.weight;
    for (std::size_t i = 0; i < at_work_.size(); ++i) {
      if (at_work_[i].first != task.run.name) continue;
      at_work_.erase(at_work_.begin() + static_cast<std::ptrdiff_t>(i));
      weights_.erase(weights_.begin() + static_cast<std::ptrdiff_t>(i));
      break;
    }
    if (worked && observer_.finished) observer_.finished(task.run, study_.result(task.run));
    shown_ = {};
    show();
  }

  void show() {
    const auto now = Clock::now();
    if (!observer_.progress || now - shown_ < std::chrono::milliseconds(100)) return;
    shown_ = now;
    double sum = done_;
    for (std::size_t i = 0; i < at_work_.size(); ++i) sum += weights_[i] * at_work_[i].second;
    observer_.progress(sum / total_, at_work_);
  }

  const Study& study_;
  const StudyObserver& observer_;
  double total_;
  std::atomic<std::size_t> next_{0};
  std::atomic<bool> halted_{false};
  std::mutex mutex_;  // of what follows
  double done_ = 0;
  std::vector<std::pair<std::string, double>> at_work_;
  std::vector<double> weights_;
  Clock::time_point shown_{};
  std::exception_ptr error_;
};

Study::Study(StudyList list, StudyOptions options, const StudyDataOptions& data)
    : list_(std::move(list)),
      options_(std::move(options)),
      seeds_(resolve_seeds(options_.seeds, list_.seeds)),
      workers_(Context({.threads = options_.threads}).threads()) {
  if (options_.windows < 0)
    throw ValueError(fmt::format("[study] --windows: expected at least 0, got {}", options_.windows));
  if (const StudyKind* kind = find_study(list_.name)) probe_ = kind->probe;
  for (std::size_t arm = 0; arm < list_.arms.size(); ++arm) add_arm(arm, data);
  check_lengths();
  choose_null_arms();
  const bool common_text = std::any_of(list_.arms.begin(), list_.arms.end(),
                                       [](const StudyArm& arm) { return arm.data.corpus.empty(); });
  if (!common_text && !data.corpus.empty()) {
    throw ValueError(fmt::format("[study] --corpus: expected none (every arm has a text of its own), got {}",
                                 data.corpus));
  }
  std::vector<StudyTexts> texts;
  for (const Text& text : texts_) texts.emplace_back(text.options, text.longest);
  check_directory();
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (const auto synthetic = texts[i].synthetic()) check_sources(i, *synthetic);
  }

  std::error_code error;
  fs::create_directories(fs::path(options_.directory) / "runs", error);
  if (error) {
    throw IoError(
        fmt::format("[{}] --out: expected a writable place, got {}", options_.directory, error.message()));
  }
  lock_ = std::make_unique<DirectoryLock>(options_.directory);
  for (std::size_t i = 0; i < texts.size(); ++i)
    texts_[i].data = texts[i].place(data_directory(options_.directory, texts_[i].options, data));
  for (std::size_t arm = 0; arm < list_.arms.size(); ++arm) {
    grid_.emplace_back();
    for (const double rate : rates(arm)) {
      grid_[arm].push_back(make_run(arm, rate, 1));
      for (std::int64_t seed = 1; seed <= seeds_; ++seed) {
        const StudyRun run = make_run(arm, rate, seed);
        study_run_state(run.directory, run.config);
      }
    }
  }
  meta::write_file_atomically((fs::path(options_.directory) / "arms.json").string(), arms_json(list_));
}

Study::~Study() = default;

void Study::add_arm(std::size_t arm, const StudyDataOptions& common) {
  StudyArm& description = list_.arms[arm];
  if (description.name.empty()) description.name = description.method;
  configs_.push_back(arm_config(description, options_.arms));
  const StudyDataOptions& own = description.data.corpus.empty() ? common : description.data;
  auto text = std::find_if(texts_.begin(), texts_.end(), [&](const Text& t) { return t.options == own; });
  if (text == texts_.end()) text = texts_.insert(text, Text{own});
  text->longest = std::max(text->longest, configs_[arm].train.seq_len);
  text_of_arm_.push_back(static_cast<std::size_t>(text - texts_.begin()));
}

// Windows of a file are cut into equal pieces for shorter runs; sequences of a language are whole.
void Study::check_lengths() const {
  for (std::size_t arm = 0; arm < configs_.size(); ++arm) {
    const Text& text = texts_[text_of_arm_[arm]];
    const std::int64_t length = configs_[arm].train.seq_len;
    if (is_synthetic(text.options) || text.longest % length == 0) continue;
    throw ValueError(
        fmt::format("[arm '{}'] train.seq_len: expected a divisor of the longest on its corpus, {}, got {}",
                    list_.arms[arm].name, text.longest, length));
  }
}

void Study::choose_null_arms() {
  const auto same_kind = [&](std::size_t a, std::size_t b) {
    return text_of_arm_[a] == text_of_arm_[b] && configs_[a].train.seq_len == configs_[b].train.seq_len;
  };
  for (std::size_t arm = 0; arm < configs_.size(); ++arm) {
    if (!has_controller(configs_[arm]) || !list_.arms[arm].exhibit.empty()) continue;
    const auto found = std::find_if(null_arms_.begin(), null_arms_.end(),
                                    [&](std::size_t other) { return same_kind(arm, other); });
    if (found == null_arms_.end()) {
      null_arms_.push_back(arm);
    } else if (is_bayesian(configs_[arm]) && !is_bayesian(configs_[*found])) {
      *found = arm;
    }
  }
}

bool Study::is_null_arm(std::size_t arm) const {
  return std::find(null_arms_.begin(), null_arms_.end(), arm) != null_arms_.end();
}

// Languages and pools that do not exist or do not fit each other are found before anything is written.
void Study::check_sources(std::size_t text, const StudyData& data) const {
  for (std::size_t arm = 0; arm < configs_.size(); ++arm) {
    if (text_of_arm_[arm] != text) continue;
    meta::Config config = configs_[arm];
    config.data.corpus = data.corpus;
    const auto source = make_run_source(config);
    source->evaluation(config.train.seq_len, 0, 1);
    const std::vector<Need> tags = source->tags();
    if (probe_ != nullptr && probe_->every_byte && probe_->applies(config) &&
        std::find(tags.begin(), tags.end(), Need::unscored) != tags.end()) {
      throw ValueError(fmt::format("[arm '{}'] corpus: expected a text of which every byte is scored, got {}",
                                   list_.arms[arm].name, data.corpus));
    }
  }
}

// A new or empty directory, or that of a study.
void Study::check_directory() const {
  const fs::path path = options_.directory;
  if (options_.directory.empty()) throw ValueError("[study] --out: expected a directory, got none");
  if (!fs::exists(path)) return;
  if (fs::is_directory(path) &&
      (fs::is_empty(path) || fs::exists(path / "arms.json") || fs::exists(path / ".lock")))
    return;
  throw ValueError(fmt::format("[{}] --out: expected a new directory or that of a study, got one in use",
                               options_.directory));
}

std::vector<double> Study::rates(std::size_t arm) const {
  const std::vector<double>& grid = list_.arms[arm].learning_rates;
  return grid.empty() ? std::vector<double>{configs_[arm].train.lr.peak} : grid;
}

StudyRun Study::make_run(std::size_t arm, double learning_rate, std::int64_t seed) const {
  StudyRun run;
  run.arm = arm;
  run.name = fmt::format("{}-lr{}-seed{}", list_.arms[arm].name, learning_rate, seed);
  run.directory = (fs::path(options_.directory) / "runs" / run.name).string();
  run.config = configs_[arm];
  meta::set_field(run.config, "train.lr", fmt::format("{}", learning_rate));
  run.config.train.seed = seed;
  const StudyData& data = texts_[text_of_arm_[arm]].data;
  run.config.data.corpus = data.corpus;
  run.config.data.valid = data.valid;
  meta::resolve(run.config);
  return run;
}

std::int64_t Study::run_count() const {
  std::int64_t count = 0;
  for (std::size_t arm = 0; arm < list_.arms.size(); ++arm)
    count += static_cast<std::int64_t>(grid_[arm].size()) + seeds_ - 1;
  return count;
}

std::vector<Study::Task> Study::grid_tasks() const {
  std::vector<Task> tasks;
  for (const auto& runs : grid_) {
    if (runs.size() < 2) continue;  // nothing to choose
    for (const StudyRun& run : runs) tasks.push_back({run, false, false, training_tokens(run.config)});
  }
  return tasks;
}

// Seed by seed, so that an unfinished study has something to say about every arm.
std::vector<Study::Task> Study::seed_tasks() const {
  std::vector<Task> tasks;
  for (std::int64_t seed = 1; seed <= seeds_; ++seed) {
    for (std::size_t arm = 0; arm < list_.arms.size(); ++arm) {
      const auto best = grid_[arm].size() < 2 ? 0 : best_of_grid(arm);
      if (!best) continue;
      const StudyRun run = make_run(arm, rates(arm)[*best], seed);
      const bool trained = seed == 1 && grid_[arm].size() > 1;
      tasks.push_back(
          {run, true, is_null_arm(arm), training_tokens(run.config) * (weight_of_test + (trained ? 0 : 1))});
    }
  }
  return tasks;
}

double Study::total_weight() const {
  double total = 0;
  for (const auto& runs : grid_) {
    const double one = training_tokens(runs.front().config);
    total +=
        one * (static_cast<double>(runs.size()) + static_cast<double>(seeds_) * (1 + weight_of_test) - 1);
  }
  return total;
}

bool Study::work(const StudyObserver& observer) const {
  Crew crew(*this, observer);
  return crew.work(grid_tasks()) && crew.work(seed_tasks());
}

std::optional<std::size_t> Study::best_of_grid(std::size_t arm) const {
  std::optional<std::size_t> best;
  double lowest = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < grid_[arm].size(); ++i) {
    const StudyRunResult found = result(grid_[arm][i]);
    if (!found.failure.empty() || found.development_nll >= lowest) continue;
    best = i;
    lowest = found.development_nll;
  }
  return best;
}

std::vector<StudyRun> Study::chosen_runs(std::size_t arm) const {
  std::vector<StudyRun> runs;
  const auto best = best_of_grid(arm);
  if (!best) return runs;
  for (std::int64_t seed = 1; seed <= seeds_; ++seed) runs.push_back(make_run(arm, rates(arm)[*best], seed));
  return runs;
}

// Of the longest of the runs on the same file, so that all predict the same bytes.
std::int64_t Study::test_window_bytes(const StudyRun& run) const {
  const Text& text = texts_[text_of_arm_[run.arm]];
  return is_synthetic(text.options) ? run.config.train.seq_len : text.longest;
}

std::int64_t Study::test_windows(const StudyRun& run) const {
  if (options_.windows > 0) return options_.windows;
  const std::int64_t bytes = options_.arms.quick ? quick_test_bytes : test_bytes;
  return std::max<std::int64_t>(1, bytes / test_window_bytes(run));
}

meta::EvaluationText Study::test_text(const DataSource& source, const StudyRun& run) const {
  const std::int64_t length = run.config.train.seq_len, windows = test_windows(run);
  if (is_synthetic(texts_[text_of_arm_[run.arm]].options))
    return evaluation_text(source, source.evaluation(length, 0, windows));
  return aligned_text(source, align_windows(source, test_window_bytes(run), windows), length);
}

// As `dirigo eval` would call it where windows are not cut, so that its files are the same.
std::string Study::test_flags(const StudyRun& run, std::optional<meta::ExpertKind> expert) const {
  const std::string forced = expert ? fmt::format("--expert {} ", meta::expert_name(*expert)) : "";
  const std::string text = fs::path(texts_[text_of_arm_[run.arm]].data.test).filename().string();
  const std::int64_t bytes = test_window_bytes(run);
  const std::string cut = bytes == run.config.train.seq_len ? "" : fmt::format(" ({} bytes each)", bytes);
  return fmt::format("{}--corpus {} --windows {}{}", forced, text, test_windows(run), cut);
}

std::string Study::evaluation_file(const StudyRun& run, meta::RoutingMode mode) const {
  return file_of(run, evaluation_file_name(mode, test_flags(run, {})));
}

std::string Study::probe_file(const StudyRun& run, const StudyProbe& probe) const {
  return file_of(run, result_file_name(std::string(probe.prefix), test_flags(run, {})));
}

const StudyProbe* Study::missing_probe(const StudyRun& run) const {
  if (probe_ == nullptr || !probe_->applies(run.config) || fs::exists(probe_file(run, *probe_)))
    return nullptr;
  return fs::exists(file_of(run, "failed.json")) ? nullptr : probe_;
}

std::vector<Study::Evaluation> Study::missing_evaluations(const StudyRun& run, bool with_null) const {
  using meta::RoutingMode;
  const StudyRunResult found = result(run);
  std::vector<Evaluation> missing;
  if (!found.failure.empty()) return missing;
  if (!found.hard) missing.push_back({RoutingMode::hard, false});
  if (with_null && !found.null_hard) missing.push_back({RoutingMode::hard, true});
  if (is_bayesian(run.config) && !found.gated) missing.push_back({RoutingMode::gated, false});
  if (!is_static(run.config) && !found.soft) missing.push_back({RoutingMode::soft, false});
  return missing;
}

bool Study::evaluate_on_test(const Context& context, const StudyRun& run, bool with_null,
                             const std::function<bool(double)>& progress) const {
  const std::vector<Evaluation> missing = missing_evaluations(run, with_null);
  const StudyProbe* probe = missing_probe(run);
  if (missing.empty() && probe == nullptr) return false;
  const meta::LoadedRun loaded = meta::load_run(context, run.directory);
  const OpenedText text = open_evaluation_text(loaded.description, texts_[text_of_arm_[run.arm]].data.test);
  const meta::EvaluationText windows = test_text(*text.source, run);
  const auto parts = static_cast<double>(missing.size() + (probe != nullptr ? 1 : 0));
  for (std::size_t i = 0; i < missing.size(); ++i) {
    meta::EvaluationOptions options;
    options.routing = missing[i].routing;
    options.deltas = options.routing == meta::RoutingMode::soft && has_controller(run.config);
    if (missing[i].null_router) options.forced_expert = null_expert(*loaded.model);
    options.progress = [&](double fraction) { return progress((static_cast<double>(i) + fraction) / parts); };
    const meta::Evaluation evaluation = meta::evaluate(context, *loaded.model, windows, options);
    const std::string flags = test_flags(run, options.forced_expert);
    meta::write_file_atomically(file_of(run, evaluation_file_name(options.routing, flags)),
                                evaluation_json(evaluation, run.directory, text.label, flags));
  }
  if (probe == nullptr) return true;
  const std::string measured = probe->measure(context, *loaded.model, windows, [&](double fraction) {
    return progress((parts - 1 + fraction) / parts);
  });
  meta::write_file_atomically(probe_file(run, *probe), measured);
  return true;
}

StudyRunResult Study::result(const StudyRun& run) const {
  StudyRunResult result;
  if (fs::exists(file_of(run, "failed.json"))) {
    result.failure = read_failure(run.directory);
    return result;
  }
  const auto test = [&](meta::RoutingMode mode, std::optional<meta::ExpertKind> expert) {
    return read_if_there(file_of(run, evaluation_file_name(mode, test_flags(run, expert))));
  };
  result.development_nll =
      read_evaluation(file_of(run, evaluation_file_name(meta::RoutingMode::hard, ""))).nll;
  result.train_s = training_seconds(run);
  result.soft = test(meta::RoutingMode::soft, {});
  result.hard = test(meta::RoutingMode::hard, {});
  result.gated = test(meta::RoutingMode::gated, {});
  for (int k = 0; k < meta::expert_count && !result.null_hard; ++k)
    result.null_hard = test(meta::RoutingMode::hard, static_cast<meta::ExpertKind>(k));
  return result;
}

}  // namespace dirigo::tools
