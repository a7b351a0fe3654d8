// Errors, and the worst of them.
#pragma once

#include <cmath>
#include <limits>

namespace dirigo::tools {

// The larger of two errors; NaN once there was one.
inline double worse(double a, double b) {
  return a < b || std::isnan(b) ? b : a;
}

// |got - expected| in units in the last place of the expected value, rounded to double.
inline double ulp_error(double got, long double expected) {
  const double magnitude = std::fabs(static_cast<double>(expected));
  const double ulp = std::nextafter(magnitude, std::numeric_limits<double>::infinity()) - magnitude;
  return static_cast<double>(std::fabs(static_cast<long double>(got) - expected) / ulp);
}

// |got - expected| / max(|expected|, scale).
inline double relative_error(double got, long double expected, double scale = 0) {
  const double error = static_cast<double>(std::fabs(static_cast<long double>(got) - expected));
  return error == 0 ? 0 : error / std::fmax(std::fabs(static_cast<double>(expected)), scale);
}

}  // namespace dirigo::tools
