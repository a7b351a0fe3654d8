// dirigo eval: held-out quality, routing and what really ran.
#include <fmt/format.h>

#include <filesystem>

#include "commands.hpp"
#include "console.hpp"
#include "dirigo/core/errors.hpp"
#include "evaluate_run.hpp"
#include "evaluation_table.hpp"
#include "routing_arguments.hpp"

namespace dirigo::tools {

namespace {

struct Arguments {
  std::string run;
  std::optional<std::string> corpus;
  RoutingArguments routing;
  std::optional<std::int64_t> seq_len;
  std::int64_t stride = 0, windows = 0;
  std::uint64_t seed = 1;
  int threads = 0;
  bool deltas = false, json = false;
};

// The flags that change what is measured, in one order.
std::string differences(const Arguments& a) {
  std::string flags = a.routing.differences();
  const auto add = [&](const std::string& flag) { flags += (flags.empty() ? "" : " ") + flag; };
  if (a.corpus) add("--corpus " + std::filesystem::path(*a.corpus).filename().string());
  if (a.seq_len) add(fmt::format("--seq-len {}", *a.seq_len));
  if (a.stride > 0) add(fmt::format("--stride {}", a.stride));
  if (a.windows > 0) add(fmt::format("--windows {}", a.windows));
  return flags;
}

std::int64_t window_length(const Arguments& a, const meta::Config& config) {
  const std::int64_t length = a.seq_len.value_or(config.train.seq_len);
  const std::int64_t longest = meta::longest_text(config);
  if (length < 1 || length > longest) {
    throw ValueError(
        config.model.positions == meta::Positions::learned
            ? fmt::format("[eval] --seq-len: expected 1 to the model's max_len = {}, beyond which "
                          "learned positions do not reach, got {}",
                          longest, length)
            : fmt::format("[eval] --seq-len: expected 1 to {}, got {}", longest, length));
  }
  return length;
}

meta::EvaluationOptions evaluation_options(const Arguments& a, const InterruptGuard& interrupt) {
  const meta::ForwardOptions forward = a.routing.options();
  meta::EvaluationOptions options;
  options.routing = forward.routing;
  options.gate = forward.gate;
  options.eta = forward.eta;
  options.forced_expert = forward.forced_expert;
  options.deltas = a.deltas;
  options.seed = a.seed;
  options.progress = [&interrupt, show = is_terminal(stderr)](double fraction) {
    if (show) fmt::print(stderr, "\revaluating {:3.0f}%{}", 100 * fraction, fraction >= 1 ? "\r\x1b[K" : "");
    return !interrupt.raised();
  };
  return options;
}

int evaluate_command(const Arguments& a) {
  const InterruptGuard interrupt;
  const meta::EvaluationOptions options = evaluation_options(a, interrupt);
  const std::int64_t length = window_length(a, meta::read_run_description(a.run).config);
  const Context context({.threads = a.threads});
  const meta::LoadedRun run = meta::load_run(context, a.run);
  const OpenedText text = open_evaluation_text(run.description, a.corpus);
  const meta::EvaluationText windows =
      evaluation_text(*text.source, text.source->evaluation(length, a.stride, a.windows));

  const meta::Evaluation evaluation = meta::evaluate(context, *run.model, windows, options);
  const std::string flags = differences(a);
  const std::string json = evaluation_json(evaluation, a.run, text.label, flags);
  const auto file = std::filesystem::path(a.run) / evaluation_file_name(options.routing, flags);
  meta::write_file_atomically(file.string(), json);
  if (a.json) {
    fmt::print("{}", json);
  } else {
    fmt::print("{}Written to {}\n",
               evaluation_table(evaluation, {a.run, text.label.evaluated_on, text.label.corpus, flags},
                                run.description.config),
               file.string());
  }
  return 0;
}

}  // namespace

void add_eval(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  Arguments& a = *arguments;
  CLI::App* command = app.add_subcommand("eval", "evaluate a run on held-out text");
  command->add_option("RUN", a.run, "run directory")->required();
  command->add_option("--corpus", a.corpus,
                      "another text: a file or synthetic:NAME (default: the run's held-out text)");
  a.routing.add_to(*command);
  command->add_option("--seq-len", a.seq_len, "inputs per window (default: as in training)");
  command->add_option("--stride", a.stride, "distance of window starts (default: no overlap)");
  command->add_option("--windows", a.windows, "only so many, evenly spaced windows");
  command->add_flag("--deltas", a.deltas, "NLL when the routing is permuted, the prior's, or by position");
  command->add_option("--seed", a.seed, "of the permutation")->capture_default_str();
  command->add_option("--threads", a.threads, "0: as many as help")->capture_default_str();
  command->add_flag("--json", a.json, "JSON alone on stdout");
  command->callback([&run, arguments] { run = [arguments] { return evaluate_command(*arguments); }; });
}

}  // namespace dirigo::tools
