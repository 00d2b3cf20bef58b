"""A block: attention, then feed-forward, each beside a path that skips it.

    pre-norm                               post-norm

    x ──┬──> norm1 ─> attention ─┐         x ──┬──> attention ─┐
        └──────────────────────> + ─> n        └─────────────> + ─> norm1 ─> n
    n ──┬──> norm2 ─> ffn ───────┐         n ──┬──> ffn ───────┐
        └──────────────────────> + ─> y        └─────────────> + ─> norm2 ─> y

In GPT-1 the norm stands on the path itself (post), from GPT-2 on inside the branch (pre), so that
the gradient reaches every depth unhindered.
"""

import numpy as np

from numgpt.layers.attention import TILE, SelfAttention
from numgpt.layers.dropout import Dropout
from numgpt.layers.ffn import FeedForward
from numgpt.layers.kv import KV
from numgpt.layers.norm import LayerNorm
from numgpt.layers.param import Layer


class Block(Layer):
    """The parts that both kinds are made of; what each does with them is their forward and backward."""

    def __init__(self, n_embd: int, n_head: int, *, n_hidden: int | None = None, head_size: int | None = None,
                 activation: str = "gelu_tanh", bias: bool = True, eps: float = 1e-5, scale: float | None = None,
                 window: int | None = None, dropout_attn: float = 0.0, dropout_resid: float = 0.0, tile: int = TILE,
                 std: float = 0.02, out_std: float | None = None, rng=None, dtype=np.float64):
        rng = np.random.default_rng(rng)
        weights = dict(bias=bias, std=std, out_std=out_std, rng=rng, dtype=dtype)
        self.norm1 = LayerNorm(n_embd, bias=bias, eps=eps, dtype=dtype)
        self.attention = SelfAttention(n_embd, n_head, head_size=head_size, scale=scale, window=window,
                                       dropout=dropout_attn, tile=tile, **weights)
        self.norm2 = LayerNorm(n_embd, bias=bias, eps=eps, dtype=dtype)
        self.ffn = FeedForward(n_embd, n_hidden, activation=activation, **weights)
        self.dropout = Dropout(dropout_resid)

    def hints(self, x):
        return {**self.attention.hints(x), "1 - p_resid": 1 - self.dropout.p}


class PreNormBlock(Block):
    """x + attention(norm1(x)), and the same with norm2 and ffn.

    x (B, T, C) -> y (B, T, C)

    Forward   n = x + attention(norm1(x))
              y = n + ffn(norm2(n))
    Backward  -- a sum hands its gradient to both sides, so dy runs along the skip and through the branch
              dn = dy + norm2.backward(ffn.backward(dy))
              dx = dn + norm1.backward(attention.backward(dn))
    Saved     what each part saved, in order
    """

    def forward(self, x, *, rng: np.random.Generator | None = None, kv: KV | None = None, segments=None):
        h, saved_norm1 = self.norm1.forward(x)
        a, saved_attention = self.attention.forward(h, rng=rng, kv=kv, segments=segments)
        a, kept_a = self.dropout.forward(a, rng=rng)
        n = x + a
        h, saved_norm2 = self.norm2.forward(n)
        f, saved_ffn = self.ffn.forward(h)
        f, kept_f = self.dropout.forward(f, rng=rng)
        return n + f, (saved_norm1, saved_attention, kept_a, saved_norm2, saved_ffn, kept_f)

    def backward(self, dy, saved):
        saved_norm1, saved_attention, kept_a, saved_norm2, saved_ffn, kept_f = saved
        df = self.dropout.backward(dy, kept_f)
        dh = self.ffn.backward(df, saved_ffn)
        dn = dy + self.norm2.backward(dh, saved_norm2)
        da = self.dropout.backward(dn, kept_a)
        dh = self.attention.backward(da, saved_attention)
        return dn + self.norm1.backward(dh, saved_norm1)


class PostNormBlock(Block):
    """norm1(x + attention(x)), and the same with norm2 and ffn.

    x (B, T, C) -> y (B, T, C)

    Forward   n = norm1(x + attention(x))
              y = norm2(n + ffn(n))
    Backward  -- ds belongs to the sum inside the norm: both sides of the sum receive it
              ds = norm2.backward(dy)
              dn = ds + ffn.backward(ds)
              ds = norm1.backward(dn)
              dx = ds + attention.backward(ds)
    Saved     what each part saved, in order
    """

    def forward(self, x, *, rng: np.random.Generator | None = None, kv: KV | None = None, segments=None):
        a, saved_attention = self.attention.forward(x, rng=rng, kv=kv, segments=segments)
        a, kept_a = self.dropout.forward(a, rng=rng)
        n, saved_norm1 = self.norm1.forward(x + a)
        f, saved_ffn = self.ffn.forward(n)
        f, kept_f = self.dropout.forward(f, rng=rng)
        y, saved_norm2 = self.norm2.forward(n + f)
        return y, (saved_attention, kept_a, saved_norm1, saved_ffn, kept_f, saved_norm2)

    def backward(self, dy, saved):
        saved_attention, kept_a, saved_norm1, saved_ffn, kept_f, saved_norm2 = saved
        ds = self.norm2.backward(dy, saved_norm2)
        df = self.dropout.backward(ds, kept_f)
        dn = ds + self.ffn.backward(df, saved_ffn)
        ds = self.norm1.backward(dn, saved_norm1)
        da = self.dropout.backward(ds, kept_a)
        return ds + self.attention.backward(da, saved_attention)


BLOCKS = {"pre": PreNormBlock, "post": PostNormBlock}
