"""What is being checked, made uniform: named arrays in, numbers out, named gradients back.

Three kinds: a layer whose forward returns (y, saved), a layer that keeps its state to itself, and a
pair of functions. A layer is copied first, so that checking leaves it as it was.
"""

import copy
import inspect

import numpy as np

from numgpt.gradcheck.state import Place, copied, find_params, get, param_objects, plain_numbers, put, snapshot
from numgpt.gradcheck.trees import is_branch, is_number, is_real, leaves, rebuild


class Subject:
    """values: every array that is differentiated, by name. Inputs first, then parameters."""

    kind = "functions"

    def __init__(self, inputs: tuple, options: dict, names: list[str]):
        self.inputs = tuple(np.asarray(x) if isinstance(x, list) and not is_branch(x) else x for x in inputs)
        self.options, self.names = options, names
        self.values: dict[str, np.ndarray] = {}
        self.skipped: list[str] = []
        for name, leaf in self._input_leaves():
            if isinstance(leaf, (complex, np.complexfloating, np.ndarray)) and np.asarray(leaf).dtype.kind == "c":
                raise TypeError(f"{name} is complex; this check is for real functions: "
                                "split it into its real and its imaginary part")
            if is_real(leaf):
                self.values[name] = np.asarray(leaf)
            elif isinstance(leaf, (int, np.ndarray, np.generic)):
                self.skipped.append(f"{name} ({np.asarray(leaf).dtype}) is not differentiated")
        self.input_names = list(self.values)

    def _input_leaves(self):
        for name, tree in zip(self.names, self.inputs):
            yield from leaves(tree, name)

    def arguments(self, values: dict) -> list:
        """The positional inputs, with values in their places; what is missing stands as it was given."""
        return [rebuild(tree, name, values) for name, tree in zip(self.names, self.inputs)]

    def fresh_options(self) -> dict:
        """Keyword arguments; a random generator is copied, so that every call draws the same numbers."""
        random = (np.random.Generator, np.random.RandomState)
        return {k: copy.deepcopy(v) if isinstance(v, random) else v for k, v in self.options.items()}

    def forward(self, values: dict):
        """Outputs as f returns them, and whatever backward needs of this call."""
        raise NotImplementedError

    def backward(self, dy, memory) -> dict[str, np.ndarray]:
        raise NotImplementedError

    def clear(self) -> None:
        """Set parameters' gradients to zero."""

    def param_grads(self) -> dict[str, np.ndarray]:
        return {}

    def restore(self) -> None:
        """Undo what checking did to the target."""

    def unchecked(self) -> dict[str, str]:
        """What looks like a parameter and could not be checked: name and what to do."""
        return {}

    def gradient(self, values: dict, dy) -> dict[str, np.ndarray]:
        """Forward and backward once, from cleared gradients."""
        _, memory = self.forward(values)
        self.clear()
        return self.backward(dy, memory)

    def numbers(self, values: dict) -> np.ndarray:
        """All outputs in one line."""
        y, _ = self.forward({**self.values, **values})
        return np.concatenate([np.ravel(leaf) for leaf in output_leaves(y)])

    def with_dtype(self, dtype) -> dict[str, np.ndarray]:
        """Contiguous copies, for whoever moves single elements."""
        return {name: np.array(value, dtype, order="C") for name, value in self.values.items()}

    def _named_gradients(self, result) -> dict[str, np.ndarray]:
        """What backward returned, by the name of the input it belongs to."""
        differentiable = [i for i, (name, tree) in enumerate(zip(self.names, self.inputs))
                          if any(is_real(leaf) for _, leaf in leaves(tree, name))]
        alone = self.inputs[differentiable[0]] if len(differentiable) == 1 else None
        if isinstance(result, dict) and not isinstance(alone, dict):
            if not set(result) <= set(self.names):
                raise ValueError(f"backward returned a dict with the keys {', '.join(map(str, result))}; "
                                 f"wanted are the names of the inputs, {', '.join(self.names)}")
            parts = dict(result)
        else:
            mirrors = is_branch(alone) and is_branch(result) and len(result) == len(alone)
            if not isinstance(result, (tuple, list)) or mirrors and not is_branch(result[0]) or (
                    is_branch(alone) and len(result) != len(self.inputs)):
                result = (result,)
            if len(result) == len(self.inputs):
                parts = dict(zip(self.names, result))
            elif len(result) == len(differentiable):
                parts = {self.names[i]: part for i, part in zip(differentiable, result)}
            else:
                raise ValueError(f"backward returned {len(result)} gradients for {len(self.inputs)} inputs "
                                 f"({', '.join(self.names)}): return one for each, None for integers")
        grads = {}
        for name, tree in parts.items():
            grads.update(leaves(tree, name))
        return {name: None if grads.get(name) is None else np.asarray(grads[name]) for name in self.input_names}


