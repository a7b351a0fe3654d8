#!/usr/bin/env bash
# usage: check_headers.sh ROOT COMPILER
# Every public header compiles alone, seeing only the folders that its own may depend on and no private library.
set -euo pipefail
cd "$1"
export DIRIGO_HEADER_COMPILER=$2

compile() {
  local header=$1 folder folders
  case ${header%%/*} in
    core) folders="core" ;;
    autograd) folders="core autograd" ;;
    nn) folders="core autograd nn" ;;
    data) folders="core data" ;;
    meta_attention) folders="core autograd nn meta_attention" ;;
  esac
  local -a includes=()
  for folder in $folders; do includes+=("-I$folder/include"); done
  # Twice: a header without an include guard is not self-contained either.
  printf '#include "%s"\n#include "%s"\n' "${header#*/include/}" "${header#*/include/}" |
    "$DIRIGO_HEADER_COMPILER" -std=c++20 -Wall -Wextra -Werror -fsyntax-only "${includes[@]}" -x c++ - ||
    { printf 'not self-contained: %s\n' "$header"; return 1; }
}
export -f compile

mapfile -t headers < <(find core autograd nn data meta_attention -path '*/include/*' -name '*.hpp' | sort)
((${#headers[@]} > 0)) || { echo "expected public headers, got none"; exit 1; }
printf '%s\0' "${headers[@]}" | xargs -0 -n 1 -P 2 bash -c 'compile "$1"' _
