"""One table at both ends of a model."""

import numpy as np

from numgpt.layers import Embedding, HeadLoss, Layer


class WeightTying(Layer):
    """A token's row of the table on the way in is its column of the output's matrix on the way out.

    ids (B, T), targets (B, T) -> loss, a number;  table (V, C)

    Forward   x = table[ids]
              logits = x @ table.T
              p = softmax(logits)
              onehot = targets[..., None] == arange(len(table))
              loss = -(onehot * log(p)).sum() / targets.size
    Backward  dlogits = dloss * (p - onehot) / targets.size
              dx = dlogits @ table
              -- the head's part: every token's row, pushed away from or pulled to what the head read
              dtable_head = einsum("btv,btc->vc", dlogits, x)
              -- the embedding's part: the rows of those tokens alone that were read
              read = ids[..., None] == arange(len(table))
              dtable_embedding = einsum("btv,btc->vc", read, dx)
              -- used twice, so two gradients: they add, and both backwards say grad +=
              dtable = dtable_head + dtable_embedding
    Saved     what the head and the embedding saved

    Here the whole model between the two is left out: the head reads what the embedding gave.
    """

    def __init__(self, n_vocab: int, n_embd: int, *, dtype=np.float64):
        self.embedding = Embedding(n_vocab, n_embd, dtype=dtype)
        self.head = HeadLoss(n_embd, n_vocab, tied=self.embedding.table, dtype=dtype)

    @property
    def table(self):
        return self.embedding.table

    def _parts(self):
        return {"table": self.table}

    def forward(self, ids, targets):
        x, saved_embedding = self.embedding.forward(ids)
        loss, saved_head = self.head.forward(x, targets)
        return loss, (saved_embedding, saved_head)

    def backward(self, dloss, saved):
        saved_embedding, saved_head = saved
        self.embedding.backward(self.head.backward(dloss, saved_head), saved_embedding)
        return None  # ids and targets are integers: there is nothing to differentiate
