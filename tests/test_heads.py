"""Heads on the last token, or at each position: what they read, and what they leave alone."""

import math

import numpy as np
import pytest

from numgpt import layers as L
from numgpt.gradcheck import check
from numgpt.verify import cases, mutants

B, T, C, K = 3, 7, 11, 5


def drawn(layer, dtype=np.float64):
    return cases.order_one(layer, np.random.default_rng(0)).astype(dtype)


def x(*shape, dtype=np.float64):
    return np.random.default_rng(1).standard_normal(shape).astype(dtype)


HEADS = [(L.LastToken(), (B,)), (L.ClassHead(C, K), (B,)), (L.SimilarityHead(C, K), (B, 2)), (L.ScoreHead(C), (B, 4))]


@pytest.mark.parametrize("layer, lead", HEADS, ids=lambda item: type(item).__name__)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_padding_on_the_right_does_not_change_a_bit_and_gets_no_gradient(layer, lead, dtype):
    layer, last = drawn(layer, dtype), np.arange(math.prod(lead)).reshape(lead) % T
    short = x(*lead, T, C, dtype=dtype)
    long = np.concatenate([short, np.full((*lead, 6, C), np.nan, dtype)], -2)  # not even what is no number
    y, saved = layer.forward(short, last)
    again, saved_long = layer.forward(long, last)
    assert np.array_equal(y, again) and y.dtype == dtype
    dy = x(*y.shape, dtype=dtype)
    dx, dlong = layer.backward(dy, saved), layer.backward(dy, saved_long)
    assert np.array_equal(dlong[..., :T, :], dx) and not dlong[..., T:, :].any() and dx.dtype == dtype
    for index in np.ndindex(lead):  # and what stands after the last token in a row that is not full
        assert dx[index][last[index]].any() and not np.delete(dx[index], last[index], 0).any()


def test_a_sequence_s_class_does_not_hang_on_those_beside_it_but_for_rounding():
    layer, last, texts = drawn(L.ClassHead(C, K)), np.array([6, 0, 3]), x(B, T, C)
    together = layer(texts, last)
    for i in range(B):  # a product of one row is summed in another order than one of three: C + 1 roundings of order one
        assert np.abs(layer(texts[i:i + 1], last[i:i + 1])[0] - together[i]).max() < 12 * 2.3e-16 * 10


def test_both_orders_count_alike_in_a_similarity():
    layer, last, pairs = drawn(L.SimilarityHead(C, K)), np.array([[6, 2], [0, 3], [1, 1]]), x(B, 2, T, C)
    y, saved = layer.forward(pairs, last)
    assert np.array_equal(layer(pairs[:, ::-1], last[:, ::-1]), y)
    w, b = layer.linear.weight.value, layer.linear.bias.value
    expected = np.stack([(pairs[i, 0, last[i, 0]] + pairs[i, 1, last[i, 1]]) @ w + b for i in range(B)])
    assert np.allclose(y, expected, rtol=0, atol=1e-14)
    dx = layer.backward(x(B, K), saved)
    for i in range(B):
        assert np.array_equal(dx[i, 0, last[i, 0]], dx[i, 1, last[i, 1]])


def test_a_missing_choice_has_no_chance_no_gradient_and_changes_no_other():
    layer, loss = drawn(L.ScoreHead(C)), L.SoftmaxCrossEntropy()
    choices, last, answers = x(B, 4, T, C), np.array([[6, 5, 2, 1], [0, 3, 4, -1], [1, 2, -1, -1]]), np.array([3, 2, 0])
    scores, saved = layer.forward(choices, last)
    assert np.array_equal(scores == -np.inf, last < 0)
    value, saved_loss = loss.forward(scores, answers)
    dscores = loss.backward(1.0, saved_loss)
    assert not dscores[last < 0].any()
    # The same from the choices that there are alone.
    alone = [loss(scores[i, :n][None], answers[i:i + 1]) for i, n in enumerate((4, 3, 2))]
    assert value == pytest.approx(np.mean(alone), rel=1e-15)
    dscores[last < 0] = np.nan  # whatever comes: what is not there has no gradient
    dx = layer.backward(dscores, saved)
    assert np.isfinite(dx).all() and not dx[last < 0].any() and np.isfinite(layer.linear.weight.grad).all()


def test_the_right_answer_s_gradient_is_found_through_scores_of_minus_infinity():
    inputs, options = cases.make("score-head-choices", seed=4).arguments()
    assert (inputs[2] == -1).sum() == 1
    report = check(*inputs, method="complex", mode="every", **options)
    assert report.ok and max(f.error for f in report.gradients) <= 1e-12


