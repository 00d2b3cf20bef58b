"""The functions that layers are made of, each with its backward.

A backward takes the output's gradient first, then what it needs of the forward pass.
"""

import functools
import math

import numpy as np

from numgpt.layers.errorfunction import erf, erfc, normal_cdf, normal_density  # noqa: F401  (part of this page)


def flat(x):
    """x (..., C) as rows (N, C)."""
    return x.reshape(-1, x.shape[-1])


def rows(a):
    """The sum over all axes but the last. As a product with ones: the BLAS adds columns faster."""
    a = flat(a)
    return _ones(len(a), a.dtype) @ a


def mean(x):
    """The mean over the channels (..., 1)."""
    return total(x) / x.shape[-1]


def total(x, axis: int = -1):
    """The sum along an axis, which stays, 1 long.

    The BLAS adds short rows five times as fast as NumPy does, which is as fast on long ones, and more exact.
    """
    if axis == -1 and x.shape[-1] <= 1024:
        return (x @ _ones(x.shape[-1], x.dtype))[..., None]
    return x.sum(axis, keepdims=True)


@functools.lru_cache(maxsize=32)
def _ones(n: int, dtype: np.dtype) -> np.ndarray:
    """Kept, for they are asked for a hundred times a step, and always alike."""
    ones = np.ones(n, dtype)
    ones.flags.writeable = False
    return ones


def softmax(x, axis: int = -1):
    """exp(x) / sum(exp(x)). A row of -inf alone, where everything is masked, gives zeros.

    Taking the maximum out keeps exp from overflowing, but rounds: at logits of std 10 that costs 64 ulp; and it takes
    as long as exp. So it is taken out where it must be: of rows whose sum is not finite, or too small for its digits.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        e = np.exp(x)
        sums = total(e, axis)
        plain = (_small(e.dtype) <= sums) & (sums < np.inf)
    if not plain.all():
        e = np.exp(x - np.where(plain, 0, _finite_max(x, axis)))
        sums = total(e, axis)
        sums += sums == 0
    e /= sums
    return e


@functools.cache
def _small(dtype: np.dtype) -> float:
    """So far above the smallest normal number that a part in 1e28 of it, in float32, still has all its digits."""
    return float(np.finfo(dtype).tiny) ** 0.25


def softmax_backward(dp, p, axis: int = -1):
    """p is the softmax. Each score raises its own p and lowers all others through the sum."""
    return p * (dp - total(dp * p, axis))


def logsumexp(x, axis: int = -1, keepdims: bool = False):
    """log(sum(exp(x))). A row of -inf alone gives -inf."""
    y = x.max(axis, keepdims=True) + np.log1p(_others(x, axis))
    return y if keepdims else y.squeeze(axis)


def logsumexp_backward(dy, x, axis: int = -1):
    """dy as logsumexp returned y, without the axis."""
    return np.expand_dims(dy, axis) * softmax(x, axis)


def log_softmax(x, axis: int = -1):
    """log(softmax(x)), exact also where softmax rounds to 1: the largest term is log1p of the others."""
    return (x - _finite_max(x, axis)) - np.log1p(_others(x, axis))


def log_softmax_backward(dy, y, axis: int = -1):
    """y is the log_softmax."""
    return dy - np.exp(y) * dy.sum(axis, keepdims=True)


def erf_backward(dy, x):
    return dy * (2 / math.sqrt(math.pi)) * np.exp(-x * x)


def erfc_backward(dy, x):
    return -erf_backward(dy, x)


def sigmoid(z):
    """1 / (1 + exp(-z)); where exp overflows, 1 / inf is the 0 that is wanted."""
    if np.iscomplexobj(z):  # but 1 / (inf + nan j) is nan
        z = np.maximum(z, -0.98 * math.log(np.finfo(z.dtype).max))
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-z))


def softplus(x):
    """log(1 + exp(x)), with all digits on both sides: what overflows is x itself, what is small is exp(x)."""
    positive = x.real > 0
    return np.where(positive, x, 0) + np.log1p(np.exp(np.where(positive, -x, x)))


def softplus_backward(dy, x):
    return dy * sigmoid(x)


def _finite_max(x, axis):
    """The row's maximum, to be taken out before exp; 0 where all is -inf, for -inf - -inf is nan."""
    m = x.max(axis, keepdims=True)
    return np.where(m == -np.inf, 0, m)


def _others(x, axis):
    """sum(exp(x - max)) without the maximum's own 1, which would swallow the digits of small others."""
    e = np.exp(x - _finite_max(x, axis))
    np.put_along_axis(e, np.expand_dims(x.argmax(axis), axis), 0, axis)
    return e.sum(axis, keepdims=True)
