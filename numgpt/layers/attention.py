"""Masked multi-head attention: each position looks back at itself and at those before it."""

import math
from collections.abc import Iterator

import numpy as np

from numgpt.layers.dropout import Dropout
from numgpt.layers.inputs import channels, floats, gradient, positive
from numgpt.layers.kv import KV
from numgpt.layers.linear import Linear
from numgpt.layers.param import Layer
from numgpt.layers.segments import not_in_a_store, places
from numgpt.layers.softmax import Softmax


TILE = 64  # queries


def tiles(T: int, S: int, window: float = math.inf, tile: int = TILE) -> Iterator[tuple[slice, slice]]:
    """The last T of S positions as queries, in slices of a few, each with the slice of keys that any of them sees."""
    for start in range(0, T, tile):
        stop = min(start + tile, T)
        first = max(0, S - T + start + 1 - min(window, S))
        yield slice(start, stop), slice(first, S - T + stop)


class CausalAttention(Layer):
    """A mean of the values, weighted by how well each key fits the query; no key lies after its query.

    q (B, H, T, D), k, v (B, H, S, D) -> y (B, H, T, D);  S >= T: the queries are the last T of S positions

    Forward   T, S = q.shape[-2], k.shape[-2]
              ahead = arange(S) - arange(S - T, S)[:, None]
              seen = (ahead <= 0) & (ahead > -window)
              scores = where(seen, scale * (q @ k.swapaxes(-1, -2)), -inf)
              p = softmax(scores)
              y = p @ v
    Backward  dv = p.swapaxes(-1, -2) @ dy
              dp = dy @ v.swapaxes(-1, -2)
              -- softmax: each score raises its own p and lowers the others of its row; a masked p is 0
              dscores = p * (dp - (dp * p).sum(-1, keepdims=True))
              dq = scale * dscores @ k
              dk = scale * dscores.swapaxes(-1, -2) @ q
    Saved     q, k, v and, for each tile of queries, p with its dropout; of segments, how far each position sees

    The queries are taken in tiles of a few rows, each against the keys that some row of it sees, so
    that the half of the scores which the mask hides is never computed. Dropout acts on p.

    With segments (B, T), the example that each position of a packed row belongs to, S = T and a query sees no farther
    back than its segment: window is, at each position, minimum(window, places + 1) with its place in its segment.
    A run of equal numbers is a segment; the same number again, after another, is another.
    """

    def __init__(self, *, scale: float, window: int | None = None, dropout: float = 0.0, tile: int = TILE):
        if not math.isfinite(scale):
            raise ValueError(f"scale must be a finite number; got {scale}")
        self.scale = float(scale)  # of NumPy's, a float64 would make one of float32 queries
        self.window = math.inf if window is None else positive(window, "a window, which holds the position itself,")
        self.tile = positive(tile, "tile")
        self.softmax = Softmax()
        self.dropout = Dropout(dropout)

    def forward(self, q, k, v, *, rng: np.random.Generator | None = None, segments=None):
        # Laid out as (B, T, H, D), so that merging the heads afterwards moves nothing.
        q, k, v = (floats(a, "CausalAttention") for a in (q, k, v))
        alike = q.ndim == k.ndim == 4 and q.shape[:2] + q.shape[3:] == k.shape[:2] + k.shape[3:] and k.shape == v.shape
        if not alike or q.shape[2] > k.shape[2]:
            raise ValueError("CausalAttention wants q (B, H, T, D) and k, v (B, H, S, D) with S >= T; "
                             f"got {q.shape}, {k.shape}, {v.shape}")
        B, H, T, D = q.shape
        reach = None if segments is None else self._reach(segments, B, T, k.shape[2])
        y = np.empty((B, T, H, D), np.result_type(q, k, v)).swapaxes(1, 2)
        tiles = []
        for queries, keys, hidden in self._tiles(T, k.shape[2], reach):
            scaled = q[:, :, queries] * self.scale  # the queries, of which there are fewer than scores
            scores = scaled @ k[:, :, keys].swapaxes(-1, -2)  # (B, H, tile, keys)
            np.copyto(scores[..., -hidden.shape[-1]:], -np.inf, where=hidden)
            p, saved_p = self.softmax.forward(scores)
            p_kept, kept = self.dropout.forward(p, rng=rng)
            y[:, :, queries] = p_kept @ v[:, :, keys]
            tiles.append((saved_p, p_kept, kept))
        return y, (q, k, v, reach, tiles)

    def look(self, q, k, v, positions):
        """Forward without a backward, for decoding: positions (B, T) says how many keys before each query are its sequence's."""
        scores = (q * self.scale) @ k.swapaxes(-1, -2)  # (B, H, T, S)
        ahead = np.arange(k.shape[2]) - positions[..., None]  # (B, T, S)
        hidden = (ahead > 0) | (ahead <= -self.window)
        if hidden.any():
            np.copyto(scores, -np.inf, where=hidden[:, None])
        return self.softmax(scores) @ v

    def backward(self, dy, saved):
        q, k, v, reach, tiles = saved
        dy = gradient(dy, q.shape, "CausalAttention")
        # q, k and v are views of one array; sums grow faster where a head's numbers lie together
        dq, dk, dv = np.empty(q.shape, q.dtype), np.zeros(k.shape, k.dtype), np.zeros(v.shape, v.dtype)
        for (queries, keys, _), (saved_p, p_kept, kept) in zip(self._tiles(q.shape[2], k.shape[2], reach), tiles):
            dy_ = dy[:, :, queries]
            dv[:, :, keys] += p_kept.swapaxes(-1, -2) @ dy_
            dp = self.dropout.backward(dy_ @ v[:, :, keys].swapaxes(-1, -2), kept)
            dscores = self.softmax.backward(dp, saved_p)
            dq[:, :, queries] = dscores @ k[:, :, keys]
            dk[:, :, keys] += dscores.swapaxes(-1, -2) @ q[:, :, queries]
        for d in (dq, dk):
            d *= self.scale  # scores were scaled
        return dq, dk, dv

    def _reach(self, segments, B: int, T: int, S: int) -> np.ndarray:
        """How many positions each one sees (B, T), itself among them."""
        if T != S:
            raise ValueError(f"segments are of positions that are queries and keys alike; got {T} queries and {S} keys")
        reach = places(segments, (B, T)) + 1
        return reach if self.window == math.inf else np.minimum(reach, self.window)

    def _tiles(self, T: int, S: int, reach: np.ndarray | None = None) -> Iterator[tuple[slice, slice, np.ndarray]]:
        """For each tile: its queries, the keys that any of them sees, and which of the last of those each does not.

        hidden is (tile, last keys), for all queries of a tile see the keys before; in a window that may be none.
        """
        if reach is not None:
            yield from self._tiles_of_segments(T, reach)
            return
        before = S - T  # positions that have keys but no query
        for queries, keys in tiles(T, S, self.window, self.tile):
            first = before + queries.start if self.window == math.inf else keys.start
            ahead = np.arange(first, keys.stop) - np.arange(before + queries.start, keys.stop)[:, None]
            hidden = (ahead > 0) | (ahead <= -self.window)
            yield queries, keys, hidden

    def _tiles_of_segments(self, T: int, reach: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray]]:
        """The same where each position has a reach of its own; hidden is (B, 1, tile, keys), of all keys of the tile."""
        for queries, _ in tiles(T, T, tile=self.tile):
            first = queries.start + 1 - int(reach[:, queries.start].max(initial=1))  # no later query sees a key before
            ahead = np.arange(first, queries.stop) - np.arange(queries.start, queries.stop)[:, None]
            yield queries, slice(first, queries.stop), (ahead > 0) | (ahead <= -reach[:, None, queries, None])

    def _note(self):
        return f"sees {self.window} positions" if self.window < math.inf else None

    def hints(self, q, k, v):
        B, H, T, D = np.shape(q)
        return {"B": B, "T": T, "scale": self.scale, "sqrt(D)": math.sqrt(D), "sqrt(H)": math.sqrt(H),
                "1 - p": 1 - self.dropout.p}


