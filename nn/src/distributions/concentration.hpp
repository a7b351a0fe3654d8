// Checks that the distributions share.
#pragma once

#include <fmt/format.h>

#include <algorithm>

#include "dirigo/autograd/tape.hpp"

namespace dirigo::nn {

// Throws StateError for an empty variable and ValueError for a value <= 0. NaN passes and propagates, so that
// a diverged training run is reported as what it is.
inline void check_concentration(const char* where, const Variable& concentration) {
  const Tensor values = concentration.value().contiguous(concentration.context());
  visit_dtype(values.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const std::span<const T> all = values.span<T>();
    const auto bad = std::find_if(all.begin(), all.end(), [](T value) { return value <= T(0); });
    if (bad != all.end()) {
      throw ValueError(fmt::format("[{}] concentration: expected values > 0, got {}", where, *bad));
    }
  });
}

// Throws ShapeError unless a sample has the concentration's shape and dtype.
inline void check_sample(const char* where, const Tensor& sample, const Variable& concentration) {
  if (sample.shape() != concentration.shape() || sample.dtype() != concentration.dtype()) {
    throw ShapeError(fmt::format("[{}] sample: expected {} {}, got {} {}", where,
                                 dtype_name(concentration.dtype()), concentration.shape().to_string(),
                                 dtype_name(sample.dtype()), sample.shape().to_string()));
  }
}

}  // namespace dirigo::nn
