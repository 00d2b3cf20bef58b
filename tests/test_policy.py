"""PPO's layers: rewards, advantages, clipped losses and the KL, against sums written out and against their own gradients."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numgpt import layers as L
from numgpt.gradcheck import check
from numgpt.verify import cases
from numgpt.verify.cases.policy import BUILDERS, responses_of

EPS = np.finfo(np.float64).eps
LOSSES = [name for name in BUILDERS if name not in ("kl-reward", "gae")]
seeds = st.integers(0, 1000)
# Every third row has no response; the others begin and end where they like.
shapes = st.builds(cases.Sizes, B=st.integers(1, 5), T=st.integers(1, 9))


def near(a, b):
    """The same few terms, added in another order."""
    return abs(a - b) <= 100 * EPS * abs(b)


# -- gradients


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("sizes", [cases.Sizes(), cases.Sizes(B=5, T=1), cases.Sizes(B=1, T=9, scale=100.0)], ids=str)
def test_backward_is_the_complex_step_within_1e_12(name, sizes):
    inputs, options = cases.make(name, 5, sizes).arguments()
    report = check(*inputs, method="complex", mode="every", **options)
    assert report.ok, report
    assert max(f.error for f in report.gradients) <= 1e-12


@given(shapes, seeds)
def test_the_backward_of_gae_is_its_transpose(sizes, seed):
    case = cases.make("gae", seed, sizes)
    y, saved = case.target.forward(*case.inputs, **case.options)
    dy = np.random.default_rng([seed, 1]).standard_normal(y.shape)
    products = [d * x for d, x in zip(case.target.backward(dy, saved), case.inputs)]
    terms = np.abs(dy * y).sum() + sum(np.abs(p).sum() for p in products)
    assert abs((dy * y).sum() - sum(p.sum() for p in products)) <= 1e-13 * terms


# -- what does not count


@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e300])
@pytest.mark.parametrize("name", BUILDERS)
def test_what_stands_where_nothing_counts_changes_no_bit_and_receives_0(name, junk):
    found = []
    for left in (0.0, junk):
        case = cases.make(name, 5, cases.Sizes(B=3))
        counts = case.options["counts"]
        inputs = [np.where(counts, x, left) for x in case.inputs]
        options = {k: np.where(counts, v, left) if np.shape(v) == counts.shape and k != "counts" else v
                   for k, v in case.options.items()}
        if "scores" in options:
            options["scores"] = np.where(counts.any(1), options["scores"], left)
        with np.errstate(all="raise"):
            y, saved = case.target.forward(*inputs, **options)
            dy = np.where(counts, 0.7, left) if np.ndim(y) else 0.7
            dx = case.target.backward(dy, saved)
        found.append([y, *(dx if isinstance(dx, tuple) else (dx,))])
        for array in found[-1][0 if np.ndim(y) else 1:]:
            assert not array[~counts].any() and array[counts].any()
    assert all(np.array_equal(a, b) for a, b in zip(*found))


@pytest.mark.parametrize("name", BUILDERS)
def test_where_no_token_counts_all_is_0(name):
    case = cases.make(name, 5)
    options = case.options | {"counts": np.zeros_like(case.options["counts"])}
    y, saved = case.target.forward(*case.inputs, **options)
    dx = case.target.backward(np.ones_like(y) if np.ndim(y) else 1.0, saved)
    assert not np.any(y) and not any(d.any() for d in (dx if isinstance(dx, tuple) else (dx,)))


@pytest.mark.parametrize("name", LOSSES)
def test_the_pieces_of_a_batch_add_up_to_the_whole(name):
    case = cases.make(name, 5, cases.Sizes(B=5))
    whole, saved = case.target.forward(*case.inputs, **case.options)
    gradient = case.target.backward(0.7, saved)
    count = case.options.get("count", int(case.options["counts"].sum()))
    loss = 0.0
    for part in (slice(0, 2), slice(2, 3), slice(3, 5)):  # the second has no token that counts
        options = {k: v[part] if isinstance(v, np.ndarray) else v for k, v in case.options.items()}
        piece, saved = case.target.forward(*(x[part] for x in case.inputs), **options | {"count": count})
        assert np.array_equal(case.target.backward(0.7, saved), gradient[part])
        loss += piece
    assert near(loss, whole)


# -- the values, beside loops


def loop_gae(rewards, values, counts, gamma, lam):
    """The sum over all deltas to come, each of them written out."""
    y = np.zeros(rewards.shape)
    for b, t in np.argwhere(counts):
        for l in range(rewards.shape[1] - t):
            if not counts[b, t:t + l + 1].all():
                break
            ends = t + l + 1 == rewards.shape[1] or not counts[b, t + l + 1]
            delta = rewards[b, t + l] + (0 if ends else gamma * values[b, t + l + 1]) - values[b, t + l]
            y[b, t] += (gamma * lam) ** l * delta
    return y


def gae_case(sizes, seed):
    rng = np.random.default_rng(seed)
    rewards, values = rng.standard_normal((2, sizes.B, sizes.T))
    return rewards, values, rng.random((sizes.B, sizes.T)) < 0.7  # in some rows several stretches, in some none


@given(shapes, seeds, st.floats(0, 1), st.floats(0, 1))
def test_gae_is_the_sum_over_the_deltas_to_come(sizes, seed, gamma, lam):
    rewards, values, counts = gae_case(sizes, seed)
    y = L.GAE(gamma, lam)(rewards, values, counts=counts)
    # absolute: where two terms cancel, what is left has their roundings
    assert np.abs(y - loop_gae(rewards, values, counts, gamma, lam)).max(initial=0) <= 1e-13


@given(shapes, seeds, st.floats(0, 1))
def test_at_lam_0_gae_is_the_temporal_difference_and_at_1_the_returns_minus_the_values(sizes, seed, gamma):
    rewards, values, counts = gae_case(sizes, seed)
    differences, returns = np.zeros((2, sizes.B, sizes.T))
    for b in range(sizes.B):
        later = value = 0.0
        for t in reversed(range(sizes.T)):
            later, value = (later, value) if counts[b, t] else (0.0, 0.0)
            if counts[b, t]:
                differences[b, t] = rewards[b, t] + gamma * value - values[b, t]
                later, value = rewards[b, t] + gamma * later, values[b, t]
                returns[b, t] = later
    assert np.abs(L.GAE(gamma, 0.0)(rewards, values, counts=counts) - differences).max(initial=0) <= 1e-13
    y = L.GAE(gamma, 1.0)(rewards, values, counts=counts)
    assert np.abs(y + np.where(counts, values, 0) - returns).max(initial=0) <= 1e-13


def test_a_reward_comes_back_by_gamma_times_lam_a_token():
    rewards = np.zeros((1, 5))
    rewards[0, 3] = 1.0
    y = L.GAE(0.9, 0.5)(rewards, np.zeros((1, 5)), counts=np.array([[False, True, True, True, False]]))
    assert y.tolist() == [[0, (0.9 * 0.5) * (0.9 * 0.5), 0.9 * 0.5, 1, 0]]


def test_the_score_is_paid_at_the_last_token_and_the_distance_charged_at_each():
    logp, reference = np.array([[-1.0, -2.0, -3.0, -4.0]] * 3), np.array([[-1.5, -1.0, -3.0, -2.0]] * 3)
    counts = np.array([[0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
    y = L.KLReward(0.5)(logp, reference=reference, scores=np.array([10.0, 20.0, np.nan]), counts=counts)
    assert y.tolist() == [[0, 0.5, 10, 0], [-0.25, 0.5, 0, 21], [0, 0, 0, 0]]


@pytest.mark.parametrize("advantage, ratio, loss, slope", [
    (2.0, 1.1, -2.2, -2.2), (2.0, 1.5, -2.4, 0.0), (2.0, 0.5, -1.0, -1.0),  # a good token: cut above
    (-2.0, 0.9, 1.8, 1.8), (-2.0, 1.5, 3.0, 3.0), (-2.0, 0.5, 1.6, 0.0),    # a bad one: cut below
    (0.0, 1.5, 0.0, 0.0), (0.0, math.inf, 0.0, 0.0)])
def test_the_gradient_is_cut_where_the_step_went_far_enough_and_nowhere_else(advantage, ratio, loss, slope):
    layer, one = L.ClippedPolicy(0.2), np.ones((1, 1))
    y, saved = layer.forward(one * (math.log(ratio) - 3 if ratio < math.inf else 1e4), old=-3 * one,
                             advantages=advantage * one, counts=one > 0)
    assert y == pytest.approx(loss, rel=1e-14, abs=0)
    assert layer.backward(1.0, saved) == pytest.approx(slope, rel=1e-14, abs=0)


def test_in_the_first_step_the_gradient_is_minus_the_advantages_by_the_count():
    case = cases.make("clipped-policy", 5)
    counts, logp = case.options["counts"], case.inputs[0]
    loss, saved = case.target.forward(logp, **case.options | {"old": logp})
    advantages = np.where(counts, case.options["advantages"], 0)
    assert np.array_equal(case.target.backward(1.0, saved), advantages * (-1 / counts.sum()))
    assert near(loss, -advantages.sum() / counts.sum())


def written_out(case):
    """What a case's layer is to give, a token at a time; the mean of a loss is over the tokens of the whole batch."""
    layer, (x, *more), c = case.target, case.inputs, case.options
    each = np.zeros(x.shape)
    if isinstance(layer, L.GAE):
        return loop_gae(x, *more, c["counts"], layer.gamma, layer.lam)
    for b, t in np.argwhere(c["counts"]):
        i, ended = (b, t), not c["counts"][b, t + 1:].any()
        if isinstance(layer, L.KLReward):
            each[i] = -layer.beta * (x[i] - c["reference"][i]) + (c["scores"][b] if ended else 0)
        elif isinstance(layer, L.ClippedPolicy):
            rho, a = math.exp(x[i] - c["old"][i]), c["advantages"][i]
            each[i] = -min(rho * a, min(max(rho, 1 - layer.eps), 1 + layer.eps) * a)
        elif isinstance(layer, L.ClippedValue):
            held = c["old"][i] + min(max(x[i] - c["old"][i], -layer.eps), layer.eps)
            each[i] = max((x[i] - c["returns"][i]) ** 2, (held - c["returns"][i]) ** 2) / 2
        else:
            each[i] = (x[i] - c["reference"][i]) ** 2 / 2
    return each if isinstance(layer, L.KLReward) else each.sum() / c.get("count", c["counts"].sum())


