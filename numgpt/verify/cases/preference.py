"""The cases of what stands on a GPT instead of its head, and of the losses of preferences."""

from collections.abc import Callable

import numpy as np

from numgpt import layers as L
from numgpt.layers import ops
from numgpt.verify.cases.frame import Case, Sizes, activations_of, one, order_one, targets_of


class Choice(L.Layer):
    """A question's choices, scored, and the loss of the right one's: what a missing choice is for."""

    def __init__(self, head: L.ScoreHead):
        self.head, self.loss = head, L.SoftmaxCrossEntropy()

    def forward(self, x, last, answers):
        scores, saved_head = self.head.forward(x, last)
        loss, saved_loss = self.loss.forward(scores, answers)
        return loss, (saved_head, saved_loss)

    def backward(self, dloss, saved):
        saved_head, saved_loss = saved
        return self.head.backward(self.loss.backward(dloss, saved_loss), saved_head)


class Bent(L.Layer):
    """A layer with its output bent: a single bias hears the sum of all gradients, and they may be drawn with a sum of 0."""

    def __init__(self, layer: L.Layer):
        self.layer, self.bend = layer, L.GELU()

    def forward(self, *inputs, **options):
        y, saved_layer = self.layer.forward(*inputs, **options)
        y, saved_bend = self.bend.forward(y)
        return y, (saved_layer, saved_bend)

    def backward(self, dy, saved):
        saved_layer, saved_bend = saved
        return self.layer.backward(self.bend.backward(dy, saved_bend), saved_layer)


def last_of(rng, s: Sizes, *shape: int) -> np.ndarray:
    """Where sequences end: the first not at the end of its row, where it is longer than one token."""
    last = rng.integers(0, s.T, shape)
    if last.size:
        last.flat[0] = max(s.T - 2, 0)
    return last


def _on_last(build: Callable, shape: Callable = lambda s: (s.B,), dropped: bool = False) -> Callable:
    """A case over x (..., T, C) and last (...); build(s) makes the layer."""
    def case(rng, s: Sizes) -> Case:
        options = {"rng": np.random.default_rng(int(rng.integers(1 << 30)))} if dropped else {}
        x = activations_of(rng, s, *shape(s), s.T, s.C)
        return Case("", order_one(build(s), rng), (x, last_of(rng, s, *shape(s))), options)
    return case


def _missing(rng, s: Sizes) -> Case:
    """A sequence that is not there, beside those that are."""
    case = _on_last(lambda s: L.LastToken(), lambda s: (s.B, 3))(rng, s)
    case.inputs[1][0, 1] = -1
    return case


def _choices(rng, s: Sizes) -> Case:
    """Questions of up to four choices: one has three, and one does not count where there are more."""
    last = last_of(rng, s, s.B, 4)
    last[-1, 2] = -1
    answers = rng.choice([0, 1, 3], s.B)
    if s.B > 2:
        answers[0] = -100
    x = activations_of(rng, s, s.B, 4, s.T, s.C)
    return Case("", order_one(Choice(L.ScoreHead(s.C, bias=False, dtype=s.dtype)), rng), (x, last, answers))


def _log_probs(tied: bool = False, **options) -> Callable:
    def case(rng, s: Sizes) -> Case:
        more = {"tied": L.Param(np.zeros((s.V, s.C), s.dtype))} if tied else {}
        head = L.HeadLoss(s.C, s.V, chunk=1 + s.B * s.T // 4, dtype=s.dtype, **options, **more)
        return Case("", order_one(L.HeadLogProbs(head), rng), (activations_of(rng, s), targets_of(rng, s)))
    return case


def _scores(rng, s: Sizes, *shape: int) -> np.ndarray:
    """Numbers of order one, whatever the sizes' scale: a margin of a thousand has no slope to speak of."""
    return rng.standard_normal(shape).astype(s.dtype)


def _pairs(rng, s: Sizes, count: Callable = lambda s: None) -> Case:
    return Case("", L.LogisticPairs(), (_scores(rng, s, s.F), _scores(rng, s, s.F)), {"count": count(s)})


def _dpo(rng, s: Sizes, smoothing: float = 0.0, count: Callable = lambda s: None) -> Case:
    logp = 3 * _scores(rng, s, s.F, 2) - 20
    return Case("", L.DPO(0.3, smoothing=smoothing), (logp,),
                {"reference": logp + _scores(rng, s, s.F, 2), "count": count(s)})


BUILDERS: dict[str, Callable] = {
    "last-token": _on_last(lambda s: L.LastToken()),
    "last-token-missing": _missing,
    "class-head": _on_last(lambda s: L.ClassHead(s.C, s.F, dtype=s.dtype)),
    "class-head-dropout": _on_last(lambda s: L.ClassHead(s.C, s.F, dropout=0.3, dtype=s.dtype), dropped=True),
    "similarity-head": _on_last(lambda s: L.SimilarityHead(s.C, s.F, dtype=s.dtype), lambda s: (s.B, 2)),
    "similarity-head-dropout": _on_last(lambda s: L.SimilarityHead(s.C, s.F, dropout=0.3, dtype=s.dtype),
                                        lambda s: (s.B, 2), dropped=True),
    "score-head": _on_last(lambda s: L.ScoreHead(s.C, bias=False, dtype=s.dtype), lambda s: (s.B, 3)),
    "score-head-bias": _on_last(lambda s: Bent(L.ScoreHead(s.C, dtype=s.dtype)), lambda s: (s.B, 3)),
    "score-head-dropout": _on_last(lambda s: L.ScoreHead(s.C, dropout=0.3, bias=False, dtype=s.dtype),
                                   lambda s: (s.B, 3), dropped=True),
    "score-head-choices": _choices,
    "value-head": one(lambda s, rng: L.ValueHead(s.C, bias=False, dtype=s.dtype)),
    "value-head-bias": one(lambda s, rng: Bent(L.ValueHead(s.C, dtype=s.dtype))),
    "head-log-probs": _log_probs(),
    "head-log-probs-bias": _log_probs(bias=True),
    "head-log-probs-tied": _log_probs(tied=True, bias=True),
    "logistic-pairs": _pairs,
    "logistic-pairs-count": lambda rng, s: _pairs(rng, s, count=lambda s: s.F + 3),
    "dpo": _dpo,
    "dpo-smoothing": lambda rng, s: _dpo(rng, s, smoothing=0.1),
    "dpo-count": lambda rng, s: _dpo(rng, s, smoothing=0.2, count=lambda s: s.F + 3),
    "softplus": lambda rng, s: Case("", ops.softplus, (activations_of(rng, s, s.B, s.T, s.V),),
                                    backward=ops.softplus_backward),
}
