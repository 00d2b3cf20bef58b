"""Dropout: random zeros while training. Something is lost on the way back.

The derivation's start: once the mask is drawn it is a constant, and

    y[i] = x[i] * kept[i] / (1 - p)

is x[i] times a number. The division keeps the mean of y where the mean of x was, however much is dropped.
"""

import numpy as np


class Dropout:
    """x -> y of one shape;  each number is set to zero with chance p"""

    def __init__(self, p):
        self.p = p

    def forward(self, x, *, rng):
        kept = rng.random(x.shape) >= self.p
        return x * kept / (1 - self.p), kept

    def backward(self, dy, saved):
        kept = saved
        #- return dy * kept
        return dy * kept / (1 - self.p)  #+


# -- the course's own from here on

from numgpt.teach.exercises.reports import draw, generator, layer

TITLE = "dropout"
TASK, MISTAKES = "mend", ("dropout-no-scale",)
HINTS = {"x": ("The mask is right: what was dropped gets no gradient. Look at what forward does with the numbers that are "
               "kept.",
               "y[i] is x[i] times kept[i] / (1 - p), all of it; so dx[i] is dy[i] times all of it.")}
LESSON = ("a layer that multiplies by a constant multiplies by the same constant on the way back: the mask, and the scale "
          "too.")


def checks(made):
    x, = draw((5, 7))
    yield layer(made.Dropout(0.3), Dropout(0.3), x, hints={"1 - p": 0.7}, rng=generator())
