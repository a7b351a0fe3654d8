// dirigo report: one offline HTML file about one or several runs.
#include <fmt/format.h>

#include "commands.hpp"
#include "dirigo/meta_attention/run_files.hpp"
#include "report.hpp"

namespace dirigo::tools {

namespace {

struct Arguments {
  std::vector<std::string> runs;
  std::string out;
  int threads = 0;
};

int report_command(const Arguments& a) {
  for (const std::string& run : a.runs)
    meta::read_run_description(run);  // all of them, before the work begins
  const Context context({.threads = a.threads});
  std::vector<ReportRun> runs;
  for (const std::string& run : a.runs) runs.push_back(gather_report(context, run));
  meta::write_file_atomically(a.out, report_html(runs));
  fmt::print("Report: {}\n", a.out);
  return 0;
}

}  // namespace

void add_report(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  Arguments& a = *arguments;
  CLI::App* command = app.add_subcommand("report", "write one HTML file about runs");
  command->add_option("RUN", a.runs, "run directories")->required();
  command->add_option("-o,--out", a.out, "the HTML file")->required();
  command->add_option("--threads", a.threads, "0: as many as help")->capture_default_str();
  command->callback([&run, arguments] { run = [arguments] { return report_command(*arguments); }; });
}

}  // namespace dirigo::tools
