"""What ports dump comes out under our names and in our layouts, and what cannot is refused in a sentence."""

import io
import json
import re
import zipfile

import numpy as np
import pytest
from stages import later

from numgpt import GPT, GPTConfig, safetensors
from numgpt.bfloat16 import BFloat16
from numgpt.files import FormatError
from numgpt.formats import huggingface, llmc
from numgpt.plan import shapes
from numgpt.verify import dumps

# B, T, H, D, C, F and V all differ; only attention.out is square, which is C by H D.
CONFIG = GPTConfig(n_vocab=13, n_ctx=8, n_layer=2, n_head=3, n_embd=15, n_hidden=17)
B, T, H, D, C, F, V = 2, 7, 3, 5, 15, 17, 13
LINEAR = ("attention.qkv.weight", "attention.out.weight", "ffn.up.weight", "ffn.down.weight")


def trace(config=CONFIG, seed=0) -> dict:
    """Numbers of every kind that a dump has, in our layouts; no model has to stand behind them."""
    rng = np.random.default_rng(seed)
    made = {"inputs.ids": rng.integers(0, V, (B, T)).astype(np.int32), "inputs.targets": rng.integers(0, V, (B, T)).astype(np.int32)}
    for kind in ("weights", "grads"):
        made |= {f"{kind}.{name}": rng.standard_normal(shape).astype(np.float32) for name, shape in shapes(config)}
    for kind in ("forward", "backward"):
        for name, shape in (("blocks.0.attention.q", (B, H, T, D)), ("blocks.0.attention.qkv", (B, T, 3 * H * D)),
                            ("blocks.0.attention.mixed", (B, T, H * D)), ("blocks.1.sum2", (B, T, C)), ("logits", (B, T, V)),
                            ("blocks.0.attention.scores", (B, H, T, T))):
            made[f"{kind}.{name}"] = rng.standard_normal(shape)
    return made | {"forward.loss": np.float64(2.5).reshape(()), "clip.norm": np.float32(1.5).reshape(())}


TRACE = trace()


def read(tmp_path, arrays, config=CONFIG, **options) -> dumps.Dump:
    path = tmp_path / "port.npz"
    np.savez(path, **arrays)
    return dumps.read(path, config, **options)


def same(dump, arrays):
    assert dump.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        assert np.array_equal(dump.arrays[name], array, equal_nan=True), name


def grads(arrays=TRACE) -> dict:
    return {name: array for name, array in arrays.items() if name.startswith("grads.")}


def weights(arrays=TRACE) -> dict:
    return {name: array for name, array in arrays.items() if name.startswith("weights.")}


def as_torch(arrays) -> dict:
    return {name: array.T if name.endswith(LINEAR) or name.endswith("head.weight") else array for name, array in arrays.items()}


# -- forms


def test_every_form_holds_the_same(tmp_path):
    safetensors.write(tmp_path / "a.safetensors", TRACE)
    np.savez_compressed(tmp_path / "b.npz", **TRACE)
    for name, array in TRACE.items():
        file = tmp_path / "c" / (name.replace(".", "/", 2) + ".npy")
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, np.asfortranarray(array))
    for name in ("a.safetensors", "b.npz", "c"):
        dump = dumps.read(tmp_path / name, CONFIG)
        same(dump, TRACE)
        assert dump.notes == [] and dump.unknown == {} and dump.kinds["forward.logits"] == "float64"
        assert dump.kinds["grads.norm.gain"] == "float32" and dump.sources["clip.norm"] == ("clip.norm",)


def test_a_debug_state_of_llm_c_is_a_dump(tmp_path):
    config = CONFIG.change(n_hidden=None)
    model = GPT(config)
    state = llmc.state_of(model, TRACE["inputs.ids"], TRACE["inputs.targets"])
    llmc.write_state(state, tmp_path / "state.bin", config)
    dump = dumps.read(tmp_path / "state.bin", config)
    same(dump, {"inputs.ids": state.ids, "inputs.targets": state.targets, "forward.logits": state.logits,
                "forward.loss": state.loss, **{f"grads.{name}": grad for name, grad in state.grads.items()}})


