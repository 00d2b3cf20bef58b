"""Gradients of the outputs to check with."""

import copy

import numpy as np

from numgpt.gradcheck.numeric import generator
from numgpt.gradcheck.subject import like_output, output_leaves


class Cotangents:
    """Random ones of mixed sign: dense, sparse, and without a mean.

    A single one with a mean would lie for the most part along the all-ones vector, which softmax and
    LayerNorm send to zero, and mistakes with it. identity: one for each output instead.
    """

    def __init__(self, y, seed: int, dy=None, identity: bool = False):
        leaves = output_leaves(y)
        size = sum(leaf.size for leaf in leaves)
        self.identity = identity
        if identity:
            self.trees = [_unit(y, i) for i in range(size)]
        elif dy is not None:
            self.trees = [_given(y, dy)]
        else:
            rng = generator(seed, "cotangents")
            self.trees = [like_output(y, lambda leaf: np.asarray(draw(rng, np.shape(leaf)), np.asarray(leaf).dtype))
                          for draw in ((dense,) if size == 1 else (dense, sparse, centred))]

    def in_double(self) -> "Cotangents":
        """The same numbers in float64."""
        twin = copy.copy(self)
        twin.trees = [like_output(tree, lambda leaf: np.asarray(leaf, np.float64)) for tree in self.trees]
        return twin

    @property
    def matrix(self) -> np.ndarray | None:
        """(cotangents, outputs), to contract with; None for the identity."""
        if self.identity:
            return None
        return np.array([np.concatenate([leaf.ravel() for leaf in output_leaves(tree)]) for tree in self.trees], np.float64)


def dense(rng, shape):
    return rng.standard_normal(shape) if shape else rng.choice([-1, 1]) * rng.uniform(0.5, 2)


def sparse(rng, shape):
    return dense(rng, shape) * (rng.random(shape) < 0.1)


def centred(rng, shape):
    d = np.asarray(dense(rng, shape))
    return d - d.mean(-1, keepdims=True) if d.ndim and d.shape[-1] > 1 else d


def _unit(y, i: int):
    """1 for output number i, counted through all leaves, and 0 for all others."""
    passed = 0

    def make(leaf):
        nonlocal passed
        d = np.zeros(np.shape(leaf), np.asarray(leaf).dtype)
        if 0 <= i - passed < d.size:
            d.reshape(-1)[i - passed] = 1
        passed += d.size
        return d

    return like_output(y, make)


def _given(y, dy):
    wanted, got = output_leaves(y), output_leaves(dy)
    if [w.shape for w in wanted] != [g.shape for g in got]:
        raise ValueError(f"dy must have the shapes of the outputs, {[w.shape for w in wanted]}; got {[g.shape for g in got]}")
    flat = np.concatenate([g.ravel() for g in got])
    if not flat.any():
        raise ValueError("dy is 0 everywhere: any gradient would pass")
    if flat.size > 1 and (flat == flat[0]).all():
        raise ValueError(f"dy is {flat[0]:g} everywhere: softmax and LayerNorm send a constant to zero, so a mistake "
                         "in them would pass. Use random numbers of both signs, or leave dy out")
    rest = iter(got)
    return like_output(y, lambda leaf: next(rest).astype(np.asarray(leaf).dtype))
