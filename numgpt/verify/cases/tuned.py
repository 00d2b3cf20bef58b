"""The cases of whole models that learn from preferences: small, with prompts and answers of unlike lengths."""

from collections.abc import Callable

import numpy as np

from numgpt.config import GPTConfig
from numgpt.layers.inputs import IGNORE
from numgpt.model import GPT
from numgpt.tuning.dpo import DPOModel
from numgpt.tuning.reward import RewardModel
from numgpt.tuning.template import Template
from numgpt.verify.cases.frame import Case, Sizes, order_one

TEMPLATE = Template("preference", 10)  # of 13 tokens


def gpt_of(s: Sizes, **options) -> GPT:
    return GPT(GPTConfig(n_vocab=TEMPLATE.n_vocab, n_ctx=8, n_layer=2, n_head=3, n_embd=9, n_hidden=17, **options), dtype=s.dtype)


def pairs_of(rng, s: Sizes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids (B, 2, T), last (B, 2), targets (B, 2, T): a pair has one prompt, two answers, and padding after the shorter one."""
    T = 7
    ids, targets = rng.integers(0, TEMPLATE.n_vocab, (s.B, 2, T)), np.full((s.B, 2, T), IGNORE)
    last, begin = rng.integers(4, T, (s.B, 2)), rng.integers(2, 4, s.B)
    last[0] = T - 1, T - 3
    for b in range(s.B):
        ids[b, 1, :begin[b]] = ids[b, 0, :begin[b]]
        for i in range(2):
            targets[b, i, begin[b] - 1:last[b, i]] = ids[b, i, begin[b]:last[b, i] + 1]
    return ids, last, targets


def _reward(rng, s: Sizes, dropped: bool = False) -> Case:
    options = dict(dropout_embd=0.1, dropout_resid=0.2) if dropped else {}
    model = order_one(RewardModel(gpt_of(s, **options), TEMPLATE, dropout=0.3 * dropped), rng)
    ids, last, _ = pairs_of(rng, s)
    return Case("", model, (ids, last), {"rng": np.random.default_rng(int(rng.integers(1 << 30)))} if dropped else {})


def _dpo(rng, s: Sizes, smoothing: float = 0.0, **options) -> Case:
    model = order_one(DPOModel(gpt_of(s, **options), TEMPLATE, beta=0.3, smoothing=smoothing), rng)
    ids, _, targets = pairs_of(rng, s)
    reference = model.log_probs(ids, targets) + rng.standard_normal((s.B, 2)).astype(s.dtype)
    return Case("", model, (ids, targets), {"reference": reference})


BUILDERS: dict[str, Callable] = {
    "reward-model": _reward,
    "reward-model-dropout": lambda rng, s: _reward(rng, s, dropped=True),
    "dpo-model": _dpo,
    "dpo-model-untied": lambda rng, s: _dpo(rng, s, smoothing=0.1, tied=False, head_bias=True),
}
