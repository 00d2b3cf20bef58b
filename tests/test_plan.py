"""The plan beside the model it speaks of."""

import gc
import json
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numgpt import GPT, GPTConfig
from numgpt.config import PRESETS
from numgpt.layers.attention import tiles
from numgpt.plan import _scores, human, shapes
from numgpt.verify import cases
from stages import later

VARIATIONS = [{}, {"norm": "post"}, {"bias": False}, {"tied": False}, {"tied": False, "head_bias": True}, {"head_bias": True},
              {"positions": "sinusoidal"}, {"head_size": 7}, {"n_hidden": 5}, {"window": 3}, {"n_layer": 1, "window": 2}, {"n_embd": 300, "n_vocab": 2000},
              {"dropout_embd": 0.1}, {"dropout_attn": 0.1}, {"dropout_resid": 0.1},
              {"dropout_embd": 0.1, "dropout_attn": 0.1, "dropout_resid": 0.1, "norm": "post", "n_layer": 3, "window": 70}]


def config_of(**changes) -> GPTConfig:
    return GPTConfig(**{**dict(n_vocab=13, n_ctx=131, n_layer=2, n_head=3, n_embd=15), **changes})


@pytest.mark.parametrize("config", [config_of(**v) for v in VARIATIONS] + [cases.small(name) for name in PRESETS])
def test_the_shapes_are_those_of_the_model_in_its_order(config):
    model = GPT(config)
    assert list(shapes(config)) == [(name, param.shape) for name, param in model.named_params()]
    assert config.n_params == model.n_params == sum(param.size for param in model.params())


def kept(saved, given=()) -> int:
    """Bytes of all arrays that are reached from saved, views counted as what they keep alive; once each."""
    seen, todo = {}, [saved]
    while todo:
        item = todo.pop()
        if isinstance(item, np.ndarray):
            while isinstance(item.base, np.ndarray):
                item = item.base
            seen[id(item)] = item
        elif isinstance(item, (tuple, list)):
            todo += item
        elif isinstance(item, dict):
            todo += item.values()
    return sum(array.nbytes for array in seen.values() if not any(array is one for one in given))


# The wide one takes a second, and is here for what is kept in blocks; of its two dtypes one waits.
@pytest.mark.parametrize("dtype, changes", [later(dtype, changes) if dtype == "float64" and changes.get("n_embd") == 300 else (dtype, changes)
                                            for dtype in ("float32", "float64") for changes in VARIATIONS], ids=str)
def test_the_saved_bytes_are_those_that_forward_keeps(dtype, changes):
    config, B, T = config_of(**changes), 2, 129  # T over two tiles of attention's queries, and one more
    ids = np.random.default_rng(0).integers(0, config.n_vocab, (B, T))
    for recompute in (False, True):
        model = GPT(config, dtype=dtype, recompute=recompute)
        loss, saved = model.forward(ids, ids, rng=np.random.default_rng(1))
        plan = config.plan(batch=B, n_tokens=T, dtype=dtype)
        if not recompute:
            assert kept(saved, given=[ids]) == plan.saved
        else:  # one block is whole while backward runs it again; the largest sees all keys
            block = model.body.blocks[0].layer
            x = np.zeros((B, T, config.n_embd), dtype)
            whole = kept(block.forward(x, rng=np.random.default_rng(1))[1], given=[] if config.norm == "post" else [x])
            assert kept(saved, given=[ids]) + whole == plan.saved_recompute


def test_weights_gradients_and_moments_are_one_one_and_two_numbers_a_parameter():
    plan = config_of().plan(dtype="float64")
    model = GPT(config_of(), dtype=np.float64)
    assert plan.weights == model.values.nbytes and plan.gradients == model.grads.nbytes
    assert plan.moments == 2 * plan.weights


@pytest.mark.parametrize("changes", VARIATIONS, ids=str)
def test_flops_are_two_for_each_multiplication_that_a_query_needs(changes):
    config, T = config_of(**changes), 129
    C, width, V = config.n_embd, config.n_head * config.head_dim, config.n_vocab
    total = T * 2 * C * V  # the head
    for layer in range(config.n_layer):
        window = config.window_of(layer) or T
        total += T * 2 * (C * 3 * width + width * C + 2 * C * config.hidden_dim)
        for t in range(T):
            total += 2 * 2 * width * min(t + 1, window)  # q with each key it sees, and p with each value
    plan = config.plan(n_tokens=T)
    assert plan.flops_forward == pytest.approx(total / T, rel=1e-12)
    assert plan.flops_training == 3 * plan.flops_forward
    assert plan.flops_training_recompute == pytest.approx(4 * plan.flops_forward - 2 * C * V, rel=1e-12)
    assert GPT(config).flops_per_token(T, training=True) == config.flops_per_token(T, training=True) == plan.flops_training


def test_planning_gpt3_takes_no_memory():
    GPTConfig.preset("gpt3-175b").plan()
    gc.collect()
    tracemalloc.start()
    plan = GPTConfig.preset("gpt3-175b").plan(batch=32)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert plan.n_params == 174_604_259_328 and plan.weights == 4 * plan.n_params
    assert peak < 1e6  # bytes, for a plan of terabytes


def test_a_plan_of_gpt2_in_words_and_in_json():
    plan = GPTConfig.preset("gpt2").plan(batch=4, n_tokens=64)
    words = str(plan)
    assert "parameters    124,439,808" in words and "498 MB  float32" in words and "at 4 x 64 tokens" in words
    assert json.loads(plan.to_json())["saved"] == plan.saved


@pytest.mark.parametrize("options, sentence", [
    ({"batch": 0}, "batch must be at least 1; got 0"), ({"n_tokens": 132}, "132 tokens does not fit into a context of 131"),
    ({"n_tokens": 1.5}, "n_tokens must be a whole number; got 1.5"), ({"dtype": "int8"}, "floating-point numbers; int8")])
def test_a_wrong_batch_is_refused(options, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        config_of().plan(**options)


def test_human_numbers_have_three_digits():
    assert [human(n, "B") for n in (0, 999, 1000, 999_499, 999_500, 123_456_789, 7e12)] == [
        "0 B", "999 B", "1 kB", "999 kB", "1 MB", "123 MB", "7 TB"]
    assert [human(10.0 ** n, "B") for n in (18, 21, 24, 27)] == ["1 EB", "1 ZB", "1 YB", "1e+03 YB"]


@given(st.integers(1, 700), st.none() | st.integers(1, 800))
def test_scores_are_counted_as_attention_tiles_them(T, window):
    counted = sum((q.stop - q.start) * (k.stop - k.start) for q, k in tiles(T, T, window or math.inf))
    assert _scores(T, window) == counted


def test_a_context_of_billions_is_planned_at_once():
    assert GPTConfig.preset("gpt3-175b", n_ctx=2 ** 31 - 1).plan().saved > 1e19
