"""Where a token stands: a learned row for each position, or fixed waves."""

import functools

import numpy as np

from numgpt.layers.inputs import channels, gradient, positive, sequence_length
from numgpt.layers.kv import KV
from numgpt.layers.ops import flat
from numgpt.layers.param import Layer, normal
from numgpt.layers.segments import not_in_a_store, places


class LearnedPositions(Layer):
    """Add a learned row to each position.

    x (B, T, C) -> y (B, T, C);  table (n_ctx, C), of which the first T rows are used

    Forward   y = x + table[:x.shape[-2]]
    Backward  dtable = zeros_like(table)
              -- every sequence of the batch uses the same rows
              dtable[:x.shape[-2]] = dy.sum(0)
              dx = dy
    Saved     the shape of x, and of segments, where in its own each position stands

    With a decode store, kv, the sequences go on where the store has come to. With segments (B, T), the example that each
    position belongs to, positions are counted from 0 in each: y = x + table[places], and every segment uses the same rows.
    """

    def __init__(self, n_ctx: int, n_embd: int, *, std: float = 0.02, rng=None, dtype=np.float64):
        self.table = normal(rng, (n_ctx, n_embd), std, dtype)

    def forward(self, x, *, kv: KV | None = None, segments=None):
        n_ctx, n_embd = self.table.shape
        x = channels(x, n_embd, "LearnedPositions")
        rows = _places(x, n_ctx, kv, segments)
        return x + self.table.value[rows], (x.shape, None if segments is None else rows)

    def backward(self, dy, saved):
        shape, rows = saved
        dy = gradient(dy, shape, "LearnedPositions")
        if rows is not None:
            total = _by_place(dy, rows)
            self.table.grad[:len(total)] += total
            return dy
        T = dy.shape[-2]
        if not self.table.frozen:
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

    A decode store, or segments, do what they do to LearnedPositions.
    """

    def __init__(self, n_ctx: int, n_embd: int):
        self.n_ctx, self.n_embd = positive(n_ctx, "n_ctx"), positive(n_embd, "n_embd")

    def forward(self, x, *, kv: KV | None = None, segments=None):
        x = channels(x, self.n_embd, "SinusoidalPositions")
        at = _places(x, self.n_ctx, kv, segments)
        rows = waves(x.shape[-2], self.n_embd)[at] if kv is None else waves_at(at, self.n_embd)
        return x + rows.astype(x.real.dtype), x.shape

    def backward(self, dy, saved):
        return gradient(dy, saved, "SinusoidalPositions")

    def _note(self):
        return f"{self.n_embd} waves"


def _places(x, n_ctx: int, kv: KV | None, segments):
    """Which positions x (B, T, C) stands at: the first T, or (B, T) those in its segments or after what is in the store."""
    not_in_a_store(segments, kv)
    T = sequence_length(x, n_ctx)
    if segments is not None:
        return places(segments, x.shape[:-1])
    if kv is None:
        return slice(T)
    if len(x) != len(kv.lengths):
        raise ValueError(f"the decode store is of {len(kv.lengths)} sequences; got {len(x)}")
    sequence_length(x, n_ctx - kv.length)
    return kv.positions(T)


def _by_place(dy, rows) -> np.ndarray:
    """The sums of dy (..., T, C) over all positions at each place, segment after segment."""
    dy, rows = flat(dy), rows.reshape(-1)
    total = np.zeros((rows.max(initial=-1) + 1, dy.shape[-1]), dy.dtype)
    starts = np.flatnonzero(rows == 0).tolist()
    for start, stop in zip(starts, [*starts[1:], len(dy)]):
        total[:stop - start] += dy[start:stop]
    return total


@functools.lru_cache(maxsize=8)
def waves(T: int, C: int) -> np.ndarray:
    """The rows of the first T positions (T, C). Made once for each length, and no longer than a sequence."""
    rows = waves_at(np.arange(T), C)
    rows.flags.writeable = False
    return rows


def waves_at(positions: np.ndarray, C: int) -> np.ndarray:
    channel = np.arange(C)
    angle = positions[..., None] / 10000.0 ** (channel // 2 * 2 / C)
    return np.where(channel % 2 == 0, np.sin(angle), np.cos(angle))
