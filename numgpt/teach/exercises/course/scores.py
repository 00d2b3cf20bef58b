"""Attention's scores: how well each key fits each query. A factor is lost on the way back.

The derivation's start: one score is

    scores[t, s] = scale * sum over d of q[t, d] * k[s, d]            scale = 1 / sqrt(D)

so q[t, d] has a hand in the scores of its own row t, each time with k[s, d] (and what else?), and k[s, d] in those of
column s.
"""

import math

import numpy as np


class Scores:
    """q (B, H, T, D), k (B, H, S, D) -> scores (B, H, T, S)"""

    def forward(self, q, k):
        scale = 1 / math.sqrt(q.shape[-1])
        return scale * (q @ k.swapaxes(-1, -2)), (q, k, scale)

    def backward(self, dscores, saved):
        q, k, scale = saved
        #- dproduct = dscores
        dproduct = scale * dscores  #+
        dq = dproduct @ k
        dk = dproduct.swapaxes(-1, -2) @ q
        return dq, dk


# -- the course's own from here on

from numgpt.teach.exercises.reports import draw, layer

TITLE = "attention's scores"
TASK, MISTAKES = "mend", ("scale-missing",)
HINTS = {
    "q": ("dq and dk are both made of dproduct, which is the gradient of q @ k.T. Is dscores that?",
          "The scores are scale times the product, so dproduct is scale times dscores."),
    "k": ("dk is made of dproduct, whose last two axes are exchanged, and q.",
          "dk[s] = sum over t of dproduct[t, s] * q[t]; and in dproduct the scale has to be."),
}
LESSON = ("dq and dk are sqrt(D) too long and dv is exact: the mark of a lost scale. Adam divides a constant factor out "
          "again, so that training hardly tells.")


def checks(made):
    q, k = draw((2, 3, 7, 5), (2, 3, 4, 5))
    yield layer(made.Scores(), Scores(), q, k, hints={"sqrt(D)": 5 ** 0.5, "scale": 5 ** -0.5})
