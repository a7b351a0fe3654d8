// The subcommands of `dirigo`, one file each.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace dirigo::tools {

// What the command line asks for: runs the subcommand and returns the exit code. Errors are thrown (main.cpp
// turns them into one line and an exit code).
using Run = std::function<int()>;

// Each adds its subcommand to `app`; parsing it puts the subcommand's work into `run`.
void add_train(CLI::App& app, Run& run);
void add_eval(CLI::App& app, Run& run);
void add_score(CLI::App& app, Run& run);
void add_sample(CLI::App& app, Run& run);
void add_report(CLI::App& app, Run& run);
void add_info(CLI::App& app, Run& run);
void add_bench(CLI::App& app, Run& run);
void add_audit(CLI::App& app, Run& run);
void add_trace(CLI::App& app, Run& run);
void add_compare(CLI::App& app, Run& run);
void add_study(CLI::App& app, Run& run);

}  // namespace dirigo::tools
