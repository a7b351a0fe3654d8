// Which mutant runs: compiled only with DIRIGO_MUTANTS=ON, and only into copies of the sources that the
// mutants change (docs/mutation.md).
#pragma once

namespace dirigo {

// The number in the environment variable DIRIGO_MUTANT, or 0: none. Read once, before main.
extern const int active_mutant;

// Constants are computed as written: a mutant acts at run time alone.
[[gnu::always_inline]] constexpr bool mutant(int number) noexcept {
  return !__builtin_is_constant_evaluated() && number == active_mutant;
}

}  // namespace dirigo
