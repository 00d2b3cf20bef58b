"""Every gradient of an example beside what its forward pass says: a finite difference and a complex step."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from numgpt.gradcheck.numeric import Element, NotAnalytic, Numeric
from numgpt.teach.explain.examples import Example

SHOWN = 6  # entries of an array that has no more; of a larger one, half as many
ROUNDINGS = 1000


@dataclass
class Entry:
    """One number of a gradient, and the same measured twice."""

    index: tuple[int, ...]
    backward: float
    difference: float
    exact: float  # the complex step
    limit: float = math.inf

    @property
    def apart(self) -> float:
        return abs(self.backward - self.exact)

    @property
    def wrong(self) -> bool:
        return not self.apart <= self.limit


@dataclass
class Measured:
    """One gradient: every entry by complex step, and those that are shown by a difference too.

    Where not all are shown, what is wrong comes first, the farthest before the others, and then the largest.
    """

    name: str
    shape: tuple[int, ...]
    shown: list[Entry]
    wrong: int       # how many of all its entries
    farthest: Entry  # from its complex step, of all

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def differentiated(example: Example) -> dict[str, np.ndarray]:
    """Inputs that are not integers, then the parameters."""
    inputs = {name: x for name, x in example.inputs.items() if x.dtype.kind == "f"}
    return inputs | {name: param.value for name, param in example.layer.named_params() if not param.frozen}


def measure(example: Example, dy, gradients: dict[str, np.ndarray], limit: float) -> list[Measured]:
    """gradients by the names of what is differentiated. Measured in float64, whatever the example is in.

    limit: how far from the complex step is wrong.
    """
    values = {name: np.array(x, np.float64) for name, x in differentiated(example).items()}
    cotangent = np.ravel(np.asarray(dy, np.float64))[None]
    numeric = Numeric(_outputs(example), values, cotangent, seed=0)
    return [_measured(numeric, name, gradients[name], limit) for name in values if gradients[name].size]


def _outputs(example: Example) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """All numbers that forward gives, as a function of inputs and parameters."""
    twin = copy.deepcopy(example.layer)
    params = [(name, param) for name, param in twin.named_params() if not param.frozen]

    def outputs(values: dict[str, np.ndarray]) -> np.ndarray:
        for name, param in params:
            param.value = values[name]
        y, _ = twin.forward(*(values.get(name, x) for name, x in example.inputs.items()), **example.fresh_options())
        return np.ravel(y)

    return outputs


def tolerance(gradients: dict[str, np.ndarray], dtype) -> float:
    """How far rounding may take a gradient: a thousand roundings of the largest of all, or of 1."""
    largest = max((float(np.abs(g).max(initial=0)) for g in gradients.values()), default=0.0)
    return ROUNDINGS * float(np.finfo(dtype).eps) * max(1.0, largest)


def _measured(numeric: Numeric, name: str, gradient: np.ndarray, limit: float) -> Measured:
    flat = gradient.reshape(-1).astype(np.float64)
    exact = np.array([_complex_step(numeric, name, i) for i in range(flat.size)])
    apart = np.nan_to_num(np.abs(flat - exact), nan=np.inf)
    wrong = ~(apart <= limit)
    first = np.lexsort((-np.abs(flat), np.where(wrong, -apart, 0.0)))
    shown = range(flat.size) if flat.size <= SHOWN else first[:SHOWN // 2].tolist()

    def entry(i: int) -> Entry:
        difference = float(numeric.central(name, Element(i)).value[0])
        index = tuple(int(k) for k in np.unravel_index(i, gradient.shape))
        return Entry(index, float(flat[i]), difference, float(exact[i]), limit)

    return Measured(name, gradient.shape, [entry(i) for i in shown], int(wrong.sum()), entry(int(apart.argmax())))


def _complex_step(numeric: Numeric, name: str, i: int) -> float:
    try:
        return float(numeric.complex_step(name, Element(i))[0])
    except NotAnalytic:
        return float("nan")
