"""What a wrong gradient looks like: its likeness to the right one often names the mistake.

a is the analytic gradient and n the numeric one, as measured: (directions, cotangents).
"""

from fractions import Fraction
from itertools import permutations

import numpy as np

from numgpt.gradcheck.numeric import Element

NEAR = 1e-6


def looks_like(shape, directions, a, n, tolerance, hints: dict[str, float], inputs: dict[str, np.ndarray]) -> list[str]:
    """Descriptions, the simplest that fits first; an empty list where nothing fits."""
    told = _factor(a, n, tolerance, hints)
    if told:
        return told
    if not all(isinstance(d, Element) for d in directions):
        return []
    size = int(np.prod(shape))
    order = np.argsort([d.index for d in directions])
    if len(directions) == size:  # every element: the arrays can be laid side by side
        A = a[order].T.reshape(-1, *shape)  # (cotangents, *shape)
        N = n[order].T.reshape(-1, *shape)
        ok = (abs(a - n) <= tolerance)[order].T.reshape(-1, *shape)
        for pattern in (_transposed, _blocks_exchanged):
            told += pattern(A, N)
        told += _some_rows(A, N, ok, inputs)
        told += _some_columns(A, N, ok, hints)
        if not told:
            told += _missing_part(A, N, inputs)
    return told


def _close(a, b) -> bool:
    """Norm-wise, against the noise of a measurement."""
    return bool(abs(a - b).max(initial=0) <= NEAR * max(abs(a).max(initial=0), abs(b).max(initial=0)) > 0)


def _factor(a, n, tolerance, hints) -> list[str]:
    """One factor between them, sign and zero among them."""
    if not a.any():
        return ["zero: nothing arrives here"]
    if not (abs(n) > tolerance).any():
        return ["not zero, though the true gradient is"]
    factor = float((a * n).sum() / (n * n).sum())
    if factor == 0 or abs(factor - 1) < NEAR or not _close(a, factor * n):
        return []
    return [_name_of(factor, hints)]


def _name_of(factor: float, hints) -> str:
    if abs(factor + 1) < NEAR:
        return "the sign is turned"
    names = []
    for name, value in hints.items():
        for text, number in ((name, value), (f"1/{name}" if name.replace("_", "").isalnum() or "(" in name and " " not in name
                                             else f"1/({name})", 1 / value if value else 0)):
            if number not in (0, 1) and abs(abs(factor) - abs(number)) < NEAR * abs(number):
                names.append(("-" if factor * number < 0 else "") + text)
    fraction = Fraction(factor).limit_denominator(12)
    plain = str(fraction) if fraction and abs(float(fraction) - factor) < NEAR * abs(factor) else f"{factor:.6g}"
    return f"scaled by {plain}" + (f" = {' = '.join(names)}" if names else "")


def _transposed(A, N) -> list[str]:
    """The same numbers in another order of axes."""
    axes = range(1, A.ndim)
    if A.ndim < 3 or not A.any():
        return []
    for order in permutations(axes):
        if list(order) != list(axes):
            for sign in (1, -1):
                if _close(A, sign * N.transpose(0, *order).reshape(A.shape)):
                    what = "transposed" if A.ndim == 3 else f"its axes in the order {tuple(i - 1 for i in order)}"
                    return [what + (" and the sign is turned" if sign < 0 else "")]
    return []


def _blocks_exchanged(A, N) -> list[str]:
    """Columns cut into a few blocks (heads, or q, k and v) that stand in another order."""
    C = A.shape[-1]
    for count in (2, 3, 4):
        if C % count or C == count:
            continue
        parts = np.split(N, count, -1)
        for order in permutations(range(count)):
            if order != tuple(range(count)) and _close(A, np.concatenate([parts[i] for i in order], -1)):
                return [f"{count} blocks of {C // count} columns in the order {order}"]
    return []


def _some_rows(A, N, ok, inputs) -> list[str]:
    """Only some rows are wrong; integer inputs may say what they have in common."""
    if A.ndim < 3:
        return []
    bad = ~ok.all(axis=(0, -1))
    wrong = np.argwhere(bad)
    if len(wrong) == bad.size:
        return []
    told = f"only row{'s' if len(wrong) > 1 else ''} {_listed(wrong)} of {' x '.join(map(str, bad.shape))}"
    for name, ids in inputs.items():
        if ids.dtype.kind not in "iu" or not ids.size:
            continue
        if ids.shape == bad.shape and len(np.unique(ids[bad])) == 1 and not (ids[~bad] == ids[bad][0]).any():
            return [f"{told}: those where {name} is {ids[bad][0]}"]
        values, counts = np.unique(ids, return_counts=True)
        if bad.ndim == 1 and set(values[counts > 1]) >= set(wrong[:, 0]):
            return [f"{told}, whose id is repeated in {name}: a token that occurs twice adds twice"]
    if not (A[:, bad] != 0).any():
        told += ", which get nothing"
    return [told]


