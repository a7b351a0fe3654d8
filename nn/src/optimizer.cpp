#include "dirigo/nn/optimizer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <unordered_map>

#include "dirigo/core/kernels.hpp"

namespace dirigo::nn {
namespace {

// Elements of a chunk: about 20 us of work, so that large parameters are shared among the threads.
constexpr std::int64_t chunk_size = 16384;
constexpr std::int64_t chunks_per_task = 4;

void check_options(const AdamOptions& options) {
  const auto require = [](bool ok, const char* what, const char* range, double got) {
    if (!ok) throw ValueError(fmt::format("[adam] {}: expected {}, got {}", what, range, got));
  };
  require(options.beta1 >= 0 && options.beta1 < 1, "beta1", "a number in [0, 1)", options.beta1);
  require(options.beta2 >= 0 && options.beta2 < 1, "beta2", "a number in [0, 1)", options.beta2);
  require(options.eps > 0 && std::isfinite(options.eps), "eps", "a finite number > 0", options.eps);
  require(options.weight_decay >= 0 && std::isfinite(options.weight_decay), "weight_decay",
          "a finite number >= 0", options.weight_decay);
}

// A parameter listed twice would be updated twice a step.
void check_parameters(const std::vector<NamedParameter>& parameters) {
  std::set<std::string> names;
  std::set<const Parameter*> seen;
  for (const auto& [name, parameter] : parameters) {
    if (!parameter->value.defined()) {
      throw ValueError(fmt::format("[adam] {}: expected a defined tensor, got none", name));
    }
    if (!names.insert(name).second || !seen.insert(parameter).second) {
      throw ValueError(fmt::format("[adam] {}: expected every parameter once, got it twice", name));
    }
  }
}

// Calls f(parameter, begin, end, T{}) for a chunk whose parameter has a gradient.
template <class F>
void with_gradient(const NamedParameter& named, F f) {
  const Parameter& parameter = *named.parameter;
  if (!parameter.gradient.defined()) return;
  if (parameter.gradient.shape() != parameter.value.shape()) {
    throw ShapeError(fmt::format("[adam] gradient of {}: expected {}, got {}", named.name,
                                 parameter.value.shape().to_string(),
                                 parameter.gradient.shape().to_string()));
  }
  visit_dtype(parameter.value.dtype(), f);
}

}  // namespace

Adam::Adam(const Context& context, std::vector<NamedParameter> parameters, const AdamOptions& options)
    : context_(context), parameters_(std::move(parameters)), options_(options) {
  check_options(options_);
  check_parameters(parameters_);
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const Tensor& value = parameters_[i].parameter->value;
    moment1_.push_back(Tensor::zeros(context, value.shape(), value.dtype()));
    moment2_.push_back(Tensor::zeros(context, value.shape(), value.dtype()));
    for (std::int64_t begin = 0; begin < value.size(); begin += chunk_size) {
      chunks_.push_back({i, begin, std::min(chunk_size, value.size() - begin)});
    }
  }
  const auto is_single = [&](const Chunk& chunk) {
    return parameters_[chunk.parameter].parameter->value.dtype() == DType::f32;
  };
  single_chunks_ = std::stable_partition(chunks_.begin(), chunks_.end(), is_single) - chunks_.begin();
}

// Calls f(c) for every chunk, in parallel. Each dtype has its own region, because only f32 flushes denormals.
void Adam::for_chunks(FunctionRef<void(std::size_t)> f) const {
  const auto all = std::int64_t(chunks_.size());
  context_.parallel_for<float>(single_chunks_, chunks_per_task, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t c = first; c < last; ++c) f(std::size_t(c));
  });
  context_.parallel_for<double>(all - single_chunks_, chunks_per_task,
                                [&](std::int64_t first, std::int64_t last) {
                                  for (std::int64_t c = first; c < last; ++c)
                                    f(std::size_t(single_chunks_ + c));
                                });
}

