// The controller's position feature. Private to the two forward passes.
#pragma once

#include <cmath>
#include <cstdint>

#include "dirigo/meta_attention/config.hpp"

namespace dirigo::meta {

// t / max_len with learned positions, else log1p(t) / log1p(max_len), which grows slowly beyond max_len.
inline double position_feature(const ModelConfig& model, std::int64_t t) {
  return model.positions == Positions::learned ? double(t) / double(model.max_len)
                                               : std::log1p(double(t)) / std::log1p(double(model.max_len));
}

}  // namespace dirigo::meta
