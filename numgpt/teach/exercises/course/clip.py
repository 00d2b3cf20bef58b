"""A gradient that is too long, cut to a length. Its length is not what it is taken for.

The derivation's start: all gradients of a model, laid end to end, are one vector. Where it is longer than allowed,
all of them are multiplied by one factor, so that the direction stays:

    g = min(1, longest / (norm + 1e-6)) * g

The norm of a vector is the square root of the sum of its squares.
"""

import numpy as np


def clip(grads, longest):
    """A list of arrays -> a list of new arrays, together no longer than longest."""
    #- norm = sum((g * g).sum() for g in grads)
    norm = np.sqrt(sum((g * g).sum() for g in grads))  #+
    factor = min(1, longest / (norm + 1e-6))
    return [factor * g for g in grads]


# -- the course's own from here on

from types import SimpleNamespace

from numgpt.layers import Param
from numgpt.teach.exercises.reports import draw, values
from numgpt.training import optim

TITLE = "a gradient's length, clipped"
TASK, MISTAKES = "mend", ("clip-no-square-root",)
NEAR = 4e-6  # the 1e-6 that is added to a norm of 0.5 is 2e-6 of it: without it clip is right too
NAMES = ("too long", "much too long", "a little too long", "short enough")
HINTS = {name: ("The factor is right once the norm is. Take a vector of which you know the length, (3, 4): what does the "
                "first line say?",
                "3 * 3 + 4 * 4 is 25, and the length is 5: the root is missing.") for name in NAMES}
LESSON = ("of a gradient longer than 1 the square is longer still, so it is cut too short; of a shorter one it is "
          "shorter, so it may not be cut at all. Training goes on, at another learning rate every step.")


def checks(made):
    grads = draw((5, 3), (3,), (7, 2))
    flat = np.concatenate([g.ravel() for g in grads])
    norm = optim.SGD(SimpleNamespace(values=flat, grads=flat, params=lambda: [Param(flat)])).norm()
    got, wanted = {}, {}
    for name, length, longest in zip(NAMES, (3.0, 40.0, 0.5, 0.3), (1.0, 1.0, 0.3, 1.0)):
        scaled = [g * (length / norm) for g in grads]
        given = [g.copy() for g in scaled]
        got[name] = joined(made.clip(given, longest), grads)
        if any((a != b).any() for a, b in zip(given, scaled)):
            raise TypeError("clip changed the arrays that it was given: it is to return new ones")
        wanted[name] = optim.clip(length, longest) * np.concatenate([g.ravel() for g in scaled])
    yield values("clip", got, wanted, NEAR)


def joined(parts, grads):
    if not isinstance(parts, (list, tuple)) or len(parts) != len(grads):
        raise TypeError(f"clip must return a list of {len(grads)} arrays, as it was given; it returned "
                        f"{type(parts).__name__}")
    return np.concatenate([np.ravel(part) for part in parts])
