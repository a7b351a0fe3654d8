// dirigo score: the NLL of every byte of a text and the routing behind it, as JSON lines or in colour.
#include <fmt/format.h>

#include "coloured_text.hpp"
#include "commands.hpp"
#include "console.hpp"
#include "dirigo/core/errors.hpp"
#include "dirigo/data/corpus.hpp"
#include "dirigo/meta_attention/evaluation.hpp"
#include "dirigo/meta_attention/run_files.hpp"
#include "dirigo/meta_attention/score.hpp"
#include "line_file.hpp"
#include "routing_arguments.hpp"

namespace dirigo::tools {

namespace {

struct Arguments {
  std::string run, text;
  std::optional<std::string> out;
  bool show = false;
  std::optional<std::int64_t> layer;
  RoutingArguments routing;
  int threads = 0;
};

using Emit = std::function<void(const meta::ByteScore&)>;

// Called for every byte: what a long text costs is known only here, so this is where Ctrl-C is seen.
Emit unless_interrupted(const InterruptGuard& interrupt, Emit emit) {
  return [&interrupt, emit = std::move(emit)](const meta::ByteScore& score) {
    if (interrupt.raised()) throw meta::Interrupted("[score] stopped before the end");
    emit(score);
  };
}

void check(const Arguments& a, const meta::Config& config) {
  if (a.show == a.out.has_value()) {
    throw ValueError(fmt::format("[score] output: expected either --out FILE or --show, got {}",
                                 a.show ? "both" : "none"));
  }
  if (config.attention.leaky) {  // before the first line of output
    throw ValueError("[score] attention.leaky: expected a model that does not read the future, got one");
  }
  if (a.layer && (*a.layer < 0 || *a.layer >= config.model.layers)) {
    throw ValueError(
        fmt::format("[score] --layer: expected 0 to {}, got {}", config.model.layers - 1, *a.layer));
  }
}

int score_command(const Arguments& a) {
  const InterruptGuard interrupt;
  const meta::ForwardOptions options = a.routing.options();
  check(a, meta::read_run_description(a.run).config);
  const MappedFile text(a.text);
  const Context context({.threads = a.threads});
  const meta::LoadedRun run = meta::load_run(context, a.run);
  const auto score = [&](Emit emit) {
    meta::score_text(context, *run.model, run.description.vocabulary, text.bytes(), options,
                     unless_interrupted(interrupt, std::move(emit)));
  };

  if (a.out) {
    LineFile file(*a.out);
    score([&](const meta::ByteScore& byte) { file.add(meta::to_json_line(byte)); });
    file.commit();
    return 0;
  }
  const auto layer = std::size_t(a.layer.value_or(run.description.config.model.layers - 1));
  const bool colour = use_colour(stdout);
  fmt::print("{} (layer {})\n", ColouredText::legend(colour), layer);
  ColouredText shown(colour, terminal_width(stdout), [](std::string_view line) { fmt::print("{}", line); });
  score([&](const meta::ByteScore& byte) {
    shown.add(byte.byte, byte.layers.empty() ? std::nullopt : std::optional(byte.layers[layer].chosen));
  });
  shown.finish();
  return 0;
}

}  // namespace

void add_score(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  Arguments& a = *arguments;
  CLI::App* command = app.add_subcommand("score", "score a text byte by byte, with the routing");
  command->add_option("RUN", a.run, "run directory")->required();
  command->add_option("--text", a.text, "the file to score")->required();
  command->add_option("--out", a.out, "write one JSON object per byte to this file");
  command->add_flag("--show", a.show, "print the text coloured by expert");
  command->add_option("--layer", a.layer, "whose routing --show shows (default: the last)");
  a.routing.add_to(*command);
  command->add_option("--threads", a.threads, "0: as many as help")->capture_default_str();
  command->callback([&run, arguments] { run = [arguments] { return score_command(*arguments); }; });
}

}  // namespace dirigo::tools
