"""Losses of preferences: of two answers to a prompt one was chosen, and one rejected."""

import math

import numpy as np

from numgpt.layers import ops
from numgpt.layers.inputs import constants, divisor, floats, number
from numgpt.layers.param import Layer


class LogisticPairs(Layer):
    """How surprised a reward model is by the choices that were made, if scores' differences are log-odds.

    chosen (B,), rejected (B,), scores -> loss, a number: the mean of -log sigmoid(chosen - rejected)
    count: the number of pairs in the whole batch, where a caller splits it, so that the pieces add up

    Forward   margin = chosen - rejected
              loss = log1p(exp(-margin)).sum() / count
    Backward  -- the slope of log(1 + exp(-m)) is -exp(-m) / (1 + exp(-m)): minus the chance of the wrong choice
              dmargin = -dloss / (1 + exp(margin)) / count
              dchosen = dmargin
              -- only differences are judged: what one is to gain the other is to lose
              drejected = -dmargin
    Saved     margin (B,), count

    Without a pair the loss is 0.
    """

    def forward(self, chosen, rejected, *, count: int | None = None):
        chosen, rejected = floats(chosen, "LogisticPairs"), floats(rejected, "LogisticPairs")
        if chosen.ndim != 1 or chosen.shape != rejected.shape:
            raise ValueError("LogisticPairs wants a score of each chosen and of each rejected answer, both (B,); "
                             f"got {chosen.shape} and {rejected.shape}")
        margin = chosen - rejected
        count = divisor(len(margin), count, "pairs")
        return ops.softplus(-margin).sum() / count, (margin, count)

    def backward(self, dloss, saved):
        margin, count = saved
        dmargin = number(dloss) / count * -ops.sigmoid(-margin)
        return dmargin, -dmargin

    def _note(self):
        return None

    def hints(self, chosen, rejected):
        return {"B": len(chosen)}


class DPO(Layer):
    """Direct preference optimization: the policy is its own reward model, by how far it has moved from a reference.

    logp (B, 2), of a chosen and a rejected answer, summed over its own tokens -> loss, a number
    reference (B, 2), the same by the model that the policy began as; count as above
    smoothing: the share of choices that are taken to be mistakes

    Forward   -- a policy that is best for a reward at a price of beta for each nat of KL to the reference has
              -- reward = beta * log(policy / reference) + what is the same for all answers to a prompt
              reward = beta * (logp - reference)
              margin = reward[:, 0] - reward[:, 1]
              loss = ((1 - smoothing) * log1p(exp(-margin)) + smoothing * log1p(exp(margin))).sum() / count
    Backward  dmargin = dloss * (smoothing / (1 + exp(-margin)) - (1 - smoothing) / (1 + exp(margin))) / count
              dreward = dmargin[:, None] * array([1.0, -1.0])
              -- the reference has no gradient, though it may have the policy's very numbers at first: it says where the
              -- policy came from, which no step changes. Were it to follow, what the policy gains it would gain, and
              -- all that is left of dlogp is beta * (dreward - dreward) = 0
              dlogp = beta * dreward
    Saved     margin (B,), count

    Where the policy is the reference, the loss is log 2, and an answer's gradient beta / 2 / count, up or down.
    """

    def __init__(self, beta: float = 0.1, *, smoothing: float = 0.0):
        if not 0 < beta < math.inf:
            raise ValueError(f"beta, the price of a nat of KL to the reference, must be above 0 and finite; got {beta}")
        if not 0 <= smoothing < 0.5:
            raise ValueError("smoothing is the share of choices that are taken to be mistakes: at least 0 and below 0.5, "
                             f"where nothing would be left to learn; got {smoothing}")
        self.beta, self.smoothing = float(beta), float(smoothing)

    def rewards(self, logp, reference):
        """What each answer has gained on the reference, times beta (B, 2): chosen ones should have gained more."""
        logp = floats(logp, "DPO")
        if logp.ndim != 2 or logp.shape[1] != 2:
            raise ValueError("DPO wants logp (B, 2), the log-probability of each chosen answer and of each rejected one; "
                             f"got an array of shape {logp.shape}")
        return self.beta * (logp - constants(reference, logp, "reference"))

    def forward(self, logp, *, reference, count: int | None = None):
        reward = self.rewards(logp, reference)
        margin = reward[:, 0] - reward[:, 1]
        count = divisor(len(margin), count, "pairs")
        losses = (1 - self.smoothing) * ops.softplus(-margin)
        if self.smoothing:
            losses = losses + self.smoothing * ops.softplus(margin)
        return losses.sum() / count, (margin, count)

    def backward(self, dloss, saved):
        margin, count = saved
        slope = self.smoothing * ops.sigmoid(margin) - (1 - self.smoothing) * ops.sigmoid(-margin)
        dmargin = number(dloss) / count * slope
        dreward = np.stack([dmargin, -dmargin], -1)
        return self.beta * dreward

    def _note(self):
        return f"beta {self.beta:g}" + (f", smoothing {self.smoothing:g}" if self.smoothing else "")

    def hints(self, logp):
        return {"B": len(logp), "beta": self.beta, "1 - 2 smoothing": 1 - 2 * self.smoothing}
