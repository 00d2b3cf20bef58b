"""Cache-sized slices: a plain formula on 64 K numbers at a time runs at the speed of the cache.

One pass over an array larger than the cache costs a trip to memory for every operator of the
formula; on a block, all but the first are cheap. Smaller blocks would gain nothing more, and
threads that share the work would then wait for each other.
"""

from collections.abc import Callable, Iterator

import numpy as np

NUMBERS = 1 << 16


def blocks(n_rows: int, n_cols: int = 1, *, numbers: int = NUMBERS) -> Iterator[slice]:
    """Slices of rows that hold about so many numbers each."""
    step = max(1, numbers // max(1, n_cols))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def elementwise(formula: Callable, *arrays: np.ndarray) -> np.ndarray:
    """formula(*arrays) for arrays of one shape, block by block."""
    shape = arrays[0].shape
    if arrays[0].size <= NUMBERS:
        return formula(*arrays)
    lines = [a.reshape(-1) for a in arrays]
    y = np.empty(lines[0].shape, np.result_type(*arrays))
    for part in blocks(len(y)):
        y[part] = formula(*(line[part] for line in lines))
    return y.reshape(shape)


def add_product(total: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """total += a @ b, a few rows after the other: the product need not exist whole, nor leave the cache to be added."""
    for part in blocks(*total.shape, numbers=16 * NUMBERS):  # enough for the BLAS to run at its speed
        total[part] += a[part] @ b


def row_blocks(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """The same few rows of each array, as (rows, channels), block after block; views where they can be written."""
    tables = [a.reshape(-1, a.shape[-1]) for a in arrays]
    for part in blocks(*tables[0].shape):
        yield tuple(table[part] for table in tables)
