// dirigo: the command line. Exit codes: 0 done; 1 failed while running; 2 unusable arguments or input.
#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "commands.hpp"
#include "console.hpp"
#include "dirigo/core/errors.hpp"
#include "dirigo/core/suggest.hpp"
#include "version.hpp"

namespace dirigo::tools {
namespace {

constexpr int unusable = 2;

int fail(int code, const std::string& message) {
  fmt::print(stderr, "dirigo: {}\n", one_line(message));
  return code;
}

std::vector<std::string> command_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(command->get_name());
  }
  return names;
}

// CLI11 would report an unknown command as an unexpected argument: say what there is instead.
void check_command(const CLI::App& app, int argc, char** argv) {
  const std::vector<std::string> names = command_names(app);
  const std::string expected = fmt::format("command: expected one of {}", fmt::join(names, ", "));
  if (argc < 2) throw ValueError(expected + ", got none (try dirigo --help)");
  const std::string word = argv[1];
  if (word.rfind('-', 0) == 0) return;
  for (const std::string& name : names) {
    if (name == word) return;
  }
  throw ValueError(fmt::format("{}, got '{}'{}", expected, word, did_you_mean(word, names)));
}

// An argument that no option takes: names the nearest option.
std::string describe_extras(const CLI::App& app) {
  for (const CLI::App* command : app.get_subcommands()) {
    std::vector<std::string> known{"--help"};
    for (const CLI::Option* option : command->get_options()) {
      for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
    }
    const std::vector<std::string> extras = command->remaining(true);
    if (extras.empty()) continue;
    const std::string& extra = extras.front();
    return fmt::format("{}: expected the arguments of 'dirigo {} --help', got '{}'{}", command->get_name(),
                       command->get_name(), extra, did_you_mean(extra.substr(0, extra.find('=')), known));
  }
  const std::vector<std::string> extras = app.remaining();
  return fmt::format("arguments: expected those of 'dirigo --help', got '{}'", fmt::join(extras, " "));
}

int run(int argc, char** argv) {
  CLI::App app{"Dirigo: language models that choose their attention mechanism per token.", "dirigo"};
  app.set_version_flag("--version", fmt::format("dirigo {}", version()));
  app.footer(
      "Example: dirigo train --preset quickstart --out runs/first && dirigo eval runs/first --routing hard");
  app.require_subcommand(1);
  Run work;
  add_train(app, work);
  add_eval(app, work);
  add_score(app, work);
  add_sample(app, work);
  add_report(app, work);
  add_info(app, work);
  add_bench(app, work);
  add_audit(app, work);
  add_trace(app, work);
  add_compare(app, work);
  add_study(app, work);

  try {
    check_command(app, argc, argv);
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    return app.exit(success);
  } catch (const CLI::ExtrasError&) {
    return fail(unusable, describe_extras(app));
  } catch (const CLI::ParseError& error) {
    const auto commands = app.get_subcommands();
    const std::string command = commands.empty() ? "" : commands.front()->get_name() + " ";
    return fail(unusable,
                fmt::format("arguments: expected those of 'dirigo {}--help', got an unusable one: {}",
                            command, error.what()));
  }
  return work();
}

}  // namespace
}  // namespace dirigo::tools

int main(int argc, char** argv) {
  using namespace dirigo;
  using tools::fail;
  try {
    return tools::run(argc, argv);
  } catch (const ValueError& error) {
    return fail(tools::unusable, error.what());
  } catch (const IoError& error) {
    return fail(tools::unusable, error.what());
  } catch (const ShapeError& error) {
    return fail(tools::unusable, error.what());
  } catch (const std::bad_alloc&) {
    return fail(1, "memory: expected enough for this model and batch, got none left");
  } catch (const std::exception& error) {
    return fail(1, error.what());
  }
}
