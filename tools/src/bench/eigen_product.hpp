// Eigen's product, which ours is timed beside.
#pragma once

#include <cstdint>

namespace dirigo::tools {

// C (m x n) = op(A) op(B); a transposed operand is stored as its transpose. All are row-major; C's rows, and
// those of op(A), may be a part of a larger matrix.
struct MatrixProduct {
  std::int64_t m = 0, k = 0, n = 0;
  const float* a = nullptr;
  std::int64_t a_stride = 0;
  bool transpose_a = false;
  const float* b = nullptr;
  std::int64_t b_stride = 0;
  bool transpose_b = false;
  float* c = nullptr;
};

// Single-threaded, each compiled for one instruction set. Eigen 3.4 is slower with AVX-512 than with AVX2.
void eigen_product_portable(const MatrixProduct& p) noexcept;
#if defined(__x86_64__)
void eigen_product_avx2(const MatrixProduct& p) noexcept;
#endif

}  // namespace dirigo::tools
