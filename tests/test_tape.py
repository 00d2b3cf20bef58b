"""A model whose tensors pass by a tape computes what it did, and what the tape puts in a tensor's place is what is gone on with."""

import numpy as np
import pytest

from numgpt import GPT, GPTConfig
from numgpt.verify import cases
from numgpt.verify.tape import Tape, watched
from stages import later

B, T, V = 2, 7, 13
BASE = GPTConfig(V, 9, 2, 3, 15)
DROPS = dict(dropout_embd=0.1, dropout_attn=0.2, dropout_resid=0.3)
FORMS = {"pre": {}, "post": {"norm": "post"}, "pre-dropout": DROPS, "post-dropout": {"norm": "post", **DROPS}, "window": {"window": 3},
         "no-bias": {"bias": False}, "untied": {"tied": False, "head_bias": True, "positions": "sinusoidal"}}


def made(form):
    model = cases.order_one(GPT(BASE.change(**FORMS[form]), dtype=np.float64), np.random.default_rng(1))
    rng = np.random.default_rng(2)
    ids, targets = rng.integers(0, V, (B, T)), rng.integers(0, V, (B, T))
    targets[0, 1], targets[1, 0] = -100, ids[0, 0]
    return model, ids, targets


def run(model, ids, targets, *, dropout=False):
    """The loss, and all gradients."""
    model.zero_grad()
    loss, saved = model.forward(ids, targets, rng=np.random.default_rng(3) if dropout else None)
    model.backward(saved)
    return loss, model.grads.copy()


@pytest.mark.parametrize("form", FORMS)
def test_a_watched_model_computes_the_same_bits_also_with_each_tensor_in_its_own_place(form):
    model, *batch = made(form)
    dropout = "dropout" in form
    loss, grads = run(model, *batch, dropout=dropout)
    left = model.grads.copy()
    for change in (None, lambda name, array: array.copy()):
        tape = Tape(change)
        again, twin_grads = run(watched(model, tape), *batch, dropout=dropout)
        assert again == loss and np.array_equal(twin_grads, grads)
        assert tape.tensors["forward.loss"] == loss and ("masks.dropout" in tape.tensors) == dropout
    assert np.array_equal(model.grads, left)  # the twin's gradients are its own


@pytest.mark.parametrize("form", FORMS)
def test_each_tensor_is_seen_both_ways_under_one_name_and_in_one_shape(form):
    model, *batch = made(form)
    tape = Tape()
    run(watched(model, tape), *batch, dropout="dropout" in form)
    shapes = {name: np.shape(array) for name, array in tape.tensors.items()}
    both = {direction: {name.partition(".")[2]: shape for name, shape in shapes.items() if name.startswith(direction)}
            for direction in ("forward", "backward")}
    assert both["forward"].pop("loss") == () and both["forward"].pop("probabilities") == (B, T, V)
    assert both["forward"] == both["backward"]


@pytest.mark.parametrize("form", ["pre-dropout", later("post-dropout")])
def test_an_exchanged_tensor_changes_what_comes_after_it_and_nothing_before(form):
    model, *batch = made(form)
    plain = Tape()
    run(watched(model, plain), *batch, dropout=True)
    order = [name for name in plain.tensors if not name.startswith("masks.")]
    for at, name in enumerate(order):
        if name in ("forward.loss", "forward.probabilities"):  # nothing goes on with these two
            continue
        changed = Tape(lambda seen, array: array * 1.25 if seen == name else array)
        run(watched(model, changed), *batch, dropout=True)
        differ = [other for other in order if not np.array_equal(plain.tensors[other], changed.tensors[other])]
        assert not set(differ) & set(order[:at + 1]), name  # it is kept as it was before the exchange
        assert differ or name == order[-1] == "backward.embedding", name


def test_the_sums_inside_a_block_can_be_exchanged_although_they_are_gone_on_with_in_place():
    model, *batch = made("pre")
    plain = Tape()
    run(watched(model, plain), *batch)
    for name, then in (("forward.blocks.1.sum1", "forward.blocks.1.sum2"), ("backward.blocks.1.sum1", "backward.blocks.0.sum2")):
        tape = Tape(lambda seen, array: array + 1 if seen == name else array)
        run(watched(model, tape), *batch)
        assert np.array_equal(tape.tensors[name], plain.tensors[name])
        assert np.abs(tape.tensors[then] - plain.tensors[then]).max() > 0.5  # the residual path carries the 1


def test_softmax_goes_back_with_the_probabilities_that_were_put_in_place():
    model, *batch = made("pre")
    P = "blocks.1.attention"
    tape = Tape(lambda name, array: array ** 2 if name == f"forward.{P}.probabilities" else array)
    run(watched(model, tape), *batch)
    p, dp = tape.tensors[f"forward.{P}.probabilities"] ** 2, tape.tensors[f"backward.{P}.probabilities"]
    assert np.allclose(tape.tensors[f"backward.{P}.scores"], p * (dp - (dp * p).sum(-1, keepdims=True)), rtol=1e-12, atol=1e-15)


def test_given_masks_are_kept_instead_of_drawn_and_others_can_be_given_for_the_way_back():
    model, *batch = made("pre-dropout")
    drawn = Tape()
    loss, grads = run(watched(model, drawn), *batch, dropout=True)
    masks = {name: array for name, array in drawn.tensors.items() if name.startswith("masks.")}
    assert len(masks) == 1 + 3 * 2
    assert all(set(np.unique(mask)) == {False, True} for mask in masks.values())

    given = Tape(masks=masks)
    assert run(watched(model, given), *batch)[0] == loss  # without a generator
    assert np.array_equal(run(watched(model, given), *batch)[1], grads)

    name = "masks.blocks.1.ffn.dropped"
    other = Tape(masks=masks)
    other.masks_back = {name: ~masks[name]}
    assert run(watched(model, other), *batch)[0] == loss
    assert not (other.tensors["backward.blocks.1.ffn.down"] * masks[name]).any()
    assert (drawn.tensors["backward.blocks.1.ffn.down"] * masks[name]).any()


def test_hidden_scores_stay_hidden_whatever_somebody_else_says_they_are():
    model, *batch = made("window")
    loss, grads = run(model, *batch)
    tape = Tape(lambda name, array: np.where(array == -np.inf, 1e9, array) if name.endswith("scores") and name.startswith("f") else array)
    again, twin_grads = run(watched(model, tape), *batch)
    assert again == loss and np.array_equal(twin_grads, grads)
    hidden = tape.tensors["forward.blocks.1.attention.scores"] == -np.inf
    seen = np.arange(T)[None] <= np.arange(T)[:, None]
    assert np.array_equal(hidden[0, 0], ~(seen & (np.arange(T)[None] > np.arange(T)[:, None] - 3)))


def test_a_watched_model_of_float32_stays_in_float32():
    model, *batch = made("post-dropout")
    tape = Tape()
    run(watched(model.astype(np.float32), tape), *batch, dropout=True)
    assert {array.dtype for name, array in tape.tensors.items() if not name.startswith("masks.") and array.ndim} == {np.dtype("float32")}
