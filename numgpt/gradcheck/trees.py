"""Nested tuples, lists and dicts of arrays, taken apart into named leaves and put together again."""

from collections.abc import Iterator

import numpy as np


def is_branch(tree) -> bool:
    """A list of arrays is a tree; a list of numbers is an array."""
    if isinstance(tree, list):
        return bool(tree) and all(isinstance(item, np.ndarray) or is_branch(item) for item in tree)
    return isinstance(tree, (tuple, dict))


def leaves(tree, name: str) -> Iterator[tuple[str, object]]:
    if not is_branch(tree):
        yield name, tree
    else:
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for key, item in items:
            yield from leaves(item, f"{name}[{key!r}]")


def rebuild(tree, name: str, values: dict[str, object]):
    """The same tree, with the leaves found in values put in place."""
    if not is_branch(tree):
        return values.get(name, tree)
    if isinstance(tree, dict):
        return {key: rebuild(item, f"{name}[{key!r}]", values) for key, item in tree.items()}
    items = [rebuild(item, f"{name}[{i!r}]", values) for i, item in enumerate(tree)]
    if isinstance(tree, list):
        return items
    return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)


def is_real(leaf) -> bool:
    """Whether a leaf is made of real floating-point numbers: what can be differentiated."""
    return isinstance(leaf, (float, np.ndarray, np.floating)) and np.asarray(leaf).dtype.kind == "f"


def is_number(leaf) -> bool:
    """The same, or the complex numbers of a complex step."""
    return is_real(leaf) or isinstance(leaf, (complex, np.ndarray, np.complexfloating)) and np.asarray(leaf).dtype.kind == "c"
