#!/usr/bin/env python3
"""Times a training step of dirigo beside PyTorch's, eager and compiled, and beside the hand-coded yardstick where its
binary is given, in turns, so that a change of the machine's load meets all of them. Prints the median of the rounds'
medians, and how much slower than dirigo the others are (above 1: dirigo is faster)."""
import argparse
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# What `dirigo bench step` is told for each configuration of torch_step.py: a preset and --set's.
YARDSTICK = ["attention.projections=shared", "router.posterior=free", "attention.window=16", "train.dropout=0"]
CONFIGURATIONS = {
    "paper": ("paper", []),
    "tiny": ("tiny", []),
    "yardstick": ("paper", YARDSTICK + ["router.kind=softmax", "objective.w_kl=0"]),
    "yardstick-kl": ("paper", YARDSTICK + ["objective.w_kl=0.003"]),
}


def fail(what, code):
    sys.exit(f"step_ratio: {what}: expected exit code 0, got {code}")


def output(command):
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        fail(command[0], done.returncode)
    return done.stdout


class Dirigo:
    def __init__(self, args, configuration, threads):
        preset, settings = CONFIGURATIONS[configuration]
        self.command = [args.dirigo, "bench", "step", "--preset", preset, "--threads", threads, "--steps", args.steps,
                        "--vocabulary", args.vocabulary, "--json"]
        self.command += [part for setting in settings for part in ("--set", setting)]
        self.command += ["--cpu-time"] if args.cpu_time else []

    def sample(self):
        return next(r["median_ms"] for r in json.loads(output(self.command))["results"] if r["name"] == "step")

    def close(self):
        pass


class Torch:
    """A process that has compiled and warmed up once, and times some steps whenever it is told to."""

    def __init__(self, args, configuration, threads, mode):
        command = [sys.executable, HERE / "torch_step.py", "--preset", configuration, "--threads", threads, "--mode", mode,
                   "--steps", args.steps, "--vocabulary", args.vocabulary, "--serve"]
        self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.key = "cpu_ms" if args.cpu_time else "median_ms"
        self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            fail("torch_step.py", self.process.wait())
        return json.loads(line)

    def sample(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.answer()[self.key]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Yardstick:
    """The hand-coded step without autograd: a program that takes a number of threads and prints 'median X ms'."""

    def __init__(self, args, threads):
        self.command = [args.yardstick, threads]

    def sample(self):
        return float(re.search(r"median ([0-9.]+) ms", output(self.command)).group(1))

    def close(self):
        pass


def sides_of(args, configuration, threads):
    sides = {"dirigo": Dirigo(args, configuration, threads)}
    for mode in args.torch:
        sides["torch " + mode] = Torch(args, configuration, threads, mode)
    if args.yardstick and configuration.startswith("yardstick") and not args.cpu_time:
        sides["yardstick"] = Yardstick(args, threads)
    return sides


def compare(args, configuration, threads):
    """One row for each side but ours."""
    sides = sides_of(args, configuration, threads)
    times = {name: [] for name in sides}
    for i in range(args.rounds):
        order = list(sides)
        if i % 2:  # no side is always the one that starts on a rested machine
            order.reverse()
        for name in order:
            times[name].append(sides[name].sample())
    for side in sides.values():
        side.close()
    ours = times.pop("dirigo")
    rows = []
    for name, theirs in times.items():
        ratios = [t / o for o, t in zip(ours, theirs)]
        rows.append({"configuration": configuration, "threads": threads, "rounds": args.rounds, "peer": name,
                     "clock": "processor" if args.cpu_time else "elapsed",
                     "dirigo_ms": statistics.median(ours), "dirigo_range": [min(ours), max(ours)],
                     "peer_ms": statistics.median(theirs), "peer_range": [min(theirs), max(theirs)],
                     "ratio": statistics.median(ratios), "ratio_range": [min(ratios), max(ratios)]})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dirigo", default=HERE.parent.parent / "build/release/dirigo", help="the command to time")
    parser.add_argument("--preset", nargs="+", choices=CONFIGURATIONS, default=["paper", "tiny", "yardstick", "yardstick-kl"])
    parser.add_argument("--torch", nargs="*", choices=("eager", "default", "max-autotune"), default=["eager", "default"],
                        help="eager, or the mode of torch.compile")
    parser.add_argument("--yardstick", metavar="BINARY", help="the hand-coded step, for the configurations of that name")
    parser.add_argument("--threads", type=int, nargs="+", default=[2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="timed steps of a side in a round")
    parser.add_argument("--vocabulary", type=int, default=96)
    parser.add_argument("--cpu-time", action="store_true",
                        help="processor time instead of elapsed time: for --threads 1 on a machine that others use too")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = [row for configuration in args.preset for threads in args.threads for row in compare(args, configuration, threads)]
    if args.json:
        print(json.dumps({"results": rows}))
        return
    print(f"{'configuration':14} {'threads':>7} {'dirigo ms (range)':>22} {'peer':>19} {'ms (range)':>24} {'peer/dirigo (range)':>22}")
    for r in rows:
        cell = lambda name, value, digits: (f"{r[value]:.{digits}f} ({r[name + '_range'][0]:.{digits}f}-"
                                            f"{r[name + '_range'][1]:.{digits}f})")
        print(f"{r['configuration']:14} {r['threads']:>7} {cell('dirigo', 'dirigo_ms', 1):>22} {r['peer']:>19} "
              f"{cell('peer', 'peer_ms', 1):>24} {cell('ratio', 'ratio', 2):>22}")
    print(f"{args.rounds} rounds of {args.steps} steps in turns, medians of the rounds' medians"
          f"{', processor time' if args.cpu_time else ''}")


if __name__ == "__main__":
    main()
