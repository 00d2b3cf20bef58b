"""Texts that grow past the context: at each token, the scores of what the model then sees."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_kv import TOLERANCE, model_of

from numgpt import GPT, GPTConfig
from numgpt.sample import Decoder

CONTEXTS = (1, 2, 7, 8)
MODELS = {n_ctx: model_of(n_ctx=n_ctx, window=3) for n_ctx in CONTEXTS}


def seen(text, n_ctx):
    """What is left of a text that is read token by token, where a full context drops its older half."""
    kept = []
    for token in text:
        if len(kept) == n_ctx:
            kept = kept[max(1, n_ctx // 2):]
        kept.append(token)
    return kept


def expected(model, text):
    return model.logits(np.array([seen(text, model.config.n_ctx)]))[0, -1]


@pytest.mark.parametrize("n_ctx", CONTEXTS)
@settings(max_examples=10)  # each has up to 84 full forwards
@given(lengths=st.lists(st.integers(1, 25), min_size=1, max_size=4), n=st.integers(0, 20), seed=st.integers(0, 2 ** 31))
def test_the_scores_are_those_of_the_full_forward_over_what_is_seen_however_long_the_texts(n_ctx, lengths, n, seed):
    model, rng = MODELS[n_ctx], np.random.default_rng(seed)
    texts = [rng.integers(0, 13, length).tolist() for length in lengths]
    decoder = Decoder(model, texts)
    for step in range(n + 1):
        for text, scores in zip(texts, decoder.scores, strict=True):
            assert np.abs(scores - expected(model, text)).max() <= TOLERANCE
        tokens = rng.integers(0, 13, len(texts)).tolist()
        texts = [[*text, token] for text, token in zip(texts, tokens)]
        assert decoder.feed(tokens) is decoder.scores


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=3), rows=st.lists(st.integers(0, 2), min_size=1, max_size=4),
       seed=st.integers(0, 2 ** 31))
def test_texts_that_are_chosen_go_on_in_their_new_order_and_apart_from_each_other(lengths, rows, seed):
    model, rng = MODELS[7], np.random.default_rng(seed)
    rows = [row % len(lengths) for row in rows]
    texts = [rng.integers(0, 13, length).tolist() for length in lengths]
    decoder = Decoder(model, texts)
    decoder.choose(rows)
    texts = [texts[row] for row in rows]
    for _ in range(6):
        tokens = rng.integers(0, 13, len(rows)).tolist()
        texts = [[*text, token] for text, token in zip(texts, tokens)]
        for text, scores in zip(texts, decoder.feed(tokens), strict=True):
            assert np.abs(scores - expected(model, text)).max() <= TOLERANCE
    assert decoder.texts == texts


def test_a_token_costs_one_forward_of_one_position_until_the_context_is_full():
    model, widths = model_of(n_ctx=8), []
    body = model.body
    class Counted:
        def __call__(self, ids, **options):
            widths.append(np.shape(ids)[1])
            return body(ids, **options)
    model.body = Counted()
    decoder = Decoder(model, [[1, 2, 3]])
    for token in range(10):
        decoder.feed([token])
    # Three, then one at a time up to eight; then half of them is read again, twice.
    assert widths == [3, 1, 1, 1, 1, 1, 4, 1, 1, 1, 1, 4, 1]


def test_every_text_wants_its_token_and_the_prompts_stay_as_they_were():
    prompts = [[1, 2], [3]]
    decoder = Decoder(MODELS[7], prompts)
    with pytest.raises(ValueError):
        decoder.feed([1])
    Decoder(MODELS[7], prompts).feed([5, 6])
    assert prompts == [[1, 2], [3]]


@pytest.mark.parametrize("prompts", [[], [[]], [[1], []]])
def test_a_decoder_goes_on_with_something(prompts):
    with pytest.raises(ValueError, match="texts of at least one token each"):
        Decoder(GPT(GPTConfig(n_vocab=5, n_ctx=4, n_layer=1, n_head=1, n_embd=2)), prompts)


@pytest.mark.parametrize("tokens", [[1], [1, 5], [1, -1], [1, 2, 3]])
def test_tokens_that_are_refused_leave_the_texts_as_they_were(tokens):
    decoder = Decoder(GPT(GPTConfig(n_vocab=5, n_ctx=4, n_layer=1, n_head=1, n_embd=2)), [[1], [2, 3]])
    with pytest.raises(ValueError):
        decoder.feed(tokens)
    assert decoder.texts == [[1], [2, 3]]
