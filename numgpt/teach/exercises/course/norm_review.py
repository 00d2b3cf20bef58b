"""Somebody else's layer normalisation, to be reviewed. It trains; a line of it is wrong all the same.

The derivation's start: dxhat = dy * gain, and x reaches xhat = (x - mean) * rstd on three ways: directly, through mean, and
through rstd. Find each of the three in the lines below.
"""

import numpy as np


def mean_of(a):
    return a.mean(-1, keepdims=True)


class LayerNorm:
    """x (B, T, C) -> y (B, T, C);  gain, bias (C,)"""

    def __init__(self, gain, bias, eps=1e-5):
        self.gain, self.bias, self.eps = gain, bias, eps
        self.dgain, self.dbias = np.zeros_like(gain), np.zeros_like(bias)

    def forward(self, x):
        centred = x - mean_of(x)
        rstd = 1 / np.sqrt(mean_of(centred * centred) + self.eps)
        xhat = centred * rstd
        return self.gain * xhat + self.bias, (xhat, rstd)

    def backward(self, dy, saved):
        xhat, rstd = saved
        self.dgain += np.einsum("btc,btc->c", dy, xhat)
        self.dbias += np.einsum("btc->c", dy)
        dcentred = self.gain * dy
        #- dx = dcentred - mean_of(dcentred)
        dx = dcentred - mean_of(dcentred) - xhat * mean_of(dcentred * xhat)  #+
        return dx * rstd


# -- the course's own from here on

from numgpt.teach.exercises.course.layer_norm import checks  # noqa: F401  (the same forward, held to the same)

TITLE = "a review of a layer normalisation"
TASK, MISTAKES = "mend", ("ln-no-xhat",)
HINTS = {
    "bias": ("It is the line that makes self.dbias.", "The sum of dy over batch and time."),
    "gain": ("It is the line that makes self.dgain.", "The sum of dy * xhat over batch and time."),
    "x": ("gain and bias are right, so it is in dx. Of its three ways, which two are there?",
          "The way through rstd is missing: xhat times the mean over the channels of dcentred * xhat, to be taken away."),
}
LESSON = ("a gradient may be wrong in one direction of C and right in all others. A check along one random direction sees "
          "little of it, a check of every number all.")
