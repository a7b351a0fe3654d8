// dirigo compare: runs against each other on the same held-out bytes.
#include <fmt/format.h>

#include "commands.hpp"
#include "compare_runs.hpp"
#include "console.hpp"
#include "progress.hpp"
#include "routing_arguments.hpp"

namespace dirigo::tools {

namespace {

struct Arguments {
  std::vector<std::string> runs;
  std::optional<std::string> corpus;
  RoutingArguments routing;
  std::int64_t windows = 0;
  std::uint64_t seed = 1;
  int threads = 0;
  bool json = false;
};

int compare_command(const Arguments& a) {
  const InterruptGuard interrupt;
  const meta::ForwardOptions forward = a.routing.options();
  ProgressNote note(stderr, "evaluating");
  ComparisonOptions options;
  options.corpus = a.corpus;
  options.windows = a.windows;
  options.evaluation.routing = forward.routing;
  options.evaluation.gate = forward.gate;
  options.evaluation.eta = forward.eta;
  options.evaluation.forced_expert = forward.forced_expert;
  options.evaluation.seed = a.seed;
  options.evaluation.progress = [&](double fraction) {
    note.update(fraction);
    return !interrupt.raised();
  };
  const Context context({.threads = a.threads});
  const Comparison comparison = compare_runs(context, a.runs, options);
  note.clear();
  fmt::print("{}", a.json ? comparison_json(comparison, options) : comparison_table(comparison));
  return 0;
}

}  // namespace

void add_compare(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  Arguments& a = *arguments;
  a.routing.routing = "hard";
  CLI::App* command = app.add_subcommand("compare", "compare runs on the same held-out bytes");
  command->add_option("RUN", a.runs, "run directories; differences are to the first")->required();
  command->add_option("--corpus", a.corpus,
                      "another text: a file or synthetic:NAME (default: the runs' held-out text)");
  a.routing.add_to(*command);
  command->add_option("--windows", a.windows, "only so many, evenly spaced windows");
  command->add_option("--seed", a.seed, "of the bootstrap")->capture_default_str();
  command->add_option("--threads", a.threads, "0: as many as help")->capture_default_str();
  command->add_flag("--json", a.json, "JSON alone on stdout");
  command->footer("Example: dirigo compare runs/static-full runs/routed --routing hard");
  command->callback([&run, arguments] { run = [arguments] { return compare_command(*arguments); }; });
}

}  // namespace dirigo::tools
