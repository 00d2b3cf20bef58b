"""Where somebody's layer keeps its parameters and their gradients."""

import copy
import types
from collections.abc import Callable, Iterator

import numpy as np

GRADIENT_NAMES = ("d{}", "d_{}", "{}_grad", "grad_{}")
COLLECTIONS = ("grads", "gradients", "grad", "_grads")  # grads["W"], or grads[0] beside params[0]
HOLDERS = ("value", "data", "array")                    # W.grad beside W.value
OPAQUE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType,
          np.random.Generator, np.random.RandomState, np.ndarray, str, bytes, int, float, complex, type(None))


class Place:
    """A parameter: every (container, key) that holds its array, and the way from an object to its gradient.

    The way is gone anew each time, for many a backward puts a new dict where the old one was.
    """

    def __init__(self, holders: list[tuple], owner, *way):
        self.holders, self.owner, self.way = holders, owner, way

    @property
    def value(self) -> np.ndarray:
        return get(*self.holders[0])

    @value.setter
    def value(self, array) -> None:
        for container, key in self.holders:
            put(container, key, array)

    @property
    def grad(self) -> np.ndarray | None:
        item = self.owner
        for step in self.way:
            if not _has(item, step):
                return None
            item = get(item, step)
        return item

    def clear(self) -> None:
        """Zeros of the parameter's own dtype; None stays None, for a layer that makes the array itself."""
        grad = self.grad
        if isinstance(grad, np.ndarray) and grad.dtype == self.value.dtype and grad.flags.writeable:
            grad[...] = 0
        elif grad is not None:
            container = self.owner
            for step in self.way[:-1]:
                container = get(container, step)
            put(container, self.way[-1], np.zeros(np.shape(grad), self.value.dtype))


def param_objects(layer) -> dict[str, Place]:
    """Parameters that are objects with value and grad: from named_params() if there is one, else by looking.

    One that says it is frozen has no gradient, and wants none.
    """
    if callable(getattr(layer, "named_params", None)):
        return {name: Place([(p, "value")], p, "grad") for name, p in layer.named_params()
                if not getattr(p, "frozen", False)}
    places = {}
    for path, container, key, array, _ in walk(layer):
        if key == "value" and not isinstance(container, (dict, list)) and hasattr(container, "grad"):
            if all(place.holders[0][0] is not container for place in places.values()):
                places[path.removesuffix(".value")] = Place([(container, key)], container, "grad")
    return places


def find_params(layer, trial: Callable, wanted=None) -> tuple[dict[str, Place], dict[str, list]]:
    """The parameters, and the arrays without a gradient beside them: path and the places that hold them.

    trial(scale) runs forward and backward on scaled inputs. What forward writes is its memory of the
    inputs, not a parameter, even where a gradient has the matching name; so two trials on different
    inputs must leave a parameter as it was.
    """
    before = {path: (container, key, array, array.copy(), parent)
              for path, container, key, array, parent in walk(layer) if array.dtype.kind == "f"}
    trial(1.0)
    trial(0.999)  # near, for somebody's forward may insist on a range
    if isinstance(wanted, dict):
        return {name: Place([(c, k) for _, c, k in _holders(layer, _at(layer, name))], layer, *_steps(layer, gradient))
                for name, gradient in wanted.items()}, {}

    places, unpaired, seen = {}, {}, set()
    for path, (container, key, array, content, parent) in before.items():
        now = get(container, key)
        if now is not array and not (isinstance(now, np.ndarray) and np.array_equal(now, content, equal_nan=True)):
            continue
        if not np.array_equal(array, content, equal_nan=True) or id(now) in seen:
            continue
        gradient = _gradient_beside(container, key, parent, array.shape) or _gradient_apart(layer, path, array.shape)
        holders = _holders(layer, now)
        if gradient is not None and holders:
            place = Place([(c, k) for _, c, k in holders], *gradient)
            seen |= {id(now), id(place.grad)}
            places[_name_of(path for path, _, _ in holders)] = place
        elif holders:
            unpaired[path] = [(c, k) for _, c, k in holders]
    unpaired = {path: places_ for path, places_ in unpaired.items() if id(get(*places_[0])) not in seen}
    if wanted is not None:
        missing = [name for name in wanted if name not in places]
        if missing:
            raise ValueError(f"no gradient found for {', '.join(missing)}: looked for dW, d_W, W_grad, grad_W, W.grad "
                             "and grads['W'] in the place of W; say params={'W': 'path.to.its.gradient'}")
        return {name: places[name] for name in wanted}, {}
    return places, unpaired


