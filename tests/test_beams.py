"""Beam search, held to trying every text; transformers' is held against in test_sample_against_frameworks.py."""

import functools
import itertools
import math

import numpy as np
import pytest
from test_kv import TOLERANCE, model_of

from numgpt import generate
from numgpt.sample import score
from numgpt.text import CharTokenizer
from stages import later

PROMPT, N = [2, 0], 4
MODELS = [model_of(seed, n_vocab=4, n_ctx=12, n_layer=2) for seed in range(3)]


def texts(stops, n, n_vocab=4):
    """Every text that ends with its first stop, or else has n tokens."""
    for length in range(1, n + 1):
        for text in itertools.product(range(n_vocab), repeat=length):
            if not set(text[:-1]) & set(stops) and (length == n or text[-1] in stops):
                yield text


@functools.cache
def logprob(model, text):
    """Of a text after the prompt; what it is worth by a penalty and what ends it are the cases."""
    return score(model, np.array([*PROMPT, *text])).logprobs[1:].sum()


@pytest.mark.parametrize("model", MODELS, ids=range(3))
@pytest.mark.parametrize("stops", [(), (1,), later((0, 3))])
@pytest.mark.parametrize("length_penalty", [-2.0, 0.0, later(0.5), 1.0, later(3.0)])
def test_with_a_beam_for_every_beginning_the_best_of_all_texts_is_found(model, stops, length_penalty):
    def worth(text):
        return logprob(model, text) / len(text) ** length_penalty
    best = max(texts(stops, N), key=worth)
    [ids], [logprobs] = generate(model, [PROMPT], N, beams=4 ** N, length_penalty=length_penalty, stop=stops, logprobs=True)
    assert ids.tolist() == [*best]
    assert np.abs(logprobs - score(model, np.array([*PROMPT, *best])).logprobs[1:]).max() <= TOLERANCE


def test_a_higher_length_penalty_never_gives_a_shorter_text_and_may_give_a_longer_one():
    lengths = {tuple(len(generate(model, [PROMPT], N, beams=4 ** N, length_penalty=penalty, stop=(1,))[0]) for penalty in (-3, 0, 1, 4))
               for model in MODELS}
    assert all(list(row) == sorted(row) for row in lengths) and any(row[0] < row[-1] for row in lengths)


def test_more_beams_find_what_greedy_search_misses():
    totals = {beams: [generate(model, [PROMPT], 6, beams=beams, logprobs=True, **greedy)[1][0].sum() for model in MODELS]
              for beams, greedy in ((1, dict(temperature=0)), (4, {}))}
    assert max(np.subtract(totals[4], totals[1])) > 0.01


def test_the_search_goes_past_the_context_like_every_text():
    model = model_of(1, n_vocab=4, n_ctx=3, n_layer=1)
    [ids], [logprobs] = generate(model, [PROMPT], 4, beams=4 ** 4, logprobs=True)
    kept = [*PROMPT]
    for token, logprob in zip(ids, logprobs):  # a full context drops its older half, here one token
        x = model.logits(np.array([kept]))[0, -1]
        assert abs(logprob - (x - x.max() - np.log(np.exp(x - x.max()).sum()))[token]) <= TOLERANCE
        kept = [*(kept[1:] if len(kept) == 3 else kept), token]


def test_each_prompt_is_searched_by_itself_and_none_is_none():
    model = MODELS[0]
    together = generate(model, [[2, 0], [3, 1, 1], [2, 0]], 5, beams=3)
    alone = [generate(model, [prompt], 5, beams=3)[0] for prompt in ([2, 0], [3, 1, 1], [2, 0])]
    assert [row.tolist() for row in together] == [row.tolist() for row in alone]
    assert generate(model, [], 5, beams=3) == [] and generate(model, [], 5, beams=3, logprobs=True) == ([], [])


@pytest.mark.parametrize("wrong", [dict(stream=True), dict(temperature=0.5), dict(top_k=3), dict(stop="a", tokenizer=CharTokenizer("abcd"))])
def test_beams_are_not_drawn_and_say_so(wrong):
    with pytest.raises(ValueError, match="beams look at whole texts"):
        generate(MODELS[0], [PROMPT], 3, beams=2, **wrong)


@pytest.mark.parametrize("penalty", [math.nan, math.inf, -math.inf, 20.5])
def test_a_length_penalty_that_is_no_exponent_is_refused(penalty):
    with pytest.raises(ValueError, match="length_penalty must be a number from -20 to 20"):
        generate(MODELS[0], [PROMPT], 3, beams=2, length_penalty=penalty)


def test_there_is_at_least_one_beam():
    with pytest.raises(ValueError, match="beams must be at least 1; got 0"):
        generate(MODELS[0], [PROMPT], 3, beams=0)


def test_scores_that_are_nan_are_said_to_be_the_model_s():
    model = model_of(0, n_vocab=4, n_ctx=12, n_layer=1)
    model.values[0] = math.nan
    with pytest.raises(ValueError, match="the model's scores are not numbers"):
        generate(model, [[0, 1]], 3, beams=2)
