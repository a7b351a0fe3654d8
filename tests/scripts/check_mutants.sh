#!/usr/bin/env bash
# usage: check_mutants.sh ROOT PYTHON CXX
# Every mutant of tests/mutants finds the one snippet that it changes. And in a miniature tree: mutants act when they are
# chosen and only then, and a list that does not fit its source is refused.
set -euo pipefail
root=$1
python=$2
cxx=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

complain() {
  printf '%s\n' "$*"
  failures=$((failures + 1))
}

"$python" -B "$root/tests/mutants/mutants.py" "$work/copies" >/dev/null || failures=1

mkdir -p "$work/tree/tests/mutants" "$work/tree/core/src"
cp "$root"/tests/mutants/mutant* "$work/tree/tests/mutants/"
cat >"$work/tree/core/src/sum.hpp" <<'SOURCE'
#pragma once
constexpr int square(int x) { return x * x; }
SOURCE
cat >"$work/tree/core/src/sum.cpp" <<'SOURCE'
#include "sum.hpp"
#include <cstdio>
int first(int a, int b) {
  return a + b;
}
int second(int a, int b) {
  int c = a   -
          b;
  c += square(a + b);
  return c;
}
int main() {
  constexpr int constant = square(3);
  std::printf("%d %d %d\n", first(1, 2), second(5, 2), constant);
}
SOURCE
printf '#include <cstdio>\n' >"$work/tree/core/src/other.cpp"

# mutate LINE...: writes the copies for a list of these lines.
mutate() {
  printf '%s\n' "$@" >"$work/tree/tests/mutants/list.txt"
  rm -rf "$work/out"
  "$python" -B "$work/tree/tests/mutants/mutants.py" "$work/out" >"$work/files" 2>"$work/error"
}

# refused WORDS LINE...: such a list must be refused in these words.
refused() {
  local words=$1
  shift
  if mutate "$@"; then
    complain "passed, expected '$words': $*"
  elif ! grep -qF -- "$words" "$work/error"; then
    complain "expected '$words', got: $(cat "$work/error")"
  fi
}

list=('file core/src/sum.cpp'
  '1 minus' 'at int first(' '- a + b' '+ a - b'
  '2 within 3, white space aside' '- a - {{b}}; c +=' '+ 2 * b'
  '3 around 2' '- {{a - b}};' '+ 100'
  '4 another one there' '- {{a - b}};' '+ 200'
  '5 statement' '- {{c += square(a + b);}}' '+ c = 0;'
  'file core/src/sum.hpp'
  '6 in a header, not in constants' '- x * {{x}}' '+ 1')
if ! mutate "${list[@]}"; then
  complain "a good list was refused: $(cat "$work/error")"
elif [[ $(cat "$work/files") != core/src/sum.cpp ]]; then
  complain "expected sum.cpp alone to be compiled, got $(cat "$work/files")"
else
  "$cxx" -std=c++20 -include "$work/tree/tests/mutants/mutant.hpp" "$work/out/core/src/sum.cpp" \
    "$work/tree/tests/mutants/mutant.cpp" -o "$work/program"
  expected=('3 52 9' '-1 52 9' '3 50 9' '3 149 9' '3 249 9' '3 0 9' '3 10 9' '3 52 9')
  for number in "${!expected[@]}"; do
    got=$(DIRIGO_MUTANT=$number "$work/program")
    [[ $got == "${expected[$number]}" ]] || complain "mutant $number: expected ${expected[$number]}, got $got"
  done
fi
file='file core/src/sum.cpp'
refused 'once in core/src/sum.cpp, got it 0 times' "$file" '1 x' '- a * b' '+ 0'
refused 'got it 2 times' "$file" '1 x' '- a + b' '+ 0'
refused 'got it 0 times' "$file" '1 x' 'at int second(' '- return a + b' '+ 0'
refused "expected 'int third(' once" "$file" '1 x' 'at int third(' '- a + b' '+ 0'
refused 'an overlap' "$file" '1 x' '- {{(a + b);}} return' '+ ;' '2 y' '- {{b); return c;}}' '+ ;'
refused 'a number of its own' "$file" '1 x' '- a - b' '+ 0' '1 y' '- c += square' '+ 0'
refused 'an existing file' 'file core/src/none.cpp' '1 x' '- a' '+ b'
refused "a library's src folder" 'file core/include/x.hpp' '1 x' '- a' '+ b'
refused 'a file, a - line and a + line' "$file" '1 x' '- a - b'
refused 'got whatever' "$file" 'whatever'

((failures == 0)) && echo "every mutant fits; wrong lists are refused"
exit $((failures > 0))
