// Progress of a training run: one live line on a terminal, a plain line now and then elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>

#include "training_step.hpp"

namespace dirigo::tools {

std::string duration_text(double seconds);  // "8 s", "2 min 10 s", "1 h 05 min"
std::string count_text(double number);      // "950", "52.1 k", "1.2 M", "3.4 G", "5.6 T"

class Progress {
 public:
  Progress(std::FILE* out, std::int64_t first_step, std::int64_t steps, std::int64_t tokens_per_step);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(const StepReport& report, std::optional<double> valid_nll);
  // Prints whole lines without disturbing the live one.
  void print(const std::string& lines);

 private:
  using Clock = std::chrono::steady_clock;
  std::string line(const StepReport& report) const;
  bool is_due(std::int64_t step) const;
  void erase();

  std::FILE* out_;
  bool live_;
  std::int64_t first_step_, steps_, tokens_per_step_;
  Clock::time_point begin_, shown_;
  std::int64_t shown_step_;
  std::optional<double> valid_nll_;
  bool on_screen_ = false;
};

// A line that shows how far a part of the work is, on a terminal only; it disappears with the object.
class ProgressNote {
 public:
  ProgressNote(std::FILE* out, std::string what);
  ~ProgressNote();
  ProgressNote(const ProgressNote&) = delete;
  ProgressNote& operator=(const ProgressNote&) = delete;

  void update(double fraction);
  void clear();

 private:
  std::FILE* out_;
  std::string what_;
  bool live_;
};

}  // namespace dirigo::tools
