"""The bends of the feed-forward layer: element by element, y = f(x) and dx = dy f'(x)."""

import math

import numpy as np

from numgpt.layers.blocks import elementwise
from numgpt.layers.inputs import floats, gradient
from numgpt.layers.ops import normal_cdf, normal_density, one_plus_exp, sigmoid_and_slope
from numgpt.layers.param import Layer

# Below -3e4 every gate here is exactly 0 in every dtype. Stopping there makes f(-inf) 0, not -inf * 0 = nan.
# And np.clip takes a third of the time that np.maximum takes.
LOWEST = -3e4


class Activation(Layer):
    """y = f(x). A subclass says f and its slope; x is all that backward needs."""

    def forward(self, x):
        x = floats(x, type(self).__name__)
        return elementwise(self.f, x), x

    def backward(self, dy, saved):
        x = saved
        dy = gradient(dy, x.shape, type(self).__name__)
        return elementwise(lambda dy, x: dy * self.slope(x), dy, x)


class GELU(Activation):
    """x times the chance that a standard normal number is below x.

    x -> y of one shape;  normal_cdf(x) = (1 + erf(x / sqrt(2))) / 2, and its derivative is the normal density

    Forward   y = x * normal_cdf(x)
    Backward  dx = dy * (normal_cdf(x) + x * exp(-x * x / 2) / sqrt(2 * pi))
    Saved     x
    """

    @staticmethod
    def f(x):
        return np.clip(x, LOWEST, np.inf) * normal_cdf(x)

    @staticmethod
    def slope(x):
        x = np.clip(x, -40, 40)  # the density is 0 beyond, and inf * 0 is nan
        return normal_cdf(x) + x * normal_density(x)


class GELUTanh(Activation):
    """GELU with the normal distribution function approximated by (1 + tanh(u)) / 2 = sigmoid(2 u).

    x -> y of one shape

    Forward   u = sqrt(2 / pi) * (x + 0.044715 * x * x * x)
              y = x * 0.5 * (1 + tanh(u))
    Backward  t = tanh(sqrt(2 / pi) * (x + 0.044715 * x * x * x))
              du = sqrt(2 / pi) * (1 + 3 * 0.044715 * x * x)
              -- tanh' = 1 - tanh^2
              dx = dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du)
    Saved     x

    Computed with the sigmoid, which keeps the digits that 1 + tanh(u) loses on the left: at
    x = -4 they are all lost in float32. Below x = -10.02 its exp overflows there, and the result is 0 for 3e-38.
    """

    @staticmethod
    def f(x):
        x = np.clip(x, -40, np.inf)
        with np.errstate(over="ignore"):  # of the cube
            return x / one_plus_exp(_twice_u(x, -1))

    @staticmethod
    def slope(x):
        x = np.clip(x, -40, 40)
        s, ds = sigmoid_and_slope(_twice_u(x))
        dz = A + 3 * 0.044715 * A * (x * x)
        return s + x * ds * dz


A = 2 * math.sqrt(2 / math.pi)


def _twice_u(x, sign=1):
    """What GELUTanh's sigmoid is taken of. Beyond x = 40 it is 0 or 1, and the cube may overflow."""
    return x * (sign * A + sign * 0.044715 * A * (x * x))


class ReLU(Activation):
    """Keep what is positive.

    x -> y of one shape

    Forward   y = maximum(x, 0)
    Backward  -- at the kink itself, x = 0, any slope from 0 to 1 would do; 0 is the custom
              dx = dy * (x > 0)
    Saved     x
    """

    @staticmethod
    def f(x):
        return np.maximum(x, 0)

    @staticmethod
    def slope(x):
        return (x > 0).astype(x.dtype)


class SiLU(Activation):
    """x times its own sigmoid.

    x -> y of one shape

    Forward   y = x / (1 + exp(-x))
    Backward  s = 1 / (1 + exp(-x))
              dx = dy * (s + x * s * (1 - s))
    Saved     x
    """

    steepness = 1.0

    def f(self, x):
        x = np.clip(x, LOWEST, np.inf)
        with np.errstate(over="ignore"):  # in float16
            return x / one_plus_exp(-self.steepness * x)

    def slope(self, x):
        x = np.clip(x, LOWEST, -LOWEST)
        s, ds = sigmoid_and_slope(self.steepness * x)
        return s + self.steepness * x * ds


class QuickGELU(SiLU):
    """SiLU made steeper, so that it lies near GELU.

    x -> y of one shape

    Forward   y = x / (1 + exp(-1.702 * x))
    Backward  s = 1 / (1 + exp(-1.702 * x))
              dx = dy * (s + 1.702 * x * s * (1 - s))
    Saved     x
    """

    steepness = 1.702


ACTIVATIONS = {"gelu_tanh": GELUTanh, "gelu": GELU, "relu": ReLU, "quick_gelu": QuickGELU, "silu": SiLU}


def activation(name: str) -> Activation:
    if name not in ACTIVATIONS:
        raise ValueError(f"there is no activation {name!r}: choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()
