"""Several examples in one row, none of which knows of the others.

    segments   3 3 3 7 7 7 7 0     the example that each position belongs to
    places     0 1 2 0 1 2 3 0     where it stands in it

A segment is a run of equal numbers: the same number again, after another, is another segment. What fills a row up at
its end is best given a number of its own, although no earlier position would see it anyway.
"""

import numpy as np

from numgpt.layers.inputs import segment_ids
from numgpt.layers.kv import KV


def places(segments, shape: tuple[int, ...]) -> np.ndarray:
    """Where each position stands in its segment, from 0 on; segments must have that shape (..., T)."""
    segments = segment_ids(segments, shape)
    ordinals = np.arange(shape[-1])
    begins = np.zeros(shape, ordinals.dtype)  # where something begins, its ordinal, and elsewhere 0
    begins[..., 1:] = np.where(segments[..., 1:] != segments[..., :-1], ordinals[1:], 0)
    return ordinals - np.maximum.accumulate(begins, axis=-1)


def not_in_a_store(segments, kv: KV | None) -> None:
    if segments is not None and kv is not None:
        raise ValueError("a decode store goes on with one example a row, and segments say that a row has several: "
                         "leave out one of the two")
