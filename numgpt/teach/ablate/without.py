"""A GPT with one thing missing: layers that take the place of those that have it, each with its own backward.

    model = GPT(config, seed=0)
    remove(model, "residual")     # the weights stay as they are, where there still are such
"""

import numpy as np

from numgpt.layers import CausalAttention, Layer
from numgpt.layers.attention import tiles
from numgpt.layers.block import Block
from numgpt.layers.inputs import floats, gradient
from numgpt.layers.kv import KV
from numgpt.model import GPT


class Through(Layer):
    """Let everything through: what stands where a norm, or the positions, stood.

    x -> y of one shape

    Forward   y = x
    Backward  dx = dy
    Saved     the shape of x
    """

    def forward(self, x, *, kv: KV | None = None, segments=None):
        x = floats(x, "Through")
        return x, x.shape

    def backward(self, dy, saved):
        return gradient(dy, saved, "Through")


class NoSkipBlock(Layer):
    """ffn(norm2(attention(norm1(x)))): a block's branches one after the other, and no path past them.

    x (B, T, C) -> y (B, T, C)

    Forward   n = attention(norm1(x))
              y = ffn(norm2(n))
    Backward  -- one way forward, and one way back: every gradient has to come through every branch
              dn = norm2.backward(ffn.backward(dy))
              dx = norm1.backward(attention.backward(dn))
    Saved     what each part saved, in order
    """

    def __init__(self, block: Block):
        self.norm1, self.attention, self.norm2, self.ffn = block.norm1, block.attention, block.norm2, block.ffn
        self.dropout = block.dropout

    def forward(self, x, *, rng: np.random.Generator | None = None, kv: KV | None = None, segments=None):
        h, saved_norm1 = self.norm1.forward(x)
        a, saved_attention = self.attention.forward(h, rng=rng, kv=kv, segments=segments)
        n, kept_a = self.dropout.forward(a, rng=rng)
        h, saved_norm2 = self.norm2.forward(n)
        f, saved_ffn = self.ffn.forward(h)
        y, kept_f = self.dropout.forward(f, rng=rng)
        return y, (saved_norm1, saved_attention, kept_a, saved_norm2, saved_ffn, kept_f)

    def backward(self, dy, saved):
        saved_norm1, saved_attention, kept_a, saved_norm2, saved_ffn, kept_f = saved
        df = self.dropout.backward(dy, kept_f)
        dn = self.norm2.backward(self.ffn.backward(df, saved_ffn), saved_norm2)
        da = self.dropout.backward(dn, kept_a)
        return self.norm1.backward(self.attention.backward(da, saved_attention), saved_norm1)


class UnmaskedAttention(CausalAttention):
    """Attention that sees all positions, those after its own too.

    q (B, H, T, D), k, v (B, H, S, D) -> y (B, H, T, D)

    Forward   scores = scale * (q @ k.swapaxes(-1, -2))
              p = softmax(scores)
              y = p @ v
    Backward  -- CausalAttention's: it has no line for the mask, whose work is done when p is 0
              dv = p.swapaxes(-1, -2) @ dy
              dp = dy @ v.swapaxes(-1, -2)
              dscores = p * (dp - (dp * p).sum(-1, keepdims=True))
              dq = scale * dscores @ k
              dk = scale * dscores.swapaxes(-1, -2) @ q
    Saved     as CausalAttention
    """

    def _tiles(self, T, S, reach=None):
        for queries, _ in tiles(T, S, tile=self.tile):
            yield queries, slice(0, S), np.zeros((queries.stop - queries.start, 1), bool)


def without_residual(model: GPT) -> None:
    model.body.blocks = [NoSkipBlock(block) for block in model.body.blocks]


def without_norm(model: GPT) -> None:
    for block in model.body.blocks:
        block.norm1, block.norm2 = Through(), Through()
    model.body.norm = None


def without_positions(model: GPT) -> None:
    model.body.positions = Through()


def without_mask(model: GPT) -> None:
    for block in model.body.blocks:
        own = block.attention.attention
        block.attention.attention = UnmaskedAttention(scale=own.scale, dropout=own.dropout.p, tile=own.tile)


REMOVERS = {"residual": without_residual, "norm": without_norm, "positions": without_positions, "mask": without_mask}


def remove(model: GPT, part: str) -> None:
    """Take the part out of a model that has just been made: its gradients begin at 0, and its values lie in a new array."""
    if part not in REMOVERS:
        raise ValueError(f"what can be taken out of a model is one of {', '.join(REMOVERS)}; got {part!r}")
    REMOVERS[part](model)
    model.lay_out()