class Functions(Subject):
    def __init__(self, f, backward, inputs, options):
        super().__init__(inputs, options, argument_names(f, len(inputs)))
        self.f, self.g = f, backward
        accepted = inspect.signature(backward).parameters.values() if _has_signature(backward) else ()
        anything = any(p.kind is p.VAR_KEYWORD for p in accepted)
        self.shared_options = [k for k in options if anything or k in {p.name for p in accepted}]

    def forward(self, values):
        arguments = self.arguments(values)
        return self.f(*arguments, **self.fresh_options()), arguments

    def backward(self, dy, memory):
        options = self.fresh_options()
        shared = {k: options[k] for k in self.shared_options}
        if _has_signature(self.g):
            try:
                inspect.signature(self.g).bind(dy, *memory, **shared)
            except TypeError as why:
                raise TypeError(f"backward is called as g(dy, {', '.join(self.names)}), with the gradient of the output and "
                                f"then the inputs, and g does not take that: {why}") from None
        return self._named_gradients(self.g(dy, *memory, **shared))


class _LayerSubject(Subject):
    def __init__(self, layer, inputs, options, params):
        call = layer.forward if hasattr(layer, "forward") else layer
        super().__init__(inputs, options, argument_names(call, len(inputs)))
        self.layer, self.asked = copied(layer), params
        self.untouched = snapshot(layer) if self.layer is layer else []
        self.places: dict[str, Place] = {}
        self.unpaired: dict[str, list] = {}

    def _adopt(self, places: dict[str, Place]) -> None:
        for name, place in places.items():
            name = name if name not in self.values else f"self.{name}"
            self.places[name] = place
            self.values[name] = place.value

    def restore(self) -> None:
        """Where the layer could not be copied: its arrays, as they were."""
        for container, key, array, content in self.untouched:
            if array.flags.writeable:
                array[...] = content
            put(container, key, array)

    def place(self, values: dict) -> None:
        """Put parameters where the layer reads them."""
        for name, place in self.places.items():
            if name in values:
                place.value = values[name]

    def call(self, values):
        self.place(values)
        forward = self.layer.forward if hasattr(self.layer, "forward") else self.layer
        return forward(*self.arguments(values), **self.fresh_options())

    def _trial(self, scale):
        """Forward and backward on other inputs, to see what a pass writes and what it only reads."""
        with np.errstate(all="ignore"):
            y, memory = self.forward({name: value * value.dtype.type(scale) for name, value in self.values.items()})
            self.run_backward(like_output(y, np.ones_like), *memory)

    def run_backward(self, dy, *saved):
        """Some models take them the other way round, so that a loss's dy can have the default 1."""
        return self.layer.backward(*saved, dy) if saved_first(self.layer.backward) else self.layer.backward(dy, *saved)

    def clear(self):
        for place in self.places.values():
            place.clear()

    def unchecked(self):
        found = {name: "a plain number with a gradient beside it: make it an array, np.array(0.5), to have it checked"
                 for name in plain_numbers(self.layer)} if self.asked is None else {}
        y = self.numbers(self.values)
        for name, holders in self.unpaired.items():
            array = get(*holders[0])
            for container, key in holders:
                put(container, key, array * array.dtype.type(1.01) + array.dtype.type(0.01))
            if not np.array_equal(self.numbers(self.values), y, equal_nan=True):
                found[name] = ("it moves the output, but no gradient was found for it: say params={'" + name + "': "
                               "'path.to.its.gradient'}, or list in params= those that are to be checked")
            for container, key in holders:
                put(container, key, array)
        return found

    def param_grads(self):
        return {name: place.grad for name, place in self.places.items()}

    def backward(self, dy, memory):
        result = self.run_backward(dy, *memory)
        if self.input_names or is_branch(result):
            grads = self._named_gradients(result)
        else:
            grads = {}
        # copies: the layer may go on adding to its own arrays
        return grads | {name: None if g is None else np.array(g) for name, g in self.param_grads().items()}


