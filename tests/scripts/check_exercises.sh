#!/usr/bin/env bash
# usage: check_exercises.sh ROOT DIRIGO
# Every exercise of tools/exercise has a page that starts it and is linked from README.md of its folder; the
# `dirigo audit --only ...` of each page, but that of an operation yet to be added, passes on the repository's own code.
set -euo pipefail
cd "$1"
dirigo=$2
status=0
complain() {
  printf '%s\n' "$*"
  status=1
}

pages=docs/exercises
for name in $(tools/exercise list); do
  [[ -f $pages/$name.md ]] || { complain "$pages/$name.md: expected a page, got none"; continue; }
  grep -qF "tools/exercise start $name " "$pages/$name.md" || complain "$name.md: expected its tools/exercise start, got none"
  grep -qF "]($name.md)" "$pages/README.md" || complain "README.md: expected a link to $name.md, got none"
  mapfile -t patterns < <(sed -nE "s/.*dirigo audit --only '?([^' ]+( [^']+)?)'?\$/\1/p" "$pages/$name.md")
  ((${#patterns[@]} > 0)) || complain "$name.md: expected a dirigo audit --only, got none"
  for pattern in "${patterns[@]}"; do
    [[ $name != new_op ]] || continue
    "$dirigo" audit --only "$pattern" >/dev/null || complain "$name.md: expected a passing audit --only $pattern, got a failing one"
  done
done
exit "$status"
