// Picking rows of a matrix by index, and the transpose of that map.
#pragma once

#include "support.hpp"

namespace dirigo::ops {

inline void require_distinct(std::string_view op, std::span<const std::int32_t> rows,
                             std::int64_t row_count) {
  std::vector<bool> seen(static_cast<std::size_t>(row_count));
  for (const std::int32_t row : rows) {
    if (seen[std::size_t(row)]) throw_value(op, "rows", "distinct rows", std::to_string(row) + " twice");
    seen[std::size_t(row)] = true;
  }
}

// y_i = x_rows[i]: (N, D) -> (n, D)
inline Tensor pick_rows(const Context& context, const Tensor& x, std::span<const std::int32_t> rows) {
  const std::int64_t cols = x.shape()[1], n = std::int64_t(rows.size());
  Tensor y = Tensor::empty(context, {n, cols}, x.dtype());
  visit_dtype(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* in = x.data<T>();
    T* out = y.data<T>();
    context.parallel_for<T>(n, row_grain(cols), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        std::copy_n(in + std::int64_t(rows[std::size_t(i)]) * cols, cols, out + i * cols);
      }
    });
  });
  return y;
}

// y_j = sum of x_i over rows[i] = j: (n, D) -> (row_count, D). The terms of a row are added in order; the
// work is shared out over columns, so that no two threads write one row's element.
inline Tensor add_to_rows(const Context& context, const Tensor& x, std::span<const std::int32_t> rows,
                          std::int64_t row_count) {
  constexpr std::int64_t column_block = 32;
  const std::int64_t cols = x.shape()[1];
  Tensor y = Tensor::zeros(context, {row_count, cols}, x.dtype());
  visit_dtype(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const auto kernel = context.kernels<T>().add;
    const T* in = x.data<T>();
    T* out = y.data<T>();
    context.parallel_for<T>(cols, column_block, [&](std::int64_t begin, std::int64_t end) {
      for (std::size_t i = 0; i < rows.size(); ++i) {
        T* to = out + std::int64_t(rows[i]) * cols + begin;
        kernel(end - begin, to, in + std::int64_t(i) * cols + begin, to);
      }
    });
  });
  return y;
}

using Indices = std::vector<std::int32_t>;

inline Indices copy(std::span<const std::int32_t> indices) {
  return {indices.begin(), indices.end()};
}

// --- cases -------------------------------------------------------------------------------------------------

inline Values picked_reference(const Tensor& x, const Indices& rows) {
  Values y;
  for (const std::int32_t row : rows) {
    for (std::int64_t j = 0; j < x.shape()[1]; ++j) y.push_back(x.at({row, j}));
  }
  return y;
}

// The (n, row_count) matrix with which picking is a product.
inline Variable selection(Tape& tape, const Indices& rows, std::int64_t row_count) {
  Values entries(rows.size() * std::size_t(row_count));
  for (std::size_t i = 0; i < rows.size(); ++i)
    entries[i * std::size_t(row_count) + std::size_t(rows[i])] = 1;
  return tape.constant(tensor(tape.context(), {std::int64_t(rows.size()), row_count}, entries));
}

}  // namespace dirigo::ops
