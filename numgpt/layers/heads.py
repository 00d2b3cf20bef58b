"""Heads for other tasks than the next token: they read one row of a sequence, its last token's, or a number at each.

What stands on the right of the last token is padding, and no head looks at it.
"""

import math

import numpy as np

from numgpt.layers.dropout import Dropout
from numgpt.layers.inputs import channels, floats, gradient, last_places
from numgpt.layers.linear import Linear
from numgpt.layers.param import Layer


class LastToken(Layer):
    """Take one row of each sequence: its last token's, which has seen all the others.

    x (..., T, C), last (...) -> y (..., C);  last is the row's place; -1, where there is no sequence, gives zeros

    Forward   place = (arange(x.shape[-2]) == last[..., None])[..., None]
              y = (place * x).sum(-2)
    Backward  -- the other rows have no part in it, and padding is among them
              dx = place * dy[..., None, :]
    Saved     last, and the shape of x
    """

    def forward(self, x, last):
        x = floats(x, "LastToken")
        last = last_places(last, x, "LastToken")
        T, C = x.shape[-2:]
        there, place = _places(last)
        y = np.zeros((last.size, C), x.dtype.newbyteorder("="))
        y[there] = x.reshape(last.size, T, C)[there, place]
        return y.reshape(*last.shape, C), (last, x.shape)

    def backward(self, dy, saved):
        last, shape = saved
        dy = gradient(dy, (*last.shape, shape[-1]), "LastToken")
        there, place = _places(last)
        dx = np.zeros((last.size, *shape[-2:]), dy.dtype.newbyteorder("="))
        dx[there, place] = dy.reshape(last.size, shape[-1])[there]
        return dx.reshape(shape)

    def _note(self):
        return None


class ClassHead(Layer):
    """Tell a sequence's class from its last token, as GPT-1 does.

    x (B, T, C), last (B,) -> y (B, K), logits;  linear.weight (C, K), linear.bias (K,)

    Forward   h = token(x, last)
              y = linear(dropout(h))
    Backward  -- linear adds its own weight's and bias's gradient
              dh = dropout.backward(linear.backward(dy))
              dx = token.backward(dh)
    Saved     what token, dropout and linear saved: rows (B, C), and a mask
    """

    def __init__(self, n_embd: int, n_classes: int, *, dropout: float = 0.0, std: float = 0.02,
                 rng=None, dtype=np.float64):
        self.token = LastToken()
        self.dropout = Dropout(dropout)
        self.linear = Linear(n_embd, n_classes, std=std, rng=rng, dtype=dtype)

    def forward(self, x, last, *, rng=None):
        h, saved_token = self.token.forward(channels(x, self.linear.weight.shape[0], "ClassHead"), last)
        h, saved_dropout = self.dropout.forward(h, rng=rng)
        y, saved_linear = self.linear.forward(h)
        return y, (saved_token, saved_dropout, saved_linear)

    def backward(self, dy, saved):
        saved_token, saved_dropout, saved_linear = saved
        dh = self.dropout.backward(self.linear.backward(dy, saved_linear), saved_dropout)
        return self.token.backward(dh, saved_token)


class SimilarityHead(ClassHead):
    """Compare two texts that have no order: both orders are read, and their last rows added, as GPT-1 does.

    x (B, 2, T, C), last (B, 2) -> y (B, K), logits;  linear.weight (C, K), linear.bias (K,)

    Forward   h = token(x, last)
              both = h.sum(1)
              y = linear(dropout(both))
    Backward  dboth = dropout.backward(linear.backward(dy))
              -- a sum hands its gradient to each of the two, whole
              dh = stack([dboth, dboth], 1)
              dx = token.backward(dh)
    Saved     what token, dropout and linear saved: rows (B, C), and a mask
    """

    def forward(self, x, last, *, rng=None):
        x = channels(x, self.linear.weight.shape[0], "SimilarityHead")
        if x.ndim != 4 or x.shape[1] != 2:
            raise ValueError("SimilarityHead wants x (B, 2, T, C), both orders of each pair; "
                             f"got an array of shape {x.shape}")
        h, saved_token = self.token.forward(x, last)
        both, saved_dropout = self.dropout.forward(h.sum(1), rng=rng)
        y, saved_linear = self.linear.forward(both)
        return y, (saved_token, saved_dropout, saved_linear)

    def backward(self, dy, saved):
        saved_token, saved_dropout, saved_linear = saved
        dboth = self.dropout.backward(self.linear.backward(dy, saved_linear), saved_dropout)
        dh = np.stack([dboth, dboth], 1)
        return self.token.backward(dh, saved_token)


class ScoreHead(Layer):
    """Give a sequence one number by its last token: how good a choice it is, or how good an answer.

    x (..., T, C), last (...) -> y (...), scores;  linear.weight (C, 1), linear.bias (1,)
    a choice that is missing, last = -1, scores -inf: no softmax over the choices gives it anything

    Forward   h = token(x, last)
              z = linear(dropout(h))[..., 0]
              y = where(last < 0, -inf, z)
    Backward  -- what is missing has no gradient
              dz = where(last < 0, 0, dy)
              dh = dropout.backward(linear.backward(dz[..., None]))
              dx = token.backward(dh)
    Saved     what token, dropout and linear saved: rows (..., C), and a mask
    """

    def __init__(self, n_embd: int, *, dropout: float = 0.0, bias: bool = True, std: float = 0.02,
                 rng=None, dtype=np.float64):
        self.token = LastToken()
        self.dropout = Dropout(dropout)
        self.linear = Linear(n_embd, 1, bias=bias, std=std, rng=rng, dtype=dtype)

    def forward(self, x, last, *, rng=None):
        h, saved_token = self.token.forward(channels(x, self.linear.weight.shape[0], "ScoreHead"), last)
        last, _ = saved_token
        h, saved_dropout = self.dropout.forward(h, rng=rng)
        z, saved_linear = self.linear.forward(h)
        return np.where(last < 0, -math.inf, z[..., 0]), (saved_token, saved_dropout, saved_linear)

    def backward(self, dy, saved):
        saved_token, saved_dropout, saved_linear = saved
        last, _ = saved_token
        dz = np.where(last < 0, 0, gradient(dy, last.shape, "ScoreHead"))
        dh = self.dropout.backward(self.linear.backward(dz[..., None], saved_linear), saved_dropout)
        return self.token.backward(dh, saved_token)


class ValueHead(Layer):
    """Give each position one number: what it is expected to bring.

    x (B, T, C) -> y (B, T);  linear.weight (C, 1), linear.bias (1,)

    Forward   y = linear(x)[..., 0]
    Backward  dx = linear.backward(dy[..., None])
    Saved     x
    """

    def __init__(self, n_embd: int, *, bias: bool = True, std: float = 0.02, rng=None, dtype=np.float64):
        self.linear = Linear(n_embd, 1, bias=bias, std=std, rng=rng, dtype=dtype)

    def forward(self, x):
        y, saved = self.linear.forward(channels(x, self.linear.weight.shape[0], "ValueHead"))
        return y[..., 0], saved

    def backward(self, dy, saved):
        dy = gradient(dy, saved.shape[:-1], "ValueHead")
        return self.linear.backward(dy[..., None], saved)


def _places(last):
    """Which sequences there are, and where each of them ends."""
    there = np.flatnonzero(last >= 0)
    return there, last.reshape(-1)[there]