@pytest.mark.parametrize("layer, inputs", [
    (L.LastToken(), (x(0, T, C), np.zeros(0, int))), (L.LastToken(), (x(2, 0, C), np.array([-1, -1]))),
    (L.ClassHead(C, K), (x(0, T, C), np.zeros(0, int))), (L.SimilarityHead(C, K), (x(0, 2, T, C), np.zeros((0, 2), int))),
    (L.ScoreHead(C), (x(0, 4, T, C), np.zeros((0, 4), int))), (L.ScoreHead(C), (x(2, 0, C), np.array([-1, -1]))),
    (L.ValueHead(C), (x(0, T, C),)), (L.ValueHead(C), (x(2, 0, C),))], ids=lambda item: type(item).__name__)
def test_of_nothing_there_are_outputs_and_gradients_too(layer, inputs):
    y, saved = layer.forward(*inputs)
    assert layer.backward(np.ones(y.shape), saved).shape == inputs[0].shape
    assert not any(param.grad[()].any() for name, param in layer.named_params() if name.endswith("weight"))


def test_a_value_stands_at_every_position():
    layer, texts = drawn(L.ValueHead(C)), x(B, T, C)
    y, saved = layer.forward(texts)
    w, b = layer.linear.weight.value[:, 0], layer.linear.bias.value[0]
    assert y.shape == (B, T) and np.allclose(y, (texts * w).sum(-1) + b, rtol=0, atol=1e-14)
    dy = x(B, T)
    assert np.array_equal(layer.backward(dy, saved), dy[..., None] * w)
    assert layer.linear.bias.grad[0] == pytest.approx(dy.sum(), rel=1e-13)


def test_dropout_is_on_the_row_that_is_read_and_only_while_training():
    layer, last, texts = drawn(L.ClassHead(C, K, dropout=0.5)), np.array([6, 0, 3]), x(B, T, C)
    assert np.array_equal(layer(texts, last), layer(texts, last))
    kept = np.random.default_rng(3).random((B, C), np.float32) >= 0.5
    expected = layer.linear(texts[np.arange(B), last] * kept * 2)
    assert np.array_equal(layer(texts, last, rng=np.random.default_rng(3)), expected)


@pytest.mark.parametrize("layer, inputs, kind, message", [
    (L.LastToken(), (x(T), np.array(0)), ValueError, r"LastToken wants x \(\.\.\., T, C\); got an array of shape \(7,\)"),
    (L.LastToken(), (x(B, T, C), np.zeros(2, int)), ValueError, r"last must have the shape \(3,\), .*; got \(2,\)"),
    (L.LastToken(), (x(B, T, C), np.zeros(3)), TypeError, "last must be integers; got float64"),
    (L.LastToken(), (x(B, T, C), np.array([0, 7, 1])), ValueError, r"last 7 at \[1\] is outside .* places run from 0 to 6"),
    (L.LastToken(), (x(B, T, C), np.array([0, 6, -2])), ValueError, r"last -2 at \[2\] .* -1 marks a sequence"),
    (L.LastToken(), (np.ones((B, T, C), int), np.zeros(3, int)), TypeError, "LastToken wants real or complex"),
    (L.ClassHead(4, 2), (x(B, T, C), np.zeros(3, int)), ValueError, "ClassHead wants 4 channels"),
    (L.SimilarityHead(C, 2), (x(B, 3, T, C), np.zeros((B, 3), int)), ValueError, r"\(B, 2, T, C\), both orders"),
    (L.ScoreHead(4), (x(B, T, C), np.zeros(3, int)), ValueError, "ScoreHead wants 4 channels"),
    (L.ValueHead(4), (x(B, T, C),), ValueError, "ValueHead wants 4 channels")])
def test_what_does_not_fit_is_refused_in_a_sentence(layer, inputs, kind, message):
    with pytest.raises(kind, match=message):
        layer.forward(*inputs)


# -- mistakes that a gradient check cannot see, for forward has them too


def test_reading_the_padding_s_row_is_noticed_by_padding():
    layer, last, texts = L.LastToken(), np.array([4, 0, 3]), x(B, T, C)
    healthy = layer(texts, last)
    with mutants.apply("last-token-padding", variant=1):
        assert check(layer, texts, last)
        assert np.array_equal(layer(texts, last), texts[:, -1])
        assert not np.array_equal(layer(texts, last), healthy)


def test_a_missing_choice_that_scores_zero_is_noticed_by_the_others_chances():
    layer, loss = drawn(L.ScoreHead(C)), L.SoftmaxCrossEntropy()
    choices, last = x(B, 4, T, C), np.array([[6, 5, 2, 1], [0, 3, 4, -1], [1, 2, -1, -1]])
    healthy = loss(layer(choices, last), np.zeros(B, int))
    with mutants.apply("choice-missing-scores"):
        scores = layer(choices, last)
        assert not scores[last < 0].any()
        assert loss(scores, np.zeros(B, int)) > healthy  # chance goes to what nobody can choose
