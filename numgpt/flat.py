"""Flat: a model whose parameters lie in one array, and their gradients in another."""

import copy
from collections.abc import Iterator

import numpy as np

from numgpt.layers import Layer, Param
from numgpt.layers.inputs import float_type
from numgpt.layers.param import FleetingParam, FrozenParam


class Flat(Layer):
    """What every model is that a trainer can move, whatever its loss.

    Clearing, clipping, an optimizer's step and a checkpoint are then one operation on an array each. Frozen parameters
    stand at the end of the values, and have no gradients: what is trained is values[:grads.size].

        loss, saved = model.forward(*batch, rng=None, count=None)
        model.backward(saved, dloss=1.0, finished=None)
        model.count(*batch)        what the means of a loss divide by: of a whole batch, it makes its pieces' losses add up
        model.parts()              the layers that run one after the other
    """

    @property
    def values(self) -> np.ndarray:
        """All parameters in one array, of which each Param's value is a view. What is assigned is copied into it."""
        return self._values

    @values.setter
    def values(self, array) -> None:
        if array is not self._values:  # as it is after model.values -= ...
            self._values[...] = array

    @property
    def grads(self) -> np.ndarray:
        """All gradients, in the same order; there are fewer than values where parameters are frozen."""
        return self._grads

    @grads.setter
    def grads(self, array) -> None:
        if array is not self._grads:
            self._grads[...] = array

    @property
    def n_params(self) -> int:
        return self.values.size

    def trained(self) -> list[Param]:
        """The parameters that are not frozen, in the order of named_params(), and of values and grads."""
        return [param for param in self.params() if not param.frozen]

    def lay_out(self) -> None:
        """Move all parameters into one array, one by one, and make their gradients views of another.

        Whoever exchanges layers, or a Param's arrays, or freezes some, calls it anew; gradients start at 0.
        """
        self._order = params = self._sorted()
        trained = [param for param in params if not param.frozen]
        dtype = params[0].value.dtype
        self._values = np.zeros(sum(param.size for param in params), dtype)
        self._grads = np.zeros(sum(param.size for param in trained), dtype)
        for param, value in zip(params, _views(params, self._values)):
            if param.value.any():  # what is zero is there already, and untouched memory costs nothing
                value[...] = param.value
            param.value = value
        for param, grad in zip(trained, _views(trained, self._grads)):
            param.grad = grad

    def _sorted(self) -> list[Param]:
        """The parameters, those that are trained first."""
        return sorted(self.params(), key=lambda param: param.frozen)

    def _laid_out(self) -> list[Param]:
        """The parameters in the order of values, if all of them are where they were laid out."""
        params = self._sorted()
        n_trained = sum(param.size for param in params if not param.frozen)
        if n_trained != self._grads.size and set(params) == set(self._order):
            raise ValueError("parameters of the model were frozen or thawed: call model.lay_out() to put those that are trained "
                             "side by side again")
        if params != self._order or not all(
                param.value.base is self._values and (param.frozen or param.grad.base is self._grads) for param in params):
            raise ValueError("layers or arrays of the model were exchanged: call model.lay_out() to bring its parameters "
                             "together again")
        return params

    def _over(self, values: np.ndarray, grads: np.ndarray | None, memo: dict | None = None) -> "Flat":
        """A copy of the layers whose parameters are views of these arrays; memo is deepcopy's. grads None: they are fleeting."""
        memo = {} if memo is None else memo
        params = self._laid_out()
        memo |= {id(self._values): values, id(self._grads): grads}
        for param, value in zip(params, _views(params, values)):
            memo[id(param)] = FrozenParam(value) if param.frozen else FleetingParam(value)
        if grads is not None:
            trained = [param for param in params if not param.frozen]
            memo |= {id(param): Param(memo[id(param)].value, grad) for param, grad in zip(trained, _views(trained, grads))}
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        vars(twin).update(copy.deepcopy(vars(self), memo))
        return twin

    def astype(self, dtype) -> "Flat":
        """A twin with parameters of another dtype, complex too, and gradients of 0. Nothing is shared."""
        dtype = float_type(dtype)
        return self._over(self._values.astype(dtype), np.zeros(self._grads.shape, dtype))

    def replica(self, *, fleeting: bool = False) -> "Flat":
        """The same weights, not a copy of them, with gradients of its own: what a thread works on.

        fleeting: there is no array of all gradients; each Param's is made when backward comes to it, for somebody to fetch
        """
        return self._over(self._values, None if fleeting else np.zeros(self._grads.shape, self._grads.dtype))

    def zero_grad(self) -> None:
        self._laid_out()
        self._grads[...] = 0

    def __copy__(self):
        """Layers of its own, over the same two arrays."""
        return self._over(self._values, self._grads)

    def __deepcopy__(self, memo):
        return self._over(self._values.copy(), self._grads.copy(), memo)

    def __getstate__(self):
        return {name: item for name, item in vars(self).items() if name not in ("_values", "_grads", "_order")}

    def __setstate__(self, state):  # unpickled views would be arrays of their own
        vars(self).update(state)
        self.lay_out()


class AsBuilt:
    """How a model was laid out when somebody took its arrays, who would move what nobody reads once it is laid out anew."""

    def __init__(self, model, whose: str):
        self.model, self.values, self.whose = model, model.values, whose
        self.params = [(param, param.frozen) for param in model.params()]

    def check(self) -> None:
        if self.model.values is not self.values or any(param.frozen != frozen for param, frozen in self.params):
            raise ValueError(f"this {self.whose} was made before parameters of the model were frozen, thawed or laid out anew, and has "
                             "arrays that are no longer the model's: make another, after model.lay_out()")


def _views(params: list[Param], flat: np.ndarray) -> Iterator[np.ndarray]:
    """flat cut into the parameters' shapes."""
    start = 0
    for param in params:
        yield flat[start:start + param.size].reshape(param.shape)
        start += param.size
