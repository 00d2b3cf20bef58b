"""The GELU in its tanh form, an activation. There is a mistake in its derivative.

The derivation's start: y is a product of x and a gate between 0 and 1,

    y = x * 0.5 * (1 + t)         t = tanh(u)         u = sqrt(2 / pi) * (x + 0.044715 x x x)

so its slope has two parts, one with the gate as it is and one with the gate's own slope:

    dy/dx = 0.5 * (1 + t)  +  x * 0.5 * dt/du * du/dx
"""

import math

import numpy as np

SCALE = math.sqrt(2 / math.pi)


class GELU:
    """x -> y, number by number"""

    def forward(self, x):
        t = np.tanh(SCALE * (x + 0.044715 * x * x * x))
        return 0.5 * x * (1 + t), (x, t)

    def backward(self, dy, saved):
        x, t = saved
        #- du = SCALE * (1 + 0.044715 * x * x)
        du = SCALE * (1 + 3 * 0.044715 * x * x)  #+
        slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du
        return dy * slope


# -- the course's own from here on

from numgpt.teach.exercises.reports import draw, layer

TITLE = "an activation's slope"
TASK, MISTAKES = "mend", ("gelu-no-3",)
HINTS = {"x": ("The slope's two parts are there, and dt/du = 1 - t * t is right. Take du/dx by itself.",
               "u has a cube in it. What is the derivative of x * x * x?")}
LESSON = ("where x is small the cube hardly counts, and the gradient is nearly right: of a mistake like this the loss "
          "curve says nothing. A check in which inputs are small says little more.")


def checks(made):
    x, = draw((3, 7))
    yield layer(made.GELU(), GELU(), 1.5 * x)
