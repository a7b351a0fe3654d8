#!/usr/bin/env python3
"""Draws what `dirigo bench route --json` measured, as two SVG files: DIR/by-length.svg, time over that of all full by the
sequence's length (dashed: FLOPs), and DIR/by-flops.svg, time against FLOPs, both over those of all full."""
import argparse
import json
import math
import sys
from pathlib import Path

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 400, 64, 190, 24, 52
COLOURS = {"50% full at random": "#b5482a", "25% full at random": "#c98a1b", "5% full at random": "#3a7d44",
           "all local": "#2b6cb0", "all linear": "#7a4fa3"}
MARKS = ["circle", "square", "diamond", "triangle"]


class Axis:
    """A logarithmic scale from `low` to `high` onto pixels."""

    def __init__(self, low, high, begin, end):
        self.low, self.high, self.begin, self.end = low, high, begin, end

    def __call__(self, value):
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.begin + share * (self.end - self.begin)


def number(value):
    return f"{value:.1f}".rstrip("0").rstrip(".")


class Drawing:
    def __init__(self, title, x, y):
        self.x, self.y = x, y
        self.parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
                      f'font-family="sans-serif" font-size="12">', f"<title>{title}</title>",
                      f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>']

    def line(self, points, colour, dash="", width=1.5):
        path = " ".join(f"{number(self.x(a))},{number(self.y(b))}" for a, b in points)
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dashes}/>')

    def mark(self, point, colour, shape="circle"):
        self.mark_at(self.x(point[0]), self.y(point[1]), colour, shape)

    def mark_at(self, x, y, colour, shape):
        r = 4
        corners = {"square": [(-r, -r), (r, -r), (r, r), (-r, r)], "diamond": [(0, -r - 1), (r + 1, 0), (0, r + 1), (-r - 1, 0)],
                   "triangle": [(0, -r - 1), (r + 1, r), (-r - 1, r)]}
        if shape == "circle":
            self.parts.append(f'<circle cx="{number(x)}" cy="{number(y)}" r="{r}" fill="{colour}"/>')
        else:
            path = " ".join(f"{number(x + a)},{number(y + b)}" for a, b in corners[shape])
            self.parts.append(f'<polygon points="{path}" fill="{colour}"/>')

    def text(self, x, y, words, anchor="start", extra=""):
        self.parts.append(f'<text x="{number(x)}" y="{number(y)}" text-anchor="{anchor}" fill="#222"{extra}>{words}</text>')

    def axes(self, x_ticks, y_ticks, x_label, y_label):
        for value, words in x_ticks:
            self.line([(value, self.y.low), (value, self.y.high)], "#ddd", width=1)
            self.text(self.x(value), self.y.begin + 18, words, "middle")
        for value, words in y_ticks:
            self.line([(self.x.low, value), (self.x.high, value)], "#ddd", width=1)
            self.text(self.x.begin - 8, self.y(value) + 4, words, "end")
        self.text((self.x.begin + self.x.end) / 2, HEIGHT - 12, x_label, "middle")
        middle = number((self.y.begin + self.y.end) / 2)
        self.text(16, float(middle), y_label, "middle", f' transform="rotate(-90 16 {middle})"')

    def write(self, path):
        path.write_text("\n".join(self.parts + ["</svg>"]) + "\n")


def ratio_ticks(low):
    return [(v, f"{v:g}") for v in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1) if v >= low]


def length_name(length):
    return f"{length // 1024}k" if length % 1024 == 0 else str(length)


def by_length(rows, lengths, low, path):
    drawing = Drawing("Time over that of all tokens at full, by length", Axis(lengths[0], lengths[-1], LEFT, WIDTH - RIGHT),
                      Axis(low, 1, HEIGHT - BOTTOM, TOP))
    drawing.axes([(n, length_name(n)) for n in lengths], ratio_ticks(low), "T", "over all full: time, dashed FLOPs")
    for i, (mix, colour) in enumerate(COLOURS.items()):
        own = sorted((r for r in rows if r["mix"] == mix), key=lambda r: r["length"])
        drawing.line([(r["length"], r["time_to_full"]) for r in own], colour)
        drawing.line([(r["length"], r["flops_to_full"]) for r in own], colour, "5 4")
        for row in own:
            drawing.mark((row["length"], row["time_to_full"]), colour)
        y = TOP + 20 + 22 * i
        drawing.mark_at(WIDTH - RIGHT + 24, y, colour, "circle")
        drawing.text(WIDTH - RIGHT + 36, y + 4, mix)
    drawing.write(path)


def by_flops(rows, lengths, low, path):
    drawing = Drawing("Time against FLOPs, both over those of all tokens at full", Axis(low, 1, LEFT, WIDTH - RIGHT),
                      Axis(low, 1, HEIGHT - BOTTOM, TOP))
    drawing.axes(ratio_ticks(low), ratio_ticks(low), "FLOPs over all full", "time over all full")
    drawing.line([(low, low), (1, 1)], "#888")
    drawing.line([(low, 1.1 * low), (1 / 1.1, 1)], "#888", "3 3", 1)
    for row in rows:
        if row["mix"] in COLOURS:
            shape = MARKS[lengths.index(row["length"]) % len(MARKS)]
            drawing.mark((row["flops_to_full"], row["time_to_full"]), COLOURS[row["mix"]], shape)
    y = TOP + 20
    for mix, colour in COLOURS.items():
        drawing.mark_at(WIDTH - RIGHT + 24, y, colour, "circle")
        drawing.text(WIDTH - RIGHT + 36, y + 4, mix)
        y += 22
    for i, length in enumerate(lengths):
        drawing.mark_at(WIDTH - RIGHT + 24, y, "#444", MARKS[i % len(MARKS)])
        drawing.text(WIDTH - RIGHT + 36, y + 4, f"T = {length_name(length)}")
        y += 22
    drawing.text(WIDTH - RIGHT + 16, y + 4, "line: time as FLOPs")
    drawing.text(WIDTH - RIGHT + 16, y + 22, "dotted: 1.1 times that")
    drawing.write(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="what `dirigo bench route --json` printed")
    parser.add_argument("directory", type=Path, nargs="?", default=Path("docs/routing"))
    args = parser.parse_args()
    rows = [r for r in json.loads(args.results.read_text())["results"] if r.get("part") in ("layer", "core")]
    lengths = sorted({r["length"] for r in rows})
    if len(lengths) < 2:
        sys.exit(f"route_curves: {args.results}: expected rows of at least two lengths, got {len(lengths)}")
    low = min(min(r["time_to_full"], r["flops_to_full"]) for r in rows) * 0.8
    args.directory.mkdir(parents=True, exist_ok=True)
    by_length(rows, lengths, low, args.directory / "by-length.svg")
    by_flops(rows, lengths, low, args.directory / "by-flops.svg")


if __name__ == "__main__":
    main()
