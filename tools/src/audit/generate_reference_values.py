#!/usr/bin/env python3
"""Reference values of the audit: special functions and Dirichlet closed forms, to 25 digits.

Needs mpmath (Debian: python3-mpmath). Arguments are exact doubles, dense over the regimes of
core/src/special.cpp and on both sides of every seam between them. Runs for about a minute.
Usage: generate_reference_values.py > reference_values.cpp
"""
import math
import random
from mpmath import mp, mpf, diff, exp, gammainc, log, loggamma, nstr, psi

mp.dps = 60
literal = lambda v: nstr(v, 25, strip_zeros=False) + "L"


def neighbours(x, steps=(1e-12, 1e-6, 1e-3)):
    """x, its two neighbours among the doubles, and points a little farther on both sides."""
    out = [x, math.nextafter(x, -math.inf), math.nextafter(x, math.inf)]
    for step in steps:
        out += [x - step * max(1.0, abs(x)), x + step * max(1.0, abs(x))]
    return out


# --- lgamma, digamma, trigamma

def unary_arguments():
    xs = [10.0 ** e for e in (-150, -100, -30, -20, -10, -8, -6, -5, -4)]
    xs += [10.0 ** (-3 + 6 * i / 149) for i in range(150)]
    xs += [10.0 ** e for e in (4, 5, 6, 9, 12, 15, 20, 30, 100, 200, 300)]
    xs += [0.7 + i / 64 for i in range(160)]  # where the recurrences may cancel
    psi_root = 1.4616321449683623
    for seam in [0.5, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 10.0, psi_root]:
        xs += neighbours(seam)
    for seam in [3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5]:  # one factor more in lgamma's product
        xs += neighbours(seam, ())
    for root in [1.0, 2.0, psi_root]:
        for k in (2, 3, 5, 8, 12, 20, 30, 40, 48, 51):
            xs += [root - 2.0 ** -k, root + 2.0 ** -k]
    xs += [math.nextafter(1.0, 0), math.nextafter(1.0, 2), math.nextafter(2.0, 0), math.nextafter(2.0, 3)]
    return sorted(set(xs) - {1.0, 2.0})  # lgamma(1) = lgamma(2) = 0 have no relative error


# --- D(a, y) = d log g / da at a fixed quantile of g ~ Gamma(a, 1)

def derivative_by_series(a, y):
    """Exact for any x; the digits that cancel where x > a are carried in addition."""
    a, y = mpf(a), mpf(y)
    x = exp(y)
    cancelled = (x - a - a * log(x / a)) / log(10) if x > a else 0  # digits of sum c_n, to which D adds up
    with mp.workdps(int(80 + cancelled)):
        x = exp(y)
        c, h, total, weighted, n = mpf(1), mpf(0), mpf(1), mpf(0), 0
        while True:
            n += 1
            r = 1 / (a + n)
            c *= x * r
            h += r
            total += c
            weighted += c * h
            if n > x - a and c * h < mpf(10) ** (-mp.dps) * total:
                break
        return ((psi(0, a + 1) - y) * total + weighted) / a


def derivative_by_asymptotic_series(a, y):
    """From Q = A x^a e^-x / Gamma(a), x A ~ sum (a-1)...(a-k) / x^k: for x beyond a hundred times a."""
    a, y = mpf(a), mpf(y)
    x = exp(y)
    term, d_term, total, d_total, k = mpf(1), mpf(0), mpf(1), mpf(0), 0
    while True:
        k += 1
        term, d_term = term * (a - k) / x, (d_term * (a - k) + term) / x
        total += term
        d_total += d_term
        if abs(term) + abs(d_term) < mpf(10) ** -58:
            break
    return d_total / x + total / x * (y - psi(0, a))


def derivative(a, y):
    return derivative_by_series(a, y) if y <= 8 or a > 1e3 else derivative_by_asymptotic_series(a, y)


def check_derivative():
    """Both expansions against the definition, differentiated numerically."""
    for a, y in [(0.3, -2.0), (0.3, 1.0), (4.5, 1.0), (4.5, 3.0), (40.0, 4.0)]:
        a, y = mpf(a), mpf(y)
        x = exp(y)
        d_q = diff(lambda t: gammainc(t, x, mp.inf, regularized=True), a)
        expected = d_q / exp(a * y - x - loggamma(a))
        assert abs(derivative_by_series(a, y) / expected - 1) < mpf(10) ** -30
    for a in (0.01, 1.5, 12.0):
        ratio = derivative_by_series(a, 7.5) / derivative_by_asymptotic_series(a, 7.5)
        assert abs(ratio - 1) < mpf(10) ** -40


def derivative_arguments():
    shapes = [1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 0.5, 0.9, 0.999, math.nextafter(1.0, 0), 1.0,
              math.nextafter(1.0, 2), 1.001, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0, 300.0, 1000.0]
    points = set()
    for a in shapes:
        seam = math.log(max(1.0, a))  # series on the left, continued fraction on the right
        ys = [-1e4, -3e3, -745.0, -100.0, -30.0, -10.0, -3.0, -1.0, -0.3, -0.05, 0.0]
        ys += neighbours(seam, (1e-12, 1e-6, 1e-3, 0.02, 0.1))
        ys += [math.log(a + k * math.sqrt(a)) for k in (1, 3, 6, 10)] + [math.log(a + 50)]
        ys += [14.0, 20.0, 50.0, 100.0, 300.0, 700.0]
        ys += neighbours(math.log(1e30), ())  # beyond, D = (y - psi(a)) / x
        points |= {(a, y) for y in ys}
    rng = random.Random(20)
    for _ in range(150):
        a = 10.0 ** rng.uniform(-3, 3)
        points.add((a, rng.choice([math.log(a + 1) + rng.uniform(-2, 1.5), -rng.expovariate(1.0) / a])))
    for a in (1e4, 1e5, 1e6, 1e7):
        seam, width = math.log(a), 1 / math.sqrt(a)
        points |= {(a, y) for y in [-1e4, 0.0, seam - 4 * width, seam, math.nextafter(seam, 99), seam + 2 * width]}
    return sorted(points)


