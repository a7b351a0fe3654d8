#include "bench/peak.hpp"

#include <cstdint>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace dirigo::tools {
namespace {

constexpr std::int64_t iterations = 200000;
// Independent chains: two units of latency 4 need 8, a separate product and sum as many; 12 leave room in 16
// registers for the two constants.
constexpr int chains = 12;

volatile float sink;  // what is stored here must have been computed

// NAME runs sum = STEP(sum, x, y) on all chains. x and y make every chain converge to 1: no overflow, no
// denormals. Each is compiled for its own instruction set, in a file that is compiled for the baseline.
#define DIRIGO_PEAK_LOOP(NAME, TARGET, VECTOR, SPLAT, STEP, STORE, LANES)                    \
  TARGET void NAME() {                                                                       \
    const VECTOR x = SPLAT(0.999F), y = SPLAT(0.001F);                                       \
    VECTOR sum[chains];                                                                      \
    for (int c = 0; c < chains; ++c) sum[c] = SPLAT(float(c));                               \
    for (std::int64_t i = 0; i < iterations; ++i) {                                          \
      _Pragma("GCC unroll 12") for (int c = 0; c < chains; ++c) sum[c] = STEP(sum[c], x, y); \
    }                                                                                        \
    float lane[LANES], total = 0;                                                            \
    for (int c = 0; c < chains; ++c) {                                                       \
      STORE(lane, sum[c]);                                                                   \
      total += lane[0];                                                                      \
    }                                                                                        \
    sink = total;                                                                            \
  }

#if defined(__x86_64__)
#define DIRIGO_MULTIPLY_THEN_ADD(a, x, y) _mm_add_ps(_mm_mul_ps(a, x), y)
DIRIGO_PEAK_LOOP(run_portable, , __m128, _mm_set1_ps, DIRIGO_MULTIPLY_THEN_ADD, _mm_storeu_ps, 4)
DIRIGO_PEAK_LOOP(run_avx2, __attribute__((target("avx2,fma"))), __m256, _mm256_set1_ps, _mm256_fmadd_ps,
                 _mm256_storeu_ps, 8)
DIRIGO_PEAK_LOOP(run_avx512, __attribute__((target("avx512f"))), __m512, _mm512_set1_ps, _mm512_fmadd_ps,
                 _mm512_storeu_ps, 16)
#else
#define DIRIGO_MULTIPLY_ADD(a, x, y) vfmaq_f32(y, a, x)
DIRIGO_PEAK_LOOP(run_portable, , float32x4_t, vdupq_n_f32, DIRIGO_MULTIPLY_ADD, vst1q_f32, 4)
#endif

struct PeakLoop {
  void (*run)();
  int lanes;
};

PeakLoop peak_loop(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return {run_avx512, 16};
  if (isa == Isa::avx2) return {run_avx2, 8};
#endif
  static_cast<void>(isa);
  return {run_portable, 4};
}

}  // namespace

TimedWork peak_work(const Context& context) {
  const auto run = peak_loop(context.isa()).run;
  return {[&context, run] {
    context.parallel_for<float>(context.threads(), 1, [run](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) run();
    });
  }};
}

double peak_flops(const Context& context) {
  return 2.0 * iterations * chains * peak_loop(context.isa()).lanes * context.threads();
}

}  // namespace dirigo::tools