def test_a_model_s_own_files_are_dumps_of_its_weights(tmp_path):
    model = GPT(CONFIG, seed=1)
    model.save(tmp_path / "a.safetensors", dtype="bfloat16")
    huggingface.save(model, tmp_path / "folder")
    assert dumps.read(tmp_path / "a.safetensors", CONFIG).kinds["weights.norm.gain"] == "bfloat16"
    same(dumps.read(tmp_path / "folder", CONFIG), {f"weights.{name}": param.value for name, param in model.named_params()})


@pytest.mark.verify
def test_a_pt_has_its_nested_names_with_dots_and_is_bfloat16_if_all_of_it_is(tmp_path):
    torch = pytest.importorskip("torch")
    model = GPT(CONFIG, seed=1)
    state = {f"transformer.{huggingface.their_name(name, 'gpt2', '')}": torch.from_numpy(as_torch({name: param.value})[name].copy())
             for name, param in model.named_params()}
    torch.save({"model": state, "grads": {name: one.bfloat16() for name, one in state.items()}, "step": 3, "loss": 2.5,
                "optimizer": {"state": [{"a": 1}]}}, tmp_path / "a.pt")
    dump = dumps.read(tmp_path / "a.pt", CONFIG)
    assert {kind for name, kind in dump.kinds.items() if name != "forward.loss"} == {"float32"}  # although gains of 1 look like bfloat16
    torch.save({name: one.bfloat16() for name, one in state.items()}, tmp_path / "b.pt")
    assert set(dumps.read(tmp_path / "b.pt", CONFIG).kinds.values()) == {"bfloat16"}
    for name, param in model.named_params():
        assert np.array_equal(dump.arrays[f"weights.{name}"], param.value), name
    assert dump.arrays["forward.loss"] == 2.5 and "step" in dump.unknown


def test_rounded_numbers_beside_others_are_not_taken_for_bfloat16(tmp_path, monkeypatch):
    content = {"grads.norm.gain": np.full(C, 1.5, np.float32), "grads.norm.bias": np.zeros(C, np.float32), "forward.loss": 2.3}
    monkeypatch.setattr(dumps.forms, "torch_checkpoint", lambda path: content)
    (tmp_path / "a.pt").write_bytes(b"PK\x03\x04" + b" " * 8)
    assert dumps.read(tmp_path / "a.pt", CONFIG).kinds == {"grads.norm.gain": "bfloat16", "grads.norm.bias": "bfloat16", "forward.loss": "float64"}
    content["grads.embedding.table"] = TRACE["grads.embedding.table"]
    assert set(dumps.read(tmp_path / "a.pt", CONFIG).kinds.values()) == {"float32", "float64"}


# -- names


THEIRS = {name: huggingface.their_name(name, "gpt2", "transformer.") for name, _ in shapes(CONFIG)}


@pytest.mark.parametrize("spelled", [
    "grads.{}", "grad.{}", "grad_{}", "d_{}", "{}.grad", "{}/grad", "gradients/{}", "module._orig_mod.{}.grad", "{}_grad"])
def test_a_gradient_is_known_by_what_stands_before_or_after_its_name(tmp_path, spelled):
    for names in ({name: name for name in THEIRS}, THEIRS, {name: other.removeprefix("transformer.") for name, other in THEIRS.items()}):
        dump = read(tmp_path, {spelled.format(other): TRACE[f"grads.{name}"] for name, other in names.items()})
        same(dump, grads())


def test_gpt_1_s_names_are_known(tmp_path):
    config = CONFIG.change(norm="post")
    made = {name: array for name, array in trace(config).items() if name.startswith("grads.")}
    names = {name: huggingface.their_name(name.removeprefix("grads."), "openai-gpt") for name in made}
    same(read(tmp_path, {f"{other}.grad": made[name] for name, other in names.items()}, config), made)


def test_bare_names_are_what_the_caller_says_or_the_trace_or_their_neighbours(tmp_path):
    bare = {name.removeprefix("grads."): array for name, array in grads().items()}
    same(read(tmp_path, bare, bare="grads"), grads())
    same(read(tmp_path, bare, reference=TRACE), grads())
    same(read(tmp_path, bare | weights()), grads() | weights())
    shaken = {name: array * 1.1 for name, array in weights().items()}
    same(read(tmp_path, {name.removeprefix("weights."): array for name, array in shaken.items()}, reference=TRACE), shaken)
    assert "for want of a trace" in read(tmp_path, bare).notes[0]


