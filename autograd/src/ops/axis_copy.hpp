// Copying a block of positions along one axis.
#pragma once

#include "support.hpp"

namespace dirigo::ops {

// Copies `count` positions of an axis, from position `from_begin` of `from` to `to_begin` of `to`.
inline void copy_along(const Tensor& from, std::int64_t from_begin, Tensor& to, std::int64_t to_begin,
                       int axis, std::int64_t count) {
  const AxisView source = around(from.shape(), axis), target = around(to.shape(), axis);
  visit_dtype(to.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* in = from.data<T>();
    T* out = to.data<T>();
    for (std::int64_t outer = 0; outer < source.outer; ++outer) {
      std::copy_n(in + (outer * source.extent + from_begin) * source.inner, count * source.inner,
                  out + (outer * target.extent + to_begin) * source.inner);
    }
  });
}

}  // namespace dirigo::ops
