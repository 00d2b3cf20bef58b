"""Every gradient of an example beside what its forward pass says: a finite difference and a complex step."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from numgpt.gradcheck.numeric import Element, NotAnalytic, Numeric
from numgpt.teach.explain.examples import Example

SHOWN = 6       # entries of an array that has no more; of a larger one, half as many
MEASURED = 60   # entries of one array; of a larger one, its largest
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
    """The entries of one gradient, the largest first where they are many."""

    name: str
    shape: tuple[int, ...]
    shown: list[Entry]
    count: int       # measured by complex step
    farthest: Entry  # from its complex step, of all that were measured


def differentiated(example: Example) -> dict[str, np.ndarray]:
    """Inputs that are not integers, then the parameters."""
    inputs = {name: x for name, x in example.inputs.items() if x.dtype.kind == "f"}
    return inputs | {name: param.value for name, param in example.layer.named_params()}


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
    params = list(twin.named_params())

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
    order = np.argsort(-np.abs(gradient), axis=None, kind="stable")[:MEASURED].tolist()
    exact = {i: _complex_step(numeric, name, i) for i in order}
    flat = gradient.reshape(-1)
    largest = sorted(order) if gradient.size <= SHOWN else order[:SHOWN // 2]
    farthest = max(order, key=lambda i: np.nan_to_num(abs(float(flat[i]) - exact[i]), nan=np.inf))

    def entry(i: int) -> Entry:
        difference = float(numeric.central(name, Element(i)).value[0])
        return Entry(tuple(int(k) for k in np.unravel_index(i, gradient.shape)), float(flat[i]), difference, exact[i], limit)

    return Measured(name, gradient.shape, [entry(i) for i in largest], len(order), entry(farthest))


def _complex_step(numeric: Numeric, name: str, i: int) -> float:
    try:
        return float(numeric.complex_step(name, Element(i))[0])
    except NotAnalytic:
        return float("nan")
