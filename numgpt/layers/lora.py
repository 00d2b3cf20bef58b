"""LoRA: a Linear that is trained beside its matrix, by a product of two small ones."""

import math

import numpy as np

from numgpt.layers.blocks import blocks
from numgpt.layers.inputs import positive
from numgpt.layers.linear import Linear
from numgpt.layers.ops import flat
from numgpt.layers.param import constant, normal


class LoRA(Linear):
    """A Linear whose weight and bias are frozen, and what a matrix of low rank adds to it: the only part that is trained.

    x (N, n_in) -> y (N, n_out);  weight (n_in, n_out), bias (n_out,), lora_a (n_in, rank), lora_b (rank, n_out)
    scale = alpha / rank, so that alpha need not be chosen anew when rank is

    Forward   y = x @ weight + bias + scale * (x @ lora_a) @ lora_b
    Backward  -- weight and bias are frozen: nothing is added to their gradients
              dh = scale * dy @ lora_b.T
              dlora_a = x.T @ dh
              dlora_b = scale * (x @ lora_a).T @ dy
              -- x reaches y two ways: through weight, and through the small matrices
              dx = dy @ weight.T + dh @ lora_a.T
    Saved     x

    lora_b starts at 0, so that training starts at the very function that was there. lora_a may not be 0 as well: each of
    them is a factor of the other's gradient, so neither would ever move. It is drawn from normal(0, 1 / sqrt(n_in)): the
    paper says Gaussian and no more; with this, x of order one gives x @ lora_a of order one, however wide x is.

    All products have rank on one side, so nothing of the weight's size is made. The bottleneck x @ lora_a is computed again
    in backward, where it costs less than to keep.
    """

    def __init__(self, linear: Linear, rank: int, alpha: float | None = None, *, rng=None):
        """Over the Params of a Linear, which are frozen. alpha None: rank, a scale of 1."""
        if not isinstance(linear, Linear) or isinstance(linear, LoRA):
            raise TypeError(f"LoRA stands on a Linear that has none yet; got {type(linear).__name__}")
        n_in, n_out = linear.weight.shape
        self.rank = positive(rank, "rank")
        if rank > min(n_in, n_out):
            raise ValueError(f"rank {rank} is more than a matrix of shape {(n_in, n_out)} has: choose one up to "
                             f"{min(n_in, n_out)}")
        self.alpha = float(rank if alpha is None else alpha)
        if not math.isfinite(self.alpha) or self.alpha <= 0:
            raise ValueError(f"alpha must be a number above 0; got {alpha}")
        self.scale = self.alpha / self.rank
        self.weight, self.bias = linear.weight, linear.bias
        self.freeze()
        dtype = self.weight.value.dtype
        self.lora_a = normal(rng, (n_in, rank), 1 / math.sqrt(n_in), dtype)
        self.lora_b = constant(0.0, (rank, n_out), dtype)

    def forward(self, x):
        y, x = Linear.forward(self, x)
        h = flat(x) @ self.lora_a.value
        y += ((self.scale * h) @ self.lora_b.value).reshape(y.shape)
        return y, x

    def backward(self, dy, saved):
        x = saved
        dx = Linear.backward(self, dy, x)
        dh = self.scale * (flat(np.asarray(dy)) @ self.lora_b.value.T)
        h = self.scale * (flat(x) @ self.lora_a.value)
        self.lora_a.add_product(flat(x).T, dh)
        self.lora_b.add_product(h.T, flat(np.asarray(dy)))
        dx += (dh @ self.lora_a.value.T).reshape(dx.shape)
        return dx

    def merged(self, out: np.ndarray | None = None) -> np.ndarray:
        """weight + scale * lora_a @ lora_b, in an array of its own, or in one that may be the weight itself.

        A few rows at a time in double precision, so that each number of a float32 weight is rounded once.
        """
        weight, (a, b) = self.weight.value, (param.value for param in (self.lora_a, self.lora_b))
        out = np.empty_like(weight) if out is None else out
        wide = np.result_type(weight, np.float64)
        b = self.scale * b.astype(wide)
        for part in blocks(*weight.shape):
            out[part] = weight[part] + a[part].astype(wide) @ b
        return out

    def merge(self) -> Linear:
        """The Linear over the same Params, its weight now what merged() gives, still frozen."""
        self.merged(self.weight.value)
        linear = object.__new__(Linear)
        linear.weight, linear.bias = self.weight, self.bias
        return linear

    def hints(self, x):
        return {**Linear.hints(self, x), "scale": self.scale, "rank": self.rank}

    def _note(self):
        return f"rank {self.rank}, scale {self.scale:g}"
