"""The feed-forward half of a block."""

import numpy as np

from numgpt.layers.activation import activation as activation_named
from numgpt.layers.linear import Linear
from numgpt.layers.param import Layer


class FeedForward(Layer):
    """Widen each position, bend it, narrow it again.

    x (B, T, C) -> y (B, T, C);  up.weight (C, F), down.weight (F, C)

    Forward   h = x @ up.weight + up.bias
              a = activation(h)
              y = a @ down.weight + down.bias
    Backward  -- a would be a fourth of what a block keeps; computed again, it comes with the activation's slope
              a = activation(h)
              da = dy @ down.weight.T
              dh = activation.backward(da)
              dx = dh @ up.weight.T
              -- each Linear adds its own weight's and bias's gradient, from a and dy, from x and dh
    Saved     x, which up saved, and h
    """

    def __init__(self, n_embd: int, n_hidden: int | None = None, *, activation: str = "gelu_tanh",
                 bias: bool = True, std: float = 0.02, out_std: float | None = None, rng=None, dtype=np.float64):
        n_hidden = 4 * n_embd if n_hidden is None else n_hidden
        rng = np.random.default_rng(rng)
        self.up = Linear(n_embd, n_hidden, bias=bias, std=std, rng=rng, dtype=dtype)
        self.activation = activation_named(activation)
        self.down = Linear(n_hidden, n_embd, bias=bias, std=std if out_std is None else out_std, rng=rng, dtype=dtype)

    def forward(self, x):
        h, saved_up = self.up.forward(x)
        return self.down(self.activation(h)), (saved_up, h)

    def backward(self, dy, saved):
        saved_up, h = saved
        a, slope = self.activation.forward(h)
        da = self.down.backward(dy, a)
        del a  # these are the widest arrays of a model, and here it needs the most memory
        dh = self.activation.backward(da, slope)
        del da, slope
        return self.up.backward(dh, saved_up)
