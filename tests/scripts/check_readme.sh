#!/usr/bin/env bash
# usage: check_readme.sh ROOT DIRIGO
# The README's first two commands are tools/quickstart and tools/test; every flag in it is one that a --help names,
# every command of dirigo exists, and every file of the repository that it names is there.
set -euo pipefail
cd "$1"
dirigo=$2
[[ -f README.md ]] || { echo "expected README.md, got none"; exit 1; }
status=0
complain() {
  printf '%s\n' "$*"
  status=1
}

# Lines of the fenced shell blocks, prompts and comments removed.
commands=$(awk '/^```/ { inside = !inside && /^```(sh|bash|console)[ \t]*$/; fence = !fence; next } inside' README.md |
  sed -E 's/^\$ //; s/(^|[[:space:]])#.*//; /^[[:space:]]*$/d')
first_two=$(printf '%s\n' "$commands" | grep -vE '^(git clone|cd) ' | head -n 2 | awk '{ print $1 }' | paste -sd ' ')
[[ $first_two == "tools/quickstart tools/test" ]] ||
  complain "expected the first two commands to be tools/quickstart and tools/test, got $first_two"

# matches PATTERN: every match in the input, one a line; none is no error.
matches() { { grep -oE -- "$1" || true; } | sort -u; }

help=$(
  "$dirigo" --help
  for script in quickstart test check-deep mutation-check; do "tools/$script" --help; done
)
subcommands=$(printf '%s\n' "$commands" | matches '(^|/|[^a-z/-])dirigo [a-z][a-z-]+' | awk '{ print $NF }' | sort -u)
for subcommand in $subcommands; do
  if text=$("$dirigo" "$subcommand" --help 2>&1); then
    help+=$text
  else
    complain "dirigo $subcommand: expected a command, got none"
  fi
done
# The flags of CMake, conda and the like are not ours.
flags=$({ grep -vE '\b(cmake|ctest|conda|podman|docker|git|pip|python3?)\b' README.md || true; } |
  matches '(^|[[:space:]`([|])--[a-z][a-z-]+' | matches '--[a-z-]+')
for flag in $flags; do
  grep -qE -- "$flag([^a-z-]|\$)" <<<"$help" || complain "$flag: expected in some --help, got none"
done

folders='core|autograd|nn|meta_attention|data|tools|tests|docs'
paths=$(
  matches '\]\([^)#: ]+[)#]' <README.md | sed -E 's/^..//; s/.$//'  # links, but not to other sites
  matches "(^|[[:space:]\`(\"])($folders)/[A-Za-z0-9_./-]*[A-Za-z0-9_]" <README.md | matches '[a-z].*'
)
for path in $paths; do
  [[ -e $path ]] || complain "$path: expected a file, got none"
done

exit "$status"
