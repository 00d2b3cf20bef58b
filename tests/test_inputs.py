"""Bad input: each works, or raises an error that says what was wanted, what came and what to do."""

import numpy as np
import pytest

from numgpt import layers as L
from numgpt.verify import cases

x = np.zeros((2, 3, 5))


@pytest.mark.parametrize("layer, inputs, error, says", [
    (L.Embedding(7, 5), ([[0, 7]],), ValueError, r"token id 7 at \[0, 1\] is outside the vocabulary: ids run from 0 to 6"),
    (L.Embedding(7, 5), ([[0], [-1]],), ValueError, r"token id -1 at \[1, 0\] is outside"),
    (L.Embedding(7, 5), (np.array([[0.0, 1.0]]),), TypeError, r"must be integers; got float64: convert with .astype\(np.int64\)"),
    (L.Embedding(7, 5), (np.array([True]),), TypeError, "must be integers; got bool"),
    (L.LearnedPositions(4, 5), (np.zeros((1, 6, 5)),), ValueError, "6 tokens does not fit into a context of 4: cut it"),
    (L.LearnedPositions(4, 5), (np.zeros(5),), ValueError, r"positions want \(..., T, C\); got an array of shape \(5,\)"),
    (L.SinusoidalPositions(2, 5), (x,), ValueError, "3 tokens does not fit into a context of 2"),
    (L.Linear(4, 2), (x,), ValueError, r"Linear wants 4 channels in the last axis; got an array of shape \(2, 3, 5\)"),
    (L.Linear(5, 2), (np.zeros((2, 5), int),), TypeError, "floating-point numbers; got int64: convert"),
    (L.Linear(5, 2), (np.float64(3.0),), ValueError, r"got an array of shape \(\)"),
    (L.LayerNorm(4), (x,), ValueError, "LayerNorm wants 4 channels"),
    (L.LayerNorm(4), (np.float64(0.0),), ValueError, "LayerNorm wants 4 channels"),
    (L.GELU(), (np.arange(3),), TypeError, "GELU wants real or complex floating-point numbers; got int64"),
    (L.SelfAttention(4, 2), (x,), ValueError, "SelfAttention wants 4 channels"),
    (L.SelfAttention(5, 1), (x[0],), ValueError, r"wants \(B, T, C\); got an array of shape \(3, 5\)"),
    (L.CausalAttention(scale=1.0), (x, x, x), ValueError, r"wants q \(B, H, T, D\)"),
    (L.CausalAttention(scale=1.0), (np.zeros((1, 1, 3, 2)), *2 * [np.zeros((1, 1, 2, 2))]), ValueError, "with S >= T"),
    (L.PreNormBlock(4, 2), (x,), ValueError, "wants 4 channels"),
    (L.SoftmaxCrossEntropy(), (x, np.zeros((2, 4), int)), ValueError, r"targets must have the shape \(2, 3\).*; got \(2, 4\)"),
    (L.SoftmaxCrossEntropy(), (x, np.full((2, 3), 5)), ValueError, r"target 5 at \[0, 0\] is outside .* and -100 marks"),
    (L.SoftmaxCrossEntropy(), (x, np.full((2, 3), -1)), ValueError, r"target -1 at \[0, 0\]"),
    (L.SoftmaxCrossEntropy(), (x, np.zeros((2, 3))), TypeError, "targets must be integers; got float64"),
    (L.SoftmaxCrossEntropy(), (np.float64(1.0), np.array(0)), ValueError, r"logits must be \(..., V\); got a single number"),
    (L.HeadLoss(4, 7), (x, np.zeros((2, 3), int)), ValueError, "HeadLoss wants 4 channels"),
], ids=lambda item: type(item).__name__ if isinstance(item, L.Layer) else None)
def test_what_does_not_fit_is_refused_with_a_sentence(layer, inputs, error, says):
    with pytest.raises(error, match=says):
        layer.forward(*inputs)


@pytest.mark.parametrize("make, says", [
    (lambda: L.SelfAttention(48, 5), "n_embd 48 does not split into n_head 5: choose a divisor of 48, or say head_size"),
    (lambda: L.CausalAttention(scale=1.0, window=0), "a window, which holds the position itself, must be at least 1; got 0"),
    (lambda: L.CausalAttention(scale=1.0, tile=-1), "tile must be at least 1; got -1"),
    (lambda: L.CausalAttention(scale=float("nan")), "scale must be a finite number; got nan"),
    (lambda: L.HeadLoss(4, 7, chunk=0), "chunk must be at least 1; got 0"),
    (lambda: L.SelfAttention(4, 0), "n_head must be at least 1; got 0"),
    (lambda: L.SelfAttention(4, 2, head_size=0), "head_size must be at least 1"),
    (lambda: L.Linear(4, -1), "a layer's size must be at least 1; got -1"),
    (lambda: L.Dropout(1.0), "a dropout must be at least 0 and below 1; got 1.0"),
    (lambda: L.Dropout(-0.1), "got -0.1"),
    (lambda: L.LayerNorm(4, eps=0.0), "eps must be above 0"),
    (lambda: L.FeedForward(4, activation="tanh"), "no activation 'tanh': choose one of gelu_tanh, gelu, relu"),
    (lambda: L.HeadLoss(4, 7, tied=L.Param(np.zeros((4, 7)))), r"embedding.table, of shape \(7, 4\); got Param\(4, 7\)"),
])
def test_what_cannot_be_built_is_refused_with_a_sentence(make, says):
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize("make, says", [
    (lambda: L.Linear(4, 2, dtype=int), "parameters are real or complex floating-point numbers; int64 would cut them to zero"),
    (lambda: L.Linear(4, 2).astype(int), "would cut them to zero"),
    (lambda: L.CausalAttention(scale=1.0, window=1.5), "must be a whole number; got 1.5"),
    (lambda: L.Dropout(0.5)(x, rng=0), r"rng must be a generator, such as np.random.default_rng\(0\), or None; got int"),
    (lambda: L.SoftmaxCrossEntropy()(x, np.zeros((2, 3), int), count=6.5), "count must be a whole number; got 6.5"),
])
def test_what_is_of_the_wrong_kind_is_refused_with_a_sentence(make, says):
    with pytest.raises(TypeError, match=says):
        make()


