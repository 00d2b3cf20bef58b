"""The shuffle that is computed place by place: one-to-one, and with no order more likely than another."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numgpt.text.shuffle import ROUNDS, keys, shuffled
from stages import later


def orders(n: int, count: int) -> np.ndarray:
    """The orders (count, n) of as many seeds."""
    each = np.array([keys(seed, 0) for seed in range(count)])
    return shuffled(np.tile(np.arange(n), count), n, np.repeat(each, n, axis=0)).reshape(count, n)


@given(st.integers(1, 400), st.integers(0, 2 ** 70), st.integers(0, 2 ** 70))
def test_every_number_stands_at_one_place(n, seed, epoch):
    order = shuffled(np.arange(n), n, np.broadcast_to(keys(seed, epoch), (n, ROUNDS)))
    assert order.dtype == np.int64 and np.array_equal(np.sort(order), np.arange(n))


@pytest.mark.parametrize("n", [2, later(3), later(4), 5, later(7), later(12), 50])
def test_over_seeds_every_number_is_equally_likely_at_every_place(n):
    count = 4000
    found = np.zeros((n, n))
    np.add.at(found, (np.arange(n)[None], orders(n, count)), 1)
    deviation = math.sqrt(count / n * (1 - 1 / n))
    assert np.abs(found - count / n).max() < 5 * deviation  # 1 in 700 for 2,500 fair cells


@pytest.mark.parametrize("n", [later(2), 3, later(4), 5])
def test_over_seeds_every_order_is_equally_likely(n):
    count, ways = 12_000, math.factorial(n)
    found = Counter(map(tuple, orders(n, count).tolist()))
    assert len(found) == ways and max(abs(k - count / ways) for k in found.values()) < 5 * math.sqrt(count / ways)


@pytest.mark.parametrize("n", [5, 30, later(300)])
def test_neighbours_stay_neighbours_as_seldom_as_chance_has_it(n):
    count = 3000
    steps = np.diff(orders(n, count), axis=1)
    for distance in (-2, -1, 1, 2):
        expected = count * (n - 1) * (n - abs(distance)) / (n * (n - 1))
        assert abs((steps == distance).sum() - expected) < 5 * math.sqrt(expected)


def test_one_long_order_has_no_drift_and_its_steps_are_of_all_lengths():
    n = 200_003
    order = shuffled(np.arange(n), n, np.broadcast_to(keys(0, 0), (n, ROUNDS)))
    assert abs(np.corrcoef(np.arange(n), order)[0, 1]) < 5 / math.sqrt(n)
    for distance in (1, 2, math.isqrt(n) + 1):  # the last is a row of the table further
        found, _ = np.histogram((order[distance:] - order[:-distance]) % n, bins=100, range=(0, n))
        chi2 = ((found - found.mean()) ** 2 / found.mean()).sum()
        assert abs(chi2 - 99) < 5 * math.sqrt(2 * 99)


def test_a_few_places_of_2_to_the_60_are_had_at_once():
    places = np.arange(2 ** 60 - 1000, 2 ** 60)
    order = shuffled(places, 2 ** 60, np.broadcast_to(keys(1, 2), (1000, ROUNDS)))
    assert len(set(order.tolist())) == 1000 and order.min() >= 0 and order.max() < 2 ** 60
    assert abs(order.mean() / 2 ** 60 - 0.5) < 5 / math.sqrt(12 * 1000)
