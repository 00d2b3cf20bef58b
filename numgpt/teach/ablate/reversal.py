"""Digits, and then the same digits backwards: a task in which everything depends on where a token stands.

    31415926=62951413
"""

from collections.abc import Iterator

import numpy as np

from numgpt.layers.inputs import IGNORE
from numgpt.training.data import Data

DIGITS, EQUALS = 10, 10  # the tokens are the digits, and one more
KEPT = 1  # sets the generator of what is held out apart from those of the batches


class Reversal(Data):
    """Rows of digits, of which there are so many that none is drawn twice."""

    tokenizer, n_vocab, n_held_out = None, DIGITS + 1, 256

    def __init__(self, n: int = 8):
        self.n, self.T = n, 2 * n

    def prepare(self, settings, n_ctx: int) -> None:
        if n_ctx < self.T:
            raise ValueError(f"{self.n} digits and their reversal take {self.T} tokens, which do not fit into a context "
                             f"of {n_ctx}")
        self.B, self.seed = settings.batch, settings.seed

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        return self._rows(self.B, np.random.default_rng((self.seed, step)))

    def held_out(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield self._rows(self.n_held_out, np.random.default_rng((self.seed, 0, KEPT)))

    def fingerprint(self) -> str:
        return f"reversal of {self.n}"

    def highest(self) -> int:
        return EQUALS

    def _rows(self, n_rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        digits = rng.integers(0, DIGITS, (n_rows, self.n))
        row = np.concatenate([digits, np.full((n_rows, 1), EQUALS), digits[:, ::-1]], -1)
        targets = row[:, 1:].copy()
        targets[:, :self.n] = IGNORE  # the digits of the question cannot be foreseen
        return row[:, :-1], targets
