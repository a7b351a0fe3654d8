#include "bench/step_profile.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

#include "bench/bench_rows.hpp"
#include "bench/timing.hpp"
#include "table.hpp"

namespace dirigo::tools {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t part_count = 4;
constexpr std::array<const char*, part_count> part_names{"forward", "backward", "optimiser", "overhead"};

double median(std::vector<double> values) {
  return summarise(std::move(values)).median_ms;
}

// What one operation took in each step.
struct OpTimes {
  int calls = 0;  // forward, in one step
  std::vector<double> forward_ms, backward_ms;
  double flops = 0;  // of one step
};

using StepTimes = std::array<std::vector<double>, part_count>;  // ms of each part, by step

StepTimes part_times(const std::vector<std::vector<StepEvent>>& steps) {
  StepTimes times;
  for (const auto& events : steps) {
    std::array<double, part_count> sums{};
    for (const StepEvent& event : events) sums[std::size_t(event.part)] += event.end_ms - event.begin_ms;
    for (std::size_t part = 0; part < part_count; ++part) times[part].push_back(sums[part]);
  }
  return times;
}

std::map<std::string, OpTimes> op_times(const std::vector<std::vector<StepEvent>>& steps) {
  std::map<std::string, OpTimes> ops;
  for (std::size_t step = 0; step < steps.size(); ++step) {
    for (const StepEvent& event : steps[step]) {
      if (event.part != StepEvent::Part::forward && event.part != StepEvent::Part::backward) continue;
      OpTimes& op = ops[event.op];
      const bool forward = event.part == StepEvent::Part::forward;
      op.forward_ms.resize(steps.size());
      op.backward_ms.resize(steps.size());
      (forward ? op.forward_ms : op.backward_ms)[step] += event.end_ms - event.begin_ms;
      if (step > 0) continue;
      op.calls += forward ? 1 : 0;
      op.flops += event.flops;
    }
  }
  return ops;
}

}  // namespace

void StepProfiler::begin_step() {
  nodes_.clear();
  running_node_ = -1;
  steps_.emplace_back();
  last_ms_ = now_ms(source_);
  last_flops_ = double(context_.flops().products + context_.flops().attention);
}

void StepProfiler::end_step() {
  close(StepEvent::Part::overhead, "report");
}

void StepProfiler::close(StepEvent::Part part, std::string op, std::string shape) {
  const double now = now_ms(source_);
  const double flops = double(context_.flops().products + context_.flops().attention);
  steps_.back().push_back({std::move(op), part, last_ms_, now, flops - last_flops_, std::move(shape)});
  last_ms_ = now;
  last_flops_ = flops;
}

// What ran since the last node is taken for this one's; a leaf computes nothing.
void StepProfiler::recorded(std::string_view name, std::span<const Variable> inputs,
                            std::span<const std::int32_t> /*input_nodes*/, const Tensor& value) {
  nodes_.push_back({std::string(name), value.shape().to_string()});
  close(inputs.empty() ? StepEvent::Part::overhead : StepEvent::Part::forward, nodes_.back().op,
        nodes_.back().shape);
}

// A node is passed just before its vjp runs: that ends when the next one is passed.
void StepProfiler::passed(std::int32_t node, const Tensor& /*gradient*/) {
  if (running_node_ < 0) {
    close(StepEvent::Part::overhead, "seed");
  } else {
    const Node& done = nodes_[std::size_t(running_node_)];
    close(done.op == "leaf" ? StepEvent::Part::overhead : StepEvent::Part::backward, done.op, done.shape);
  }
  running_node_ = node;
}

void StepProfiler::finished(Part part) {
  if (part == Part::forward) close(StepEvent::Part::overhead, "after forward");
  if (part == Part::backward) {
    passed(-1, {});
    nodes_.clear();  // the next tape numbers its own
  }
  if (part == Part::optimiser) close(StepEvent::Part::optimiser, "gradient norm and Adam");
}

