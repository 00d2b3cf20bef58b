"""numgpt convert and numgpt plan, as they are called; PyTorch's checkpoints by the shape that they have."""

import json
import re

import numpy as np
import pytest

from numgpt import GPT, GPTConfig, formats, huggingface, llmc, safetensors
from numgpt.cli import main
from numgpt.files import FormatError
from numgpt.formats import pytorch
from numgpt.verify import cases


def model_of(**changes) -> GPT:
    config = GPTConfig(**{**dict(n_vocab=13, n_ctx=9, n_layer=2, n_head=3, n_embd=15), **changes})
    return cases.order_one(GPT(config), np.random.default_rng(0))


def run(*argv, capsys=None) -> int:
    return main([str(a) for a in argv])


# -- the same weights all the way round


def test_weights_go_round_all_formats_and_come_back_the_same_bits(tmp_path, capsys):
    model, start = model_of(), tmp_path / "start.safetensors"
    model.save(start)
    stations = [start, tmp_path / "folder", tmp_path / "gpt2.bin", tmp_path / "again", tmp_path / "end.safetensors"]
    for source, target in zip(stations, stations[1:]):
        assert run("convert", source, target) == 0
    assert [formats.kind_of(path) for path in stations] == ["numgpt", "huggingface", "llmc", "huggingface", "numgpt"]
    for path in stations:
        assert np.array_equal(formats.load(path).values, model.values)
        assert formats.config_of(path).n_embd == 15
    assert start.read_bytes() == stations[-1].read_bytes()
    assert capsys.readouterr().out.splitlines()[0] == (
        f"{start} (numgpt) -> {tmp_path / 'folder'} (huggingface): {model.n_params:,} parameters in float32")


def test_dtype_shards_and_target_are_chosen(tmp_path):
    model_of().save(tmp_path / "m.safetensors")
    assert run("convert", tmp_path / "m.safetensors", tmp_path / "f", "--dtype", "bfloat16", "--shard-bytes", "3KB") == 0
    assert len(list((tmp_path / "f").glob("model-*.safetensors"))) > 2
    assert json.loads((tmp_path / "f" / "config.json").read_text())["dtype"] == "bfloat16"
    assert run("convert", tmp_path / "f", tmp_path / "weights", "--to", "llmc", "--dtype", "bfloat16") == 0
    assert np.array_equal(llmc.load(tmp_path / "weights").values, huggingface.load(tmp_path / "f").values)


def test_what_is_there_is_not_written_over_unless_forced(tmp_path, capsys):
    model_of().save(tmp_path / "m.safetensors")
    for target in ("folder", "w.bin"):
        assert run("convert", tmp_path / "m.safetensors", tmp_path / target) == 0
        assert run("convert", tmp_path / "m.safetensors", tmp_path / target) == 1
        assert "exists: choose another name, or --force to write over it" in capsys.readouterr().err
        assert run("convert", tmp_path / "m.safetensors", tmp_path / target, "--force") == 0


@pytest.mark.parametrize("changes, target, names", [
    ({"positions": "sinusoidal", "window": 2}, "folder", "cannot say positions='sinusoidal', window=2"),
    ({"norm": "post", "n_hidden": 7}, "folder", "openai-gpt cannot say n_hidden=7"),
    ({"norm_eps": 1e-6, "tied": False}, "w.bin", "llm.c cannot say norm_eps=1e-06, tied=False"),
])
def test_what_cannot_be_represented_is_refused_by_name_and_nothing_is_written(tmp_path, capsys, changes, target, names):
    model_of(**changes).save(tmp_path / "m.safetensors")
    assert run("convert", tmp_path / "m.safetensors", tmp_path / target) == 1
    assert names in capsys.readouterr().err
    assert not (tmp_path / target).exists()


