#!/usr/bin/env python3
"""Times one PyTorch training step of a Dirigo configuration: forward with (sampled) soft routing, cross-entropy plus
w_kl KL(q||prior), backward, clipping where the preset has it, Adam. Random tokens; straight-through off."""
import argparse
import json
import os
import statistics
import sys
import time

# glibc hands large blocks back to the system on every free: without this each step pays for page faults.
# It is read when the process starts, so the process starts itself again.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "4294967296", "MALLOC_TOP_PAD_": "67108864"}

BATCH = 32
# model settings, w_kl, clipping norm (None: off). The yardstick is the step that the speed work is held against: shared
# projections, T = 64, a softmax router; yardstick-kl the same with Dirichlet sampling and KL.
PRESETS = {
    "paper": (dict(max_len=64, projections="per_expert", posterior="additive", dropout_inner=0.1, dropout_output=0.1), 1.0, None),
    "tiny": (dict(max_len=256, positions="window_bias", dropout_output=0.1), 0.003, 1.0),
    "yardstick": (dict(max_len=64, window=16, kind="softmax"), 0.0, None),
    "yardstick-kl": (dict(max_len=64, window=16), 0.003, None),
}
MODES = ("eager", "default", "max-autotune")  # the last two: torch.compile with this mode


def loss_of(model, w_kl, ids, targets):
    from torch.distributions import Dirichlet, kl_divergence
    import torch.nn.functional as F
    logits, routing = model(ids, "sample")
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    if not w_kl:
        return loss
    prior = Dirichlet(model.config.prior(logits), validate_args=False)
    kl = sum(kl_divergence(Dirichlet(r.concentration, validate_args=False), prior).mean() for r in routing)
    return loss + w_kl * kl


class Step:
    """A model with its optimiser; calling it runs one step on new random tokens and returns its milliseconds."""

    def __init__(self, preset, mode, vocabulary=None):
        import torch
        from torch_model import Config, LanguageModel
        self.torch = torch
        settings, self.w_kl, self.clip = PRESETS[preset]
        self.config = Config(**settings | ({"vocabulary": vocabulary} if vocabulary else {}))
        torch.manual_seed(0)
        torch.set_flush_denormal(True)
        self.model = LanguageModel(self.config).apply(self.initialise).train()
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=1e-3, fused=True)
        self.objective = loss_of if mode == "eager" else torch.compile(loss_of, mode=mode, dynamic=False)
        self.loss = None

    def initialise(self, module):
        """Weights N(0, 0.02), biases zero."""
        nn = self.torch.nn
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)

    def __call__(self):
        tokens = self.torch.randint(self.config.vocabulary, (BATCH, self.config.max_len + 1))
        ids, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        start, cpu = time.perf_counter(), time.process_time()
        self.loss = self.objective(self.model, self.w_kl, ids, targets)
        self.loss.backward()
        if self.clip:
            self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return (time.perf_counter() - start) * 1e3, (time.process_time() - cpu) * 1e3


def measure(step, steps):
    wall, cpu = zip(*(step() for _ in range(steps)))
    low, _, high = statistics.quantiles(wall, n=4) if steps > 1 else (wall[0],) * 3
    median = statistics.median(wall)
    return {"median_ms": median, "min_ms": min(wall), "spread": (high - low) / median, "cpu_ms": statistics.median(cpu),
            "steps": steps}


def serve(step, steps):
    """Measures once for every line read: a driver can alternate without compiling again."""
    for _ in sys.stdin:
        print(json.dumps(measure(step, steps)), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before the timed ones")
    parser.add_argument("--vocabulary", type=int, help="default: 256")
    parser.add_argument("--mode", choices=MODES, default="eager", help="eager, or a mode of torch.compile")
    parser.add_argument("--compile", dest="mode", action="store_const", const="default", help="--mode default")
    parser.add_argument("--serve", action="store_true", help="time --steps steps for every line on stdin, one JSON line each")
    parser.add_argument("--plain", action="store_true", help="leave the settings of malloc as they are")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not args.plain and any(name not in os.environ for name in ALLOCATOR):
        os.execve(sys.executable, [sys.executable, *sys.argv], ALLOCATOR | os.environ)
    import torch
    torch.set_num_threads(args.threads)
    start = time.perf_counter()
    step = Step(args.preset, args.mode, args.vocabulary)
    for _ in range(args.warm_up):
        step()
    prepared = time.perf_counter() - start
    if args.serve:
        print(json.dumps({"prepared_s": prepared, "torch": torch.__version__}), flush=True)
        return serve(step, args.steps)
    result = measure(step, args.steps)
    if args.json:
        print(json.dumps({"preset": args.preset, "threads": args.threads, "mode": args.mode,
                          "compile": args.mode != "eager", "prepared_s": prepared, "torch": torch.__version__} | result))
    else:
        print(f"{args.preset}  {args.threads} threads  {args.mode}: median {result['median_ms']:.1f} ms, quartiles "
              f"{100 * result['spread']:.1f}% of it, CPU {result['cpu_ms']:.1f} ms, {args.steps} steps, "
              f"last loss {step.loss.item():.3f}, ready after {prepared:.0f} s")


if __name__ == "__main__":
    main()
