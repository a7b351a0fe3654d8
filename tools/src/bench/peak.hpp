// The FMA peak: what the machine's arithmetic could do if nothing else cost time.
#pragma once

#include "bench/timing.hpp"
#include "dirigo/core/context.hpp"

namespace dirigo::tools {

// Multiply-adds on registers alone, with the vectors of the context's instruction set (SSE2 has no fused
// form: a product and a sum) on every thread of the context.
TimedWork peak_work(const Context& context);
double peak_flops(const Context& context);  // of one run, two per multiply-add

}  // namespace dirigo::tools
