"""Where a token stands: a learned row for each position, or fixed waves."""

import numpy as np

from numgpt.layers.inputs import channels, gradient, sequence_length
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

    x (B, T, C) -> y (B, T, C);  waves (n_ctx, C), not trained

    Forward   y = x + waves[:x.shape[-2]]
    Backward  dx = dy
    Saved     the shape of x
    """

    def __init__(self, n_ctx: int, n_embd: int):
        pair = np.arange(n_embd) // 2 * 2
        angle = np.arange(n_ctx)[:, None] / 10000.0 ** (pair / n_embd)  # (n_ctx, C)
        self.waves = np.where(np.arange(n_embd) % 2 == 0, np.sin(angle), np.cos(angle))

    def forward(self, x):
        n_ctx, n_embd = self.waves.shape
        x = channels(x, n_embd, "SinusoidalPositions")
        T = sequence_length(x, n_ctx)
        return x + self.waves[:T].astype(x.real.dtype), x.shape

    def backward(self, dy, saved):
        return gradient(dy, saved, "SinusoidalPositions")