@pytest.mark.parametrize("name", BUILDERS)
@given(seed=seeds)
def test_a_case_gives_what_a_loop_over_its_tokens_gives(name, seed):
    case = cases.make(name, seed, cases.Sizes(B=5))
    truth = written_out(case)
    magnitude = max(np.abs(truth).max(), 0.1)  # of the terms, which may cancel where advantages do
    assert np.abs(case.target(*case.inputs, **case.options) - truth).max() <= 1e-13 * magnitude


# -- the KL


def softmaxed(seed):
    rng = np.random.default_rng(seed)
    p, q = (e / e.sum() for e in np.exp(rng.standard_normal((2, 1, 6))))
    return p, q, np.ones(p.shape, bool)


@given(seeds)
def test_in_the_mean_over_tokens_from_the_policy_the_gradient_is_that_of_the_kl(seed):
    # All tokens at once, each with its probability for a weight. d logp[i] / d logits[k] = (i == k) - p[k]
    p, q, counts = softmaxed(seed)
    layer = L.TokenKL()
    _, saved = layer.forward(np.log(p), reference=np.log(q), counts=counts)
    slopes = (layer.backward(float(p.size), saved) * p)[0]
    d = np.log(p / q)
    assert np.abs((slopes - p * slopes.sum()) - p * (d - (p * d).sum())).max() <= 1e-14
    assert np.abs(p * 1 - p * (p * 1).sum()).max() <= 1e-15  # of the log-ratio itself, whose slope is 1, nothing is left


