#!/usr/bin/env python3
"""The Dirigo language model in PyTorch: an independent check of a trained run.

Loads a run directory (config.json, model.safetensors), evaluates a text in independent windows of max_len bytes and,
with --compare, checks the per-byte NLL and the routing written by `dirigo score`. Needs torch, safetensors and numpy.
Shapes: B batch, T positions, D width, H heads, d = D/H, K = 3 experts in the order full, linear, local.
"""
import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file

EXPERTS = ("full", "linear", "local")
NLL_TOLERANCE = 1e-4  # nats per byte
MARGIN = 1e-5         # a choice may differ only where the two largest weights are closer than this


@dataclasses.dataclass
class Config:
    vocabulary: int = 256
    d_model: int = 128
    layers: int = 2
    heads: int = 4
    ffn_multiplier: int = 4
    max_len: int = 256
    positions: str = "learned"       # learned | rotary | window_bias
    projections: str = "shared"      # shared | per_expert
    window: int = 32
    kind: str = "bayes"              # bayes | softmax | gumbel | static | prior_mixture
    expert: str = "full"             # of the static router
    posterior: str = "free"          # additive | free
    hidden: int = 64
    costs: tuple = (1.0, 0.15, 0.30)
    eps: float = 0.01
    beta0: float = 1.0
    dropout_inner: float = 0.0       # embedding sum and the FFN's hidden units
    dropout_output: float = 0.0      # FFN output

    def prior(self, like):
        """beta_k = eps + beta0 (1 - c_k), as (K)."""
        return self.eps + self.beta0 * (1 - torch.as_tensor(self.costs, dtype=like.dtype, device=like.device))


# ---- experts: q, k, v (B,H,T,d) -> (B,H,T,d) ----

def full(q, k, v, _window, _bias=None):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def local(q, k, v, window, bias=None):
    """bias (H,window): what is added to the score of the key at each distance."""
    i = torch.arange(q.shape[2], device=q.device)
    gap = i[:, None] - i
    mask = (gap >= 0) & (gap < window)
    if bias is not None:
        mask = torch.where(mask, bias[:, gap.clamp(0, window - 1)], -math.inf)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def rotary(x):
    """x (B,H,T,d): the pairs (c, c + d/2) turned by t 10000^(-2c/d)."""
    half = x.shape[-1] // 2
    t = torch.arange(x.shape[2], device=x.device, dtype=torch.float64)[:, None]
    angle = t * 10000 ** -(torch.arange(half, device=x.device, dtype=torch.float64) / half)
    cosine, sine = angle.cos().to(x), angle.sin().to(x)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cosine - b * sine, a * sine + b * cosine], -1)


def phi(u):
    """ELU(u)+1 without the rounding of expm1+1."""
    return F.relu(u) + u.clamp(max=0).exp()


def linear(q, k, v, _window, _bias=None, chunk=32):
    """Quadratic inside a chunk, running sums between chunks; the column of ones appended to v gives the denominator."""
    T = q.shape[2]
    if T <= 2 * chunk:  # one chunk is faster
        chunk = T
    q, k, v = (F.pad(u, (0, 0, 0, -T % chunk)).unflatten(2, (-1, chunk))          # (B,H,T/chunk,chunk,.)
               for u in (phi(q), phi(k), F.pad(v, (0, 1), value=1.0)))
    out = (q @ k.mT).tril() @ v
    if chunk < T:
        state = k.mT @ v
        out = out + q @ (state.cumsum(2) - state)                                 # sums over the earlier chunks
    return (out[..., :-1] / out[..., -1:].clamp_min(1e-20)).flatten(2, 3)[:, :, :T]


# ---- modules, named as the tensors of a run ----

