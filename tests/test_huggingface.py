"""Hugging Face's folders, written by hand: what config.json says is followed, or refused by name.

`logits_of` is what transformers' GPT-2 and GPT-1 compute, in a page of float64 that reads the folder's own names.
"""

import dataclasses
import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numgpt import safetensors
from numgpt.bfloat16 import BFloat16
from numgpt.config import GPTConfig
from numgpt.files import FormatError
from numgpt.formats import huggingface
from numgpt.formats.huggingface_config import read_config, write_config
from numgpt.model import GPT

# Apart from the heads, which must divide the width, no two sizes share a factor, so that none can stand for another.
GPT2 = {"model_type": "gpt2", "vocab_size": 17, "n_positions": 7, "n_embd": 10, "n_layer": 3, "n_head": 2,
        "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
GPT1 = {**GPT2, "model_type": "openai-gpt"}
CONFIG = GPTConfig(n_vocab=17, n_ctx=7, n_embd=10, n_layer=3, n_head=2)
IDS = np.array([[3, 0, 16, 3, 8, 1, 1], [5, 5, 2, 12, 0, 9, 4]])


# -- the published names and mathematics


def tensors_for(said, *, prefix="transformer.", dtype=np.float32, seed=0):
    """Their tensors by their names, of order one: matrices keep the size of what they multiply."""
    rng = np.random.default_rng(seed)
    V, T, C, L = (said[name] for name in ("vocab_size", "n_positions", "n_embd", "n_layer"))
    F = said.get("n_inner") or 4 * C
    tables = ("wte", "wpe") if said["model_type"] == "gpt2" else ("tokens_embed", "positions_embed")
    shapes = {f"{tables[0]}.weight": (V, C), f"{tables[1]}.weight": (T, C)}
    for i in range(L):
        for name, shape in (("ln_1", (C,)), ("attn.c_attn", (C, 3 * C)), ("attn.c_proj", (C, C)), ("ln_2", (C,)),
                            ("mlp.c_fc", (C, F)), ("mlp.c_proj", (F, C))):
            shapes |= {f"h.{i}.{name}.weight": shape, f"h.{i}.{name}.bias": shape[-1:]}
    if said["model_type"] == "gpt2":
        shapes |= {"ln_f.weight": (C,), "ln_f.bias": (C,)}
    tensors = {}
    for name, shape in shapes.items():
        fan_in = shape[0] if name.startswith("h.") and len(shape) == 2 else 1
        tensors[prefix + name] = (rng.standard_normal(shape) / math.sqrt(fan_in)).astype(dtype)
    if not said.get("tie_word_embeddings", True):
        tensors["lm_head.weight"] = rng.standard_normal((V, C)).astype(dtype)
    return tensors


def tanh_gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def silu(x):
    return x / (1 + np.exp(-x))


def relu(x):
    return np.maximum(x, 0)


def quick_gelu(x):
    return x / (1 + np.exp(-1.702 * x))


ACTIVATIONS = {"gpt2": {"gelu_new": tanh_gelu, "gelu_pytorch_tanh": tanh_gelu, "gelu_fast": tanh_gelu,
                        "gelu_accurate": tanh_gelu, "gelu_python_tanh": tanh_gelu, "gelu": gelu, "gelu_python": gelu,
                        "quick_gelu": quick_gelu, "relu": relu, "silu": silu, "swish": silu},
               "openai-gpt": {"gelu": tanh_gelu, "relu": relu, "silu": silu, "swish": silu}}


def logits_of(said, tensors, ids):
    gpt2 = said["model_type"] == "gpt2"
    activation = said.get("activation_function", "gelu_new") if gpt2 else said.get("afn", "gelu")
    f = ACTIVATIONS[said["model_type"]][activation]
    w = {name.removeprefix("transformer."): tensor.astype(np.float64) for name, tensor in tensors.items()}
    (B, T), C, H = ids.shape, said["n_embd"], said["n_head"]

    def linear(x, name):
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    def norm(x, name):
        c = x - x.mean(-1, keepdims=True)
        c /= np.sqrt((c * c).mean(-1, keepdims=True) + said.get("layer_norm_epsilon", 1e-5))
        return c * w[f"{name}.weight"] + w[f"{name}.bias"]

    def attention(x, i):
        q, k, v = (z.reshape(B, T, H, C // H).swapaxes(1, 2) for z in np.split(linear(x, f"h.{i}.attn.c_attn"), 3, -1))
        scores = q @ k.mT
        if said.get("scale_attn_weights", True):
            scores = scores / math.sqrt(C // H)
        if said.get("scale_attn_by_inverse_layer_idx", False):
            scores = scores / (i + 1)
        p = np.exp(np.where(np.tri(T, dtype=bool), scores, -1e4))  # scores of order one need no shift
        return linear((p / p.sum(-1, keepdims=True) @ v).swapaxes(1, 2).reshape(B, T, C), f"h.{i}.attn.c_proj")

    def mlp(x, i):
        return linear(f(linear(x, f"h.{i}.mlp.c_fc")), f"h.{i}.mlp.c_proj")

    table = w["wte.weight" if gpt2 else "tokens_embed.weight"]
    x = table[ids] + w["wpe.weight" if gpt2 else "positions_embed.weight"][:T]
    for i in range(said["n_layer"]):
        if gpt2:
            x = x + attention(norm(x, f"h.{i}.ln_1"), i)
            x = x + mlp(norm(x, f"h.{i}.ln_2"), i)
        else:
            x = norm(x + attention(x, i), f"h.{i}.ln_1")
            x = norm(x + mlp(x, i), f"h.{i}.ln_2")
    if gpt2:
        x = norm(x, "ln_f")
    return x @ w.get("lm_head.weight", table).T


def write(folder, said=GPT2, tensors=None):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(said))
    safetensors.write(folder / "model.safetensors", tensors_for(said) if tensors is None else tensors)
    return folder


def differ(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


def values(model):
    return {name: param.value for name, param in model.named_params()}


# -- what config.json says is followed

SAYS_THE_SAME = [
    (GPT2, {}), (GPT2, {"activation_function": "gelu_new"}), (GPT2, {"activation_function": "gelu_pytorch_tanh"}),
    (GPT2, {"activation_function": "gelu_fast"}), (GPT2, {"activation_function": "gelu_accurate"}),
    (GPT2, {"activation_function": "gelu_python_tanh"}),
    (GPT2, {"n_inner": None}), (GPT2, {"layer_norm_epsilon": 1e-5}),
    (GPT2, {"scale_attn_weights": True}), (GPT2, {"scale_attn_by_inverse_layer_idx": False}),
    (GPT2, {"tie_word_embeddings": True}), (GPT2, {"add_cross_attention": False, "pruned_heads": {}, "n_inner": 40}),
    (GPT2, {"reorder_and_upcast_attn": True}),  # a matter of precision alone
    (GPT2, {"use_cache": True, "summary_type": "cls_index", "torch_dtype": "float32", "task_specific_params": {}}),
    (GPT1, {}), (GPT1, {"afn": "gelu"}), (GPT1, {"activation_function": "relu"}),  # which GPT-1 does not look at
    (GPT1, {"n_special": 0, "predict_special_tokens": True, "n_ctx": 7}),
]
SAYS_ANOTHER = [
    *((GPT2, {"activation_function": name}) for name in ("gelu", "gelu_python", "quick_gelu", "relu", "silu", "swish")),
    (GPT2, {"n_inner": 13}), (GPT2, {"layer_norm_epsilon": 0.1}), (GPT2, {"scale_attn_weights": False}),
    (GPT2, {"scale_attn_by_inverse_layer_idx": True}),
    (GPT2, {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True}),
    (GPT2, {"tie_word_embeddings": False}), (GPT2, {"n_head": 5}), (GPT2, {"n_head": 1}), (GPT2, {"n_layer": 1}),
    *((GPT1, {"afn": name}) for name in ("relu", "silu", "swish")),
    (GPT1, {"layer_norm_epsilon": 0.1}), (GPT1, {"tie_word_embeddings": False}), (GPT1, {"n_head": 5}),
]


def label(item):
    return item.get("model_type") or ",".join(f"{name}={said}" for name, said in item.items()) or "plain"


@pytest.mark.parametrize("base, change", SAYS_THE_SAME + SAYS_ANOTHER, ids=label)
def test_the_logits_are_those_of_their_mathematics(tmp_path, base, change):
    # Two orders of the same float64 sums, three layers deep: 1.4e-15 at most over five draws.
    said = {**base, **change}
    tensors = tensors_for(said)
    model = huggingface.load(write(tmp_path / "m", said, tensors), dtype=np.float64)
    assert differ(model.logits(IDS), logits_of(said, tensors, IDS)) < 1e-13


@pytest.mark.parametrize("base, change", SAYS_ANOTHER, ids=label)
def test_a_field_that_changes_the_mathematics_changes_the_logits(base, change):
    said = {**base, **change}
    # The least is 1.1e-4, between the two GELUs.
    assert differ(logits_of(said, tensors_for(said), IDS), logits_of(base, tensors_for(base), IDS)) > 1e-5


@pytest.mark.parametrize("base, change", SAYS_THE_SAME, ids=label)
def test_a_default_spelled_out_gives_the_same_config(base, change):
    ours = [read_config({**base, **said}, "here")[1] for said in (change, {})]
    assert ours[0].hidden_dim == ours[1].hidden_dim == 40
    assert ours[0].change(n_hidden=None) == ours[1]


@pytest.mark.parametrize("said, preset, n_params", [({"model_type": "gpt2"}, "gpt2", 124_439_808),
                                                    ({"model_type": "openai-gpt"}, "gpt1", 116_534_784)])
def test_fields_that_are_left_out_mean_what_the_published_model_has(said, preset, n_params):
    kind, config = read_config(said, "here")
    assert kind == said["model_type"]
    assert config == GPTConfig.preset(preset)
    assert config.n_params == n_params  # as published, counted without building it
    assert config.dropout_embd == config.dropout_attn == config.dropout_resid == 0.1


@pytest.mark.parametrize("theirs, said, ours", [
    ("embd_pdrop", 0.25, {"dropout_embd": 0.25}), ("attn_pdrop", 0.5, {"dropout_attn": 0.5}),
    ("resid_pdrop", 0.75, {"dropout_resid": 0.75}), ("initializer_range", 0.5, {"std": 0.5}),
    ("embd_pdrop", 0, {"dropout_embd": 0.0}),
])
def test_settings_of_training_are_read(theirs, said, ours):
    assert read_config({**GPT2, theirs: said}, "here")[1] == CONFIG.change(**ours)


def test_gpt1_is_post_norm_and_all_its_weights_start_alike():
    kind, config = read_config({**GPT1, "initializer_range": 0.5}, "here")
    assert kind == "openai-gpt" and config == CONFIG.change(norm="post", std=0.5, std_residual=0.5)


@pytest.mark.parametrize("base", [GPT2, GPT1], ids=label)
def test_other_names_of_a_field_mean_the_same(base):
    aliases = {"n_embd": "hidden_size", "n_positions": "max_position_embeddings", "n_head": "num_attention_heads",
               "n_layer": "num_hidden_layers"}
    renamed = {aliases.get(name, name): said for name, said in base.items()}
    assert not renamed.keys() & aliases.keys()
    assert read_config(renamed, "here") == read_config({**renamed, **base}, "here") == read_config(base, "here")
    for name, alias in aliases.items():
        with pytest.raises(FormatError, match=f"here: {name} is {base[name]} and {alias}, its other name, is 5$"):
            read_config({**base, alias: 5}, "here")


@pytest.mark.parametrize("architecture, kind", [("GPT2LMHeadModel", "gpt2"), ("OpenAIGPTLMHeadModel", "openai-gpt")])
def test_without_a_model_type_the_architecture_says_which_it_is(architecture, kind):
    said = {name: item for name, item in GPT2.items() if name != "model_type"} | {"architectures": [architecture]}
    assert read_config(said, "here") == read_config({**GPT2, "model_type": kind}, "here")


# -- or refused by name


@pytest.mark.parametrize("change, says", [
    ({"model_type": "llama"}, "here: model_type is 'llama'; numgpt reads 'gpt2' and 'openai-gpt'"),
    ({"model_type": "gpt_bigcode"}, "here: model_type is 'gpt_bigcode'"),
    ({"model_type": None}, "here: model_type is None"),
    ({"model_type": None, "architectures": ["LlamaForCausalLM"]}, "here: model_type is None"),
    ({"model_type": None, "architectures": 5}, "here: model_type is None"),
    ({"model_type": ["gpt2"]}, r"here: model_type is \['gpt2'\]"),
    ({"add_cross_attention": True}, "here: add_cross_attention is True, which a GPT here does not have"),
    ({"is_encoder_decoder": True}, "here: is_encoder_decoder is True"),
    ({"quantization_config": {"bits": 4}}, "here: quantization_config is {'bits': 4}"),
    ({"pruned_heads": {"0": [1]}}, r"here: pruned_heads is {'0': \[1\]}"),
    ({"activation_function": "gelu_10"}, "here: activation_function is 'gelu_10'; numgpt has gelu_new, gelu_pytorch"),
    ({"activation_function": "tanh"}, "here: activation_function is 'tanh'"),
    ({"activation_function": None}, "here: activation_function is None"),
    ({"activation_function": ["gelu"]}, r"here: activation_function is \['gelu'\]"),
    ({"model_type": "openai-gpt", "afn": "gelu_new"}, "here: afn is 'gelu_new'; numgpt has gelu, relu, silu, swish"),
    ({"n_head": 3}, "here: its config is not one that numgpt can follow: n_embd 10 does not split into n_head 3"),
    ({"n_embd": None}, "here: its config is not one that numgpt can follow: n_embd must be a whole number; got None"),
    ({"n_layer": 2.5}, "n_layer must be a whole number; got 2.5"),
    ({"n_layer": 0}, "n_layer must be from 1 to"),
    ({"vocab_size": "17"}, "n_vocab must be a whole number; got '17'"),
    ({"n_inner": 0}, "n_hidden must be from 1 to"),
    ({"layer_norm_epsilon": None}, "norm_eps must be a number; got None"),
    ({"layer_norm_epsilon": 0}, "norm_eps must be above 0"),
    ({"tie_word_embeddings": "yes"}, "tied must be True or False; got 'yes'"),
    ({"scale_attn_weights": None}, "scale_attn must be True or False; got None"),
    ({"scale_attn_by_inverse_layer_idx": 1}, "scale_attn_by_layer must be True or False; got 1"),
    ({"resid_pdrop": 1.0}, "dropout_resid must be at least 0 and below 1; got 1.0"),
    ({"initializer_range": -1}, "std must be a finite number"),
], ids=lambda item: label(item) if isinstance(item, dict) else "")
def test_a_config_that_cannot_be_followed_is_refused_by_name(change, says):
    with pytest.raises(FormatError, match=says):
        read_config({**GPT2, **change}, "here")


# -- tensors


@pytest.mark.parametrize("base", [GPT2, GPT1], ids=label)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("prefix", ["transformer.", ""], ids=["prefix", "no prefix"])
def test_every_tensor_arrives_under_its_name(tmp_path, base, tied, prefix):
    said = {**base, "tie_word_embeddings": tied}
    tensors = tensors_for(said, prefix=prefix)
    found = values(huggingface.load(write(tmp_path / "m", said, tensors)))
    inside = {"norm1.gain": "ln_1.weight", "norm1.bias": "ln_1.bias", "attention.qkv": "attn.c_attn",
              "attention.out": "attn.c_proj", "norm2.gain": "ln_2.weight", "norm2.bias": "ln_2.bias",
              "ffn.up": "mlp.c_fc", "ffn.down": "mlp.c_proj"}
    outside = {"embedding.table": "wte.weight", "positions.table": "wpe.weight", "norm.gain": "ln_f.weight",
               "norm.bias": "ln_f.bias"}
    if base is GPT1:
        outside |= {"embedding.table": "tokens_embed.weight", "positions.table": "positions_embed.weight"}
    for name, value in found.items():
        if name == "head.weight":
            assert np.array_equal(value, tensors.pop("lm_head.weight").T)
        elif name.startswith("blocks."):
            _, i, rest = name.split(".", 2)
            stem = rest.removesuffix(".weight").removesuffix(".bias")
            theirs = inside.get(rest) or inside[stem] + rest.removeprefix(stem)
            assert np.array_equal(value, tensors.pop(f"{prefix}h.{i}.{theirs}")), name
        else:
            assert np.array_equal(value, tensors.pop(prefix + outside[name])), name
    assert not tensors


@pytest.mark.parametrize("base", [GPT2, GPT1], ids=label)
@pytest.mark.parametrize("prefix", ["transformer.", ""], ids=["prefix", "no prefix"])
@pytest.mark.parametrize("dtype", [np.uint8, bool, np.float64])
def test_the_masks_of_older_files_are_skipped_whatever_their_type(tmp_path, base, prefix, dtype):
    tensors = tensors_for(base, prefix=prefix)
    masks = {f"{prefix}h.{i}.attn.bias": np.tri(7, dtype=dtype).reshape(1, 1, 7, 7) for i in range(3)}
    masks |= {f"{prefix}h.{i}.attn.masked_bias": np.float32(-1e4) for i in range(3)}
    plain = huggingface.load(write(tmp_path / "plain", base, tensors))
    model = huggingface.load(write(tmp_path / "masked", base, {**tensors, **masks}))
    assert model.values.dtype == np.float32 and np.array_equal(model.values, plain.values)


@pytest.mark.parametrize("base", [GPT2, GPT1], ids=label)
def test_a_tied_head_may_be_stored_a_second_time(tmp_path, base):
    tensors = tensors_for(base)
    plain = huggingface.load(write(tmp_path / "plain", base, tensors))
    table = next(iter(tensors.values()))
    model = huggingface.load(write(tmp_path / "twice", base, {**tensors, "lm_head.weight": table}))
    assert model.config.tied and np.array_equal(model.values, plain.values)


@pytest.mark.parametrize("base", [GPT2, GPT1], ids=label)
def test_a_tied_head_of_other_numbers_is_refused(tmp_path, base):
    tensors = tensors_for(base)
    name, table = next(iter(tensors.items()))
    other = table.copy()
    other[16, 9] = np.nextafter(other[16, 9], np.float32(9))
    says = (f"m: the config ties the head to {name!r}, but 'lm_head.weight' holds other numbers: "
            "say tie_word_embeddings false if it is a head of its own")
    for head in (other, table[:, :9], np.zeros((3,), np.float32)):
        with pytest.raises(FormatError, match=says):
            huggingface.load(write(tmp_path / "m", base, {**tensors, "lm_head.weight": head}))


@pytest.mark.parametrize("name", [
    "transformer.wte.weight", "transformer.wpe.weight", "transformer.h.0.ln_1.weight",
    "transformer.h.1.attn.c_attn.bias", "transformer.h.2.mlp.c_proj.weight", "transformer.ln_f.bias", "lm_head.weight"])
def test_a_missing_tensor_is_named(tmp_path, name):
    said = {**GPT2, "tie_word_embeddings": False}
    tensors = tensors_for(said)
    del tensors[name]
    with pytest.raises(FormatError, match=f"m has no tensor {name!r}, which its config calls for"):
        huggingface.load(write(tmp_path / "m", said, tensors))


@pytest.mark.parametrize("name", ["transformer.h.3.ln_1.weight", "transformer.h.0.attn.q.weight", "score.weight",
                                  "transformer.h.0.crossattention.c_attn.weight", "transformer.wte.bias", "wte.weight",
                                  "transformer.h.0.mlp.bias", "h.0.ln_1.weight"])
def test_a_tensor_without_a_place_is_named(tmp_path, name):
    with pytest.raises(FormatError, match=f"m has a tensor {name!r}, for which its config has no place"):
        huggingface.load(write(tmp_path / "m", GPT2, {**tensors_for(GPT2), name: np.ones(10, np.float32)}))


@pytest.mark.parametrize("name, shape", [
    ("transformer.wte.weight", (18, 10)), ("transformer.wpe.weight", (6, 10)), ("transformer.ln_f.weight", (11,)),
    ("transformer.h.0.attn.c_attn.weight", (30, 10)), ("transformer.h.0.mlp.c_fc.weight", (40, 10)),  # as of nn.Linear
    ("transformer.h.2.ln_2.bias", (1, 10)), ("transformer.h.1.mlp.c_fc.bias", ())])
def test_a_tensor_of_another_shape_is_named_with_both(tmp_path, name, shape):
    tensors = tensors_for(GPT2)
    wanted = tensors[name].shape
    with pytest.raises(FormatError, match=re.escape(f"calls for {wanted} as the shape of {name!r}; it is {shape}")):
        huggingface.load(write(tmp_path / "m", GPT2, {**tensors, name: np.ones(shape, np.float32)}))


def test_an_untied_head_the_wrong_way_round_is_named(tmp_path):
    said = {**GPT2, "tie_word_embeddings": False}
    tensors = tensors_for(said)
    with pytest.raises(FormatError, match="as the shape of 'lm_head.weight'; it is"):
        huggingface.load(write(tmp_path / "m", said, {**tensors, "lm_head.weight": tensors["lm_head.weight"].T}))


def test_a_config_that_claims_a_size_no_machine_has_is_refused_before_memory_is_taken(tmp_path):
    said = {**GPT2, "n_embd": 2**30, "n_layer": 2**31 - 1}
    with pytest.raises(FormatError, match="calls for .* as the shape of 'transformer.wte.weight'"):
        huggingface.load(write(tmp_path / "m", said, tensors_for(GPT2)))


# -- types


def stored_as(tensors, kind):
    return {name: BFloat16.of(a) if kind == "bfloat16" else a.astype(kind) for name, a in tensors.items()}


@pytest.mark.parametrize("kind, dtype", [("bfloat16", np.float32), ("float16", np.float32), ("float32", np.float32),
                                         ("float64", np.float64)])
def test_sixteen_bit_numbers_become_float32_and_wider_ones_stay(tmp_path, kind, dtype):
    tensors = stored_as(tensors_for(GPT2), kind)
    model = huggingface.load(write(tmp_path / "m", GPT2, tensors))
    assert model.values.dtype == dtype
    table = tensors["transformer.wte.weight"]
    assert np.array_equal(values(model)["embedding.table"], table.floats() if kind == "bfloat16" else table)


@pytest.mark.parametrize("others, dtype", [("bfloat16", np.float32), ("float16", np.float32), ("float64", np.float64)])
def test_of_several_types_the_widest_holds_them_all(tmp_path, others, dtype):
    tensors = tensors_for(GPT2)
    some = {name: a for name, a in tensors.items() if name.endswith("weight")}
    model = huggingface.load(write(tmp_path / "m", GPT2, {**tensors, **stored_as(some, others)}))
    assert model.values.dtype == dtype
    assert np.array_equal(values(model)["norm.bias"], tensors["transformer.ln_f.bias"])


@pytest.mark.parametrize("kind", ["int64", "int8", "uint8", "bool"])
def test_weights_that_are_whole_numbers_are_refused_by_name(tmp_path, kind):
    tensors = tensors_for(GPT2)
    tensors["transformer.h.1.ln_1.bias"] = np.ones(10, kind)
    says = f"tensor 'transformer.h.1.ln_1.bias' has the type {kind}; weights are floating-point numbers"
    with pytest.raises(FormatError, match=says):
        huggingface.load(write(tmp_path / "m", GPT2, tensors))


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float32", "float64"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_the_callers_dtype_goes_before_the_files(tmp_path, kind, dtype):
    folder = write(tmp_path / "m", GPT2, stored_as(tensors_for(GPT2), kind))
    model = huggingface.load(folder, dtype=dtype)
    assert model.values.dtype == dtype and np.array_equal(model.values, huggingface.load(folder).values.astype(dtype))


@pytest.mark.parametrize("said", [GPT2, GPT1, {**GPT2, "tie_word_embeddings": False}], ids=["gpt2", "gpt1", "untied"])
def test_loaded_parameters_are_views_of_one_array_row_after_row(tmp_path, said):
    model = huggingface.load(write(tmp_path / "m", said))
    assert np.array_equal(model.values, np.concatenate([param.value.ravel() for param in model.params()]))
    for name, param in model.named_params():
        assert np.shares_memory(param.value, model.values) and param.value.flags.c_contiguous, name
        assert np.shares_memory(param.grad, model.grads) and not param.grad.any(), name
    assert model.values.flags.writeable


def test_a_loaded_model_does_without_its_files(tmp_path):
    model = huggingface.load(write(tmp_path / "m"))
    before = model.values.copy()
    write(tmp_path / "m", GPT2, tensors_for(GPT2, seed=1))
    assert np.array_equal(model.values, before)


# -- shards


def sharded(folder, change=lambda weight_map: weight_map, move=None, drop=None, extra=None):
    """Three shards, each tensor in one of them, and the index after change; `move` lies in another than it says."""
    tensors = tensors_for(GPT2)
    files = [f"model-{i:05}-of-00003.safetensors" for i in (1, 2, 3)]
    weight_map = {name: files[i % 3] for i, name in enumerate(tensors)}
    folder.mkdir()
    for file in files:
        held = {name: tensors[name] for name in tensors if weight_map[name] == file and name not in (move, drop)}
        if move and file == files[0]:
            held[move] = tensors[move]
        if extra and file == files[0]:
            held[extra] = np.zeros(3, np.float32)
        safetensors.write(folder / file, held)
    (folder / "config.json").write_text(json.dumps(GPT2))
    (folder / "model.safetensors.index.json").write_text(json.dumps(
        {"metadata": {"total_size": 0}, "weight_map": change(weight_map)}))
    return folder


def test_shards_are_read_as_one_file_is(tmp_path):
    plain = huggingface.load(write(tmp_path / "plain"))
    assert np.array_equal(huggingface.load(sharded(tmp_path / "m")).values, plain.values)


def test_one_file_goes_before_shards_beside_it(tmp_path):
    sharded(tmp_path / "m")
    write(tmp_path / "m", GPT2, tensors_for(GPT2, seed=1))
    assert np.array_equal(values(huggingface.load(tmp_path / "m"))["embedding.table"],
                          tensors_for(GPT2, seed=1)["transformer.wte.weight"])


TABLE = "transformer.wte.weight"


@pytest.mark.parametrize("options, says", [
    (dict(change=lambda m: {**m, TABLE: "../outside.safetensors"}),
     "index.json names '../outside.safetensors', which is no file beside it"),
    (dict(change=lambda m: {**m, TABLE: "/outside.safetensors"}), "names '/outside.safetensors', which is no file"),
    (dict(change=lambda m: {**m, TABLE: "inside/outside.safetensors"}), "names 'inside/outside.safetensors', which is"),
    (dict(change=lambda m: {**m, TABLE: ".."}), r"names '\.\.', which is no file beside it"),
    (dict(change=lambda m: {**m, TABLE: ""}), "names '', which is no file beside it"),
    (dict(change=lambda m: {name: file.replace("00002-of", "00004-of") for name, file in m.items()}),
     "names 'model-00004-of-00003.safetensors', which is no file beside it"),
    (dict(move="transformer.wpe.weight"),
     "model-00001-of-00003.safetensors has a tensor 'transformer.wpe.weight', which the index places in model-00002"),
    (dict(drop="transformer.wpe.weight"),
     "model-00002-of-00003.safetensors has no tensor 'transformer.wpe.weight', which the index places there"),
    (dict(change=lambda m: {**m, "transformer.h.3.ln_1.weight": m[TABLE]}),
     "model-00001-of-00003.safetensors has no tensor 'transformer.h.3.ln_1.weight', which the index places there"),
    (dict(extra="transformer.h.3.ln_1.weight"),
     "model-00001-of-00003.safetensors has a tensor 'transformer.h.3.ln_1.weight', which the index does not know"),
    (dict(change=lambda m: {name: file for name, file in m.items() if name != TABLE}),
     f"model-00001-of-00003.safetensors has a tensor '{TABLE}', which the index does not know"),
    (dict(change=lambda m: list(m)), "index.json: weight_map must name the file of each tensor"),
    (dict(change=lambda m: {**m, TABLE: 1}), "index.json: weight_map must name the file of each tensor"),
    (dict(change=lambda m: None), "index.json: weight_map must name the file of each tensor"),
    (dict(change=lambda m: {}), "m has no tensor 'wte.weight', which its config calls for"),
])
def test_an_index_that_does_not_fit_its_shards_is_refused_with_a_sentence(tmp_path, options, says):
    for outside in (tmp_path, tmp_path / "inside"):
        outside.mkdir(exist_ok=True)
        safetensors.write(outside / "outside.safetensors", {TABLE: tensors_for(GPT2)[TABLE]})
    folder = sharded(tmp_path / "m", **options)
    (folder / "inside").mkdir()
    safetensors.write(folder / "inside" / "outside.safetensors", {TABLE: tensors_for(GPT2)[TABLE]})
    with pytest.raises(FormatError, match=says):
        huggingface.load(folder)


# -- folders that are none


@pytest.mark.parametrize("other", ["pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5",
                                   "flax_model.msgpack"])
def test_weights_in_another_format_are_not_opened_and_the_way_out_is_said(tmp_path, other):
    (tmp_path / "config.json").write_text(json.dumps(GPT2))
    (tmp_path / other).write_bytes(b"\x80\x04.")
    says = (f"has neither model.safetensors nor model.safetensors.index.json, only {other}: "
            "load it with transformers and save it as safetensors")
    with pytest.raises(FormatError, match=says):
        huggingface.load(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(GPT2))
    with pytest.raises(FormatError, match="has neither model.safetensors nor model.safetensors.index.json$"):
        huggingface.load(tmp_path)


def test_what_is_no_folder_or_has_no_config_is_named(tmp_path):
    (tmp_path / "file").write_text("{}")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(FormatError, match=re.escape(f"{path} is not one of Hugging Face's folders: it has no config.json")):
            huggingface.load(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        huggingface.load(tmp_path / "nowhere")


@pytest.mark.parametrize("text, says", [
    ("[]", "config.json must hold a JSON object; it holds list"), ("{", "config.json is not JSON"),
    ('{"model_type": "gpt2", "model_type": "gpt2"}', "config.json is not JSON: 'model_type' is there twice"),
    ('{"model_type": "gpt2", "layer_norm_epsilon": NaN}', "config.json is not JSON: NaN is no number in JSON")])
def test_a_config_that_is_no_json_object_is_refused(tmp_path, text, says):
    write(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(text)
    with pytest.raises(FormatError, match=says):
        huggingface.load(tmp_path / "m")


def test_weights_that_are_no_safetensors_file_are_refused(tmp_path):
    write(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(FormatError, match="model.safetensors is not a safetensors file"):
        huggingface.load(tmp_path / "m")


# -- saving


@pytest.mark.parametrize("base", [GPT2, GPT1], ids=label)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_what_is_saved_has_their_names_and_numbers_and_nothing_else(tmp_path, base, tied):
    said = {**base, "tie_word_embeddings": tied}
    tensors = tensors_for(said)
    huggingface.save(huggingface.load(write(tmp_path / "theirs", said, tensors)), tmp_path / "ours")
    assert {path.name for path in (tmp_path / "ours").iterdir()} == {"config.json", "model.safetensors"}
    with safetensors.File(tmp_path / "ours" / "model.safetensors") as file:
        assert file.metadata == {"format": "pt"}  # transformers refuses a file that does not say so
        assert set(file) == set(tensors)
        for name, tensor in tensors.items():
            assert file[name].dtype == np.float32 and np.array_equal(file[name], tensor), name
    written = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert said.items() <= written.items()
    assert written["architectures"] == ["GPT2LMHeadModel" if base is GPT2 else "OpenAIGPTLMHeadModel"]
    assert written["layer_norm_epsilon"] == 1e-5 and written["dtype"] == "float32"
    assert written["activation_function" if base is GPT2 else "afn"] == ("gelu_new" if base is GPT2 else "gelu")
    assert written["bos_token_id"] is written["eos_token_id"] is None  # GPT-2's 50256 lies outside this vocabulary


def test_a_vocabulary_of_gpt2s_size_ends_as_gpt2s_does():
    assert write_config(GPTConfig.preset("gpt2"))["eos_token_id"] == 50256


def test_gpt1_is_saved_as_post_norm_without_a_last_norm(tmp_path):
    model = GPT(CONFIG.change(norm="post"))
    huggingface.save(model, tmp_path / "m")
    said = json.loads((tmp_path / "m" / "config.json").read_text())
    tensors = safetensors.read(tmp_path / "m" / "model.safetensors")
    assert said["model_type"] == "openai-gpt" and "n_inner" not in said
    assert not any("ln_f" in name for name in tensors) and "transformer.tokens_embed.weight" in tensors
    model = model.astype(np.float64)
    assert differ(model.logits(IDS), logits_of(said, tensors, IDS)) < 1e-13


BOTH_SAY = {"n_vocab", "n_ctx", "n_layer", "n_head", "n_embd", "norm", "norm_eps", "tied", "dropout_embd",
            "dropout_attn", "dropout_resid", "std"}
START = {"std_positions", "std_residual"}  # of the first weights, which a folder with weights does not need
CANNOT = {"head_size": (3, "head_size=3 with 2 heads in a width of 10"), "window": (4, "window=4"),
          "positions": ("sinusoidal", "positions='sinusoidal'"), "head_bias": (True, "head_bias=True"),
          "bias": (False, "bias=False")}
CANNOT_GPT1 = {**CANNOT, "n_hidden": (13, "n_hidden=13"), "scale_attn": (False, "scale_attn=False"),
               "scale_attn_by_layer": (True, "scale_attn_by_layer=True"), "activation": ("gelu", "activation='gelu'")}


@pytest.mark.parametrize("norm, field, value, named", [
    *(("pre", field, value, named) for field, (value, named) in CANNOT.items()),
    *(("post", field, value, named) for field, (value, named) in CANNOT_GPT1.items()),
    ("post", "activation", "quick_gelu", "activation='quick_gelu'")])
def test_a_config_that_cannot_be_said_is_refused_by_name_and_nothing_is_written(tmp_path, norm, field, value, named):
    kind = {"pre": "gpt2", "post": "openai-gpt"}[norm]
    model = GPT(CONFIG.change(norm=norm, **{field: value}))
    with pytest.raises(FormatError, match=re.escape(f"Hugging Face's {kind} cannot say {named}; model.save can") + "$"):
        huggingface.save(model, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_every_field_of_a_config_is_said_or_refused():
    fields = {field.name for field in dataclasses.fields(GPTConfig)}
    said_by_gpt2 = BOTH_SAY | {"activation", "n_hidden", "scale_attn", "scale_attn_by_layer"}
    assert fields == said_by_gpt2 | START | CANNOT.keys()
    assert fields == BOTH_SAY | START | CANNOT_GPT1.keys()


def test_a_refused_save_leaves_the_folder_as_it_was(tmp_path):
    folder = write(tmp_path / "m")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(FormatError):
        huggingface.save(GPT(CONFIG.change(bias=False)), folder)
    with pytest.raises(TypeError):
        huggingface.save(GPT(CONFIG), folder, dtype="int8")
    with pytest.raises(ValueError, match="shard_bytes must be at least 1; got 0"):
        huggingface.save(GPT(CONFIG), folder, shard_bytes=0)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("dtype", [None, np.complex64, "complex128", "int32", bool])
def test_what_is_not_real_floating_point_is_refused(tmp_path, dtype):
    model = GPT(CONFIG, dtype=np.complex128 if dtype is None else np.float32)
    name = np.dtype(dtype or np.complex128).name
    with pytest.raises(TypeError, match=f"numbers.*; got {name}"):
        huggingface.save(model, tmp_path / "m", dtype=dtype)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("dtype, code, digits", [
    ("float64", "F64", 53), ("float32", "F32", 24), (np.float16, "F16", 11), ("float16", "F16", 11),
    ("bfloat16", "BF16", 8)])
@pytest.mark.parametrize("shard_bytes", [None, 2000])
def test_a_saved_dtype_is_rounded_to_nearest_and_said_in_both_files(tmp_path, dtype, code, digits, shard_bytes):
    model = GPT(CONFIG.change(std=1.0, tied=False), dtype=np.float64)
    huggingface.save(model, tmp_path / "m", dtype=dtype, shard_bytes=shard_bytes)
    for path in (tmp_path / "m").glob("*.safetensors"):
        with safetensors.File(path) as file:
            assert {entry.dtype for entry in file.entries.values()} == {code}
    written = json.loads((tmp_path / "m" / "config.json").read_text())["dtype"]
    assert written == ("bfloat16" if code == "BF16" else np.dtype(dtype).name)
    # Half of the last digit is 2^-digits of the number at most, and 2^-25 of the smallest float16.
    # A float64 on its way to bfloat16 is a float32 first, which may move what is nearly half way: hence the hair more.
    error = np.abs(huggingface.load(tmp_path / "m", dtype=np.float64).values - model.values)
    assert (error <= np.maximum(2.0**-digits * (1 + 2.0**-16) * np.abs(model.values), 2.0**-25)).all()
    assert error.any() == (code != "F64")


def test_without_a_dtype_the_models_own_is_saved(tmp_path):
    for dtype in (np.float16, np.float32, np.float64):
        model = GPT(CONFIG, dtype=dtype)
        huggingface.save(model, tmp_path / "m")
        assert np.array_equal(huggingface.load(tmp_path / "m").values, model.values)
        assert safetensors.read(tmp_path / "m" / "model.safetensors")["transformer.wte.weight"].dtype == dtype


@pytest.mark.parametrize("shard_bytes", [1, 700, 1200, 3000, 10**9])
def test_shards_hold_at_most_so_many_bytes_or_one_tensor_and_each_tensor_once(tmp_path, shard_bytes):
    model = GPT(CONFIG)
    huggingface.save(model, tmp_path / "m", shard_bytes=shard_bytes)
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    shards = sorted(path.name for path in (tmp_path / "m").glob("*.safetensors"))
    n = len(shards)
    assert shards == [f"model-{i:05}-of-{n:05}.safetensors" for i in range(1, n + 1)]
    held = {}
    for shard in shards:
        tensors = safetensors.read(tmp_path / "m" / shard)
        assert len(tensors) == 1 or sum(tensor.nbytes for tensor in tensors.values()) <= shard_bytes
        assert not tensors.keys() & held.keys()
        held |= dict.fromkeys(tensors, shard)
    assert held == index["weight_map"] and index["metadata"]["total_size"] == 4 * model.n_params
    assert (n == 1) == (shard_bytes == 10**9)
    assert np.array_equal(huggingface.load(tmp_path / "m").values, model.values)


def test_saving_removes_what_an_earlier_save_left_and_nothing_else(tmp_path):
    first, second, third, fourth = (GPT(CONFIG, seed=seed) for seed in range(4))
    folder = tmp_path / "m"

    def files():
        return {path.name for path in folder.iterdir()} - {"config.json", "vocab.json", "model-card.safetensors"}

    folder.mkdir()
    for name in ("vocab.json", "model-card.safetensors"):
        (folder / name).write_text("kept")
    huggingface.save(first, folder, shard_bytes=1000)
    many = files()
    assert len(many) > 3
    huggingface.save(second, folder)
    assert files() == {"model.safetensors"} and np.array_equal(huggingface.load(folder).values, second.values)
    huggingface.save(third, folder, shard_bytes=3000)
    assert "model.safetensors" not in files() and np.array_equal(huggingface.load(folder).values, third.values)
    huggingface.save(fourth, folder, shard_bytes=1000)
    assert files() == many and np.array_equal(huggingface.load(folder).values, fourth.values)
    assert all((folder / name).read_text() == "kept" for name in ("vocab.json", "model-card.safetensors"))


def test_a_model_is_saved_over_its_own_folder(tmp_path):
    model = huggingface.load(write(tmp_path / "m"))
    before = model.values.copy()
    huggingface.save(model, tmp_path / "m")
    assert np.array_equal(huggingface.load(tmp_path / "m").values, before)


# -- there and back


@st.composite
def representable(draw):
    """A config that one of the two formats can say."""
    norm = draw(st.sampled_from(["pre", "post"]))
    n_vocab, n_ctx, n_layer = draw(st.integers(1, 9)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
    n_head, head_size = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    n_embd = n_head * head_size
    chance, switch = st.floats(0, 1, exclude_max=True), st.booleans()
    options = dict(
        norm=norm, norm_eps=draw(st.floats(1e-12, 10)), tied=draw(switch), std=draw(st.floats(0, 2)),
        std_positions=draw(st.none() | st.just(0.5)), std_residual=draw(st.none() | st.just(0.5)),
        dropout_embd=draw(chance), dropout_attn=draw(chance), dropout_resid=draw(chance),
        head_size=draw(st.sampled_from([None, head_size])),
        window=draw(st.none() | (st.integers(1, 5) if n_layer == 1 else st.just(n_ctx))))
    if norm == "pre":
        options |= dict(
            activation=draw(st.sampled_from(["gelu_tanh", "gelu", "relu", "quick_gelu", "silu"])),
            n_hidden=draw(st.none() | st.integers(1, 9)), scale_attn=draw(switch), scale_attn_by_layer=draw(switch))
    else:
        options |= dict(activation=draw(st.sampled_from(["gelu_tanh", "relu", "silu"])),
                        n_hidden=draw(st.sampled_from([None, 4 * n_embd])))
    return GPTConfig(n_vocab=n_vocab, n_ctx=n_ctx, n_layer=n_layer, n_head=n_head, n_embd=n_embd, **options)


def computing(config):
    """What the config computes, however it is spelled, and how it is trained; not how its weights once started."""
    return {**config.to_dict(), "n_hidden": config.hidden_dim, "head_size": config.head_dim,
            "window": [min(config.window_of(i) or config.n_ctx, config.n_ctx) for i in range(config.n_layer)],
            "std_positions": None, "std_residual": None}


@given(representable(), st.sampled_from([np.float32, np.float64]), st.sampled_from([None, 1, 300]), st.integers(0, 9))
def test_saved_and_loaded_the_weights_are_the_same_and_the_config_computes_the_same(
        tmp_path_factory, config, dtype, shard_bytes, seed):
    folder = tmp_path_factory.mktemp("folder")
    model = GPT(config, seed=seed, dtype=dtype)
    model.values[...] = np.random.default_rng(seed).standard_normal(model.values.shape)  # biases and gains too
    huggingface.save(model, folder, shard_bytes=shard_bytes)
    loaded = huggingface.load(folder)
    assert computing(loaded.config) == computing(config)
    assert huggingface.config_of(folder) == loaded.config
    found = values(loaded)
    for name, value in values(model).items():
        assert found.pop(name).tobytes() == value.tobytes(), name
    assert not found and loaded.values.dtype == dtype


@given(representable())
def test_a_config_written_and_read_twice_is_the_same(config):
    kind, once = read_config(json.loads(json.dumps(write_config(config))), "here")
    assert kind == {"pre": "gpt2", "post": "openai-gpt"}[config.norm]
    assert read_config(json.loads(json.dumps(write_config(once))), "here") == (kind, once)


# -- what was found by trying to break it


def test_the_numbers_of_positions_in_gpt1s_older_files_are_skipped(tmp_path):
    tensors = tensors_for(GPT1)
    write(tmp_path, GPT1, tensors | {"transformer.position_ids": np.arange(7)})
    assert np.array_equal(huggingface.load(tmp_path).values, values_of(GPT1, tensors, tmp_path / "without"))


def test_a_tied_matrix_may_be_kept_under_the_heads_name_alone(tmp_path):
    tensors = tensors_for(GPT2)
    expected = values_of(GPT2, tensors, tmp_path / "without")
    write(tmp_path, GPT2, {("lm_head.weight" if name == "transformer.wte.weight" else name): array for name, array in tensors.items()})
    assert np.array_equal(huggingface.load(tmp_path).values, expected)


def test_equal_heads_with_a_nan_are_equal(tmp_path):
    tensors = tensors_for(GPT2)
    tensors["transformer.wte.weight"][3, 1] = np.nan
    write(tmp_path, GPT2, tensors | {"lm_head.weight": tensors["transformer.wte.weight"]})
    assert np.isnan(huggingface.load(tmp_path).body.embedding.table.value[3, 1])


def test_an_index_may_list_the_tied_head_that_no_shard_stores(tmp_path):
    model = GPT(GPTConfig(n_vocab=17, n_ctx=7, n_layer=2, n_head=2, n_embd=10))
    huggingface.save(model, tmp_path, shard_bytes=2000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    index["weight_map"]["lm_head.weight"] = index["weight_map"]["transformer.wte.weight"]
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert np.array_equal(huggingface.load(tmp_path).values, model.values)


def test_attention_that_is_not_causal_is_refused():
    with pytest.raises(FormatError, match="is_causal is False, which a GPT here does not have"):
        read_config({**GPT2, "is_causal": False}, "folder")


@pytest.mark.parametrize("moment", range(12))
@pytest.mark.parametrize("shard_bytes", [None, 2000])
def test_a_save_that_is_interrupted_leaves_the_old_folder_the_new_one_or_none(tmp_path, monkeypatch, moment, shard_bytes):
    config = GPTConfig(n_vocab=17, n_ctx=7, n_layer=2, n_head=2, n_embd=10)
    old, new = GPT(config, seed=1), GPT(config.change(activation="relu"), seed=2)
    huggingface.save(old, tmp_path, shard_bytes=2000)
    calls = iter(range(1000))

    def interrupted(name, real):
        def call(*arguments, **options):
            if next(calls) == moment:
                raise KeyboardInterrupt(name)
            return real(*arguments, **options)
        return call

    monkeypatch.setattr(os, "replace", interrupted("replace", os.replace))
    monkeypatch.setattr(Path, "unlink", interrupted("unlink", Path.unlink))
    try:
        huggingface.save(new, tmp_path, shard_bytes=shard_bytes)
    except KeyboardInterrupt:
        pass
    monkeypatch.undo()
    try:
        found = huggingface.load(tmp_path)
    except FormatError as error:
        assert "it has no config.json" in str(error)
    else:
        assert any(found.config.activation == model.config.activation and np.array_equal(found.values, model.values)
                   for model in (old, new))
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def values_of(said, tensors, folder):
    write(folder, said, tensors)
    return huggingface.load(folder).values
