"""What stands on a GPT instead of its head, and the losses of preferences, once more in a framework's own operators.

f holds the operators, p[param] is the framework's array of a Param, as in test_against_frameworks.py.
"""

import numpy as np

from numgpt import layers as L
from numgpt.verify.cases.preference import Bent, Choice


def last_token(f, p, layer, x, last):
    place = (np.arange(x.shape[-2]) == last[..., None])[..., None]
    return (x * f.constant(place.astype(float), x)).sum(-2)


def read(f, p, layer, rows, rng):
    """Dropout and the linear layer on the rows that were read."""
    if rng is not None and layer.dropout.p:
        kept = rng.random(tuple(rows.shape), np.float32) >= layer.dropout.p
        rows = rows * f.constant(kept / (1 - layer.dropout.p), rows)
    return f.linear(rows, p[layer.linear.weight], p[layer.linear.bias])


def class_head(f, p, layer, x, last, rng=None):
    return read(f, p, layer, last_token(f, p, layer, x, last), rng)


def similarity_head(f, p, layer, x, last, rng=None):
    rows = last_token(f, p, layer, x, last)
    return read(f, p, layer, rows[:, 0] + rows[:, 1], rng)


def score_head(f, p, layer, x, last, rng=None):
    scores = read(f, p, layer, last_token(f, p, layer, x, last), rng)[..., 0]
    return scores + f.constant(np.where(last < 0, -np.inf, 0), scores)


def choice(f, p, layer, x, last, answers):
    return f.cross_entropy(score_head(f, p, layer.head, x, last), answers) / max(1, (answers != -100).sum().item())


def log_probs(f, p, layer, x, targets):
    matrix = p[layer.weight].T if layer.tied else p[layer.weight]
    every = f.log_softmax(f.linear(x, matrix, p[layer.bias]))
    return (every * f.constant((targets[..., None] == np.arange(every.shape[-1])).astype(float), every)).sum(-1)


def pairs(f, p, layer, chosen, rejected, count=None):
    return f.softplus(rejected - chosen).sum() / (len(chosen) if count is None else count)


def dpo(f, p, layer, logp, reference, count=None):
    log_ratios = logp - f.constant(reference, logp)
    margin = layer.beta * (log_ratios[:, 0] - log_ratios[:, 1])
    losses = (1 - layer.smoothing) * f.softplus(-margin) + layer.smoothing * f.softplus(margin)
    return losses.sum() / (len(logp) if count is None else count)


TWINS = {
    L.LastToken: last_token, L.ClassHead: class_head, L.SimilarityHead: similarity_head,
    L.ScoreHead: score_head, Choice: choice,
    L.ValueHead: lambda f, p, layer, x: f.linear(x, p[layer.linear.weight], p[layer.linear.bias])[..., 0],
    Bent: lambda f, p, layer, *inputs: f.gelu(TWINS[type(layer.layer)](f, p, layer.layer, *inputs)),
    L.HeadLogProbs: log_probs, L.LogisticPairs: pairs, L.DPO: dpo,
}
