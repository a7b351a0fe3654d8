// How many threads are worth using on this machine (Linux).
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>
#include <thread>
#include <utility>

#include "dirigo/core/context.hpp"

namespace dirigo {
namespace {

namespace fs = std::filesystem;

template <class T>
std::optional<T> read_value(const fs::path& path) {
  std::ifstream file(path);
  T value;
  if (file >> value) return value;
  return std::nullopt;
}

// Distinct (package, core) pairs of the processors; hyperthreads share one.
int physical_cores() {
  std::set<std::pair<int, int>> cores;
  std::error_code error;
  for (const fs::directory_entry& cpu : fs::directory_iterator("/sys/devices/system/cpu", error)) {
    const auto package = read_value<int>(cpu.path() / "topology/physical_package_id");
    const auto core = read_value<int>(cpu.path() / "topology/core_id");
    if (package && core) cores.emplace(*package, *core);
  }
  if (!cores.empty()) return int(cores.size());
  return std::max(1, int(std::thread::hardware_concurrency()));
}

std::optional<int> affinity() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return std::nullopt;
  return std::max(1, CPU_COUNT(&set));
}

// The quota in processors that one control-group directory sets, if any.
std::optional<double> quota_of(const fs::path& directory) {
  std::ifstream v2(directory / "cpu.max");  // "max 100000" or "QUOTA PERIOD"
  double quota = 0, period = 0;
  if (v2 >> quota >> period && period > 0) return quota / period;
  const auto v1_quota = read_value<double>(directory / "cpu.cfs_quota_us");  // -1: none
  const auto v1_period = read_value<double>(directory / "cpu.cfs_period_us");
  if (v1_quota && v1_period && *v1_quota > 0 && *v1_period > 0) return *v1_quota / *v1_period;
  return std::nullopt;
}

// The floor of the least quota among this process's control group and its ancestors.
std::optional<int> cgroup_quota() {
  std::optional<double> least;
  std::ifstream groups("/proc/self/cgroup");  // lines "ID:CONTROLLERS:/PATH"
  for (std::string line; std::getline(groups, line);) {
    std::istringstream fields(line);
    std::string id, controllers, path;
    if (!std::getline(fields, id, ':') || !std::getline(fields, controllers, ':') ||
        !std::getline(fields, path))
      continue;
    fs::path mount;
    if (controllers.empty()) {
      mount = "/sys/fs/cgroup";
    } else if ((',' + controllers + ',').find(",cpu,") != std::string::npos) {
      mount = "/sys/fs/cgroup/cpu";
    } else {
      continue;
    }
    // Inside a container the path may be the host's; the mount itself is then ours.
    for (fs::path group = fs::path(path).relative_path();; group = group.parent_path()) {
      if (const auto quota = quota_of(mount / group)) least = std::min(least.value_or(*quota), *quota);
      if (group.empty()) break;
    }
  }
  if (!least) return std::nullopt;
  return std::max(1, int(std::floor(*least)));
}

}  // namespace

ThreadLimit thread_limit() {
  ThreadLimit limit{physical_cores(), "physical cores"};
  if (const auto threads = affinity(); threads && *threads < limit.threads) limit = {*threads, "affinity"};
  if (const auto threads = cgroup_quota(); threads && *threads < limit.threads) {
    limit = {*threads, "cgroup quota"};
  }
  return limit;
}

}  // namespace dirigo
