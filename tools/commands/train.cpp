// dirigo train: from a configuration and a text to a run directory.
#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "commands.hpp"
#include "console.hpp"
#include "dirigo/core/errors.hpp"
#include "evaluation_table.hpp"
#include "generate.hpp"
#include "progress.hpp"
#include "trainer.hpp"
#include "training_run.hpp"
#include "training_summary.hpp"
#include "version.hpp"

namespace dirigo::tools {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr std::int64_t max_config_bytes = 16 << 20;
constexpr std::int64_t sample_prompt = 32, sample_tokens = 160;

// Flags that are short for --set KEY=VALUE, and that a resumed run has already.
const std::vector<std::pair<std::string, std::string>> field_flags{
    {"--corpus", "data.corpus"}, {"--train-bytes", "data.train_bytes"},
    {"--valid", "data.valid"},   {"--steps", "train.steps"},
    {"--seed", "train.seed"},    {"--eval-every", "train.eval_every"}};

struct TrainArguments {
  std::string preset, config_file, resume, out;
  std::vector<std::string> settings;
  std::vector<std::string> fields = std::vector<std::string>(field_flags.size());  // values of field_flags
  std::vector<CLI::Option*> fixed_when_resuming;
  int threads = 0;
  std::int64_t sample_every = 0;
  bool json = false;
};

// A configuration file: the sections alone, or the config.json of a run.
meta::Config read_config(const std::string& path) {
  const std::string text = meta::read_text_file(path, max_config_bytes);
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_object() && json.contains("config")) return meta::config_from_json(json["config"].dump(), path);
  return meta::config_from_json(text, path);
}

// Preset or file, then --set in order, then the dedicated flags.
meta::Config resolve_config(const TrainArguments& arguments) {
  if (arguments.preset.empty() == arguments.config_file.empty()) {
    const bool none = arguments.preset.empty();
    throw ValueError(fmt::format("[train] start: expected one of --preset, --config, --resume, got {}",
                                 none ? "none" : "both --preset and --config"));
  }
  meta::Config config =
      arguments.config_file.empty() ? meta::preset(arguments.preset) : read_config(arguments.config_file);
  for (const std::string& setting : arguments.settings) {
    const std::size_t equals = setting.find('=');
    if (equals == std::string::npos) {
      throw ValueError(fmt::format("[train] --set: expected KEY=VALUE, got '{}'", setting));
    }
    meta::set_field(config, setting.substr(0, equals), setting.substr(equals + 1));
  }
  for (std::size_t i = 0; i < field_flags.size(); ++i) {
    if (!arguments.fields[i].empty()) meta::set_field(config, field_flags[i].second, arguments.fields[i]);
  }
  meta::resolve(config);
  return config;
}

// runs/PRESET-N with the first N that is free, or the directory asked for, which must be new or empty.
std::string choose_directory(const TrainArguments& arguments, const meta::Config& config) {
  if (arguments.out.empty()) {
    for (int number = 1;; ++number) {
      const std::string path =
          fmt::format("runs/{}-{}", config.preset.empty() ? "run" : config.preset, number);
      if (!fs::exists(path)) return path;
    }
  }
  std::error_code error;
  if (fs::exists(arguments.out, error) && !fs::is_empty(arguments.out, error)) {
    throw ValueError(fmt::format(
        "[{}] --out: expected a new or empty directory (or --resume), got one in use", arguments.out));
  }
  return arguments.out;
}

TrainingPlan plan_new(const TrainArguments& arguments) {
  const meta::Config config = resolve_config(arguments);
  return plan_new_run(config, choose_directory(arguments, config));
}

TrainingPlan plan_resumed(const TrainArguments& arguments) {
  for (const CLI::Option* option : arguments.fixed_when_resuming) {
    if (option->count() == 0) continue;
    throw ValueError(
        fmt::format("[train] --resume: expected no other option than --threads, --sample-every and "
                    "--json, got {}",
                    option->get_name()));
  }
  return plan_resumed_run(arguments.resume);
}

// What the first steps cost, for an estimate of them all.
class CostEstimate {
 public:
  CostEstimate(const Context& context, std::int64_t steps) : context_(context), steps_(steps) {}

