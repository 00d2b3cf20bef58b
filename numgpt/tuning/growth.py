"""More tokens for a model that is there."""

import numpy as np

from numgpt import adapted
from numgpt.layers import Recompute
from numgpt.model import GPT

TOKENS = {"embedding.table": 0, "head.weight": 1, "head.bias": 0}  # the axis along which a parameter has tokens


def grown(gpt: GPT, n_vocab: int, *, seed=0, dtype=None, recompute: bool | None = None) -> GPT:
    """The same model with tokens after its own, whose rows of the table, and columns of a head of its own, are drawn anew.

    All of it is trained, whatever was frozen. dtype and recompute None: the model's
    """
    adapted.refuse(gpt, "a model that is given tokens")
    old = gpt.config
    if n_vocab < old.n_vocab:
        raise ValueError(f"the model has {old.n_vocab} tokens already; got {n_vocab}")
    rng = np.random.default_rng(seed)
    recompute = any(isinstance(block, Recompute) for block in gpt.body.blocks) if recompute is None else recompute
    new = GPT.blank(old.change(n_vocab=n_vocab), dtype=gpt.values.dtype if dtype is None else dtype, recompute=recompute)
    theirs = dict(gpt.named_params())  # a task's head may be among them
    for name, param in new.named_params():
        own = theirs[name]
        if param.shape == own.shape:
            param.value[...] = own.value
        elif name == "head.bias":  # those of tokens that never came would be very low by now
            param.value[:old.n_vocab] = own.value
        else:
            kept, drawn = apart(name, param.value, old.n_vocab)
            kept[...], drawn[...] = own.value, rng.normal(0.0, old.std, drawn.shape)
    return new


def apart(name: str, array: np.ndarray, n_vocab: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the parameter of that name what belongs to the first n_vocab tokens, with all that is of no token, and what to the
    others.
    """
    axis = TOKENS.get(name, 0)
    return tuple(np.split(array, [n_vocab if name in TOKENS else array.shape[axis]], axis))