def _some_columns(A, N, ok, hints) -> list[str]:
    """Only some columns are wrong, or each block of columns has a factor of its own: per head, or one of q, k, v."""
    C = A.shape[-1]
    if A.ndim < 2 or C < 2:
        return []
    bad = ~ok.all(axis=tuple(range(A.ndim - 1)))
    wrong = np.flatnonzero(bad)
    told = []
    if 0 < len(wrong) < C:
        told.append(f"only column{'s' if len(wrong) > 1 else ''} {_listed(wrong)} of {C}" + _as_blocks(wrong, C))
        a, n = A[..., wrong], N[..., wrong]
        if n.any():
            factor = float((a * n).sum() / (n * n).sum())
            if factor and abs(factor - 1) > NEAR and _close(a, factor * n):
                told.append(f"{_name_of(factor, hints)} there")
    elif len(wrong) == C:
        for count in range(2, C // 2 + 1):
            if C % count == 0:
                a, n = (np.stack(np.split(M, count, -1)) for M in (A, N))
                factors = [float((x * y).sum() / (y * y).sum()) if y.any() else 0.0 for x, y in zip(a, n)]
                if all(f and _close(x, f * y) for f, x, y in zip(factors, a, n)):
                    if all(abs(f - 1) < NEAR for f in factors):
                        continue
                    return [f"per head: {count} blocks of {C // count} columns, scaled by "
                            + ", ".join(f"{f:.4g}" for f in factors)]
    return told


def _as_blocks(wrong, C) -> str:
    """Where the wrong columns are one block of several of one size, say which."""
    first, size = int(wrong[0]), len(wrong)
    if size > 1 and np.array_equal(wrong, np.arange(first, first + size)) and C % size == 0 and first % size == 0:
        return f": block {first // size + 1} of {C // size} (a head, or one of q, k, v)"
    return ""


def _missing_part(A, N, inputs) -> list[str]:
    """What separates them is constant, or one column times one row, or in each row a line of the input."""
    E = A - N
    C = E.shape[-1]
    noise = 1e-5 * max(abs(A).max(), abs(N).max())
    if abs(E - E.mean(tuple(range(1, E.ndim)), keepdims=True)).max() < noise:
        return ["a constant is missing or added"]
    if C > 2 and abs(E - E.mean(-1, keepdims=True)).max() < noise:
        return ["in each row a constant is missing or added: the mean's part"]
    rows = E.reshape(len(E), -1, C)
    for name, x in inputs.items():
        if x.shape == E.shape[1:] and x.dtype.kind == "f" and C > 3:
            c = (x - x.mean(-1, keepdims=True)).reshape(-1, C).astype(np.float64)
            c /= np.maximum(np.sqrt((c * c).sum(-1, keepdims=True)), 1e-300)
            along = (rows * c).sum(-1, keepdims=True)
            rest = rows - along * c
            if abs(rest).max() < noise:
                return [f"in each row a multiple of {name} - mean({name}) is missing or added: the variance's part"]
            if abs(rest - rest.mean(-1, keepdims=True)).max() < noise:
                return [f"in each row a constant and a multiple of {name} - mean({name}) are missing or added"]
    if min(rows.shape[1:]) > 2:
        singular = np.linalg.svd(rows, compute_uv=False)
        if (singular[:, 1] < 1e-5 * singular[:, 0] + noise).all():
            return ["a rank-one part is missing or added"]
    return []


def _listed(indices) -> str:
    if np.ndim(indices) == 2:
        if np.shape(indices)[1] > 1:
            return ", ".join(str([int(i) for i in index]) for index in indices[:4]) + (", ..." if len(indices) > 4 else "")
        indices = indices[:, 0]
    indices = [int(i) for i in indices]
    if len(indices) > 3 and indices == list(range(indices[0], indices[-1] + 1)):
        return f"{indices[0]} to {indices[-1]}"
    return ", ".join(map(str, indices[:8])) + (", ..." if len(indices) > 8 else "")
