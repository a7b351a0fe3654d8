#!/usr/bin/env python3
"""Compares the values and gradients of every operation with PyTorch's, in double precision.

Each case is run by `dirigo trace --op NAME --input FILE --json` with random inputs and a random cotangent, and by
PyTorch with autograd. Operations that PyTorch lacks are composed of its own. Printed for every operation: the number of
cases and the worst relative difference, |a - b| / max(1, max |b|) over an array b of PyTorch's, of values and gradients.
Exit code 1 if one is above its bound or an operation of the op list has no peer here, 2 if something cannot run.

What is drawn at random is given to PyTorch: dropout's mask, and the logarithms of the Gamma draws behind a Dirichlet
sample. The gradient of a draw is then compared with -(dP/da) / (x dP/dx), P = torch.special.gammainc, dP/da by a central
difference; its own error sets the bound 1e-10. torch._standard_gamma_grad, which PyTorch's samplers use, is an
approximation of it: how far it is from ours is printed too and bounds nothing. Likewise torch.polygamma(1, x), which
differentiates PyTorch's own Dirichlet entropy and divergence: the peers use torch.special.zeta(2, x), which is the same.
"""
import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
import torch.nn.functional as F

ROOT = pathlib.Path(__file__).resolve().parents[2]
VALUE_BOUND, GRADIENT_BOUND = 1e-12, 1e-12
GRADIENT_BOUNDS = {"dirichlet_rsample": 1e-10}  # a finite difference
torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)

cases = {}  # operation -> [(inputs, options)]
peers = {}  # operation -> function(inputs, options, drawn) -> output


def op(name, *examples):
    """Registers a peer with its cases; an example is (shapes or arrays, options)."""

    def register(function):
        peers[name] = function
        cases[name] = [example if isinstance(example, tuple) else (example, {}) for example in examples]
        return function

    return register


def uniform(low, high, *shapes):
    return [(low, high, shape) for shape in shapes]


# --- elementwise --------------------------------------------------------------------------------------------------
BROADCAST = [[(3, 4), (3, 4)], [(3, 4), (4,)], [(2, 3, 1), (3, 4)], [(), (2, 2)], [(0, 3), (3,)], [(5, 1), (1, 7)]]


@op("add", *BROADCAST)
def add(x, o, drawn):
    return x[0] + x[1]


@op("multiply", *BROADCAST)
def multiply(x, o, drawn):
    return x[0] * x[1]


@op("scale", ([(3, 5)], {"factor": -1.7}), ([()], {"factor": 0}), ([(2, 0)], {"factor": 3}))
def scale(x, o, drawn):
    return o["factor"] * x[0]


@op("gelu", [(5, 7)], uniform(-12, 12, (9, 11)), [()], [(0, 2)])
def gelu(x, o, drawn):
    return F.gelu(x[0], approximate="none")


# torch's softplus is linear above a threshold: put it out of reach.
@op("softplus", [(5, 7)], uniform(-40, 40, (9, 11)), [np.array([-800.0, -1e-9, 0, 1e-9, 700])], [(0,)])
def softplus(x, o, drawn):
    return F.softplus(x[0], threshold=1e9)


@op("elu1", [(5, 7)], uniform(-30, 30, (9, 11)), [(2, 0)])
def elu1(x, o, drawn):
    return F.elu(x[0]) + 1


@op("dropout", ([(7, 9)], {"p": 0.1, "seed": 5}), ([(33,)], {"p": 0.5}), ([(4, 2)], {"p": 0.0}), ([(0,)], {"p": 0.5}))
def dropout(x, o, drawn):
    return x[0] * drawn["mask / (1 - p)"]


# --- reductions, shapes -------------------------------------------------------------------------------------------
REDUCE = [([(3, 4)], {}), ([(3, 4)], {"axis": 0}), ([(2, 3, 4)], {"axis": 1}), ([(2, 3, 4)], {"axis": -1}),
          ([(2, 300)], {"axis": 0}), ([(0, 3)], {"axis": 1})]


