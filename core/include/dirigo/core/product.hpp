// Matrix products: the one function through which every product in Dirigo runs.
//
// Row rule: an output row's bits do not depend on how many rows are computed, or on which. Each output
// element is one chain of fused multiply-adds over k in ascending order (in blocks of a constant size), and
// the work is shared out over rows and columns, never over k; so the number of threads changes nothing
// either.
#pragma once

#include <cstdint>

#include "dirigo/core/context.hpp"

namespace dirigo {

// C (m x n) = A (m x k) B (k x n) [+ bias] or C += A B. Element (i, j) of X lies at x[i * x_row + j * x_col].
// C has unit column stride. For a transposed operand swap its strides.
template <class T>
struct Product {
  std::int64_t m = 0, n = 0, k = 0;
  const T* a = nullptr;
  std::int64_t a_row = 0, a_col = 1;
  const T* b = nullptr;
  std::int64_t b_row = 0, b_col = 1;
  T* c = nullptr;
  std::int64_t c_row = 0;
  const T* bias = nullptr;  // n values added to every row; only when !accumulate
  bool accumulate = false;
};

// Runs one product on the context's threads and counts 2 m n k FLOPs. Zero extents are allowed (k = 0 writes
// the bias or zeros).
template <class T>
void product(const Context& context, const Product<T>& p);

extern template void product<float>(const Context&, const Product<float>&);
extern template void product<double>(const Context&, const Product<double>&);

}  // namespace dirigo
