#!/usr/bin/env python3
"""Times one PyTorch training step of a Dirigo preset: forward with sampled soft routing, cross-entropy plus
w_kl KL(q||prior), backward, clipping where the preset has it, Adam. Random tokens; straight-through off."""
import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch.distributions import Dirichlet, kl_divergence

from torch_model import Config, LanguageModel

BATCH = 32
# model settings, w_kl, clipping norm (None: off)
PRESETS = {
    "paper": (dict(max_len=64, projections="per_expert", posterior="additive", dropout_inner=0.1, dropout_output=0.1), 1.0, None),
    "tiny": (dict(max_len=256, dropout_output=0.1), 0.003, 1.0),
    "recall": (dict(max_len=256, dropout_output=0.1, vocabulary=64), 0.003, 1.0),
}


def loss_of(model, w_kl, ids, targets):
    logits, routing = model(ids, "sample")
    prior = Dirichlet(model.config.prior(logits), validate_args=False)
    kl = sum(kl_divergence(Dirichlet(r.concentration, validate_args=False), prior).mean() for r in routing)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten()) + w_kl * kl


def initialise(module):
    """Weights N(0, 0.02), biases zero."""
    if isinstance(module, (torch.nn.Linear, torch.nn.Embedding)):
        torch.nn.init.normal_(module.weight, std=0.02)
        if getattr(module, "bias", None) is not None:
            torch.nn.init.zeros_(module.bias)


def time_steps(preset, steps, warm_up, vocabulary=None, compiled=False):
    """Returns the milliseconds of each timed step and the last loss."""
    settings, w_kl, clip = PRESETS[preset]
    if vocabulary:
        settings = settings | {"vocabulary": vocabulary}
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    config = Config(**settings)
    model = LanguageModel(config).apply(initialise).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    objective = torch.compile(loss_of) if compiled else loss_of
    milliseconds = []
    for _ in range(warm_up + steps):
        tokens = torch.randint(config.vocabulary, (BATCH, config.max_len + 1))
        start = time.perf_counter()
        loss = objective(model, w_kl, tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimiser.step()
        optimiser.zero_grad()
        milliseconds.append((time.perf_counter() - start) * 1e3)
    return milliseconds[warm_up:], loss.item()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before the timed ones")
    parser.add_argument("--vocabulary", type=int, help="default: 64 for recall, otherwise 256")
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    times, loss = time_steps(args.preset, args.steps, args.warm_up, args.vocabulary, args.compile)
    median = statistics.median(times)
    low, _, high = statistics.quantiles(times, n=4) if len(times) > 1 else (median,) * 3
    spread = (high - low) / median
    if args.json:
        print(json.dumps({"preset": args.preset, "threads": args.threads, "compile": args.compile, "steps": args.steps,
                          "median_ms": median, "spread": spread, "torch": torch.__version__}))
    else:
        print(f"{args.preset}  {args.threads} threads{'  compiled' if args.compile else ''}: "
              f"median {median:.1f} ms, interquartile range {100 * spread:.1f}% of it, {args.steps} steps, last loss {loss:.3f}")


if __name__ == "__main__":
    main()
