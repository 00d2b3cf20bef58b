"""What traces of other people's models stand on, in NumPy alone: names, layouts, order."""

import re
import subprocess
import sys

import numpy as np
import pytest
from layer_trace import PRE

from numgpt import GPT, GPTConfig
from numgpt.verify import jax_trace, torch_trace
from numgpt.verify.adapters import Missing
from numgpt.verify.foreign import heads_apart, in_order, joined
from numgpt.verify.names import PARAMETERS, TENSORS, is_ours, renamed, targets_of


NAMES = {"h.*.attn": "blocks.*.attention", "h.0.attn": "blocks.7.attention", "x.*.y.*": "blocks.*.z.*", "wte": "embedding"}


@pytest.mark.parametrize("name, ours", [
    ("h.12.attn", "blocks.12.attention"), ("h.0.attn", "blocks.7.attention"), ("x.3.y.4", "blocks.3.z.4"),
    ("wte", "embedding"),
    ("h.x.attn", None), ("h.1.2.attn", None), ("th.1.attn", None), ("h.1.attn.q", None), ("hx1.attn", None), ("*", None)])
def test_a_star_is_a_number_that_goes_where_the_star_stands(name, ours):
    assert renamed(name, NAMES) == ours


def test_stars_on_one_side_alone_are_refused():
    for names in ({"h.*.ln": "norm"}, {"h.1.ln": "blocks.*.norm1"}):
        with pytest.raises(ValueError, match="each \\* of one must have its \\* in the other"):
            renamed("h.1.ln", names)


def test_a_name_that_fits_nothing_is_told_with_those_near_it():
    with pytest.raises(ValueError, match=re.escape("'h.*.atn' is not a module; near it: 'h.0.attn'")):
        targets_of(["wte", "h.0.attn"], {"h.*.atn": "blocks.*.attention"}, "a module")
    assert targets_of(["wte", "h.0.attn", "ln_f"], {"h.*.attn": "blocks.*.attention"}) == {"h.0.attn": "blocks.0.attention"}


def test_every_parameter_of_a_model_has_a_name_of_ours():
    for config in (PRE, GPTConfig.preset("classic", n_layer=12, n_head=1, n_embd=4)):
        assert all(is_ours(name, PARAMETERS) for name, _ in GPT(config).named_params())
    others = ("blocks.*.norm1", "blocks.0", "blocks.a.norm1", "norm1", "lm_head")
    assert not any(is_ours(name, PARAMETERS + TENSORS) for name in others)


def test_the_forward_pass_is_in_order_and_norms_after_the_sums_where_there_is_no_last_one():
    names = ["logits", "blocks.1.norm1", "blocks.10.sum1", "blocks.1.sum2", "blocks.1.norm2", "blocks.1.sum1",
             "blocks.1.attention.q", "positions", "embedding"]
    assert in_order(names) == ["embedding", "positions", "blocks.1.attention.q", "blocks.1.sum1", "blocks.1.norm1",
                               "blocks.1.sum2", "blocks.1.norm2", "blocks.10.sum1", "logits"]
    assert in_order(["norm", *names])[2:5] == ["blocks.1.norm1", "blocks.1.attention.q", "blocks.1.sum1"]


def test_q_k_and_v_are_columns_of_qkv_each_head_after_head():
    qkv = np.arange(2 * 3 * 12.0).reshape(2, 3, 12)  # two heads of size two
    tensors = {"blocks.0.attention.qkv": qkv}
    heads_apart(tensors, {"blocks.0.attention": 2}.get)
    assert np.array_equal(tensors["blocks.0.attention.k"][1, 0], qkv[1, :, 4:6])
    assert np.array_equal(tensors["blocks.0.attention.v"][0, 1], qkv[0, :, 10:12])
    apart = {f"blocks.0.attention.{part}": qkv[..., 4 * i:4 * i + 4] for i, part in enumerate("qkv")}
    heads_apart(apart, lambda _: None)
    assert apart.keys() == {"blocks.0.attention.qkv"} and np.array_equal(apart["blocks.0.attention.qkv"], qkv)


def test_parameters_of_q_k_and_v_are_joined_if_all_three_are_there():
    three = {f"blocks.0.attention.{part}.weight": np.full((2, 3), i) for i, part in enumerate("qkv")}
    assert joined({"norm.gain": 1, **three})["blocks.0.attention.qkv.weight"].tolist() == [[0] * 3 + [1] * 3 + [2] * 3] * 2
    del three["blocks.0.attention.k.weight"]
    assert joined({"norm.gain": 1, **three}) == {"norm.gain": 1}


@pytest.mark.parametrize("trace, package", [(torch_trace, "torch"), (jax_trace, "jax")])
def test_without_the_framework_it_says_what_to_install(trace, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Missing, match=f"takes {package}: pip install 'numgpt\\[verify\\]'"):
        trace(None, *[None] * (2 + (package == "jax")))


def test_importing_verify_loads_no_framework():
    code = "import sys, numgpt.verify; print(sorted({'torch', 'jax', 'transformers', 'safetensors'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
