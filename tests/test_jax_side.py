"""Traces of JAX functions: numgpt's own numbers."""

import re

import foreign_models as theirs
import numpy as np
import pytest
from layer_trace import PRE, B, H, T, V, batch, beyond, made, of_layers

from numgpt import safetensors
from numgpt.verify import jax_trace

pytestmark = pytest.mark.verify


@pytest.fixture
def x64():
    import jax
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield jax
    jax.config.update("jax_enable_x64", before)


@pytest.mark.parametrize("jitted", [False, True])
def test_a_jax_function_has_our_numbers_with_see_and_without(jitted, x64):
    model = made()
    function, truth = theirs.in_jax(PRE), of_layers(model, *batch())
    flat = {name: param.value for name, param in model.named_params()}
    seeing, blind = function, lambda params, ids: function(params, ids)
    if jitted:
        seeing, blind = x64.jit(function, static_argnums=2), x64.jit(blind)
    found = jax_trace(seeing, theirs.nested(flat), *batch())
    scores = {name: found.pop(name) for name in list(found) if name.endswith("scores")}
    assert not beyond(found, truth)
    assert len(scores) == 4 and np.isneginf(scores["forward.blocks.0.attention.scores"]).sum() == B * H * T * (T - 1) // 2
    assert abs(scores["backward.blocks.1.attention.scores"].sum(-1)).max() < 1e-15  # softmax does not see a common part
    found = jax_trace(blind, theirs.nested(flat), *batch())
    assert not beyond(found, truth, without="(forward|backward).(?!logits|loss)")


def test_names_of_jax_leaves_are_dotted_paths_and_mapped_turned_or_ours(x64, tmp_path):
    model = made()
    function, truth = theirs.in_jax(PRE), of_layers(model, *batch())
    flat = {name: param.value for name, param in model.named_params()}
    mine = {name: value for name, value in flat.items() if not name.endswith(("up.weight", "norm.gain"))}
    mine |= {"layers": [{"w": flat[f"blocks.{i}.ffn.up.weight"].T} for i in range(2)], "gain": (flat["norm.gain"],)}
    mine["steps"] = 3

    def their(params, ids, look):
        params, extra = dict(params), {"norm.gain": params["gain"][0]}
        extra |= {f"blocks.{i}.ffn.up.weight": params["layers"][i]["w"].T for i in range(2)}
        params = {name: params[name] for name in flat if name in params} | extra
        return function(theirs.nested(params), ids, lambda name, x: look("last", x) if name == "norm" else x)

    names = {"layers.*.w": "blocks.*.ffn.up.weight.T", "gain.0": "norm.gain", "last": "norm"}
    found = jax_trace(their, mine, *batch(), names, tmp_path / "trace")
    assert not beyond(found, truth, without="(forward|backward).(?!norm|logits|loss)")
    assert not beyond(safetensors.read(tmp_path / "trace"), found, tolerance=0)
    says = "'layer.*.w' is not the name of a leaf of params or of anything seen; near it: 'layers.1.w'"
    with pytest.raises(ValueError, match=re.escape(says)):
        jax_trace(their, mine, *batch(), {"layer.*.w": "blocks.*.ffn.up.weight.T", "last": "norm"})


def test_without_x64_a_jax_trace_is_float32():
    model = made()
    params = theirs.nested({name: param.value for name, param in model.named_params()})
    found = jax_trace(theirs.in_jax(PRE), params, *batch(), n_head=H)
    assert {array.dtype for name, array in found.items() if not name.startswith("inputs.")} == {np.dtype(np.float32)}
    # 2.5e-6 was seen, in a gradient of q, which is a small difference of large numbers.
    found = {name: array for name, array in found.items() if not name.endswith("scores")}
    assert not beyond(found, of_layers(model, *batch()), 2e-5)


def compiled(see, x):
    import jax
    return jax.jit(lambda x: see("norm", x))(x)


@pytest.mark.parametrize("function, says", [
    (lambda params, ids, see: see("x", params["w"])[ids], "'x' is no name of ours"),
    (lambda params, ids, see: see("norm", see("norm", params["w"][ids])), "'norm' was seen twice"),
    (lambda params, ids: params["w"][ids][:, 1:], "logits (B, T, V) for ids (2, 7); it gave (2, 6, 13)"),
    (lambda params, ids: params["w"][ids][..., :9], "ids must be from 0 to 8; there is a 12"),
    (lambda params, ids: params["w"][ids], "a name that is known: say names={their name: ours}, theirs being 'w'"),
    (lambda params, ids, see: see("norm", ids), "'norm' must be an array of floating-point numbers; it is int32"),
    (lambda params, ids, see: compiled(see, params["w"][ids]), "inside of what JAX traces by itself")])
def test_jax_functions_that_cannot_be_traced_are_told(function, says):
    with pytest.raises((ValueError, TypeError), match=re.escape(says)):
        jax_trace(function, {"w": np.eye(V, dtype=np.float32)}, *batch())
