#!/usr/bin/env bash
# usage: check_library_calls.sh ROOT
# The library never prints, aborts, exits, starts threads of its own or sets process-wide state, and no build file
# trades exactness or portability for speed. Prints every violation; exits with 1 if there is one.
set -euo pipefail
cd "$1"
violations=0
folders=(core autograd nn data meta_attention)

# forbid WHY PATTERN: no line of library code, comments aside, may match the extended expression.
forbid() {
  local found
  found=$(find "${folders[@]}" -name '*.[ch]pp' -exec awk -v pattern="$2" '
    { code = $0; sub(/\/\/.*/, "", code) }
    code ~ /^[ \t]*\*/ { next }  # inside a block comment
    code ~ pattern { printf "%s:%d: %s\n", FILENAME, FNR, $0 }' {} +)
  report "$1" "$found"
}

report() {
  if [[ -n $2 ]]; then
    printf '%s:\n%s\n' "$1" "$2"
    violations=$((violations + 1))
  fi
}

# A call of one of the names, not a longer name that ends in it (snprintf) and not a member.
call() { printf '(^|[^[:alnum:]_.>])(%s)[[:space:]]*[(]' "$1"; }

forbid "the library never prints" "$(call 'v?f?printf|f?puts|f?putc|putchar|perror|fmt::v?print|println')"
forbid "the library never prints" 'std::w?(cout|cerr|clog)|<iostream>|<print>|[^[:alnum:]_](stdout|stderr)[^[:alnum:]_]'
forbid "the library never ends the process" "$(call 'abort|exit|_exit|_Exit|quick_exit|terminate|raise|__builtin_trap')"
forbid "the library never ends the process" '<cassert>|<assert[.]h>'
forbid "the library never starts threads of its own" 'std::(thread|jthread|async)([^[:alnum:]_:]|$)|pthread_create'
forbid "the library never sets process-wide state" "global_control|$(call 'srand|setlocale|setenv|putenv|signal|sigaction')"
report "flags that change results or the machine needed" "$(grep -nE -e \
  '-ffast-math|-Ofast|-march=native|-funsafe-math|-flto|INTERPROCEDURAL_OPTIMIZATION' \
  CMakeLists.txt CMakePresets.json tools/cmake/*.cmake || true)"

exit $((violations > 0))