class ContractLayer(_LayerSubject):
    """forward(x) -> (y, saved); backward(dy, saved) or (saved, dy) -> dx, adding to the gradients of parameters."""

    kind = "contract"

    def __init__(self, layer, inputs, options, params):
        super().__init__(layer, inputs, options, params)
        places = param_objects(self.layer) if params is None else {}
        if not callable(getattr(layer, "named_params", None)) or params is not None:
            found, self.unpaired = find_params(self.layer, self._trial, params)
            places = found | places
        self._adopt(places)

    def forward(self, values):
        result = self.call(values)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise TypeError("backward takes (dy, saved), so forward must return (y, saved); it returned "
                            f"{type(result).__name__}")
        y, saved = result
        return y, (saved,)


class StatefulLayer(_LayerSubject):
    """forward(x) -> y; backward(dy) -> dx, leaving the gradients of parameters in attributes."""

    kind = "stateful"

    def __init__(self, layer, inputs, options, params):
        super().__init__(layer, inputs, options, params)
        places, self.unpaired = find_params(self.layer, self._trial, params)
        self._adopt(places)

    def forward(self, values):
        return self.call(values), ()


def subject_of(target, inputs, options, backward, params) -> Subject:
    if backward is not None:
        if params is not None:
            raise ValueError("a pair of functions has no attributes to look for params in: make each parameter an input")
        return Functions(target, backward, inputs, options)
    if not callable(getattr(target, "backward", None)):
        raise TypeError(f"{type(target).__name__} has no backward: pass a layer that has one, "
                        "or a function and backward=g, where g(dy, x, ...) returns the gradient of each input")
    kind = ContractLayer if takes_saved(target.backward) else StatefulLayer
    return kind(target, inputs, options, params)


def output_leaves(y) -> list[np.ndarray]:
    found = [np.asarray(leaf) for _, leaf in leaves(y, "y") if is_number(leaf)]
    if not found:
        raise TypeError(f"forward returned {type(y).__name__}, in which there is no array of real numbers to differentiate")
    return found


def like_output(y, make):
    """A cotangent: the tree of y with make(leaf) for each real leaf, a plain number where y has one."""
    def one(leaf):
        d = make(leaf)
        return d if isinstance(leaf, np.ndarray) else type(leaf)(d)
    return rebuild(y, "y", {name: one(leaf) for name, leaf in leaves(y, "y") if is_number(leaf)})


def argument_names(f, n: int) -> list[str]:
    """The names of f's first n positional parameters, made up where it does not say."""
    names = []
    if _has_signature(f):
        for p in inspect.signature(f).parameters.values():
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
                names.append(p.name)
            elif p.kind is p.VAR_POSITIONAL:
                names += [f"{p.name}[{i}]" for i in range(n - len(names))]
    names = names[:n]
    return names + (["x"] if n == 1 and not names else [f"x{i}" for i in range(len(names), n)])


def _has_signature(f) -> bool:
    try:
        inspect.signature(f)
        return True
    except (TypeError, ValueError):
        return False


def saved_first(backward) -> bool:
    names = list(inspect.signature(backward).parameters) if _has_signature(backward) else []
    return len(names) > 1 and names[0] == "saved"


def takes_saved(backward) -> bool:
    """backward(dy, saved) rather than backward(dy): a second positional parameter without a default, or saved first."""
    if not _has_signature(backward):
        return False
    if saved_first(backward):
        return True
    positional = [p.name for p in inspect.signature(backward).parameters.values()
                  if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
    if len(positional) >= 2 and positional[1].startswith(("d_", "dy", "dc", "dh", "grad")):
        raise TypeError(f"backward({', '.join(positional)}) takes a gradient for each of several outputs: let it take one "
                        "argument, a tuple of gradients as forward returns a tuple of outputs")
    return len(positional) >= 2
