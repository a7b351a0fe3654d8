#!/usr/bin/env bash
# usage: check_isa_symbols.sh NM (--isa NAME | --rest) OBJECT... [...]
# Code compiled for one instruction set must never be what the linker keeps for another: of equal weak symbols it
# keeps any one, which is the wrong speed at best and an illegal instruction on an older CPU at worst.
# So a weak code symbol of an --isa group may be defined neither in another group nor in the --rest (objects or
# archives of the other libraries), and no group may define a unique symbol, which even crosses shared libraries.
set -euo pipefail
shopt -s inherit_errexit
nm=$1
shift

# Prints "GROUP TYPE SYMBOL" for every weak code (W) and unique (u) symbol that the objects of the group define.
weak_symbols() {
  local group=$1
  shift
  "$nm" --defined-only --format=posix "$@" | awk -v group="$group" '$2 ~ /^[Wu]$/ { print group, $2, $1 }' | sort -u
}

list() {
  local group="" isa_groups=0
  local -a objects=()
  while (($#)); do
    case $1 in
      --isa)
        group=$2
        isa_groups=$((isa_groups + 1))
        shift 2
        ;;
      --rest)
        group="(rest)"
        shift
        ;;
      *) echo "expected --isa NAME or --rest, got $1" >&2 && return 1 ;;
    esac
    objects=()
    while (($#)) && [[ $1 != --* ]]; do
      objects+=("$1")
      shift
    done
    ((${#objects[@]} > 0)) || { echo "expected objects in group $group, got none" >&2 && return 1; }
    weak_symbols "$group" "${objects[@]}"
  done
  ((isa_groups > 0)) || { echo "expected at least one --isa group, got none" >&2 && return 1; }
}

table=$(list "$@")
printf '%s\n' "$table" | awk '
  NF < 3 { next }
  $1 != "(rest)" && $2 == "u" { print "unique symbol in " $1 ": " $3; bad = 1 }
  $2 == "W" { groups[$3] = groups[$3] " " $1; count[$3]++; if ($1 != "(rest)") isa[$3] = 1 }
  END {
    for (symbol in count) if (count[symbol] > 1 && symbol in isa) { print "weak code in" groups[symbol] ": " symbol; bad = 1 }
    exit bad
  }' | c++filt | sort