def test_outputs_of_modules_are_known_by_their_names(tmp_path):
    dump = read(tmp_path, {"ids": TRACE["inputs.ids"], "logits": TRACE["forward.logits"], "d_logits": TRACE["backward.logits"],
                           "loss": np.float32(3), "grad_norm": np.float32(2), "h.0.attn.c_attn": TRACE["forward.blocks.0.attention.qkv"],
                           "blocks.1.sum2.grad": TRACE["backward.blocks.1.sum2"]})
    assert sorted(dump.arrays) == ["backward.blocks.1.sum2", "backward.logits", "clip.norm", "forward.blocks.0.attention.qkv",
                                   "forward.logits", "forward.loss", "inputs.ids"]


def test_a_map_gives_meaning_and_a_wrong_target_is_named(tmp_path):
    arrays = {"enc_0_k": TRACE["grads.blocks.0.norm1.gain"], "x.1.y": TRACE["grads.blocks.1.norm2.bias"], "junk": np.zeros(3)}
    dump = read(tmp_path, arrays, names={"enc_0_k": "grads.blocks.0.norm1.gain", "x.*.y": "grads.blocks.*.norm2.bias", "junk": None,
                                         "z": "clip.norm"})
    assert sorted(dump.arrays) == ["grads.blocks.0.norm1.gain", "grads.blocks.1.norm2.bias"] and dump.unknown == {}
    assert dump.notes == [f"the map's 'z' is the name of nothing in {dump.path}"]
    with pytest.raises(FormatError, match="grads.blocks.0.norm1.gian.*no name of a trace: grads.blocks.0.norm1.gain"):
        read(tmp_path, arrays, names={"enc_0_k": "grads.blocks.0.norm1.gian"})
    with pytest.raises(FormatError, match="two meanings"):
        read(tmp_path, arrays, names={"x.*.y": "grads.blocks.*.norm2.bias", "x.1.*": "grads.blocks.1.norm1.bias"})


def test_one_map_serves_models_that_have_not_all_of_it(tmp_path):
    names = {"g/head": "grads.head.weight", "g/ln_f": "grads.norm.gain", "final": "forward.norm", "*/*/norm": "steps.*.norm",
             "h/*/q_b": "steps.1.grads.blocks.*.attention.q.bias", "g/*/ln_*/w": "grads.blocks.*.norm*.gain",
             "g/5": "grads.blocks.5.ffn.up.bias", "e/*": "grads.embedding.*"}
    arrays = {"g/0/ln_2/w": TRACE["grads.blocks.0.norm2.gain"], "g/7/ln_2/w": np.zeros(C), "final": np.zeros((B, T, C)),
              "e/table": TRACE["grads.embedding.table"]}
    dump = read(tmp_path, arrays, CONFIG.change(norm="post"), names=names, reference=TRACE)
    same(dump, {name: TRACE[name] for name in ("grads.blocks.0.norm2.gain", "grads.embedding.table")})
    assert dump.unknown == {"g/7/ln_2/w": None, "final": None}
    none = {name.split("'")[2]: name.split("'")[4] for name in dump.notes if name.endswith(", and this model has none")}
    assert none == {**{key: names[key] for key in ("g/head", "g/ln_f", "final", "g/5")}, "g/*/ln_*/w": "grads.blocks.7.norm2.gain"}
    assert [note.split("'")[2] for note in dump.notes if "the name of nothing" in note] == ["*/*/norm", "h/*/q_b"]
    assert "final" not in read(tmp_path, arrays, names=names).unknown


@pytest.mark.parametrize("target, near", [
    ("loss", "forward.loss"), ("los", "forward.loss"), ("ids", "inputs.ids"), ("blocks.1.sum2", "forward.blocks.1.sum2"),
    ("grads.head.wieght", "grads.head.weight"), ("grads.blocks.*.atention.q.weight", "grads.blocks.*.attention.q.weight"),
    ("steps.2.grads.norm.gian", "steps.2.grads.norm.gain"), ("grads.blocks.01.norm1.gain", "grads.blocks.1.norm1.gain"),
    ("mask.blocks.0.ffn.dropped", "masks.blocks.0.ffn.dropped")])
