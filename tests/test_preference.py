"""The losses of preferences: what they are by hand, where they begin, and what is held constant."""

import math

import numpy as np
import pytest

from numgpt import layers as L
from numgpt.gradcheck import check
from numgpt.layers import ops
from numgpt.verify import mutants

N = 17


def draw(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def log_sigmoid(x):
    """Of one number, by Python's own functions."""
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


# -- the function they are made of


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softplus_keeps_its_digits_on_both_sides(dtype):
    x = np.array([-1e4, -700, -80, -1, -1e-9, 0, 1e-9, 1, 80, 700, 1e4], dtype)
    with np.errstate(over="raise", invalid="raise"):
        y, slope = ops.softplus(x), ops.softplus_backward(np.ones_like(x), x)
    assert y.dtype == slope.dtype == dtype
    assert y == pytest.approx([-log_sigmoid(-one) for one in x.tolist()], rel=4 * float(np.finfo(dtype).eps), abs=1e-45)
    # by exp of a logarithm of up to 700, or of 80 in float32, whose rounding is that much larger
    rel = 1e-4 if dtype == np.float32 else 1e-12
    assert slope == pytest.approx([math.exp(log_sigmoid(one)) for one in x.tolist()], rel=rel)


def test_softplus_has_the_sigmoid_for_its_slope_by_complex_step():
    x = np.array([-1e4, -700, -80, -1, 0, 1, 80, 700, 1e4])
    measured = ops.softplus(x + 1e-200j).imag / 1e-200
    assert np.allclose(measured, ops.sigmoid(x), rtol=1e-13, atol=1e-100)


# -- pairs


def test_pairs_are_the_mean_of_minus_log_sigmoid():
    chosen, rejected = 3 * draw(N), 3 * draw(N, seed=1)
    expected = -sum(log_sigmoid(a - b) for a, b in zip(chosen.tolist(), rejected.tolist())) / N
    assert L.LogisticPairs()(chosen, rejected) == pytest.approx(expected, rel=1e-14)


def test_equal_scores_cost_log_2_and_are_pulled_apart():
    scores = draw(N)
    loss, saved = L.LogisticPairs().forward(scores, scores)
    dchosen, drejected = L.LogisticPairs().backward(1.0, saved)
    assert loss == pytest.approx(math.log(2), rel=1e-15)
    assert dchosen == pytest.approx(np.full(N, -1 / (2 * N)), rel=1e-15) and np.array_equal(drejected, -dchosen)


def test_a_step_against_the_gradient_raises_what_was_chosen():
    chosen, rejected = draw(N), draw(N, seed=1)
    _, saved = L.LogisticPairs().forward(chosen, rejected)
    dchosen, drejected = L.LogisticPairs().backward(1.0, saved)
    assert (dchosen < 0).all() and (drejected > 0).all()


# -- DPO


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_where_the_policy_is_the_reference_the_loss_is_log_2_and_the_gradient_half_of_beta(beta):
    logp, loss = draw(N, 2) - 30, L.DPO(beta)
    value, saved = loss.forward(logp, reference=logp.copy())
    assert value == pytest.approx(math.log(2), rel=1e-15)
    assert loss.backward(1.0, saved) == pytest.approx(np.tile([-beta / 2 / N, beta / 2 / N], (N, 1)), rel=1e-15)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_it_is_the_mean_of_what_the_paper_says_pair_by_pair(smoothing):
    logp, reference, beta = 5 * draw(N, 2) - 30, 5 * draw(N, 2, seed=1) - 30, 0.3
    expected = 0.0
    for (a, b), (c, d) in zip(logp.tolist(), reference.tolist()):
        margin = beta * ((a - c) - (b - d))
        expected -= (1 - smoothing) * log_sigmoid(margin) + smoothing * log_sigmoid(-margin)
    assert L.DPO(beta, smoothing=smoothing)(logp, reference=reference) == pytest.approx(expected / N, rel=1e-13)


def test_smoothing_is_least_where_the_odds_are_what_it_says():
    e = 0.2  # the best margin is log((1 - e) / e): farther apart is worse again
    loss, best = L.DPO(1.0, smoothing=e), math.log((1 - e) / e)
    _, saved = loss.forward(np.array([[best, 0.0]]), reference=np.zeros((1, 2)))
    assert np.abs(loss.backward(1.0, saved)).max() < 1e-16
    below, above = np.array([[[best + step, 0.0]] for step in (-1, 1)])
    slope = {step: loss.backward(1.0, loss.forward(logp, reference=np.zeros((1, 2)))[1])[0, 0]
             for step, logp in (('below', below), ('above', above))}
    assert slope['below'] < 0 < slope['above']


def test_only_the_distance_to_the_reference_counts():
    logp, reference, shift = draw(N, 2), draw(N, 2, seed=1), 2.0 ** np.random.default_rng(2).integers(-3, 4, (N, 2))
    loss = L.DPO(0.3)
    assert loss(logp + shift, reference=reference + shift) == pytest.approx(loss(logp, reference=reference), rel=1e-13)
    assert loss.rewards(logp, reference) == pytest.approx(0.3 * (logp - reference), rel=1e-15)


@pytest.mark.parametrize("margin", [1e3, 1e6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_margins_neither_overflow_nor_lose_their_slope(margin, dtype):
    logp, zeros = np.array([[margin, 0], [0, margin]], dtype), np.zeros((2, 2), dtype)
    with np.errstate(over="raise", invalid="raise"):
        for loss, (value, saved) in ((L.DPO(1.0), L.DPO(1.0).forward(logp, reference=zeros)),
                                     (L.LogisticPairs(), L.LogisticPairs().forward(*np.ascontiguousarray(logp.T)))):
            gradient = loss.backward(1.0, saved)
            gradient = np.transpose(gradient) if isinstance(loss, L.LogisticPairs) else gradient
            assert value == margin / 2  # nothing of the first, and the whole margin of the second
            assert np.array_equal(gradient, [[0, 0], [-0.5, 0.5]])
            assert value.dtype == dtype and gradient.dtype == dtype


def test_a_large_right_margin_s_loss_and_slope_are_its_exponential():
    loss = L.DPO(1.0)
    value, saved = loss.forward(np.array([[300.0, 0]]), reference=np.zeros((1, 2)))
    assert value == pytest.approx(math.exp(-300), rel=1e-12)
    assert loss.backward(1.0, saved)[0] == pytest.approx([-math.exp(-300), math.exp(-300)], rel=1e-12)


# -- both


def losses(rows, dtype=np.float64, count=None):
    """Value and gradients of each on some of the pairs."""
    logp, reference = draw(N, 2, dtype=dtype)[rows], draw(N, 2, seed=1)[rows]
    pairs, dpo = L.LogisticPairs(), L.DPO(0.3, smoothing=0.1)
    value, saved = pairs.forward(logp[:, 0], logp[:, 1], count=count)
    yield value, np.stack(pairs.backward(0.7, saved), -1)
    value, saved = dpo.forward(logp, reference=reference, count=count)
    yield value, dpo.backward(0.7, saved)


def test_pieces_of_a_batch_add_up_to_the_whole():
    whole = list(losses(slice(None)))
    pieces = [list(losses(rows, count=N)) for rows in (slice(0, 5), slice(5, 6), slice(6, 6), slice(6, N))]
    for i, (value, gradient) in enumerate(whole):
        assert sum(piece[i][0] for piece in pieces) == pytest.approx(value, rel=1e-14)
        assert np.array_equal(np.concatenate([piece[i][1] for piece in pieces]), gradient)


def test_float32_stays_float32_beside_a_reference_in_float64():
    for value, gradient in losses(slice(None), np.float32):
        assert value.dtype == gradient.dtype == np.float32


def test_without_a_pair_there_is_no_loss():
    for value, gradient in losses(slice(0, 0)):
        assert value == 0 and gradient.shape == (0, 2)


@pytest.mark.parametrize("target, inputs, options", [
    (L.LogisticPairs(), (3 * draw(N), 3 * draw(N, seed=1)), {}),
    (L.DPO(0.3), (9 * draw(N, 2),), {"reference": 9 * draw(N, 2, seed=1)}),
    (L.DPO(0.3, smoothing=0.1), (9 * draw(N, 2),), {"reference": 9 * draw(N, 2, seed=1), "count": N + 3})])
def test_the_gradient_is_forward_s_own_for_every_input(target, inputs, options):
    report = check(target, *inputs, method="complex", mode="every", **options)
    assert report.ok and len(report.gradients) == len(inputs) and max(f.error for f in report.gradients) <= 1e-12


@pytest.mark.parametrize("call, kind, message", [
    (lambda: L.LogisticPairs()(draw(3), draw(1)), ValueError, r"a score of each .* both \(B,\); got \(3,\) and \(1,\)"),
    (lambda: L.LogisticPairs()(draw(3, 2), draw(3, 2)), ValueError, r"both \(B,\); got \(3, 2\) and \(3, 2\)"),
    (lambda: L.LogisticPairs()(np.ones(3, int), draw(3)), TypeError, "LogisticPairs wants real or complex"),
    (lambda: L.LogisticPairs()(draw(3), draw(3), count=2), ValueError, "number of pairs in .* piece with 3; got 2"),
    (lambda: L.DPO()(draw(3), reference=draw(3)), ValueError, r"DPO wants logp \(B, 2\), .*; got an array of shape \(3,\)"),
    (lambda: L.DPO()(draw(3, 2), reference=draw(2)), ValueError, r"reference must have the shape \(3, 2\) .*; got \(2,\)"),
    (lambda: L.DPO()(draw(3, 2), reference=draw(3, 2), count=2.5), TypeError, "count must be a whole number; got 2.5"),
    (lambda: L.DPO(0), ValueError, "beta, the price of a nat .* must be above 0 and finite; got 0"),
    (lambda: L.DPO(math.nan), ValueError, "must be above 0 and finite; got nan"),
    (lambda: L.DPO(0.1, smoothing=0.5), ValueError, "at least 0 and below 0.5, .*; got 0.5")])
def test_what_does_not_fit_is_refused_in_a_sentence(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


# -- mistakes that a gradient check cannot see, for forward has them too


def test_a_reference_that_follows_leaves_a_loss_of_log_2_for_ever():
    logp, reference = draw(N, 2), draw(N, 2, seed=1)
    with mutants.apply("dpo-reference-follows", variant=1):
        value, saved = L.DPO(0.3).forward(logp, reference=reference)
        assert value == pytest.approx(math.log(2), rel=1e-15) and not L.DPO(0.3).backward(1.0, saved).any()
    assert abs(L.DPO(0.3)(logp, reference=reference) - math.log(2)) > 0.01


@pytest.mark.parametrize("slug, variant, becomes", [
    ("dpo-no-reference", 1, lambda a, b, c, d: a - b),          # the policy alone
    ("dpo-sign", 1, lambda a, b, c, d: (b - d) - (a - c)),      # what was rejected is raised
    ("dpo-chosen-alone", 1, lambda a, b, c, d: a - c)])         # and what was rejected is left where it is
def test_a_margin_that_is_wrong_forward_and_backward_is_another_loss(slug, variant, becomes):
    logp, reference, loss = draw(N, 2), draw(N, 2, seed=1), L.DPO(0.3)
    margins = [0.3 * becomes(a, b, c, d) for (a, b), (c, d) in zip(logp.tolist(), reference.tolist())]
    expected = -sum(map(log_sigmoid, margins)) / N
    healthy = loss(logp, reference=reference)
    with mutants.apply(mutants.forms(slug)[variant]):
        assert check(loss, logp, reference=reference)
        assert loss(logp, reference=reference) == pytest.approx(expected, rel=1e-13)
    assert abs(expected - healthy) > 1e-3


def test_pairs_that_are_turned_reward_what_was_rejected():
    chosen, rejected, loss = draw(N), draw(N, seed=1), L.LogisticPairs()
    turned = loss(rejected, chosen)
    with mutants.apply("pairs-turned"):
        assert check(loss, chosen, rejected)
        assert loss(chosen, rejected) == turned
    assert abs(loss(chosen, rejected) - turned) > 1e-3


def test_a_mean_over_sequences_is_half_of_one_over_pairs():
    logp, reference, loss = draw(N, 2), draw(N, 2, seed=1), L.DPO(0.3)
    healthy = loss(logp, reference=reference)
    with mutants.apply(mutants.forms("dpo-count")[1]):
        assert check(loss, logp, reference=reference)
        assert loss(logp, reference=reference) == pytest.approx(healthy / 2, rel=1e-15)


# -- beside torch, in the second stage


def torch_gradients(function, *arrays):
    torch = pytest.importorskip("torch")
    leaves = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in arrays]
    loss = function(torch, *leaves)
    return [loss.item(), *(g.numpy() for g in torch.autograd.grad(loss, leaves))]


def near(ours, theirs):
    return all(np.abs(np.subtract(a, b)).max() <= 1e-11 * np.abs(b).max() for a, b in zip(ours, theirs, strict=True))


@pytest.mark.verify
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_dpo_is_torch_s(smoothing):
    logp, reference, beta = 9 * draw(N, 2) - 30, 9 * draw(N, 2, seed=1) - 30, 0.3

    def loss(torch, logp):
        log_ratios = logp - torch.from_numpy(reference)
        margin = beta * (log_ratios[:, 0] - log_ratios[:, 1])
        f = torch.nn.functional.logsigmoid
        return (-(1 - smoothing) * f(margin) - smoothing * f(-margin)).mean()

    layer = L.DPO(beta, smoothing=smoothing)
    value, saved = layer.forward(logp, reference=reference)
    assert near([value, layer.backward(1.0, saved)], torch_gradients(loss, logp))


@pytest.mark.verify
def test_pairs_are_torch_s():
    chosen, rejected = 9 * draw(N), 9 * draw(N, seed=1)
    value, saved = L.LogisticPairs().forward(chosen, rejected)
    theirs = torch_gradients(lambda torch, a, b: -torch.nn.functional.logsigmoid(a - b).mean(), chosen, rejected)
    assert near([value, *L.LogisticPairs().backward(1.0, saved)], theirs)
