"""Param and Layer: the contract that every layer keeps.

    y, saved = layer.forward(x)           # pure: reads parameters, changes nothing
    dx       = layer.backward(dy, saved)  # adds to each Param's grad; saved is only read
    y        = layer(x)                   # when only the output is wanted
"""

import copy
import math
from collections.abc import Callable, Iterator

import numpy as np

from numgpt.layers import blocks
from numgpt.layers.inputs import float_type, positive
from numgpt.layers.tree import tree


class Param:
    """A trainable array and the gradient that backward adds to."""

    __slots__ = ("value", "_grad", "_anew")
    frozen = False

    def __init__(self, value: np.ndarray, grad: np.ndarray | None = None):
        self.value = np.asarray(value)
        # np.zeros takes no memory until it is written to, which in a model that only predicts is never
        self.grad = np.zeros(self.value.shape, self.value.dtype) if grad is None else grad

    @property
    def grad(self) -> np.ndarray:
        self.settle()
        return self._grad

    @grad.setter
    def grad(self, array: np.ndarray | None) -> None:
        if array is None:
            self.begin_anew()
        else:
            self._grad, self._anew = array, False

    def begin_anew(self) -> None:
        """The gradient is 0 from here on: written when somebody asks, and not at all if a product takes its place."""
        self._anew = True

    def settle(self) -> None:
        """Write the 0 that is not written yet: arrays that this gradient is a view of do not ask."""
        if self._anew:
            room = self._room()
            room.fill(0)
            self.grad = room

    def add_product(self, a: np.ndarray, b: np.ndarray) -> None:
        """grad += a @ b"""
        if self._anew:
            room = self._room()
            blocks.put_product(room, a, b)
            self.grad = room
        else:
            blocks.add_product(self._grad, a, b)

    def _room(self) -> np.ndarray:
        return self._grad

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def size(self) -> int:
        return self.value.size

    def __repr__(self):
        return f"Param{self.shape}"


class FleetingParam(Param):
    """A Param whose gradient has no memory until backward comes to it, and gives it back when it begins anew."""

    __slots__ = ()

    def __init__(self, value: np.ndarray):
        self.value = value
        self.begin_anew()

    def begin_anew(self) -> None:
        self._grad, self._anew = None, True

    def _room(self) -> np.ndarray:
        return np.empty(self.value.shape, self.value.dtype)


class FrozenParam(Param):
    """A Param that is not trained. What is added to its gradient is kept nowhere, and its products are not computed."""

    __slots__ = ()
    frozen = True

    def __init__(self, value: np.ndarray):
        self.value = value

    @property
    def grad(self) -> np.ndarray:
        return np.zeros(self.value.shape, self.value.dtype)  # which takes no memory where nobody writes

    @grad.setter
    def grad(self, array) -> None:
        pass

    def begin_anew(self) -> None:
        pass

    def settle(self) -> None:
        pass

    def add_product(self, a, b) -> None:
        pass

    def __repr__(self):
        return f"FrozenParam{self.shape}"


class Layer:
    """What all layers share: calling, and walking over parameters."""

    def forward(self, x):
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self, dy, saved):
        raise NotImplementedError(f"{type(self).__name__} has no backward")

    def __call__(self, *inputs, **options):
        return self.forward(*inputs, **options)[0]

    def named_params(self) -> Iterator[tuple[str, Param]]:
        """Each parameter once, with a dotted name, in the order the layer was built."""
        return iter(_once(self, Param))

    def named_layers(self) -> Iterator[tuple[str, "Layer"]]:
        """Each layer inside this one once, with a dotted name, an outer one before those inside it."""
        return iter(_once(self, Layer))

    def params(self) -> list[Param]:
        return [param for _, param in self.named_params()]

    def zero_grad(self) -> None:
        for param in self.params():
            if not param.frozen:
                param.grad[...] = 0

    def astype(self, dtype) -> "Layer":
        """A twin with parameters of another dtype, complex too; what was shared stays shared."""
        float_type(dtype)
        return copy.deepcopy(self, {id(param): (FrozenParam if param.frozen else Param)(param.value.astype(dtype))
                                    for param in self.params()})

    def freeze(self, chosen: Callable[[str], bool] = lambda name: True) -> None:
        """Train the parameters of the chosen names no more: backward leaves their gradients out. Where one array holds those
        of a whole model, its lay_out() follows.
        """
        for name, param in self.named_params():
            if chosen(name):
                param._grad = None
                param.__class__ = FrozenParam  # the same object, so that what is shared stays shared

    def thaw(self, chosen: Callable[[str], bool] = lambda name: True) -> None:
        """Train the frozen parameters of the chosen names again, with gradients of 0. A model's lay_out() follows here, too."""
        for name, param in self.named_params():
            if param.frozen and chosen(name):
                param.__class__ = Param
                param.grad = np.zeros(param.shape, param.value.dtype)

    def _parts(self) -> dict[str, object]:
        """What is looked through for parameters: the attributes."""
        return vars(self)

    def _note(self) -> str | None:
        """What its line in a tree says before its parameters; None: it needs no line if it has nothing else to show."""
        return ""

    def __repr__(self):
        return tree(self)

    def hints(self, *inputs) -> dict[str, float]:
        """Numbers that a mistake may leave as a factor, by name; a gradient check speaks of them."""
        shape = np.shape(inputs[0])
        lead = dict(zip(("B", "T"), shape[:-1])) if len(shape) > 2 else {}
        return {**lead, "N": int(np.prod(shape[:-1])), "C": shape[-1] if shape else 1}


def _once(layer: Layer, kind: type) -> list[tuple]:
    """What is of that kind inside a layer, each under the first of its names."""
    found = []
    _gather(layer, "", kind, {}, found)
    return found


# What is looked for and looked through.
_LOOKED_AT = (Param, Layer, list, dict, tuple)


def _gather(item, path: str, kind: type, seen: dict[int, object], found: list[tuple]) -> None:
    """Add to found what is of that kind in a layer, a list or a dict, and in those inside it; seen keeps what was met by its id.

    Nothing is looked through twice: what is inside it was met the first time, or is met where its own walk goes on.
    """
    seen[id(item)] = item
    inside = item._parts() if isinstance(item, Layer) else item
    for name, child in inside.items() if isinstance(inside, dict) else enumerate(inside):
        if not isinstance(child, _LOOKED_AT) or id(child) in seen:
            continue
        here = f"{path}.{name}" if path else str(name)
        if isinstance(child, kind):
            found.append((here, child))
        if isinstance(child, Param):
            seen[id(child)] = child
        else:
            _gather(child, here, kind, seen, found)


def normal(rng, shape: tuple[int, ...], std: float, dtype) -> Param:
    """A parameter drawn from normal(0, std), row after row; the draws are float64, so that every dtype starts alike."""
    value = np.zeros(_sizes(shape), float_type(dtype))
    if std:
        rng = np.random.default_rng(rng)
        for part in blocks.blocks(len(value), math.prod(shape[1:])):
            value[part] = rng.normal(0.0, std, value[part].shape)
    return Param(value)


def constant(value: float, shape: tuple[int, ...], dtype) -> Param:
    return Param(np.full(_sizes(shape), value, float_type(dtype)))


def _sizes(shape):
    return tuple(positive(n, "a layer's size") for n in shape)