def test_a_misspelt_target_of_a_map_is_refused_with_the_nearest_name(tmp_path, target, near):
    with pytest.raises(FormatError, match=f"goes to '{re.escape(target)}', which is no name of a trace: {re.escape(near)}\\?$"):
        read(tmp_path, {"a": np.zeros(C)}, CONFIG.change(tied=False), names={"x.*" if "*" in target else "x": target})


def test_unknown_names_come_with_the_nearest_of_ours(tmp_path):
    dump = read(tmp_path, {"grads.blocks.1.atention.qkv.wieght": np.zeros(3), "abracadabra": np.zeros(3)})
    assert dump.unknown == {"grads.blocks.1.atention.qkv.wieght": "grads.blocks.1.attention.qkv.weight", "abracadabra": None}


def test_two_names_for_one_tensor_are_refused_and_a_tied_head_is_not(tmp_path):
    table = TRACE["grads.embedding.table"]
    with pytest.raises(FormatError, match="'grads.norm.gain' and 'd_ln_f.weight' both mean grads.norm.gain"):
        read(tmp_path, {"grads.norm.gain": np.zeros(C), "d_ln_f.weight": np.zeros(C)})
    dump = read(tmp_path, {"wte.weight.grad": table, "lm_head.weight.grad": table})
    assert list(dump.arrays) == ["grads.embedding.table"] and "as a tied head does" in dump.notes[0]
    with pytest.raises(FormatError, match="dump the sum"):
        read(tmp_path, {"wte.weight.grad": table, "lm_head.weight.grad": 2 * table})


@pytest.mark.parametrize("spelled", ["{}.weight", "{}_proj.weight", "w{}", "W_{}"])
def test_split_q_k_and_v_are_joined(tmp_path, spelled):
    whole = TRACE["grads.blocks.1.attention.qkv.weight"]
    split = {f"grads.h.1.attn.{spelled.format(piece)}": part.T for piece, part in zip("qkv", np.split(whole, 3, -1))}
    told = {"grads.h.1.mlp.c_fc.weight": TRACE["grads.blocks.1.ffn.up.weight"].T}
    assert np.array_equal(read(tmp_path, split | told).arrays["grads.blocks.1.attention.qkv.weight"], whole)
    dump = read(tmp_path, dict(list(split.items())[:2]))
    assert dump.arrays == {} and "v is missing" in dump.notes[-1]


@pytest.mark.parametrize("kind", ["grads", "m", "v", "weights"])
def test_split_q_k_and_v_of_a_step_are_joined(tmp_path, kind):
    ours = {f"steps.3.{kind}.blocks.1.attention.qkv.{what}": TRACE[f"grads.blocks.1.attention.qkv.{what}"] for what in ("weight", "bias")}
    for spelled, names in (("steps.3.%s.blocks.1.attention.{}.{}", None), ("steps.3.%s.h.1.attn.{}_proj.{}", None), ("late/%s/1/{}/{}", "map")):
        split = {(spelled % kind).format(piece, name.rsplit(".", 1)[1]): part
                 for name, array in ours.items() for piece, part in zip("qkv", np.split(array, 3, -1))}
        names = names and {f"late/{kind}/*/{piece}/{what}": f"steps.3.{kind}.blocks.*.attention.{piece}.{what}"
                           for piece in "qkv" for what in ("weight", "bias")}
        same(read(tmp_path, split, names=names), ours)
        turned = {name: part.T for name, part in split.items()} | {"steps.3.m.blocks.0.ffn.up.weight": np.zeros((F, C))}
        same(read(tmp_path, turned, names=names), ours | {"steps.3.m.blocks.0.ffn.up.weight": np.zeros((C, F))})


# -- layouts


def test_a_transposed_weight_is_told_from_its_shape_and_a_square_one_from_the_others(tmp_path):
    dump = read(tmp_path, as_torch(grads()))
    same(dump, grads())
    assert "grads.blocks.*.attention.out.weight is read as (out, in)" in dump.notes


def test_the_shape_of_one_weight_tells_although_its_sizes_have_common_factors(tmp_path):
    name = "grads.blocks.0.attention.qkv.weight"  # (15, 45), and 45 x 15 is 15 3 x 3 5 as well
    same(read(tmp_path, {name: TRACE[name].T}), {name: TRACE[name]})
    same(read(tmp_path, {name: TRACE[name].reshape(C, 3, H, D)}), {name: TRACE[name]})