@op("sum", *REDUCE, ([(2, 0, 3)], {"axis": 1}))
def sum_(x, o, drawn):
    return x[0].sum() if o["axis"] is None else x[0].sum(o["axis"])


@op("mean", *REDUCE)
def mean(x, o, drawn):
    return x[0].mean() if o["axis"] is None else x[0].mean(o["axis"])


@op("reshape", ([(2, 6)], {"shape": [3, 4]}), ([(1, 1)], {"shape": []}), ([(0, 4)], {"shape": [2, 0, 3]}))
def reshape(x, o, drawn):
    return x[0].reshape(o["shape"])


@op("transpose", ([(3, 4)], {"axis_a": 0, "axis_b": 1}), ([(2, 3, 4)], {"axis_a": -1, "axis_b": 0}),
    ([(2, 3)], {"axis_a": 1, "axis_b": 1}), ([(0, 4)], {"axis_a": 0, "axis_b": 1}))
def transpose(x, o, drawn):
    return x[0].transpose(o["axis_a"], o["axis_b"])


@op("slice", ([(5, 3)], {"axis": 0, "begin": 1, "end": 4}), ([(2, 4, 3)], {"axis": 1, "begin": 2, "end": 4}),
    ([(2, 5)], {"axis": -1, "begin": 0, "end": 2}), ([(2, 3)], {"axis": 1, "begin": 1, "end": 1}))
def slice_(x, o, drawn):
    return x[0].narrow(o["axis"], o["begin"], o["end"] - o["begin"])


@op("concat", ([(2, 3), (1, 3)], {"axis": 0}), ([(2, 3), (2, 1), (2, 2)], {"axis": -1}),
    ([(2, 1, 3), (2, 2, 3)], {"axis": 1}), ([(2, 0), (2, 2)], {"axis": 1}))
def concat(x, o, drawn):
    return torch.cat(x, o["axis"])


# --- products -----------------------------------------------------------------------------------------------------
@op("matmul", [(3, 4), (4, 5)], ([(4, 3), (4, 5)], {"transpose_a": True}), ([(3, 4), (5, 4)], {"transpose_b": True}),
    ([(4, 3), (5, 4)], {"transpose_a": True, "transpose_b": True}), [(2, 2, 3, 2), (2, 2, 2, 3)],
    [(3, 2, 4), (4, 2)], [(0, 4), (4, 2)], [(70, 65), (65, 33)])
def matmul(x, o, drawn):
    a = x[0].mT if o["transpose_a"] else x[0]
    b = x[1].mT if o["transpose_b"] else x[1]
    return a @ b


@op("linear", [(4, 3), (5, 3), (5,)], [(4, 5), (2, 5)], [(2, 3, 4), (3, 4), (3,)], [(0, 3), (2, 3), (2,)])
def linear(x, o, drawn):
    return F.linear(*x)


# --- rows ---------------------------------------------------------------------------------------------------------
@op("softmax", [(4, 7)], [(2, 3, 5)], uniform(-30, 30, (3, 41)), [(3, 1)], [(0, 3)])
def softmax(x, o, drawn):
    return x[0].softmax(-1)


@op("normalize", uniform(0.5, 3, (4, 3)), uniform(0.01, 3, (2, 2, 5)), uniform(1, 2, (0, 3)))
def normalize(x, o, drawn):
    return x[0] / x[0].sum(-1, keepdim=True)


@op("layer_norm", [(4, 7), (7,), (7,)], ([(2, 3, 5), (5,), (5,)], {"eps": 0.1}), [(0, 3), (3,), (3,)],
    [(99, 101, (2, 6)), (6,), (6,)])
def layer_norm(x, o, drawn):
    return F.layer_norm(x[0], x[0].shape[-1:], x[1], x[2], o["eps"])


@op("embedding", ([(4, 3)], {"indices": [2, 0, 2, 3, 2]}), ([(3, 67)], {"indices": [1, 1, 0]}), ([(4, 3)], {"indices": []}))
def embedding(x, o, drawn):
    return F.embedding(torch.tensor(o["indices"], dtype=torch.long), x[0])


