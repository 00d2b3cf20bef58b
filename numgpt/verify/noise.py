"""How far runs in shorter number types come from one in float64."""

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from numgpt.bfloat16 import BFloat16
from numgpt.layers.blocks import blocks
from numgpt.model import GPT
from numgpt.training.optim import AdamW, clip
from numgpt.verify.passes import Steps, compute, named

KINDS = ("float32", "bfloat16")
WORSE = 4.0  # how many times as much as was measured a single number may be off


def measured(model: GPT, truth: Mapping, *, steps: Steps, n_decode: int, masks: Mapping | None) -> dict[str, dict[str, float]]:
    """For each tensor and type the largest distance from the truth, a run in float64; the batch is in it."""
    noise = {name: dict.fromkeys(KINDS, 0.0) for name in truth}
    for kind, change in rounded_runs():
        run = compute(model.astype(np.float32), truth["inputs.ids"], truth["inputs.targets"], masks=masks, change=change,
                      steps=steps, n_decode=n_decode)
        for name in truth:
            noise[name][kind] = _farther(noise[name][kind], distance(run[name], truth[name]))
    for name, kind, off in _turned_steps(model, truth, noise, steps):
        noise[name][kind] = _farther(noise[name][kind], off)
    return noise


def _farther(a: float, b: float) -> float:
    return math.inf if math.isnan(b) else max(a, b)  # of a number and what is none, max gives the first


def rounded_runs() -> Iterator[tuple[str, Callable | None]]:
    """Types, and the change of a run in each. One run's error may be small by luck, so some more are shaken by less than a last digit."""
    yield from (("float32", change) for change in (None, shaken(1), shaken(2)))
    yield from (("bfloat16", change) for change in (bfloat16, *(shaken(seed, bfloat16, 2.0 ** -8) for seed in (3, 4))))


def _turned_steps(model: GPT, truth: Mapping, noise: Mapping, steps: Steps) -> Iterator[tuple[str, str, float]]:
    """What errors of the gradients, of the lengths that were measured, make of the steps when they fall on the worst of numbers.

    Adam divides by a number's own size: one that rounding takes to the other side of 0 moves by 2 lr, however small it
    is. A few runs may all miss it, so here each gradient falls by some times its noise, and beyond 0 if it is smaller.
    """
    for kind in KINDS if steps.n else ():
        twin = model.astype(model.values.dtype)
        optimizer = AdamW(twin, betas=steps.betas, eps=steps.eps, weight_decay=steps.weight_decay)
        for t in range(1, steps.n + 1):
            for name, param in twin.named_params():
                name = f"steps.{t}.grads.{name}"
                grad, share = truth[name], noise[name][kind] / (length(truth[name]) or 1.0)
                param.grad[...] = grad - WORSE * share * (grad + np.sign(grad) * length(grad) / math.sqrt(grad.size))
            optimizer.step(steps.lr, scale=clip(float(truth[f"steps.{t}.norm"]), steps.clip))
            for part, array in (("m", optimizer.m), ("v", optimizer.v), ("weights", twin.values)):
                for name, moved in named(twin, array):
                    name = f"steps.{t}.{part}.{name}"
                    yield name, kind, distance(moved, truth[name]) / WORSE


def shaken(seed: int, then=lambda name, array: array, size: float = 2.0 ** -23):
    """Each number moved by a last digit at most. In a gradient, which is a sum, by one of its usual size: Adam makes much of small numbers."""
    rng = np.random.default_rng(seed)

    def change(name, array):
        old, usual = array.reshape(-1), 0.0
        if "grads." in name:  # not the moments: Adam takes the root of one
            usual = length(array) / math.sqrt(max(array.size, 1))
        new = old.copy()
        for part in blocks(old.size):
            a = old[part]
            digit = np.where(np.isfinite(a), np.abs(a) + usual * (a != 0), 0)
            new[part] += size * (rng.random(a.size, np.float32) - np.float32(0.5)) * digit
        return then(name, new.reshape(array.shape))

    return change


def bfloat16(name, array):
    return BFloat16.of(array).floats().reshape(array.shape)


def distance(a: np.ndarray, truth: np.ndarray) -> float:
    """The length of the difference, where the truth is finite."""
    return _length(truth.size, np.asarray(a).reshape(-1), np.asarray(truth).reshape(-1))


def length(a: np.ndarray) -> float:
    """The square root of the sum of squares of what is finite."""
    return _length(a.size, np.asarray(a).reshape(-1))


def _length(n: int, a: np.ndarray, b: np.ndarray | None = None) -> float:
    """Of a, or of a - b, a block after the other: of a large model there is no room for another copy."""
    squares = 0.0
    for part in blocks(n):
        with np.errstate(invalid="ignore", over="ignore"):
            x = a[part].astype(np.float64) if b is None else a[part] - b[part].astype(np.float64)
            square = float(x @ x)
            if not math.isfinite(square):  # where what is judged, or the truth, is not finite, nothing is added
                x = np.where(np.isfinite(x if b is None else b[part]), x, 0)
                square = float(x @ x)
        squares += square
    return math.sqrt(squares)
