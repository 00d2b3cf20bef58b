"""The layers of PPO as cases: every way in which a ratio or a value may stand to its clip, and no border within a step."""

from collections.abc import Callable

import numpy as np

from numgpt import layers as L
from numgpt.verify.cases.frame import Case, Sizes, activations_of

CLIP = 0.6  # of a ratio: log(1.6) = 0.47 and log(0.4) = -0.92, with room for steps on both sides of each


def responses_of(s: Sizes) -> np.ndarray:
    """The tokens that count: behind a prompt, up to the end or not quite, and of every third row none."""
    counts = np.zeros((s.B, s.T), bool)
    for i in range(s.B):
        end = s.T - 2 if i % 2 == 0 and s.T > 4 else s.T
        counts[i, min(1 + i % 2, s.T - 1):end] = i % 3 < 2
    return counts


def _constant(x, counts, s: Sizes) -> np.ndarray:
    """nan where it does not count, for there it must not matter."""
    return np.where(counts, x, np.nan).astype(s.dtype)


def _each_way(rng, counts, *ways: tuple) -> list[np.ndarray]:
    """Two arrays of kinds: each pair of them comes at some token that counts, as far as there are so many."""
    found = [np.zeros(counts.shape) for _ in ways[0]]
    for (b, t), n in zip(np.argwhere(counts), rng.permutation(int(counts.sum()))):
        for array, kind in zip(found, ways[n % len(ways)]):
            array[b, t] = kind
    return found


def _logp(rng, s: Sizes) -> np.ndarray:
    return rng.standard_normal((s.B, s.T)).astype(s.dtype) - 2


def _policy(rng, s: Sizes, more: int | None = None) -> Case:
    counts, logp = responses_of(s), _logp(rng, s)
    ways = [(d, sign) for d in (0.0, 0.95, -1.5) for sign in (1, -1)]
    moved, signs = _each_way(rng, counts, *ways)
    old = logp - moved - 0.1 * rng.uniform(-1, 1, counts.shape)
    advantages = s.scale * signs * rng.uniform(0.5, 2, counts.shape)
    options = {"old": _constant(old, counts, s), "advantages": _constant(advantages, counts, s), "counts": counts}
    if more is not None:
        options["count"] = int(counts.sum()) + more
    return Case("", L.ClippedPolicy(CLIP), (logp,), options)


def _value(rng, s: Sizes, clip: float | None = 0.5) -> Case:
    """The return lies two from the value, on either side; the value within clip of the old one, or one from it."""
    counts, values = responses_of(s), activations_of(rng, s, s.B, s.T)
    moved, sides = _each_way(rng, counts, *[(d, side) for d in (0.0, 1.0, -1.0) for side in (2, -2)])
    old, returns = (values - s.scale * (kind + 0.2 * rng.uniform(-1, 1, counts.shape)) for kind in (moved, sides))
    options = {"old": _constant(old, counts, s), "returns": _constant(returns, counts, s), "counts": counts}
    return Case("", L.ClippedValue(None if clip is None else clip * s.scale), (values,), options)


def _kl(rng, s: Sizes) -> Case:
    counts = responses_of(s)
    return Case("", L.TokenKL(), (_logp(rng, s),), {"reference": _constant(_logp(rng, s), counts, s), "counts": counts})


def _reward(rng, s: Sizes) -> Case:
    counts = responses_of(s)
    options = {"reference": _constant(_logp(rng, s), counts, s), "scores": activations_of(rng, s, s.B), "counts": counts}
    return Case("", L.KLReward(0.3), (_logp(rng, s),), options)


def _gae(rng, s: Sizes) -> Case:
    rewards, values = activations_of(rng, s, s.B, s.T), activations_of(rng, s, s.B, s.T)
    return Case("", L.GAE(0.9, 0.7), (rewards, values), {"counts": responses_of(s)})


BUILDERS: dict[str, Callable] = {
    "kl-reward": _reward,
    "gae": _gae,
    "clipped-policy": _policy,
    "clipped-policy-count": lambda rng, s: _policy(rng, s, more=3),
    "clipped-value": _value,
    "clipped-value-none": lambda rng, s: _value(rng, s, clip=None),
    "token-kl": _kl,
}
