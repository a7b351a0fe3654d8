#include "kernels/make_table.inl.hpp"

namespace dirigo {

constinit const KernelTable<float> table_avx2 = kernels::make_table<xsimd::fma3<xsimd::avx2>, float>();

}  // namespace dirigo
