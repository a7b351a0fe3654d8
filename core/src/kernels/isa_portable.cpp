// The instruction set that every processor of the platform has; the only one with double kernels.
#include "kernels/make_table.inl.hpp"

namespace dirigo {

#if defined(__aarch64__)
using Portable = xsimd::neon64;
#else
using Portable = xsimd::sse2;
#endif

constinit const KernelTable<float> table_portable = kernels::make_table<Portable, float>();
constinit const KernelTable<double> table_portable_double = kernels::make_table<Portable, double>();

}  // namespace dirigo
