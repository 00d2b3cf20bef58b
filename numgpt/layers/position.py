"""Where a token stands: a learned row for each position, or fixed waves."""

import functools

import numpy as np

from numgpt.layers.inputs import channels, gradient, positive, sequence_length
from numgpt.layers.param import Layer, normal


class LearnedPositions(Layer):
    """Add a learned row to each position.

    x (B, T, C) -> y (B, T, C);  table (n_ctx, C), of which the first T rows are used

    Forward   y = x + table[:x.shape[-2]]
    Backward  dtable = zeros_like(table)
              -- every sequence of the batch uses the same rows
              dtable[:x.shape[-2]] = dy.sum(0)
              dx = dy
    Saved     the shape of x
    """

    def __init__(self, n_ctx: int, n_embd: int, *, std: float = 0.02, rng=None, dtype=np.float64):
        self.table = normal(rng, (n_ctx, n_embd), std, dtype)

    def forward(self, x):
        n_ctx, n_embd = self.table.shape
        x = channels(x, n_embd, "LearnedPositions")
        T = sequence_length(x, n_ctx)
        return x + self.table.value[:T], x.shape

    def backward(self, dy, saved):
        dy = gradient(dy, saved, "LearnedPositions")
        T = dy.shape[-2]
        self.table.grad[:T] += dy.sum(tuple(range(dy.ndim - 2)))
        return dy


class SinusoidalPositions(Layer):
    """Add fixed waves, sine on even channels and cosine on odd, each pair slower than the one before.

    x (B, T, C) -> y (B, T, C);  nothing is trained

    Forward   T, C = x.shape[-2:]
              channel = arange(C)
              angle = arange(T)[:, None] / 10000 ** (channel // 2 * 2 / C)
              waves = where(channel % 2 == 0, sin(angle), cos(angle))
              y = x + waves
    Backward  dx = dy
    Saved     the shape of x
    """

    def __init__(self, n_ctx: int, n_embd: int):
        self.n_ctx, self.n_embd = positive(n_ctx, "n_ctx"), positive(n_embd, "n_embd")

    def forward(self, x):
        x = channels(x, self.n_embd, "SinusoidalPositions")
        T = sequence_length(x, self.n_ctx)
        return x + waves(T, self.n_embd).astype(x.real.dtype), x.shape

    def backward(self, dy, saved):
        return gradient(dy, saved, "SinusoidalPositions")

    def _note(self):
        return f"{self.n_embd} waves"


@functools.lru_cache(maxsize=8)
def waves(T: int, C: int) -> np.ndarray:
    """The rows of the first T positions. Made once for each length, and no longer than a sequence."""
    channel = np.arange(C)
    angle = np.arange(T)[:, None] / 10000.0 ** (channel // 2 * 2 / C)  # (T, C)
    rows = np.where(channel % 2 == 0, np.sin(angle), np.cos(angle))
    rows.flags.writeable = False
    return rows