  // The line to print, once: after the third step, since the first one also allocates.
  std::string after_step() {
    ++seen_;
    if (seen_ == 1) {
      begin_ = Clock::now();
      flops_ = flops_so_far();
    }
    if (seen_ != 1 + timed_steps) return "";
    const double seconds = std::chrono::duration<double>(Clock::now() - begin_).count() / timed_steps;
    const double flops = (flops_so_far() - flops_) / timed_steps;
    const auto memory = static_cast<double>(context_.allocator()->statistics().peak_bytes_in_use);
    return fmt::format(
        "Estimated: {}FLOP per step ({}FLOP/s), {:.3g} ms per step, {} for {} steps, {}B of tensors\n",
        count_text(flops), count_text(flops / seconds), 1000 * seconds,
        duration_text(seconds * static_cast<double>(steps_)), steps_, count_text(memory));
  }

 private:
  static constexpr int timed_steps = 2;
  double flops_so_far() const {
    const FlopCounter& flops = context_.flops();
    return static_cast<double>(flops.products + flops.attention);
  }

  const Context& context_;
  std::int64_t steps_;
  std::int64_t seen_ = 0;
  Clock::time_point begin_;
  double flops_ = 0;
};

// A short continuation of the first held-out bytes.
std::string sample_text(const Context& context, Trainer& trainer, const DataSource& source) {
  const meta::Config& config = trainer.model().config();
  const std::int64_t length = std::min(sample_prompt, config.train.seq_len);
  const Batch batch = source.evaluation(length, 0, 1).batch(0, 1);
  GenerateOptions options;
  options.tokens = sample_tokens;
  options.temperature = 0.8;
  options.seed = static_cast<std::uint64_t>(trainer.state().step);
  std::vector<std::int32_t> tokens;
  generate(context, trainer.model(), batch.inputs, options, [&](const GeneratedToken& token) {
    tokens.push_back(token.token);
    return true;
  });
  return fmt::format("  | {}\n", one_line(source.vocabulary().decode(tokens)));
}

// Trains until the end or Ctrl-C; whether it is done.
bool train(const Context& context, Trainer& trainer, const TrainingPlan& plan, std::int64_t sample_every,
           std::FILE* out) {
  const meta::TrainConfig& config = plan.description.config.train;
  const InterruptGuard interrupt;
  CostEstimate cost(context, config.steps - trainer.state().step);
  Progress progress(out, trainer.state().step, config.steps, config.batch * config.seq_len);
  return trainer.train([&](const Trainer::Progress& step) {
    if (const std::string line = cost.after_step(); !line.empty()) progress.print(line);
    if (!step.event.empty()) progress.print("  " + step.event + "\n");
    progress.update(step.report, step.valid_nll);
    if (sample_every > 0 && step.report.step % sample_every == 0) {
      progress.print(sample_text(context, trainer, *plan.source));
    }
    return !interrupt.raised();
  });
}

meta::Evaluation evaluate_in_the_end(const Context& context, Trainer& trainer, const TrainingPlan& plan,
                                     meta::RoutingMode routing, std::FILE* out) {
  ProgressNote note(out, fmt::format("evaluating, {} routing", meta::name_of(routing)));
  return final_evaluation(context, trainer.model(), plan, routing, [&](double fraction) {
    note.update(fraction);
    return true;
  });
}

void print_results(std::FILE* out, const meta::Evaluation& soft, const meta::Evaluation& hard,
                   std::int64_t windows) {
  fmt::print(out, "\nHeld-out text: {} bytes in {} windows of {}{}", soft.tokens, soft.tokens / soft.seq_len,
             soft.seq_len,
             windows > final_windows ? fmt::format(" (of {}; `dirigo eval` reads all)", windows) : "");
  if (soft.skipped_bytes > 0) fmt::print(out, "; {} unknown bytes skipped", soft.skipped_bytes);
  if (soft.entropy_floor) fmt::print(out, "; entropy floor {:.4f} nats", *soft.entropy_floor);
  if (soft.reads_the_future) fmt::print(out, "\n{}", reads_the_future_note);
  fmt::print(out, "\n\n{}", evaluation_table({{"this run, soft", &soft}, {"this run, hard", &hard}}).text());
  if (hard.by_need.empty()) return;
  fmt::print(out, "\nBy what predicting the next byte needs (hard routing; experts of the last layer):\n{}",
             need_table(hard).text());
}

Json result_json(const TrainingPlan& plan, const Trainer& trainer, bool done) {
  Json json;
  json["format_version"] = 1;
  json["run"] = plan.directory;
  json["step"] = trainer.state().step;
  json["steps"] = plan.description.config.train.steps;
  json["done"] = done;
  json["best_valid_nll"] =
      trainer.state().best_valid_nll ? Json(*trainer.state().best_valid_nll) : Json(nullptr);
  return json;
}