def plain_numbers(layer) -> list[str]:
    """Attributes that are Python numbers, not arrays, with a gradient beside them."""
    return [key for item in _items(layer) if not isinstance(item, OPAQUE) for key, child in _entries(item)
            if isinstance(child, (float, np.floating)) and isinstance(key, str)
            and any(_has(item, form.format(key)) for form in GRADIENT_NAMES)]


def copied(layer):
    """A deep copy, or the layer itself where something in it cannot be copied, or is a function that has hold of it."""
    if any(getattr(item, "__closure__", None) for item in _items(layer)):
        return layer
    try:
        return copy.deepcopy(layer)
    except Exception:
        return layer


def snapshot(layer) -> list[tuple]:
    """Every array of a layer: container, key, the array and its content."""
    return [(container, key, array, array.copy()) for _, container, key, array, _ in walk(layer)
            if not isinstance(container, tuple)]


def _items(root, seen=None) -> Iterator:
    """Everything below root."""
    seen = set() if seen is None else seen
    if id(root) not in seen:
        seen.add(id(root))
        yield root
        if not isinstance(root, OPAQUE):
            for _, child in _entries(root):
                yield from _items(child, seen)


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
    named = {k: v for kind in reversed(type(item).__mro__) for k, v in vars(kind).items() if isinstance(v, np.ndarray)}
    slots = [s for kind in type(item).__mro__ for s in np.atleast_1d(getattr(kind, "__slots__", [])).tolist()]
    own = {s: getattr(item, s) for s in slots if hasattr(item, s)} | getattr(item, "__dict__", {})
    return list((named | own).items())  # an array of the class is a parameter like one of the object


def _holders(root, array) -> list[tuple]:
    """Every place that holds this very array: path, container, key. A tuple cannot be written to."""
    return [(path, container, key) for path, container, key, item, _ in walk(root)
            if item is array and not isinstance(container, tuple)]


def _name_of(paths) -> str:
    """The most telling of several paths to one array: W before params.0; what box.value holds is called box."""
    path = min(paths, key=lambda path: (path.split(".")[-1].isdigit(), path.count("."), path))
    head, _, last = path.rpartition(".")
    return head if last in HOLDERS and head else path


def _gradient_beside(container, key, parent, shape) -> tuple | None:
    """The way to the gradient of container[key]: beside it, or in a collection beside it or one step up."""
    if key in HOLDERS and _has(container, "grad"):
        return container, "grad"
    if isinstance(key, str):
        for name in (form.format(key) for form in GRADIENT_NAMES):
            if _has(container, name) and _fits(get(container, name), shape):
                return container, name
    for owner in (container, parent[0] if parent else None):
        for collection in COLLECTIONS:
            grads = get(owner, collection) if owner is not None and _has(owner, collection) else None
            if not isinstance(grads, (dict, list)) or grads is container:
                continue
            for name in (key, f"d{key}"):
                if _has(grads, name) and _fits(get(grads, name), shape):
                    return owner, collection, name
    return None


def _gradient_apart(root, path: str, shape) -> tuple | None:
    """grads.layer1.W for params.layer1.W."""
    steps = path.split(".")
    for i, step in enumerate(steps):
        for collection in COLLECTIONS if step in ("params", "parameters", "weights") else ():
            try:
                way = _steps(root, ".".join([*steps[:i], collection, *steps[i + 1:]]))
            except ValueError:
                continue
            item = root
            for name in way:
                item = get(item, name)
            if _fits(item, shape):
                return root, *way
    return None


def _fits(grad, shape) -> bool:
    return grad is None or np.size(grad) == int(np.prod(shape))


def _has(container, key) -> bool:
    if isinstance(container, (list, tuple)):
        return isinstance(key, int) and key < len(container)
    return key in container if isinstance(container, dict) else isinstance(key, str) and hasattr(container, key)


def _steps(root, path: str) -> list:
    """A dotted path as keys, attributes and indices, each of which must be there."""
    item, steps = root, []
    for step in path.split("."):
        step = int(step) if isinstance(item, (list, tuple)) and step.isdigit() else step
        if not _has(item, step):
            raise ValueError(f"params: there is no {step!r} on the way of {path!r} in {type(root).__name__}")
        steps.append(step)
        item = get(item, step)
    return steps


def _at(root, path: str) -> np.ndarray:
    item = root
    for step in _steps(root, path):
        item = get(item, step)
    if not isinstance(item, np.ndarray) or item.dtype.kind != "f":
        raise ValueError(f"params: {path!r} is not an array of real numbers")
    return item
