"""A gradient that begins anew is 0, although nobody has written it; and a layer finds what is inside it."""

import copy
import pickle

import numpy as np
import pytest

from numgpt.layers.param import FleetingParam, Layer, Param

A, B = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([[1.0, -1.0, 0.5, 2.0], [0.0, 3.0, 1.0, -2.0]])


def of_place() -> Param:
    """A Param whose gradient holds what was left there."""
    param = Param(np.zeros((3, 4)), np.full((3, 4), 7.0))
    param.begin_anew()
    return param


MAKERS = [of_place, lambda: FleetingParam(np.zeros((3, 4)))]


@pytest.mark.parametrize("make", MAKERS, ids=["in a place of its own", "fleeting"])
def test_a_gradient_that_begins_anew_is_0_when_it_is_asked_for(make):
    param = make()
    assert not param.grad.any() and param.grad.shape == (3, 4)
    param.grad += 1
    assert (param.grad == 1).all()


@pytest.mark.parametrize("make", MAKERS, ids=["in a place of its own", "fleeting"])
def test_the_first_product_takes_the_place_of_what_was_there_and_the_next_is_added(make):
    param = make()
    param.add_product(A, B)
    assert np.array_equal(param.grad, A @ B)
    param.add_product(A, B)
    assert np.array_equal(param.grad, A @ B + A @ B)
    param.begin_anew()
    param.grad += 1
    param.add_product(A, B)
    assert np.array_equal(param.grad, 1 + A @ B)


def test_it_stays_in_its_place_and_a_fleeting_one_has_none():
    place = np.full((3, 4), 7.0)
    param = Param(np.zeros((3, 4)), place)
    param.begin_anew()
    param.add_product(A, B)
    assert param.grad is place and np.array_equal(place, A @ B)
    fleeting = FleetingParam(np.zeros((3, 4)))
    fleeting.add_product(A, B)
    taken = fleeting.grad
    fleeting.begin_anew()
    assert not fleeting.grad.any() and np.array_equal(taken, A @ B)


def test_a_product_is_of_the_parameter_s_type_whatever_its_factors_are():
    param = FleetingParam(np.zeros((3, 4), np.float32))
    param.add_product(A, B)
    assert param.grad.dtype == np.float32


@pytest.mark.parametrize("twin", [copy.deepcopy, copy.copy, lambda param: pickle.loads(pickle.dumps(param))])
def test_copies_begin_anew_where_it_does(twin):
    param = of_place()
    assert not twin(param).grad.any()
    param.grad[...] = 3
    assert (twin(param).grad == 3).all()


class Holder(Layer):
    """What it is given is its parts, in that order."""

    def __init__(self, **parts):
        vars(self).update(parts)


def test_what_is_inside_a_layer_is_met_once_under_the_first_of_its_names_and_circles_end():
    a, b, c, d = (Param(np.zeros(i)) for i in range(4))
    inner = Holder(weight=b, size=3, name="inner", array=np.zeros(2))
    outer = Holder(first=a, list=[inner, {"again": a, 7: c}], nothing=None, pair=(inner, Holder(weight=d)), last=inner)
    inner.outer = outer
    outer.list.append(outer.list)
    assert list(outer.named_params()) == [("first", a), ("list.0.weight", b), ("list.1.7", c), ("pair.1.weight", d)]
    assert list(outer.named_layers()) == [("list.0", inner), ("pair.1", outer.pair[1])]
    # from inside the circle, too: what was looked through is met first where the walk came by
    assert [name for name, _ in inner.named_params()] == ["weight", "outer.first", "outer.list.1.7", "outer.pair.1.weight"]
    assert [layer for _, layer in inner.named_layers()] == [outer, outer.pair[1]]
