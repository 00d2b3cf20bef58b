"""numgpt trace, as it is called: from a preset, a config or weights; what is written beside; what is refused."""

import json

import numpy as np
import pytest

from numgpt import GPT, GPTConfig, huggingface, llmc
from numgpt.cli import main
from numgpt.verify import cases
from numgpt.verify.passes import Steps
from numgpt.verify.trace import Trace, example

SMALL = cases.small("gpt2")


def run(*argv) -> int:
    return main(["trace", *(str(a) for a in argv)])


def refused(capsys, *argv) -> str:
    with pytest.raises(SystemExit) as stop:
        run(*argv)
    assert stop.value.code == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(SMALL.to_json())
    return file


def test_a_preset_is_traced_and_its_weights_stand_beside_it(tmp_path, capsys):
    out = tmp_path / "ref.safetensors"
    assert run("gpt2", "--adversarial", "--steps", 1, "-o", out, "--seed", 7) == 0
    trace = Trace.read(out)
    assert trace.manifest["adversarial"] and trace.manifest["seed"] == 7 and trace.config.n_vocab == 31
    written = capsys.readouterr().out
    assert f"{len(trace)} tensors" in written and f"loss {float(trace['forward.loss']):.6f}" in written
    assert "B 4, T 7, C 15, H 3, D 5, F 60, V 31, 2 layers; " in written
    for kind, place, load in (("Hugging Face", "ref-huggingface", huggingface.load), ("llm.c", "ref-llmc.bin", llmc.load)):
        assert f"{tmp_path / place}: the weights for {kind}" in written
        for name, param in load(tmp_path / place).named_params():
            assert np.array_equal(param.value, trace[f"weights.{name}"]), name
    same = example(GPTConfig.preset("gpt2"), adversarial=True, seed=7, steps=Steps(1))
    assert list(same) == list(trace) and all(np.array_equal(same[name], trace[name]) for name in trace)


@pytest.mark.parametrize("changes, kept", [({"norm": "post"}, "llm.c"), ({"tied": False}, "llm.c"), ({"positions": "sinusoidal"}, "llm.c")])
def test_weights_that_somebody_elses_form_cannot_hold_are_said_and_nothing_fails(tmp_path, capsys, config, changes, kept):
    field, value = next(iter(changes.items()))
    out = tmp_path / "ref.safetensors"
    assert run(config, "--set", f"{field}={json.dumps(value)}", "-o", out, "--steps", 0, "--tokens", 3, "--batch", 1) == 0
    written = capsys.readouterr().out
    assert f"no weights for {kept}: " in written and not (tmp_path / "ref-llmc.bin").exists()
    assert (tmp_path / "ref-huggingface").exists() == ("the weights for Hugging Face" in written)
    assert getattr(Trace.read(out).config, field) == value


def test_alone_writes_the_trace_and_nothing_else(tmp_path, config):
    assert run(config, "-o", tmp_path / "t", "--alone", "--steps", 0, "--batch", 1, "--tokens", 2) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "t"]


def test_every_option_comes_into_the_trace(tmp_path, config):
    assert run(config, "-o", tmp_path / "t", "--alone", "--batch", 2, "--tokens", 5, "--steps", 1, "--accumulate", 2, "--lr", 0.5, "--eps", 1e-4,
               "--weight-decay", 0.25, "--clip", 2, "--betas", 0.5, 0.75, "--decode", 2, "--dtype", "float32", "--set", "activation=relu") == 0
    trace = Trace.read(tmp_path / "t")
    assert trace.steps == Steps(n=1, pieces=2, lr=0.5, eps=1e-4, weight_decay=0.25, clip=2, betas=(0.5, 0.75))
    assert trace["inputs.ids"].shape == (2, 5) and trace.config == SMALL.change(activation="relu")
    assert trace["forward.logits"].dtype == np.float32 and "decode.2.logits" in trace and trace.masks() is None
    assert run(config, "-o", tmp_path / "t", "--alone", "--dropout", "--steps", 0) == 0
    trace = Trace.read(tmp_path / "t")
    assert trace.masks() and trace["inputs.ids"].shape == (4, SMALL.n_ctx) and not any(name.startswith("steps.") for name in trace)


def test_somebodys_config_and_weights_are_read(tmp_path):
    model = cases.order_one(GPT(SMALL), np.random.default_rng(0))
    model.save(tmp_path / "m.safetensors")
    huggingface.save(model, tmp_path / "hf")
    options = "--alone", "--steps", 0, "--batch", 1, "--tokens", 3
    assert run(tmp_path / "hf" / "config.json", "-o", tmp_path / "a", *options) == 0
    a = Trace.read(tmp_path / "a")
    assert a.config.n_embd == 15 and not np.array_equal(a["weights.embedding.table"], model.body.embedding.table.value)
    for source in ("m.safetensors", "hf"):
        assert run(tmp_path / source, "-o", tmp_path / "b", *options) == 0
        b = Trace.read(tmp_path / "b")
        for name, param in model.named_params():
            assert np.array_equal(b[f"weights.{name}"], param.value), name
        assert b["forward.loss"] == pytest.approx(model(b["inputs.ids"], b["inputs.targets"]), rel=1e-5)