@pytest.mark.parametrize("name", [name for name in cases.names() if cases.make(name).backward is None])
def test_a_gradient_of_another_shape_is_refused_before_anything_is_added(name):
    case = cases.make(name)
    y, saved = case.target.forward(*case.inputs, **case.options)
    for dy in (np.ones((1, *np.shape(y)[1:])), np.ones((*np.shape(y)[:-1], 1))) if np.ndim(y) else (np.ones(3),):
        with pytest.raises(ValueError, match="wants the gradient of its output, of shape|a loss is one number"):
            case.target.backward(dy, saved)
    if isinstance(case.target, (L.Linear, L.LayerNorm, L.Embedding, L.LearnedPositions, L.HeadLoss)):
        assert not any(param.grad.any() for param in case.target.params())


def test_a_store_made_for_others_is_refused_and_left_as_it_was():
    layer = L.SelfAttention(4, 2, rng=0)
    for kv in (L.KV(3, 2, 8, 2, np.float64), L.KV(2, 2, 8, 2, np.float32)):
        with pytest.raises(ValueError, match=r"the decode store was made for keys \(B, H, T, D\)"):
            layer.forward(np.zeros((2, 3, 4)), kv=kv)
        assert kv.length == 0


def test_there_is_no_backward_through_a_store():
    layer, kv = L.SelfAttention(4, 2, rng=0), L.KV(2, 2, 8, 2, np.float64)
    layer.forward(np.zeros((2, 3, 4)), kv=kv)
    y, saved = layer.forward(np.zeros((2, 1, 4)), kv=kv)
    with pytest.raises(ValueError, match="no backward through a decode store"):
        layer.backward(y, saved)


def test_an_ignored_row_that_is_not_finite_has_no_gradient():
    logits = np.array([[1.0, 2.0], [np.nan, np.inf]])
    loss, saved = L.SoftmaxCrossEntropy().forward(logits, np.array([0, -100]))
    assert np.isfinite(loss) and not L.SoftmaxCrossEntropy().backward(1.0, saved)[1].any()


def test_a_count_below_the_pieces_own_is_refused():
    with pytest.raises(ValueError, match="a piece with 6; got 5"):
        L.SoftmaxCrossEntropy().forward(x, np.zeros((2, 3), int), count=5)


def test_lists_and_single_ids_are_taken_as_arrays():
    layer = L.Embedding(7, 5, rng=0)
    assert np.array_equal(layer([[1, 2]]), layer(np.array([[1, 2]])))
    assert layer(3).shape == (5,)
    assert L.Linear(2, 3, rng=0)([[1.0, 2.0]]).shape == (1, 3)


@pytest.mark.parametrize("name", L.ACTIVATIONS)
def test_activations_at_infinity_and_nan(name):
    layer = L.ACTIVATIONS[name]()
    for dtype in (np.float16, np.float32, np.float64):
        y, saved = layer.forward(np.array([-np.inf, np.inf, np.nan, -6e4, 6e4], dtype))
        assert y[0] == 0 and y[1] == np.inf and np.isnan(y[2]) and y[3] == 0 and y[4] == dtype(6e4)
        dx = layer.backward(np.ones(5, dtype), saved)
        assert dx[0] == 0 and dx[1] == 1 and dx[3] == 0 and dx[4] == 1


@pytest.mark.parametrize("name", L.ACTIVATIONS)
def test_activations_take_complex_numbers_far_out(name):
    y = L.ACTIVATIONS[name]()(np.array([-30 + 1e-30j, 30 + 1e-30j]))
    assert abs(y[0]) < 1e-6 and np.isfinite(y).all() and abs(y[1].imag / 1e-30 - 1) < 1e-9


def test_no_target_that_counts_gives_zero_loss_and_zero_gradients():
    targets = np.full((2, 3), -100)
    for layer, inputs in ((L.SoftmaxCrossEntropy(), x + 1.0), (L.HeadLoss(5, 7, rng=0), x + 1.0)):
        loss, saved = layer.forward(inputs, targets)
        assert loss == 0 and not layer.backward(1.0, saved).any()
        assert not any(param.grad.any() for param in layer.params())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_huge_logits_give_a_finite_loss_and_gradient(dtype):
    logits = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], dtype)
    loss, saved = L.SoftmaxCrossEntropy().forward(logits, np.array([0, 0]))
    assert loss == dtype(1e4)  # the mean of 0 and 2e4
    dlogits = L.SoftmaxCrossEntropy().backward(1.0, saved)
    assert np.array_equal(dlogits, np.array([[0, 0, 0], [-0.5, 0.5, 0]], dtype))


def test_nan_stays_nan():
    a = np.array([[1.0, np.nan, 2.0]])
    for f in (L.LayerNorm(3), lambda a: L.SoftmaxCrossEntropy()(a, np.array([0]))):
        assert np.isnan(f(a)).any()
