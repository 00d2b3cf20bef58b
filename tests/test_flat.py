"""Frozen parameters: at the end of the values, without gradients, and nobody moves a bit of them."""

import copy
import pickle

import numpy as np
import pytest

from numgpt import GPT, GPTConfig
from numgpt import layers as L
from numgpt.layers import blocks
from numgpt.layers.param import FrozenParam, Param
from numgpt.training import SGD, AdamW, Shards
from numgpt.verify import cases

CONFIG = dict(n_vocab=13, n_ctx=6, n_layer=3, n_head=3, n_embd=15)
RNG = np.random.default_rng(2)
IDS, TARGETS = RNG.integers(0, 13, (2, 5, 6))


def is_middle(name: str) -> bool:
    return name.startswith("blocks.1.")


def model_of(trained=is_middle, dtype=np.float64, recompute=False, **changes) -> GPT:
    """All but the chosen parameters frozen."""
    model = cases.order_one(GPT(GPTConfig(**{**CONFIG, **changes}), dtype=dtype, recompute=recompute), np.random.default_rng(0))
    model.freeze(lambda name: not trained(name))
    model.lay_out()
    return model


def backward(model) -> GPT:
    model.zero_grad()
    model.backward(model.forward(IDS, TARGETS)[1])
    return model


def frozen(model) -> dict[str, np.ndarray]:
    return {name: param.value.copy() for name, param in model.named_params() if param.frozen}


def same(a: dict, b: dict) -> bool:
    return list(a) == list(b) and all(np.array_equal(a[name], b[name]) for name in a)


# -- where they stand


def test_what_is_trained_is_the_head_of_values_and_all_of_grads():
    whole, model = model_of(lambda name: True), model_of()
    n = sum(param.size for name, param in whole.named_params() if is_middle(name))
    assert model.grads.shape == (n,) and model.values.shape == whole.values.shape and model.n_params == whole.n_params
    assert np.array_equal(model.values[:n], np.concatenate([p.value.ravel() for k, p in whole.named_params() if is_middle(k)]))
    assert np.array_equal(model.values[n:], np.concatenate([p.value.ravel() for k, p in whole.named_params() if not is_middle(k)]))
    assert [p.value.base is model.values for p in model.params()] == [True] * len(model.params())
    assert [name for name, p in model.named_params() if not p.frozen] == list(filter(is_middle, dict(whole.named_params())))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("trained", [is_middle, lambda name: name.endswith("bias"), lambda name: "embedding" not in name],
                         ids=["a block in the middle", "biases", "all but the table"])
def test_gradients_are_those_of_the_model_that_is_trained_whole(trained, recompute):
    whole, model = backward(model_of(lambda name: True, recompute=recompute)), backward(model_of(trained, recompute=recompute))
    for (name, one), other in zip(whole.named_params(), model.params()):
        assert np.array_equal(one.grad, other.grad) if trained(name) else other.frozen and not other.grad.any(), name


def test_freezing_or_thawing_without_a_new_layout_is_told_even_where_the_order_stays():
    model = model_of(lambda name: True)
    model.freeze(lambda name: name == "norm.bias")  # the last of all
    for use in (GPT.zero_grad, GPT.replica, copy.deepcopy):
        with pytest.raises(ValueError, match=r"were frozen or thawed: call model.lay_out\(\)"):
            use(model)
    model.lay_out()
    assert model.grads.size == model.values.size - 15
    model.thaw()
    with pytest.raises(ValueError, match=r"were frozen or thawed: call model.lay_out\(\)"):
        model.replica()
    model.lay_out()
    assert model.grads.size == model.values.size
    assert np.array_equal(backward(model).grads, backward(model_of(lambda name: True)).grads)


def test_a_model_that_is_frozen_whole_has_nothing_to_train():
    model = model_of(lambda name: False)
    assert model.grads.size == 0 and model(IDS, TARGETS) == model_of()(IDS, TARGETS)
    with pytest.raises(ValueError, match="nothing to train: all parameters of the model are frozen"):
        AdamW(model)


# -- copies of every kind


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), GPT.replica,
                                    lambda m: m.replica(fleeting=True), lambda m: m.astype(np.float32)],
                         ids=["copy", "deepcopy", "pickle", "replica", "fleeting", "astype"])
def test_a_copy_has_the_same_parameters_frozen(copied):
    model = model_of()
    twin = copied(model)
    assert [(name, p.frozen) for name, p in twin.named_params()] == [(name, p.frozen) for name, p in model.named_params()]
    assert np.array_equal(twin.values, model.values.astype(twin.values.dtype))
    twin.backward(twin.forward(IDS, TARGETS)[1])
    wanted = backward(model)
    tolerance = 0 if twin.values.dtype == np.float64 else 1e-4  # float32 through three blocks of order one
    for ours, theirs in zip(twin.params(), wanted.params()):
        assert np.abs(ours.grad - theirs.grad).max() <= tolerance * max(1, np.abs(theirs.grad).max())


def test_a_tied_table_is_frozen_once_for_both_of_its_places():
    model = model_of(lambda name: name != "embedding.table", tied=True)
    assert model.head.weight is model.body.embedding.table and isinstance(model.head.weight, FrozenParam)
    twin = copy.deepcopy(model)
    assert twin.head.weight is twin.body.embedding.table and twin.head.weight.frozen


def test_a_layer_that_is_no_model_keeps_what_is_frozen_too():
    layer = L.Linear(3, 2, rng=1)
    layer.freeze(lambda name: name == "weight")
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), layer.astype(np.complex128)):
        assert twin.weight.frozen and not twin.bias.frozen and np.array_equal(twin.weight.value, layer.weight.value)
    layer.zero_grad()
    layer.thaw()
    assert type(layer.weight) is Param and not layer.weight.grad.any()
    layer.weight.add_product(np.ones((3, 1)), np.ones((1, 2)))
    assert (layer.weight.grad == 1).all()


