#include "bench/timing.hpp"

#include <time.h>

#include <algorithm>
#include <cmath>

namespace dirigo::tools {
namespace {

constexpr double sample_ms = 3;  // far above the clock's resolution, below a scheduler's time slice

double run_ms(const TimedWork& work, int repeats, TimeSource source) {
  if (work.prepare) work.prepare();
  const double begin = now_ms(source);
  for (int i = 0; i < repeats; ++i) work.run();
  return (now_ms(source) - begin) / repeats;
}

constexpr double long_ms = 500;  // work that warms itself up

// Runs the work until it is warm, and returns how many runs fill a sample.
int warm_up(const TimedWork& work, TimeSource source) {
  if (run_ms(work, 1, source) > long_ms) return 1;
  const double once = run_ms(work, 1, source);
  if (work.prepare) return 1;
  return int(std::clamp(std::ceil(sample_ms / std::max(once, 1e-6)), 1.0, 1e6));
}

}  // namespace

double now_ms(TimeSource source) {
  timespec time{};
  clock_gettime(source == TimeSource::elapsed ? CLOCK_MONOTONIC : CLOCK_THREAD_CPUTIME_ID, &time);
  return double(time.tv_sec) * 1e3 + double(time.tv_nsec) / 1e6;
}

Timing summarise(std::vector<double> milliseconds) {
  std::sort(milliseconds.begin(), milliseconds.end());
  const std::size_t n = milliseconds.size();
  Timing timing;
  timing.min_ms = milliseconds.front();
  timing.median_ms = (milliseconds[(n - 1) / 2] + milliseconds[n / 2]) / 2;
  timing.spread = (milliseconds[3 * (n - 1) / 4] - milliseconds[(n - 1) / 4]) / timing.median_ms;
  return timing;
}

std::vector<Timing> time_in_turns(const std::vector<TimedWork>& work, const Sampling& sampling) {
  std::vector<int> repeats;
  for (const TimedWork& each : work) repeats.push_back(warm_up(each, sampling.source));
  std::vector<std::vector<double>> samples(work.size());
  for (int round = 0; round < sampling.rounds; ++round) {
    for (std::size_t i = 0; i < work.size(); ++i) {
      samples[i].push_back(run_ms(work[i], repeats[i], sampling.source));
      sampling.progress((round + double(i + 1) / double(work.size())) / sampling.rounds);
    }
  }
  std::vector<Timing> timings;
  for (std::vector<double>& each : samples) timings.push_back(summarise(std::move(each)));
  return timings;
}

}  // namespace dirigo::tools
