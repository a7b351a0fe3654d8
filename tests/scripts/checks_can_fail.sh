#!/usr/bin/env bash
# usage: checks_can_fail.sh CXX NM
# Each check of this folder passes on a clean miniature tree and fails on every violation planted into it.
set -euo pipefail
cxx=$1
nm=$2
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0
planted=0

fresh_tree() {
  rm -rf "$work/tree"
  local folder
  for folder in core autograd nn data meta_attention; do
    mkdir -p "$work/tree/$folder/src" "$work/tree/$folder/include/dirigo/$folder"
    printf '#pragma once\n#include <dirigo/core/base.hpp>\n#include <cstdio>\n// printf(): never, see abort()\n' \
      >"$work/tree/$folder/include/dirigo/$folder/clean.hpp"
    printf '#include <fmt/core.h>\nvoid f(char* s) { snprintf(s, 1, "x"); scope.exit(); }\n' >"$work/tree/$folder/src/clean.cpp"
  done
  printf '#pragma once\nnamespace dirigo { struct Base {}; }\n' >"$work/tree/core/include/dirigo/core/base.hpp"
  printf '#include <tbb/tbb.h>\n#include <Eigen/Core>\n' >"$work/tree/core/src/kernels.cpp"
  mkdir -p "$work/tree/tools/cmake"
  printf 'project(x)\n' | tee "$work/tree/CMakeLists.txt" "$work/tree/CMakePresets.json" >"$work/tree/tools/cmake/x.cmake"
}

complain() {
  printf '%s\n' "$*"
  failures=$((failures + 1))
}

# caught CHECK FILE LINE: the check must fail once the line is in the file.
caught() {
  fresh_tree
  printf '%s\n' "$3" >>"$work/tree/$2"
  planted=$((planted + 1))
  if "$scripts/$1" "$work/tree" "$cxx" >"$work/out" 2>&1; then complain "$1 let pass: $3 in $2"; fi
}

# passes CHECK: the clean tree must pass.
passes() {
  fresh_tree
  "$scripts/$1" "$work/tree" "$cxx" >"$work/out" 2>&1 || complain "$1 fails on a clean tree: $(cat "$work/out")"
}

passes check_layering.sh
caught check_layering.sh core/src/clean.cpp '#include <dirigo/autograd/tape.hpp>'
caught check_layering.sh autograd/src/clean.cpp '#include "dirigo/nn/module.hpp"'
caught check_layering.sh nn/include/dirigo/nn/clean.hpp '#include <dirigo/meta_attention/model.hpp>'
caught check_layering.sh data/src/clean.cpp '#  include <dirigo/autograd/tape.hpp>'
caught check_layering.sh meta_attention/src/clean.cpp '#include <dirigo/data/corpus.hpp>'
caught check_layering.sh nn/src/clean.cpp '#include "../../core/src/kernels.cpp"'
caught check_layering.sh nn/src/clean.cpp '#include <CLI/CLI.hpp>'
caught check_layering.sh core/include/dirigo/core/clean.hpp '#include <fmt/core.h>'
caught check_layering.sh nn/include/dirigo/nn/clean.hpp '#include <nlohmann/json.hpp>'
caught check_layering.sh core/include/dirigo/core/clean.hpp '#include <xsimd/xsimd.hpp>'
caught check_layering.sh autograd/src/clean.cpp '#include <Eigen/Core>'
caught check_layering.sh meta_attention/src/clean.cpp '#include <oneapi/tbb/parallel_for.h>'

passes check_library_calls.sh
caught check_library_calls.sh core/src/clean.cpp '  std::printf("x");'
caught check_library_calls.sh nn/src/clean.cpp 'fprintf(f, "x");'
caught check_library_calls.sh nn/src/clean.cpp 'fmt::print("x");'
caught check_library_calls.sh data/src/clean.cpp '  std::cerr << 1;'
caught check_library_calls.sh data/src/clean.cpp '#include <iostream>'
caught check_library_calls.sh autograd/src/clean.cpp 'if (bad) std::abort();'
caught check_library_calls.sh meta_attention/src/clean.cpp '  exit(1);'
caught check_library_calls.sh core/include/dirigo/core/clean.hpp '#include <cassert>'
caught check_library_calls.sh core/src/clean.cpp '  std::thread worker(f);'
caught check_library_calls.sh core/src/clean.cpp '  tbb::global_control limit(1);'
caught check_library_calls.sh tools/cmake/x.cmake 'add_compile_options(-ffast-math)'

passes check_headers.sh
caught check_headers.sh nn/include/dirigo/nn/clean.hpp 'std::vector<int> missing_include();'
caught check_headers.sh core/include/dirigo/core/clean.hpp '#include <dirigo/nn/clean.hpp>'
caught check_headers.sh core/include/dirigo/core/unguarded.hpp 'struct Twice {};'

