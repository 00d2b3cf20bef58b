"""Dropout: random zeros while training."""

import numpy as np

from numgpt.layers.inputs import floats, gradient, probability
from numgpt.layers.param import Layer


class Dropout(Layer):
    """Set each number to zero with chance p, and scale the rest so that the mean stays.

    x -> y of one shape;  without rng, or with p = 0, y is x

    Forward   kept = rng.random(x.shape, float32) >= p
              y = x * kept / (1 - p)
    Backward  -- the same zeros and the same scale: the mask is a constant factor
              dx = dy * kept / (1 - p)
    Saved     kept, a mask of booleans, or None
    """

    def __init__(self, p: float):
        self.p = probability(p, "a dropout")

    def forward(self, x, *, rng: np.random.Generator | None = None):
        x = floats(x, "Dropout")
        if not isinstance(rng, np.random.Generator | None):
            raise TypeError(f"rng must be a generator, such as np.random.default_rng(0), or None; got {type(rng).__name__}")
        if rng is None or self.p == 0:
            return x, None
        # float32 draws whatever x is, so that the same generator gives every dtype the same mask
        kept = rng.random(x.shape, np.float32) >= self.p
        return self._apply(x, kept), kept

    def backward(self, dy, saved):
        kept = saved
        if kept is None:
            return dy
        dy = gradient(dy, kept.shape, "Dropout")
        return self._apply(dy, kept)

    def _apply(self, x, kept):
        return x * kept * (1 / (1 - self.p))

    def _note(self):
        return f"p {self.p}" if self.p else None

    def hints(self, x):
        return {"1 - p": 1 - self.p}
