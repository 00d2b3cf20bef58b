"""A reward model: which of two answers to a prompt people would choose, as a number for each."""

import numpy as np

from numgpt.layers import LogisticPairs, ScoreHead
from numgpt.model import GPT
from numgpt.tuning.template import Template
from numgpt.tuning.tuned import Tuned, in_rows, nobody, pairs, unpadded


class RewardModel(Tuned):
    """A score on the last token of prompt and answer, of which differences are log-odds: InstructGPT's reward model.

    ids (B, 2, T), last (B, 2), chosen and rejected side by side -> loss, a number

    Forward   x = body(ids)
              r = task(x, last)
              loss = pairs(r[:, 0], r[:, 1])
    Backward  dr = stack(pairs.backward(dloss), 1)
              body.backward(task.backward(dr))
    Saved     what body, task and pairs saved

    The score has no bias: no difference would ever tell what it should be. The head for tokens has no part in the loss.
    """

    def __init__(self, gpt: GPT, template: Template, *, dropout: float = 0.0, rng=None):
        self.pairs = LogisticPairs()
        super().__init__(gpt, template, ScoreHead(gpt.config.n_embd, dropout=dropout, bias=False, std=gpt.config.std, rng=rng,
                                                  dtype=gpt.values.dtype))

    def about(self):
        return {**super().about(), "kind": "reward", "dropout": self.task.dropout.p}

    def forward(self, ids, last, *, rng: np.random.Generator | None = None, count: int | None = None):
        count = self.count(ids, last) if count is None else count
        [ids] = unpadded(last, ids)
        x, saved_body = self.body.forward(in_rows(ids), rng=rng)
        r, saved_task = self.task.forward(x.reshape(*np.shape(ids), -1), last, rng=rng)
        loss, saved_pairs = self.pairs.forward(r[:, 0], r[:, 1], count=count)
        return loss, (saved_body, saved_task, saved_pairs)

    def backward(self, saved, dloss: float = 1.0, *, finished=None):
        finished = finished or nobody
        saved_body, saved_task, saved_pairs = saved
        dr = np.stack(self.pairs.backward(dloss, saved_pairs), 1)
        dx = self.task.backward(dr, saved_task)
        finished(self.task)
        finished(self.head)
        self.body.backward(dx.reshape(-1, *dx.shape[-2:]), saved_body, finished=finished)

    def __call__(self, ids, last, *, rng: np.random.Generator | None = None, count: int | None = None):
        """The loss alone, nothing kept."""
        count = self.count(ids, last) if count is None else count
        r = self.score(ids, last, rng=rng)
        return self.pairs(r[:, 0], r[:, 1], count=count)

    def score(self, ids, last, *, rng: np.random.Generator | None = None) -> np.ndarray:
        """ids (..., T), last (...) -> (...): the reward of each sequence, by what stands up to its last token."""
        [ids] = unpadded(last, ids)
        x = self.body(in_rows(ids), rng=rng)
        return self.task(x.reshape(*np.shape(ids), -1), last, rng=rng)

    def count(self, ids, last) -> int:
        """How many pairs there are."""
        return pairs(ids, last=last)