def test_an_axis_of_one_leaves_nothing_open_and_tells_nothing_of_others(tmp_path):
    config = CONFIG.change(n_embd=1, n_head=1, n_hidden=4)
    made = {name: np.random.default_rng(0).standard_normal(shape) for name, shape in shapes(config)}
    for turn in (lambda a: a, lambda a: a.T):
        dump = read(tmp_path, {f"weights.{name}": turn(array) for name, array in made.items()}, config)
        same(dump, {f"weights.{name}": array for name, array in made.items()})
        assert dump.notes == []


def test_a_square_weight_is_told_by_the_trace_and_its_gradient_follows_it(tmp_path):
    mixed = as_torch(weights()) | as_torch(grads())
    for kind in ("weights", "grads"):  # the one layer that is not like the others
        mixed[f"{kind}.blocks.1.attention.out.weight"] = TRACE[f"{kind}.blocks.1.attention.out.weight"]
    same(read(tmp_path, mixed, reference=TRACE), weights() | grads())


def test_a_gradient_that_is_wrong_by_a_transpose_is_not_put_right(tmp_path):
    name = "grads.blocks.0.attention.out.weight"
    wrong = {**TRACE, name: TRACE[name].T}
    dump = read(tmp_path, wrong, reference=TRACE)
    assert np.array_equal(dump.arrays[name], TRACE[name].T)


def test_gradients_turned_against_their_weights_are_told_by_the_shapes(tmp_path):
    same(read(tmp_path, weights() | as_torch(grads()), reference=TRACE), weights() | grads())


def interleaved(array):
    return array.reshape(*array.shape[:-1], 3, H, D).swapaxes(-3, -2).reshape(array.shape)


def test_columns_head_by_head_are_told_by_the_weights_and_activations_follow(tmp_path):
    theirs = {name: interleaved(array) if ".qkv" in name else array for name, array in TRACE.items()}
    same(read(tmp_path, theirs, reference=TRACE), TRACE)
    shaken = {name: array * (1.1 if name.startswith("weights.") else 1) for name, array in theirs.items()}
    assert np.array_equal(read(tmp_path, shaken, reference=TRACE).arrays["grads.blocks.0.attention.qkv.bias"],
                          TRACE["grads.blocks.0.attention.qkv.bias"])
    alone = {name: array for name, array in theirs.items() if not name.startswith("weights.")}
    dump = read(tmp_path, alone, reference=TRACE)
    assert "no weights are there to tell" in dump.notes[-1]
    assert np.array_equal(dump.arrays["grads.blocks.0.attention.qkv.weight"], TRACE["grads.blocks.0.attention.qkv.weight"])


def test_columns_of_a_gradient_stay_as_its_weights_columns_are(tmp_path):
    wrong = {name: interleaved(array) if name.startswith("grads.") and ".qkv" in name else array for name, array in TRACE.items()}
    same(read(tmp_path, wrong, reference=TRACE), wrong)
    one = {name: array for name, array in TRACE.items() if not name.startswith("weights.")}
    one["grads.blocks.0.attention.qkv.weight"] = interleaved(one["grads.blocks.0.attention.qkv.weight"])
    same(read(tmp_path, one, reference=TRACE), one)


@pytest.mark.parametrize("name, turn", [
    ("blocks.0.attention.q", lambda a: a.swapaxes(1, 2)), ("blocks.0.attention.q", lambda a: a.swapaxes(1, 2).reshape(B, T, H * D)),
    ("blocks.0.attention.q", lambda a: a.reshape(B * H, T, D)), ("blocks.0.attention.q", lambda a: a.transpose(2, 0, 1, 3)),
    ("blocks.0.attention.mixed", lambda a: a.reshape(B, T, H, D)), ("blocks.1.sum2", lambda a: a.reshape(B * T, C)),
    ("blocks.0.attention.mixed", lambda a: a.swapaxes(0, 1)), ("blocks.0.attention.qkv", lambda a: a.swapaxes(0, 1)),
    ("blocks.0.attention.qkv", lambda a: a.swapaxes(0, 1).reshape(T, B, 3, H, D)),
    ("blocks.0.attention.q", lambda a: a.transpose(2, 0, 1, 3).reshape(T, B, H * D)),
    ("blocks.1.sum2", lambda a: a.swapaxes(0, 1)), ("blocks.1.sum2", lambda a: a[..., None]),
    ("blocks.0.attention.scores", lambda a: a.reshape(B * H, T, T)), ("logits", lambda a: np.pad(a, ((0, 0), (0, 0), (0, 3)))),
    ("logits", lambda a: np.pad(a, ((0, 0), (0, 0), (0, 3))).reshape(B * T, V + 3))])
