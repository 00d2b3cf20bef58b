"""LoRA: the layer's gradients, and adapters on a model: put on, trained, saved alone, refused, merged."""


import numpy as np
import pytest

from numgpt import GPT, GPTConfig, huggingface, llmc, safetensors
from numgpt import layers as L
from numgpt.cli import main
from numgpt.files import FormatError
from numgpt.gradcheck import check
from numgpt.layers import LoRA, blocks
from numgpt.training import AdamW, Settings, Shards, TaskData, Trainer
from numgpt.training.checkpoint import Checkpoint
from numgpt.tuning import adapters, files
from numgpt.tuning.classifier import Classifier
from numgpt.tuning.template import Template
from numgpt.verify import cases, mutants

CONFIG = dict(n_vocab=13, n_ctx=6, n_layer=2, n_head=3, n_embd=15)
IDS, TARGETS = np.random.default_rng(1).integers(0, 13, (2, 4, 6))
FLOAT32 = 2.0 ** -24  # the largest error of one rounding


def linear_of(dtype=np.float64, bias=True) -> L.Linear:
    return cases.order_one(L.Linear(11, 17, bias=bias, dtype=dtype), np.random.default_rng(0))


def lora_of(rank=3, alpha=2.0, **options) -> LoRA:
    """One that was trained for a while: neither matrix is 0."""
    lora, rng = LoRA(linear_of(**options), rank, alpha, rng=1), np.random.default_rng(2)
    lora.lora_b.value[...] = rng.standard_normal(lora.lora_b.shape)
    return lora


