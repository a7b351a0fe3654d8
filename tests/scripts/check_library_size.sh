#!/usr/bin/env bash
# usage: check_library_size.sh CXX STRIP BYTES ARCHIVE...
# All of these libraries, linked into one shared library and stripped, are at most so large: a template that is
# instantiated once too often for every kernel, or a new dependency, is noticed when it comes in.
set -euo pipefail
cxx=$1
strip=$2
limit=$3
shift 3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$cxx" -shared -o "$work/libdirigo.so" -Wl,--whole-archive "$@" -Wl,--no-whole-archive
"$strip" "$work/libdirigo.so"
size=$(wc -c <"$work/libdirigo.so")
echo "$size bytes stripped, at most $limit allowed"
((size <= limit))
