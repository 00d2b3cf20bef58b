"""A batch and a model that hide no mistake: sizes without a common divisor, weights of order one, repeated ids, ignored targets."""

import numpy as np

from numgpt.config import GPTConfig
from numgpt.layers.inputs import IGNORE
from numgpt.model import GPT
from numgpt.verify import cases

# Beside the seed, what a generator is for: default_rng((seed, IDS)) draws the tokens, and so on.
IDS, DROPOUT, WEIGHTS = 1, 2, 3
# No two of B, T, H, D, V have a divisor in common: what is transposed or merged wrongly does not fit, or shows.
SIZES = dict(n_layer=2, n_head=3, n_embd=15, n_vocab=31, n_ctx=9)
BATCH = 4, 7


def hard(config: GPTConfig, dropout: bool) -> GPTConfig:
    """The config's form in the sizes of the hard case."""
    c = config
    changes = {**SIZES, "n_hidden": c.n_hidden and 17, "head_size": c.head_size and 5, "window": c.window and 3}
    if c.head_size:
        changes["n_embd"] = 16  # which its heads do not multiply to
    if dropout and not (c.dropout_embd or c.dropout_attn or c.dropout_resid):
        changes |= dict(dropout_embd=0.1, dropout_attn=0.2, dropout_resid=0.3)
    return c.change(**changes)


def batch(config: GPTConfig, B: int, T: int, seed: int, *, every_target: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Tokens, each the target of the one before it; some repeat, and a quarter of the targets does not count."""
    rng = np.random.default_rng((seed, IDS))
    tokens = rng.integers(0, config.n_vocab, (B, T + 1))
    tokens[:, -2] = tokens[:, 0]
    ids, targets = tokens[:, :-1], tokens[:, 1:].copy()
    if not every_target and targets.size > 1:
        targets[rng.random((B, T)) < 0.25] = IGNORE
        targets[0, :(T + 1) // 2] = IGNORE
        counted = targets != IGNORE
        if B > 1 and counted[:B // 2].sum() == counted[B // 2:].sum():  # pieces of unequal counts show what a mean of means makes of them
            targets.flat[counted.argmax()] = IGNORE
        targets[-1, -1] = tokens[-1, -1]  # and one counts
    return ids.astype(np.int32), targets.astype(np.int32)


def harden(model: GPT, ids, seed: int) -> None:
    """Weights of order one; the last norm's and the head's bias are made larger until logits have a standard deviation of 10."""
    cases.order_one(model, np.random.default_rng((seed, WEIGHTS)))
    norm = model.body.norm or model.body.blocks[-1].norm2
    factor = np.float32(10 / model.logits(ids).std())
    for name, param in (*norm.named_params(), *model.head.named_params()):
        if name in ("gain", "bias"):
            param.value *= factor
