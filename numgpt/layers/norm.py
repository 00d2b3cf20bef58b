"""Layer normalisation."""

import numpy as np

from numgpt.layers.blocks import row_blocks
from numgpt.layers.inputs import channels, gradient
from numgpt.layers.ops import mean, rows
from numgpt.layers.param import Layer, constant


class LayerNorm(Layer):
    """Normalise each position's C channels, then scale and shift.

    x (B, T, C) -> y (B, T, C);  gain, bias (C,)

    Forward   mean = x.mean(-1, keepdims=True)
              rstd = 1 / sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + eps)
              xhat = (x - mean) * rstd
              y = gain * xhat + bias
    Backward  dgain = rows(dy * xhat)
              dbias = rows(dy)
              dxhat = dy * gain
              -- x reaches y three ways: directly, through mean, through rstd; the last
              -- two take the 1-part and the xhat-part out of dxhat
              dx = rstd * (dxhat - dxhat.mean(-1, keepdims=True)
                           - xhat * (dxhat * xhat).mean(-1, keepdims=True))
    Saved     xhat (B, T, C), rstd (B, T, 1)
    """

    def __init__(self, n_embd: int, *, bias: bool = True, eps: float = 1e-5, dtype=np.float64):
        if not np.asarray(eps, dtype) > 0:
            raise ValueError(f"eps must be above 0 in {np.dtype(dtype)}, or a constant row would be divided by 0; got {eps}")
        self.eps = eps
        self.gain = constant(1.0, (n_embd,), dtype)
        self.bias = constant(0.0, (n_embd,), dtype) if bias else None

    def forward(self, x):
        x = channels(x, self.gain.size, "LayerNorm")
        gain = self.gain.value
        y = np.empty(x.shape, np.result_type(x, gain))
        xhat = np.empty_like(y)
        rstd = np.empty_like(y, shape=(*x.shape[:-1], 1))
        for x_, y_, xhat_, rstd_ in row_blocks(x, y, xhat, rstd):
            c = np.subtract(x_, mean(x_), out=xhat_)
            c -= mean(c)  # once more: with a large mean, the first is off by its rounding
            rstd_[...] = 1 / np.sqrt(mean(c * c) + self.eps)
            xhat_ *= rstd_
            np.multiply(xhat_, gain, out=y_)
            if self.bias is not None:
                y_ += self.bias.value
        return y, (xhat, rstd)

    def backward(self, dy, saved):
        xhat, rstd = saved
        dy = gradient(dy, xhat.shape, "LayerNorm")
        gain = self.gain.value
        dx = np.empty(dy.shape, np.result_type(dy, xhat))
        for dy_, xhat_, rstd_, dx_ in row_blocks(dy, xhat, rstd, dx):
            if not self.gain.frozen:
                self.gain.grad += rows(dy_ * xhat_)
            if self.bias is not None and not self.bias.frozen:
                self.bias.grad += rows(dy_)
            dxhat = dy_ * gain
            dx_[...] = rstd_ * (dxhat - mean(dxhat)
                                - xhat_ * mean(dxhat * xhat_))
        return dx

    def hints(self, x):
        C = self.gain.size
        return {**super().hints(x), "sqrt((C-1)/C)": ((C - 1) / C) ** 0.5}