def test_wrong_calls_are_answered_with_a_sentence(tmp_path, capsys):
    model_of().save(tmp_path / "m.safetensors")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("To be, or not to be")
    model = model_of()
    llmc.write_state(llmc.state_of(model, [[1, 2]], [[2, 3]]), tmp_path / "state", model.config)
    for argv, status, says in [
        (["convert", tmp_path / "none", tmp_path / "out"], 1, f"{tmp_path / 'none'}: No such file or directory"),
        (["convert", "", tmp_path / "out"], 2, "the name of a path is empty"),
        (["convert", tmp_path / "m.safetensors", tmp_path / "w.bin", "--dtype", "float64"], 1, "holds numbers in float32, bfloat16; got float64"),
        (["convert", tmp_path / "m.safetensors", tmp_path / "out", "--n-head", "0"], 2, "--n-head and --activation are for .pt files"),
        (["convert", tmp_path / "empty", tmp_path / "out"], 1, "empty is not one of Hugging Face's folders: it has no config.json"),
        (["convert", tmp_path / "text", tmp_path / "out"], 1, "text is nothing that numgpt reads: no safetensors, no weights of llm.c"),
        (["convert", tmp_path / "state", tmp_path / "out"], 1, "is a debug state of llm.c, which has gradients but no weights"),
        (["convert", tmp_path / "m.safetensors", tmp_path / "m.pt"], 2, "does not tell what it should become: say --to"),
        (["convert", tmp_path / "m.safetensors", tmp_path / "w.bin", "--shard-bytes", "5GB"], 2, "--shard-bytes is for Hugging Face's"),
        (["convert", tmp_path / "m.safetensors", tmp_path / "out", "--shard-bytes", "much"], 2, "a size is a number of bytes"),
        (["convert", tmp_path / "m.safetensors", tmp_path / "out", "--n-head", "3"], 2, "--n-head and --activation are for .pt files"),
        (["plan", "gpt-2"], 2, "there is no preset 'gpt-2', but there is 'gpt2'"),
        (["plan", "gpt2", "--tokens", "2000"], 2, "2000 tokens does not fit into a context of 1024"),
        (["plan", "gpt2", "--set", "norm"], 2, "--set wants FIELD=VALUE; got norm"),
        (["plan", "gpt2", "--set", "norm=sideways"], 2, "norm must be one of pre, post; got 'sideways'"),
        (["plan", tmp_path / "text"], 1, "is nothing that numgpt reads"),
    ]:
        if status == 2:
            with pytest.raises(SystemExit) as stop:
                run(*argv)
            assert stop.value.code == 2
        else:
            assert run(*argv) == status
        assert says in capsys.readouterr().err, argv
    assert not (tmp_path / "out").exists()


def test_a_float64_model_becomes_llm_cs_float32_and_too_large_numbers_are_refused(tmp_path, capsys):
    model = model_of().astype(np.float64)
    model.save(tmp_path / "m.safetensors")
    assert run("convert", tmp_path / "m.safetensors", tmp_path / "w.bin") == 0
    assert np.array_equal(llmc.load(tmp_path / "w.bin").values, model.values.astype(np.float32))
    model.values[7] = 1e39
    model.save(tmp_path / "m.safetensors")
    for target, options in (("w2.bin", []), ("f", ["--dtype", "float16"]), ("f", ["--dtype", "bfloat16"])):
        assert run("convert", tmp_path / "m.safetensors", tmp_path / target, *options) == 1
        assert "numbers up to 1e+39 do not fit into" in capsys.readouterr().err
        assert not (tmp_path / target).exists()


