// Gradients of parts of a batch that are computed at the same time, each by a tape of its own.
//
// Every share adds to tensors of its own (Tape::redirect); add_up() then sums the shares in their order. The
// number of shares is up to the caller and must not depend on that of threads: nor do the sums' bits then.
#pragma once

#include <cstddef>
#include <vector>

#include "dirigo/nn/module.hpp"

namespace dirigo::nn {

class GradientShares {
 public:
  // Room for up to `count` >= 1 shares. The parameters must outlive it and stay where they are.
  GradientShares(std::vector<NamedParameter> parameters, std::size_t count);
  GradientShares(const GradientShares&) = delete;
  GradientShares& operator=(const GradientShares&) = delete;

  // Where the tapes of share i < count add their gradients.
  const Tape::Sinks& sinks(std::size_t share) const { return shares_[share].sinks; }

  // gradient = share 0 + share 1 + ..., for every parameter that some share has reached; it must not have a
  // gradient yet. The shares are empty afterwards.
  void add_up(const Context& context);
  // Forgets what the shares hold.
  void clear();

 private:
  struct Share {
    std::vector<Tensor> gradients;  // one for each parameter
    Tape::Sinks sinks;
  };
  std::vector<NamedParameter> parameters_;
  std::vector<Share> shares_;
};

}  // namespace dirigo::nn
