"""numgpt beside golden vectors, which torch made in float64 (golden/make.py); no framework is needed to hold them."""

import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from families import each
from frameworks import beyond, errors, mistakes_of_models, of_numgpt

from numgpt import GPT, GPTConfig, safetensors
from numgpt.plan import shapes
from numgpt.verify import mutants

FOLDER = Path(__file__).parent / "golden"
FORMS = sorted(path.stem for path in FOLDER.glob("*.safetensors"))


@lru_cache
def golden(form, folder=FOLDER):
    """What a file says of itself, its config, and its tensors."""
    with safetensors.File(folder / f"{form}.safetensors") as file:
        about = json.loads(file.metadata["golden"])
        return about, GPTConfig.from_dict(about["config"]), dict(file)


def of(tensors, kind):
    """The weights or the gradients, by numgpt's names."""
    return {name.removeprefix(f"{kind}."): array for name, array in tensors.items() if name.startswith(f"{kind}.")}


def differences(form):
    """Each result's largest difference from the golden one, as a part of that one's largest element."""
    _, config, tensors = golden(form)
    model = GPT.blank(config, dtype=np.float64)
    values = of(tensors, "values")
    for name, param in model.named_params():
        param.value[...] = values[name]
    truth = {"logits": tensors["logits"], "loss": tensors["loss"], **of(tensors, "grads")}
    return errors(of_numgpt(model, tensors["ids"], tensors["targets"]), truth)


@pytest.mark.parametrize("form", FORMS)
def test_logits_loss_and_every_gradient_are_torchs(form):
    # The largest difference seen was 3e-15; torch differs from itself by 4e-15 on other instruction sets.
    assert not beyond(1e-12, differences(form))


def test_every_planted_mistake_shows_in_the_golden_vectors():
    def shows(slug):
        with mutants.apply(slug):
            assert any(beyond(1e-6, differences(form)) for form in FORMS)

    each(mistakes_of_models(), shows)


# -- what the files promise


@pytest.mark.parametrize("form", FORMS)
def test_every_parameter_has_a_weight_of_order_one_and_a_gradient(form):
    _, config, tensors = golden(form)
    values, grads = of(tensors, "values"), of(tensors, "grads")
    assert {name: array.shape for name, array in values.items()} == dict(shapes(config))
    assert {name: array.shape for name, array in grads.items()} == dict(shapes(config))
    assert tensors.keys() - {f"{kind}.{name}" for kind in ("values", "grads") for name in values} == {
        "ids", "targets", "logits", "loss"}
    assert {array.dtype for array in [*values.values(), *grads.values(), tensors["logits"], tensors["loss"]]} == {
        np.dtype(np.float64)}
    for name, value in values.items():
        fan_in = len(value) if name.endswith("weight") else 1
        # Of six normal numbers, the fewest there are, one draw in a thousand has a root mean square outside.
        assert 0.2 < np.sqrt((value ** 2).mean() * fan_in) < 2, name
    assert all(grad.any() for grad in grads.values())


@pytest.mark.parametrize("form", FORMS)
def test_ids_repeat_and_some_targets_do_not_count(form):
    _, config, tensors = golden(form)
    ids, targets = tensors["ids"], tensors["targets"]
    assert ids.dtype == targets.dtype == np.int64
    assert any(len(set(row)) < len(row) for row in ids.tolist())  # within a text,
    assert set(ids[0]) & set(ids[1])                              # and in two of them
    assert 0 < (targets == -100).sum() < targets.size / 2 and (targets != -100).any(axis=1).all()
    assert len({*ids.shape, config.n_head, config.n_embd, config.head_dim, config.hidden_dim, config.n_vocab}) == 7


@pytest.mark.parametrize("form", FORMS)
def test_the_stored_loss_is_that_of_the_stored_logits(form):
    _, _, tensors = golden(form)
    logits, targets = tensors["logits"], tensors["targets"]
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    counts = targets != -100
    surprise = -np.log(np.take_along_axis(p, np.where(counts, targets, 0)[..., None], -1)[..., 0])
    assert abs(surprise[counts].mean() - tensors["loss"]) < 1e-14 * tensors["loss"]


def test_together_they_turn_every_field_that_changes_the_mathematics():
    configs = [golden(form)[1] for form in FORMS]
    for field, values in {"norm": {"pre", "post"}, "positions": {"learned", "sinusoidal"}, "tied": {True, False},
                          "activation": {"gelu_tanh", "gelu", "relu", "quick_gelu", "silu"}, "bias": {True, False},
                          "head_bias": {True, False}, "scale_attn": {True, False}, "scale_attn_by_layer": {True, False},
                          "window": {None, 3}, "norm_eps": {1e-5, 1e-3}, "head_size": {None, 4},
                          "n_hidden": {None, 17}}.items():
        assert {getattr(config, field) for config in configs} == values, field
    assert all(config.n_layer > 1 for config in configs)  # the band and the scale by layer begin in the second
    assert not any(config.window and config.window >= golden(form)[2]["ids"].shape[1]
                   for form, config in zip(FORMS, configs))


def test_the_files_are_small_and_say_where_they_come_from():
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < 400_000
    for form in FORMS:
        about, _, _ = golden(form)
        assert about["form"] == form and isinstance(about["seed"], int) and about["torch"][0].isdigit()


@pytest.mark.verify
def test_made_again_they_are_the_same(tmp_path):
    # Bit for bit with the same torch on the same processor; 4e-15 was seen between instruction sets (SSE to AVX-512).
    subprocess.run([sys.executable, FOLDER / "make.py", tmp_path], check=True)
    assert sorted(path.stem for path in tmp_path.glob("*")) == FORMS
    for form in FORMS:
        (about, config, stored), (about_again, config_again, again) = golden(form), golden(form, tmp_path)
        assert (about["form"], about["seed"], config) == (about_again["form"], about_again["seed"], config_again)
        assert stored.keys() == again.keys()
        for name, array in stored.items():
            if name.startswith(("values.", "ids", "targets")):
                assert np.array_equal(array, again[name]), name
            else:
                assert np.abs(array - again[name]).max() <= 1e-14 * np.abs(array).max(), name