def test_our_file_is_ours_whatever_the_length_of_its_header_begins_with(tmp_path):
    # A header of 0x80 0x02 ... bytes begins like an old pickle of PyTorch's.
    filler = "x" * (0x10280 - len(json.dumps({"__metadata__": {"filler": ""}, "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
                                              separators=(",", ":"))))
    safetensors.write(tmp_path / "ours", {"a": np.zeros(1, np.float32)}, {"filler": filler})
    assert (tmp_path / "ours").read_bytes()[:2] == b"\x80\x02"
    assert formats.kind_of(tmp_path / "ours") == "numgpt"


def test_a_file_inside_a_hugging_face_folder_is_told_from_ours(tmp_path):
    huggingface.save(model_of(), tmp_path)
    with pytest.raises(FormatError, match="is part of Hugging Face's folder .*: name the folder"):
        formats.kind_of(tmp_path / "model.safetensors")


def test_plan_prints_presets_files_and_changes(tmp_path, capsys):
    assert run("plan") == 0
    table = capsys.readouterr().out
    assert "gpt2             124,439,808  " in table and "gpt3-175b    174,604,259,328  " in table
    assert run("plan", "gpt2", "--batch", 4, "--tokens", 64) == 0
    assert str(GPTConfig.preset("gpt2").plan(batch=4, n_tokens=64)) in capsys.readouterr().out
    assert run("plan", "gpt2", "--set", "norm=post", "--set", "tied=false", "--set", "window=None", "--json") == 0
    assert json.loads(capsys.readouterr().out)["n_params"] == GPTConfig.preset("gpt2", norm="post", tied=False).n_params
    model_of(bias=False).save(tmp_path / "m.safetensors")
    assert run("plan", tmp_path / "m.safetensors") == 0
    assert "2 layers, 3 heads of 5, width 15, hidden 60, context 9, vocabulary 13, bias False" in capsys.readouterr().out


# -- nanoGPT and minGPT


def their_tensors(model: GPT, linear_turned=True) -> dict:
    tensors = {}
    for name, param in model.named_params():
        turned = param.value.ndim == 2 and "table" not in name
        tensors[huggingface.their_name(name, "gpt2")] = param.value.T.copy() if turned else param.value
    for i in range(model.config.n_layer):
        tensors[f"transformer.h.{i}.attn.bias"] = np.tril(np.ones((1, 1, 9, 9), np.float32))  # the mask
    return tensors


def nanogpt_of(model: GPT, prefix="") -> dict:
    tensors = their_tensors(model) | {"lm_head.weight": model.body.embedding.table.value}
    c = model.config
    return {"model": {prefix + name: array for name, array in tensors.items()}, "iter_num": 3, "optimizer": {},
            "model_args": {"n_layer": c.n_layer, "n_head": c.n_head, "n_embd": c.n_embd, "block_size": c.n_ctx,
                           "bias": c.bias, "vocab_size": c.n_vocab, "dropout": 0.2}}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module._orig_mod."])
def test_nanogpts_checkpoint_is_read_with_or_without_biases_compiled_or_not(bias, prefix):
    model = model_of(bias=bias, activation="gelu")
    loaded = pytorch.build(nanogpt_of(model, prefix), "ckpt.pt")
    assert np.array_equal(loaded.values, model.values)
    c = loaded.config
    assert (c.activation, c.bias, c.tied, c.dropout_attn) == ("gelu", bias, True, 0.2)
    assert pytorch.build(nanogpt_of(model), "ckpt.pt", activation="gelu_tanh").config.activation == "gelu_tanh"


def test_mingpts_weights_are_read_when_the_heads_are_said():
    model = model_of(tied=False)
    loaded = pytorch.build(their_tensors(model), "model.pt", n_head=3)
    assert np.array_equal(loaded.values, model.values)
    assert (loaded.config.activation, loaded.config.n_head, loaded.config.tied) == ("gelu_tanh", 3, False)


def test_a_checkpoint_that_cannot_be_followed_is_refused():
    model = model_of()
    for checkpoint, says in [
        ({"weights": 1}, "is neither nanoGPT's checkpoint, which has 'model' and 'model_args', nor minGPT's"),
        (their_tensors(model_of(tied=False)), "holds weights without a config: say how many heads there are"),
        (nanogpt_of(model) | {"model_args": None}, "'model_args' must hold sizes by name; it is NoneType"),
        (nanogpt_of(model) | {"model": 3}, "'model' must hold tensors by name; it is int"),
        (nanogpt_of(model) | {"model_args": {"n_layer": 2}}, "model_args does not say vocab_size, block_size, n_head, n_embd"),
        (nanogpt_of(model) | {"model_args": nanogpt_of(model)["model_args"] | {"n_head": 4}}, "n_embd 15 does not split into n_head 4"),
        (nanogpt_of(model) | {"model": {"transformer.wte.weight": 3}}, "'transformer.wte.weight' is no array, but int"),
        (nanogpt_of(model) | {"model": {}}, "has no tensor 'wte.weight'"),
    ]:
        with pytest.raises(FormatError, match=says):
            pytorch.build(checkpoint, "x.pt")
    alone = their_tensors(model_of(tied=False))
    for tensors, n_head, says in [
        (alone, 4, "n_embd 15 does not split into n_head 4"), (alone, 0, "n_head must be from 1"),
        (alone | {"transformer.wte.weight": np.zeros(13)}, 3, "tables of tokens and positions must be matrices"),
        (nanogpt_of(model)["model"], 3, "the head is tied as in nanoGPT, not as in minGPT: say the activation"),
    ]:
        with pytest.raises(FormatError, match=says):
            pytorch.build(tensors, "x.pt", n_head=n_head)


def test_weights_of_nanogpt_without_their_config_are_read_when_heads_and_activation_are_said():
    model = model_of(bias=False)
    tensors = {f"module.{name}": array for name, array in nanogpt_of(model)["model"].items()}
    loaded = pytorch.build({"model": tensors}, "x.pt", n_head=3, activation="gelu")
    assert np.array_equal(loaded.values, model.values)
    assert (loaded.config.tied, loaded.config.bias, loaded.config.activation) == (True, False, "gelu")


@pytest.mark.verify
def test_torchs_files_are_converted_and_nothing_in_them_is_run(tmp_path, capsys):
    import torch

    model = model_of(activation="gelu")
    content = nanogpt_of(model)
    content["model"] = {name: torch.from_numpy(array.copy()) for name, array in content["model"].items()}
    torch.save(content, tmp_path / "ckpt.pt")
    assert run("convert", tmp_path / "ckpt.pt", tmp_path / "m.safetensors") == 0
    assert np.array_equal(GPT.load(tmp_path / "m.safetensors").values, model.values)
    content["model"] = {name: tensor.bfloat16() for name, tensor in content["model"].items()}
    torch.save(content, tmp_path / "half.pt")
    assert run("convert", tmp_path / "half.pt", tmp_path / "half.safetensors") == 0
    assert np.abs(GPT.load(tmp_path / "half.safetensors").values - model.values).max() <= 2.0 ** -8 * np.abs(model.values).max()

    mingpt = model_of(tied=False)
    tensors = {name: torch.from_numpy(array.copy()) for name, array in their_tensors(mingpt).items()}
    torch.save(tensors, tmp_path / "model.pt", _use_new_zipfile_serialization=False)  # as torch wrote before 1.6
    assert run("convert", tmp_path / "model.pt", tmp_path / "min.safetensors", "--n-head", 3) == 0
    assert np.array_equal(GPT.load(tmp_path / "min.safetensors").values, mingpt.values)

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "was run"), "w"))

    capsys.readouterr()
    torch.save({"model": Evil(), "model_args": {}}, tmp_path / "evil.pt")
    assert run("convert", tmp_path / "evil.pt", tmp_path / "evil.safetensors") == 1
    assert re.search(r"it holds \w+\.open, which is neither a tensor nor a plain value", capsys.readouterr().err)
    assert not (tmp_path / "was run").exists()


