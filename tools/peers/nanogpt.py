#!/usr/bin/env python3
"""A character-level GPT in PyTorch with the size, data and optimiser of the preset `nanogpt-laptop`: 4 layers, 4 heads,
D = 128, T = 64, batch 12, AdamW with warm-up and cosine, 2000 iterations. Prints the wall time of the training loop
without its evaluations and the loss on the last 10% of the text, all positions of consecutive windows, as `dirigo eval`."""
import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
LAYERS, HEADS, WIDTH, LENGTH, BATCH = 4, 4, 128, 64, 12
ITERATIONS, PEAK_LR, LEAST_LR, WARM_UP, BETAS, DECAY, CLIP = 2000, 1e-3, 1e-4, 100, (0.9, 0.99), 0.1, 1.0


def make_model(torch, vocabulary):
    nn, F = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln1, self.ln2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
            self.ffn = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

        def forward(self, x):
            q, k, v = (u.unflatten(-1, (HEADS, -1)).transpose(1, 2) for u in self.qkv(self.ln1(x)).chunk(3, -1))
            heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(heads.transpose(1, 2).flatten(2))
            return x + self.ffn(self.ln2(x))

    class Gpt(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.pos = nn.Embedding(vocabulary, WIDTH), nn.Embedding(LENGTH, WIDTH)
            self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
            self.ln = nn.LayerNorm(WIDTH)

        def forward(self, ids, targets):
            x = self.blocks(self.embed(ids) + self.pos.weight[:ids.shape[1]])
            logits = F.linear(self.ln(x), self.embed.weight)
            return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def initialise(module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)

    return Gpt().apply(initialise)


def learning_rate(step, steps):
    if step < WARM_UP:
        return PEAK_LR * (step + 1) / WARM_UP
    progress = min(1.0, (step - WARM_UP) / max(1, steps - 1 - WARM_UP))
    return LEAST_LR + (PEAK_LR - LEAST_LR) * (1 + math.cos(math.pi * progress)) / 2


def batch_of(torch, text):
    begins = torch.randint(len(text) - LENGTH, (BATCH, 1))
    windows = text[begins + torch.arange(LENGTH + 1)]
    return windows[:, :-1], windows[:, 1:]


def held_out_loss(torch, model, text):
    count = (len(text) - 1) // LENGTH
    ids, targets = (text[i:i + count * LENGTH].view(count, LENGTH) for i in (0, 1))
    with torch.no_grad():
        sums = [model(x, y).item() * len(x) for x, y in zip(ids.split(64), targets.split(64))]
    return sum(sums) / count


def train(args):
    import torch
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(args.seed)
    raw = Path(args.corpus).read_bytes()
    ids = {byte: i for i, byte in enumerate(sorted(set(raw)))}
    text = torch.tensor([ids[byte] for byte in raw])
    split = len(text) * 9 // 10
    model = make_model(torch, len(ids))
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    optimiser = torch.optim.AdamW([{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}],
                                  lr=PEAK_LR, betas=BETAS, fused=True)
    loss_of = torch.compile(model, dynamic=False) if args.compile else model
    if args.compile:  # compiling is not timed
        loss_of(*batch_of(torch, text[:split])).backward()
        optimiser.zero_grad()
    wall, cpu = time.perf_counter(), time.process_time()
    for step in range(args.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, args.steps)
        loss = loss_of(*batch_of(torch, text[:split]))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        optimiser.zero_grad()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"side": "torch compiled" if args.compile else "torch eager", "nll": held_out_loss(torch, model, text[split:]),
            "wall_s": wall, "cpu_s": cpu, "steps": args.steps, "threads": args.threads,
            "parameters": sum(p.numel() for p in model.parameters())}


def dirigo(args):
    """The preset, trained and evaluated by the command; the time is of the whole process, evaluations included."""
    import resource
    import tempfile
    with tempfile.TemporaryDirectory() as directory:
        run = Path(directory) / "run"
        command = [args.dirigo, "train", "--preset", "nanogpt-laptop", "--corpus", args.corpus, "--out", run, "--threads",
                   args.threads, "--steps", args.steps, "--seed", args.seed, "--eval-every", 0, "--json"]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        evaluation = subprocess.run([str(part) for part in (args.dirigo, "eval", run, "--json", "--threads", args.threads)],
                                    check=True, stdout=subprocess.PIPE, text=True)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"side": "dirigo", "nll": json.loads(evaluation.stdout)["nll"], "wall_s": wall, "cpu_s": cpu,
            "steps": args.steps, "threads": args.threads}


# What nanoGPT's README has for a laptop, but for the length of the log.
NANOGPT = ["config/train_shakespeare_char.py", "--device=cpu", "--compile=False", "--eval_iters=20", "--log_interval=100",
           "--block_size=64", "--batch_size=12", "--n_layer=4", "--n_head=4", "--n_embd=128", "--dropout=0.0"]


def nanogpt(args):
    """nanoGPT's own code, from a checkout; the time is of its whole process, evaluations included."""
    import resource
    import shutil
    import tempfile
    import torch
    data = Path(args.nanogpt) / "data/shakespeare_char"
    shutil.copyfile(args.corpus, data / "input.txt")
    subprocess.run([sys.executable, "prepare.py"], cwd=data, check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "train.py", *NANOGPT, f"--max_iters={args.steps}", f"--lr_decay_iters={args.steps}",
                   f"--out_dir={directory}"]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, cwd=args.nanogpt, check=True, stdout=subprocess.DEVNULL,
                       env=os.environ | {"OMP_NUM_THREADS": str(args.threads)})
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        saved = torch.load(Path(directory) / "ckpt.pt", weights_only=False)
    sys.path.insert(0, str(args.nanogpt))
    from model import GPT, GPTConfig
    model = GPT(GPTConfig(**saved["model_args"]))
    model.load_state_dict(saved["model"])
    model.eval()
    raw = Path(args.corpus).read_bytes()
    ids = {byte: i for i, byte in enumerate(sorted(set(raw)))}
    text = torch.tensor([ids[byte] for byte in raw])[len(raw) * 9 // 10:]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"side": "nanogpt", "nll": held_out_loss(torch, lambda x, y: model(x, y)[1], text), "wall_s": wall, "cpu_s": cpu,
            "steps": args.steps, "threads": args.threads}


def main():
    from torch_step import ALLOCATOR
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", required=True, help="tiny Shakespeare")
    parser.add_argument("--side", nargs="+", choices=("dirigo", "eager", "compiled", "nanogpt"), default=["dirigo", "eager"])
    parser.add_argument("--dirigo", default=HERE.parent.parent / "build/release/dirigo", help="the command to time")
    parser.add_argument("--nanogpt", help="a checkout of github.com/karpathy/nanoGPT, for that side")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=ITERATIONS)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if any(name not in os.environ for name in ALLOCATOR):
        os.execve(sys.executable, [sys.executable, *sys.argv], ALLOCATOR | os.environ)
    if "nanogpt" in args.side and not (args.nanogpt and Path(args.nanogpt, "train.py").exists()):
        sys.exit(f"nanogpt: --nanogpt: expected a checkout with train.py, got {args.nanogpt}")
    for side in args.side:
        args.compile = side == "compiled"
        print(json.dumps({"dirigo": dirigo, "nanogpt": nanogpt}.get(side, train)(args)), flush=True)


if __name__ == "__main__":
    main()