# -- the optimizer and the shards


@pytest.mark.parametrize("make", [lambda m: AdamW(m, weight_decay=0.1), lambda m: SGD(m, weight_decay=0.1)], ids=["AdamW", "SGD"])
def test_no_step_moves_a_bit_of_them_and_they_have_no_moments(make):
    model = model_of()
    optimizer, before, start = make(model), frozen(model), model.values.copy()
    for _ in range(3):
        backward(model)
        optimizer.step(0.1)
    assert same(before, frozen(model))
    moved = start != model.values
    assert moved[:model.grads.size].mean() > 0.9 and not moved[model.grads.size:].any()
    assert all(getattr(optimizer, name).shape == model.grads.shape for name in optimizer.moments)


@pytest.mark.parametrize("change", [lambda m: m.freeze(), lambda m: m.thaw(), lambda m: m.lay_out()], ids=["frozen", "thawed", "laid out"])
def test_an_optimizer_and_shards_from_before_a_change_of_the_model_say_so(change):
    model = model_of()
    optimizer, shards, start = SGD(model), Shards(model, 2), model.values.copy()
    with shards:
        change(model)
        for name, use in (("SGD", lambda: optimizer.step(0.1)), ("Shards", lambda: shards.backward(IDS, TARGETS)), ("Shards", lambda: shards.loss(IDS, TARGETS))):
            with pytest.raises(ValueError, match=f"this {name} was made before parameters of the model were frozen, thawed or laid out anew"):
                use()
    assert np.array_equal(model.values, start)


def test_the_norm_that_clips_is_that_of_what_is_trained():
    model, whole = backward(model_of()), backward(model_of(lambda name: True))
    wanted = np.sqrt(sum((p.grad ** 2).sum() for name, p in whole.named_params() if is_middle(name)))
    assert abs(AdamW(model).norm() - wanted) <= 1e-12 * wanted < AdamW(whole).norm() / 2


@pytest.mark.parametrize("trained", [is_middle, lambda name: name.startswith("head"), lambda name: name == "embedding.table"],
                         ids=["a block in the middle", "the head", "the table"])
def test_two_and_three_shards_give_what_one_gives(trained):
    found = []
    for n in (1, 2, 3):
        model = model_of(trained, tied=False)
        before = frozen(model)
        with Shards(model, n, pieces=n) as shards:
            loss = shards.backward(IDS, TARGETS)
        assert same(before, frozen(model))
        found.append((loss, model.grads.copy()))
    assert found[0][1].any()
    for loss, grads in found[1:]:  # sums of the same numbers in another order: a few hundred roundings
        assert abs(loss - found[0][0]) <= 1e-13 * abs(loss) and np.abs(grads - found[0][1]).max() <= 1e-13 * np.abs(grads).max()


# -- layers


LAYERS = [(lambda: L.Linear(4, 3), (2, 5, 4)), (lambda: L.LayerNorm(4), (2, 5, 4)), (lambda: L.LearnedPositions(7, 4), (2, 5, 4)),
          (lambda: L.FeedForward(4, 6), (2, 5, 4)), (lambda: L.PreNormBlock(4, 2), (2, 5, 4))]


@pytest.mark.parametrize("make, shape", LAYERS, ids=[type(make()).__name__ for make, _ in LAYERS])
def test_dx_of_a_frozen_layer_is_that_of_one_that_is_trained_to_the_bit(make, shape):
    layer = cases.order_one(make(), np.random.default_rng(0))
    x = RNG.standard_normal(shape)
    y, saved = layer.forward(x)
    dy = RNG.standard_normal(y.shape)
    dx = layer.backward(dy, saved)
    layer.freeze()
    y_, saved = layer.forward(x)
    assert np.array_equal(y, y_) and np.array_equal(dx, layer.backward(dy, saved))
    assert not any(param.grad.any() for param in layer.params())


@pytest.mark.parametrize("rows", [2, 30], ids=["few rows, whose products wait", "many rows"])
@pytest.mark.parametrize("tied", [False, True])
def test_dx_of_a_frozen_head_is_that_of_one_that_is_trained(tied, rows):
    head = L.HeadLoss(4, 9, bias=True, tied=Param(RNG.standard_normal((9, 4))) if tied else None, std=1.0, rng=1)
    x, targets = RNG.standard_normal((1, rows, 4)), RNG.integers(0, 9, (1, rows))
    dx = head.backward(0.7, head.forward(x, targets)[1])
    head.freeze()
    loss, saved = head.forward(x, targets)
    assert np.array_equal(dx, head.backward(0.7, saved)) and saved[1] is None and saved[2] == [] and saved[3] is None


@pytest.mark.parametrize("tied", [False, True])
def test_no_product_is_computed_for_a_frozen_weight(monkeypatch, tied):
    model, shapes = model_of(tied=tied), []
    for name in ("put_product", "add_product"):
        for module in (blocks, L.loss):
            own = getattr(module, name, None)
            if own:
                monkeypatch.setattr(module, name, lambda total, a, b, own=own: (shapes.append(total.shape), own(total, a, b)))
    backward(model)
    assert sorted(shapes) == sorted(p.shape for name, p in model.named_params() if is_middle(name) and name.endswith("weight"))


def test_a_frozen_gradient_is_never_asked_for(monkeypatch):
    model = model_of()
    monkeypatch.setattr(FrozenParam, "grad", property(lambda self: pytest.fail(f"somebody asks for the gradient of {self}")))
    model.backward(model.forward(IDS, TARGETS)[1])
    with Shards(model, 2) as shards:
        shards.backward(IDS, TARGETS)
