// What the float kernels' audits share: the tables to audit, and errors in units of the last place.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "audit/claim.hpp"
#include "dirigo/core/kernels.hpp"

namespace dirigo::tools {

using FloatKernels = KernelTable<float>;

struct FloatTable {
  std::string isa;  // "avx2"
  FloatKernels kernels;
};

std::vector<AuditTask> f32_elementwise_tasks(const std::vector<FloatTable>& tables);
std::vector<AuditTask> f32_row_tasks(const std::vector<FloatTable>& tables);
std::vector<AuditTask> f32_product_tasks(const std::vector<FloatTable>& tables);
std::vector<AuditTask> f32_attention_tasks(const std::vector<FloatTable>& tables);

inline constexpr double f32_epsilon = std::numeric_limits<float>::epsilon();  // 2^-23
inline constexpr float f32_infinity = std::numeric_limits<float>::infinity();
inline constexpr float f32_nan = std::numeric_limits<float>::quiet_NaN();

// Misalignment x remainder: every kernel runs on arrays of all these sizes at all these offsets.
inline constexpr std::size_t most_elements = 70, most_offset = 15;

// The distance between a float and the exact value in units of that value's last place. Infinity counts as
// 2^128; what is below the smallest normal number may be flushed to zero.
inline double ulps(float got, double exact) {
  if (std::isnan(exact) || std::isnan(got)) return std::isnan(exact) && std::isnan(got) ? 0 : HUGE_VAL;
  const double smallest = double(std::numeric_limits<float>::min());
  if (std::abs(exact) < smallest && std::abs(double(got)) <= smallest) return 0;
  const double y = std::clamp(double(got), -0x1p128, 0x1p128), e = std::clamp(exact, -0x1p128, 0x1p128);
  return y == e ? 0 : std::abs(y - e) / std::ldexp(1.0, std::clamp(std::ilogb(e), -126, 127) - 23);
}

}  // namespace dirigo::tools
