"""Log-probabilities of given tokens beside the head's own loss, whose weight they share."""

import numpy as np
import pytest

from numgpt import layers as L
from numgpt.gradcheck import check
from numgpt.layers import ops
from numgpt.verify import cases

B, T, C, V = 3, 7, 11, 13


def head_of(tied=False, bias=True, chunk=4, dtype=np.float64):
    table = L.Param(np.zeros((V, C), dtype)) if tied else None
    return cases.order_one(L.HeadLoss(C, V, tied=table, bias=bias, chunk=chunk, dtype=dtype), np.random.default_rng(0))


def batch(dtype=np.float64):
    rng = np.random.default_rng(1)
    targets = rng.integers(0, V, (B, T))
    targets[0, :4] = targets[1, -2:] = targets[2] = -100  # a prompt, padding, and a row of which nothing counts
    return rng.standard_normal((B, T, C)).astype(dtype), targets


@pytest.mark.parametrize("tied, bias", [(False, True), (True, False), (True, True)])
def test_their_sum_is_the_loss_times_its_count_and_so_is_every_gradient(tied, bias):
    head = head_of(tied, bias)
    layer, (x, targets) = L.HeadLogProbs(head), batch()
    counted = (targets != -100).sum()
    loss, saved = head.forward(x, targets)
    dx = head.backward(-counted, saved)
    grads = [param.grad.copy() for param in head.params()]
    head.zero_grad()
    y, saved = layer.forward(x, targets)
    # 9 counted terms of order one to ten, chunked otherwise: a few dozen roundings of 1e-16
    assert y.sum() == pytest.approx(-loss * counted, rel=1e-14)
    again = layer.backward(np.ones((B, T)), saved)
    assert np.abs(again - dx).max() < 1e-13
    for param, grad in zip(head.params(), grads, strict=True):
        assert np.abs(param.grad - grad).max() < 1e-13 * max(1, np.abs(grad).max())


def test_they_are_log_softmax_at_the_target_and_zero_where_nothing_counts():
    head, (x, targets) = head_of(), batch()
    y = L.HeadLogProbs(head)(x, targets)
    every = ops.log_softmax(head.logits(x))
    for index in np.ndindex(B, T):
        assert y[index] == (0 if targets[index] == -100 else pytest.approx(every[index][targets[index]], rel=1e-13))
    assert not np.signbit(y[targets == -100]).any()


@pytest.mark.parametrize("chunk", [1, 2, 5, 1000])
def test_the_size_of_a_chunk_is_nobody_s_business(chunk):
    (x, targets), dy = batch(), np.random.default_rng(2).standard_normal((B, T))
    found = []
    for head in (head_of(chunk=1000), head_of(chunk=chunk)):
        y, saved = L.HeadLogProbs(head).forward(x, targets)
        found.append([y, L.HeadLogProbs(head).backward(dy, saved), *(param.grad for param in head.params())])
    for one, other in zip(*found, strict=True):
        assert np.abs(one - other).max() < 1e-13  # sums of at most 13 terms of order one, in another order


def test_pieces_add_up_to_the_whole():
    (x, targets), dy = batch(), np.random.default_rng(2).standard_normal((B, T))
    whole, parts = head_of(), head_of()
    y, saved = L.HeadLogProbs(whole).forward(x, targets)
    dx = L.HeadLogProbs(whole).backward(dy, saved)
    for rows in (slice(0, 1), slice(1, 3)):
        y_, saved = L.HeadLogProbs(parts).forward(x[rows], targets[rows])
        assert np.abs(y_ - y[rows]).max() < 1e-14
        assert np.abs(L.HeadLogProbs(parts).backward(dy[rows], saved) - dx[rows]).max() < 1e-14
    for param, other in zip(whole.params(), parts.params(), strict=True):
        assert np.abs(param.grad - other.grad).max() < 1e-13