Json step_profile(const std::vector<std::vector<StepEvent>>& steps) {
  const StepTimes parts = part_times(steps);
  Json profile;
  double total = 0;
  for (std::size_t part = 0; part < part_count; ++part) {
    const double ms = median(parts[part]);
    profile["parts"][fmt::format("{}_ms", part_names[part])] = ms;
    total += ms;
  }
  std::vector<Json> rows;
  for (const auto& [name, op] : op_times(steps)) {
    const double forward = median(op.forward_ms), backward = median(op.backward_ms);
    rows.push_back({{"op", name},
                    {"calls", op.calls},
                    {"forward_ms", forward},
                    {"backward_ms", backward},
                    {"share", (forward + backward) / total},
                    {"gflop", op.flops / 1e9}});
  }
  std::stable_sort(rows.begin(), rows.end(), [](const Json& a, const Json& b) {
    return a["share"].get<double>() > b["share"].get<double>();
  });
  profile["ops"] = rows;
  return profile;
}

std::string step_profile_text(const Json& profile) {
  Table table({"operation", "calls", "forward ms", "backward ms", "of step", "GFLOP/s"});
  const auto cell = [](double ms) { return fmt::format("{:.3f}", ms); };
  for (const Json& op : profile["ops"]) {
    const double forward = op["forward_ms"], backward = op["backward_ms"], gflop = op["gflop"];
    table.add({op["op"].get<std::string>(), fmt::format("{}", op["calls"].get<int>()), cell(forward),
               cell(backward), percent(op["share"]),
               gflop > 0 ? fmt::format("{:.1f}", gflop / (forward + backward) * 1e3) : "-"});
  }
  double total = 0;
  for (const auto& [name, ms] : profile["parts"].items()) total += ms.get<double>();
  const auto share = [&](const char* part) { return percent(profile["parts"][part].get<double>() / total); };
  const auto ms = [&](const char* part) { return cell(profile["parts"][part]); };
  table.add({"all operations", "", ms("forward_ms"), ms("backward_ms"), "", ""});
  table.add({"optimiser", "", ms("optimiser_ms"), "", share("optimiser_ms"), ""});
  table.add({"overhead", "", ms("overhead_ms"), "", share("overhead_ms"), ""});
  return table.text();
}

std::string chrome_trace(const std::vector<std::vector<StepEvent>>& steps, const std::string& title) {
  Json events = Json::array();
  events.push_back(
      {{"name", "process_name"}, {"ph", "M"}, {"pid", 1}, {"tid", 1}, {"args", {{"name", title}}}});
  const double origin = steps.empty() || steps.front().empty() ? 0 : steps.front().front().begin_ms;
  const auto add = [&](const std::string& name, const char* category, double begin_ms, double end_ms,
                       Json args) {
    events.push_back({{"name", name},
                      {"cat", category},
                      {"ph", "X"},
                      {"ts", (begin_ms - origin) * 1000},  // microseconds
                      {"dur", (end_ms - begin_ms) * 1000},
                      {"pid", 1},
                      {"tid", 1},
                      {"args", std::move(args)}});
  };
  for (std::size_t step = 0; step < steps.size(); ++step) {
    if (steps[step].empty()) continue;
    add(fmt::format("step {}", step + 1), "step", steps[step].front().begin_ms, steps[step].back().end_ms,
        Json::object());
    for (const StepEvent& e : steps[step]) {
      const bool backward = e.part == StepEvent::Part::backward;
      add(backward ? e.op + " (vjp)" : e.op, part_names[std::size_t(e.part)], e.begin_ms, e.end_ms,
          {{"shape", e.shape}, {"mflop", e.flops / 1e6}});
    }
  }
  return Json{{"format_version", 1}, {"displayTimeUnit", "ms"}, {"traceEvents", std::move(events)}}.dump() +
         "\n";
}

}  // namespace dirigo::tools