# readme TEXT...: runs check_readme.sh on a README of these lines, in a tree with the scripts that it must name.
readme() {
  fresh_tree
  local script
  for script in dirigo quickstart test check-deep mutation-check; do
    printf '#!/bin/sh\n[ "$1" = missing ] && exit 2\necho "--seed N  --help"\n' >"$work/tree/tools/$script"
    chmod +x "$work/tree/tools/$script"
  done
  printf '%s\n' "$@" >"$work/tree/README.md"
  "$scripts/check_readme.sh" "$work/tree" "$work/tree/tools/dirigo" >"$work/out" 2>&1
}
start=('# Dirigo' '```sh' 'git clone URL && cd dirigo' 'tools/quickstart   # installs' 'tools/test' '```')
readme "${start[@]}" || complain "check_readme.sh fails on a short README: $(cat "$work/out")"
readme "${start[@]}" '```sh' 'dirigo train --seed 1' 'cmake --build x' '```' 'See [x](CMakeLists.txt), `tools/test`.' ||
  complain "check_readme.sh fails on a good README: $(cat "$work/out")"
readme '```sh' tools/test tools/quickstart '```' && complain "a README with other first commands passed"
readme "${start[@]}" 'Use `--sed 1`.' && complain "a README with an unknown flag passed"
readme "${start[@]}" '```sh' 'build/release/dirigo missing' '```' && complain "a README with an unknown command passed"
readme "${start[@]}" 'See [x](docs/none.md).' && complain "a README with a dead link passed"
readme "${start[@]}" 'See `nn/src/none.cpp`.' && complain "a README with a missing file passed"

# fresh_pages: a README, an overview and one derivation that the code names, for check_links.sh.
fresh_pages() {
  fresh_tree
  mkdir -p "$work/tree/docs/mathematics"
  printf '# Start\n[a](docs/mathematics.md#1-the-part) [b](https://x.org/y#z) [c](#start)\n```\n[no](link.md)\n```\n' >"$work/tree/README.md"
  printf '# Overview\n## 1 The part\n[d](mathematics/one.md), [e](../README.md)\n' >"$work/tree/docs/mathematics.md"
  printf '# One\n[f](../../core/src/clean.cpp)\n' >"$work/tree/docs/mathematics/one.md"
  printf '// docs/mathematics/one.md\n' >>"$work/tree/core/src/clean.cpp"
}
links() { "$scripts/check_links.sh" "$work/tree" >"$work/out" 2>&1; }
fresh_pages
links || complain "check_links.sh fails on good pages: $(cat "$work/out")"
for planted_link in '[x](none.md)' '[x](one.md#none)' '[x](#none)' '[x](../../core/src/none.cpp)'; do
  fresh_pages
  printf '%s\n' "$planted_link" >>"$work/tree/docs/mathematics/one.md"
  links && complain "check_links.sh let pass: $planted_link"
done
fresh_pages
printf '// docs/mathematics/none.md\n' >>"$work/tree/core/src/clean.cpp"
links && complain "a page that only the code knows passed"
fresh_pages
printf '# Two\n' >"$work/tree/docs/mathematics/two.md"
links && complain "a derivation without a link from the overview passed"

# object NAME CODE: compiles the code without inlining, so that inline functions become weak symbols.
object() { printf '%s\n' "$2" | "$cxx" -std=c++20 -O0 -c -x c++ - -o "$work/$1.o"; }
shared='inline int shared(int x) { return x + 1; }'
object a 'static int only_a(int x) { return x; } int a(int x) { return only_a(x); } '
object b 'inline int only_b(int x) { return x; } int b(int x) { return only_b(x); }'
object c "$shared int c(int x) { return shared(x); }"
object d "$shared int d(int x) { return shared(x); }"
object u 'asm(".data; .globl only_u; .type only_u, @gnu_unique_object; only_u: .long 0; .text");'
symbols() { "$scripts/check_isa_symbols.sh" "$nm" "$@" >"$work/out" 2>&1; }
symbols --isa one "$work/a.o" --isa two "$work/b.o" --rest "$work/c.o" "$work/d.o" ||
  complain "check_isa_symbols.sh fails on separate groups: $(cat "$work/out")"
symbols --isa one "$work/c.o" --isa two "$work/d.o" --rest "$work/a.o" && complain "weak code shared by two groups passed"
symbols --isa one "$work/c.o" --rest "$work/d.o" && complain "weak code shared with the rest passed"
symbols --isa one "$work/u.o" && complain "a unique symbol passed"
symbols --isa one && complain "a group without objects passed"
symbols --isa one "$work/missing.o" && complain "a missing object passed"

printf '%s\n' 'int big[5000] = {1};' | "$cxx" -fPIC -c -x c++ - -o "$work/big.o"
library_size() { "$scripts/check_library_size.sh" "$cxx" strip "$@" >"$work/out" 2>&1; }
library_size 50000 "$work/big.o" || complain "check_library_size.sh fails on a small library: $(cat "$work/out")"
library_size 15000 "$work/big.o" && complain "a library above the limit passed"

((failures == 0)) && echo "caught all $planted planted lines, the shared symbols and the wrong READMEs"
exit $((failures > 0))
