// dirigo sample: text from a run.
#include <fmt/format.h>

#include <cstdio>

#include "coloured_text.hpp"
#include "commands.hpp"
#include "console.hpp"
#include "data_source.hpp"
#include "generate.hpp"
#include "routing_arguments.hpp"

namespace dirigo::tools {

namespace {

struct Arguments {
  std::string run;
  std::optional<std::string> prompt;
  GenerateOptions generate;
  RoutingArguments routing;
  bool show = false;
  int threads = 0;
};

// The prompt's tokens; without a prompt, a line break (or the first known byte) begins the text.
std::vector<std::int32_t> prompt_tokens(const Arguments& a, const Vocabulary& vocabulary) {
  if (!a.prompt) {
    const auto newline = vocabulary.token('\n');
    return {newline == Vocabulary::kUnknown ? 0 : newline};
  }
  Vocabulary::Encoded encoded = vocabulary.encode(*a.prompt);
  if (encoded.skipped > 0) {
    fmt::print(stderr, "dirigo: sample --prompt: skipped {} bytes that are not in the vocabulary\n",
               encoded.skipped);
  }
  return std::move(encoded.tokens);
}

// As it is into files and pipes; a terminal must not see control bytes.
void put(std::uint8_t byte, bool terminal) {
  const bool control = (byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7F;
  if (terminal && control) {
    fmt::print("\xC2\xB7");
  } else {
    std::putchar(byte);
  }
}

int sample_command(const Arguments& a) {
  const InterruptGuard interrupt;
  GenerateOptions options = a.generate;
  options.forward = a.routing.options();
  const Context context({.threads = a.threads});
  const meta::LoadedRun run = meta::load_run(context, a.run);
  const Vocabulary vocabulary = vocabulary_of(run.description);
  const std::vector<std::int32_t> prompt = prompt_tokens(a, vocabulary);

  const bool colour = use_colour(stdout), terminal = is_terminal(stdout);
  ColouredText shown(colour, terminal_width(stdout), [](std::string_view line) {
    fmt::print("{}", line);
    std::fflush(stdout);
  });
  bool first = true;
  generate(context, *run.model, prompt, options, [&](const GeneratedToken& token) {
    if (interrupt.raised()) return false;
    const bool implied = first && !a.prompt;  // not asked for, not shown
    if (first && a.show) fmt::print("{} (last layer)\n", ColouredText::legend(colour));
    first = false;
    if (implied) return true;
    const std::uint8_t byte = vocabulary.byte(token.token);
    if (a.show) {
      shown.add(byte, token.chosen.empty() ? std::nullopt : std::optional(token.chosen.back()));
    } else {
      put(byte, terminal);
      if (terminal) std::fflush(stdout);
    }
    return true;
  });
  shown.finish();
  if (!a.show) std::putchar('\n');
  return 0;
}

}  // namespace

void add_sample(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  Arguments& a = *arguments;
  CLI::App* command = app.add_subcommand("sample", "write text from a run");
  command->add_option("RUN", a.run, "run directory")->required();
  command->add_option("--prompt", a.prompt,
                      "the text to go on from (default: a line break, which is not printed)");
  command->add_option("--tokens", a.generate.tokens, "how many bytes to write")->capture_default_str();
  command->add_option("--temperature", a.generate.temperature, "0: always the most probable byte")
      ->capture_default_str();
  command->add_option("--top-k", a.generate.top_k, "only from the N most probable bytes; 0: all")
      ->capture_default_str();
  a.routing.add_to(*command);
  command->add_option("--seed", a.generate.seed, "of the draws")->capture_default_str();
  command->add_flag("--show", a.show, "colour the text by expert");
  command->add_option("--threads", a.threads, "0: as many as help")->capture_default_str();
  command->callback([&run, arguments] { run = [arguments] { return sample_command(*arguments); }; });
}

}  // namespace dirigo::tools
