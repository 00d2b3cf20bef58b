"""Text from a model, token by token."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_filters import chance
from test_kv import TOLERANCE, model_of

from numgpt import GPT, GPTConfig, generate
from numgpt.layers.ops import log_softmax, softmax
from numgpt.sample import Filters
from numgpt.text import BPETokenizer, CharTokenizer
from numgpt.verify import cases
from stages import later

MODEL = model_of(n_ctx=7)
CHARACTERS = CharTokenizer("abcdefghijkl", end=True)  # 13 tokens, of which 12 is the end
PROMPTS = [[5, 1], [3, 3, 8, 1, 2, 9, 12, 0, 4], [7], [3, 3, 8]]


def lists(rows):
    return [row.tolist() for row in rows]


def test_without_temperature_each_token_is_the_most_likely_after_what_is_seen():
    for prompt, new in zip(PROMPTS, generate(MODEL, PROMPTS, 11, temperature=0), strict=True):
        assert new.shape == (11,) and new.dtype == np.int64
        kept = prompt[3 * (len(prompt) > 7):]
        for token in new:  # a context of 7 that is full drops its 3 oldest
            kept = kept[3 * (len(kept) > 7):]
            assert token == MODEL.logits(np.array([kept]))[0, -1].argmax()
            kept = [*kept, token]
    assert PROMPTS[0] == [5, 1]


@given(prompts=st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=10), min_size=1, max_size=4), seed=st.integers(0, 2 ** 40),
       options=st.sampled_from([{}, {"temperature": 2.0, "top_k": 5}, {"top_p": 0.8, "stop": [1, 4]}, {"min_p": 0.1, "repetition_penalty": 1.5}]))
def test_each_prompt_in_a_batch_is_given_the_tokens_that_it_is_given_alone(prompts, seed, options):
    together = generate(MODEL, prompts, 9, seed=seed, **options)
    for i, prompt in enumerate(prompts):
        if prompt not in prompts[:i]:
            assert lists(generate(MODEL, [prompt], 9, seed=seed, **options)) == [together[i].tolist()]


def test_the_same_prompt_several_times_is_given_several_texts_and_each_again_with_the_same_seed():
    rows = lists(generate(MODEL, [[5, 1]] * 20, 12, temperature=20.0, seed=1))
    assert len({*map(tuple, rows)}) == 20
    assert rows == lists(generate(MODEL, [[5, 1]] * 20, 12, temperature=20.0, seed=1))
    assert rows[:3] == lists(generate(MODEL, [[5, 1]] * 3, 12, temperature=20.0, seed=1))
    assert rows != lists(generate(MODEL, [[5, 1]] * 20, 12, temperature=20.0, seed=2))
    assert lists(generate(MODEL, [[5, 1]], 12, temperature=20.0)) != lists(generate(MODEL, [[5, 1]], 12, temperature=20.0))


@pytest.mark.parametrize("options", [later(dict(temperature=3.0)), dict(temperature=4.0, top_p=0.95, repetition_penalty=1.2)])
def test_the_first_tokens_of_many_texts_are_as_many_as_the_filtered_softmax_says(options):
    n = 3000
    drawn = np.bincount(np.concatenate(generate(MODEL, [[5, 1]] * n, 1, seed=3, **options)), minlength=13)
    p = softmax(Filters(**options)(MODEL.logits(np.array([[5, 1]]))[0, -1], [5, 1]))
    assert not drawn[p == 0].any()
    common = np.argsort(-p)[:(np.count_nonzero(n * p >= 5) - 1) // 2 * 2 + 1]  # an odd number of kinds, for the bound
    rest = np.setdiff1d(np.arange(13), common)
    assert len(common) >= 5
    counts, expected = drawn[common], n * p[common]
    counts[0] += drawn[rest].sum()  # what is too rare for the bound is counted with the most common
    expected[0] += n * p[rest].sum()
    assert chance(counts, expected) > 1e-6


def test_a_stop_token_is_the_last_of_its_text_and_the_others_go_on():
    free = generate(MODEL, PROMPTS, 11, temperature=20.0, seed=4)
    stop = int(free[0][4])
    stopped = generate(MODEL, PROMPTS, 11, temperature=20.0, seed=4, stop=stop)
    for whole, row in zip(lists(free), lists(stopped), strict=True):
        assert row == (whole[:whole.index(stop) + 1] if stop in whole else whole)
    assert len({len(row) for row in stopped}) > 1


def test_a_stop_string_ends_a_text_with_the_token_that_completes_it_and_one_that_never_comes_ends_nothing():
    free = generate(MODEL, PROMPTS, 11, temperature=20.0, seed=4, stop=[12], tokenizer=CHARACTERS)
    text = CHARACTERS.decode(free[0])
    stop = text[2:5]
    assert len(text) > 5
    for strings in ([stop], ["zz", stop], [stop, stop + "x" * 9]):
        stopped = generate(MODEL, PROMPTS, 11, temperature=20.0, seed=4, stop=[12, *strings], tokenizer=CHARACTERS)
        for whole, row in zip(free, stopped, strict=True):
            end = CHARACTERS.decode(whole).find(stop)
            assert row.tolist() == whole[:len(whole) if end < 0 else end + 3].tolist()
    never = generate(MODEL, PROMPTS, 11, temperature=20.0, seed=4, stop=[12, "zzz"], tokenizer=CHARACTERS)
    assert lists(never) == lists(free)


def test_a_stop_string_is_met_across_tokens_that_are_parts_of_a_character_and_in_the_midst_of_one():
    tokenizer = BPETokenizer.train("abcé " * 9, 260)
    model = model_of(n_vocab=260, n_ctx=16)
    pieces = [tokenizer.encode(bytes([byte]))[0] for byte in "é".encode()]
    longer = next(i for i in range(257, 260) if len(tokenizer.decode([i])) > 1)
    ending = next(i for i in range(256) if tokenizer.decode([i]) == "a")
    for script, stop, n in (([*pieces, 65, 66], "é", 2), ([longer, 65], tokenizer.decode([longer])[0], 1),
                            ([ending, *pieces, ending], "aéa", 4)):
        Script(model, script)
        [ids] = generate(model, [[1]], len(script), temperature=0, stop=stop, tokenizer=tokenizer)
        assert ids.tolist() == script[:n]


class Script:
    """A head by which a model says these tokens, whatever it is shown."""

    def __init__(self, model, tokens):
        self.tokens, self.n_vocab = iter(tokens), model.config.n_vocab
        model.head = self

    def logits(self, x):
        return np.where(np.arange(self.n_vocab) == next(self.tokens), 1.0, 0.0)[None].repeat(len(x), 0)


def test_streaming_gives_each_token_before_the_next_is_made_and_in_all_the_same():
    whole, logprobs = generate(MODEL, PROMPTS, 5, seed=5, stop=[1], logprobs=True)
    rows = [[] for _ in PROMPTS]
    for row, token, logprob in generate(MODEL, PROMPTS, 5, seed=5, stop=[1], logprobs=True, stream=True):
        assert logprobs[row][len(rows[row])] == logprob
        rows[row].append(token)
    assert rows == lists(whole)
    assert [*generate(MODEL, [[5]], 3, seed=5, stream=True)] == [(0, token) for token in generate(MODEL, [[5]], 3, seed=5)[0]]
    model = model_of(n_ctx=7)
    Script(model, [3, 4, 5])
    stream = generate(model, [[1]], 50, temperature=0, stream=True)
    assert [*itertools.islice(stream, 3)] == [(0, 3), (0, 4), (0, 5)]  # a fourth would want a fourth of the script


def test_logprobs_are_the_model_s_before_any_filter():
    ids, logprobs = generate(MODEL, [[5, 1]], 5, temperature=3.0, top_k=4, repetition_penalty=1.5, seed=0, logprobs=True)
    expected = log_softmax(MODEL.logits(np.array([[5, 1, *ids[0]]]))[0])
    assert np.abs(logprobs[0] - expected[np.arange(1, 6), ids[0]]).max() <= TOLERANCE and logprobs[0].dtype == np.float64


def test_text_is_a_prompt_where_there_is_a_tokenizer_and_an_empty_one_begins_with_its_end():
    options = dict(temperature=2.0, seed=0, tokenizer=CHARACTERS)
    assert lists(generate(MODEL, ["fb", ""], 6, **options)) == lists(generate(MODEL, [[5, 1], [12]], 6, **options))
    assert generate(MODEL, [], 6) == [] and generate(MODEL, [], 6, logprobs=True) == ([], [])
    assert [*generate(MODEL, [], 6, stream=True)] == []


@pytest.mark.parametrize("options", [dict(temperature=100.0, seed=0), dict(temperature=0), dict(beams=4)])
def test_what_the_tokenizer_has_no_token_for_is_never_written(options):
    few = CharTokenizer("abc")  # of the model's 13
    rows, logprobs = generate(MODEL, [[0], [2, 1]], 50, tokenizer=few, logprobs=True, **options)
    assert np.concatenate(rows).max() < 3
    for prompt, ids, one in zip(([0], [2, 1]), rows, logprobs):
        first = log_softmax(MODEL.logits(np.array([prompt]))[0, -1])[ids[0]]
        assert abs(one[0] - first) <= TOLERANCE  # of all that the model knows


@pytest.mark.parametrize("prompts, options, error, says", [
    ([[]], {}, ValueError, "a prompt is empty, and there is no tokenizer= to say what a text begins with: give at least one token"),
    ([""], {"tokenizer": CharTokenizer("abc")}, ValueError, "no end of text in the tokenizer"),
    ("ab", {"tokenizer": CHARACTERS}, TypeError, "prompts are several: put a single one into a list"),
    ([1, 2], {}, TypeError, "prompts are several"), (np.array([1, 2]), {}, TypeError, "prompts are several"),
    (["ab"], {}, ValueError, "a prompt of text needs tokenizer="), (["az"], {"tokenizer": CHARACTERS}, ValueError, "lacks 'z'"),
    ([[1.0]], {}, TypeError, "a row of token ids; got float64"), ([[[1]]], {}, TypeError, r"of shape \(1, 1\)"),
    ([[1], [13]], {}, ValueError, "ids from 13 to 13; the model's run from 0 to 12"), ([[-1]], {}, ValueError, "ids from -1"),
    ([[1]], {"n_tokens": 0}, ValueError, "n_tokens must be at least 1; got 0"),
    ([[1]], {"n_tokens": 2.0}, TypeError, "n_tokens must be a whole number"),
    ([[1]], {"temperature": -1}, ValueError, "temperature must be 0"), ([[1]], {"temperature": math.nan}, ValueError, "got nan"),
    ([[1]], {"top_p": 0}, ValueError, "top_p must be above 0"),
    ([[1]], {"stop": 13}, ValueError, "stop has tokens from 0 to 12"), ([[1]], {"stop": "", "tokenizer": CHARACTERS}, ValueError, "not empty"),
    ([[1]], {"stop": "ab"}, ValueError, "to stop at 'ab', its text has to be seen: give tokenizer="),
    ([[1]], {"seed": -1}, ValueError, "seed must be a whole number from 0 on; got -1"),
    ([[1]], {"seed": 0.5}, TypeError, "seed must be a whole number"),
])
@pytest.mark.parametrize("stream", [False, True])
def test_wrong_calls_are_refused_with_a_sentence_before_anything_is_made(prompts, options, error, says, stream):
    with pytest.raises(error, match=says):
        generate(MODEL, prompts, **{"n_tokens": 3, "stream": stream, **options})


def test_a_generator_of_the_caller_s_is_not_taken_for_a_seed():
    with pytest.raises(TypeError, match="seed must be a whole number"):
        generate(MODEL, [[1]], 3, seed=np.random.default_rng(0))


def test_prompts_of_one_checksum_have_generators_of_their_own():
    """Which of them stands first in a call makes no difference to the other."""
    one, other = [37, 5, 28, 44, 11, 20, 53, 14], [6, 34, 7, 52, 20, 20, 2, 33]
    model = cases.order_one(GPT(GPTConfig(n_vocab=65, n_ctx=8, n_layer=1, n_head=2, n_embd=6)), np.random.default_rng(0))
    alone = generate(model, [other], 12, seed=0)[0]
    np.testing.assert_array_equal(generate(model, [one, other], 12, seed=0)[1], alone)


def test_a_stop_that_is_no_id_is_refused():
    model = GPT(GPTConfig(n_vocab=5, n_ctx=4, n_layer=1, n_head=1, n_embd=2))
    with pytest.raises(TypeError, match="a stop token must be a whole number"):
        generate(model, [[1]], 2, stop=[1.9])
