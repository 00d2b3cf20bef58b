"""The least that a training step takes: its matrix products alone, and its optimizer's arrays read and written once.

The products have the shapes in which numgpt does them, a shard of the rows on each thread, and write into arrays that are
kept. Each weight has its place in memory, as in a model; activations share theirs from layer to layer, which makes the
floor rather too low than too high.
"""

import time

import numpy as np
from numpy import matmul

from benchmarks._shapes import Shape, rows_of_shards
from numgpt.layers.blocks import NUMBERS, blocks
from numgpt.threads import Pool, keep_memory, one_blas_thread

TILE = 64  # queries that attention takes at once


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def chunk(n_vocab: int) -> int:
    """The rows that the head takes at once."""
    return max(128, NUMBERS // n_vocab)


class Products:
    """The matrix products of one shard: each once in forward, and twice in backward, for the input and for the weight."""

    def __init__(self, config, batch: int, n_tokens: int, weights: list[np.ndarray], head: np.ndarray):
        C, HD, V, n = config.n_embd, config.n_head * config.head_dim, config.n_vocab, batch * n_tokens
        self.head, self.tied, self.chunk = head, config.tied, chunk(V)
        self.layers = [(weights[4 * i:4 * i + 4], config.window_of(i)) for i in range(config.n_layer)]
        self.rows = {width: normal(n, width) for width in {C, 3 * HD, HD, config.hidden_dim}}
        self.outs = {width: normal(n, width) for width in self.rows}
        self.dx = {width: np.zeros_like(rows) for width, rows in self.rows.items()}
        self.x, self.logits, self.dlast = normal(n, C), normal(min(n, self.chunk), V), normal(min(n, self.chunk), C)
        heads = batch, config.n_head, n_tokens, config.head_dim
        self.q, self.k, self.v, self.z, self.dq, self.dk, self.dv = (normal(*heads) for _ in range(7))
        self.scores = normal(batch * config.n_head * TILE * n_tokens)
        self.dw = np.zeros(max(8 * NUMBERS, max(w.shape[1] for w in (head, *weights))), np.float32)

    def run(self) -> None:
        for weights, window in self.layers:
            qkv, out, up, down = weights
            self.forward(qkv)
            for rows, keys, s in self.tiles(window):
                matmul(self.q[:, :, rows], self.k[:, :, keys].swapaxes(-1, -2), out=s)
                matmul(s, self.v[:, :, keys], out=self.z[:, :, rows])
            for weight in out, up, down:
                self.forward(weight)
        for start in range(0, len(self.x), self.chunk):
            x = self.x[start:start + self.chunk]
            logits = self.logits[:len(x)]
            head = self.head.T if self.tied else self.head
            matmul(x, head, out=logits)
            matmul(logits, head.T, out=self.dlast[:len(x)])
            self.by_weight(*((logits.T, x) if self.tied else (x.T, logits)))
        for weights, window in reversed(self.layers):
            qkv, out, up, down = weights
            for weight in down, up, out:
                self.backward(weight)
            for rows, keys, s in self.tiles(window):
                dz, keys_ = self.z[:, :, rows], (slice(None), slice(None), keys)
                matmul(s.swapaxes(-1, -2), dz, out=self.dv[keys_])
                matmul(dz, self.v[keys_].swapaxes(-1, -2), out=s)
                matmul(s, self.k[keys_], out=self.dq[:, :, rows])
                matmul(s.swapaxes(-1, -2), self.q[:, :, rows], out=self.dk[keys_])
            self.backward(qkv)

    def tiles(self, window: int | None):
        """For each tile: its queries, the keys that some query of it sees, and an array for their scores."""
        B, H, T, _ = self.q.shape
        for start in range(0, T, TILE):
            rows = slice(start, min(start + TILE, T))
            keys = slice(max(0, start + 1 - (window or T)), rows.stop)
            shape = B, H, rows.stop - rows.start, keys.stop - keys.start
            yield rows, keys, self.scores[:np.prod(shape)].reshape(shape)

    def forward(self, weight) -> None:
        n_in, n_out = weight.shape
        matmul(self.rows[n_in], weight, out=self.outs[n_out])

    def backward(self, weight) -> None:
        n_in, n_out = weight.shape
        self.by_weight(self.rows[n_in].T, self.outs[n_out])
        matmul(self.outs[n_out], weight.T, out=self.dx[n_in])

    def by_weight(self, a, b) -> None:
        """a @ b, in the blocks in which it would be added to a gradient."""
        n = b.shape[1]
        for part in blocks(len(a), n, numbers=4 * NUMBERS):
            rows = part.stop - part.start
            matmul(a[part], b, out=self.dw[:rows * n].reshape(rows, n))


class Floor:
    """Takes its turns like Numgpt and Torch of _contenders."""

    def __init__(self, shape: Shape, threads: int):
        c = shape.config()
        keep_memory()
        HD = c.n_head * c.head_dim
        weights = [normal(*sizes) for _ in range(c.n_layer)
                   for sizes in ((c.n_embd, 3 * HD), (HD, c.n_embd), (c.n_embd, c.hidden_dim), (c.hidden_dim, c.n_embd))]
        head = normal(c.n_vocab, c.n_embd) if c.tied else normal(c.n_embd, c.n_vocab)
        self.shards = [Products(c, rows, shape.n_tokens, weights, head) for rows in rows_of_shards(shape.batch, threads)]
        self.pool = Pool(threads)
        self.w, self.g, self.m, self.v = (np.full(c.n_params, 1e-9, np.float32) for _ in range(4))

    def begin(self) -> None:
        pass

    def move(self, part: slice) -> None:
        """Read all four arrays, and write three, as AdamW must."""
        self.w[part] += self.g[part]
        for moment in self.m[part], self.v[part]:
            np.negative(moment, out=moment)

    def turn(self, n: int) -> tuple[float, float]:
        """Seconds of the products, and of reading and writing, each the mean of n."""
        first = second = 0.0
        with one_blas_thread():
            for _ in range(n):
                began = time.perf_counter()
                self.pool.map(Products.run, self.shards)
                between = time.perf_counter()
                self.pool.map(self.move, blocks(self.w.size))
                first, second = first + between - began, second + time.perf_counter() - between
        return first / n, second / n
