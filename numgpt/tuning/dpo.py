"""Direct preference optimization: a policy learns from pairs of answers, without a reward model and without sampling."""

import numpy as np

from numgpt.layers import DPO, HeadLogProbs
from numgpt.model import GPT
from numgpt.tuning.template import Template
from numgpt.tuning.tuned import Tuned, in_rows, nobody, pairs, unpadded


class DPOModel(Tuned):
    """The policy; how much likelier than the reference it finds the chosen answer, and the rejected one less, is its loss.

    ids, targets (B, 2, T), chosen and rejected side by side, reference (B, 2), log_probs(ids, targets) of the model
    that the policy began as -> loss, a number

    Forward   x = body(ids)
              -- targets of a prompt and of padding are -100, and their log-probability is 0: the prompt is the same for
              -- both answers and would cancel out, but it is no part of either; the answer's <end> is
              logp = log_p(x, targets).sum(-1)
              loss = dpo(logp, reference)
    Backward  dlogp = dpo.backward(dloss)
              -- a sum, not a mean: each token of an answer has its whole gradient
              dx = log_p.backward(where(targets == -100, 0, dlogp[..., None]))
              body.backward(dx)
    Saved     what body, log_p and dpo saved, and the shape of targets

    The reference is an input that has no gradient: it is computed once for each example, before the first step.
    """

    def __init__(self, gpt: GPT, template: Template, *, beta: float = 0.1, smoothing: float = 0.0):
        self.log_p, self.dpo = HeadLogProbs(gpt.head), DPO(beta, smoothing=smoothing)
        super().__init__(gpt, template)

    def about(self):
        return {**super().about(), "kind": "dpo", "beta": self.dpo.beta, "smoothing": self.dpo.smoothing}

    def forward(self, ids, targets, reference, *, rng: np.random.Generator | None = None, count: int | None = None):
        count = self.count(ids, targets, reference) if count is None else count
        ids, targets = unpadded(-1, ids, targets)
        x, saved_body = self.body.forward(in_rows(ids), rng=rng)
        logp, saved_log_p = self.log_p.forward(x, in_rows(targets))
        logp = logp.reshape(np.shape(targets)).sum(-1)
        loss, saved_dpo = self.dpo.forward(logp, reference=reference, count=count)
        return loss, (saved_body, saved_log_p, saved_dpo, np.shape(targets))

    def backward(self, saved, dloss: float = 1.0, *, finished=None):
        finished = finished or nobody
        saved_body, saved_log_p, saved_dpo, shape = saved
        dlogp = self.dpo.backward(dloss, saved_dpo)
        dx = self.log_p.backward(np.broadcast_to(dlogp[..., None], shape).reshape(-1, shape[-1]), saved_log_p)
        finished(self.head)
        self.body.backward(dx, saved_body, finished=finished)

    def __call__(self, ids, targets, reference, *, rng: np.random.Generator | None = None, count: int | None = None):
        """The loss alone, nothing kept."""
        count = self.count(ids, targets, reference) if count is None else count
        return self.dpo(self.log_probs(ids, targets, rng=rng), reference=reference, count=count)

    def log_probs(self, ids, targets, *, rng: np.random.Generator | None = None) -> np.ndarray:
        """ids, targets (..., T) -> (...): of each sequence, the log-probability of the targets that count, summed."""
        ids, targets = unpadded(-1, ids, targets)
        logp = self.log_p(self.body(in_rows(ids), rng=rng), in_rows(targets))
        return logp.reshape(np.shape(targets)).sum(-1)

    def count(self, ids, targets, reference) -> int:
        """How many pairs there are."""
        return pairs(ids, targets=targets, reference=reference)
