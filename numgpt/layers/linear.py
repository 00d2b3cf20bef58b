"""A matrix product and a bias."""

import numpy as np

from numgpt.layers.inputs import channels, gradient
from numgpt.layers.ops import flat, rows
from numgpt.layers.param import Layer, constant, normal


class Linear(Layer):
    """Multiply each row by a matrix and add a bias.

    x (N, n_in) -> y (N, n_out);  weight (n_in, n_out), bias (n_out,);  N is any leading axes

    Forward   y = x @ weight + bias
    Backward  dweight = x.T @ dy
              dbias = rows(dy)
              dx = dy @ weight.T
    Saved     x
    """

    def __init__(self, n_in: int, n_out: int, *, bias: bool = True, std: float = 0.02,
                 rng=None, dtype=np.float64):
        self.weight = normal(rng, (n_in, n_out), std, dtype)
        self.bias = constant(0.0, (n_out,), dtype) if bias else None

    def forward(self, x):
        n_in, n_out = self.weight.shape
        x = channels(x, n_in, "Linear")
        y = flat(x) @ self.weight.value  # leading axes flattened: one large product, not B small ones
        if self.bias is not None:
            y += self.bias.value
        return y.reshape(*x.shape[:-1], n_out), x

    def backward(self, dy, saved):
        x = saved
        dy = gradient(dy, (*x.shape[:-1], self.weight.shape[1]), "Linear")
        self.weight.add_product(flat(x).T, flat(dy))
        if self.bias is not None and not self.bias.frozen:
            self.bias.grad += rows(dy)
        dx = flat(dy) @ self.weight.value.T
        return dx.reshape(x.shape)
