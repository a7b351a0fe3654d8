// One optimisation step: batch -> model -> objective -> gradients -> clipped Adam update.
//
// The batch is cut into shares of whole sequences. A share runs forward and backward on one thread, part by
// part, so that what it computes stays in that core's cache, and the threads meet only where the shares'
// gradients are added up. How a batch is cut depends on the configuration alone: so do the bits of the
// result.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "dirigo/autograd/packed_weights.hpp"
#include "dirigo/data/source.hpp"
#include "dirigo/meta_attention/language_model.hpp"
#include "dirigo/nn/gradient_shares.hpp"
#include "dirigo/nn/optimizer.hpp"
#include "dirigo/nn/schedule.hpp"

namespace dirigo::tools {

// What a step did. Routing is that of the batch, per layer, K values each.
struct StepReport {
  std::int64_t step = 0;  // steps done, this one included
  double loss = 0, nll = 0;
  std::optional<double> kl;  // mean over layers, nats per token; none without a Dirichlet
  double lr = 0, w_kl = 0, grad_norm = 0;
  struct Routing {
    std::vector<double> mean_weights, fraction_argmax;
    double entropy = 0;            // mean_t H(m_t) / ln K
    double one_hot = 0;            // the share of tokens with one-hot weights
    std::vector<double> mean_log;  // mean_t E[log alpha_t]; only where a prior is estimated from it
  };
  std::vector<Routing> routing;
  std::vector<std::vector<double>> priors;  // of the layers after the step, with router.empirical_bayes
  bool switched = false;                    // the next step is the first hard one (straight_through=auto)
};

// Sees a step as it runs, for tools that measure it: the nodes of its tapes, and the end of each part. The
// shares of an observed step run one after another; forward and backward end once for each tape.
class StepObserver : public TapeObserver {
 public:
  enum class Part : std::uint8_t { forward, backward, optimiser };  // in this order; the objective is forward
  virtual void finished(Part part) = 0;
};

nn::Adam make_optimiser(const Context& context, meta::LanguageModel& model);

class TrainingStep {
 public:
  // All arguments must outlive the step. Options come from the model's configuration.
  TrainingStep(const Context& context, meta::LanguageModel& model, nn::Adam& adam);

  // Step number `step` (from 0). Throws NumericError, before any parameter has changed, when the loss or the
  // gradient's norm is not finite: says at which step and where the first such values are.
  StepReport operator()(const Batch& batch, std::int64_t step);

  // Of train.straight_through=auto: to be saved, and restored before the next step.
  nn::EntropyDrop::State& entropy_drop() noexcept { return entropy_drop_; }

  // Tells `observer` (null: nobody) of every step from now on.
  void observe(StepObserver* observer) noexcept { observer_ = observer; }

 private:
  meta::ForwardOptions forward_options(std::int64_t step) const;
  // Whether the priors are estimated again after this step.
  bool estimates_priors(std::int64_t step) const;
  // What follows the routing of a step: priors, and the switch to hard routing.
  void adapt(std::int64_t step, StepReport& report);
  // What the tapes of a share are given.
  struct Outlets {
    const Tape::Sinks* sinks;  // where gradients go (null: to the parameters)
    PackedWeights* weights;
  };
  // Sequences [begin, end) of the batch, forward and backward. Returns their part of the step's report.
  StepReport run_share(const Batch& batch, std::int64_t begin, std::int64_t end, const StepReport& step,
                       const Outlets& outlets);
  void run_part(const Batch& batch, std::int64_t begin, std::int64_t end, const Outlets& outlets,
                StepReport& report);
  std::vector<StepReport> run_shares(const Batch& batch, std::int64_t count, const StepReport& step);
  void finished(StepObserver::Part part) const;

  const Context& context_;
  meta::LanguageModel& model_;
  nn::Adam& adam_;
  nn::GradientShares shares_;
  nn::EntropyDrop::State entropy_drop_;
  StepObserver* observer_ = nullptr;
};

}  // namespace dirigo::tools