double Adam::gradient_norm() const {
  std::vector<double> squares(chunks_.size(), 0.0);
  for_chunks([&](std::size_t c) {
    const Chunk& chunk = chunks_[c];
    const NamedParameter& named = parameters_[chunk.parameter];
    with_gradient(named, [&](auto zero) {
      using T = decltype(zero);
      const std::span<const T> gradient = std::as_const(named.parameter->gradient).span<T>();
      squares[c] = context_.kernels<T>().sum_squares(chunk.size, gradient.data() + chunk.begin);
    });
  });
  return std::sqrt(std::accumulate(squares.begin(), squares.end(), 0.0));  // in the chunks' fixed order
}

void Adam::step(double lr, double gradient_scale) {
  ++steps_;
  AdamStep common;
  common.lr = lr;
  common.beta1 = options_.beta1;
  common.beta2 = options_.beta2;
  common.eps = options_.eps;
  common.correction1 = 1 - std::pow(options_.beta1, double(steps_));
  common.correction2 = 1 - std::pow(options_.beta2, double(steps_));
  common.gradient_scale = gradient_scale;
  for_chunks([&](std::size_t c) { update(chunks_[c], common); });
  clear_gradients();
}

void Adam::update(const Chunk& chunk, AdamStep step) {
  const NamedParameter& named = parameters_[chunk.parameter];
  Parameter& parameter = *named.parameter;
  if (parameter.held) step.lr = 0;
  // Biases and LayerNorm gains are not decayed: zero is not their natural value.
  step.weight_decay = parameter.value.rank() >= 2 ? options_.weight_decay : 0;
  with_gradient(named, [&](auto zero) {
    using T = decltype(zero);
    context_.kernels<T>().adam(
        chunk.size, step, std::as_const(parameter.gradient).span<T>().data() + chunk.begin,
        parameter.value.span<T>().data() + chunk.begin, moment1_[chunk.parameter].data<T>() + chunk.begin,
        moment2_[chunk.parameter].data<T>() + chunk.begin);
  });
}

void Adam::clear_gradients() {
  for (const NamedParameter& named : parameters_) named.parameter->gradient = Tensor{};
}

std::vector<std::pair<std::string, Tensor>> Adam::state() const {
  std::vector<std::pair<std::string, Tensor>> result;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    result.emplace_back("m." + parameters_[i].name, moment1_[i]);
    result.emplace_back("v." + parameters_[i].name, moment2_[i]);
  }
  return result;
}

void Adam::restore(const std::vector<std::pair<std::string, Tensor>>& state, std::int64_t steps) {
  if (steps < 0) throw ValueError(fmt::format("[adam] steps: expected a number >= 0, got {}", steps));
  const std::unordered_map<std::string, Tensor> given(state.begin(), state.end());
  const auto checked = [&](const std::string& name, const Tensor& moment) {
    const auto found = given.find(name);
    const bool present = found != given.end() && found->second.defined();
    if (!present || found->second.shape() != moment.shape() || found->second.dtype() != moment.dtype()) {
      throw ValueError(fmt::format(
          "[adam] {}: expected {} {}, got {}", name, dtype_name(moment.dtype()), moment.shape().to_string(),
          present ? fmt::format("{} {}", dtype_name(found->second.dtype()), found->second.shape().to_string())
                  : "nothing"));
    }
    return found->second.clone(context_);  // a copy: step() writes to the moments
  };
  std::vector<Tensor> moment1, moment2;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    moment1.push_back(checked("m." + parameters_[i].name, moment1_[i]));
    moment2.push_back(checked("v." + parameters_[i].name, moment2_[i]));
  }
  moment1_ = std::move(moment1);
  moment2_ = std::move(moment2);
  steps_ = steps;
}

double clip_factor(double norm, double limit) {
  if (!(limit >= 0)) throw ValueError(fmt::format("[clip] limit: expected a number >= 0, got {}", limit));
  return limit == 0 || norm <= limit ? 1 : limit / norm;
}

}  // namespace dirigo::nn
