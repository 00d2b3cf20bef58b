"""A row of a table for each token. Some of the gradient is lost.

The derivation's start: y[b, t] = table[ids[b, t]]. A row of the table has a hand in every position where its token
stands, so

    dtable[v] = sum of dy[b, t] over all b, t where ids[b, t] is v
"""

import numpy as np


class Embedding:
    """ids (B, T) -> y (B, T, C);  table (V, C)"""

    def __init__(self, table):
        self.table, self.dtable = table, np.zeros_like(table)

    def forward(self, ids):
        return self.table[ids], ids

    def backward(self, dy, saved):
        ids = saved
        #- self.dtable[ids] += dy
        np.add.at(self.dtable, ids, dy)  #+
        return None  # ids are whole numbers: there is nothing to differentiate


# -- the course's own from here on

from numgpt.teach.exercises.reports import draw, layer, repeated

TITLE = "an embedding, and tokens that occur twice"
TASK, MISTAKES = "mend", ("emb-duplicates",)
HINTS = {"table": ("There is one line that it can be. Which tokens of ids have a right gradient, and which a wrong one?",
                   "With an array of indices, `a[ids] += b` reads all of a[ids], adds, and writes all of it: of a "
                   "repeated index only the last is left. It has to add up: np.add.at(a, ids, b) does, and so does a "
                   "product with the one-hots.")}
LESSON = ("NumPy's += with indices is no sum. A test in which no id occurs twice never finds out; in any real text all of "
          "them do.")


def checks(made):
    table, ids = draw((11, 3))[0], repeated(2, 7)
    yield layer(made.Embedding(table), Embedding(table), ids, params=("table",))