class Projections(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads = c.heads
        self.q, self.k, self.v, self.o = (nn.Linear(c.d_model, c.d_model, bias=False) for _ in range(4))

    def split(self, y):
        return [p(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q, self.k, self.v)]

    def merge(self, heads):
        return self.o(heads.transpose(1, 2).flatten(2))


class TwoLayers(nn.Module):
    """fc2(GELU(fc1)): the controller and the feed-forward network."""

    def __init__(self, d_in, d_hidden, d_out, dropout=0.0):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(d_in, d_hidden), nn.Linear(d_hidden, d_out)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return self.fc2(self.dropout(F.gelu(self.fc1(x))))


@dataclasses.dataclass
class Routing:
    mean: torch.Tensor                  # m (B,T,K)
    concentration: torch.Tensor | None  # bhat (B,T,K) of a Bayesian router


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.config = c
        self.ln1, self.ln2 = nn.LayerNorm(c.d_model), nn.LayerNorm(c.d_model)
        self.experts = [k for k in EXPERTS if c.kind != "static" or k == c.expert]
        self.attn = (Projections(c) if c.projections == "shared"
                     else nn.ModuleDict({name: Projections(c) for name in self.experts}))
        if c.positions == "window_bias" and "local" in self.experts:
            self.attn.register_parameter("window_bias", nn.Parameter(torch.zeros(c.heads, c.window)))
        if c.kind not in ("static", "prior_mixture"):
            self.controller = TwoLayers(c.d_model + 2, c.hidden, len(EXPERTS))
        self.ffn = TwoLayers(c.d_model, c.ffn_multiplier * c.d_model, c.d_model, c.dropout_inner)
        self.dropout = nn.Dropout(c.dropout_output)

    def route(self, x, y):
        """x: residual stream, y = ln1(x)."""
        c, (B, T, D) = self.config, x.shape
        if c.kind == "static":
            one_hot = F.one_hot(torch.tensor(EXPERTS.index(c.expert)), len(EXPERTS)).to(y)
            return Routing(one_hot.expand(B, T, -1), None)
        beta = c.prior(y)
        if c.kind == "prior_mixture":
            return Routing((beta / beta.sum()).expand(B, T, -1), None)
        salience = x.detach().norm(dim=-1, keepdim=True) / math.sqrt(D)
        t = torch.arange(T, device=x.device).to(y)
        position = t / c.max_len if c.positions == "learned" else t.log1p() / math.log1p(c.max_len)
        position = position[None, :, None].expand(B, T, 1)
        h = self.controller(torch.cat([y, salience, position], dim=-1))
        if c.kind in ("softmax", "gumbel"):
            return Routing(h.softmax(-1), None)
        b = (beta if c.posterior == "additive" else c.eps) + F.softplus(h)
        return Routing(b / b.sum(-1, keepdim=True), b)

    def weights(self, routing, mode):
        """What the experts' outputs are mixed with, (B,T,K)."""
        if mode == "hard":
            return F.one_hot(choice(routing.mean, self.config.costs), len(EXPERTS)).to(routing.mean)
        if mode == "sample" and routing.concentration is not None:
            return torch.distributions.Dirichlet(routing.concentration, validate_args=False).rsample().clamp_min(1e-8)
        return routing.mean

    def attend(self, y, weights):
        run = {"full": full, "linear": linear, "local": local}
        w, c = weights[..., None], self.config
        bias = getattr(self.attn, "window_bias", None)

        def core(name, q, k, v):
            if c.positions == "rotary" and name != "linear":
                q, k = rotary(q), rotary(k)
            return run[name](q, k, v, c.window, bias)

        column = {name: w[:, :, EXPERTS.index(name)] for name in self.experts}                  # (B,T,1) each
        if c.projections == "per_expert":
            return sum(column[name] * p.merge(core(name, *p.split(y))) for name, p in self.attn.items())
        q, k, v = self.attn.split(y)
        return self.attn.merge(sum(column[name][:, None] * core(name, q, k, v) for name in self.experts))

    def forward(self, x, mode):
        y = self.ln1(x)
        routing = self.route(x, y)
        x = x + self.attend(y, self.weights(routing, mode))
        return x + self.dropout(self.ffn(self.ln2(x))), routing


class LanguageModel(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.config = c
        self.embed = nn.Embedding(c.vocabulary, c.d_model)
        self.pos = nn.Embedding(c.max_len, c.d_model) if c.positions == "learned" else None
        self.dropout = nn.Dropout(c.dropout_inner)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.ln_f = nn.LayerNorm(c.d_model)

    def forward(self, ids, mode="soft"):
        """ids (B,T), mode soft | hard | sample -> logits (B,T,V), one Routing per layer."""
        x = self.embed(ids)
        x = self.dropout(x if self.pos is None else x + self.pos.weight[:ids.shape[1]])
        routing = []
        for block in self.blocks:
            x, r = block(x, mode)
            routing.append(r)
        return F.linear(self.ln_f(x), self.embed.weight), routing


def choice(mean, costs):
    """argmax over experts; ties go to the lowest cost, then the lowest index."""
    order = torch.tensor(sorted(range(len(costs)), key=lambda k: (costs[k], k)), device=mean.device)
    return order[mean[..., order].argmax(-1)]


# ---- a run directory ----

def load_run(directory, dtype=torch.float64, weights="model.safetensors"):
    """Returns the model in evaluation mode and its vocabulary, the byte of each id."""
    document = json.loads((Path(directory) / "config.json").read_text())
    sections = document.get("config", document)
    model_section = sections["model"]
    if not model_section.get("tie_embeddings", True):
        raise ValueError("config.json: expected tied embeddings")
    fields = {f.name for f in dataclasses.fields(Config)} - {"vocabulary"}
    found = {key: value for section in ("model", "attention", "router")
             for key, value in sections.get(section, {}).items() if key in fields}
    if isinstance(found.get("costs"), dict):
        found["costs"] = [found["costs"][name] for name in EXPERTS]
    tensors = load_file(Path(directory) / weights)
    config = Config(vocabulary=tensors["embed.weight"].shape[0], **found)
    if sections["router"].get("cost_model", "nominal") == "analytic":
        config.costs = analytic_costs(config)

    model = LanguageModel(config)
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    # A static or prior-mixture run may still carry the controller and experts that it does not use.
    unexpected = [name for name in unexpected if ".controller." not in name and ".attn." not in name]
    if missing or unexpected:
        raise ValueError(f"tensor names differ: missing {missing}, unexpected {unexpected}")
    return model.to(dtype).eval(), read_vocabulary(document, sections, config.vocabulary)


def analytic_costs(c):
    """c_k = (4 D^2 + core_k) / max_j (4 D^2 + core_j), multiply-adds of one query, causal mean at max_len."""
    T, D, d = c.max_len, c.d_model, c.d_model // c.heads
    core = [(T + 1) * D, 2 * D * (d + 1), sum(2 * min(t + 1, c.window) * D for t in range(T)) / T]
    total = [4 * D * D + each for each in core]
    return [each / max(total) for each in total]


def read_vocabulary(document, sections, size):
    """The list of bytes, wherever config.json keeps it; without one, ids are the bytes themselves."""
    for holder in (document, sections, sections.get("model", {}), sections.get("data", {})):
        value = holder.get("vocabulary")
        if isinstance(value, dict):
            value = value.get("bytes")
        if isinstance(value, list):
            if len(value) != size:
                raise ValueError(f"vocabulary: expected {size} bytes, got {len(value)}")
            return value
    return list(range(size))


@torch.no_grad()
def evaluate(model, vocabulary, text, mode, batch=16):
    """text: bytes. Returns the indices of the known bytes (n), their nll (n; NaN at each window's start) and
    m per layer (n,L,K). Windows of max_len are independent."""
    id_of = {byte: i for i, byte in enumerate(vocabulary)}
    kept = [i for i, byte in enumerate(text) if byte in id_of]
    ids = torch.tensor([id_of[text[i]] for i in kept], dtype=torch.long)
    T = model.config.max_len
    whole = len(ids) // T * T
    groups = list(ids[:whole].view(-1, T).split(batch)) + ([ids[None, whole:]] if whole < len(ids) else [])
    nll, mean = [], []
    for window in groups:
        logits, routing = model(window, mode)
        loss = F.cross_entropy(logits[:, :-1].mT, window[:, 1:], reduction="none")
        nll.append(F.pad(loss, (1, 0), value=math.nan).flatten())
        mean.append(torch.stack([r.mean for r in routing], dim=2).flatten(0, 1))
    return kept, torch.cat(nll), torch.cat(mean)


def compare(model, kept, nll, mean, lines):
    """Against the lines of `dirigo score`; prints the differences and returns whether they are within bounds."""
    skipped = {i for i, line in enumerate(lines) if line.get("skipped")}
    if skipped != set(range(len(lines))) - set(kept):
        raise ValueError("the score file marks other bytes as skipped, or has another number of lines than the text")
    lines = [lines[i] for i in kept]
    theirs = torch.tensor([math.nan if line["nll"] is None else line["nll"] for line in lines], dtype=nll.dtype)
    if not torch.equal(theirs.isnan(), nll.isnan()):
        raise ValueError("nll is null at other positions: windows do not agree")
    weights = torch.tensor([[layer["weights"] for layer in line["layers"]] for line in lines], dtype=mean.dtype)
    chosen = torch.tensor([[EXPERTS.index(layer["chosen"]) for layer in line["layers"]] for line in lines])
    differs = chosen != choice(mean, model.config.costs)
    top = mean.topk(2, dim=-1).values
    clear = differs & (top[..., 0] - top[..., 1] > MARGIN)
    worst = (theirs - nll).abs().nan_to_num(0).max().item()
    print(f"bytes compared               {len(lines)}")
    print(f"nll, mean                    {nll.nanmean():.6f} here, {theirs.nanmean():.6f} in the file")
    print(f"nll, max abs difference      {worst:.3g} (bound {NLL_TOLERANCE:g})")
    print(f"weights, max abs difference  {(weights - mean).abs().max():.3g}")
    print(f"differing choices            {differs.sum()} of {differs.numel()}, {clear.sum()} beyond the margin {MARGIN:g}")
    return worst <= NLL_TOLERANCE and not clear.any()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", help="run directory")
    parser.add_argument("--text", help="file of bytes to evaluate")
    parser.add_argument("--routing", choices=("soft", "hard"), default="soft")
    parser.add_argument("--compare", metavar="FILE.jsonl", help="output of `dirigo score` for the same text and routing")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64")
    parser.add_argument("--weights", default="model.safetensors", help="file in the run directory")
    parser.add_argument("--self-test", action="store_true", help="check the model against slow_model.py")
    args = parser.parse_args()
    if args.self_test:
        import slow_model
        return slow_model.self_test()
    if not (args.run and args.text):
        parser.error("RUN and --text are required")
    model, vocabulary = load_run(args.run, getattr(torch, args.dtype), args.weights)
    kept, nll, mean = evaluate(model, vocabulary, Path(args.text).read_bytes(), args.routing)
    if args.compare:
        with open(args.compare) as file:
            return 0 if compare(model, kept, nll, mean, [json.loads(line) for line in file]) else 1
    print(f"bytes {len(kept)}  nll {nll.nanmean():.6f}  ({args.routing} routing)")
    for l, m in enumerate(mean.unbind(1)):
        share = F.one_hot(choice(m, model.config.costs), len(EXPERTS)).to(m).mean(0)
        print(f"layer {l}  " + "  ".join(f"{n}: mean {a:.4f} argmax {b:.4f}" for n, a, b in zip(EXPERTS, m.mean(0), share)))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, KeyError, OSError) as error:
        print(f"torch_model: {error}", file=sys.stderr)
        sys.exit(2)
