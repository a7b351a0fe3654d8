// The kernel tables of this build; dispatch.cpp chooses among them.
#pragma once

#include "dirigo/core/kernels.hpp"

namespace dirigo {

extern const KernelTable<float> table_portable;
extern const KernelTable<double> table_portable_double;
#if defined(__x86_64__)
extern const KernelTable<float> table_avx2;
extern const KernelTable<float> table_avx512;
#endif

// The float kernels of an instruction set. Throws ValueError for one this machine lacks.
const KernelTable<float>& kernel_table(Isa isa);

}  // namespace dirigo
