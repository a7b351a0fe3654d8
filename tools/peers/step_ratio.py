#!/usr/bin/env python3
"""Times a training step of dirigo beside the PyTorch one, in alternation, so that a change of the machine's load
meets both. Prints the median of the rounds' medians, their range, and the ratio PyTorch / dirigo (above 1: dirigo is faster)."""
import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def run(command):
    """The JSON that a command prints."""
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"step_ratio: {command[0]}: expected exit code 0, got {done.returncode}")
    return json.loads(done.stdout)


def dirigo_ms(args, preset):
    results = run([args.dirigo, "bench", "step", "--preset", preset, "--threads", args.threads, "--json"])["results"]
    return next(r["median_ms"] for r in results if r["name"] == "step")


def torch_ms(args, preset):
    command = [sys.executable, HERE / "torch_step.py", "--preset", preset, "--threads", args.threads,
               "--steps", args.steps, "--json"]
    command += ["--vocabulary", args.vocabulary] if args.vocabulary else []
    return run(command + (["--compile"] if args.compile else []))["median_ms"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dirigo", default=HERE.parent.parent / "build/release/dirigo", help="the command to time")
    parser.add_argument("--preset", nargs="+", choices=("paper", "tiny", "recall"), default=["paper", "tiny"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="PyTorch's timed steps in a round")
    parser.add_argument("--vocabulary", type=int, help="PyTorch's vocabulary, where it differs from its default")
    parser.add_argument("--compile", action="store_true", help="PyTorch with torch.compile")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = []
    for preset in args.preset:
        pairs = []
        for i in range(args.rounds):
            sides = [dirigo_ms, torch_ms]
            if i % 2:  # neither side is always the one that starts on a rested machine
                sides.reverse()
            times = {side: side(args, preset) for side in sides}
            pairs.append((times[dirigo_ms], times[torch_ms]))
        ours, theirs = zip(*pairs)
        ratios = [t / o for o, t in pairs]
        rows.append({"preset": preset, "threads": args.threads, "rounds": args.rounds, "dirigo_ms": statistics.median(ours),
                     "dirigo_range": [min(ours), max(ours)], "torch_ms": statistics.median(theirs),
                     "torch_range": [min(theirs), max(theirs)], "ratio": statistics.median(ratios),
                     "ratio_range": [min(ratios), max(ratios)]})
    if args.json:
        print(json.dumps({"results": rows}))
        return
    print(f"{'preset':8} {'dirigo ms (range)':>26} {'torch ms (range)':>26} {'torch/dirigo (range)':>24}")
    for r in rows:
        cell = lambda name, value, digits: (f"{r[value]:.{digits}f} ({r[name + '_range'][0]:.{digits}f}-"
                                            f"{r[name + '_range'][1]:.{digits}f})")
        print(f"{r['preset']:8} {cell('dirigo', 'dirigo_ms', 1):>26} {cell('torch', 'torch_ms', 1):>26} "
              f"{cell('ratio', 'ratio', 2):>24}")
    print(f"{args.threads} threads, {args.rounds} rounds, medians of the rounds' medians")


if __name__ == "__main__":
    main()
