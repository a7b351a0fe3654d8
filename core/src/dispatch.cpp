// Which kernel table runs: compiled for the baseline, so it is safe on every processor.
#include <cstdlib>

#include "dirigo/core/context.hpp"
#include "dirigo/core/errors.hpp"
#include "dirigo/core/kernels.hpp"
#include "kernels/tables.hpp"

namespace dirigo {
namespace {

constexpr Isa all_isas[] = {Isa::portable, Isa::avx2, Isa::avx512};

bool available(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::portable:
      return true;
    case Isa::avx2:  // compiled as x86-64-v3
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("bmi2");
    case Isa::avx512:  // compiled as x86-64-v4
      return available(Isa::avx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd");
  }
  return false;
#else
  return isa == Isa::portable;
#endif
}

std::string available_names() {
  std::string names;
  for (const Isa isa : available_isas()) {
    if (!names.empty()) names += ", ";
    names += isa_name(isa);
  }
  return names;
}

}  // namespace

std::string_view isa_name(Isa isa) noexcept {
  switch (isa) {
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::portable:
      break;
  }
#if defined(__aarch64__)
  return "neon";
#else
  return "sse2";
#endif
}

std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  for (const Isa isa : all_isas) {
    if (available(isa)) isas.push_back(isa);
  }
  return isas;
}

Isa parse_isa(std::string_view name) {
  for (const Isa isa : available_isas()) {
    if (isa_name(isa) == name) return isa;
  }
  throw ValueError("[isa] expected an instruction set of this machine (" + available_names() + "), got '" +
                   std::string(name) + "'");
}

Isa choose_isa() {
  const char* const forced = std::getenv("DIRIGO_ISA");
  if (forced != nullptr && *forced != '\0') return parse_isa(forced);
  return available_isas().back();
}

const KernelTable<float>& kernel_table(Isa isa) {
  if (!available(isa)) parse_isa(isa_name(isa));  // throws, naming what there is
#if defined(__x86_64__)
  if (isa == Isa::avx2) return table_avx2;
  if (isa == Isa::avx512) return table_avx512;
#endif
  return table_portable;
}

}  // namespace dirigo
