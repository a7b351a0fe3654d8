"""The same model as a plain loop over positions in double, and the self-test of torch_model.py against it.

Written from the equations only (numpy, no PyTorch operation), so that an error in one is not repeated in the other:
position t is computed from positions <= t alone, with the linear expert as running sums.
"""
import itertools
import json
import math
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

import torch_model
from torch_model import EXPERTS, Config, LanguageModel

erf = np.vectorize(math.erf, otypes=[float])


def gelu(u):
    return 0.5 * u * (1 + erf(u / math.sqrt(2)))


def softmax(u):
    e = np.exp(u - u.max())
    return e / e.sum()


def layer_norm(x, w, name):
    return (x - x.mean()) / math.sqrt(x.var() + 1e-5) * w[name + ".weight"] + w[name + ".bias"]


def two_layers(x, w, name):
    h = gelu(w[name + ".fc1.weight"] @ x + w[name + ".fc1.bias"])
    return w[name + ".fc2.weight"] @ h + w[name + ".fc2.bias"]


def route(x, y, t, w, block, c):
    """m at one position."""
    beta = np.array([c.eps + c.beta0 * (1 - cost) for cost in c.costs])
    if c.kind == "static":
        return np.array([float(name == c.expert) for name in EXPERTS])
    if c.kind == "prior_mixture":
        return beta / beta.sum()
    position = t / c.max_len if c.positions == "learned" else math.log(1 + t) / math.log(1 + c.max_len)
    features = np.concatenate([y, [math.sqrt((x * x).sum() / len(x)), position]])
    h = two_layers(features, w, block + ".controller")
    if c.kind != "bayes":
        return softmax(h)
    b = np.log1p(np.exp(h)) + (beta if c.posterior == "additive" else c.eps)
    return b / b.sum()


def turned(x, t):
    """Each pair (c, c + d/2) as a complex number times e^{i t theta_c}."""
    half = len(x) // 2
    z = [complex(x[c], x[c + half]) * complex(math.cos(t * f), math.sin(t * f))
         for c, f in ((c, 10000 ** (-2 * c / len(x))) for c in range(half))]
    return np.array([u.real for u in z] + [u.imag for u in z])


def expert_head(expert, q, ks, vs, window, positions="learned", bias=None):
    """Output at the last position of one head: q (d), ks and vs lists of (d), bias (window) by distance."""
    if expert == "linear":
        phi = lambda u: np.array([e + 1 if e > 0 else math.exp(e) for e in u])
        S, z = np.zeros((len(q), len(q))), np.zeros(len(q))
        for k, v in zip(ks, vs):
            S += np.outer(phi(k), v)
            z += phi(k)
        return S.T @ phi(q) / max(z @ phi(q), 1e-20)
    first = max(0, len(ks) - window) if expert == "local" else 0
    if positions == "rotary":
        q, ks = turned(q, len(ks) - 1), [turned(k, t) for t, k in enumerate(ks)]
    scores = np.array([q @ k for k in ks[first:]]) / math.sqrt(len(q))
    if expert == "local" and bias is not None:
        scores += [bias[len(ks) - 1 - j] for j in range(first, len(ks))]
    a = softmax(scores)
    return sum(p * v for p, v in zip(a, vs[first:]))


def attend(ys, weights, w, block, c):
    """ys: ln1 outputs up to and including t; weights (K) at t."""
    d, total = c.d_model // c.heads, np.zeros(c.d_model)
    for expert, weight in zip(EXPERTS, weights):
        if c.kind == "static" and expert != c.expert:
            continue
        name = block + ".attn." + (expert + "." if c.projections == "per_expert" else "")
        q, ks, vs = (w[name + "q.weight"] @ ys[-1], [w[name + "k.weight"] @ y for y in ys],
                     [w[name + "v.weight"] @ y for y in ys])
        bias = w.get(block + ".attn.window_bias", [None] * c.heads)
        heads = [expert_head(expert, q[s], [k[s] for k in ks], [v[s] for v in vs], c.window, c.positions, bias[h])
                 for h, s in ((h, slice(h * d, (h + 1) * d)) for h in range(c.heads))]
        total += weight * (w[name + "o.weight"] @ np.concatenate(heads))
    return total


def slow_forward(w, c, ids, mode):
    """Returns logits (T,V) and m (T,L,K)."""
    history = [[] for _ in range(c.layers)]                  # ln1 outputs so far, per layer
    logits, means = [], []
    for t, token in enumerate(ids):
        x = w["embed.weight"][token] + (w["pos.weight"][t] if c.positions == "learned" else 0)
        row = []
        for l in range(c.layers):
            block = f"blocks.{l}"
            y = layer_norm(x, w, block + ".ln1")
            history[l].append(y)
            m = route(x, y, t, w, block, c)
            row.append(m)
            best = min(range(len(m)), key=lambda k: (-m[k], c.costs[k], k))
            weights = np.eye(len(m))[best] if mode == "hard" else m
            x = x + attend(history[l], weights, w, block, c)
            x = x + two_layers(layer_norm(x, w, block + ".ln2"), w, block + ".ffn")
        logits.append(w["embed.weight"] @ layer_norm(x, w, "ln_f"))
        means.append(row)
    return np.array(logits), np.array(means)


# ---- self-test ----

def random_model(seed=0, **settings):
    torch.manual_seed(seed)
    c = Config(vocabulary=11, d_model=8, heads=2, max_len=13, window=4, hidden=6, **settings)
    model = LanguageModel(c).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.7)               # large, so that routing differs between tokens
    return model


