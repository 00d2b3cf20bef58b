"""The feed-forward half of a block: widen, bend, narrow again. An array stands where another belongs.

The derivation's start: there are three steps, each with a backward that you know,

    h = x @ up            dup is made of x and dh,         dx of dh and up
    a = tanh(h)           dh is da * (1 - a * a)
    y = a @ down          ddown is made of its input and dy,  da of dy and down

and they are undone from the last to the first.
"""

import numpy as np


class FeedForward:
    """x (N, C) -> y (N, C);  up (C, F), down (F, C)"""

    def __init__(self, up, down):
        self.up, self.down = up, down
        self.dup, self.ddown = np.zeros_like(up), np.zeros_like(down)

    def forward(self, x):
        h = x @ self.up
        a = np.tanh(h)
        return a @ self.down, (x, h, a)

    def backward(self, dy, saved):
        x, h, a = saved
        #- self.ddown += h.T @ dy
        self.ddown += a.T @ dy  #+
        da = dy @ self.down.T
        dh = da * (1 - a * a)
        self.dup += x.T @ dh
        return dh @ self.up.T


# -- the course's own from here on

from numgpt.teach.exercises.reports import draw, layer

TITLE = "the feed-forward half of a block"
TASK, MISTAKES = "mend", ("ffn-pre-activation",)
HINTS = {
    "down": ("It is the line that makes self.ddown: the step undone there is y = a @ down.",
             "A weight's gradient is made of what the weight was multiplied with in forward. Which array came into down: "
             "h, or a?"),
    "up": ("It is the line that makes self.dup, or what comes before it: dh, da.",
           "dup is x transposed times dh, and dh = da * (1 - a * a) with da = dy @ down.T."),
    "x": ("It is the last line, or what comes before it: dh, da.", "dx = dh @ up.T, and dh = da * (1 - a * a) with da = "
                                                                   "dy @ down.T."),
}
LESSON = ("an array of the right shape in the wrong place raises no error. All else being right says where to look: the "
          "mistake is on nobody's way back but its own.")


def checks(made):
    up, down, x = draw((5, 11), (11, 5), (7, 5))
    yield layer(made.FeedForward(up, down), FeedForward(up, down), x, params=("up", "down"))