@given(seeds)
def test_the_estimate_is_the_kl_in_the_mean_and_never_negative(seed):
    p, q, _ = softmaxed(seed)
    each = [L.estimated_kl(*(np.log(a[:, i:i + 1]) for a in (p, q)), np.ones((1, 1), bool)) for i in range(p.size)]
    assert min(each) >= 0
    assert abs((p * each).sum() - (p * np.log(p / q)).sum()) <= 1e-14


def test_the_estimate_keeps_its_digits_where_the_two_are_near():
    one = np.ones((1, 1))
    for d in (1e-5, -1e-7):  # d^2 / 2 - d^3 / 6; exp(-d) - 1 + d as it is written has two digits left at 1e-7
        found = L.estimated_kl(d * one, 0 * one, one > 0)
        assert found == pytest.approx(d * d / 2, rel=abs(d) + 4 * EPS / abs(d), abs=0)


# -- whitened


@given(shapes, seeds, st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_whitened_advantages_have_mean_0_and_std_1_over_what_counts(sizes, seed, shift, size):
    rng, counts = np.random.default_rng(seed), responses_of(sizes)
    y = L.whitened(np.where(counts, shift + size * rng.standard_normal(counts.shape), np.nan), counts)
    assert not y[~counts].any()
    if counts.sum() > 1:
        assert abs(y[counts].mean()) <= 1e-9 and abs(y[counts].std() - 1) <= 1e-9  # shift / size is up to 1e6
    else:
        assert not y.any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_advantages_that_are_all_alike_are_0_and_not_their_roundings(dtype):
    counts = np.ones((3, 7), bool)
    y = L.whitened(np.full((3, 7), 0.1, dtype), counts)
    assert y.dtype == dtype and not y.any()


# -- what is refused


def test_what_is_refused_is_said():
    x, counts = np.zeros((2, 3)), np.ones((2, 3), bool)
    with pytest.raises(ValueError, match=r"booleans of shape \(2, 3\); got float64 of shape \(2, 3\)"):
        L.TokenKL()(x, reference=x, counts=x)
    with pytest.raises(ValueError, match=r"wants its reference of shape \(2, 3\), one for each token; got \(3,\)"):
        L.TokenKL()(x, reference=x[0], counts=counts)
    with pytest.raises(TypeError, match="held constant by ClippedPolicy: give their real parts"):
        L.ClippedPolicy(0.2)(x, old=x, advantages=x + 0j, counts=counts)
    with pytest.raises(ValueError, match="of which this is a piece with 6; got 5"):
        L.ClippedValue(0.2)(x, old=x, returns=x, counts=counts, count=5)
    with pytest.raises(ValueError, match=r"a score for each of 2 rows; got an array of shape \(3,\)"):
        L.KLReward(0.1)(x, reference=x, scores=np.zeros(3), counts=counts)
    with pytest.raises(ValueError, match="between 0 and 1, such as 0.2; got 1.2"):
        L.ClippedPolicy(1.2)
    for make, said in ((lambda: L.GAE(1.1, 0.5), "gamma must be from 0 to 1; got 1.1"),
                       (lambda: L.GAE(1, math.nan), "lam must be from 0 to 1; got nan"),
                       (lambda: L.KLReward(-1), "beta must be a number of at least 0; got -1"),
                       (lambda: L.ClippedValue(-0.1), "clip must be a number of at least 0; got -0.1")):
        with pytest.raises(ValueError, match=said):
            make()


# -- beside torch, written as its users write it


def torch_case(name):
    torch = pytest.importorskip("torch")
    case = cases.make(name, 6, cases.Sizes(B=5, T=11))
    x = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in case.inputs]
    # without the nan where nothing counts: there torch's gradient would be 0 * nan
    c = {k: torch.tensor(np.nan_to_num(v)) if isinstance(v, np.ndarray) else v for k, v in case.options.items()}
    return torch, case, x, c


