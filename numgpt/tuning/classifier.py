"""Classification, as GPT-1 is fine-tuned to it: of texts, of pairs of texts, and between choices."""

from collections.abc import Sequence

import numpy as np

from numgpt.layers import ClassHead, ScoreHead, SimilarityHead, SoftmaxCrossEntropy
from numgpt.layers.inputs import IGNORE
from numgpt.layers.ops import softmax
from numgpt.model import GPT
from numgpt.tuning.template import Template
from numgpt.tuning.tuned import Tuned, in_rows, nobody, unpadded

HEADS = {"classify": ClassHead, "pairs": ClassHead, "similarity": SimilarityHead, "choice": ScoreHead}


class Classifier(Tuned):
    """A task head on the last token of each text, and the language model's loss beside its own.

    ids (B, T), last (B,), classes (B,), targets (B, T) -> loss, a number
    of similarity ids, last and targets are (B, 2, ...), both orders of a pair; of choices (B, n, ...)

    Forward   x = body(ids)
              scores = task(x, last)
              loss = cross_entropy(scores, classes) + lm_weight * head(x, targets)
    Backward  dscores = cross_entropy.backward(dloss)
              -- the body is under both losses, so their gradients add
              dx = task.backward(dscores) + head.backward(lm_weight * dloss)
              body.backward(dx)
    Saved     what body, task, cross_entropy and head saved

    The auxiliary loss keeps the language in the model while it learns the task; GPT-1's weight is 0.5. A class of -100 is
    not known, and does not count. A batch's two means divide by two numbers, and so does each piece of it.
    """

    def __init__(self, gpt: GPT, template: Template, labels: Sequence | None = None, *, lm_weight: float = 0.5, dropout: float = 0.0,
                 rng=None):
        if template.kind not in HEADS:
            raise ValueError(f"a classifier is one of {', '.join(HEADS)}; got {template.kind!r}")
        if (labels is None) != (template.kind == "choice"):
            raise ValueError("an example has choices of its own, and there are no labels" if template.kind == "choice" else
                             f"{template.kind} wants labels")
        if not 0 <= lm_weight < np.inf:
            raise ValueError(f"lm_weight must be 0 or above, and finite; got {lm_weight}")
        self.labels, self.lm_weight = labels and tuple(labels), float(lm_weight)
        self.cross_entropy = SoftmaxCrossEntropy()
        options = dict(dropout=dropout, std=gpt.config.std, rng=rng, dtype=gpt.values.dtype)
        if labels is None:  # one number added to each choice's score changes nothing, so there is no bias to learn
            head = ScoreHead(gpt.config.n_embd, bias=False, **options)
        else:
            head = HEADS[template.kind](gpt.config.n_embd, len(labels), **options)
        super().__init__(gpt, template, head)

    def about(self):
        return {**super().about(), "labels": self.labels, "lm_weight": self.lm_weight, "dropout": self.task.dropout.p}

    def forward(self, ids, last, classes, targets, *, rng: np.random.Generator | None = None, count: tuple[int, int] | None = None):
        n_classes, n_targets = self.count(ids, last, classes, targets) if count is None else count
        ids, targets = unpadded(last, ids, targets)
        x, saved_body = self.body.forward(in_rows(ids), rng=rng)
        scores, saved_task = self.task.forward(x.reshape(*np.shape(ids), -1), last, rng=rng)
        loss, saved_loss = self.cross_entropy.forward(scores, classes, count=n_classes)
        saved_head = None
        if self.lm_weight:
            lm_loss, saved_head = self.head.forward(x, in_rows(targets), count=n_targets)
            loss = loss + self.lm_weight * lm_loss
        return loss, (saved_body, saved_task, saved_loss, saved_head)

    def backward(self, saved, dloss: float = 1.0, *, finished=None):
        finished = finished or nobody
        saved_body, saved_task, saved_loss, saved_head = saved
        dx = self.task.backward(self.cross_entropy.backward(dloss, saved_loss), saved_task)
        dx = dx.reshape(-1, *dx.shape[-2:])
        if saved_head is not None:
            dx += self.head.backward(self.lm_weight * dloss, saved_head)
        finished(self.task)
        finished(self.head)
        self.body.backward(dx, saved_body, finished=finished)

    def __call__(self, ids, last, classes, targets, *, rng: np.random.Generator | None = None, count: tuple[int, int] | None = None):
        """The loss alone, nothing kept."""
        n_classes, n_targets = self.count(ids, last, classes, targets) if count is None else count
        ids, targets = unpadded(last, ids, targets)
        x = self.body(in_rows(ids), rng=rng)
        loss = self.cross_entropy(self._scores(x, ids, last, rng), classes, count=n_classes)
        return loss + self.lm_weight * self.head(x, in_rows(targets), count=n_targets) if self.lm_weight else loss

    def apart(self, ids, last, classes, targets) -> tuple:
        """(B, K) the scores, and the two losses: the task's, and the language model's, 0 where it has no weight."""
        ids, targets = unpadded(last, ids, targets)
        x = self.body(in_rows(ids))
        scores = self._scores(x, ids, last)
        return scores, self.cross_entropy(scores, classes), self.head(x, in_rows(targets)) if self.lm_weight else 0.0

    def scores(self, ids, last) -> np.ndarray:
        """(B, K): of each class, or of each choice, before the softmax."""
        [ids] = unpadded(last, ids)
        return self._scores(self.body(in_rows(ids)), ids, last)

    def probabilities(self, ids, last) -> np.ndarray:
        """(B, K): of each class, or of each choice, and 0 where there is no such choice."""
        return softmax(self.scores(ids, last))

    def _scores(self, x, ids, last, rng=None):
        return self.task(x.reshape(*np.shape(ids), -1), last, rng=rng)

    def count(self, ids, last, classes, targets) -> tuple[int, int]:
        """How many classes and how many tokens of a batch count."""
        if np.shape(targets) != np.shape(ids) or np.shape(last) != np.shape(ids)[:-1] or np.shape(classes) != np.shape(ids)[:1]:
            raise ValueError("a batch is ids and targets (B, T), or (B, n, T), with last (B,) or (B, n) and classes (B,); "
                             f"got {', '.join(str(np.shape(a)) for a in (ids, targets, last, classes))}")
        return tuple(int((np.asarray(a) != IGNORE).sum()) for a in (classes, targets))
