"""The story of the green test goes as it is told: what it cannot see, numgpt's check finds and diagnose names."""

import numpy as np
import pytest
from test_docstrings import near

from numgpt.gradcheck import check
from numgpt.layers import SelfAttention
from numgpt.teach import story
from numgpt.teach.derivation import Derivation, execute, scope
from numgpt.verify import mutants
from numgpt.verify.diagnose import diagnose
from numgpt.verify.trace import example

MISTAKE = "dk-transposed"
BEHIND_THE_KEYS = {"embedding.table", "positions.table", "blocks.1.norm1.gain", "blocks.1.norm1.bias",
                   "blocks.1.attention.qkv.key.weight", "blocks.1.attention.qkv.key.bias"}


def wrong_ones(model) -> set[str]:
    """Those that come out of the backward after the last block's keys."""
    return {name for name, _ in model.named_params() if name in BEHIND_THE_KEYS or name.startswith("blocks.0.")}


def failed(std: float) -> set[str]:
    model, ids, targets = story.two_layers(std)
    before = model.values.copy()
    passed = story.usual_test(model, ids, targets)
    assert np.array_equal(model.values, before)  # it moves one weight at a time, and back
    return {name for name in passed if not passed[name]}


def test_the_model_has_38_parameters_of_which_22_get_their_gradient_by_way_of_a_key_s():
    model, _, _ = story.two_layers(0.02)
    assert len(model.params()) == 38 and len(wrong_ones(model)) == 22


@pytest.mark.verify  # README shows these figures as a doctest, in the plain suite
def test_with_weights_of_a_fiftieth_the_usual_test_lets_every_wrong_gradient_through():
    with mutants.apply(MISTAKE):
        assert failed(0.02) == set()


@pytest.mark.verify  # README shows these figures as a doctest, in the plain suite
def test_with_weights_of_a_half_it_fails_for_the_22_and_right_gradients_pass():
    with mutants.apply(MISTAKE):
        assert failed(0.5) == wrong_ones(story.two_layers(0.5)[0])
    assert failed(0.5) == set()


@pytest.mark.verify  # README tells it too
@pytest.mark.parametrize("std", [0.02, 0.5])
def test_the_check_finds_the_same_22_at_any_weights(std):
    model, ids, targets = story.two_layers(std)
    with mutants.apply(MISTAKE):
        report = check(model, ids, targets, mode="every")
    assert {found.name for found in report.gradients if found.verdict == "wrong"} == wrong_ones(model)
    assert all(found.verdict == "ok" for found in report.gradients if found.name not in wrong_ones(model))


@pytest.mark.verify
def test_the_check_passes_the_model_without_the_mistake():
    check(*story.two_layers(0.02), mode="every").assert_ok()


@pytest.mark.verify  # README tells it too
def test_diagnose_names_it_from_the_gradients():
    reference = example(story.CONFIG, adversarial=True)
    with mutants.apply(MISTAKE):
        port = story.gradients(reference)
    found = diagnose(reference, port).found
    assert [one.slug for one in found] == [MISTAKE]


def apart_and_whole():
    """Apart, and the same weights in a SelfAttention's one Linear."""
    whole = SelfAttention(6, 2, rng=0).qkv
    apart = story.Apart(6)
    for i, linear in enumerate((apart.query, apart.key, apart.value)):
        linear.weight.value[...] = whole.weight.value[:, 6 * i:6 * i + 6]
        linear.bias.value[...] = i + 1
        whole.bias.value[6 * i:6 * i + 6] = i + 1
    return apart, whole


def test_three_linears_apart_do_what_the_one_does():
    apart, whole = apart_and_whole()
    x, dy = np.random.default_rng(1).standard_normal((2, 3, 6)), np.random.default_rng(2).standard_normal((2, 3, 18))
    y, saved = apart.forward(x)
    y_whole, saved_whole = whole.forward(x)
    assert near(y, y_whole) and near(apart.backward(dy, saved), whole.backward(dy, saved_whole))
    assert np.array_equal(apart.weight, whole.weight.value)
    assert near(apart.key.weight.grad, whole.weight.grad[:, 6:12]) and near(apart.value.bias.grad, whole.bias.grad[12:])


def test_their_gradients_are_right_and_are_what_the_docstring_derives():
    apart, _ = apart_and_whole()
    x, dy = np.random.default_rng(1).standard_normal((2, 3, 6)), np.random.default_rng(2).standard_normal((2, 3, 18))
    check(apart, x).assert_ok()
    names, derivation = scope(apart) | {"x": x, "dy": dy}, Derivation.of(apart)
    execute((*derivation.forward, *derivation.backward), names)
    y, saved = apart.forward(x)
    assert near(names["y"], y) and near(names["dx"], apart.backward(dy, saved))