int run_train(const TrainArguments& arguments) {
  if (arguments.sample_every < 0) {
    throw ValueError(
        fmt::format("[train] --sample-every: expected at least 0, got {}", arguments.sample_every));
  }
  Context::Options context_options;
  context_options.threads = arguments.threads;
  const Context context(context_options);
  const bool resuming = !arguments.resume.empty();
  const TrainingPlan plan = resuming ? plan_resumed(arguments) : plan_new(arguments);
  const meta::Config& config = plan.description.config;
  if (config.attention.leaky && arguments.sample_every > 0) {
    throw ValueError("[train] --sample-every: expected 0 with attention.leaky, which reads the future, got " +
                     std::to_string(arguments.sample_every));
  }
  Trainer trainer(context, plan.description, *plan.source, plan.directory);
  resuming ? trainer.resume() : trainer.start();

  std::FILE* out = arguments.json ? stderr : stdout;  // --json: stdout carries JSON alone
  fmt::print(out, "dirigo {} trains {}{} (threads {}, {})\n", version(), plan.directory,
             resuming ? fmt::format(" on from step {}", trainer.state().step) : "", context.threads(),
             isa_name(context.isa()));
  fmt::print(out, "{}{}", configuration_text(config), parameters_text(trainer.model()));
  std::fflush(out);

  const bool done = train(context, trainer, plan, arguments.sample_every, out);
  Json result = result_json(plan, trainer, done);
  if (done) {
    const auto soft = evaluate_in_the_end(context, trainer, plan, meta::RoutingMode::soft, out);
    const auto hard = evaluate_in_the_end(context, trainer, plan, meta::RoutingMode::hard, out);
    print_results(out, soft, hard, plan.source->evaluation(config.train.seq_len).windows());
    result["soft"] = Json::parse(meta::to_json(soft));
    result["hard"] = Json::parse(meta::to_json(hard));
    fmt::print(out, "\nThe run is in {}\n", plan.directory);
  } else {
    fmt::print(out,
               "Interrupted: everything up to step {} is saved. Go on with\n  dirigo train --resume {}\n",
               trainer.state().step, plan.directory);
  }
  if (arguments.json) fmt::print("{}\n", result.dump(2));
  return 0;
}

}  // namespace

void add_train(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("train", "Train a language model on a text");
  const auto arguments = std::make_shared<TrainArguments>();
  auto& fixed = arguments->fixed_when_resuming;
  fixed.push_back(command->add_option("--preset", arguments->preset,
                                      fmt::format("Start from: {}", fmt::join(meta::preset_names(), ", "))));
  fixed.push_back(command->add_option(
      "--config", arguments->config_file,
      "Start from a JSON file with sections model, attention, ...; or a run's config.json"));
  command->add_option("--resume", arguments->resume, "Go on with an interrupted run (a directory)");
  fixed.push_back(command
                      ->add_option("--set", arguments->settings,
                                   "KEY=VALUE: set a field, e.g. train.lr=0.002 (repeatable)")
                      ->expected(1)
                      ->take_all());
  const std::vector<std::string> helps{
      "Text to learn: a file, or synthetic:recall, synthetic:fables (?option=value&...)",
      "Train on the first so many bytes of the corpus only",
      "Held-out text (default: the last tenth of the corpus)",
      "Training steps",
      "Seed of weights, batches, dropout and samples",
      "Evaluate every so many steps, and keep the best weights"};
  for (std::size_t i = 0; i < field_flags.size(); ++i) {
    fixed.push_back(command->add_option(field_flags[i].first, arguments->fields[i], helps[i]));
  }
  command->add_option("--threads", arguments->threads, "Threads (default: what this process may use)");
  command->add_option("--sample-every", arguments->sample_every, "Show generated text every so many steps");
  fixed.push_back(
      command->add_option("--out", arguments->out, "Directory of the run (default: runs/PRESET-N)"));
  for (CLI::Option* option : fixed) {
    if (option->get_lnames().front() != "set") option->take_last();
  }
  command->add_flag("--json", arguments->json, "Print the result as JSON on stdout, all else on stderr");
  command->footer(
      "Example: dirigo train --preset tiny --corpus corpus.txt --set train.seq_len=512 --out runs/tiny");
  command->callback([arguments, &run] { run = [arguments] { return run_train(*arguments); }; });
}

}  // namespace dirigo::tools
