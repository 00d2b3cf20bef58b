"""Each tensor of a forward and a backward pass is what its formula says of those before it: written apart from the layers."""

import numpy as np
import pytest

from numgpt import GPT, GPTConfig
from numgpt.config import PRESETS
from numgpt.verify import cases
from numgpt.verify.formulas import ACTIVATIONS, WORDS, evaluate, tensors
from numgpt.verify.passes import compute
from stages import later

B, T, V = 2, 7, 13
BASE = GPTConfig(V, 9, 2, 3, 15)
DROPS = dict(dropout_embd=0.1, dropout_attn=0.2, dropout_resid=0.3)
# Of a tensor's length. The largest difference over all of these, and over nine seeds of each, was 4.5e-16.
BOUND = 5e-15

PRESET_FORMS = {config: name for name, config in reversed([(name, cases.small(name)) for name in PRESETS])}
FORMS = {**{name: config for config, name in PRESET_FORMS.items()}, **{name: BASE.change(activation=name) for name in ACTIVATIONS},
         "sinusoidal": BASE.change(positions="sinusoidal"), "untied": BASE.change(tied=False), "head-bias": BASE.change(head_bias=True),
         "untied-head-bias": BASE.change(tied=False, head_bias=True, norm="post"), "no-bias": BASE.change(bias=False),
         "by-layer": BASE.change(scale_attn_by_layer=True), "unscaled": BASE.change(scale_attn=False, norm_eps=0.1),
         "one-layer": BASE.change(n_layer=1, norm="post"), "only-embd": BASE.change(dropout_embd=0.5), "only-attn": BASE.change(dropout_attn=0.5)}


def passed(config, dropout, seed=1):
    """All that a pass computes; ids repeat, some targets do not count."""
    model = cases.order_one(GPT(config, dtype=np.float64), np.random.default_rng(seed))
    rng = np.random.default_rng((seed, 2))
    ids, targets = rng.integers(0, V, (B, T)), rng.integers(0, V, (B, T))
    ids[:, -1], targets[rng.random((B, T)) < 0.25], targets[0, 0] = ids[:, 0], -100, 0
    return compute(model, ids, targets, rng=np.random.default_rng((seed, 3)) if dropout else None)


def beyond(listed, found, config) -> dict[str, float]:
    """Where formula and layers differ by more than the bound, and how far."""
    errors = {}
    for tensor in listed:
        mine, truth = evaluate(tensor, found, config), np.asarray(found[tensor.name])
        finite = np.isfinite(truth)
        assert mine.shape == truth.shape == tensor.shape, tensor.name
        assert np.array_equal(mine[~finite], truth[~finite]), tensor.name  # -inf where -inf is
        errors[tensor.name] = np.linalg.norm(mine[finite] - truth[finite]) / (np.linalg.norm(truth[finite]) or 1)
    return {name: error for name, error in errors.items() if not error <= BOUND}


CASES = [*((name, False) for name in FORMS), ("gpt2", True), ("gpt1", True), ("only-embd", True), ("only-attn", True),
         *(later(name, True) for name in FORMS if name not in ("gpt2", "gpt1", "only-embd", "only-attn"))]


@pytest.mark.parametrize("form, dropout", CASES)
def test_every_tensor_is_its_formula_of_those_before_it(form, dropout):
    config = FORMS[form]
    if dropout and not (config.dropout_embd or config.dropout_attn):
        config = config.change(**DROPS)
    found, listed = passed(config, dropout), tensors(config, B, T, dropout=dropout)
    known = {name for name in found if name.startswith(("inputs.", "weights.", "masks."))}
    for tensor in listed:
        assert set(tensor.of.values()) <= known, tensor.name
        known.add(tensor.name)
    assert known == found.keys() - {"clip.norm"}
    assert beyond(listed, found, config) == {}


@pytest.mark.verify
@pytest.mark.parametrize("form", FORMS)
def test_other_seeds_too(form):
    for seed in range(2, 5):
        for config, dropout in ((FORMS[form], False), (FORMS[form].change(**DROPS), True)):
            assert beyond(tensors(config, B, T, dropout=dropout), passed(config, dropout, seed), config) == {}


@pytest.mark.parametrize("word, wrong", [("mean(a)", "a.sum(-1, keepdims=True) / (a.shape[-1] - 1)"), ("rows(a)", "flat(a).mean(0)"),
                                         ("dsoftmax(dp, p)", "p * (dp - (dp * p).sum(-2, keepdims=True))"),
                                         ("merged(a)", "a.reshape(B, T, H * D)")])
def test_a_wrong_word_is_noticed(monkeypatch, word, wrong):
    monkeypatch.setitem(WORDS, word, wrong)
    assert beyond(tensors(BASE, B, T), passed(BASE, False), BASE)
