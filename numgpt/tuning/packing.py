"""Several examples in one row, each a segment of its own; and the order in which rows are dealt to batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from numgpt.layers.inputs import IGNORE, positive
from numgpt.text import Epochs
from numgpt.tuning.encoding import PAD, Rows


@dataclass(frozen=True)
class Packed:
    """Rows of n_ctx tokens.

    ids, targets (R, T); segments (R, T): 0, 1, ... in each row, and what is padded at its end is the last one
    places (n, 2): the row of each example, and where it begins in it
    fill: the share of the places that hold a token of an example
    """
    ids: np.ndarray
    targets: np.ndarray
    segments: np.ndarray
    places: np.ndarray
    fill: float

    def __len__(self) -> int:
        return len(self.ids)


def pack(sequences: Sequence[np.ndarray], begins: Sequence[int], n_ctx: int) -> Packed:
    """Sequences of ids side by side, none of them cut; begins: of each, the place of the first token that is a target.

    The longest is placed first, and each where the least room is left over (best fit, decreasing); of equals the one that
    comes first.
    """
    lengths = np.array([len(ids) for ids in sequences])
    if not len(lengths) or lengths.min() < 1 or lengths.max() > positive(n_ctx, "n_ctx"):
        raise ValueError(f"pack wants sequences of 1 to {n_ctx} tokens; got " + (
            f"one of {lengths.min() if lengths.min() < 1 else lengths.max()}" if len(lengths) else "none"))
    if len(begins) != len(sequences) or any(not 1 <= begin <= n for begin, n in zip(begins, lengths)):
        raise ValueError("begins has for each sequence the place of its first target, from 1 to its length")
    places, n_rows = _places(lengths, n_ctx)
    ids, targets = np.full((n_rows, n_ctx), PAD), np.full((n_rows, n_ctx), IGNORE)
    segments = np.zeros((n_rows, n_ctx), np.int64)
    for sequence, begin, (row, start) in zip(sequences, begins, places.tolist(), strict=True):
        stop = start + len(sequence)
        ids[row, start:stop] = sequence
        targets[row, start + begin - 1:stop - 1] = sequence[begin:]
        segments[row, stop:] += 1  # all to the right of its end
    return Packed(ids, targets, segments, places, float(lengths.sum() / ids.size))


def packed(rows: Rows, n_ctx: int) -> Packed:
    """The same for encoded examples, each of which is one sequence."""
    if rows.width is not None:
        raise ValueError(f"an example of {rows.kind} is several sequences, which belong together: they are not packed")
    return pack([ids for ids, in rows.ids], [begin for begin, in rows.begins], n_ctx)


def _places(lengths: np.ndarray, n_ctx: int) -> tuple[np.ndarray, int]:
    """places (n, 2), and the number of rows."""
    places, n_rows = np.empty((len(lengths), 2), np.int64), 0
    with_room = [[] for _ in range(n_ctx + 1)]  # the rows that have so much room
    rooms = 0  # bit i: with_room[i] is not empty
    for i in np.argsort(-lengths, kind="stable").tolist():
        n = int(lengths[i])
        fitting = rooms >> n
        if fitting:
            room = n + (fitting & -fitting).bit_length() - 1
            row = with_room[room].pop(0)
            rooms &= ~(0 if with_room[room] else 1 << room)
        else:
            room, row, n_rows = n_ctx, n_rows, n_rows + 1
        places[i] = row, n_ctx - room
        with_room[room - n].append(row)
        rooms |= 1 << (room - n)
    return places, n_rows


def deal(n: int, batch: int, *, seed: int = 0) -> Callable[[int], np.ndarray]:
    """Of a step, the numbers (B,) of its rows out of n: each once an epoch, in an order drawn anew for each epoch.

    They depend on the seed and on the step alone, and a batch goes on into the next epoch, so that each has B rows.
    """
    windows = np.broadcast_to(np.uint8(0), positive(n, "n") + 1)  # n windows of one token and its target
    return Epochs(windows, 1, batch=batch, seed=seed).starts
