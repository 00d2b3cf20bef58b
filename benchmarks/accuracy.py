"""How exact are our functions beside torch's and jax's?

Each row is one function on inputs drawn at random in the row's dtype. The truth is computed with 50 digits from the
very binary numbers that the function is given; printed is the largest error in ulp, the distance from the truth to the
next number of the dtype. LayerNorm and the gradient of cross-entropy are judged norm-wise: in ulp of the largest truth
among the channels or logits. Truths too small for a normal number of the dtype are left out.

Verdicts: "best", nearer to the truth than the others; "ok", within 3 ulp or 1.2 times the best of the others; "OVER",
neither, or not the best on inputs marked *, where torch and jax are known to go wrong; "-", nobody to compare with.
"""

import argparse
import json
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from numgpt import layers
from numgpt.layers import ops

DIGITS, ULPS, FACTOR = 50, 3.0, 1.2
V, C = 500, 250  # logits, channels
GRADIENT = "cross-entropy gradient"


class Row(NamedTuple):
    function: str
    inputs: str
    draw: Callable  # (rng, n) -> x; functions of one number take one row of n, the others some rows
    star: bool = False
    dtypes: tuple[str, ...] = ("float32", "float64")


def table() -> list[Row]:
    def between(low, high):
        return f"{low} to {high}", lambda rng, n: rng.uniform(low, high, (1, n))

    def logits(std):
        return f"std {std}", lambda rng, n: rng.normal(0, std, (-(-n // 20), V))

    def around(mean):
        return f"mean {mean}, std 1", lambda rng, n: rng.normal(mean, 1, (-(-n // 50), C))

    def sure_draw(rng, n):
        x = rng.normal(0, 1, (-(-n // 20), V))
        x[:, 0] = ops.logsumexp(x[:, 1:]) + 20  # column 0 is the target
        return x

    small = "1e-30 to 1", lambda rng, n: 10 ** rng.uniform(-30, 0, (1, n))
    sure = "std 1, margin 20", sure_draw
    rows = [Row("erf", *inputs) for inputs in (small, between(-1, 1), between(1, 6))]
    rows += [Row("erfc", *inputs) for inputs in (between(-6, 0), between(0, 3), between(3, 9))]
    rows += [Row("erfc", *between(9, 26), dtypes=("float64",))]
    for name, far, last in ("GELU", -13, -37), ("GELU tanh", -10, -21):  # where float32 and float64 come to their end
        rows += [Row(name, *inputs) for inputs in (small, between(1, 5), between(-1, 1), between(-3, -1))]
        rows += [Row(name, *inputs, star=True) for inputs in (between(-5, -3), between(far, -5))]
        rows += [Row(name, *between(last, far), star=True, dtypes=("float64",))]
    for name in "softmax", "log_softmax", "logsumexp", "cross-entropy":
        rows += [Row(name, *logits(1)), Row(name, *logits(10))]
    rows += [Row("cross-entropy", *sure, star=True), Row(GRADIENT, *logits(1)), Row(GRADIENT, *sure, star=True)]
    return rows + [Row("LayerNorm", *around(mean), star=mean == 10000) for mean in (0, 100, 10000)]


def truths(mp) -> dict[str, Callable]:
    """A row of exact numbers -> the row of outputs."""
    def gelu(x):
        return x * mp.erfc(-x / mp.sqrt(2)) / 2

    def gelu_tanh(x):  # as a sigmoid: 1 + tanh(u) would lose all 50 digits
        return x / (1 + mp.exp(-2 * mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x ** 3)))

    def logsumexp(x):
        return mp.log(mp.fsum(map(mp.exp, x)))

    def log_softmax(x):
        total = logsumexp(x)
        return [v - total for v in x]

    def softmax(x):
        return list(map(mp.exp, log_softmax(x)))

    def gradient(x):
        p, *others = softmax(x)
        return [p - 1, *others]

    def layernorm(x):
        mean = mp.fsum(x) / len(x)
        std = mp.sqrt(mp.fsum((v - mean) ** 2 for v in x) / len(x) + mp.mpf("1e-5"))
        return [(v - mean) / std for v in x]

    single = {"erf": mp.erf, "erfc": mp.erfc, "GELU": gelu, "GELU tanh": gelu_tanh}
    return {**{name: lambda x, f=f: list(map(f, x)) for name, f in single.items()},
            "softmax": softmax, "log_softmax": log_softmax, "logsumexp": lambda x: [logsumexp(x)],
            "cross-entropy": lambda x: [logsumexp(x) - x[0]], GRADIENT: gradient, "LayerNorm": layernorm}


def numgpt_functions() -> dict[str, Callable]:
    loss = layers.SoftmaxCrossEntropy()
    return {"erf": ops.erf, "erfc": ops.erfc, "GELU": layers.GELU(), "GELU tanh": layers.GELUTanh(),
            "softmax": ops.softmax, "log_softmax": ops.log_softmax, "logsumexp": ops.logsumexp,
            "cross-entropy": lambda x: np.stack([loss(row, 0) for row in x]),
            GRADIENT: lambda x: np.stack([loss.backward(1.0, loss.forward(row, 0)[1]) for row in x]),
            "LayerNorm": lambda x: layers.LayerNorm(C, dtype=x.dtype)(x)}


def torch_functions() -> dict[str, Callable]:
    import torch
    from torch.nn import functional as F

    def loss(x):
        return F.cross_entropy(x, torch.zeros(len(x), dtype=torch.long), reduction="none")

    functions = {"erf": torch.erf, "erfc": torch.erfc,
                 "GELU": F.gelu, "GELU tanh": lambda x: F.gelu(x, approximate="tanh"),
                 "softmax": lambda x: torch.softmax(x, -1), "log_softmax": lambda x: torch.log_softmax(x, -1),
                 "logsumexp": lambda x: torch.logsumexp(x, -1), "cross-entropy": loss,
                 GRADIENT: torch.func.grad(lambda x: loss(x).sum()), "LayerNorm": lambda x: F.layer_norm(x, (C,))}
    return {name: lambda x, f=f: f(torch.tensor(x)).numpy() for name, f in functions.items()}


def jax_functions() -> dict[str, Callable]:
    import jax
    jax.config.update("jax_enable_x64", True)

    def loss(x):
        return -jax.nn.log_softmax(x)[:, 0]

    def layernorm(x):
        return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)

    functions = {"erf": jax.scipy.special.erf, "erfc": jax.scipy.special.erfc,
                 "GELU": lambda x: jax.nn.gelu(x, approximate=False),
                 "GELU tanh": lambda x: jax.nn.gelu(x, approximate=True),
                 "softmax": jax.nn.softmax, "log_softmax": jax.nn.log_softmax,
                 "logsumexp": lambda x: jax.nn.logsumexp(x, -1), "cross-entropy": loss,
                 GRADIENT: jax.grad(lambda x: loss(x).sum()), "LayerNorm": layernorm}
    return {name: lambda x, f=f: np.asarray(jax.jit(f)(x)) for name, f in functions.items()}


def measure(row: Row, dtype: str, libraries: dict, mp, n: int, rng) -> dict[str, float]:
    """The largest error of each library."""
    x = row.draw(rng, n).astype(dtype)
    truth = [truths(mp)[row.function]([mp.mpf(float(v)) for v in line]) for line in x]
    high = np.array(truth, np.float64)
    low = np.array([[t - float(t) for t in line] for line in truth], np.float64)  # what high has lost
    scale = abs(high).astype(dtype)
    if row.function in (GRADIENT, "LayerNorm"):
        scale[...] = scale.max(-1, keepdims=True)
    normal = scale >= np.finfo(dtype).tiny
    errors = {}
    for name, functions in libraries.items():
        y = functions[row.function](x).reshape(high.shape)
        assert y.dtype == x.dtype, (name, row, y.dtype)
        error = abs((y.astype(np.float64) - high) - low)[normal] / np.spacing(scale[normal])
        errors[name] = float(error.max(initial=0))
    return errors


def judge(numgpt: float, others: list[float], star: bool) -> str:
    if not others:
        return "-"
    if numgpt < min(others):
        return "best"
    return "ok" if numgpt <= max(ULPS, FACTOR * min(others)) and not star else "OVER"


def number(error: float | None) -> str:
    if error is None:
        return "-"
    return f"{error:.1f}" if error < 1e5 else f"{error:.0e}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks accuracy", description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=4000, help="numbers a row (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", help="write the table to this file too")
    args = parser.parse_args(argv)
    if args.samples < 1:
        parser.error(f"--samples must be at least 1; got {args.samples}")
    try:
        import mpmath as mp
    except ImportError:
        print("The truth is computed with mpmath, which is not installed: pip install -e '.[bench]'")
        return 2
    libraries = {"numgpt": numgpt_functions()}
    for name, functions in ("torch", torch_functions), ("jax", jax_functions):
        try:
            libraries[name] = functions()
        except ImportError:
            pass  # its column says "-"
    rng = np.random.default_rng(args.seed)
    layout = "{:24}{:21}{:9}{:>8}{:>8}{:>8}  {}"
    print(layout.format("largest error in ulp", "inputs", "dtype", "numgpt", "torch", "jax", "verdict"))
    results = []
    for row in table():
        for dtype in row.dtypes:
            with mp.workdps(DIGITS):
                errors = measure(row, dtype, libraries, mp, args.samples, rng)
            verdict = judge(errors["numgpt"], [e for name, e in errors.items() if name != "numgpt"], row.star)
            inputs = row.inputs + " *" * row.star
            shown = [number(errors.get(name)) for name in ("numgpt", "torch", "jax")]
            print(layout.format(row.function, inputs, dtype, *shown, verdict), flush=True)
            results.append({"function": row.function, "inputs": inputs, "dtype": dtype, **errors, "verdict": verdict})
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"samples": args.samples, "seed": args.seed, "rows": results}, file, indent=1)
    return 1 if any(result["verdict"] == "OVER" for result in results) else 0