def test_layouts_of_activations_and_of_their_gradients_are_told_from_shapes(tmp_path, name, turn):
    both = {f"{kind}.{name}": TRACE[f"{kind}.{name}"] for kind in ("forward", "backward")}
    dump = read(tmp_path, {one: turn(array) for one, array in both.items()}, reference=TRACE)
    same(dump, both)


def test_where_t_equals_h_the_trace_s_activations_tell_and_gradients_follow(tmp_path):
    square = np.random.default_rng(0).standard_normal((2, B, H, H, D))
    reference = {"inputs.ids": np.zeros((B, H), np.int32), "forward.blocks.0.attention.q": square[0]}
    ours = {"forward.blocks.0.attention.q": square[0], "backward.blocks.0.attention.q": square[1]}
    turned = {name: array.swapaxes(1, 2) for name, array in ours.items()}
    same(read(tmp_path, turned, reference=reference), ours)
    wrong = {**ours, "backward.blocks.0.attention.q": square[1].swapaxes(1, 2)}
    same(read(tmp_path, wrong, reference=reference | ours), wrong)


def test_steps_decoding_and_masks_are_brought_too(tmp_path):
    rng = np.random.default_rng(0)
    ours = {f"steps.2.{kind}.{name}": rng.standard_normal(shape) for kind in ("grads", "m", "v", "weights") for name, shape in shapes(CONFIG)}
    ours |= {"steps.2.loss": np.float64(2.0), "decode.1.logits": rng.standard_normal((B, V)),
             "decode.1.blocks.0.k": rng.standard_normal((B, H, 4, D)), "masks.blocks.1.ffn.dropped": rng.random((B, T, C)) < 0.5}
    theirs = as_torch(ours)
    theirs["decode.1.blocks.0.k"] = theirs["decode.1.blocks.0.k"].swapaxes(1, 2)
    theirs["masks.blocks.1.ffn.dropped"] = 1.25 * theirs["masks.blocks.1.ffn.dropped"].reshape(B * T, C)
    theirs["decode.1.logits"] = np.pad(theirs["decode.1.logits"], ((0, 0), (0, 3)))
    renamed = {name.replace("steps.2.m.norm.gain", "steps.2.m.transformer.ln_f.weight"): array for name, array in theirs.items()}
    same(read(tmp_path, renamed, reference=TRACE), ours)


def test_a_padded_table_is_cut_and_a_gradient_of_padding_is_mentioned(tmp_path):
    table = TRACE["grads.embedding.table"]
    dump = read(tmp_path, {"grads.embedding.table": np.pad(table, ((0, 3), (0, 0)))})
    assert np.array_equal(dump.arrays["grads.embedding.table"], table) and dump.notes == [
        "grads.embedding.table has a vocabulary of 16, of which the first 13 are read"]
    dump = read(tmp_path, {"wte.weight.grad": np.pad(table, ((0, 3), (0, 0)), constant_values=1.0).T})
    assert np.array_equal(dump.arrays["grads.embedding.table"], table) and "not zero" in dump.notes[-1]


def test_an_untied_head_is_told_from_its_shape_and_its_padded_bias_is_cut(tmp_path):
    config = CONFIG.change(tied=False, head_bias=True)
    made = trace(config)
    dump = read(tmp_path, {"lm_head.weight.grad": made["grads.head.weight"].T, "head.bias.grad": np.pad(made["grads.head.bias"], (0, 3))}, config)
    same(dump, {name: made[name] for name in ("grads.head.weight", "grads.head.bias")})


def test_nan_and_inf_are_kept(tmp_path):
    gain = np.full(C, np.nan)
    gain[3] = np.inf
    same(read(tmp_path, {"grads.norm.gain": gain}), {"grads.norm.gain": gain})