def x_of(dtype=np.float64, n=10):
    return np.random.default_rng(3).standard_normal((2, n // 2, 11)).astype(dtype)


def base_of(dtype=np.float32, recompute=False, seed=0, **changes) -> GPT:
    model = GPT(GPTConfig(**{**CONFIG, **changes}), dtype=dtype, recompute=recompute)
    return cases.order_one(model, np.random.default_rng(seed))


def moved(model: GPT) -> GPT:
    model.values[:model.grads.size] += 0.1 * np.random.default_rng(5).standard_normal(model.grads.size)
    return model


def adapted_of(layers="all", rank=2, alpha=3.0, also=(), **options) -> GPT:
    model = base_of(**options)
    adapters.add(model, rank, alpha=alpha, layers=layers, also=also)
    return moved(model)


# -- the layer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rank, alpha", [(1, None), (3, 2.0), (11, 40.0)])
def test_every_derivative_by_complex_step(bias, rank, alpha):
    lora, x = lora_of(rank, alpha, bias=bias), x_of()
    y, saved = lora.forward(x)
    dy = np.random.default_rng(4).standard_normal(y.shape)
    dx = lora.backward(dy, saved)
    grads = {"x": dx} | {name: param.grad for name, param in lora.named_params() if not param.frozen}
    assert list(grads) == ["x", "lora_a", "lora_b"]
    twin, values = lora.astype(np.complex128), {"x": x.astype(np.complex128)}
    values |= {name: param.value for name, param in twin.named_params()}
    for name, grad in grads.items():
        numeric, value = np.empty(grad.size), values[name].reshape(-1)
        for i in range(grad.size):
            value[i] += 1e-30j
            numeric[i] = (twin(values["x"]).imag * dy).sum() / 1e-30
            value[i] -= 1e-30j
        assert np.abs(numeric - grad.ravel()).max() <= 1e-12 * np.abs(grad).max(), name


def test_frozen_weights_are_left_alone_by_the_gradient_check_and_the_small_ones_are_checked():
    report = check(lora_of(), x_of())
    assert report.verdict == "ok" and "3 arrays" in str(report)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_at_the_start_it_is_the_linear_to_the_bit_and_in_its_type(dtype):
    linear, x = linear_of(dtype), x_of(dtype)
    y = linear(x)
    lora = LoRA(linear, 4, rng=0)
    assert np.array_equal(lora(x), y) and lora(x).dtype == dtype
    dx = lora.backward(y, x)
    assert dx.dtype == lora.lora_a.grad.dtype == dtype
    assert not lora.lora_a.grad.any() and lora.lora_b.grad.any()  # the first step moves lora_b, and lora_a from the second on


def as_it_should_be() -> bool:
    """It starts as the Linear, can learn from the first step on, scales by alpha / rank, and leaves the base alone."""
    linear, x = linear_of(), x_of()
    y = linear(x)
    lora = LoRA(linear, 4, 2.0, rng=0)
    start = lora(x)
    lora.backward(y, x)
    return np.array_equal(start, y) and lora.lora_b.grad.any() and lora.scale == 0.5 and not lora.weight.grad.any()


@pytest.mark.parametrize("form", [form for slug in ("lora-both-zero", "lora-alpha-alone", "lora-base-trained")
                                  for form in mutants.forms(slug)], ids=lambda form: form.story[:40])
def test_a_mistake_that_no_gradient_check_can_see_is_told_by_values(form):
    assert as_it_should_be()
    with mutants.apply(form):
        assert not as_it_should_be()


def test_a_row_of_order_one_comes_through_lora_a_with_order_one_however_wide():
    x = np.random.default_rng(0).standard_normal((500, 1000))
    lora = LoRA(L.Linear(1000, 8, rng=0), 8, rng=0)
    assert 0.9 < np.std(x @ lora.lora_a.value) < 1.1  # of 4000 numbers about independent: within 9 standard errors


def test_nothing_of_the_size_of_the_weight_is_made(monkeypatch):
    shapes = []
    own = blocks.add_product
    monkeypatch.setattr(blocks, "add_product", lambda total, a, b: (shapes.append(total.shape), own(total, a, b)))
    monkeypatch.setattr(blocks, "put_product", lambda total, a, b: pytest.fail("no gradient begins anew here"))
    lora = lora_of(rank=2)
    lora.backward(np.ones((2, 5, 17)), x_of())
    assert shapes == [(11, 2), (2, 17)]


def test_names_and_frozen_parameters():
    lora = lora_of()
    assert [(name, param.shape, param.frozen) for name, param in lora.named_params()] == [
        ("weight", (11, 17), True), ("bias", (17,), True), ("lora_a", (11, 3), False), ("lora_b", (3, 17), False)]
    assert str(lora) == "LoRA  rank 3, scale 0.666667, weight (11, 17), bias (17,), lora_a (11, 3), lora_b (3, 17)"


@pytest.mark.parametrize("rank, alpha, sentence", [
    (0, None, "rank must be at least 1; got 0"), (2.5, None, "rank must be a whole number; got 2.5"),
    (12, None, r"rank 12 is more than a matrix of shape \(11, 17\) has: choose one up to 11"),
    (2, 0, "alpha must be a number above 0; got 0"), (2, float("nan"), "alpha must be a number above 0; got nan")])
def test_a_rank_or_an_alpha_that_cannot_be_is_refused_and_nothing_is_frozen(rank, alpha, sentence):
    linear = linear_of()
    with pytest.raises((ValueError, TypeError), match=sentence):
        LoRA(linear, rank, alpha)
    assert not linear.weight.frozen


def test_lora_stands_on_a_linear_that_has_none():
    for layer in (L.LayerNorm(3), lora_of()):
        with pytest.raises(TypeError, match=f"LoRA stands on a Linear that has none yet; got {type(layer).__name__}"):
            LoRA(layer, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_merged_it_computes_what_it_computed(dtype):
    lora, x = lora_of(dtype=dtype), x_of(dtype)
    y, weight = lora(x), lora.weight.value.copy()
    W, A, B = (value.astype(np.longdouble) for value in (weight, lora.lora_a.value, lora.lora_b.value))
    exact = W + lora.scale * A @ B
    u = np.finfo(dtype).eps / 2
    merged = lora.merge()
    # The merged weight is rounded once, but for the float64 in which it is added up (3 products, a scale, a sum).
    assert (np.abs(merged.weight.value - exact) <= u * np.abs(exact) + 6 * 2.0 ** -53 * (np.abs(W) + np.abs(A) @ np.abs(B))).all()
    # Both ways are sums of products of the same numbers: at most n_in + rank + 4 roundings each of what the terms add up to.
    terms = np.abs(x) @ np.abs(W) + np.abs(x) @ np.abs(A) @ np.abs(B) + np.abs(lora.bias.value)
    assert type(merged) is L.Linear and (np.abs(merged(x) - y) <= 2 * (11 + 3 + 4) * u * terms).all()
    assert merged.weight is lora.weight and np.array_equal(merged.bias.value, lora.bias.value)


# -- on a model


@pytest.mark.parametrize("recompute", [False, True])
def test_adapters_on_a_model_change_nothing_until_they_are_trained_and_keep_all_names(recompute):
    model = base_of(recompute=recompute)
    loss, names = model(IDS, TARGETS), [name for name, _ in model.named_params()]
    put = adapters.add(model, 2, layers=("attention.qkv", "blocks.1.ffn"))
    assert put == ["blocks.0.attention.qkv", "blocks.1.attention.qkv", "blocks.1.ffn.up", "blocks.1.ffn.down"]
    assert model(IDS, TARGETS) == loss
    now = [name for name, _ in model.named_params()]
    assert [name for name in now if "lora" not in name] == names
    assert [name for name in now if "lora" in name] == [f"{name}.lora_{k}" for name in put for k in "ab"]
    assert model.grads.size == 2 * 2 * (15 + 45) + 2 * (15 + 60) * 2
    assert adapters.trained(model) == "parameters trained: 540 of 6,645"


@pytest.mark.parametrize("layers, wanted", [
    ("attention", ["attention.qkv", "attention.out"]), ("ffn", ["ffn.up", "ffn.down"]), ("blocks.*.ffn.up", ["ffn.up"]),
    ("all", ["attention.qkv", "attention.out", "ffn.up", "ffn.down"])])
def test_which_layers(layers, wanted):
    assert adapters.add(base_of(), 2, layers=layers) == [f"blocks.{i}.{name}" for i in (0, 1) for name in wanted]


def test_what_cannot_be_added_is_said_and_the_model_is_as_it_was():
    model = base_of()
    for options, sentence in [
            ({"layers": "atention"}, r"'atention' is part of no Linear's name: choose among blocks.\*.attention.qkv, blocks.\*.attention.out"),
            ({"layers": ("ffn", "norm")}, "'norm' is part of no Linear's name"), ({"rank": 0}, "rank must be at least 1; got 0"),
            ({"rank": 16}, r"rank 16 is more than blocks.0.attention.qkv has, whose shape is \(15, 45\): choose one up to 15"),
            ({"also": "head"}, "'head' is part of no parameter's name: choose among embedding.table, positions.table"),
            ({"alpha": -1}, "alpha must be a number above 0; got -1")]:
        with pytest.raises(ValueError, match=sentence):
            adapters.add(model, **{"rank": 2, **options})
    assert model.grads.size == model.values.size and not adapters.adapters(model)
    adapters.add(model, 2)
    with pytest.raises(ValueError, match="has adapters already: merge"):
        adapters.add(model, 2)
    for function in (adapters.merge, lambda m: adapters.save(m, "nowhere")):
        with pytest.raises(ValueError, match="the model has no adapters"):
            function(base_of())


def test_the_gradient_of_a_whole_model_with_adapters_by_complex_step():
    model = adapted_of("all", also="norm", dtype=np.float64, recompute=True)
    twin = model.astype(np.complex128)
    model.backward(model.forward(IDS, TARGETS)[1])
    rng = np.random.default_rng(0)
    for i in rng.choice(model.grads.size, 60, replace=False):
        twin.values[i] += 1e-30j
        assert abs(twin(IDS, TARGETS).imag / 1e-30 - model.grads[i]) <= 1e-12 * np.abs(model.grads).max()
        twin.values[i] -= 1e-30j


def test_training_moves_the_adapters_and_what_was_asked_for_and_nothing_else():
    model = base_of(dtype=np.float64)
    adapters.add(model, 2, layers="attention", also="norm.gain")
    before = {name: param.value.copy() for name, param in model.named_params()}
    optimizer, losses = AdamW(model, weight_decay=0.1), []
    for _ in range(20):
        model.zero_grad()
        loss, saved = model.forward(IDS, TARGETS)
        model.backward(saved)
        optimizer.step(0.02)
        losses.append(loss)
    assert losses[-1] < 0.8 * losses[0]
    changed = {name for name, param in model.named_params() if not np.array_equal(param.value, before[name])}
    assert changed == {"norm.gain"} | {name for name in before if "lora" in name}


@pytest.mark.parametrize("recompute", [False, True])
def test_a_merged_model_is_a_gpt_like_any_other(tmp_path, recompute):
    model = adapted_of("all", recompute=recompute)
    twin = adapters.merged(model)
    assert adapters.adapters(model) and not adapters.adapters(twin) and str(twin) == str(base_of(recompute=recompute))
    assert twin.grads.shape == twin.values.shape == base_of().values.shape
    # Float32 through two blocks of weights of order one: measured 3e-7 of a loss of 7
    assert abs(twin(IDS, TARGETS) - model(IDS, TARGETS)) <= 32 * FLOAT32 * 7 < abs(base_of()(IDS, TARGETS) - model(IDS, TARGETS))
    twin.save(tmp_path / "twin.safetensors")
    model.save(tmp_path / "model.safetensors")  # merges on the way
    assert (tmp_path / "twin.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    assert np.array_equal(GPT.load(tmp_path / "twin.safetensors").values, twin.values)
    adapters.merge(model, frozen=True)
    assert model.grads.size == 0 and np.array_equal(model.values, twin.values)
    adapters.add(twin, 1)  # and once more


def test_what_was_trained_beside_the_adapters_is_merged_as_it_is():
    model = adapted_of(also=("norm.gain", "embedding"))
    gain, table = model.body.norm.gain.value.copy(), model.body.embedding.table.value.copy()
    twin = adapters.merged(model)
    assert np.array_equal(twin.body.norm.gain.value, gain) and np.array_equal(twin.body.embedding.table.value, table)


# -- files


def test_adapters_are_saved_alone_and_put_on_their_base_again_to_the_bit(tmp_path):
    path, model = tmp_path / "adapters.safetensors", adapted_of("attention", also="norm")
    adapters.save(model, path)
    tensors = safetensors.read(path)
    assert set(tensors) == {name for name, param in model.named_params() if not param.frozen}
    assert sum(array.size for array in tensors.values()) == model.grads.size
    base = base_of()
    assert adapters.load(base, path) == [f"blocks.{i}.attention.{name}" for i in (0, 1) for name in ("qkv", "out")]
    assert np.array_equal(base.values, model.values) and base.grads.size == model.grads.size and str(base) == str(model)
    wide = base_of().astype(np.float64)  # the same base in another type
    adapters.load(wide, path)
    assert np.array_equal(wide.values, model.values) and wide.values.dtype == np.float64
    with pytest.raises(ValueError, match="has adapters already"):
        adapters.load(base, path)


def test_adapters_of_another_base_are_refused_and_the_model_is_as_it_was(tmp_path):
    path = tmp_path / "adapters.safetensors"
    adapters.save(adapted_of(), path)
    for base, sentence in [(base_of(seed=1), "another base, one of this form with other weights: load the base they were trained on"),
                           (base_of(n_layer=1, norm="post"), "another base, one with n_layer 2 and not 1, norm pre and not post"),
                           (adapters.merged(adapted_of()), "with other weights")]:
        values = base.values.copy()
        with pytest.raises(FormatError, match=sentence):
            adapters.load(base, path)
        assert np.array_equal(base.values, values) and base.grads.shape == values.shape and not adapters.adapters(base)


@pytest.mark.parametrize("change, sentence", [
    (lambda t, m: m.update(format="numgpt"), "has no adapters of numgpt: its metadata call it 'numgpt', and 'numgpt-lora' is wanted"),
    (lambda t, m: m.pop("fingerprint"), "has no adapters of numgpt"), (lambda t, m: m.update(config="{"), "config of its base is not one"),
    (lambda t, m: m.update(adapters="[]"), "do not say which layers have adapters, of which rank and alpha"),
    (lambda t, m: m.update(adapters=m["adapters"].replace('"rank": 2', '"rank": -2')), "do not say which layers"),
    (lambda t, m: m.update(adapters=m["adapters"].replace("3.0", "NaN")), "do not say which layers"),
    (lambda t, m: m.update(adapters=m["adapters"].replace("blocks.0", "blocks.7")), "'blocks.7.attention.qkv', and the model no Linear of"),
    (lambda t, m: m.update(adapters=m["adapters"].replace('"rank": 2', '"rank": 16')), "an adapter of rank 16 for 'blocks.0.attention.qkv'"),
    (lambda t, m: t.pop("blocks.1.attention.qkv.lora_b"), "has no tensor 'blocks.1.attention.qkv.lora_b', which it says is trained"),
    (lambda t, m: t.update({"blocks.1.attention.qkv.lora_b": np.zeros((2, 44), "f4")}), r"\(2, 45\) is wanted as the shape of .*it is \(2, 44\)"),
    (lambda t, m: t.update({"blocks.1.attention.qkv.lora_b": np.zeros((2, 45), "i4")}), "has the type int32, and the model float32"),
    (lambda t, m: m.update(adapters=m["adapters"].replace("[]", '["head.wait"]')), "the parameter 'head.wait', and the model none of that")])
def test_a_file_that_does_not_fit_is_refused_before_anything_is_done(tmp_path, change, sentence):
    path = tmp_path / "adapters.safetensors"
    adapters.save(adapted_of("attention.qkv"), path)
    with safetensors.File(path) as file:
        tensors, metadata = {name: file[name].copy() for name in file}, dict(file.metadata)
    change(tensors, metadata)
    safetensors.write(path, tensors, metadata)
    base = base_of()
    with pytest.raises(FormatError, match=sentence):
        adapters.load(base, path)
    assert base.grads.shape == base.values.shape and np.array_equal(base.values, base_of().values)


def test_a_checkpoint_of_a_model_with_adapters_gives_it_back_with_what_is_frozen(tmp_path):
    path, model = tmp_path / "checkpoint.safetensors", adapted_of("ffn", also="norm.bias")
    Checkpoint(model, {"m": np.ones_like(model.grads)}, {"step": 3}, {}).write(path)
    for recompute in (False, True):
        saved = Checkpoint.read(path, recompute=recompute)
        assert np.array_equal(saved.model.values, model.values) and saved.moments["m"].shape == saved.model.grads.shape
        assert [(n, p.frozen) for n, p in saved.model.named_params()] == [(n, p.frozen) for n, p in model.named_params()]
        assert [(a.rank, a.alpha) for a in adapters.adapters(saved.model).values()] == [(2, 3.0)] * 4
    plain = base_of()
    plain.freeze(lambda name: not name.startswith("blocks.1."))
    plain.lay_out()
    Checkpoint(plain, {}, {}, {}).write(path)
    assert Checkpoint.read(path).model.grads.size == plain.grads.size


@pytest.mark.parametrize("also", ["task", "task.linear.bias"])
def test_a_classifier_with_adapters_is_trained_in_shards_and_comes_back_from_a_checkpoint(tmp_path, also):
    path, rng, template = tmp_path / "checkpoint.safetensors", np.random.default_rng(6), Template("classify", 9)
    batch = rng.integers(0, 9, (4, 6)), rng.integers(2, 6, 4), rng.integers(0, 3, 4), rng.integers(0, 9, (4, 6))

    def classifier():
        return Classifier(base_of(dtype=np.float64), template, ("a", "b", "c"), rng=0)

    model = classifier()
    adapters.add(model, 2, layers="all", also=also)
    assert all(name.startswith("blocks.") for name in adapters.adapters(model))
    moved(model)
    grads = []
    for n in (1, 2, 3):
        with Shards(model, n) as shards:
            shards.backward(*batch)
        grads.append(model.grads.copy())
    # The same sums in another order
    assert grads[0].all() and max(np.abs(other - grads[0]).max() for other in grads[1:]) <= 1e-13 * np.abs(grads[0]).max()
    Checkpoint(model, {}, {}, {}).write(path)
    twin = Checkpoint.read(path, files.load).model
    assert type(twin) is Classifier and np.array_equal(twin.values, model.values) and twin.grads.shape == model.grads.shape
    assert [(n, p.frozen) for n, p in twin.named_params()] == [(n, p.frozen) for n, p in model.named_params()]
    adapters.save(model, path)  # with what was trained of the task
    again = classifier()
    adapters.load(again, path)
    assert np.array_equal(again.values, model.values)
    model.save(path)
    assert np.array_equal(files.load(path).values, adapters.merged(model).values)


def test_a_run_with_adapters_goes_on_bit_for_bit_and_its_best_model_is_merged(tmp_path):
    def trainer(folder):
        data = TaskData("add")
        model = GPT(GPTConfig(n_vocab=data.n_vocab, n_ctx=data.T, n_layer=1, n_head=2, n_embd=8), seed=3)
        adapters.add(model, 2, layers="all")
        settings = Settings.of("char-cpu", steps=4, batch=4, shards=2, eval_every=2, save_every=2)
        return Trainer(model, data, settings, folder=folder, source={"task": "add"})

    whole = trainer(tmp_path / "whole")
    base = {name: param.value.copy() for name, param in whole.model.named_params() if param.frozen}
    whole.data.questions = whole.data.questions[:8]
    with whole:
        whole.run()
    with trainer(tmp_path / "halves") as half:
        half.data.questions = half.data.questions[:8]
        half.step(), half.step()
        half.save()
    with Trainer.resume(tmp_path / "halves") as second:
        second.data.questions = second.data.questions[:8]
        second.run()
        assert np.array_equal(second.model.values, whole.model.values)
    assert all(np.array_equal(param.value, base[name]) for name, param in whole.model.named_params() if param.frozen)
    assert np.array_equal(GPT.load(tmp_path / "halves" / "best.safetensors").values, adapters.merged(second.model).values)


def test_convert_merges_on_demand(tmp_path, capsys):
    base, beside = tmp_path / "base.safetensors", tmp_path / "adapters.safetensors"
    model = adapted_of("attention")
    base_of().save(base)
    adapters.save(model, beside)
    assert main(["convert", str(base), str(tmp_path / "whole.safetensors"), "--adapters", str(beside)]) == 0
    assert capsys.readouterr().out == (f"{base} (numgpt) with {beside} merged -> {tmp_path / 'whole.safetensors'} (numgpt): 6,105 "
                                       "parameters in float32\n")
    assert np.array_equal(GPT.load(tmp_path / "whole.safetensors").values, adapters.merged(model).values)
    assert main(["convert", str(base), str(tmp_path / "folder"), "--adapters", str(beside)]) == 0
    assert np.array_equal(huggingface.load(tmp_path / "folder").values, adapters.merged(model).values)
    base_of(seed=1).save(base)
    assert main(["convert", str(base), str(tmp_path / "other.safetensors"), "--adapters", str(beside)]) == 1
    assert "has adapters for another base" in capsys.readouterr().err and not (tmp_path / "other.safetensors").exists()
    assert main(["convert", str(base), str(tmp_path / "other.safetensors"), "--adapters", str(base)]) == 1
    assert "has no adapters of numgpt" in capsys.readouterr().err


def test_formats_without_a_place_for_adapters_refuse_them(tmp_path):
    model = adapted_of("attention.qkv")
    for save in (huggingface.save, llmc.save, lambda model, path: llmc.state_of(model, IDS, TARGETS)):
        with pytest.raises(ValueError, match="has adapters, as on blocks.0.attention.qkv, and .* has no place for them: merge"):
            save(model, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    adapters.merge(model, frozen=True)
    with pytest.raises(ValueError, match="gradients of all parameters, and some of the model's are frozen"):
        llmc.state_of(model, IDS, TARGETS)


def test_a_checkpoint_with_adapters_is_converted_merged(tmp_path):
    model = adapted_of("attention")
    Checkpoint(model, {}, {}, {}).write(tmp_path / "step.safetensors")
    assert main(["convert", str(tmp_path / "step.safetensors"), str(tmp_path / "folder")]) == 0
    assert np.array_equal(huggingface.load(tmp_path / "folder").values, adapters.merged(model).values)


# -- against torch


@pytest.mark.verify
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_torch_s(bias):
    import torch
    lora, x = lora_of(bias=bias), x_of()
    y, saved = lora.forward(x)
    dy = np.random.default_rng(4).standard_normal(y.shape)
    dx = lora.backward(dy, saved)
    X, A, B = (torch.tensor(a, requires_grad=True) for a in (x, lora.lora_a.value, lora.lora_b.value))
    Y = torch.nn.functional.linear(X, torch.tensor(lora.weight.value.T), torch.tensor(lora.bias.value) if bias else None)
    Y = Y + 2.0 / 3 * (X @ A) @ B
    Y.backward(torch.tensor(dy))
    for ours, theirs in [(y, Y.detach()), (dx, X.grad), (lora.lora_a.grad, A.grad), (lora.lora_b.grad, B.grad)]:
        assert np.abs(ours - theirs.numpy()).max() <= 1e-11 * np.abs(ours).max()


@pytest.mark.verify
def test_adam_on_a_model_with_adapters_is_torch_s_on_the_same_matrices():
    """Ten steps: the low-rank matrices as leaves, the weights made of them, and our own loss's gradient of the weights."""
    import torch
    model = adapted_of("all", dtype=np.float64)
    leaves = {name: torch.tensor(param.value.copy(), requires_grad=True) for name, param in model.named_params() if not param.frozen}
    optimizer, theirs = AdamW(model, weight_decay=0.0), torch.optim.AdamW(leaves.values(), lr=1e-2, weight_decay=0.0)
    plain = base_of(dtype=np.float64)
    weights = {name: param.value.copy() for name, param in plain.named_params()}
    for _ in range(10):
        model.zero_grad()
        model.backward(model.forward(IDS, TARGETS)[1])
        optimizer.step(1e-2)
        theirs.zero_grad()
        whole = {}
        for name in adapters.adapters(model):
            whole[name] = torch.tensor(weights[f"{name}.weight"]) + 1.5 * leaves[f"{name}.lora_a"] @ leaves[f"{name}.lora_b"]
            dict(plain.named_params())[f"{name}.weight"].value[...] = whole[name].detach().numpy()
        plain.zero_grad()
        plain.backward(plain.forward(IDS, TARGETS)[1])
        for name, weight in whole.items():
            weight.backward(torch.tensor(dict(plain.named_params())[f"{name}.weight"].grad))
        theirs.step()
    for name, param in model.named_params():
        if not param.frozen:
            assert np.abs(param.value - leaves[name].detach().numpy()).max() <= 1e-11, name