@pytest.mark.parametrize("argv, says", [
    (["nano", "--set", "n_layers=3"], "a config has no field 'n_layers'; 'n_layer'?"),
    (["nano", "--set", "n_layer"], "--set wants FIELD=VALUE; got n_layer"),
    (["gpt2-xl"], "GB large; fewer --steps, --batch and --tokens, or --dtype float32, make it smaller"),
    (["gpt2-xl"], "; --adversarial takes the model's form in a small size"),
    (["nano", "--set", "n_layer=100000000"], "TB large; fewer --steps"),
    (["nano", "--set", "n_layer=9999", "--set", "n_embd=3"], "tensors, and a file holds about 100,000; fewer layers or --steps make it smaller"),
    (["nano", "--set", "std=1e300"], "348 of 348 numbers of weights.embedding.table are not finite"),
    (["nano", "--lr", "1e308"], "numbers of steps.1.weights.embedding.table are not finite; take smaller"),
    (["nano", "--tokens", "9"], "sequences of 9 tokens do not fit into a context of 8"),
    (["nano", "--decode", "8"], "of 8 tokens, at most 7 can be decoded after the first; got 8"),
    (["nano", "--dropout"], "the config has no dropout to trace: change dropout_embd"),
    (["gpt2", "--adversarial", "--dropout", "--accumulate", "2"], "trace dropout, or pieces, not both"),
    (["nano", "--seed", "-1"], "a seed is a whole number from 0 on; got -1"), (["nano", "--batch", "0"], "argument --batch: it is a whole number from 1 on; got 0"),
    (["nano", "--decode", "x"], "a count is a whole number from 0 on; got x"), (["nano", "--lr", "nan"], "argument --lr: it is a number from 0 on; got nan"),
    (["nano", "--betas", "1", "2"], "beta"), (["nano", "--accumulate", "5"], "a batch of 4 sequences does not come in 5 pieces")], ids=" ".join)
def test_wrong_calls_are_answered_with_a_sentence_and_write_nothing(tmp_path, capsys, argv, says):
    sentence = refused(capsys, *argv, "-o", tmp_path / "t")
    assert says in sentence and "Warning" not in sentence
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["/dev/stdout", "/dev/stderr", "/dev/fd/1"])
def test_a_stream_is_no_place_for_a_trace(capsys, place):
    assert f"which {place} cannot be: name a file" in refused(capsys, "nano", "-o", place)


def test_what_is_large_is_said_before_it_is_computed(tmp_path, capsys, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("this is a test")
    monkeypatch.setattr("numgpt.cli.trace.example", refuse)
    assert "the trace will be 2.68 GB large; fewer --steps" in refused(capsys, "gpt2", "--steps", 0, "-o", tmp_path / "t")
    assert "the trace will be" not in refused(capsys, "gpt2", "--adversarial", "-o", tmp_path / "t")


def test_wrong_files_are_answered_with_a_sentence(tmp_path, capsys, config):
    (tmp_path / "bad.json").write_text('{"n_vocab": 3, "wings": 2}')
    (tmp_path / "m.safetensors").write_bytes(b"no weights")
    assert "there is no preset 'gpt-2', but there is 'gpt2'" in refused(capsys, "gpt-2", "-o", tmp_path / "t")
    for argv, says in (([tmp_path / "bad.json"], f"{tmp_path / 'bad.json'}: its config is not one: a config has no field 'wings'"),
                       ([tmp_path / "m.safetensors"], "m.safetensors")):
        assert run(*argv, "-o", tmp_path / "t") == 1
        error = capsys.readouterr().err
        assert error.startswith("numgpt: ") and says in error and error.count("\n") == 1
    model = GPT(SMALL)
    model.save(tmp_path / "m.safetensors")
    assert "name a preset or a config, not weights" in refused(capsys, tmp_path / "m.safetensors", "--adversarial", "-o", tmp_path / "t")
    assert "--set changes a preset or a config" in refused(capsys, tmp_path / "m.safetensors", "--set", "bias=false", "-o", tmp_path / "t")
    assert "a name of its own" in refused(capsys, "nano", "-o", "-")
    assert not (tmp_path / "t").exists()


def test_a_folder_that_is_not_there_is_said_before_anything_is_computed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("numgpt.cli.trace.example", lambda *_, **__: pytest.fail("computed for nothing"))
    assert run("nano", "-o", tmp_path / "nowhere" / "t") == 1
    assert str(tmp_path / "nowhere") in capsys.readouterr().err
    (tmp_path / "folder").mkdir()
    assert run("nano", "-o", tmp_path / "folder") == 1
    assert "is a folder" in capsys.readouterr().err
