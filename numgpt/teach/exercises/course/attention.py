"""Causal attention: each position takes a mean of the values, weighted by how well each key fits its query.

All of backward is yours. The derivation's start: there are three steps,

    scores = scale * q @ k.T      with -inf where the key comes after the query
    p = softmax(scores)           where the score is -inf, p is 0
    y = p @ v

and you have undone each of them before: the last is a product (exercise linear), the second a softmax (exercise
softmax), the first are the scores (exercise scores). From the last to the first:

    y = p @ v                     gives dv and dp
    p = softmax(scores)           gives dscores from dp and p
    scores = scale * q @ k.T      gives dq and dk from dscores
"""

import math

import numpy as np


class CausalAttention:
    """q, k, v (B, H, T, D) -> y (B, H, T, D)"""

    def forward(self, q, k, v):
        T, D = q.shape[-2:]
        scale = 1 / math.sqrt(D)
        future = np.arange(T) > np.arange(T)[:, None]  # (T, T): key s comes after query t
        scores = np.where(future, -np.inf, scale * (q @ k.swapaxes(-1, -2)))
        e = np.exp(scores - scores.max(-1, keepdims=True))
        p = e / e.sum(-1, keepdims=True)
        return p @ v, (q, k, v, p, scale)

    def backward(self, dy, saved):
        q, k, v, p, scale = saved
        #- # your lines here: dv and dp, then dscores, then dq and dk
        #- dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
        dv = p.swapaxes(-1, -2) @ dy  #+
        dp = dy @ v.swapaxes(-1, -2)  #+
        dscores = p * (dp - (dp * p).sum(-1, keepdims=True))  #+
        dq = scale * dscores @ k  #+
        dk = scale * dscores.swapaxes(-1, -2) @ q  #+
        return dq, dk, dv


# -- the course's own from here on

from numgpt.teach.exercises.reports import draw, layer

TITLE = "causal attention, all of it"
TASK, MISTAKES = "write", ()
HINTS = {
    "v": ("dv (T, D) is made of p (T, T) and dy (T, D), in each head by itself.",
          "As dweight of y = x @ weight: the first factor transposed, times dy. `a.swapaxes(-1, -2)` transposes the last "
          "two axes."),
    "q": ("dq is made of dscores and k; dscores of p and dp; dp of dy and v. Take dp first: it is to y = p @ v what dx is "
          "to y = x @ weight.",
          "dscores is in each row what exercise softmax came to, with p for y and dp for dy. Where p is 0 it is 0 too: "
          "the mask needs no line of its own.",
          "dq: forward multiplies with k.T and with scale. So does the way back, and what was transposed there is not "
          "transposed here."),
    "k": ("dk is made of dscores and q, once dscores is right (see dq).",
          "q has a hand in the rows of the scores, k in their columns: dscores has to be transposed first. And the scale "
          "counts here too."),
}
LESSON = "that is the whole of it: two products, a softmax, and a mask that takes care of itself."


def checks(made):
    for T, D in ((7, 5), (5, 2)):
        q, k, v = draw(*[(2, 3, T, D)] * 3)
        yield layer(made.CausalAttention(), CausalAttention(), q, k, v,
                    hints={"sqrt(D)": D ** 0.5, "scale": D ** -0.5, "T": T})