@op("gather_rows", ([(6, 3)], {"rows": [0, 2, 5]}), ([(3, 4)], {"rows": [1, 1, 2, 1]}), ([(4, 3)], {"rows": []}))
def gather_rows(x, o, drawn):
    return x[0].index_select(0, torch.tensor(o["rows"], dtype=torch.long))


@op("scatter_rows", ([(3, 4)], {"rows": [4, 0, 2], "row_count": 6}), ([(3, 2)], {"rows": [1, 2, 0], "row_count": 3}),
    ([(0, 3)], {"rows": [], "row_count": 2}))
def scatter_rows(x, o, drawn):
    return x[0].new_zeros(o["row_count"], x[0].shape[1]).index_copy(0, torch.tensor(o["rows"], dtype=torch.long), x[0])


@op("cross_entropy", ([(4, 7)], {"targets": [6, 0, 3, 3]}), ([(-40, 40, (2, 41))], {"targets": [40, 5]}),
    ([(2, 1)], {"targets": [0, 0]}), ([np.array([[500.0, 498, -500], [-500, -499, 3]])], {"targets": [0, 2]}))
def cross_entropy(x, o, drawn):
    return F.cross_entropy(x[0], torch.tensor(o["targets"]))


@op("mix", [(4, 3), (4, 5), (4, 5), (4, 5)], [(3, 1), (3, 4)], [(0, 2), (0, 4), (0, 4)])
def mix(x, o, drawn):
    return sum(x[0][:, k : k + 1] * expert for k, expert in enumerate(x[1:]))


@op("mix_rows", [(4, 3), (2, 5), (2, 5)],
    ([(5, 3), (4, 2), (1, 2), (3, 2)], {"experts": [0, 1, 2], "rows": [4, 0, 1, 3, 2, 2, 0, 3],
                                        "factors": [1, 1, 0], "importances": [1, 1, 4]}))
def mix_rows(x, o, drawn):
    o = {"experts": [0, 2], "rows": [0, 3, 1, 2], "factors": [1, 1], "importances": [1, 1], **o}
    w, *outputs = x
    y = torch.zeros(w.shape[0], outputs[0].shape[1])
    rows = torch.tensor(o["rows"]).split([len(e) for e in outputs])
    for r, expert, e, factor, importance in zip(rows, o["experts"], outputs, o["factors"], o["importances"]):
        column = w[r, expert, None]
        y = y.index_add(0, r, factor * e + importance * (column - column.detach()) * e.detach())
    return y


# --- categorical and Dirichlet ------------------------------------------------------------------------------------
@op("one_hot_straight_through", uniform(0, 1, (5, 3)),
    ([np.array([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4], [0.3, 0.3, 0.3]])], {"costs": [1, 0.15, 0.3]}),
    ([np.array([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4], [0.3, 0.3, 0.3]])], {"costs": []}), uniform(0, 1, (0, 3)))
def one_hot_straight_through(x, o, drawn):
    w = x[0]
    costs = torch.tensor(o["costs"] or [0.0] * w.shape[1])
    largest = w.detach() == w.detach().amax(-1, keepdim=True)
    cost = torch.where(largest, costs, torch.inf)
    first = (cost == cost.amin(-1, keepdim=True)).double().argmax(-1)  # argmax of equal entries: the first
    return F.one_hot(first, w.shape[1]).double() + w - w.detach()


@op("categorical_entropy", uniform(0.01, 1, (4, 3)), uniform(1e-6, 1, (2, 9)), uniform(0, 1, (0, 3)))
def categorical_entropy(x, o, drawn):
    return torch.special.entr(x[0]).sum(-1)


class GammaDraw(torch.autograd.Function):
    """y = log g at the given draws; dy/db by implicit differentiation of P(b, g) = constant."""

    @staticmethod
    def forward(ctx, b, y):
        ctx.save_for_backward(b, y)
        return y.clone()

    @staticmethod
    def backward(ctx, dy):
        return dy * draw_slope(*ctx.saved_tensors), None


