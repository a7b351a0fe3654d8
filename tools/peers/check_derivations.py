#!/usr/bin/env python3
"""Runs the PyTorch snippets of docs/mathematics/*.md and compares their variables with the worked numbers.

Usage: check_derivations.py [PAGE.md...]
Exit code 1 if a printed number is not what PyTorch computes, 2 for unusable input.
"""
import pathlib
import re
import sys

import torch

TABLE = re.compile(r"<!-- (?:check|torch): ([\w-]+) -->\n((?:\|.*\n)+)")
SNIPPET = re.compile(r"^```python\n(.*?)^```$", re.S | re.M)


def numbers(cell):
    """(value, half a unit of the last printed digit) of every number in a cell; integers are exact."""
    for text in re.split("[,;]", cell):
        decimals = len(text.strip().partition(".")[2])
        yield float(text), (0.500001 * 10**-decimals if decimals else 1e-9)


def wrong_rows(page):
    text = page.read_text(encoding="utf-8")
    computed = {}
    for snippet in SNIPPET.findall(text):
        exec(compile(snippet, str(page), "exec"), computed)
    rows = 0
    for table, body in TABLE.findall(text):
        for line in body.splitlines()[2:]:
            name, printed = re.fullmatch(r"\| `(\w+)`.*\| ([^|]*) \|", line).groups()
            if name not in computed:
                yield f"{table}: {name}: expected a variable of the snippet, got none"
                continue
            rows += 1
            got = torch.as_tensor(computed[name], dtype=torch.float64).detach().flatten().tolist()
            expected = list(numbers(printed))
            if len(got) != len(expected) or any(abs(g - v) > t for g, (v, t) in zip(got, expected)):
                yield f"{table}: {name}: expected {printed}, got {got}"
    print(f"{page.name}: {rows} rows")


def main():
    here = pathlib.Path(__file__).resolve().parents[2] / "docs" / "mathematics"
    pages = [pathlib.Path(arg) for arg in sys.argv[1:]] or sorted(here.glob("*.md"))
    for page in pages:
        if not page.is_file():
            print(f"check_derivations: page: expected a file, got {page}", file=sys.stderr)
            return 2
    failures = [f"{page.name}: {row}" for page in pages for row in wrong_rows(page)]
    print("\n".join(failures), file=sys.stderr, end="\n" if failures else "")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
