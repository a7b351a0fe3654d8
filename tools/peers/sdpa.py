#!/usr/bin/env python3
"""Times causal full attention of one sequence, as `dirigo bench attention` runs it forward, beside PyTorch's
scaled_dot_product_attention: same width, heads and threads, in turns. Both read q, k and v as (1, T, D) and write the
result so. Prints the median of each and how much slower PyTorch is (above 1: dirigo is faster)."""
import argparse
import json
import statistics
import subprocess
import sys
import time

import torch
from torch.nn.functional import scaled_dot_product_attention

HEADS, WIDTH = 4, 128  # those of dirigo bench attention


def dirigo(args, length):
    command = [args.dirigo, "bench", "attention", "--forward", "--lengths", str(length), "--threads", str(args.threads),
               "--rounds", str(args.samples), "--json"] + (["--cpu-time"] if args.cpu_time else [])
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"sdpa: {args.dirigo} bench attention: expected exit code 0, got {done.returncode}")
    return next(row["median_ms"] for row in json.loads(done.stdout)["results"] if row["name"] == "full forward")


def split(x):
    return x.view(1, -1, HEADS, WIDTH // HEADS).transpose(1, 2)


class Torch:
    def __init__(self, args, length):
        torch.manual_seed(1)
        self.inputs = [torch.rand(1, length, WIDTH) * 2 - 1 for _ in range(3)]
        self.clock = time.thread_time if args.cpu_time else time.perf_counter
        self.samples = args.samples
        self.run()  # warms up

    def run(self):
        q, k, v = map(split, self.inputs)
        return scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(1, -1, WIDTH)

    def sample(self):
        times = []
        for _ in range(self.samples):
            begin = self.clock()
            self.run()
            times.append(1000 * (self.clock() - begin))
        return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="turns of both")
    parser.add_argument("--samples", type=int, default=3, help="runs in a turn")
    parser.add_argument("--cpu-time", action="store_true", help="processor time of the thread: for --threads 1 on a busy machine")
    parser.add_argument("--dirigo", default="build/release/dirigo")
    args = parser.parse_args()
    if min(args.lengths + [args.threads, args.rounds, args.samples]) < 1:
        sys.exit("sdpa: lengths, --threads, --rounds, --samples: expected at least 1")
    if args.cpu_time and args.threads != 1:
        sys.exit(f"sdpa: --cpu-time: expected with --threads 1, got {args.threads}")
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    print(f"torch {torch.__version__}, {args.threads} thread(s), {HEADS} heads of {WIDTH // HEADS}, processor time: {args.cpu_time}")
    with torch.inference_mode():
        for length in args.lengths:
            peer, ours, theirs = Torch(args, length), [], []
            for _ in range(args.rounds):
                ours.append(dirigo(args, length))
                theirs.append(peer.sample())
            a, b = statistics.median(ours), statistics.median(theirs)
            print(f"T={length}: dirigo {a:.2f} ms, torch {b:.2f} ms, torch / dirigo {b / a:.2f}")


if __name__ == "__main__":
    main()
