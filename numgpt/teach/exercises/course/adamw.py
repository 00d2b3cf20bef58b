"""AdamW, the step that a GPT is trained with. The course ends with two mistakes in one file.

The derivation's start: m is a running mean of the gradients and v one of their squares, both from 0. After t steps the
weights in such a mean add up to 1 - b ** t only, so what it says is too small by that factor, and is divided by it:

    m = b1 * m + (1 - b1) * g                 mhat = m / (1 - b1 ** t)
    v = b2 * v + (1 - b2) * g * g             vhat = v / (1 - b2 ** t)

Then matrices and tables (what has two axes or more) shrink by themselves, which has no part in m and v,

    w = (1 - lr * weight_decay) * w

and all parameters move:

    w = w - lr * mhat / (sqrt(vhat) + eps)
"""

import numpy as np


class AdamW:
    """The moments of a list of parameters, arrays that step changes in place (w -= ..., not w = w - ...)."""

    def __init__(self, params, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        self.params, self.betas, self.eps, self.weight_decay = params, betas, eps, weight_decay
        self.m = [np.zeros_like(w) for w in params]
        self.v = [np.zeros_like(w) for w in params]
        self.t = 0

    def step(self, grads, lr):
        self.t += 1
        b1, b2 = self.betas
        for w, g, m, v in zip(self.params, grads, self.m, self.v):
            #-2 if w.ndim > 1:
            #-2     g = g + self.weight_decay * w
            m[...] = b1 * m + (1 - b1) * g
            v[...] = b2 * v + (1 - b2) * g * g
            mhat = m / (1 - b1 ** self.t)  #+1
            vhat = v / (1 - b2 ** self.t)  #+1
            if w.ndim > 1:  #+2
                w *= 1 - lr * self.weight_decay  #+2
            #-1 w -= lr * m / (np.sqrt(v) + self.eps)
            w -= lr * mhat / (np.sqrt(vhat) + self.eps)  #+1


# -- the course's own from here on

from types import SimpleNamespace

from numgpt.gradcheck.report import WRONG, Finding
from numgpt.layers import Param
from numgpt.teach.exercises.reports import draw, values
from numgpt.training import optim

TITLE = "AdamW, with two mistakes"
TASK, MISTAKES = "mend", ("adam-no-correction", "adam-l2")
STEPS = (1, 7)
PLAIN = ("Begin without decay, and with the first step: there m is (1 - b1) * g and v is (1 - b2) * g * g. How long is "
         "the step, and how long should it be?",
         "The last line moves by m and v as they are. Both have to be divided first, by 1 - b1 ** t and 1 - b2 ** t.")
DECAY = ("Without decay all is right, so it is where weight_decay stands. Does the decay go through m and v?",
         "It is added to g, so that Adam divides it by sqrt(vhat) like a gradient. It should shrink w itself, "
         "where w has two axes or more, and leave g alone.")
VECTORS = ("The weight decays as it should. Do the bias and the gain decay too?",
           "Only what has two axes or more shrinks by itself: gains and biases are left alone.")
EPS = ("The other two are right. The gain's gradients are so small that eps counts beside them: where does it stand?",
       "It is added to the root of vhat, not to vhat.")
HINTS = {f"{name} at step {t}{decay}": hints
         for decay, by_name in (("", {"weight": PLAIN, "bias": PLAIN, "gain": EPS}),
                                (" with decay", {"weight": DECAY, "bias": VECTORS, "gain": VECTORS}))
         for name, hints in by_name.items() for t in STEPS}
LESSON = ("the first step without corrections is 3.16 times too long, (1 - b1) / sqrt(1 - b2); and decay through the "
          "moments is what the W of AdamW was added to undo. That was the last exercise: you have a GPT's whole way back, "
          "and its step.")


def checks(made):
    got, wanted, kept = {}, {}, []
    for decay, suffix in ((0.0, ""), (0.3, " with decay")):
        start, grads = draw((20,))[0], np.zeros(20)
        moving = start.copy()
        params = [Param(part) for part in parts(moving)]
        reference = optim.AdamW(SimpleNamespace(values=moving, grads=grads, params=lambda: params), weight_decay=decay)
        own = [part.copy() for part in parts(start)]
        optimizer = made.AdamW(own, weight_decay=decay)
        for t in range(1, max(STEPS) + 1):
            grads[...] = draw((20,), seed=t)[0]
            grads[18:] *= 1e-8  # the gain's: so small that eps shows
            grads[:18] *= 10    # the others': so large that it does not, and a factor is seen as one
            before = [part.copy() for part in (*own, *parts(moving))]
            optimizer.step([part.copy() for part in parts(grads)], 0.1)
            reference.step(0.1)
            moves = [after - old for after, old in zip((*own, *parts(moving)), before)]
            if t == 1 and not decay:
                kept = [*not_in_place(optimizer, moves[:3])]
            if t in STEPS:
                names = [f"{name} at step {t}{suffix}" for name in ("weight", "bias", "gain")]
                got |= dict(zip(names, moves[:3]))
                wanted |= dict(zip(names, moves[3:]))
    report = values("AdamW", got, wanted)
    if not report.ok:  # moments may be kept in another way, if that is right
        report.findings += kept
    yield report


def not_in_place(optimizer, moves):
    """Names that step has bound to new arrays, so that the arrays which are kept are as they were."""
    still = [name for name, move in zip(("weight", "bias", "gain"), moves) if not move.any()]
    if still:
        yield Finding("not in place", WRONG, notes=[
            f"step leaves {', '.join(still)} as before. The arrays in params are themselves to be changed, as w -= ... "
            "and w *= ... do; w = ... gives the name w to a new array, and the one in params stays"])
    for name in ("m", "v"):
        moments = getattr(optimizer, name, None)
        if isinstance(moments, list) and all(isinstance(moment, np.ndarray) and not moment.any() for moment in moments):
            yield Finding("not in place", WRONG, notes=[
                f"self.{name} is still 0 after a step. {name}[...] = ... writes into the array that is kept there; "
                f"{name} = ... gives the name {name} to a new one, which the next step does not see"])


def parts(flat):
    """weight, bias and gain"""
    return flat[:15].reshape(5, 3), flat[15:18], flat[18:]
