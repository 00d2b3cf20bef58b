"""Cache-sized slices: a plain formula on 128 K numbers at a time runs at the speed of the cache.

One pass over an array larger than the cache costs a trip to memory for every operator of the
formula; on a block, all but the first are cheap. Smaller blocks would gain nothing more, and
threads that share the work would wait for each other: between two operators a thread holds the
interpreter, and so many more operators would be so many more waits.
"""

from collections.abc import Iterator

import numpy as np

NUMBERS = 1 << 17


def blocks(n_rows: int, n_cols: int = 1, *, numbers: int = NUMBERS) -> Iterator[slice]:
    """Slices of rows, of one size give or take a row: of about so many numbers, less than twice as many, or of one row."""
    n = min(n_rows, max(1, n_rows * n_cols // numbers))
    for i in range(n):
        yield slice(n_rows * i // n, n_rows * (i + 1) // n)


def add_product(total: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """total += a @ b, a few rows after the other: the product need not exist whole, nor leave the cache to be added."""
    for part in _slabs(total):
        total[part] += a[part] @ b


def put_product(total: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """total = a @ b, with the bits that adding it to zeros would give."""
    for part in _slabs(total):
        np.matmul(a[part], b, out=total[part])


def _slabs(total: np.ndarray) -> Iterator[slice]:
    return blocks(*total.shape, numbers=4 * NUMBERS)  # enough for the BLAS to run at its speed


def row_blocks(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """The same few rows of each array, as (rows, channels), block after block; views where they can be written."""
    tables = [a.reshape(-1, a.shape[-1]) for a in arrays]
    for part in blocks(*tables[0].shape):
        yield tuple(table[part] for table in tables)
