"""From a reference to the name of a mistake, by the commands alone: numgpt trace, compare and diagnose.

The port is the end of a GPT in a few lines of NumPy, which know the numbers in the reference's file and nothing else of
numgpt, and have names of their own.
"""

import json

import numpy as np
import pytest

from numgpt import safetensors
from numgpt.cli import main

# Theirs to those of the trace, as --map reads them.
NAMES = {"ids": "inputs.ids", "final": "forward.norm", "logits": "forward.logits",
         "d.final": "backward.norm", "d.logits": "backward.logits", "d.lnf_g": "grads.norm.gain", "d.lnf_b": "grads.norm.bias",
         "d.stream": "backward.blocks.1.sum2"}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A small GPT in the hard case."""
    path = tmp_path_factory.mktemp("story") / "ref.safetensors"
    config = path.with_name("config.json")
    config.write_text(json.dumps(dict(n_vocab=31, n_ctx=9, n_layer=2, n_head=3, n_embd=15)))
    assert main(["trace", str(config), "--adversarial", "--steps", "0", "-o", str(path), "--alone"]) == 0
    return path


def port(reference, *, forget_xhat: bool) -> dict[str, np.ndarray]:
    """The last norm, the tied head and the loss, forward and back, in float32, of what came out of the blocks."""
    trace = safetensors.read(reference)
    table, gain, bias = (trace[f"weights.{name}"] for name in ("embedding.table", "norm.gain", "norm.bias"))
    x, targets = np.asarray(trace["forward.blocks.1.sum2"], np.float32), np.asarray(trace["inputs.targets"])
    mean, rstd = x.mean(-1, keepdims=True), 1 / np.sqrt(x.var(-1, keepdims=True) + np.float32(1e-5))
    xhat = (x - mean) * rstd
    final = xhat * gain + bias
    logits = final @ table.T

    e = np.exp(logits - logits.max(-1, keepdims=True))
    dlogits = e / e.sum(-1, keepdims=True)
    counts = targets != -100
    dlogits[counts, targets[counts]] -= 1
    dlogits *= counts[..., None] / np.float32(counts.sum())
    dfinal = dlogits @ table
    dxhat = dfinal * gain
    dx = dxhat - dxhat.mean(-1, keepdims=True)
    if not forget_xhat:
        dx -= xhat * (dxhat * xhat).mean(-1, keepdims=True)
    return {"ids": np.asarray(trace["inputs.ids"]), "final": final, "logits": logits, "d.logits": dlogits, "d.final": dfinal,
            "d.lnf_g": (dfinal * xhat).sum((0, 1)), "d.lnf_b": dfinal.sum((0, 1)), "d.stream": rstd * dx}


@pytest.fixture
def call(reference, tmp_path, capsys):
    """numgpt COMMAND on the reference and on what the port has dumped: exit status and what was printed."""
    def called(command, arrays, *options):
        np.savez(tmp_path / "mine.npz", **arrays)
        (tmp_path / "names.json").write_text(json.dumps(NAMES))
        capsys.readouterr()
        status = main([command, str(reference), str(tmp_path / "mine.npz"), "--map", str(tmp_path / "names.json"), *options])
        return status, capsys.readouterr().out
    return called


def test_a_port_that_is_right_passes_both(reference, call):
    right = port(reference, forget_xhat=False)
    status, said = call("compare", right)
    assert status == 0 and "8 of 129 tensors compared, as float32\nall agree, as far as the type's rounding lets them" in said
    status, said = call("diagnose", right)
    assert status == 0 and "correct: all 7 tensors that were computed again are what the ones before make of them, to rounding" in said


def test_a_port_without_the_variances_part_is_shown_where_and_told_what(reference, call):
    wrong = port(reference, forget_xhat=True)
    status, said = call("compare", wrong, "--wrong")
    assert status == 1
    assert "first difference backward: backward.blocks.1.sum2: off by " in said
    assert "the name of the mistake: numgpt diagnose" in said and "--map" in said
    status, said = call("diagnose", wrong)
    assert status == 1
    assert "1 tensor is not what its inputs make of it; the first is backward.blocks.1.sum2" in said
    assert "ln-no-xhat: the variance's part is missing" in said
    assert "in the derivation of LayerNorm: - xhat * (dxhat * xhat).mean(-1, keepdims=True)" in said


def test_the_same_as_json(reference, call):
    wrong = port(reference, forget_xhat=True)
    status, said = call("compare", wrong, "--json")
    said = json.loads(said)
    assert status == 1 and not said["ok"]
    assert said["first_backward"] == "backward.blocks.1.sum2" and said["first_forward"] is None
    assert [row["name"] for row in said["tensors"] if not row["ok"]] == ["backward.blocks.1.sum2"]
    status, said = call("diagnose", wrong, "--json")
    said = json.loads(said)
    assert status == 1 and said["verdict"] == "known" and said["wrong"] == ["backward.blocks.1.sum2"]
    assert [one["slug"] for one in said["found"]] == ["ln-no-xhat"] and said["found"][0]["breaks"][1].startswith("- xhat")


def test_numbers_of_nothing_are_refused_with_a_sentence(reference, tmp_path, capsys):
    np.savez(tmp_path / "mine.npz", nothing=np.ones(3, np.float32))
    for command in ("compare", "diagnose"):
        assert main([command, str(reference), str(tmp_path / "mine.npz")]) == 1
        said = capsys.readouterr().err
        assert said.startswith("numgpt: ") and "mine.npz: " in said and len(said.splitlines()) == 1
