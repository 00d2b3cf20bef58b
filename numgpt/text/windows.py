"""Token windows for next-token prediction: which ids a step sees, and what comes after each.

With its settings given, a step's batch depends on the seed and on the number of the step alone. So a run can go on at
any step, and there is no position to store.
"""

from collections.abc import Sequence

import numpy as np

from numgpt.layers.inputs import IGNORE, positive


class Windows:
    """Windows of T tokens of a text, each with its targets, one token further on.

    tokens (n,) integers, which may be a memory map;  batch(step) -> ids (B, T), targets (B, T)
    counts (n,) booleans, if not all targets count: False where a token is given, such as a prompt's
    """

    def __init__(self, tokens, n_tokens: int, *, batch: int, seed: int = 0, counts=None):
        self.tokens = np.asanyarray(tokens)
        if self.tokens.ndim != 1 or self.tokens.dtype.kind not in "iu":
            raise TypeError(f"tokens must be one row of integers; got {self.tokens.dtype} of shape {self.tokens.shape}")
        self.T, self.B, self.seed = positive(n_tokens, "n_tokens"), positive(batch, "batch"), seed
        if len(self.tokens) <= self.T:
            raise ValueError(f"a window of {self.T} tokens and the one after them do not fit into a text of {len(self.tokens)}: "
                             "take a longer text or a shorter window")
        self.counts = None if counts is None else np.asanyarray(counts)
        if self.counts is not None and (self.counts.shape != self.tokens.shape or self.counts.dtype != bool):
            raise ValueError(f"counts must be booleans, one a token, of shape {self.tokens.shape}; "
                             f"got {self.counts.dtype} of shape {self.counts.shape}")

    def starts(self, step: int) -> np.ndarray:
        """Where the B windows of a step begin."""
        raise NotImplementedError

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        return self.at(self.starts(step))

    def at(self, starts) -> tuple[np.ndarray, np.ndarray]:
        """The windows that begin there."""
        places = np.asarray(starts)[:, None] + np.arange(self.T + 1)
        window = self.tokens[places].astype(np.int64)
        ids, targets = window[:, :-1], window[:, 1:]
        if self.counts is not None:
            targets = np.where(self.counts[places[:, 1:]], targets, IGNORE)
        return ids, targets


class RandomCrops(Windows):
    """Windows that begin anywhere, drawn anew for each step."""

    def starts(self, step):
        return np.random.default_rng((self.seed, step)).integers(0, len(self.tokens) - self.T, self.B)


class Epochs(Windows):
    """Windows a stride apart, each once an epoch, in an order that is drawn anew for each epoch (or as they lie).

    The last window ends where the text does, so that every token is a target of some window if stride <= T.
    """

    def __init__(self, tokens, n_tokens: int, *, batch: int, stride: int | None = None, seed: int = 0, shuffle: bool = True,
                 counts=None):
        super().__init__(tokens, n_tokens, batch=batch, seed=seed, counts=counts)
        self.stride = self.T if stride is None else positive(stride, "stride")
        self.shuffle, self._shuffled = shuffle, (-1, None)  # an epoch, and its order
        last = len(self.tokens) - self.T - 1
        self.places = np.arange(0, last + 1, self.stride)
        if self.places[-1] != last:
            self.places = np.append(self.places, last)

    def __len__(self) -> int:
        """Windows in an epoch."""
        return len(self.places)

    def starts(self, step):
        turn, place = np.divmod(step * self.B + np.arange(self.B), len(self))
        return np.array([self._order(t)[p] for t, p in zip(turn.tolist(), place.tolist())])

    def _order(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            return self.places
        if self._shuffled[0] != epoch:
            self._shuffled = epoch, np.random.default_rng((self.seed, epoch)).permutation(self.places)
        return self._shuffled[1]


def split(tokens: Sequence[int] | np.ndarray, held_out: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """The text but for its end, to train on, and its end, to evaluate on."""
    if not 0 < held_out < 1:
        raise ValueError(f"held_out is a share of the text between 0 and 1; got {held_out}")
    tokens = np.asanyarray(tokens)
    cut = len(tokens) - round(len(tokens) * held_out)
    if not 0 < cut < len(tokens):
        raise ValueError(f"a text of {len(tokens)} tokens is too short to hold out {held_out} of it")
    return tokens[:cut], tokens[cut:]
