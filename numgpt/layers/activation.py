"""The bends of the feed-forward layer: element by element, y = f(x) and dx = dy f'(x)."""

import functools
import math

import numpy as np

from numgpt.layers.blocks import blocks
from numgpt.layers.inputs import floats, gradient
from numgpt.layers.ops import normal_cdf, normal_density
from numgpt.layers.param import Layer

A = 2 * math.sqrt(2 / math.pi)
LOWEST = -3e4  # where normal_cdf has long been 0 in every dtype; stopping there makes f(-inf) 0, not -inf * 0 = nan


class Activation(Layer):
    """y = f(x). The slope f'(x) needs what y needs, an exp above all, so forward computes both.

    slope=False: y alone, which takes half the time, and no backward.
    A subclass says how a block of x fills the same block of y, and of the slope if there is one.
    """

    def forward(self, x, *, slope: bool = True):
        x = floats(x, type(self).__name__)
        arrays = [x, *(np.empty(x.shape, np.result_type(x)) for _ in range(1 + slope))]
        lines = [array.reshape(-1) for array in arrays]
        for part in blocks(x.size):
            self.fill(*(line[part] for line in lines))
        return arrays[1], arrays[2] if slope else None

    def __call__(self, x):
        return self.forward(x, slope=False)[0]

    def backward(self, dy, saved):
        slope = saved
        if slope is None:
            raise ValueError("there is no backward without the slope: call forward without slope=False")
        return gradient(dy, slope.shape, type(self).__name__) * slope

    def fill(self, x, y, slope=None):
        raise NotImplementedError(f"{type(self).__name__} has no fill")


class GELU(Activation):
    """x times the chance that a standard normal number is below x.

    x -> y of one shape;  normal_cdf(x) = (1 + erf(x / sqrt(2))) / 2, and its derivative is the normal density

    Forward   y = x * normal_cdf(x)
              slope = normal_cdf(x) + x * exp(-x * x / 2) / sqrt(2 * pi)
    Backward  dx = dy * slope
    Saved     slope
    """

    def fill(self, x, y, slope=None):
        cdf = normal_cdf(x)
        y[...] = np.clip(x, LOWEST, np.inf) * cdf
        if slope is not None:
            near = np.clip(x, -40, 40)  # the density is 0 beyond, and inf * 0 is nan
            slope[...] = cdf + near * normal_density(near)


class Gate(Activation):
    """x times s, the sigmoid of z; a subclass says what z is, and fills the slope when it is given s and xds.

        s = 1 / (1 + exp(-z))
        y = x * s
        xds = x * s * (1 - s)
        slope = s + xds * dz

    Far out, where exp overflows in the dtype of x, s is 0 or 1.
    """

    def fill(self, x, y, slope=None):
        near, far = self._near(x)
        e = self.minus_z(near)
        np.exp(e, out=e)
        d = 1 + e
        np.divide(near, d, out=y)
        if slope is not None:
            e /= d  # 1 - s, with the digits that it would have lost where s is near 1
            e *= y
            self.fill_slope(near, np.divide(1, d, out=d), e, slope)
        if far is not None:
            np.copyto(y, np.maximum(x, 0), where=far)
            if slope is not None:
                np.copyto(slope, x.real > 0, where=far)

    def _near(self, x):
        """x cut to where exp stays finite, and what was cut; None: nothing, and x is what it was."""
        end = self._end(x.real.dtype)
        if -end <= x.real.min() and x.real.max() <= end:  # false for a nan
            return x, None
        near = np.clip(x.real, -end, end)
        return near + 1j * x.imag if np.iscomplexobj(x) else near, abs(x.real) > end

    @classmethod
    @functools.cache
    def _end(cls, dtype: np.dtype) -> float:
        """The x at which exp(z) is almost too large for the dtype, found by halving."""
        about = np.finfo(dtype)
        limit = float(np.log(about.max)) * (1 - 16 * float(about.eps))  # z is a few roundings off
        start, end = 0.0, 1.0
        while -cls.minus_z(end) < limit:
            start, end = end, 2 * end
        for _ in range(60):
            middle = (start + end) / 2
            start, end = (middle, end) if -cls.minus_z(middle) < limit else (start, middle)
        return start

    @staticmethod
    def minus_z(x):
        raise NotImplementedError("a gate says what its -z is")

    @staticmethod
    def fill_slope(x, s, xds, slope):
        raise NotImplementedError("a gate fills its slope")


class GELUTanh(Gate):
    """GELU with the normal distribution function approximated by (1 + tanh(u)) / 2.

    x -> y of one shape

    Forward   u = sqrt(2 / pi) * (x + 0.044715 * x * x * x)
              t = tanh(u)
              y = x * 0.5 * (1 + t)
              du = sqrt(2 / pi) * (1 + 3 * 0.044715 * x * x)
              -- tanh' = 1 - tanh^2
              slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du
    Backward  dx = dy * slope
    Saved     slope

    Computed with (1 + tanh(u)) / 2 = sigmoid(2 u), which keeps the digits that 1 + t loses on the left: at
    x = -4 they are all lost in float32.
    """

    @staticmethod
    def minus_z(x):
        """-2 u"""
        z = x * x
        z *= -0.044715 * A
        z -= A
        z *= x
        return z

    @staticmethod
    def fill_slope(x, s, xds, slope):
        dz = A + 3 * 0.044715 * A * (x * x)
        dz *= xds
        np.add(s, dz, out=slope)


class ReLU(Activation):
    """Keep what is positive.

    x -> y of one shape

    Forward   y = maximum(x, 0)
              -- at the kink itself, x = 0, any slope from 0 to 1 would do; 0 is the custom
              slope = (x > 0).astype(x.dtype)
    Backward  dx = dy * slope
    Saved     slope
    """

    def fill(self, x, y, slope=None):
        np.maximum(x, 0, out=y)
        if slope is not None:
            slope[...] = x > 0


class SiLU(Gate):
    """x times its own sigmoid.

    x -> y of one shape

    Forward   s = 1 / (1 + exp(-x))
              y = x * s
              slope = s + x * s * (1 - s)
    Backward  dx = dy * slope
    Saved     slope
    """

    steepness = 1.0

    @classmethod
    def minus_z(cls, x):
        return -cls.steepness * x

    @classmethod
    def fill_slope(cls, x, s, xds, slope):
        np.add(s, xds * cls.steepness, out=slope)


class QuickGELU(SiLU):
    """SiLU made steeper, so that it lies near GELU.

    x -> y of one shape

    Forward   s = 1 / (1 + exp(-1.702 * x))
              y = x * s
              slope = s + 1.702 * x * s * (1 - s)
    Backward  dx = dy * slope
    Saved     slope
    """

    steepness = 1.702


ACTIVATIONS = {"gelu_tanh": GELUTanh, "gelu": GELU, "relu": ReLU, "quick_gelu": QuickGELU, "silu": SiLU}


def activation(name: str) -> Activation:
    if name not in ACTIVATIONS:
        raise ValueError(f"there is no activation {name!r}: choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()
