"""GPTConfig: what it says, what it refuses, and the presets."""

import json
import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from numgpt import GPTConfig
from numgpt.config import PRESETS

SIZES = dict(n_vocab=11, n_ctx=7, n_layer=2, n_head=3, n_embd=12)


@pytest.mark.parametrize("changes, sentence", [
    ({"n_embd": 13}, "n_embd 13 does not split into n_head 3: choose a divisor of 13, or say head_size"),
    ({"n_layer": 0}, r"n_layer must be from 1 to 2\*\*31 - 1; got 0"),
    ({"n_vocab": 1 << 31}, r"n_vocab must be from 1 to 2\*\*31 - 1; got 2147483648"),
    ({"n_head": 3.0}, "n_head must be a whole number; got 3.0"),
    ({"n_ctx": True}, "n_ctx must be a whole number; got True"),
    ({"n_ctx": None}, "n_ctx must be a whole number; got None"),
    ({"n_hidden": "48"}, "n_hidden must be a whole number; got '48'"),
    ({"window": 0}, "window must be from 1"),
    ({"norm": "middle"}, "norm must be one of pre, post; got 'middle'"),
    ({"activation": "gelu_new"}, "activation must be one of gelu_tanh, gelu, relu, quick_gelu, silu; got 'gelu_new'"),
    ({"activation": ["gelu"]}, "activation must be one of"),
    ({"positions": "rotary"}, "positions must be one of learned, sinusoidal; got 'rotary'"),
    ({"norm_eps": 0}, "norm_eps must be above 0, or a constant row would be divided by 0; got 0"),
    ({"norm_eps": math.nan}, "norm_eps must be above 0"),
    ({"norm_eps": None}, "norm_eps must be a number; got None"),
    ({"activation": np.array(["gelu"])}, "activation must be one of"),
    ({"norm_eps": np.True_}, "norm_eps must be a number; got"),
    ({"tied": 1}, "tied must be True or False; got 1"),
    ({"dropout_attn": 1.0}, "dropout_attn must be at least 0 and below 1; got 1.0"),
    ({"dropout_embd": "0.1"}, "dropout_embd must be a number; got '0.1'"),
    ({"std": -0.02}, "std must be a finite number, 0 or above; got -0.02"),
    ({"std_residual": math.inf}, "std_residual must be a finite number"),
    ({"n_embed": 12}, "a config has no field 'n_embed'; 'n_embd'?"),
])
def test_a_wrong_config_is_refused_with_a_sentence(changes, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        GPTConfig.from_dict({**SIZES, **changes})


def test_what_has_no_default_must_be_said():
    with pytest.raises(ValueError, match="a config must say n_ctx, n_head"):
        GPTConfig.from_dict({"n_vocab": 11, "n_layer": 2, "n_embd": 12})
    with pytest.raises(TypeError, match="made from names and values; got list"):
        GPTConfig.from_dict([1, 2])


def test_a_config_is_frozen_compares_by_value_and_survives_json():
    config = GPTConfig(**SIZES, window=np.int64(3), norm_eps=np.float32(0.5), head_size=5)
    with pytest.raises(FrozenInstanceError):
        config.n_layer = 3
    again = GPTConfig.from_dict(json.loads(config.to_json()))
    assert again == config and hash(again) == hash(config)
    assert config.change(n_layer=3) == GPTConfig(**{**SIZES, "n_layer": 3}, window=3, norm_eps=0.5, head_size=5)


def test_what_follows_from_the_fields():
    config = GPTConfig(**SIZES)
    assert (config.hidden_dim, config.head_dim) == (48, 4)
    assert GPTConfig(**SIZES, n_hidden=5, head_size=7).hidden_dim == 5
    assert GPTConfig(**SIZES, head_size=7).head_dim == 7
    assert [config.change(window=3).window_of(i) for i in range(4)] == [None, 3, None, 3]
    for by_layer in (False, True):
        for scaled in (False, True):
            c = config.change(scale_attn=scaled, scale_attn_by_layer=by_layer)
            # As GPT-2's code divides: by sqrt(D), then by layer + 1.
            assert c.scale(2) == pytest.approx((1 / 2 if scaled else 1) / (3 if by_layer else 1), rel=1e-15)


def test_an_unknown_preset_names_a_near_one_and_all():
    with pytest.raises(ValueError, match=r"there is no preset \['gpt2'\]"):
        GPTConfig.preset(["gpt2"])
    with pytest.raises(ValueError, match="there is no preset 'gpt2-meduim', but there is 'gpt2-medium': choose one of nano"):
        GPTConfig.preset("gpt2-meduim")


def test_a_preset_takes_changes_and_none_that_it_does_not_know():
    assert GPTConfig.preset("gpt2", n_ctx=256).n_ctx == 256
    with pytest.raises(ValueError, match="no field 'n_context'"):
        GPTConfig.preset("gpt2", n_context=256)


@pytest.mark.parametrize("name, n_params", [
    # As published with the weights (GPT-1: 116.5 M; GPT-2: 124, 355, 774, 1558 M).
    ("gpt1", 116_534_784), ("gpt2", 124_439_808), ("gpt2-medium", 354_823_168), ("gpt2-large", 774_030_080),
    ("gpt2-xl", 1_557_611_200)])
def test_the_papers_presets_have_the_published_number_of_parameters(name, n_params):
    assert GPTConfig.preset(name).n_params == n_params


@pytest.mark.parametrize("name, layers, width, heads, head_size, billions", [
    # Table 2.1 of the GPT-3 paper. XL's heads, 24 of 128, are wider than its 2048 channels, and make it 1.5.
    ("gpt3-125m", 12, 768, 12, 64, 0.125), ("gpt3-350m", 24, 1024, 16, 64, 0.356), ("gpt3-760m", 24, 1536, 16, 96, 0.760),
    ("gpt3-1.3b", 24, 2048, 24, 128, 1.52), ("gpt3-2.7b", 32, 2560, 32, 80, 2.65), ("gpt3-6.7b", 32, 4096, 32, 128, 6.66),
    ("gpt3-13b", 40, 5140, 40, 128, 12.9), ("gpt3-175b", 96, 12288, 96, 128, 174.6)])
def test_gpt3s_sizes_are_those_of_its_paper(name, layers, width, heads, head_size, billions):
    c = GPTConfig.preset(name)
    assert (c.n_layer, c.n_embd, c.n_head, c.head_dim, c.n_ctx, c.hidden_dim) == (layers, width, heads, head_size, 2048, 4 * width)
    assert (c.window_of(0), c.window_of(1)) == (None, 256)
    assert c.n_params / 1e9 == pytest.approx(billions, rel=5e-3)


def test_classic_is_the_decoder_of_the_first_write_ups():
    c = GPTConfig.preset("classic")
    assert (c.n_vocab, c.n_embd, c.n_head, c.n_layer, c.hidden_dim, c.n_ctx) == (10000, 512, 8, 6, 2048, 100)
    assert (c.norm, c.activation, c.tied, c.head_bias, c.std_positions) == ("post", "relu", False, True, 0.0)


def test_the_presets_for_learning():
    char, cpu = GPTConfig.preset("char"), GPTConfig.preset("char-cpu")
    assert (char.n_layer, char.n_embd, char.n_ctx) == (6, 384, 256)
    assert (cpu.n_layer, cpu.n_embd, cpu.n_ctx) == (4, 128, 64)
    assert GPTConfig.preset("nano").n_params < 5000
    assert set(PRESETS) >= {"nano", "char", "char-cpu", "classic", "gpt1", "gpt2"}
