// dirigo report: one offline HTML file about one or several runs.
#include <fmt/format.h>

#include "commands.hpp"
#include "dirigo/core/errors.hpp"
#include "dirigo/meta_attention/run_files.hpp"
#include "report.hpp"

namespace dirigo::tools {

namespace {

struct Arguments {
  std::vector<std::string> runs;
  std::string out;
  std::optional<std::int64_t> bytes;
  int threads = 0;
};

int report_command(const Arguments& a) {
  if (a.bytes && (*a.bytes < 0 || *a.bytes > most_report_text_bytes)) {
    throw ValueError(
        fmt::format("[--bytes] number: expected 0 to {}, got {}", most_report_text_bytes, *a.bytes));
  }
  for (const std::string& run : a.runs) {
    if (!is_study(run)) meta::read_run_description(run);  // all of them, before the work begins
  }
  const Context context({.threads = a.threads});
  ReportContent content;
  for (const std::string& run : a.runs) gather_directory(context, run, a.bytes, content);
  meta::write_file_atomically(a.out, report_html(content.runs, content.lead));
  fmt::print("Report: {}\n", a.out);
  return 0;
}

}  // namespace

void add_report(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  Arguments& a = *arguments;
  CLI::App* command = app.add_subcommand("report", "write one HTML file about runs or studies");
  command->add_option("RUN", a.runs, "run directories, or those of studies")->required();
  command->add_option("-o,--out", a.out, "the HTML file")->required();
  command->add_option("--bytes", a.bytes,
                      "Held-out text to show of every run (default: 3000; less for each run of a study)");
  command->add_option("--threads", a.threads, "0: as many as help")->capture_default_str();
  command->callback([&run, arguments] { run = [arguments] { return report_command(*arguments); }; });
}

}  // namespace dirigo::tools
