"""What a case is, and what cases are made of: sizes, and weights, numbers, ids and targets drawn from a generator."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from numgpt import layers as L
from numgpt.flat import Flat


@dataclass(frozen=True)
class Sizes:
    B: int = 2
    T: int = 7
    H: int = 3
    D: int = 5
    C: int = 11
    F: int = 17
    V: int = 13
    scale: float = 1.0
    offset: float = 0.0
    dtype: type = np.float64

    @classmethod
    def drawn(cls, rng: np.random.Generator, **fixed) -> "Sizes":
        """Sizes from 1 to 40, input scales from 1e-3 to 1e3, offsets up to 100."""
        sizes = {name: int(rng.integers(1, 41)) for name in "BTHDCFV"}
        return cls(**{**sizes, "scale": float(10 ** rng.uniform(-3, 3)),
                      "offset": float(rng.uniform(-100, 100)) if rng.random() < 0.5 else 0.0, **fixed})


@dataclass
class Case:
    """What gradcheck.check takes: check(target, *inputs, backward=backward, **options)."""

    name: str
    target: Callable
    inputs: tuple
    options: dict = field(default_factory=dict)
    backward: Callable | None = None

    def arguments(self) -> tuple[tuple, dict]:
        more = {} if self.backward is None else {"backward": self.backward}
        return (self.target, *self.inputs), {**self.options, **more}


def order_one(layer: L.Layer, rng: np.random.Generator) -> L.Layer:
    """Matrices normal with std 1/sqrt(fan in), everything else normal(0, 1)."""
    for name, param in layer.named_params():
        fan_in = param.shape[0] if name.endswith("weight") else 1
        param.value[...] = rng.standard_normal(param.shape) / np.sqrt(fan_in)
    return layer


class Scaled(L.Layer):
    """A layer whose output is multiplied by a number: a check must see as much at 1e-5 as at 1."""

    def __init__(self, layer: L.Layer, factor: float):
        self.layer, self.factor = layer, factor

    def forward(self, *inputs, **options):
        y, saved = self.layer.forward(*inputs, **options)
        return y * self.factor, saved

    def backward(self, dy, saved):
        if isinstance(self.layer, Flat):  # a whole model's loss, of which backward needs no gradient
            return self.layer.backward(saved, dy * self.factor)
        return self.layer.backward(dy * self.factor, saved)

    def hints(self, *inputs):
        return self.layer.hints(*inputs)


def activations_of(rng, s: Sizes, *shape: int) -> np.ndarray:
    return (s.offset + s.scale * rng.standard_normal(shape or (s.B, s.T, s.C))).astype(s.dtype)


def ids_of(rng, s: Sizes) -> np.ndarray:
    """Token ids; with more tokens than words some repeat by themselves, else the first is made to."""
    ids = rng.integers(0, s.V, (s.B, s.T))
    ids.flat[-1] = ids.flat[0]
    return ids


def targets_of(rng, s: Sizes) -> np.ndarray:
    """Targets, about a quarter of which do not count."""
    targets = rng.integers(0, s.V, (s.B, s.T))
    targets[rng.random((s.B, s.T)) < 0.25] = -100
    return targets


def one(build: Callable) -> Callable:
    """A case of one layer over x (B, T, C); build(s, rng) makes the layer."""
    return lambda rng, s: Case("", order_one(build(s, rng), rng), (activations_of(rng, s),))


def dropped(build: Callable) -> Callable:
    """The same with a generator, so that dropout is at work."""
    return lambda rng, s: Case("", order_one(build(s, rng), rng), (activations_of(rng, s),),
                               {"rng": np.random.default_rng(int(rng.integers(1 << 30)))})
