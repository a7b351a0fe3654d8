#include "progress.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "console.hpp"

namespace dirigo::tools {
namespace {

constexpr const char* erase_line = "\r\x1b[K";

double seconds_between(std::chrono::steady_clock::time_point begin,
                       std::chrono::steady_clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

// Shares of tokens whose largest weight is each expert's, mean over layers: "full 3% linear 60% local 37%".
std::string routing_mix(const StepReport& report) {
  std::string text;
  for (std::size_t k = 0; k < meta::expert_count; ++k) {
    double share = 0;
    for (const auto& layer : report.routing)
      share += layer.fraction_argmax[k] / static_cast<double>(report.routing.size());
    text += fmt::format("{}{} {:.0f}%", k == 0 ? "" : " ",
                        meta::expert_name(static_cast<meta::ExpertKind>(k)), 100 * share);
  }
  return text;
}

}  // namespace

std::string duration_text(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::llround(std::max(0.0, seconds)));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60);
}

std::string count_text(double number) {
  constexpr std::array<const char*, 5> units{"", " k", " M", " G", " T"};
  std::size_t unit = 0;
  for (; std::abs(number) >= 1000 && unit + 1 < units.size(); ++unit) number /= 1000;
  return unit == 0 ? fmt::format("{:.0f}", number) : fmt::format("{:.1f}{}", number, units[unit]);
}

Progress::Progress(std::FILE* out, std::int64_t first_step, std::int64_t steps, std::int64_t tokens_per_step)
    : out_(out),
      live_(is_terminal(out)),
      first_step_(first_step),
      steps_(steps),
      tokens_per_step_(tokens_per_step),
      begin_(Clock::now()),
      shown_(begin_),
      shown_step_(first_step) {}

Progress::~Progress() {
  if (on_screen_) fmt::print(out_, "\n");
}

bool Progress::is_due(std::int64_t step) const {
  const double seconds = seconds_between(shown_, Clock::now());
  if (step == steps_) return true;
  if (live_) return seconds > 0.1;
  return seconds > 20 || (step - shown_step_) * 20 >= steps_;
}

void Progress::update(const StepReport& report, std::optional<double> valid_nll) {
  if (valid_nll) valid_nll_ = valid_nll;
  if (!is_due(report.step)) return;
  shown_ = Clock::now();
  shown_step_ = report.step;
  const std::string text = line(report);
  if (live_) {
    const auto width = static_cast<std::size_t>(terminal_width(out_) - 1);
    fmt::print(out_, "{}{}", erase_line, text.substr(0, width));
    on_screen_ = true;
  } else {
    fmt::print(out_, "{}\n", text);
  }
  std::fflush(out_);
}

void Progress::print(const std::string& lines) {
  erase();
  fmt::print(out_, "{}", lines);
  std::fflush(out_);
}

void Progress::erase() {
  if (on_screen_) fmt::print(out_, "{}", erase_line);
  on_screen_ = false;
}

std::string Progress::line(const StepReport& report) const {
  const auto done = static_cast<double>(report.step - first_step_);
  const double seconds = seconds_between(begin_, Clock::now());
  const double left = seconds / done * static_cast<double>(steps_ - report.step);
  // What a narrow terminal cuts off comes last.
  std::string text = fmt::format("step {:>{}}/{}  {} left  loss {:.4f}", report.step,
                                 fmt::formatted_size("{}", steps_), steps_, duration_text(left), report.loss);
  if (valid_nll_) text += fmt::format("  held-out {:.4f}", *valid_nll_);
  if (report.kl) text += fmt::format("  KL {:.4f}", *report.kl);
  return text + fmt::format("  {}  {} tokens/s", routing_mix(report),
                            count_text(done * static_cast<double>(tokens_per_step_) / seconds));
}

ProgressNote::ProgressNote(std::FILE* out, std::string what)
    : out_(out), what_(std::move(what)), live_(is_terminal(out)) {}

ProgressNote::~ProgressNote() {
  clear();
}

void ProgressNote::clear() {
  if (!live_) return;
  fmt::print(out_, "{}", erase_line);
  std::fflush(out_);
}

void ProgressNote::update(double fraction) {
  if (!live_) return;
  fmt::print(out_, "{}{} {:3.0f}%", erase_line, what_, 100 * fraction);
  std::fflush(out_);
}

}  // namespace dirigo::tools
