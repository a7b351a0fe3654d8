#include "dirigo/nn/gradient_shares.hpp"

#include <algorithm>

#include "dirigo/core/kernels.hpp"

namespace dirigo::nn {
namespace {

constexpr std::int64_t chunk_size =
    16384;  // elements: a chunk of the sum stays in cache while shares are added

// total += the others, chunk by chunk.
void add_to(const Context& context, Tensor& total, const std::vector<const Tensor*>& others) {
  visit_dtype(total.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const auto add = context.kernels<T>().add;
    T* const sum = total.data<T>();
    context.parallel_for<T>(total.size(), chunk_size, [&](std::int64_t begin, std::int64_t end) {
      for (const Tensor* other : others)
        add(end - begin, sum + begin, std::as_const(*other).data<T>() + begin, sum + begin);
    });
  });
}

}  // namespace

GradientShares::GradientShares(std::vector<NamedParameter> parameters, std::size_t count)
    : parameters_(std::move(parameters)), shares_(count) {
  for (Share& share : shares_) {
    share.gradients.resize(parameters_.size());
    for (std::size_t i = 0; i < parameters_.size(); ++i)
      share.sinks.emplace(&parameters_[i].parameter->gradient, &share.gradients[i]);
  }
}

void GradientShares::add_up(const Context& context) {
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    Tensor total;
    std::vector<const Tensor*> others;
    for (Share& share : shares_) {
      Tensor& gradient = share.gradients[i];
      if (!gradient.defined()) continue;
      if (total.defined()) {
        others.push_back(&gradient);
      } else {
        total = std::move(gradient);
      }
    }
    if (!total.defined()) continue;
    if (!others.empty()) add_to(context, total, others);
    parameters_[i].parameter->gradient = std::move(total);
  }
  clear();
}

void GradientShares::clear() {
  for (Share& share : shares_) {
    for (Tensor& gradient : share.gradients) gradient = Tensor{};
  }
}

}  // namespace dirigo::nn
