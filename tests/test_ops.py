"""The functions that layers are made of."""

import math
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numgpt.layers import GELUTanh, SoftmaxCrossEntropy, ops
from numgpt.layers.blocks import NUMBERS, add_product, blocks, row_blocks

EPS = np.finfo(np.float64).eps


def series_erf(x: float) -> Fraction:
    """2/sqrt(pi) sum (-1)^n x^(2n+1) / (n! (2n+1)), in exact arithmetic but for sqrt(pi), which has 60 digits."""
    root_pi = Fraction("1.77245385090551602729816748334114518279754945612238712821380")
    x, term, total = Fraction(x), Fraction(x), Fraction(0)
    for n in range(400):
        total += term / (2 * n + 1)
        term *= -x * x / (n + 1)
        if abs(term) < Fraction(1, 10 ** 45):
            break
    return 2 / root_pi * total


@pytest.mark.parametrize("f, truth", [
    (ops.erf, series_erf),
    (ops.erfc, lambda x: 1 - series_erf(x)),
])
def test_erf_and_erfc_are_within_two_ulp(f, truth):
    x = np.concatenate([np.random.default_rng(0).uniform(-5, 5, 50), np.linspace(-1 / 64, 1 / 64, 10), [1e-9, 0.4921875]])
    for value, got in zip(x.tolist(), f(x).tolist()):
        exact = truth(value)
        assert abs(Fraction(got) - exact) <= 2 * Fraction(math.ulp(float(exact))), value


def test_erfc_far_out_against_the_standard_library():
    # math.erfc is good to 2.5 ulp there, ours to 2.
    x = np.linspace(5, 26.5, 2000)
    exact = np.array([math.erfc(v) for v in x])
    assert (np.abs(ops.erfc(x) - exact) <= 4.5 * np.spacing(exact)).all()


def test_erf_at_the_edges():
    x = np.array([0.0, -0.0, np.inf, -np.inf, 1e300, -1e300, 5e-324])
    assert np.array_equal(ops.erf(x), [0, 0, 1, -1, 1, -1, 5e-324])
    assert np.signbit(ops.erf(-0.0)) and np.isnan(ops.erf(np.nan)) and np.isnan(ops.erfc(np.nan))
    assert np.array_equal(ops.erfc(x), [1, 1, 0, 2, 0, 2, 1])
    assert np.array_equal(ops.normal_cdf(x), [0.5, 0.5, 1, 0, 1, 0, 0.5])
    assert ops.erf(np.zeros((0, 3))).shape == (0, 3) and ops.erf(np.float32(0.5)).dtype == np.float32


def test_erf_takes_complex_numbers_for_a_complex_step_alone():
    assert ops.erf(0.5 + 1e-30j).imag / 1e-30 == pytest.approx(2 / math.sqrt(math.pi) * math.exp(-0.25), rel=1e-15)
    with pytest.raises(ValueError, match="complex step alone, with imaginary parts below 1e-8; got 0.5"):
        ops.erf(1 + 0.5j)


def test_normal_cdf_keeps_its_digits_on_the_left():
    # Phi(-20), to 17 digits
    assert ops.normal_cdf(-20.0) == pytest.approx(2.7536241186062337e-89, rel=1e-15)


def test_softmax_of_a_masked_row_is_zero():
    x = np.array([[-np.inf, -np.inf], [0.0, -np.inf]])
    assert np.array_equal(ops.softmax(x), [[0, 0], [1, 0]])
    assert np.array_equal(ops.logsumexp(x), [-np.inf, 0])
    assert np.array_equal(ops.log_softmax(x), [[-np.inf, -np.inf], [0, -np.inf]])
    assert not ops.softmax_backward(np.ones((2, 2)), ops.softmax(x))[0].any()
    assert np.array_equal(ops.logsumexp_backward(np.ones(2), x), [[0, 0], [1, 0]])
    assert np.array_equal(ops.softmax(x.astype(complex)), ops.softmax(x))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_rows_whose_exp_overflows_or_vanishes_are_shifted_and_change_no_other(dtype):
    plain = np.random.default_rng(0).integers(-8, 8, (3, 7)).astype(dtype)
    far = plain + np.array([[0], [1024], [-1024]], plain.real.dtype)  # whole numbers: the shift does not round
    p, q = ops.softmax(far), ops.softmax(plain)
    assert np.array_equal(p[0], q[0])
    assert np.abs(p / q - 1).max() <= 8 * np.finfo(dtype).eps


