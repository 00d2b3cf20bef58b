"""How often each class is taken for each, and what follows from it: accuracy, precision, recall."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from numgpt.tuning.lines import shown


@dataclass(frozen=True)
class Confusion:
    """counts (K, K): of each class, a row, how many were taken for each, a column.

    accuracy    diagonal / all
    precision   of what is taken for a class, the share that is of it: diagonal / column
    recall      of what is of a class, the share that is taken for it: diagonal / row
    """

    labels: tuple
    counts: np.ndarray

    @classmethod
    def of(cls, true, predicted, labels: Sequence) -> "Confusion":
        """From the numbers of the true classes and of those predicted."""
        counts = np.zeros((len(labels), len(labels)), np.int64)
        np.add.at(counts, (np.asarray(true), np.asarray(predicted)), 1)
        return cls(tuple(labels), counts)

    @property
    def accuracy(self) -> float:
        return float(np.trace(self.counts) / self.counts.sum())

    @property
    def precision(self) -> np.ndarray:
        """(K,); nan of a class that nothing was taken for."""
        return _shares(self.counts, 0)

    @property
    def recall(self) -> np.ndarray:
        """(K,); nan of a class that nothing is of."""
        return _shares(self.counts, 1)

    def __str__(self):
        names = [shown(label) for label in self.labels]
        head = ["is \\ taken for", *names, "recall"]
        lines = [[name, *map(str, row), _percent(recall)] for name, row, recall in zip(names, self.counts, self.recall)]
        lines.append(["precision", *map(_percent, self.precision), _percent(self.accuracy)])
        widths = [max(map(len, column)) for column in zip(head, *lines)]
        return "\n".join("  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:]))]).rstrip()
                         for line in (head, *lines))


def _shares(counts: np.ndarray, axis: int) -> np.ndarray:
    whole = counts.sum(axis)
    return np.divide(np.diag(counts), whole, out=np.full(len(counts), np.nan), where=whole > 0)


def _percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{share:.1%}"
