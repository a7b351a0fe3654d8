#include "kernels/make_table.inl.hpp"

namespace dirigo {

constinit const KernelTable<float> table_avx512 = kernels::make_table<xsimd::avx512bw, float>();

}  // namespace dirigo