def draw_slope(b, y):
    """-(dP/db) / (x dP/dx), with the upper tail 1 - P where it is the smaller, and sixth-order differences."""
    x, h = y.exp(), 2e-3 * b
    upper = x > b

    def tail(a):
        return torch.where(upper, -torch.special.gammaincc(a, x), torch.special.gammainc(a, x))

    d = (45 * (tail(b + h) - tail(b - h)) - 9 * (tail(b + 2 * h) - tail(b - 2 * h)) + tail(b + 3 * h) - tail(b - 3 * h))
    density = (b * y - x - torch.lgamma(b)).exp()  # x p(x)
    return -d / (60 * h) / density


@op("dirichlet_rsample", (uniform(0.4, 3, (40, 3)), {"seed": 3}), (uniform(2, 20, (20, 4)), {"seed": 4}),
    (uniform(0.1, 1, (20, 3)), {"seed": 5, "floor": 0.01}), (uniform(0.4, 3, (0, 3)), {}))
def dirichlet_rsample(x, o, drawn):
    alpha = GammaDraw.apply(x[0], drawn["log_gamma"]).softmax(-1)
    return alpha + (alpha.clamp_min(o["floor"]) - alpha).detach()  # the gradient ignores the floor


class Digamma(torch.autograd.Function):
    """psi with psi1(x) = zeta(2, x) as its derivative: torch.polygamma(1, x) is good to about 1e-10 only."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.digamma(x)

    @staticmethod
    def backward(ctx, dy):
        return dy * trigamma(*ctx.saved_tensors)


def trigamma(x):
    return torch.special.zeta(torch.tensor(2.0), x)


psi = Digamma.apply


def log_beta(b):
    return torch.lgamma(b).sum(-1) - torch.lgamma(b.sum(-1))


@op("dirichlet_kl", (uniform(0.4, 3, (4, 3)), {"prior": [0.01, 0.86, 0.71]}), (uniform(20, 60, (2, 3)), {"prior": [1, 2, 3]}),
    (uniform(0.01, 0.1, (3, 2)), {"prior": [0.7, 1.3]}), ([(0, 3)], {"prior": [1, 1, 1]}))
def dirichlet_kl(x, o, drawn):
    b, prior = x[0], torch.tensor(o["prior"], dtype=torch.float64)
    return log_beta(prior) - log_beta(b) + ((b - prior) * (psi(b) - psi(b.sum(-1, keepdim=True)))).sum(-1)


@op("dirichlet_entropy", uniform(0.4, 3, (4, 3)), uniform(20, 60, (2, 5)), uniform(0.01, 0.1, (3, 2)), uniform(1, 2, (0, 3)))
def dirichlet_entropy(x, o, drawn):
    b = x[0]
    s = b.sum(-1)
    return log_beta(b) + (s - b.shape[-1]) * psi(s) - ((b - 1) * psi(b)).sum(-1)


# --- attention ----------------------------------------------------------------------------------------------------
def heads_of(x, o):
    return [t.unflatten(-1, (o["heads"], -1)).transpose(1, 2) for t in x]  # (B, H, T, d)


def joined(y):
    return y.transpose(1, 2).flatten(2)


def lag(length):
    position = torch.arange(length)
    return position[:, None] - position[None, :]


def attention_cases(**options):
    return [([(1, 5, 3)] * 3, options), ([(2, 7, 6)] * 3, {**options, "heads": 3}), ([(1, 37, 2)] * 3, options),
            ([(1, 150, 8)] * 3, {**options, "heads": 2}), ([(2, 1, 4)] * 3, {**options, "heads": 2})]


@op("full_attention", *attention_cases(), ([(2, 0, 4)] * 3, {"heads": 2}))
def full_attention(x, o, drawn):
    q, k, v = heads_of(x, o)
    return joined(F.scaled_dot_product_attention(q, k, v, is_causal=True))


@op("local_attention", *attention_cases(window=3), ([(1, 6, 4)] * 3, {"heads": 1, "window": 1}),
    ([(1, 6, 4)] * 3, {"heads": 2, "window": 9}), ([(2, 37, 4)] * 3 + [(2, 6)], {"heads": 2, "window": 6}),
    ([(2, 5, 4)] * 3 + [(2, 9)], {"heads": 2, "window": 9}))
def local_attention(x, o, drawn):
    q, k, v = heads_of(x[:3], o)
    distance = lag(q.shape[-2])
    mask = torch.where((distance >= 0) & (distance < o["window"]), 0.0, -torch.inf)
    if len(x) > 3:
        mask = mask + x[3][:, distance.clamp(0, o["window"] - 1)]
    return joined(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


@op("rotary", ([(4, 2)], {}), ([(3, 12)], {"head_dim": 4, "positions": [7, 0, 65536]}),
    ([(2, 3, 8)], {"head_dim": 8, "positions": [0, 1, 2, 0, 1, 2]}), ([(0, 4)], {"head_dim": 4, "positions": []}))
def rotary(x, o, drawn):
    o = {"head_dim": 2, "positions": [0, 1, 2, 3], **o}
    half = o["head_dim"] // 2
    angle = torch.tensor(o["positions"]).double()[:, None] * 10000 ** -(torch.arange(half) / half)  # (N, d/2)
    a, b = x[0].reshape(len(o["positions"]), x[0].shape[-1] // o["head_dim"], 2, half).unbind(2)
    turn = torch.polar(torch.ones_like(angle), angle)[:, None]
    y = torch.complex(a, b) * turn
    return torch.stack([y.real, y.imag], 2).reshape(x[0].shape)


@op("linear_attention", *attention_cases(chunk=4), ([(1, 6, 4)] * 3, {"heads": 1, "chunk": 1}),
    ([(1, 6, 4)] * 3, {"heads": 2, "chunk": 64}))
def linear_attention(x, o, drawn):
    q, k, v = heads_of(x, o)
    weights = ((F.elu(q) + 1) @ (F.elu(k) + 1).mT) * (lag(q.shape[-2]) >= 0)
    return joined(weights / weights.sum(-1, keepdim=True) @ v)


@op("mixed_attention", [(5, 3), (1, 5, 3), (1, 5, 3), (1, 5, 3)],
    ([(74, 3), (2, 37, 8), (2, 37, 8), (2, 37, 8)], {"heads": 2, "window": 6, "chunk": 8}))
def mixed_attention(x, o, drawn):
    w, *qkv = x
    options = {"heads": 1, "window": 3, **o}
    experts = [f(qkv, options, drawn) for f in (full_attention, linear_attention, local_attention)]
    return sum(w[:, e].reshape(*y.shape[:2], 1) * y for e, y in enumerate(experts))


# --- running both -------------------------------------------------------------------------------------------------
def array(source, random):
    if isinstance(source, np.ndarray):
        return source
    low, high, shape = source if source and isinstance(source[-1], tuple) else (-2, 2, source)
    return random.uniform(low, high, shape)


def as_json(x):
    return {"shape": list(x.shape), "values": x.reshape(-1).tolist()}


def from_json(x):
    return torch.tensor(x["values"], dtype=torch.float64).reshape(x["shape"])


class Trace:
    """What `dirigo trace` says of one call."""

    def __init__(self, text):
        result = json.loads(text)
        nodes = result["nodes"]
        self.options = result["options"]
        self.drawn = {name: from_json(value) for name, value in result["drawn"].items()}
        self.value = from_json(nodes[-1]["value"])
        self.leaves = [from_json(n["gradient"]) for n in nodes if n["op"] == "leaf"]


def run_dirigo(command, name, request, folder):
    path = folder / "input.json"
    path.write_text(json.dumps(request))
    done = subprocess.run([command, "trace", "--op", name, "--input", path, "--json"], capture_output=True, text=True)
    if done.returncode != 0:
        raise CannotRun(f"{name}: expected a trace, got {done.stderr.strip()}")
    return Trace(done.stdout)


class CannotRun(Exception):
    """A command that failed."""


def difference(ours, theirs):
    if ours.shape != theirs.shape or not torch.isfinite(ours).all():
        return math.inf
    if theirs.numel() == 0:
        return 0.0
    worst = ((ours - theirs).abs().max() / max(1.0, theirs.abs().max().item())).item()
    return math.inf if math.isnan(worst) else worst


def compare(command, name, example, random, folder):
    """The differences of value and gradients of one case, and what was traced."""
    sources, options = example
    inputs = [array(source, random) for source in sources]
    request = {"inputs": [as_json(x) for x in inputs], "options": options}
    tensors = [torch.tensor(x).requires_grad_() for x in inputs]
    first = run_dirigo(command, name, request, folder)  # the shape of the output, and what is drawn
    cotangent = random.uniform(-1, 1, tuple(first.value.shape))
    ours = run_dirigo(command, name, {**request, "cotangent": as_json(np.asarray(cotangent))}, folder)
    output = peers[name](tensors, ours.options, ours.drawn)
    if output.shape != ours.value.shape:
        return math.inf, math.inf, ours, tensors
    output.backward(torch.tensor(cotangent))
    theirs = [torch.zeros_like(t) if t.grad is None else t.grad for t in tensors]
    gradient = max(difference(a, b) for a, b in zip(ours.leaves, theirs, strict=True))
    return difference(ours.value, output.detach()), gradient, ours, tensors


def sampler_difference(ours, concentration):
    """How far torch._standard_gamma_grad is from our dy/db, relative."""
    y, b = ours.drawn["log_gamma"], concentration.detach()
    theirs = torch._standard_gamma_grad(b, y.exp()) / y.exp()
    slope = ours.drawn["dlog_gamma_dconcentration"]
    return ((theirs - slope).abs() / slope.abs()).max().item() if slope.numel() else 0.0


def check(command, only, folder):
    listed = [line.split()[0] for line in subprocess.run([command, "trace", "--list"], capture_output=True, text=True,
                                                         check=True).stdout.splitlines()]
    missing = [name for name in listed if name not in peers]
    for name in missing:
        print(f"check_ops: {name}: expected a peer in tools/peers/check_ops.py, got none", file=sys.stderr)
    failed = bool(missing)
    sampler = 0.0
    print(f"{'op':<26} {'cases':>5}  {'value':>9}  {'gradient':>9}")
    for name in [n for n in listed if n in peers and (not only or n in only)]:
        random = np.random.default_rng(len(name))
        worst_value = worst_gradient = 0.0
        for example in cases[name]:
            value, gradient, ours, tensors = compare(command, name, example, random, folder)
            worst_value, worst_gradient = max(worst_value, value), max(worst_gradient, gradient)
            if name == "dirichlet_rsample":
                sampler = max(sampler, sampler_difference(ours, tensors[0]))
        bad = worst_value > VALUE_BOUND or worst_gradient > GRADIENT_BOUNDS.get(name, GRADIENT_BOUND)
        failed = failed or bad
        print(f"{name:<26} {len(cases[name]):>5}  {worst_value:>9.1e}  {worst_gradient:>9.1e}{'  FAILED' if bad else ''}")
    if not only or "dirichlet_rsample" in only:
        print(f"\ndy/db of a Gamma draw: torch._standard_gamma_grad is within {sampler:.1e} (relative) of ours")
        x = torch.logspace(-2, 2, 1000)
        error = ((torch.polygamma(1, x) - trigamma(x)) / trigamma(x)).abs().max().item()
        print(f"trigamma: torch.polygamma(1, x) is within {error:.1e} (relative) of torch.special.zeta(2, x)")
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dirigo", default=str(ROOT / "build/release/dirigo"), help="the command (default: %(default)s)")
    parser.add_argument("ops", nargs="*", metavar="OP", help="only these operations")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.ops if name not in peers]
    if unknown:
        parser.error(f"OP: expected an operation with a peer, got {unknown[0]}")
    with tempfile.TemporaryDirectory() as folder:
        try:
            return check(arguments.dirigo, arguments.ops, pathlib.Path(folder))
        except (OSError, subprocess.CalledProcessError, CannotRun) as error:
            print(f"check_ops: {error}", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main())
