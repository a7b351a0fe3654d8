#!/usr/bin/env bash
# tools/get-data against file:// mirrors. Needs no network. The download of the real bytes is tested when
# DIRIGO_DATA (or ../shared/data beside the repository) holds them; else exit 77: skipped.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
get=$root/tools/get-data
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() { echo "FAILED: $1" >&2; exit 1; }

# exits CODE MESSAGE-PART ARGS...: get-data ends so and says so
exits() {
  local expected=$1 part=$2 code=0
  shift 2
  "$get" "$@" > "$work/stdout" 2> "$work/stderr" || code=$?
  [ "$code" = "$expected" ] || fail "get-data $*: expected exit $expected, got $code: $(cat "$work/stderr")"
  grep -q -- "$part" "$work/stdout" "$work/stderr" || fail "get-data $*: expected '$part' in its output"
}

exits 0 'usage:' --help
exits 2 'usage:'
exits 2 'expected wikitext-2 or tinyshakespeare' wikitext-3
exits 2 'expected --mirror' tinyshakespeare --fast
exits 2 'expected a URL' tinyshakespeare --mirror
exits 2 'expected one NAME' tinyshakespeare wikitext-2

# Wrong bytes and missing files are refused and leave nothing.
mkdir -p "$work/wrong/tinyshakespeare"
echo 'to be or not to be' > "$work/wrong/tinyshakespeare/input.txt"
exits 1 'expected SHA-256 86c4e6aa' tinyshakespeare --mirror "file://$work/wrong" --out "$work/out"
[ ! -e "$work/out" ] || fail 'a refused download left files behind'
exits 1 'expected a download' wikitext-2 --mirror "file://$work/nowhere" --out "$work/out"
[ ! -e "$work/out" ] || fail 'a failed download left files behind'

# A wrong file that was there before is not taken for the corpus, and not touched by a failure.
mkdir -p "$work/out/tinyshakespeare"
echo 'mine' > "$work/out/tinyshakespeare/input.txt"
exits 1 'expected SHA-256' tinyshakespeare --mirror "file://$work/wrong" --out "$work/out"
[ "$(cat "$work/out/tinyshakespeare/input.txt")" = mine ] || fail 'a failure touched an existing file'
[ "$(ls -A "$work/out/tinyshakespeare")" = input.txt ] || fail 'a failure left a partial file'
rm -r "$work/out"

data=${DIRIGO_DATA:-$root/../shared/data}
if [ ! -f "$data/wikitext-2/valid.txt" ] || [ ! -f "$data/tinyshakespeare/input.txt" ]; then
  echo "skipped: set DIRIGO_DATA to a directory with wikitext-2/ and tinyshakespeare/"
  exit 77
fi
data=$(cd "$data" && pwd)
for name in wikitext-2 tinyshakespeare; do
  exits 0 'Licence:' "$name" --mirror "file://$data" --out "$work/out"
  exits 0 'already there' "$name" --mirror "file://$work/nowhere" --out "$work/out"
done
for file in wikitext-2/valid.txt wikitext-2/test.txt tinyshakespeare/input.txt; do
  cmp "$data/$file" "$work/out/$file" || fail "$file differs from the mirror"
done
[ "$(find "$work/out/wikitext-2" -mindepth 1 -printf '%f\n' | sort | tr '\n' ' ')" = 'test.txt valid.txt ' ] || fail 'extra files were left'
echo passed