# --- Dirichlet closed forms, K = 3

def dirichlet_arguments():
    prior = [0.01, 0.86, 0.71]
    rows = [(prior, prior), ([1.0, 1.0, 1.0], prior), ([10.0, 10.0, 10.0], [1.0, 1.0, 1.0]),
            ([1e-3, 1e-3, 1e-3], prior), ([1e3, 1e3, 1e3], prior), ([1e-3, 1.0, 1e3], [1e2, 1.0, 1e-2]),
            ([v * 1.001 for v in prior], prior), ([0.01, 0.86, 0.7100001], prior)]
    rng = random.Random(3)
    draw = lambda lo, hi: [10.0 ** rng.uniform(lo, hi) for _ in range(3)]
    return rows + [(draw(-3, 3), draw(-2, 1.5)) for _ in range(52)]


def dirichlet_row(b, p, y):
    b, p, y = [[mpf(v) for v in values] for values in (b, p, y)]
    s, s_p, k = sum(b), sum(p), len(b)
    log_beta = lambda v: sum(loggamma(t) for t in v) - loggamma(sum(v))
    kl = log_beta(p) - log_beta(b) + sum((u - v) * (psi(0, u) - psi(0, s)) for u, v in zip(b, p))
    d_kl = [(u - v) * psi(1, u) - (s - s_p) * psi(1, s) for u, v in zip(b, p)]
    entropy = log_beta(b) + (s - k) * psi(0, s) - sum((u - 1) * psi(0, u) for u in b)
    d_entropy = [(s - k) * psi(1, s) - (u - 1) * psi(1, u) for u in b]
    expected_entropy = psi(0, s + 1) - sum(u / s * psi(0, u + 1) for u in b)
    information = -sum(u / s * log(u / s) for u in b) - expected_entropy
    total = log(sum(exp(v) for v in y))
    log_prob = sum((u - 1) * (v - total) for u, v in zip(b, y)) - log_beta(b)
    return [b, p, y, log_beta(b), kl, d_kl, entropy, d_entropy, expected_entropy, information, log_prob]


# --- The null router: the paper's prior for every token, with its costs, in the units of the tables

def null_row():
    b, costs = [mpf(n) / 100 for n in (1, 86, 71)], [mpf(n) / 100 for n in (100, 15, 30)]
    s = sum(b)
    mean = [v / s for v in b]
    entropy = -sum(v * log(v) for v in mean)
    sampled = psi(0, s + 1) - sum(m * psi(0, v + 1) for m, v in zip(mean, b))
    cost = sum(m * c for m, c in zip(mean, costs))
    uncertainty = sum(loggamma(v) for v in b) - loggamma(s) + (s - 3) * psi(0, s) - sum((v - 1) * psi(0, v) for v in b)
    return [100 * entropy / log(3), 100 * sampled / log(3), 100 * cost, mpf(15), entropy - sampled, uncertainty]


def cell(v, as_double):
    if isinstance(v, list):
        return "{" + ", ".join(cell(u, as_double) for u in v) + "}"
    return repr(float(v)) if as_double else literal(v)


def table(kind, name, rows):
    print(f"constexpr {kind} {name}[] = {{")
    for row in rows:
        print("    {" + ", ".join(row) + "},")
    print("};\n")


def main():
    check_derivative()
    print("// Written by generate_reference_values.py, which says how; do not edit.")
    print('#include "audit/reference_values.hpp"\n\nnamespace dirigo::tools {\nnamespace {\n\n// clang-format off')
    rows = []
    for x in unary_arguments():
        m = mpf(x)
        rows.append([repr(x), literal(loggamma(m)), literal(psi(0, m)), literal(psi(1, m))])
    table("GammaFamilyValue", "kGammaFamily", rows)
    table("DrawDerivativeValue", "kDrawDerivatives",
          [[repr(a), repr(y), literal(derivative(a, y))] for a, y in derivative_arguments()])
    rng = random.Random(4)
    rows = []
    for b, p in dirichlet_arguments():
        row = dirichlet_row(b, p, [rng.uniform(-40, 3) for _ in range(3)])
        rows.append([cell(v, i < 3) for i, v in enumerate(row)])
    table("DirichletValue", "kDirichlet", rows)
    print("constexpr NullRow kNullRow = {" + ", ".join(literal(v) for v in null_row()) + "};\n")
    print("// clang-format on\n\n}  // namespace\n")
    for kind, name, constant in [("GammaFamilyValue", "gamma_family_values", "kGammaFamily"),
                                 ("DrawDerivativeValue", "draw_derivative_values", "kDrawDerivatives"),
                                 ("DirichletValue", "dirichlet_values", "kDirichlet")]:
        print(f"std::span<const {kind}> {name}() {{\n  return {constant};\n}}\n")
    print("const NullRow& null_row() {\n  return kNullRow;\n}\n\n}  // namespace dirigo::tools")


if __name__ == "__main__":
    main()