def arms():
    for positions, projections, (kind, extra) in itertools.product(
            ("learned", "rotary", "window_bias"), ("shared", "per_expert"), (
            ("bayes", {"posterior": "additive"}), ("bayes", {"posterior": "free"}), ("softmax", {}), ("gumbel", {}),
            ("static", {"expert": "full"}), ("static", {"expert": "linear"}), ("static", {"expert": "local"}),
            ("prior_mixture", {}))):
        yield dict(positions=positions, projections=projections, kind=kind, **extra)


def check(name, worst, bound):
    print(f"{'ok  ' if worst <= bound else 'FAIL'} {name}: {worst:.2g} (bound {bound:g})")
    return worst <= bound


def equals_slow_loop():
    worst, used = 0.0, set()
    for settings, mode in itertools.product(arms(), ("soft", "hard")):
        model = random_model(**settings)
        w = {name: p.detach().numpy() for name, p in model.named_parameters()}
        ids = torch.randint(11, (2, 13))
        logits, routing = model(ids, mode)
        for b in range(2):
            slow_logits, slow_mean = slow_forward(w, model.config, ids[b].tolist(), mode)
            mean = torch.stack([r.mean[b] for r in routing], 1)
            if settings["kind"] == "bayes":
                used |= set(torch_model.choice(mean, model.config.costs).flatten().tolist())
            worst = max(worst, np.abs(logits[b].detach().numpy() - slow_logits).max(),
                        np.abs(mean.detach().numpy() - slow_mean).max())
    return check("logits and m equal the slow loop", worst, 1e-10) and check("experts never chosen by bayes", 3 - len(used), 0)


def experts_equal_loop():
    """At a length with several chunks and a ragged end."""
    torch.manual_seed(3)
    T, window, worst = 75, 9, 0.0
    q, k, v = torch.randn(3, 1, 2, T, 4, dtype=torch.float64)
    for name in EXPERTS:
        out = getattr(torch_model, name)(q, k, v, window)
        for h, t in itertools.product(range(2), range(T)):
            slow = expert_head(name, q[0, h, t].numpy(), list(k[0, h, :t + 1].numpy()), list(v[0, h, :t + 1].numpy()), window)
            worst = max(worst, np.abs(out[0, h, t].numpy() - slow).max())
    return check("experts equal the slow loop at T=75", worst, 1e-12)


def is_causal():
    worst = changed = 0.0
    for settings, mode in itertools.product(arms(), ("soft", "hard")):
        model = random_model(seed=1, **settings)
        ids = torch.randint(11, (1, 13))
        for t in range(12):
            other = ids.clone()
            other[:, t + 1:] = (other[:, t + 1:] + 1) % 11
            outputs = [torch.cat([z, *(r.mean for r in rs)], -1) for z, rs in (model(ids, mode), model(other, mode))]
            difference = (outputs[0] - outputs[1]).abs()
            worst = max(worst, difference[:, :t + 1].max().item())
            changed = max(changed, difference[:, t + 1:].max().item())
    return check("changing tokens after t changes outputs up to t by", worst, 1e-12) and changed > 0.1


def compares_a_run():
    """Writes a run directory and a score file from the slow loop: equal passes, a wrong nll or choice does not."""
    model = random_model(seed=2, posterior="additive", projections="per_expert")
    c, text = model.config, b"abcdXefghijkabckjihgfedcbaaXbbccddk"            # X is not in the vocabulary
    vocabulary = list(b"abcdefghijk")
    sections = {"model": {"d_model": 8, "layers": 2, "heads": 2, "max_len": 13, "vocabulary": "observed"},
                "attention": {"projections": "per_expert", "window": 4},
                "router": {"kind": "bayes", "posterior": "additive", "hidden": 6, "costs": [1.0, 0.15, 0.30]}}
    with tempfile.TemporaryDirectory() as run:
        save_file({k: v.float() for k, v in model.state_dict().items()}, str(Path(run) / "model.safetensors"))
        (Path(run) / "config.json").write_text(json.dumps({"config": sections, "vocabulary": vocabulary}))
        loaded, read = torch_model.load_run(run)
    w = {name: p.detach().numpy() for name, p in loaded.named_parameters()}
    ids = [vocabulary.index(byte) for byte in text if byte in vocabulary]
    rows = []
    for start in range(0, len(ids), 13):
        window = ids[start:start + 13]
        logits, means = slow_forward(w, c, window, "hard")
        nll = [None] + [-math.log(softmax(logits[t - 1])[window[t]]) for t in range(1, len(window))]
        rows += [{"nll": n, "layers": [{"weights": list(m), "chosen": EXPERTS[int(np.argmax(m))]} for m in ms]}
                 for n, ms in zip(nll, means)]
    rows.reverse()
    lines = [rows.pop() if byte in vocabulary else {"nll": None, "skipped": True} for byte in text]
    result = torch_model.evaluate(loaded, read, text, "hard")

    def passes(line=None, **change):
        copy = json.loads(json.dumps(lines))
        if line is not None:
            copy[line].update(change)
        return torch_model.compare(loaded, *result, copy)

    other = [{"weights": l["weights"], "chosen": EXPERTS[(EXPERTS.index(l["chosen"]) + 1) % 3]} for l in lines[7]["layers"]]
    ok = read == vocabulary and passes() and not passes(7, nll=lines[7]["nll"] + 2e-4) and not passes(7, layers=other)
    print(("ok  " if ok else "FAIL") + " score comparison accepts equal files and rejects wrong ones")
    return ok


def self_test():
    return 0 if all([equals_slow_loop(), experts_equal_loop(), is_causal(), compares_a_run()]) else 1
