"""A matrix product and a bias again, over a batch of sequences. One of the lines of backward is wrong.

The derivation's start: one number of y is

    y[b, t, j] = sum over i of x[b, t, i] * weight[i, j]  +  bias[j]

so weight[i, j] and bias[j] have a hand in all positions of all sequences, and x[b, t, i] in those of its own position.
"""

import numpy as np


class Linear:
    """x (B, T, n_in) -> y (B, T, n_out);  weight (n_in, n_out), bias (n_out,)"""

    def __init__(self, weight, bias):
        self.weight, self.bias = weight, bias
        self.dweight, self.dbias = np.zeros_like(weight), np.zeros_like(bias)

    def forward(self, x):
        return x @ self.weight + self.bias, x

    def backward(self, dy, saved):
        x = saved
        self.dweight += np.einsum("bti,btj->ij", x, dy)
        #- self.dbias += dy.mean((0, 1))
        self.dbias += dy.sum((0, 1))  #+
        return dy @ self.weight.T


# -- the course's own from here on

from numgpt.teach.exercises.reports import draw, layer

TITLE = "a bias over a batch"
TASK, MISTAKES = "mend", ("b-mean",)
HINTS = {
    "bias": ("It is the line that makes self.dbias: is a mean of dy what the derivation comes to?",
             "bias[j] is added to B T numbers, and has its part in the change of each: these parts add up. Nothing "
             "divides them."),
    "weight": ("It is the line that makes self.dweight.", "sum over b and t of x[b, t, i] * dy[b, t, j]: nothing divides "
                                                          "it."),
    "x": ("It is the line that returns dx.", "dy times weight transposed."),
}
LESSON = ("only the loss takes a mean. It divides once, at the top, and all that comes after on the way back adds up. With "
          "a mean the bias still learns, and under Adam, which divides factors out again, nearly as well: nobody notices.")


def checks(made):
    weight, bias, x = draw((5, 3), (3,), (2, 7, 5))
    yield layer(made.Linear(weight, bias), Linear(weight, bias), x, params=("weight", "bias"),
                hints={"B": 2, "T": 7, "B T": 14})
