"""What layers accept, and the sentences for what they do not."""

import operator

import numpy as np

IGNORE = -100  # a target that does not count


def floats(x, layer: str) -> np.ndarray:
    x = np.asarray(x)
    if x.dtype.kind not in "fc":
        raise TypeError(f"{layer} wants real or complex floating-point numbers; got {x.dtype}: "
                        "convert with x.astype(np.float32) or np.float64")
    return x


def channels(x, n: int, layer: str) -> np.ndarray:
    """x as an array whose last axis is n wide."""
    x = np.asarray(x)
    if x.ndim == 0 or x.shape[-1] != n:
        raise ValueError(f"{layer} wants {n} channels in the last axis; got an array of shape {x.shape}")
    return floats(x, layer)


def sequence_length(x, n_ctx: int) -> int:
    """T of x (..., T, C), which must fit into the context."""
    if x.ndim < 2:
        raise ValueError(f"positions want (..., T, C); got an array of shape {x.shape}")
    T = x.shape[-2]
    if T > n_ctx:
        raise ValueError(f"a sequence of {T} tokens does not fit into a context of {n_ctx}: "
                         "cut it, or build the model with a larger n_ctx")
    return T


def gradient(dy, shape: tuple[int, ...], layer: str) -> np.ndarray:
    """dy as an array of the output's shape: one that only broadcasts to it would lose part of the sums."""
    dy = np.asarray(dy)
    if dy.shape != shape:
        raise ValueError(f"{layer}.backward wants the gradient of its output, of shape {shape}; got {dy.shape}")
    return dy


def number(dloss) -> float:
    """The gradient of a loss, as a plain number, which leaves every dtype as it is."""
    if np.shape(dloss) != ():
        raise ValueError(f"a loss is one number, and so is its gradient; got an array of shape {np.shape(dloss)}")
    return dloss.item() if isinstance(dloss, (np.generic, np.ndarray)) else dloss


def token_ids(ids, n_vocab: int) -> np.ndarray:
    """ids as an integer array whose values name rows of a table of n_vocab."""
    ids = _integers(ids, "token ids")
    _in_range(ids, (ids < 0) | (ids >= n_vocab), n_vocab, "token id")
    return ids


def target_ids(targets, n_vocab: int, shape: tuple[int, ...]) -> np.ndarray:
    """targets as an integer array of that shape; IGNORE is allowed."""
    targets = _integers(targets, "targets")
    if targets.shape != shape:
        raise ValueError(f"targets must have the shape {shape}, one for each row of logits; got {targets.shape}")
    outside = ((targets < 0) | (targets >= n_vocab)) & (targets != IGNORE)
    _in_range(targets, outside, n_vocab, "target")
    return targets


def last_places(last, x, layer: str) -> np.ndarray:
    """last as an integer array that names, for each x (T, C) of x (..., T, C), one of its rows, or none with -1."""
    if x.ndim < 2:
        raise ValueError(f"{layer} wants x (..., T, C); got an array of shape {x.shape}")
    last = _integers(last, "last")
    if last.shape != x.shape[:-2]:
        raise ValueError(f"last must have the shape {x.shape[:-2]}, the place of each sequence's last token; "
                         f"got {last.shape}")
    T = x.shape[-2]
    if ((last < -1) | (last >= T)).any():
        where = tuple(int(i) for i in np.argwhere((last < -1) | (last >= T))[0])
        raise ValueError(f"last {last[where]} at {list(where)} is outside its sequence: places run from 0 to {T - 1}, "
                         "and -1 marks a sequence that is not there")
    return last


def divisor(own: int, count: int | None, what: str) -> int:
    """What a mean divides by: the whole batch's count where a caller knows it, else the own; never 0."""
    if count is None:
        return max(own, 1)
    try:
        count = operator.index(count)
    except TypeError:
        raise TypeError(f"count must be a whole number; got {count!r}") from None
    if count < own:
        raise ValueError(f"count is the number of {what} in the whole batch, of which this is a "
                         f"piece with {own}; got {count}")
    return max(count, 1)


def constants(a, like: np.ndarray, name: str) -> np.ndarray:
    """a, held constant, as an array like the one it is compared with: of its shape, and of its type."""
    a = np.asarray(a)
    if a.shape != like.shape:
        raise ValueError(f"{name} must have the shape {like.shape} of what it is compared with; got {a.shape}")
    return a.astype(like.dtype, copy=False)


def segment_ids(segments, shape: tuple[int, ...]) -> np.ndarray:
    """segments as an integer array of that shape."""
    segments = _integers(segments, "segments")
    if segments.shape != shape:
        raise ValueError(f"segments must have the shape {shape}, the example of each position; got {segments.shape}")
    return segments


def whole(n, name: str) -> int:
    """n as a whole number."""
    try:
        return operator.index(n)
    except TypeError:
        raise TypeError(f"{name} must be a whole number; got {n!r}") from None


def positive(n, name: str) -> int:
    """n as a whole number of at least 1."""
    n = whole(n, name)
    if n < 1:
        raise ValueError(f"{name} must be at least 1; got {n}")
    return n


def float_type(dtype) -> np.dtype:
    if dtype is None or isinstance(dtype, str) and dtype == "bfloat16":
        raise TypeError(f"parameters are of a floating-point type that NumPy computes in, such as np.float32; got {dtype}")
    dtype = np.dtype(dtype)
    if dtype.kind not in "fc":
        raise TypeError(f"parameters are real or complex floating-point numbers; {dtype} would cut them to zero")
    return dtype


def probability(p: float, name: str) -> float:
    if not 0 <= p < 1:
        raise ValueError(f"{name} must be at least 0 and below 1; got {p}")
    return p


def _integers(ids, what: str) -> np.ndarray:
    ids = np.asarray(ids)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"{what} must be integers; got {ids.dtype}: convert with .astype(np.int64)")
    return ids


def _in_range(ids, outside, n_vocab: int, what: str) -> None:
    if outside.any():
        where = tuple(int(i) for i in np.argwhere(outside)[0])
        raise ValueError(f"{what} {ids[where]} at {list(where)} is outside the vocabulary: "
                         f"ids run from 0 to {n_vocab - 1}"
                         + (f", and {IGNORE} marks a target that does not count" if what == "target" else ""))
