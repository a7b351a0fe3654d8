#!/usr/bin/env bash
# usage: check_links.sh ROOT
# Every link of README.md and docs/ to a file of the repository, and to a heading of a page, leads somewhere; so does
# every page of docs/mathematics that the code names; the overview links to every derivation.
set -euo pipefail
cd "$1"
status=0
complain() {
  printf '%s\n' "$*"
  status=1
}

# matches PATTERN: every match in the input, one a line; none is no error.
matches() { { grep -oE -- "$1" || true; } | sort -u; }

# prose FILE: without fenced blocks and code in backticks.
prose() { awk '/^ *```/ { fence = !fence; next } !fence' "$1" | sed 's/`[^`]*`//g'; }

# anchors FILE: of its headings, as GitHub and pandoc make them.
anchors() {
  awk '/^ *```/ { fence = !fence; next } !fence && /^#+ /' "$1" | sed -E 's/^#+ //' | tr '[:upper:]' '[:lower:]' |
    sed -E 's/[^a-z0-9 _-]//g; s/ /-/g'
}

mapfile -t pages < <(find README.md docs -name '*.md' | sort)
for page in "${pages[@]}"; do
  while read -r link; do
    path=${link%%#*} anchor=
    [[ $link == *#* ]] && anchor=${link#*#}
    target=$page
    [[ -z $path ]] || target=$(dirname "$page")/$path
    if [[ ! -e $target ]]; then
      complain "$page: $link: expected a file, got none"
    elif [[ -n $anchor ]] && ! anchors "$target" | grep -qxF -- "$anchor"; then
      complain "$page: $link: expected a heading, got none"
    fi
  done < <(prose "$page" | matches '\]\([^)[:space:]]+\)' | sed -E 's/^..//; s/.$//' | grep -vE '^[a-z]+:' || true)
done

mapfile -t sources < <(find . -path ./build -prune -o -type f \( -name '*.cpp' -o -name '*.hpp' \) -print)
while read -r page; do
  [[ -f $page ]] || complain "$page: named in the code: expected a page, got none"
done < <(((${#sources[@]} == 0)) || cat "${sources[@]}" | matches 'docs/mathematics/[a-z-]+\.md')

for page in docs/mathematics/*.md; do
  [[ ! -f $page ]] || grep -qF "](${page#docs/})" docs/mathematics.md ||
    complain "docs/mathematics.md: expected a link to $page, got none"
done

exit "$status"