@pytest.mark.verify
@pytest.mark.parametrize("program", ["nanogpt", "mingpt"])
def test_logits_are_those_of_the_other_program(program):
    """The forward of either, in torch's own modules: a pre-norm GPT whose linear layers are nn.Linear."""
    import torch
    from torch.nn import functional as F

    tied = program == "nanogpt"
    model = model_of(tied=tied, activation="gelu" if tied else "gelu_tanh").astype(np.float64)
    w = {name: torch.from_numpy(array) for name, array in (nanogpt_of(model)["model"] if tied else their_tensors(model)).items()}
    ids = np.random.default_rng(1).integers(0, 13, (3, 7))
    x = F.embedding(torch.from_numpy(ids), w["transformer.wte.weight"]) + w["transformer.wpe.weight"][:7]

    def norm(x, name):
        return F.layer_norm(x, (15,), w[f"{name}.weight"], w[f"{name}.bias"])

    def linear(x, name):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    for h in ("transformer.h.0", "transformer.h.1"):
        q, k, v = (a.view(3, 7, 3, 5).transpose(1, 2) for a in linear(norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn").split(15, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(3, 7, 15)
        x = x + linear(y, f"{h}.attn.c_proj")
        a = F.gelu(linear(norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc"), approximate="none" if tied else "tanh")
        x = x + linear(a, f"{h}.mlp.c_proj")
    logits = F.linear(norm(x, "transformer.ln_f"), w["lm_head.weight"]).numpy()
    checkpoint = nanogpt_of(model) if tied else their_tensors(model)
    loaded = pytorch.build(checkpoint, "x.pt", n_head=None if tied else 3)
    assert np.abs(loaded.logits(ids) - logits).max() <= 1e-13 * np.abs(logits).max()
