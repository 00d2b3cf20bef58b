"""A batch that does not fit, in pieces, whose gradients add up. They add up to something else.

The derivation's start: the loss of the whole batch is one mean,

    loss = sum over all rows that count of nll / (number of rows that count, in the whole batch)

while gradient() below is that of one piece's own mean: its sum, divided by its own count. Pieces may differ in how many
of their targets count (those of -100 do not).
"""

import numpy as np

ROOM = 7  # rows, the most that fit at once


def gradient(weight, x, targets):
    """Of a piece's mean loss by weight (C, V), for x (N, C) and targets (N,). There is no mistake in here."""
    if len(x) > ROOM:
        raise MemoryError(f"{len(x)} rows at once do not fit, {ROOM} do: one piece at a time")
    logits, counts = x @ weight, targets != -100
    e = np.exp(logits - logits.max(-1, keepdims=True))
    dlogits = e / e.sum(-1, keepdims=True)
    dlogits[counts, targets[counts]] -= 1
    return x.T @ (dlogits * counts[:, None]) / counts.sum()


def accumulate(weight, pieces):
    """The gradient of the whole batch's mean loss; pieces is a list of (x, targets)."""
    total = np.zeros_like(weight)
    count = sum((targets != -100).sum() for _, targets in pieces)  #+
    for x, targets in pieces:
        #- total += gradient(weight, x, targets) / len(pieces)
        total += gradient(weight, x, targets) * (targets != -100).sum() / count  #+
    return total


# -- the course's own from here on

from numgpt.layers import HeadLoss
from numgpt.teach.exercises.reports import draw, np_targets, values

TITLE = "a batch in pieces"
TASK, MISTAKES = "mend", ("accum-mean-of-means",)
HINTS = {name: ("It is the line in the loop. With pieces of which as many targets count it is right, with others not: "
                "what weight has each piece's mean?",
                "A mean of means counts each piece alike. Make each piece's mean a sum again (times its own count), and "
                "divide by the count of the whole batch.") for name in ("even pieces", "uneven pieces")}
LESSON = "pieces do not change the gradient, if all of them divide by the whole batch's count. As the loss: divide once."


def checks(made):
    weight, x = draw((5, 11), (13, 5))
    targets = np_targets(13, 11)
    whole = HeadLoss(5, 11)
    whole.weight.value[...] = weight

    def reference(rows):
        whole.zero_grad()
        loss, saved = whole.forward(x[rows], targets[rows])
        whole.backward(1.0, saved)
        return whole.weight.grad.copy()

    def pieces(*ends):
        return [(x[a:b], targets[a:b]) for a, b in zip((0, *ends), ends)]

    got = {"even pieces": made.accumulate(weight.copy(), pieces(4, 8)),
           "uneven pieces": made.accumulate(weight.copy(), pieces(2, 9, 13))}
    yield values("accumulate", got, {"even pieces": reference(slice(8)), "uneven pieces": reference(slice(13))})
