"""One table for the tokens that come in and for those that go out. A part of its gradient is lost.

The derivation's start: the table is used twice,

    h = tanh(table[ids])          the embedding, and here a tanh for all of a model
    logits = h @ table.T          the head

and what is used twice gets a gradient from each use. The first is that of exercise embedding, the second
that of a product.
"""

import numpy as np


class Tied:
    """ids (B, T) -> logits (B, T, V);  table (V, C)"""

    def __init__(self, table):
        self.table, self.dtable = table, np.zeros_like(table)

    def forward(self, ids):
        h = np.tanh(self.table[ids])
        return h @ self.table.T, (ids, h)

    def backward(self, dlogits, saved):
        ids, h = saved
        self.dtable += np.einsum("btv,btc->vc", dlogits, h)  #+
        dh = dlogits @ self.table
        np.add.at(self.dtable, ids, dh * (1 - h * h))
        return None  # ids are whole numbers


# -- the course's own from here on

from numgpt.teach.exercises.reports import draw, layer, repeated

TITLE = "tied embeddings"
TASK, MISTAKES = "mend", ("tie-emb-only",)
HINTS = {"table": ("Rows of tokens that are not in ids get nothing: but each of them has a logit at every position. Which "
                   "use of the table is that?",
                   "The embedding's part is there, through np.add.at. The head's is missing: logits = h @ table.T is a "
                   "product, and the table's gradient from it is made of dlogits (B, T, V) and h (B, T, C), summed over b "
                   "and t.")}
LESSON = "with +=, tied weights need no special case: each use adds its part. It is = that loses one."


def checks(made):
    table, ids = draw((11, 3))[0], repeated(2, 7)
    yield layer(made.Tied(table), Tied(table), ids, params=("table",))
