// Adam and AdamW (Kingma and Ba 2015; Loshchilov and Hutter 2019), and clipping by the global norm.
#pragma once

#include <cstdint>
#include <vector>

#include "dirigo/nn/module.hpp"

namespace dirigo {
struct AdamStep;
}

namespace dirigo::nn {

struct AdamOptions {
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  double weight_decay = 0;  // > 0: AdamW, decoupled; applied to parameters of rank >= 2
};

class Adam {
 public:
  // Moments start at zero. The parameters must outlive the optimiser. Throws ValueError for bad options and
  // for a parameter that is undefined or listed twice.
  Adam(const Context& context, std::vector<NamedParameter> parameters, const AdamOptions& options = {});

  // The global norm sqrt(sum of squared gradients): deterministic for any thread count. NaN propagates.
  double gradient_norm() const;
  // One update with learning rate lr, gradients scaled by `gradient_scale`; clears the gradients. Parameters
  // without a gradient are left alone (their moments too); of those that are held only the moments change.
  void step(double lr, double gradient_scale = 1);
  void clear_gradients();

  std::int64_t steps() const noexcept { return steps_; }

  // For checkpoints: names "m.<parameter>" and "v.<parameter>". The tensors are the moments themselves: they
  // change with the next step.
  std::vector<std::pair<std::string, Tensor>> state() const;
  // Throws ValueError when a tensor is missing or has another shape or dtype; then nothing has changed.
  // Tensors of other names are ignored.
  void restore(const std::vector<std::pair<std::string, Tensor>>& state, std::int64_t steps);

 private:
  // A piece of one parameter. All pieces of all parameters make one parallel loop; their bounds are constant,
  // so the results do not depend on the number of threads.
  struct Chunk {
    std::size_t parameter;
    std::int64_t begin, size;
  };
  void for_chunks(FunctionRef<void(std::size_t)> f) const;
  void update(const Chunk& chunk, AdamStep step);

  const Context& context_;
  std::vector<NamedParameter> parameters_;
  std::vector<Tensor> moment1_, moment2_;
  std::vector<Chunk> chunks_;       // those of f32 parameters first
  std::int64_t single_chunks_ = 0;  // how many those are
  AdamOptions options_;
  std::int64_t steps_ = 0;
};

// min(1, limit / norm): the factor that clips gradients to a global norm of `limit` (0: no clipping). A NaN
// norm gives NaN. Throws ValueError for a negative limit.
double clip_factor(double norm, double limit);

}  // namespace dirigo::nn
