"""A matrix product and a bias.

dy is the derivative of the loss by y, and has y's shape. backward returns dx, the derivative by x, and adds each
parameter's gradient to the array beside it (+=, for a layer may be used twice).

The derivation's start: one number of y is

    y[n, j] = sum over i of x[n, i] * weight[i, j]  +  bias[j]

weight[i, j] has a hand in y[n, j] for every row n, so the chain rule adds up over n:

    dweight[i, j] = sum over n of x[n, i] * dy[n, j]

which is one matrix product. Ask the same of bias[j], and of x[n, i]: in which numbers of y has it a hand?
"""

import numpy as np


class Linear:
    """x (N, n_in) -> y (N, n_out);  weight (n_in, n_out), bias (n_out,)"""

    def __init__(self, weight, bias):
        self.weight, self.bias = weight, bias
        self.dweight, self.dbias = np.zeros_like(weight), np.zeros_like(bias)

    def forward(self, x):
        return x @ self.weight + self.bias, x

    def backward(self, dy, saved):
        x = saved
        #- # your lines here: add to self.dweight and self.dbias, and make dx
        #- dx = np.zeros_like(x)
        self.dweight += x.T @ dy  #+
        self.dbias += dy.sum(0)  #+
        dx = dy @ self.weight.T  #+
        return dx


# -- the course's own from here on

from numgpt.teach.exercises.reports import draw, layer

TITLE = "a matrix product and a bias"
TASK, MISTAKES = "write", ()
HINTS = {
    "weight": ("self.dweight has the shape (n_in, n_out), and is made of x (N, n_in) and dy (N, n_out).",
               "The N must vanish, so it must be the inner axis of the product: x transposed comes first."),
    "bias": ("self.dbias has the shape (n_out,), and is made of dy (N, n_out) alone.",
             "bias[j] is added to every row, so it collects dy[n, j] of every row: a sum over the first axis."),
    "x": ("dx has the shape (N, n_in), and is made of dy (N, n_out) and self.weight (n_in, n_out).",
          "x[n, i] has a hand in y[n, j] for every j, each time with the factor weight[i, j]: dy times weight transposed."),
}
LESSON = "shapes alone nearly say it: there is one way to multiply dy with x, and one with the weight, that fits."


def checks(made):
    for N in (7, 4):  # a factor that happens to be right for one size is wrong for another
        weight, bias, x = draw((5, 3), (3,), (N, 5))
        yield layer(made.Linear(weight, bias), Linear(weight, bias), x, params=("weight", "bias"), hints={"N": N})