def test_bfloat16_comes_as_float32_and_other_orders_of_bytes_as_this_machine_s(tmp_path):
    gain = TRACE["grads.norm.gain"]
    safetensors.write(tmp_path / "a.safetensors", {"grads.norm.gain": BFloat16.of(gain)})
    dump = dumps.read(tmp_path / "a.safetensors", CONFIG)
    assert dump.kinds == {"grads.norm.gain": "bfloat16"} and dump.arrays["grads.norm.gain"].dtype == np.float32
    dump = read(tmp_path, {"grads.norm.gain": gain.astype(">f4")})
    assert dump.arrays["grads.norm.gain"].dtype == np.dtype("f4") and np.array_equal(dump.arrays["grads.norm.gain"], gain)


# -- what is refused


@pytest.mark.parametrize("arrays, sentence", [
    ({"grads.blocks.0.ffn.up.weight": np.zeros((C, F + 1))}, r"'grads.blocks.0.ffn.up.weight'.*\(15, 18\).*\(15, 17\)"),
    ({"grads.norm.gain": np.zeros(C, np.int64)}, "holds int64"), ({"grads.norm.gain": np.zeros(C, complex)}, "holds complex128"),
    ({"inputs.ids": np.zeros((B, T))}, "ids are whole numbers"),
    ({"inputs.ids": TRACE["inputs.ids"].astype(np.int64) + 2**40}, r"'inputs.ids'.* holds 10995116277\d\d, where ids are 0 to 12: dump"),
    ({"inputs.ids": np.full((B, T), -100)}, "holds -100"), ({"inputs.targets": np.full((B, T), -1)}, "holds -1, .* or -100 for a target"),
    ({"inputs.targets": np.full((B, T), 13, np.uint64)}, "holds 13, "), ({"forward.logits": np.zeros(V)}, "nothing tells B and T"),
    ({"masks.dropout": np.arange(B * T * C).reshape(B, T, C)}, "True or False"),
    ({"grads.norm.gain": np.zeros((C, 0))}, r"\(15, 0\)"), ({"clip.norm": np.zeros(2)}, "clip.norm"),
    ({"decode.0.blocks.0.k": np.zeros((B, H, 4, D + 1))}, "decode.0.blocks.0.k"), ({"decode.0.logits": np.zeros((0, V + 1))}, "decode.0.logits"),
    ({"inputs.ids": TRACE["inputs.ids"], "grads.norm.gain": np.zeros(C + 1), "grads.norm.bias": np.zeros(C + 1)}, "norm.gain.*; 1 more do not fit"),
    ({"inputs.ids": np.zeros((B, T, 2), int), "grads.norm.gain": np.zeros(C)}, "nothing tells B and T: dump inputs.ids")])
def test_what_does_not_fit_is_refused_with_its_name_and_both_shapes(tmp_path, arrays, sentence):
    with pytest.raises(FormatError, match=sentence):
        read(tmp_path, arrays)


def test_what_does_not_fit_is_left_out_beside_what_does_and_said_once_for_all_layers(tmp_path):
    wrong = {"grads.blocks.0.ffn.up.weight": np.zeros((C, F + 1)), "grads.blocks.1.ffn.up.weight": np.zeros((C, F + 1)),
             "grads.norm.gain": np.zeros(C, np.int64), "grads.blocks.1.attention.q.bias": np.zeros(C + 1)}
    rest = {name: array for name, array in grads().items() if name not in wrong and name != "grads.blocks.1.attention.qkv.bias"}
    pieces = {f"grads.blocks.1.attention.{piece}.bias": np.zeros(C) for piece in "kv"}
    dump = read(tmp_path, wrong | rest | pieces)
    same(dump, rest)
    assert dump.left_out.keys() == wrong.keys()
    assert "'grads.blocks.0.ffn.up.weight' is read as grads.blocks.0.ffn.up.weight and has the shape (15, 18), where (C, F) is (15, 17): " \
        "dump it so, or say with a map what it is; it is left out, with 1 more of grads.blocks.*.ffn.up.weight" in dump.notes
    assert sum("left out" in note for note in dump.notes) == 3 and any(note.endswith("q is missing") for note in dump.notes)


def test_ids_and_targets_within_the_vocabulary_and_ignored_targets_are_read(tmp_path):
    ids = {"inputs.ids": np.full((B, T), V - 1, np.uint16), "inputs.targets": np.full((B, T), -100)}
    same(read(tmp_path, ids), ids)


