"""The cases of whole classifiers: a body, a task's head on the last token of each text, and both losses."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from numgpt.config import GPTConfig
from numgpt.layers.inputs import IGNORE
from numgpt.model import GPT
from numgpt.tuning.classifier import Classifier
from numgpt.tuning.template import Template
from numgpt.verify.cases.frame import Case, Sizes, order_one
from numgpt.verify.cases.preference import last_of

MOST = dict(T=5, H=2, D=3, C=7, F=4, V=11)  # of each size: a whole model is checked over all its parameters
N = {"similarity": 2, "choice": 3}  # sequences of an example, where they are several


def batch_of(rng, s: Sizes, kind: str, n_vocab: int) -> tuple[np.ndarray, ...]:
    """Rows that end before their last place or at it; an id repeats, a choice is not there, and a class is not known."""
    shape = (s.B, *([N[kind]] if kind in N else []))
    last = last_of(rng, s, *shape)
    if kind == "choice":
        last[-1, 1] = -1
    ids = rng.integers(0, n_vocab, (*shape, s.T))
    ids.flat[-1] = ids.flat[0]
    targets = np.where(np.arange(s.T) < last[..., None], rng.integers(0, n_vocab, ids.shape), IGNORE)
    classes = 2 * rng.integers(0, 2, s.B) if kind == "choice" else rng.integers(0, s.F, s.B)
    if s.B > 2:
        classes[1] = IGNORE
    return ids, last, classes, targets


def _classifier(kind: str, *, count: Callable | None = None, dropout: float = 0.0, recompute: bool = False,
                lm_weight: float = 0.3, **changes) -> Callable:
    def case(rng, s: Sizes) -> Case:
        s = replace(s, **{name: min(size, getattr(s, name)) for name, size in MOST.items()})
        template = Template(kind, s.V)
        config = GPTConfig(n_vocab=template.n_vocab, n_ctx=s.T + 1, n_layer=1, n_head=s.H, head_size=s.D, n_embd=s.C, n_hidden=s.F,
                           dropout_embd=dropout, dropout_resid=dropout, **changes)
        gpt = GPT(config, dtype=s.dtype, recompute=recompute)
        labels = None if kind == "choice" else tuple(range(s.F))
        model = order_one(Classifier(gpt, template, labels, lm_weight=lm_weight, dropout=dropout), rng)
        batch = batch_of(rng, s, kind, template.n_vocab)
        options = {"rng": np.random.default_rng(int(rng.integers(1 << 30)))} if dropout else {}
        if count is not None:
            options["count"] = count(*model.count(*batch))
        return Case("", model, batch, options)
    return case


BUILDERS: dict[str, Callable] = {
    "classifier": _classifier("classify"),
    "classifier-pairs": _classifier("pairs", tied=False, norm="post"),
    "classifier-similarity": _classifier("similarity", dropout=0.2, recompute=True),
    "classifier-choice": _classifier("choice"),
    "classifier-piece": _classifier("classify", count=lambda classes, targets: (classes + 3, targets + 10)),
    "classifier-no-lm": _classifier("classify", lm_weight=0.0),
}
