// Where the time of a training step goes, operation by operation.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench/timing.hpp"
#include "training_step.hpp"

namespace dirigo::tools {

// A stretch of a step, as seen by the thread that runs it. The stretches of a step leave no gaps, so that a
// part's stretches add up to the part.
struct StepEvent {
  enum class Part : std::uint8_t { forward, backward, optimiser, overhead };
  std::string op;
  Part part = Part::forward;
  double begin_ms = 0, end_ms = 0;  // by the source's clock
  double flops = 0;
  std::string shape;  // of the operation's value
};

class StepProfiler : public StepObserver {
 public:
  StepProfiler(const Context& context, TimeSource source) : context_(context), source_(source) {}

  void begin_step();
  void end_step();
  void recorded(std::string_view name, std::span<const Variable> inputs,
                std::span<const std::int32_t> input_nodes, const Tensor& value) override;
  void passed(std::int32_t node, const Tensor& gradient) override;
  void finished(Part part) override;

  const std::vector<std::vector<StepEvent>>& steps() const noexcept { return steps_; }

 private:
  struct Node {
    std::string op, shape;
  };
  void close(StepEvent::Part part, std::string op, std::string shape = "");

  const Context& context_;
  TimeSource source_;
  double last_ms_ = 0, last_flops_ = 0;
  std::vector<Node> nodes_;         // of the step's tape
  std::int32_t running_node_ = -1;  // whose vjp runs
  std::vector<std::vector<StepEvent>> steps_;
};

// {"parts": {"forward_ms", "backward_ms", "optimiser_ms", "overhead_ms"}, "ops": [{"op", "calls",
// "forward_ms", "backward_ms", "share", "gflop"}, ...]}: medians over the steps, the longest first. At least
// one step.
nlohmann::ordered_json step_profile(const std::vector<std::vector<StepEvent>>& steps);
std::string step_profile_text(const nlohmann::ordered_json& profile);

// The format of chrome://tracing and ui.perfetto.dev.
std::string chrome_trace(const std::vector<std::vector<StepEvent>>& steps, const std::string& title);

}  // namespace dirigo::tools
