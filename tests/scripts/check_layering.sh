#!/usr/bin/env bash
# usage: check_layering.sh ROOT
# The one direction of dependency (core <- autograd <- nn <- meta_attention; data -> core), and which folder may
# include which library. Prints every violation; exits with 1 if there is one.
set -euo pipefail
cd "$1"
violations=0

# forbid WHY PATTERN PATH...: no line of the C++ files below the paths may match the extended expression.
forbid() {
  local why=$1 pattern=$2 found
  shift 2
  if found=$(grep -rnE --include='*.cpp' --include='*.hpp' --include='*.h' "$pattern" "$@"); then
    printf '%s:\n%s\n' "$why" "$found"
    violations=$((violations + 1))
  fi
}

include='^[[:space:]]*#[[:space:]]*include[[:space:]]*[<"]'
declare -A above=(
  [core]='autograd|nn|data|meta_attention'
  [autograd]='nn|data|meta_attention'
  [nn]='data|meta_attention'
  [data]='autograd|nn|meta_attention'
  [meta_attention]='data'
)
folders=(core autograd nn data meta_attention)
for folder in "${folders[@]}"; do
  forbid "$folder includes a folder that it must not depend on" "$include(dirigo/)?(${above[$folder]})/" "$folder"
done
forbid "a library includes through .. (another folder's private code)" "$include([^>\"]*/)?\.\./" "${folders[@]}"
forbid "a library includes the tools or the tests" "$include(tools|tests|CLI|doctest)/" "${folders[@]}"

simd_or_threads='(xsimd|Eigen|tbb|oneapi|unsupported/Eigen)/'
forbid "a public header includes a private library" \
  "$include($simd_or_threads|(fmt|nlohmann)/)" "${folders[@]/%//include}"
forbid "xsimd, Eigen and oneTBB belong below core/src" "$include$simd_or_threads" \
  core/include autograd nn data meta_attention
forbid "nlohmann-json belongs where JSON is read or written" "${include}nlohmann/" core autograd

exit $((violations > 0))