def test_a_prompt_s_rows_and_padding_s_have_no_part_in_it_whatever_they_hold():
    head, (x, targets) = head_of(), batch()
    dy = np.random.default_rng(2).standard_normal((B, T))
    layer, ignored = L.HeadLogProbs(head), targets == -100
    y, saved = layer.forward(x, targets)
    dx = layer.backward(dy, saved)
    grads = [param.grad.copy() for param in head.params()]
    head.zero_grad()
    x, dy = x.copy(), dy.copy()
    x[ignored] = dy[ignored] = np.nan
    again, saved = layer.forward(x, targets)
    assert np.array_equal(again, y) and np.array_equal(layer.backward(dy, saved), dx) and not dx[ignored].any()
    assert all(np.array_equal(param.grad, grad) for param, grad in zip(head.params(), grads, strict=True))


@pytest.mark.parametrize("dtype, sure", [(np.float32, 40.0), (np.float64, 300.0)])
def test_a_sure_token_s_log_probability_and_gradient_keep_their_digits(dtype, sure):
    # exp(-40) is below float32's eps and exp(-300) far below float64's: 1 - p would be 0
    head = L.HeadLoss(1, 2, dtype=dtype)
    head.weight.value[...] = [[1, 0]]
    x, targets = np.array([[sure]], dtype), np.zeros((1,), int)
    layer = L.HeadLogProbs(head)
    y, saved = layer.forward(x, targets)
    dx = layer.backward(np.ones(1, dtype), saved)
    eps = float(np.finfo(dtype).eps)
    assert y[0] == pytest.approx(-np.exp(-sure), rel=4 * eps) and dx[0, 0] == pytest.approx(np.exp(-sure), rel=4 * eps)


def test_float32_stays_float32_and_the_weight_is_the_head_s_own():
    head, (x, targets) = head_of(dtype=np.float32), batch(np.float32)
    layer = L.HeadLogProbs(head)
    y, saved = layer.forward(x, targets)
    dx = layer.backward(np.ones((B, T), np.float32), saved)
    assert {a.dtype for a in (y, dx, head.weight.grad, head.bias.grad)} == {np.dtype(np.float32)}
    assert layer.params() == head.params() and head.weight.grad.any()


def test_the_gradient_is_forward_s_own_for_every_input_and_parameter():
    for tied in (False, True):
        report = check(L.HeadLogProbs(head_of(tied)), *batch(), method="complex", mode="every")
        assert report.ok and len(report.gradients) == 3 and max(f.error for f in report.gradients) <= 1e-12


def test_nothing_that_counts_and_nothing_at_all():
    head = head_of()
    for x, targets in ((np.ones((2, 3, C)), np.full((2, 3), -100)), (np.ones((0, 3, C)), np.zeros((0, 3), int))):
        y, saved = L.HeadLogProbs(head).forward(x, targets)
        assert not y.any() and y.shape == targets.shape
        dx = L.HeadLogProbs(head).backward(np.ones(y.shape), saved)
        assert not dx.any() and dx.shape == x.shape and not head.weight.grad.any()


@pytest.mark.parametrize("inputs, kind, message", [
    ((np.ones((2, 3, 4)), np.zeros((2, 3), int)), ValueError, "HeadLogProbs wants 11 channels"),
    ((np.ones((2, 3, C)), np.zeros((2, 2), int)), ValueError, r"targets must have the shape \(2, 3\)"),
    ((np.ones((2, 3, C)), np.full((2, 3), V)), ValueError, "target 13 at .* is outside the vocabulary"),
    ((np.ones((2, 3, C)), np.zeros((2, 3))), TypeError, "targets must be integers")])
def test_what_does_not_fit_is_refused_in_a_sentence(inputs, kind, message):
    with pytest.raises(kind, match=message):
        L.HeadLogProbs(head_of()).forward(*inputs)


def test_only_a_head_has_a_weight_to_share():
    with pytest.raises(TypeError, match="wants a model's head, a HeadLoss, whose weight it shares; got Linear"):
        L.HeadLogProbs(L.Linear(C, V))
