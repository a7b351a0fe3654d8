#!/usr/bin/env python3
"""Times decoding with a key-value cache in PyTorch beside `dirigo bench decode`: two pre-LN layers of width 128 with full
attention, one sequence, one token after another at the end of a long context. Prints milliseconds per token and ratios."""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

LAYERS, WIDTH, HEADS, VOCABULARY = 2, 128, 4, 96  # of `dirigo bench decode` by default


def make_model(context):
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Block(nn.Module):
        """Attention over a cache that is allocated once, and the feed-forward layer."""

        def __init__(self):
            super().__init__()
            self.ln1, self.ln2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
            self.ffn = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
            self.register_buffer("cache", torch.randn(2, 1, HEADS, context, WIDTH // HEADS))

        def forward(self, x, position):
            q, k, v = self.qkv(self.ln1(x)).view(1, 1, 3, HEADS, WIDTH // HEADS).transpose(1, 3).unbind(2)
            self.cache[0, :, :, position] = k[:, :, 0]
            self.cache[1, :, :, position] = v[:, :, 0]
            keys, values = self.cache[:, :, :, : position + 1]
            attended = F.scaled_dot_product_attention(q, keys, values)
            x = x + self.out(attended.transpose(1, 2).reshape(1, 1, WIDTH))
            return x + self.ffn(self.ln2(x))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.position = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(context, WIDTH)
            self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
            self.norm = nn.LayerNorm(WIDTH)

        def forward(self, token, position):
            x = self.embed(token) + self.position.weight[position]
            for block in self.blocks:
                x = block(x, position)
            return F.linear(self.norm(x), self.embed.weight)

        def recompute(self, tokens):
            """The logits of the last token without a cache: what decoding must equal."""
            x = self.embed(tokens) + self.position.weight[: tokens.shape[1]]
            for block in self.blocks:
                q, k, v = block.qkv(block.ln1(x)).view(1, -1, 3, HEADS, WIDTH // HEADS).transpose(1, 3).unbind(2)
                attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
                x = x + block.out(attended.transpose(1, 2).reshape(1, -1, WIDTH))
                x = x + block.ffn(block.ln2(x))
            return F.linear(self.norm(x[:, -1:]), self.embed.weight)

    return Model().eval()


def check(torch):
    """The cache must change nothing."""
    model = make_model(20)
    tokens = torch.randint(VOCABULARY, (1, 20))
    for position in range(20):
        logits = model(tokens[:, position : position + 1], position)
    worst = (logits - model.recompute(tokens)).abs().max().item()
    if worst > 1e-4:
        sys.exit(f"decode.py: decoding differs from a pass over the text by {worst}")


def time_torch(torch, context, tokens, rounds, clock):
    model = make_model(context)
    text = torch.randint(VOCABULARY, (tokens, 1, 1))
    samples = []
    for _ in range(rounds + 1):  # the first warms up
        begin = clock()
        for i in range(tokens):
            model(text[i], context - tokens + i)
        samples.append((clock() - begin) * 1e3 / tokens)
    return statistics.median(samples[1:])


def time_dirigo(arguments, context):
    command = [arguments.dirigo, "bench", "decode", "--json", "--lengths", str(context), "--threads", str(arguments.threads),
               "--tokens", str(arguments.tokens), "--rounds", str(arguments.rounds)]
    output = subprocess.run(command + ["--cpu-time"] * arguments.cpu_time, check=True, capture_output=True, text=True).stdout
    return {row["routing"]: row["median_ms"] for row in json.loads(output)["results"] if "routing" in row}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dirigo", default="build/release/dirigo")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 16384], help="context lengths")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--tokens", type=int, default=32, help="tokens of a sample")
    parser.add_argument("--rounds", type=int, default=15, help="samples")
    parser.add_argument("--cpu-time", action="store_true", help="processor time: for one thread on a busy machine")
    arguments = parser.parse_args()
    if arguments.cpu_time and arguments.threads != 1:
        parser.error("--cpu-time: expected with --threads 1")
    import torch
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(1)
    with torch.inference_mode():
        check(torch)
        print(f"torch {torch.__version__}, {arguments.threads} threads, ms per token (torch / dirigo)")
        for context in arguments.lengths:
            clock = time.process_time if arguments.cpu_time else time.perf_counter
            theirs = time_torch(torch, context, arguments.tokens, arguments.rounds, clock)
            ours = time_dirigo(arguments, context)
            columns = "  ".join(f"{name} {ms:.4f} ({theirs / ms:.1f})" for name, ms in ours.items())
            print(f"context {context:6}: torch full {theirs:.4f}  {columns}")


if __name__ == "__main__":
    main()
