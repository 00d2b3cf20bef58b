"""Optimizers: how the parameters move, once the gradient is known.

All of them work on the model's two flat arrays, a block of numbers at a time, which stays in the cache while the whole
formula is applied to it. Blocks are shared out among threads; each number's arithmetic is the same on any of them.
"""

import math
from collections.abc import Iterator
from itertools import accumulate

import numpy as np

from numgpt.flat import AsBuilt
from numgpt.layers.blocks import blocks
from numgpt.layers.param import Param
from numgpt.threads import Pool, one_blas_thread


class Optimizer:
    """What SGD and AdamW share: the arrays, the decay, the norm of the gradient.

    Decay shrinks matrices and tables (what has two axes or more) by the factor 1 - lr * weight_decay before each step;
    gains and biases are left alone.
    """

    moments: tuple[str, ...] = ()  # names of arrays like the parameters, which the optimizer keeps from step to step

    def __init__(self, model, *, weight_decay: float = 0.0, pool: Pool | None = None):
        self.values, self.grads = model.values[:model.grads.size], model.grads  # frozen parameters stand after those
        self.weight_decay, self.pool = _at_least_0(weight_decay, "weight_decay"), pool or Pool(1)
        self.params = [param for param in model.params() if not param.frozen]  # views of values and grads, one after the other
        if not self.params:
            raise ValueError("there is nothing to train: all parameters of the model are frozen")
        self.n_steps, self._as_built = 0, AsBuilt(model, type(self).__name__)
        for name in self.moments:
            setattr(self, name, np.zeros(self.values.shape, self.values.dtype))
        self._blocks, self._matrices = list(blocks(self.values.size)), list(_matrices(self.params))

    def norm(self) -> float:
        """The length of the gradient, all parameters taken together: norm = sqrt((grads * grads).sum())."""
        with one_blas_thread():  # a product that the BLAS shares out among its threads has other bits
            squares = self.pool.map(lambda part: _square(self.grads[part]), self._blocks)
        return math.sqrt(sum(squares))  # in the order of the blocks

    def step(self, lr: float, *, scale: float = 1.0) -> None:
        """Move the parameters against scale times the gradient."""
        self._as_built.check()
        self.n_steps += 1
        shrink = 1 - lr * self.weight_decay

        def move(part: slice, matrices: list[slice]) -> None:
            if shrink != 1:
                for matrix in matrices:
                    self.values[matrix] *= shrink
            self._move(part, self.grads[part], scale, lr)

        self.pool.map(move, self._blocks, self._matrices)

    def _move(self, part: slice, g: np.ndarray, scale: float, lr: float) -> None:
        raise NotImplementedError


class SGD(Optimizer):
    """Stochastic gradient descent with momentum.

        velocity = momentum * velocity + g
        w = w - lr * velocity                             nesterov: lr * (g + momentum * velocity)
    """

    def __init__(self, model, *, momentum: float = 0.9, nesterov: bool = False, weight_decay: float = 0.0, pool: Pool | None = None):
        self.momentum, self.nesterov = _below_1(momentum, "momentum"), nesterov
        self.moments = ("velocity",) if momentum else ()
        if nesterov and not momentum:
            raise ValueError("nesterov looks ahead along the momentum, which is 0: choose a momentum, such as 0.9")
        super().__init__(model, weight_decay=weight_decay, pool=pool)

    def _move(self, part, g, scale, lr):
        g = scale * g
        if self.momentum:
            velocity = self.velocity[part]
            velocity *= self.momentum
            velocity += g
            g = g + self.momentum * velocity if self.nesterov else velocity
        self.values[part] -= lr * g


class AdamW(Optimizer):
    """Adam with decoupled weight decay.

        m = b1 * m + (1 - b1) * g                         the mean of recent gradients,
        v = b2 * v + (1 - b2) * g * g                     and of their squares, both from 0:
        mhat = m / (1 - b1 ** t)                          after t steps their weights add up to 1 - b ** t
        vhat = v / (1 - b2 ** t)
        w = (1 - lr * weight_decay) * w                   matrices and tables only
        w = w - lr * mhat / (sqrt(vhat) + eps)
    """

    moments = ("m", "v")

    def __init__(self, model, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.01,
                 pool: Pool | None = None):
        self.betas = tuple(_below_1(beta, "a beta") for beta in betas)
        if len(self.betas) != 2 or not eps > 0:
            raise ValueError(f"AdamW wants two betas, and an eps above 0 to divide by; got {betas} and {eps}")
        self.eps = eps
        super().__init__(model, weight_decay=weight_decay, pool=pool)

    def _move(self, part, g, scale, lr):
        m, v, (b1, b2), t = self.m[part], self.v[part], self.betas, self.n_steps
        # a is the only array that a block needs: each line that names it first writes over it. All factors are plain numbers.
        a = (scale * (1 - b1)) * g
        m *= b1
        m += a
        a *= a
        a *= (1 - b2) / (1 - b1) ** 2  # (1 - b2) * g * g
        v *= b2
        v += a
        # Numerator and denominator times sqrt(1 - b2 ** t), which is then one number in each and not an operation on v.
        correction = math.sqrt(1 - b2 ** t)
        np.sqrt(v, out=a)
        a += self.eps * correction
        np.divide(m, a, out=a)
        a *= lr * correction / (1 - b1 ** t)
        self.values[part] -= a


def clip(norm: float, longest: float) -> float:
    """What a gradient of that norm is multiplied by so that it is no longer than longest; the 1e-6 is torch's.

        g = min(1, longest / (norm + 1e-6)) * g           one factor for all parameters
    """
    return min(1.0, longest / (norm + 1e-6))


def _square(g: np.ndarray) -> float:
    square = np.dot(g, g)
    if not np.isfinite(square) and np.isfinite(g).all():  # too large for float32
        square = np.dot(g.astype(np.float64), g)
    return float(square)


def _matrices(params: list[Param]) -> Iterator[list[slice]]:
    """For each block the parts of it that belong to matrices and tables."""
    ends = list(accumulate(param.size for param in params))
    spans = [(end - param.size, end) for param, end in zip(params, ends) if len(param.shape) > 1]
    for block in blocks(ends[-1]):
        inside = ((max(start, block.start), min(stop, block.stop)) for start, stop in spans)
        yield [slice(start, stop) for start, stop in inside if start < stop]


def _below_1(number: float, name: str) -> float:
    if not 0 <= number < 1:
        raise ValueError(f"{name} must be at least 0 and below 1; got {number}")
    return number


def _at_least_0(number: float, name: str) -> float:
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be a finite number, 0 or above; got {number}")
    return number
