// Compiled once per instruction set (tools/CMakeLists.txt), with namespace Eigen renamed each time: otherwise
// the linker would keep one copy of Eigen's code for all. `Eigen` and DIRIGO_EIGEN_PRODUCT are macros.
#include <Eigen/Core>

#include "bench/eigen_product.hpp"

namespace dirigo::tools {
namespace {

using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Stride = Eigen::OuterStride<>;
using Input = Eigen::Map<const RowMajor, 0, Stride>;
using Output = Eigen::Map<RowMajor>;

Input stored(const float* x, std::int64_t rows, std::int64_t columns, std::int64_t stride, bool transposed) {
  return transposed ? Input(x, columns, rows, Stride(stride)) : Input(x, rows, columns, Stride(stride));
}

}  // namespace

void DIRIGO_EIGEN_PRODUCT(const MatrixProduct& p) noexcept {
  const Input a = stored(p.a, p.m, p.k, p.a_stride, p.transpose_a);
  const Input b = stored(p.b, p.k, p.n, p.b_stride, p.transpose_b);
  Output c(p.c, p.m, p.n);
  if (p.transpose_a && p.transpose_b) {
    c.noalias() = a.transpose() * b.transpose();
  } else if (p.transpose_a) {
    c.noalias() = a.transpose() * b;
  } else if (p.transpose_b) {
    c.noalias() = a * b.transpose();
  } else {
    c.noalias() = a * b;
  }
}

}  // namespace dirigo::tools
