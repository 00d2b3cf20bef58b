"""Scores to probabilities."""

from numgpt.layers import ops
from numgpt.layers.inputs import floats, gradient
from numgpt.layers.param import Layer


class Softmax(Layer):
    """Make each row positive, with a sum of 1: exp, divided by the row's sum.

    x (..., S) -> y (..., S);  a row of -inf alone, where everything is masked, gives zeros

    Forward   e = exp(x - x.max(-1, keepdims=True))
              y = e / e.sum(-1, keepdims=True)
    Backward  -- each score raises its own probability, and lowers all of its row through the sum
              dx = y * (dy - (dy * y).sum(-1, keepdims=True))
    Saved     y
    """

    def forward(self, x):
        y = ops.softmax(floats(x, "Softmax"))
        return y, y

    def backward(self, dy, saved):
        y = saved
        return ops.softmax_backward(gradient(dy, y.shape, "Softmax"), y)

    def _note(self):
        return None
