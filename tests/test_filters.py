"""What may come next: each filter by its definition, on scores with ties; transformers' are held against in
test_sample_against_frameworks.py."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from numgpt.layers.ops import softmax
from numgpt.sample import Filters
from numgpt.sample.filters import draw, min_p, penalized, top_k, top_p

# Multiples of 1/4 from -3 to 3, so that ties are common; a score of -inf is a token that cannot come.
numbers = st.one_of(st.integers(-12, 12).map(lambda n: n / 4), st.just(-math.inf))
distributions = st.lists(numbers, min_size=1, max_size=20).map(np.array).filter(lambda scores: scores.max() > -math.inf)


def kept(scores):
    return np.flatnonzero(scores > -np.inf)


def only_cut(scores, cut):
    """What stays has its score, and something stays."""
    assert len(kept(cut)) and (cut[kept(cut)] == scores[kept(cut)]).all() and cut.dtype == scores.dtype
    return True


@given(distributions, st.integers(1, 25))
def test_top_k_keeps_the_k_highest_and_what_is_as_high_as_the_last_of_them(scores, k):
    cut = top_k(scores, k)
    last = sorted(scores, reverse=True)[min(k, len(scores)) - 1]
    assert only_cut(scores, cut) and (np.isin(np.arange(len(scores)), kept(cut)) == ((scores >= last) & (scores > -np.inf))).all()


@given(distributions, st.floats(0.01, 0.99))
@example(np.log([0.5, 0.25, 0.25]), 0.5)
def test_top_p_keeps_the_fewest_of_the_likeliest_that_come_to_p_so_that_the_one_that_crosses_it_stays(scores, p):
    cut, ranked = top_p(scores, p), np.sort(softmax(scores))[::-1]
    n = len(kept(cut))
    assert only_cut(scores, cut) and sorted(scores[kept(cut)]) == sorted(scores, reverse=True)[:n][::-1]
    # 20 probabilities of at most 1 add up with errors below 20 * 2 ** -53 = 3e-15.
    assert ranked[:n].sum() >= p - 1e-14 and ranked[:n - 1].sum() <= p + 1e-14


def test_top_p_keeps_no_more_where_the_likeliest_come_to_p_exactly():
    for p, n in ((0.25, 1), (0.5, 2), (0.75, 3), (0.51, 3), (1.0, 4)):
        assert len(kept(top_p(np.zeros(4), p))) == n


@given(distributions, st.floats(0, 1))
@example(np.zeros(3), 1.0)
def test_min_p_keeps_what_is_at_least_so_many_times_as_likely_as_the_likeliest(scores, share):
    cut, ratio = min_p(scores, share), np.exp(scores - scores.max())
    assert only_cut(scores, cut)
    stays = np.isin(np.arange(len(scores)), kept(cut))
    sure = np.abs(ratio - share) > 1e-14  # of two probabilities of a few roundings each
    assert (stays == (ratio >= share))[sure & (scores > -np.inf)].all()


@given(distributions, st.lists(st.integers(0, 19), min_size=1), st.sampled_from([0.5, 1.3, 2.0]))
def test_the_penalty_divides_what_is_above_0_multiplies_what_is_below_and_leaves_other_tokens_alone(scores, text, penalty):
    text = [token % len(scores) for token in text]
    before = scores.copy()
    bent = penalized(scores, text, penalty)
    for token, (old, new) in enumerate(zip(scores, bent)):
        assert new == ((old / penalty if old > 0 else old * penalty) if token in text else old)  # once, however often it is there
    assert (scores == before).all()


@given(distributions)
def test_without_filters_and_at_top_p_1_and_min_p_0_and_top_k_v_the_scores_stay_as_they_are(scores):
    for filters in (Filters(), Filters(top_p=1.0, min_p=0.0, top_k=len(scores), repetition_penalty=1.0)):
        assert (filters(scores, [0]) == scores).all()


def test_the_filters_work_in_their_order_each_on_what_the_one_before_left():
    scores = np.log(np.array([0.4, 0.3, 0.2, 0.1]))
    # The penalty makes 0.4 into 0.16 / 0.76 of the rest: without it, 0 would stay and 1 be the one that crosses.
    assert kept(Filters(repetition_penalty=2.0, top_p=0.6)(scores, [0])).tolist() == [1, 2]
    assert kept(Filters(top_p=0.6)(scores, [0])).tolist() == [0, 1]
    # At a temperature of 1/2 the likeliest has 0.53: more than half, which it has not at 1.
    assert kept(Filters(temperature=0.5, top_p=0.5)(scores, [])).tolist() == [0]
    # Of the two that top_k leaves, the first has 4/7, which is more than 0.5 and less than 0.6.
    assert kept(Filters(top_k=2, top_p=0.5)(scores, [])).tolist() == [0]
    assert kept(Filters(top_k=2, top_p=0.6)(scores, [])).tolist() == [0, 1]


def test_a_temperature_of_0_leaves_the_first_of_the_most_likely_after_the_penalty():
    scores = np.array([2.0, 3.0, 3.0, -1.0])
    assert kept(Filters(0)(scores, [])).tolist() == [1]
    assert kept(Filters(0, repetition_penalty=2.0)(scores, [1])).tolist() == [2]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("temperature", [1e-5, 1e-40, 5e-324])
def test_a_temperature_next_to_0_is_almost_greedy_and_never_nan(dtype, temperature):
    scores = np.array([-2, 30, 29.999, 30], dtype)
    cut = Filters(temperature, top_p=0.9, min_p=0.01)(scores, [])
    assert kept(cut).tolist() == [1, 3] and np.isfinite(cut[kept(cut)]).all() and cut.dtype == dtype


@pytest.mark.parametrize("wrong, says", [
    (dict(temperature=-0.1), "temperature must be 0, for the most likely token, or a finite number above; got -0.1"),
    (dict(temperature=math.nan), "got nan"), (dict(temperature=math.inf), "got inf"),
    (dict(top_k=0), "top_k must be at least 1; got 0"), (dict(top_k=True), "got True"),
    (dict(top_p=0), "top_p must be above 0 and at most 1; got 0"), (dict(top_p=1.01), "got 1.01"), (dict(top_p=math.nan), "got nan"),
    (dict(min_p=-0.1), "min_p must be from 0 to 1; got -0.1"), (dict(min_p=math.nan), "got nan"),
    (dict(repetition_penalty=0), "repetition_penalty must be from 0.001 to 1000, for scores are multiplied by it; got 0"),
    (dict(repetition_penalty=math.inf), "got inf"),
])
def test_filters_that_mean_nothing_are_refused_with_a_sentence(wrong, says):
    with pytest.raises(ValueError, match=says):
        Filters(**wrong)


def chance(observed, expected):
    """How often chance alone is as far off as this, by Pearson's chi-squared; its tail is a finite sum at an even number of freedoms."""
    x, freedoms = ((observed - expected) ** 2 / expected).sum(), len(observed) - 1
    assert freedoms % 2 == 0 and expected.min() >= 5
    return math.exp(-x / 2) * sum((x / 2) ** k / math.factorial(k) for k in range(freedoms // 2))


def test_tokens_are_drawn_as_often_as_their_probabilities_say():
    rng, n = np.random.default_rng(0), 25000
    scores = np.array([1.5, -math.inf, 0.0, -3.0, 2.0, 0.25])
    drawn = np.bincount([draw(scores, rng) for _ in range(n)], minlength=6)
    assert drawn[1] == 0
    possible = [0, 2, 3, 4, 5]
    assert chance(drawn[possible], n * softmax(scores)[possible]) > 1e-6
    assert chance(drawn[possible], n * softmax(1.1 * scores)[possible]) < 1e-6  # so much it would tell


class Fixed:
    def __init__(self, value):
        self.value = value

    def random(self):
        return self.value


@given(distributions, st.floats(0, 1, exclude_max=True))
@example(np.array([0.0, -800.0]), 1 - 2 ** -53)
@example(np.array([-math.inf, -800.0, 0.0, 0.0]), 0.0)
def test_what_is_drawn_has_a_probability_at_either_end_of_the_generator_s_numbers(scores, number):
    assert softmax(scores)[draw(scores, Fixed(number))] > 0


def test_the_only_token_that_is_left_uses_no_randomness():
    assert draw(np.array([-math.inf, 3.0, -math.inf]), None) == 1


def test_scores_that_are_no_numbers_are_said_to_be_the_model_s():
    for scores in ([math.nan, 1.0], [math.nan] * 2, [-math.inf] * 2):
        with pytest.raises(ValueError, match="the model's scores are not numbers"):
            draw(np.array(scores), np.random.default_rng(0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_top_p_of_equal_scores_adds_up_exactly_enough(dtype):
    """Of 24, six have a quarter together: float32 sums were a little more off than that, and a seventh stayed."""
    assert np.isfinite(Filters(top_p=0.25)(np.zeros(24, dtype), [])).sum() == 6
