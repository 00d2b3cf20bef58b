"""Where somebody's layer keeps its parameters and their gradients."""

import types
from collections.abc import Callable, Iterator

import numpy as np

GRADIENT_NAMES = ("d{}", "d_{}", "{}_grad", "grad_{}")
COLLECTIONS = ("grads", "gradients", "grad", "_grads")  # grads["W"], or grads[0] beside params[0]
HOLDERS = ("value", "data", "array")                    # W.grad beside W.value
OPAQUE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType,
          np.random.Generator, np.random.RandomState, np.ndarray, str, bytes, int, float, complex, type(None))


class Place:
    """A parameter: every (container, key) that holds its array, and the one that holds its gradient."""

    def __init__(self, holders: list[tuple], gradient: tuple):
        self.holders = holders
        self.gradient = gradient

    @property
    def value(self) -> np.ndarray:
        return get(*self.holders[0])

    @value.setter
    def value(self, array) -> None:
        for container, key in self.holders:
            put(container, key, array)

    @property
    def grad(self) -> np.ndarray | None:
        return get(*self.gradient)

    def clear(self) -> None:
        """Zeros of the parameter's own dtype; None stays None, for a layer that makes the array itself."""
        grad = self.grad
        if grad is not None:
            if isinstance(grad, np.ndarray) and grad.dtype == self.value.dtype and grad.flags.writeable:
                grad[...] = 0
            else:
                put(*self.gradient, np.zeros(np.shape(grad), self.value.dtype))


def param_objects(layer) -> dict[str, Place]:
    """Parameters that are objects with value and grad: from named_params() if there is one, else by looking."""
    if callable(getattr(layer, "named_params", None)):
        return {name: Place([(p, "value")], (p, "grad")) for name, p in layer.named_params()}
    places = {}
    for path, container, key, array, _ in walk(layer):
        if key == "value" and not isinstance(container, (dict, list)) and hasattr(container, "grad"):
            if all(place.holders[0][0] is not container for place in places.values()):
                places[path.removesuffix(".value")] = Place([(container, key)], (container, "grad"))
    return places


def find_params(layer, trial: Callable, wanted=None) -> tuple[dict[str, Place], list[str]]:
    """The parameters, and the paths of arrays that have no gradient beside them.

    trial(scale) runs forward and backward on scaled inputs. What forward writes is its memory of the
    inputs, not a parameter, even where a gradient has the matching name; so two trials on different
    inputs must leave a parameter as it was.
    """
    before = {path: (container, key, array, array.copy(), parent)
              for path, container, key, array, parent in walk(layer) if array.dtype.kind == "f"}
    trial(1.0)
    trial(1.5)
    if isinstance(wanted, dict):
        return {name: Place(_holders(layer, _at(layer, name)), _resolve(layer, gradient))
                for name, gradient in wanted.items()}, []

    places, unpaired, seen = {}, [], set()
    for path, (container, key, array, content, parent) in before.items():
        now = get(container, key)
        if now is not array and not (isinstance(now, np.ndarray) and np.array_equal(now, content, equal_nan=True)):
            continue
        if not np.array_equal(array, content, equal_nan=True) or id(now) in seen:
            continue
        gradient = _gradient_beside(container, key, parent, array.shape)
        if gradient is not None:
            seen |= {id(now), id(get(*gradient))}
            name = path if key not in HOLDERS else path.rsplit(".", 1)[0]
            places[name] = Place(_holders(layer, now), gradient)
        else:
            unpaired.append((path, id(now)))
    unpaired = [path for path, which in unpaired if which not in seen]
    if wanted is not None:
        missing = [name for name in wanted if name not in places]
        if missing:
            raise ValueError(f"no gradient found for {', '.join(missing)}: looked for dW, d_W, W_grad, grad_W, W.grad "
                             "and grads['W'] in the place of W; say params={'W': 'path.to.its.gradient'}")
        return {name: places[name] for name in wanted}, []
    return places, unpaired


def walk(root) -> Iterator[tuple[str, object, object, np.ndarray, tuple]]:
    """Every array below root: path, container, key, array, and the container's own (container, key)."""
    seen = set()

    def below(item, path, above):
        if id(item) in seen or isinstance(item, OPAQUE):
            return
        seen.add(id(item))
        for key, child in _entries(item):
            child_path = f"{path}.{key}" if path else str(key)
            if isinstance(child, np.ndarray):
                yield child_path, item, key, child, above
            else:
                yield from below(child, child_path, (item, key))

    yield from below(root, "", None)


def get(container, key):
    return container[key] if isinstance(container, (dict, list, tuple)) else getattr(container, key)


def put(container, key, item) -> None:
    if isinstance(container, (dict, list)):
        container[key] = item
    else:
        setattr(container, key, item)


def _entries(item):
    if isinstance(item, dict):
        return list(item.items())
    if isinstance(item, (list, tuple)):
        return list(enumerate(item))
    slots = [s for kind in type(item).__mro__ for s in np.atleast_1d(getattr(kind, "__slots__", [])).tolist()]
    return [(s, getattr(item, s)) for s in slots if hasattr(item, s)] + list(getattr(item, "__dict__", {}).items())


def _holders(root, array) -> list[tuple]:
    """Every place that holds this very array. A tuple cannot be written to, so it does not count."""
    return [(container, key) for _, container, key, item, _ in walk(root)
            if item is array and not isinstance(container, tuple)]


def _gradient_beside(container, key, parent, shape) -> tuple | None:
    """Where the gradient of container[key] stands: beside it, or in a collection beside it or one step up."""
    if key in HOLDERS and _has(container, "grad"):
        return container, "grad"
    if isinstance(key, str):
        for form in GRADIENT_NAMES:
            if _has(container, form.format(key)) and _fits(get(container, form.format(key)), shape):
                return container, form.format(key)
    for owner in (container, parent[0] if parent else None):
        for collection in COLLECTIONS:
            grads = get(owner, collection) if owner is not None and _has(owner, collection) else None
            if isinstance(grads, dict) and key in grads or isinstance(grads, list) and isinstance(key, int) and key < len(grads):
                if grads is not container and _fits(grads[key], shape):
                    return grads, key
            if isinstance(grads, dict) and f"d{key}" in grads and _fits(grads[f"d{key}"], shape):
                return grads, f"d{key}"
    return None


def _fits(grad, shape) -> bool:
    return grad is None or np.size(grad) == int(np.prod(shape))


def _has(container, key) -> bool:
    return key in container if isinstance(container, dict) else not isinstance(container, (list, tuple)) and hasattr(container, key)


def _resolve(root, path: str) -> tuple:
    """(container, key) at a dotted path of attributes, keys and indices."""
    *steps, last = path.split(".")
    item = root
    for step in steps:
        item = get(item, _key(item, step, path))
    return item, _key(item, last, path)


def _key(item, step, path):
    if isinstance(item, (list, tuple)) and step.isdigit() and int(step) < len(item):
        return int(step)
    if not _has(item, step):
        raise ValueError(f"params: there is no {step!r} on the way of {path!r} in {type(item).__name__}")
    return step


def _at(root, path: str) -> np.ndarray:
    array = get(*_resolve(root, path))
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        raise ValueError(f"params: {path!r} is not an array of real numbers")
    return array
