"""A branch beside a path that skips it. One path's gradient is lost.

The derivation's start: x reaches y on two paths,

    y = x + branch(x)             here branch(x) = tanh(x @ weight)

and what reaches y on two paths gets a gradient from each: they add up.
"""

import numpy as np


class Residual:
    """x (N, C) -> y (N, C);  weight (C, C)"""

    def __init__(self, weight):
        self.weight, self.dweight = weight, np.zeros_like(weight)

    def forward(self, x):
        a = np.tanh(x @ self.weight)
        return x + a, (x, a)

    def backward(self, dy, saved):
        x, a = saved
        dh = dy * (1 - a * a)
        self.dweight += x.T @ dh
        #- return dh @ self.weight.T
        return dy + dh @ self.weight.T  #+


# -- the course's own from here on

from numgpt.teach.exercises.reports import draw, layer

TITLE = "a residual connection"
TASK, MISTAKES = "mend", ("residual-dropped",)
HINTS = {
    "weight": ("It is the line that makes self.dweight, or dh before it.", "dweight = x.T @ dh, with dh = dy * (1 - a * "
                                                                           "a)."),
    "x": ("The branch is right: the weight's gradient comes out of it. Look at the last line, where the paths of x come "
          "together.",
          "dh @ weight.T is what came back through the branch. What comes back through `x +` is dy itself, and has to be "
          "added."),
}
LESSON = ("every use of an array adds to its gradient. In a deep model the skip path is the one on which the gradient "
          "reaches the first layers at all.")


def checks(made):
    weight, x = draw((5, 5), (7, 5))
    yield layer(made.Residual(weight), Residual(weight), x, params=("weight",))
