"""The loss: the mean of -log(probability of the target), over the targets that count. Those of -100 do not.

There is a mistake in backward. The derivation's start: for one row, with p = softmax(logits),

    -log p[target] = log(sum over v of exp(logits[v])) - logits[target]

The first part's derivative by logits[v] is p[v]; the second's is 1 where v is the target. The mean divides both.
"""

import numpy as np


class CrossEntropy:
    """logits (N, V), targets (N,) -> loss, a number"""

    def forward(self, logits, targets):
        counts = targets != -100
        index = np.where(counts, targets, 0)
        e = np.exp(logits - logits.max(-1, keepdims=True))
        p = e / e.sum(-1, keepdims=True)
        nll = -np.log(p[np.arange(len(p)), index])
        return (nll * counts).sum() / counts.sum(), (p, index, counts)

    def backward(self, dloss, saved):
        p, index, counts = saved
        dlogits = p.copy()
        dlogits[np.arange(len(p)), index] -= 1
        #- return dloss * dlogits * counts[:, None] / len(p)
        return dloss * dlogits * counts[:, None] / counts.sum()  #+


# -- the course's own from here on

from numgpt.teach.exercises.reports import draw, layer, np_targets

TITLE = "the loss, with targets that do not count"
TASK, MISTAKES = "mend", ("ce-count",)
HINTS = {"logits": ("p - onehot is right, and rows that do not count get nothing, as it should be. Look at what the line "
                    "divides by.",
                    "forward divides by the number of targets that count, not by the number of rows.")}
LESSON = ("as long as all targets count, both are one number: a test without ignored targets passes. This one makes every "
          "gradient of a model too short by one factor.")


def checks(made):
    for N, counted in ((7, 5), (4, 3)):
        logits, targets = draw((N, 11))[0], np_targets(N, 11)
        yield layer(made.CrossEntropy(), CrossEntropy(), logits, targets,
                    hints={"counted": counted, "N": N, "counted / N": counted / N})
