"""More tokens for a model that is there."""

import numpy as np

from numgpt.layers import Recompute
from numgpt.model import GPT


def grown(gpt: GPT, n_vocab: int, *, seed=0) -> GPT:
    """The same model with tokens after its own, whose rows of the table, and columns of a head of its own, are drawn anew."""
    old = gpt.config
    if n_vocab < old.n_vocab:
        raise ValueError(f"the model has {old.n_vocab} tokens already; got {n_vocab}")
    rng = np.random.default_rng(seed)
    recompute = any(isinstance(block, Recompute) for block in gpt.body.blocks)
    new = GPT.blank(old.change(n_vocab=n_vocab), dtype=gpt.values.dtype, recompute=recompute)
    theirs = dict(gpt.named_params())  # a task's head may be among them
    for name, param in new.named_params():
        own = theirs[name]
        if param.shape == own.shape:
            param.value[...] = own.value
        elif name == "head.bias":  # those of tokens that never came would be very low by now
            param.value[:old.n_vocab] = own.value
        else:
            axis = 1 if name == "head.weight" else 0
            kept, drawn = np.split(param.value, [old.n_vocab], axis)
            kept[...], drawn[...] = own.value, rng.normal(0.0, old.std, drawn.shape)
    return new