def torch_policy(torch, layer, logp, c):
    ratio = torch.exp(logp - c["old"])
    clipped = torch.clamp(ratio, 1 - layer.eps, 1 + layer.eps)
    each = torch.max(-c["advantages"] * ratio, -c["advantages"] * clipped)
    return each[c["counts"]].sum() / c.get("count", c["counts"].sum())


def torch_value(torch, layer, values, c):
    held = torch.clamp(values, c["old"] - layer.eps, c["old"] + layer.eps) if layer.eps < math.inf else values
    each = torch.max((values - c["returns"]) ** 2, (held - c["returns"]) ** 2)
    return 0.5 * each[c["counts"]].mean()


def torch_kl(torch, layer, logp, c):
    return 0.5 * ((logp - c["reference"])[c["counts"]] ** 2).mean()


def torch_reward(torch, layer, logp, c):
    reward = torch.zeros_like(logp).masked_scatter(c["counts"], -layer.beta * (logp - c["reference"])[c["counts"]])
    for i, row in enumerate(c["counts"]):
        if row.any():
            reward[i, row.nonzero()[-1]] += c["scores"][i]
    return reward


def torch_gae(torch, layer, rewards, values, c):
    rows = []
    for r, v, counts in zip(rewards, values, c["counts"]):
        r, v, found, last = r[counts], v[counts], [], torch.tensor(0.0)
        for t in reversed(range(len(r))):
            delta = r[t] + layer.gamma * (v[t + 1] if t + 1 < len(r) else 0.0) - v[t]
            last = delta + layer.gamma * layer.lam * last
            found.append(last)
        row = torch.zeros(len(counts), dtype=torch.float64)
        rows.append(row.masked_scatter(counts, torch.stack(found[::-1])) if found else row)
    return torch.stack(rows)


@pytest.mark.verify
@pytest.mark.parametrize("name, written", [
    ("clipped-policy", torch_policy), ("clipped-policy-count", torch_policy), ("clipped-value", torch_value),
    ("clipped-value-none", torch_value), ("token-kl", torch_kl), ("kl-reward", torch_reward), ("gae", torch_gae)])
def test_values_and_gradients_are_torch_s_within_1e_11(name, written):
    torch, case, x, c = torch_case(name)
    theirs = written(torch, case.target, *x, c)
    ours, saved = case.target.forward(*case.inputs, **case.options)
    dy = np.random.default_rng(0).standard_normal(ours.shape) if np.ndim(ours) else 0.7
    theirs.backward(torch.tensor(dy, dtype=torch.float64))
    dx = case.target.backward(dy, saved)
    for a, b in zip((ours, *(dx if isinstance(dx, tuple) else (dx,))), (theirs.detach(), *(one.grad for one in x))):
        b = b.numpy()
        assert np.isfinite(b).all() and np.abs(b).max() > 0
        assert np.abs(a - b).max() <= 1e-11 * np.abs(b).max()
