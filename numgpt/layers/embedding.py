"""A row of a table for each token."""

import numpy as np

from numgpt.layers.inputs import gradient, token_ids
from numgpt.layers.ops import flat
from numgpt.layers.param import Layer, normal


class Embedding(Layer):
    """Look up each token's row.

    ids (B, T) integers -> y (B, T, C);  table (V, C)

    Forward   y = table[ids]
    Backward  onehot = eye(len(table))[ids]
              -- a token that occurs twice is a row that was used twice: its gradients add
              dtable = einsum("btv,btc->vc", onehot, dy)
    Saved     ids
    """

    def __init__(self, n_vocab: int, n_embd: int, *, std: float = 0.02, rng=None, dtype=np.float64):
        self.table = normal(rng, (n_vocab, n_embd), std, dtype)

    def forward(self, ids):
        ids = token_ids(ids, len(self.table.value))
        return self.table.value[ids], ids

    def backward(self, dy, saved):
        ids = saved
        dy = gradient(dy, (*ids.shape, self.table.shape[1]), "Embedding")
        if ids.size == 0 or self.table.frozen:
            return None
        # Sorted by id, the rows of one token lie together and add up as one run.
        order = np.argsort(ids, axis=None, kind="stable")
        tokens, first = np.unique(ids.reshape(-1)[order], return_index=True)
        self.table.grad[tokens] += np.add.reduceat(flat(dy)[order], first, axis=0)
        return None  # ids are integers: there is nothing to differentiate

    def hints(self, ids):
        return {"N": np.size(ids)}
