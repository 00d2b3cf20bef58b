"""One array brought from another's layout to ours, by its shape alone: what a shape leaves open comes out as several ways.

A way is an order of the letters of its axes (places.py). Which of several is right, is for the caller to say, from
other tensors; never from whether the numbers then look right.
"""

import math
from collections.abc import Mapping

import numpy as np

BATCHED = ("B", "T")


def letters(axes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(letter for axis in axes for letter in axis.split())


def shape_of(axes: tuple[str, ...], sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(math.prod(sizes[letter] for letter in axis.split()) for axis in axes)


def ways(shape: tuple[int, ...], axes: tuple[str, ...], sizes: Mapping[str, int]) -> list[tuple[str, ...]]:
    """The orders of letters in which an array of that shape may hold these axes, ours first."""
    own = letters(axes)
    if len(axes) == 2 and axes[0] != "B":  # a matrix, whose two axes are never flattened into one
        first, second = (letters(axes[i:i + 1]) for i in (0, 1))
        orders = [(first, second), (second, first)] if _moves(own, second + first, sizes) else [(first, second)]
        return [one + other for one, other in orders if _two(shape, *([sizes[letter] for letter in part] for part in (one, other)))]
    found = [own] if grouped(shape, [sizes[letter] for letter in own]) else []
    for order, apart in _others(axes, own):
        numbers, first = [sizes[letter] for letter in order], bare(sizes[letter] for letter in order[:apart])
        if bare(shape)[:len(first)] == first and grouped(shape, numbers) and _moves(own, order, sizes):
            found.append(order)
    return found


def brought(array: np.ndarray, order: tuple[str, ...], axes: tuple[str, ...], sizes: Mapping[str, int]) -> np.ndarray:
    """The array, whose letters come in that order, in our axes."""
    own = letters(axes)
    whole = array.reshape([sizes[letter] for letter in order])
    return whole.transpose([order.index(letter) for letter in own]).reshape(shape_of(axes, sizes))


def grouped(shape: tuple[int, ...], numbers: list[int]) -> bool:
    """Whether each axis is a product of the numbers that follow each other; axes of 1 are free."""
    left = bare(numbers)
    for n in bare(shape):
        product = 1
        while left and product < n:
            product *= left.pop(0)
        if product != n:
            return False
    return not left


def _two(shape: tuple[int, ...], first: list[int], second: list[int]) -> bool:
    return any(grouped(shape[:i], first) and grouped(shape[i:], second) for i in range(len(shape) + 1))


def _others(axes: tuple[str, ...], own: tuple[str, ...]):
    """Orders that others use, and how many of the first letters are never flattened into others there."""
    if axes[:2] == BATCHED:
        yield ("T", "B", *own[2:]), 2
    elif axes[:2] == ("B", "H") and axes[-1] == "D":
        T = axes[2]
        yield ("B", T, "H", "D"), 0
        yield (T, "B", "H", "D"), 2


def _moves(own: tuple[str, ...], order: tuple[str, ...], sizes: Mapping[str, int]) -> bool:
    """Whether that order puts numbers elsewhere: an axis of 1 that moves moves nothing."""
    return [x for x in own if sizes[x] > 1] != [x for x in order if sizes[x] > 1]


def bare(numbers) -> list[int]:
    """Without the ones, which are no axes to speak of."""
    return [n for n in numbers if n != 1]