@given(st.integers(0, 2), st.integers(0, 100))
def test_softmax_along_any_axis(axis, seed):
    x = 5 * np.random.default_rng(seed).standard_normal((3, 4, 5))
    p = ops.softmax(x, axis)
    assert np.allclose(p.sum(axis), 1, rtol=0, atol=4 * EPS)
    # x - max is rounded to eps |x|, in both
    assert np.allclose(np.log(p), ops.log_softmax(x, axis), rtol=0, atol=8 * EPS * abs(x).max())
    assert np.allclose(ops.logsumexp(x, axis), np.log(np.exp(x).sum(axis)), rtol=4 * EPS, atol=16 * EPS)
    assert ops.logsumexp(x, axis, keepdims=True).shape == p.sum(axis, keepdims=True).shape


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_large_margin_keeps_its_digits(dtype):
    logits = np.array([[20.0, 0.0]], dtype)
    truth = math.log1p(math.exp(-20))
    eps = np.finfo(dtype).eps
    assert abs(float(ops.log_softmax(logits)[0, 0]) + truth) <= 2 * eps * truth
    loss, saved = SoftmaxCrossEntropy().forward(logits, np.array([0]))
    assert abs(float(loss) - truth) <= 2 * eps * truth
    gradient = float(SoftmaxCrossEntropy().backward(1.0, saved)[0, 0])
    assert abs(gradient + 1 / (1 + math.exp(20))) <= 4 * eps * truth


def test_sigmoid_does_not_overflow_and_is_symmetric():
    with np.errstate(all="raise", under="ignore"):
        z = np.array([-1e5, -800.0, 0.0, 800.0, 1e5])
        assert np.array_equal(ops.sigmoid(z), [0, 0, 0.5, 1, 1])
    z = np.linspace(-30, 30, 101)
    assert np.allclose(ops.sigmoid(z) + ops.sigmoid(-z), 1, rtol=0, atol=2 * EPS)


def test_rows_adds_all_axes_but_the_last():
    a = np.random.default_rng(0).standard_normal((3, 4, 5))
    assert np.allclose(ops.rows(a), a.sum((0, 1)), rtol=0, atol=1e-14)


@given(st.integers(0, 600_000), st.integers(1, 100_000))
def test_blocks_are_alike_and_cover_every_row_once_in_order(n_rows, n_cols):
    parts = list(blocks(n_rows, n_cols))
    sizes = [part.stop - part.start for part in parts]
    assert sum(sizes) == n_rows and all(a.stop == b.start for a, b in zip(parts, parts[1:])) and (not parts or parts[0].start == 0)
    assert max(sizes, default=1) - min(sizes, default=1) <= 1 and min(sizes, default=1) > 0
    if n_rows * n_cols >= NUMBERS:
        assert (min(sizes) + 1) * n_cols > NUMBERS and (max(sizes) - 1) * n_cols < 2 * max(NUMBERS, n_cols)


def test_blockwise_formulas_equal_whole_ones_to_the_bit():
    x = np.random.default_rng(0).standard_normal((3, NUMBERS // 2, 1))
    total = np.zeros_like(x)
    for x_, total_ in row_blocks(x, total):
        total_[...] = 2 * x_
    assert np.array_equal(total, 2 * x)
    y, slope = GELUTanh().forward(x.astype(np.float32))
    parts = [GELUTanh().forward(part.astype(np.float32)) for part in x.reshape(6, -1)]
    assert np.array_equal(y.reshape(6, -1), [part for part, _ in parts]) and np.array_equal(slope.reshape(6, -1), [part for _, part in parts])


def test_a_product_is_added_slab_by_slab_and_never_exists_whole():
    rng = np.random.default_rng(0)
    total, a, b = rng.standard_normal((3001, 997)), rng.standard_normal((3001, 3)), rng.standard_normal((3, 997))
    whole = total + a @ b  # 3 million numbers, three slabs
    tracemalloc.start()
    add_product(total, a, b)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.abs(total - whole).max() <= 4 * EPS * np.abs(whole).max()
    assert peak < 0.4 * total.nbytes
