"""Softmax: scores to probabilities. A part of its derivative is missing.

The derivation's start: with y = softmax(x) of one row,

    d y[j] / d x[i] =  y[i] * (1 - y[i])    where j = i
                      -y[i] * y[j]          where j is another

for all of the row share one sum. dx[i] adds up dy[j] times that, over all j.
"""

import numpy as np


class Softmax:
    """x (..., S) -> y (..., S), each row positive, with a sum of 1"""

    def forward(self, x):
        e = np.exp(x - x.max(-1, keepdims=True))
        y = e / e.sum(-1, keepdims=True)
        return y, y

    def backward(self, dy, saved):
        y = saved
        #- return y * (1 - y) * dy
        return y * (dy - (dy * y).sum(-1, keepdims=True))  #+


# -- the course's own from here on

from numgpt.teach.exercises.reports import draw, layer

TITLE = "softmax"
TASK, MISTAKES = "mend", ("softmax-diagonal",)
HINTS = {"x": ("The line that returns dx: it has no number of the row but the one itself. Which case of the two above is "
               "that?",
               "The cases of other j are missing. Add them up, -y[i] * y[j] * dy[j] over all j but i, and put the two "
               "together: y[i] * (dy[i] - one sum over the whole row).")}
LESSON = ("softmax is no activation: each score moves all of its row. Every row of dx sums to 0, for raising all scores "
          "alike changes nothing.")


def checks(made):
    x, = draw((2, 3, 7))
    yield layer(made.Softmax(), Softmax(), x)
