"""Layer normalisation: each position's C channels are normalised, then scaled and shifted.

The derivation's start: gain and bias are easy, a factor and a summand of every position. For x, begin with

    dxhat = dy * gain

and with one position alone. x[i] reaches the C numbers of xhat = (x - mean) * rstd on three ways: directly, through mean,
and through rstd. The first gives rstd * dxhat[i]. For the others write out

    d mean / d x[i] = 1 / C               d rstd / d x[i] = -rstd * rstd * xhat[i] / C

(the second is worth a line of your own: rstd = (var + eps) ** -0.5). How does each xhat[j] change with mean, and how with
rstd?
"""

import numpy as np


class LayerNorm:
    """x (B, T, C) -> y (B, T, C);  gain, bias (C,)"""

    def __init__(self, gain, bias, eps=1e-5):
        self.gain, self.bias, self.eps = gain, bias, eps
        self.dgain, self.dbias = np.zeros_like(gain), np.zeros_like(bias)

    def forward(self, x):
        mean = x.mean(-1, keepdims=True)
        rstd = 1 / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + self.eps)
        xhat = (x - mean) * rstd
        return self.gain * xhat + self.bias, (xhat, rstd)

    def backward(self, dy, saved):
        xhat, rstd = saved
        #- # your lines here: add to self.dgain and self.dbias, and make dx
        #- dx = np.zeros_like(dy)
        self.dgain += (dy * xhat).sum((0, 1))  #+
        self.dbias += dy.sum((0, 1))  #+
        dxhat = dy * self.gain  #+
        dx = rstd * (dxhat - dxhat.mean(-1, keepdims=True)  #+
                     - xhat * (dxhat * xhat).mean(-1, keepdims=True))  #+
        return dx


# -- the course's own from here on

from numgpt.teach.exercises.reports import draw, layer

TITLE = "layer normalisation, all of it"
TASK, MISTAKES = "write", ()
HINTS = {
    "bias": ("self.dbias (C,) is made of dy (B, T, C) alone.",
             "As in exercise bias: it is added at every position, so what comes back from all of them adds up."),
    "gain": ("self.dgain (C,) is made of dy and xhat.",
             "gain[i] is multiplied with xhat[b, t, i], so dy[b, t, i] counts times that, in a sum over b and t."),
    "x": ("dx is rstd * (dxhat - ... - ...), with the dxhat of the derivation: the way through mean gives the first part "
          "that is taken away, the way through rstd the second.",
          "Through mean: every xhat[j] of the row falls by rstd / C, so what is taken away is one number a row, a mean "
          "over its channels.",
          "Through rstd: every xhat[j] changes in proportion to itself, so what is taken away is xhat, times one number a "
          "row: again a mean over the channels, of a product."),
}
LESSON = ("of dxhat, the parts along 1 and along xhat are taken out: moving x along them changes nothing in xhat (but for "
          "eps). That is a test without a reference: dx sums to 0 in each row, whatever comes in.")


def checks(made):
    gain, bias, x = draw((5,), (5,), (2, 7, 5))
    yield layer(made.LayerNorm(gain, bias), LayerNorm(gain, bias), x, params=("gain", "bias"), hints={"C": 5, "B T": 14})
    yield layer(made.LayerNorm(gain, bias, 0.1), LayerNorm(gain, bias, 0.1), 0.02 * x, params=("gain", "bias"))