class SelfAttention(Layer):
    """Attention of a sequence to itself, in n_head heads side by side.

    x (B, T, C) -> y (B, T, C);  H heads of size D, which need not multiply to C
    qkv.weight (C, 3 H D), whose columns are q, k, v, each head after head;  out.weight (H D, C)

    Forward   q, k, v = qkv(x).reshape(B, T, 3, H, D).transpose(2, 0, 3, 1, 4)
              z = attention(q, k, v)
              y = out(z.swapaxes(1, 2).reshape(B, T, H * D))
    Backward  -- reshape and transpose move numbers; their backward moves the gradients home
              dz = out.backward(dy).reshape(B, T, H, D).swapaxes(1, 2)
              dqkv = stack(attention.backward(dz)).transpose(1, 3, 0, 2, 4)
              dx = qkv.backward(dqkv.reshape(B, T, 3 * H * D))
    Saved     what qkv, attention and out saved

    With segments (B, T), the example that each position belongs to, attention stays inside each.
    """

    def __init__(self, n_embd: int, n_head: int, *, head_size: int | None = None, bias: bool = True,
                 scale: float | None = None, window: int | None = None, dropout: float = 0.0, tile: int = TILE,
                 std: float = 0.02, out_std: float | None = None, rng=None, dtype=np.float64):
        n_head = positive(n_head, "n_head")
        if head_size is None:
            if n_embd % n_head:
                raise ValueError(f"n_embd {n_embd} does not split into n_head {n_head}: "
                                 f"choose a divisor of {n_embd}, or say head_size")
            head_size = n_embd // n_head
        rng = np.random.default_rng(rng)
        self.n_head, self.head_size = n_head, positive(head_size, "head_size")
        width = n_head * head_size
        self.qkv = Linear(n_embd, 3 * width, bias=bias, std=std, rng=rng, dtype=dtype)
        self.attention = CausalAttention(scale=1 / math.sqrt(head_size) if scale is None else scale,
                                         window=window, dropout=dropout, tile=tile)
        self.out = Linear(width, n_embd, bias=bias, std=std if out_std is None else out_std, rng=rng, dtype=dtype)

    def forward(self, x, *, rng: np.random.Generator | None = None, kv: KV | None = None, segments=None):
        not_in_a_store(segments, kv)
        x = channels(x, self.qkv.weight.shape[0], "SelfAttention")
        if x.ndim != 3:
            raise ValueError(f"SelfAttention wants (B, T, C); got an array of shape {x.shape}")
        B, T, _ = x.shape
        H, D = self.n_head, self.head_size
        qkv, saved_qkv = self.qkv.forward(x)
        q, k, v = qkv.reshape(B, T, 3, H, D).transpose(2, 0, 3, 1, 4)  # each (B, H, T, D), a view
        if kv is None:
            z, saved_attention = self.attention.forward(q, k, v, rng=rng, segments=segments)
        else:
            z, saved_attention = self._decoded(q, k, v, rng, kv), None
        y, saved_out = self.out.forward(z.swapaxes(1, 2).reshape(B, T, H * D))
        return y, (saved_qkv, saved_attention, saved_out)

    def _decoded(self, q, k, v, rng, kv: KV):
        """The attention of new positions to those in the store and to themselves."""
        even, positions = kv.even, kv.positions(q.shape[2])
        k, v = kv.extend(k, v)
        if even and q.shape[2] > 1:  # the queries are the last of all positions, so tiles of them see no more than they must
            return self.attention(q, k, v, rng=rng)
        return self.attention.look(q, k, v, positions)

    def backward(self, dy, saved):
        saved_qkv, saved_attention, saved_out = saved
        B, T, _ = saved_qkv.shape
        H, D = self.n_head, self.head_size
        if saved_attention is None:
            raise ValueError("there is no backward through a decode store: run forward over the whole sequence without kv")
        dz = self.out.backward(dy, saved_out).reshape(B, T, H, D).swapaxes(1, 2)
        dqkv = np.empty((B, T, 3, H, D), dz.dtype)
        for i, d in enumerate(self.attention.backward(dz, saved_attention)):
            dqkv[:, :, i] = d.swapaxes(1, 2)
        return self.qkv.backward(dqkv.reshape(B, T, 3 * H * D), saved_qkv)

    def _note(self):
        return f"{self.n_head} heads of {self.head_size}"

    def hints(self, x):
        B, T, C = np.shape(x)
        return {"B": B, "T": T, "N": B * T, "H": self.n_head, "scale": self.attention.scale,
                "sqrt(D)": math.sqrt(self.head_size), "sqrt(C)": math.sqrt(C), "sqrt(H)": math.sqrt(self.n_head),
                "1 - p": 1 - self.attention.dropout.p}
