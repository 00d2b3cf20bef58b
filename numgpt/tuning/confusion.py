"""How often each class is taken for each, and what follows from it: accuracy, precision, recall."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from numgpt.tuning.lines import shown

LONGEST = 20  # characters of a label in a table


@dataclass(frozen=True)
class Confusion:
    """counts (K, K): of each class, a row, how many were taken for each, a column.

    accuracy    diagonal / all
    precision   of what is taken for a class, the share that is of it: diagonal / column
    recall      of what is of a class, the share that is taken for it: diagonal / row
    f1          the two in one number
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

    @property
    def f1(self) -> np.ndarray:
        """(K,) the harmonic mean of precision and recall: 2 diagonal / (row + column); nan of a class that is nowhere."""
        return _shares(self.counts, 0, 1)

    @property
    def macro_f1(self) -> float:
        """The mean of the classes' F1, each counting alike, however rare; of those that there are."""
        return float(np.nanmean(self.f1))

    def table(self, columns: int = 100) -> str:
        """Of each class, what it was taken for, in so many columns; where these are too few, the numbers of each class alone."""
        matrix = "\n".join(_aligned(self._matrix()))
        if max(map(len, matrix.split("\n"))) > columns:
            matrix = "\n".join(_aligned(self._classes()))
        n = int((~np.isnan(self.f1)).sum())
        of = "" if n == len(self.labels) else f" of the {n} labels that occur"
        return f"{matrix}\naccuracy {_percent(self.accuracy)}, macro-F1 {self.macro_f1:.3f}{of}"

    def __str__(self):
        return self.table()

    def to_dict(self) -> dict:
        """In numbers that JSON can say; None for a share of nothing."""
        shares = {name: [None if np.isnan(share) else float(share) for share in getattr(self, name)]
                  for name in ("precision", "recall", "f1")}
        return {"n": int(self.counts.sum()), "accuracy": self.accuracy, "macro_f1": self.macro_f1, "labels": list(self.labels),
                "counts": self.counts.tolist(), **shares}

    def _matrix(self) -> list[list[str]]:
        names = [*map(_name, self.labels)]
        lines = [[name, *map(str, row), _percent(recall)] for name, row, recall in zip(names, self.counts.tolist(), self.recall)]
        return [["is \\ taken for", *names, "recall"], *lines, ["precision", *map(_percent, self.precision), ""]]

    def _classes(self) -> list[list[str]]:
        """A line a class; the most frequent mistake says what it is confused with."""
        wrong = self.counts - np.diag(np.diag(self.counts))
        lines = [["is", "examples", "precision", "recall", "mostly mistaken for"]]
        for i, (label, row) in enumerate(zip(self.labels, wrong)):
            worst = f"{_name(self.labels[row.argmax()])} ({row.max()})" if row.any() else "-"
            lines.append([_name(label), str(self.counts[i].sum()), _percent(self.precision[i]), _percent(self.recall[i]), worst])
        return lines


def _name(label) -> str:
    text = shown(label)
    return text if len(text) <= LONGEST else text[:LONGEST - 3] + "..."


def _aligned(lines: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines)]
    return ["  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))]).rstrip()
            for line in lines]


def _shares(counts: np.ndarray, *axes: int) -> np.ndarray:
    """The diagonal, as often as there are axes, over the sums along them."""
    whole = sum(counts.sum(axis) for axis in axes)
    return np.divide(len(axes) * np.diag(counts), whole, out=np.full(len(counts), np.nan), where=whole > 0)


def _percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{share:.1%}"
