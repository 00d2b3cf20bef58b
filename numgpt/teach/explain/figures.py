"""Arrays as a page shows them: rows of short numbers, aligned, with the letters of their axes."""

import math

import numpy as np

DECIMALS = 4   # of a number that is not short by itself
ROWS = 12      # of an array that is shown whole
EVERYDAY = 1e-3, 1e5  # sizes between which numbers are written without a power of ten


def figures(value) -> np.ndarray:
    """Each number of an array as text: as few decimals as all of them need, and no more than four."""
    a = np.asarray(value)
    if a.dtype.kind in "biu":  # a mask is 0 and 1, as which it enters products
        return np.array([str(int(x)) for x in a.ravel().tolist()], object).reshape(a.shape)
    finite = a[np.isfinite(a)]
    size = float(np.abs(finite).max(initial=0))
    if size and not EVERYDAY[0] <= size < EVERYDAY[1]:
        text = [f"{x:.2e}" for x in a.ravel().tolist()]
    else:
        enough = 4 * float(np.finfo(a.dtype).eps) * size
        decimals = next((d for d in range(DECIMALS) if (np.abs(finite - finite.round(d)) <= enough).all()), DECIMALS)
        text = [plain(x, decimals) for x in a.ravel().tolist()]
    return np.array(text, object).reshape(a.shape)


def plain(x: float, decimals: int) -> str:
    """With so many decimals; what rounds to zero has no sign."""
    text = f"{x:.{decimals}f}"
    return text[1:] if text.startswith("-") and not text.strip("-0.") else text


def lines(value, width: int) -> list[str]:
    """An array as lines: rows of its last axis, the groups of the others below each other; what is too much is cut."""
    text = figures(value)
    if text.ndim == 0:
        return [text.item() if text.item().lstrip("-").isdigit() else f"{np.asarray(value).item():.6g}"]
    if not text.size:
        return ["empty"]
    rows = text.reshape(-1, text.shape[-1])
    cell = max(map(len, rows.ravel()))
    marks = _marks(text.shape[:-1])
    margin = max(map(len, marks))
    if margin + len(rows[0]) * (cell + 2) - 2 > width:
        cell = max(cell, len("..."))
    shown = [f"{mark:{margin}}" + "  ".join(f"{word:>{cell}}" for word in _cut(row, width - margin, cell))
             for mark, row in zip(marks, rows.tolist())]
    return shown if len(shown) <= ROWS else [*shown[:ROWS - 2], "...", shown[-1]]


def _marks(lead: tuple[int, ...]) -> list[str]:
    """[1] before the first row of each group, where the axes before the rows have more than one."""
    groups = lead[:-1]
    if math.prod(groups) <= 1:
        return [""] * math.prod(lead)
    wide = [axis for axis, n in enumerate(groups) if n > 1]
    return ["[" + ", ".join(str(index[axis]) for axis in wide) + "] " if row == 0 else ""
            for index in np.ndindex(groups) for row in range(lead[-1])]


def _cut(row: list[str], width: int, cell: int) -> list[str]:
    room = max(1, (width + 2) // (cell + 2))
    if len(row) <= room:
        return row
    return [*row[:max(1, room - 2)], "...", row[-1]] if room > 2 else [row[0], "..."][:room]


def letters(shape: tuple[int, ...], primes: dict[str, int]) -> str:
    """A shape in letters, from the same array's at sizes that are different primes: 3*11*17 is 3*H*D."""
    return "(" + ", ".join(_letter(n, primes) for n in shape) + ("," if len(shape) == 1 else "") + ")"


def _letter(n: int, primes: dict[str, int]) -> str:
    known = [name for name, prime in primes.items() if prime == n]
    if known:
        return known[0]
    words = []
    for name, prime in primes.items():
        while n % prime == 0:
            words.append(name)
            n //= prime
    return "*".join(([str(n)] if n > 1 or not words else []) + words)
