// Timing of several pieces of work against each other on a machine that is not quiet.
#pragma once

#include <functional>
#include <vector>

namespace dirigo::tools {

// One thing to time. `prepare`, if given, runs before every sample and is not timed; a sample is then a
// single run. Without it a sample repeats `run` until it is long enough for the clock.
struct TimedWork {
  std::function<void()> run;
  std::function<void()> prepare = nullptr;
};

// Elapsed time, or processor time of the calling thread: the latter for one thread on a machine that others
// use too.
enum class TimeSource { elapsed, processor };
double now_ms(TimeSource source);

// Milliseconds of one run.
struct Timing {
  double median_ms = 0, min_ms = 0;
  double spread = 0;  // interquartile range over the median
};

Timing summarise(std::vector<double> milliseconds);  // at least one

struct Sampling {
  int rounds = 15;  // samples of each
  TimeSource source = TimeSource::elapsed;
  std::function<void(double)> progress = [](double) {};  // told the fraction that is done
};

// Samples all of `work` in turns, so that a change of the machine's load meets each of them. Caches, memory
// and clock are warmed up before.
std::vector<Timing> time_in_turns(const std::vector<TimedWork>& work, const Sampling& sampling);

}  // namespace dirigo::tools
