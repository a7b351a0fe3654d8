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
  // B as pack_panels() laid it out, which spares packing it in every product; b and its strides are then not
  // read. The bits of C are the same.
  const T* b_panels = nullptr;
};

// Values that the panels of a B (k x n) take.
std::int64_t panels_size(std::int64_t k, std::int64_t n) noexcept;

// Lays B (k x n, element (l, j) at b[l * b_row + j * b_col]) out in panels of 32 columns, the last one padded
// with zeros: panels[(j / 32 * k + l) * 32 + j % 32]. The layout is the same for all instruction
// sets. Runs on the calling thread.
template <class T>
void pack_panels(const Context& context, std::int64_t k, std::int64_t n, const T* b, std::int64_t b_row,
                 std::int64_t b_col, T* panels);

// Runs one product on the context's threads and counts 2 m n k FLOPs. Zero extents are allowed (k = 0 writes
// the bias or zeros).
template <class T>
void product(const Context& context, const Product<T>& p);

extern template void product<float>(const Context&, const Product<float>&);
extern template void product<double>(const Context&, const Product<double>&);
extern template void pack_panels<float>(const Context&, std::int64_t, std::int64_t, const float*,
                                        std::int64_t, std::int64_t, float*);
extern template void pack_panels<double>(const Context&, std::int64_t, std::int64_t, const double*,
                                         std::int64_t, std::int64_t, double*);

}  // namespace dirigo
