#!/usr/bin/env bash
# usage: check_readme_example.sh ROOT
# The ```cpp blocks of README.md are docs/examples/route_text.cpp, which the tests compile and run.
set -euo pipefail
cd "$1"
[[ -f README.md ]] || { echo "expected README.md, got none"; exit 1; }
awk '/^```/ { inside = !inside && /^```cpp[ \t]*$/; next } inside' README.md |
  diff --label docs/examples/route_text.cpp --label 'README.md (its cpp block)' -u docs/examples/route_text.cpp -