def test_what_the_trace_does_not_have_is_listed_as_unknown(tmp_path):
    beyond = {"steps.99.loss": np.float64(1.0), "blocks.7.sum2": np.zeros((B, T, C)), "h.7.ln_1.weight.grad": np.zeros(C),
              "decode.3.blocks.7.k": np.zeros((B, H, 4, D)), "decode.3.logits": np.zeros((B, V))}
    split = {f"steps.99.m.blocks.0.attention.{piece}.bias": np.zeros(C) for piece in "qkv"}
    assert read(tmp_path, TRACE | beyond | split, reference=TRACE).unknown == dict.fromkeys({**beyond, **split})
    assert read(tmp_path, TRACE | beyond).unknown == dict.fromkeys(["blocks.7.sum2", "h.7.ln_1.weight.grad", "decode.3.blocks.7.k"])


PARTS = ["grads", "d", "blocks", "h", "0", "1", "99", "9" * 5000, "attention", "attn", "q", "qkv", "weight", "bias", "norm", "ln_1", "steps", "decode",
         "masks", "forward", "backward", "lm_head", "logits", "loss", "k", "\u0663", "", "wte", "table", "dropout", "ids", "inputs", "*", "m"]


@pytest.mark.parametrize("seed", [0, later(1), later(2), later(3), later(4), later(5)])
def test_any_names_and_shapes_are_read_or_refused_in_a_sentence(tmp_path, seed):
    rng, reference = np.random.default_rng(seed), TRACE if seed % 2 else None
    shapes_ = [(), (C,), (V, C), (C, V), (B, T, C), (B, T), (0,), (1,) * 5, (3 * C, C), (C, C), (B, H, T, T), (B * T, C), (2, 2, 2)]
    read_ = refused = 0
    for _ in range(40):
        arrays = {}
        for _ in range(2):
            name = ".".join(rng.choice(PARTS, rng.integers(1, 6)).tolist())
            arrays[name] = np.ones(shapes_[rng.integers(len(shapes_))], rng.choice(["f4", "f8", "i4", "?"]))
        safetensors.write(tmp_path / "a.safetensors", arrays)
        try:
            dumps.read(tmp_path / "a.safetensors", CONFIG, reference=reference)
            read_ += 1
        except FormatError as error:
            refused += 1
            assert "a.safetensors" in str(error)
    assert read_ > 0 and refused > 0


def npy(array) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=True)
    return file.getvalue()


def test_damaged_files_are_refused_in_sentences(tmp_path):
    whole = io.BytesIO()
    np.savez_compressed(whole, **TRACE)
    whole = whole.getvalue()
    rng = np.random.default_rng(0)
    cases = {"empty.npz": b"", "text.npz": b"abc", "cut.npz": whole[:-100], "magic": b"\x93NUMPY\x01\x00", "cut.npy": npy(np.zeros(5))[:-1],
             "pickle.npy": npy(np.array([None])), "nothing": b"hello"}
    for i in range(40):
        broken = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            broken[place] = rng.integers(256)
        cases[f"broken{i}.npz"] = bytes(broken)
    refused = 0
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        try:
            dumps.read(tmp_path / name, CONFIG)
        except FormatError as error:
            refused += 1
            assert str(tmp_path) in str(error) and "\n" not in str(error)
    assert refused >= 30


def test_a_member_that_is_there_twice_and_one_that_claims_too_much_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.warns(UserWarning), zipfile.ZipFile(path, "w") as archive:
        archive.writestr("grads.norm.gain.npy", npy(np.zeros(C)))
        archive.writestr("grads.norm.gain.npy", npy(np.zeros(C)))
    with pytest.raises(FormatError, match="there twice"):
        dumps.read(path, CONFIG)
    (tmp_path / "f" / "grads").mkdir(parents=True)
    for name in ("grads/norm.gain.npy", "grads.norm.gain.npy"):
        np.save(tmp_path / "f" / name, np.zeros(C))
    with pytest.raises(FormatError, match="both called 'grads.norm.gain'"):
        dumps.read(tmp_path / "f", CONFIG)
    header = json.dumps({"descr": "<f8", "fortran_order": False, "shape": 0}).replace('"shape": 0', "'shape': (1000000000000,)")
    header = header.replace("false", "False").encode() + b"\n"
    (tmp_path / "b.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(FormatError, match="claims the shape.*8000000000000 bytes; 0 are there"):
        dumps.read(tmp_path / "b.npy", CONFIG)
