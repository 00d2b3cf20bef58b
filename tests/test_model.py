"""GPT: its gradients, its arrays, its files, and the properties of the whole."""

import copy
import itertools
import json
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import numgpt
from numgpt import GPT, GPTConfig, layers, safetensors
from numgpt.config import PRESETS
from numgpt.files import FormatError
from numgpt.gradcheck import check
from numgpt.verify import cases
from stages import later

SIZES = dict(n_vocab=13, n_ctx=9, n_layer=2, n_head=3, n_embd=15)


def model_of(seed=0, dtype=np.float64, recompute=False, **changes) -> GPT:
    model = GPT(GPTConfig(**{**SIZES, **changes}), dtype=dtype, recompute=recompute)
    return cases.order_one(model, np.random.default_rng(seed))


def batch(model, B=4, T=7, seed=1):
    sizes = cases.Sizes(B=B, T=T, V=model.config.n_vocab)
    rng = np.random.default_rng(seed)
    return cases.ids_of(rng, sizes), cases.targets_of(rng, sizes)


def gradients(model, ids, targets, dloss=1.0, **options) -> dict:
    model.zero_grad()
    _, saved = model.forward(ids, targets, **options)
    model.backward(saved, dloss)
    return {name: param.grad.copy() for name, param in model.named_params()}


def assert_near(a: dict, b: dict, bound: float):
    assert a.keys() == b.keys()
    for name in a:
        assert np.abs(a[name] - b[name]).max() <= bound * np.abs(b[name]).max(), name


# -- gradients


def test_every_derivative_of_nano_by_complex_step():
    inputs, options = cases.make("gpt-nano", seed=1).arguments()
    report = check(*inputs, method="complex", mode="every", **options)
    assert report.ok, report
    assert sum(f.checked for f in report.gradients) == GPTConfig.preset("nano").n_params
    assert max(f.error for f in report.gradients) <= 1e-12


@pytest.mark.parametrize("name", [name if name == "gpt1" else later(name)
                                  for name in cases.models() if name != "gpt-nano"])
def test_derivatives_of_every_preset_made_small_by_complex_step(name):
    inputs, options = cases.make(name, seed=2).arguments()
    report = check(*inputs, method="complex", mode="projection", **options)
    assert report.ok, report
    assert {f.method for f in report.gradients} == {"complex"}
    assert max(f.error for f in report.gradients) <= 1e-11


def test_the_small_forms_turn_on_what_their_presets_do():
    for name in PRESETS:
        assert name == "nano" or cases.small(name) in cases.models().values()
        preset, small = GPTConfig.preset(name).to_dict(), cases.small(name).to_dict()
        for field in preset:
            assert (preset[field] == small[field] or field in ("n_layer", "n_vocab", "n_ctx", "n_head", "n_embd")
                    or None not in (preset[field], small[field])), (name, field)
    assert cases.small("gpt3-13b").window_of(1) == 3 < cases.small("gpt3-13b").n_ctx


def test_a_tied_gradient_is_the_sum_of_the_two_untied_ones():
    tied, apart = model_of(tied=True), model_of(tied=False)
    for (name, param), (_, other) in zip(tied.named_params(), apart.named_params()):
        other.value[...] = param.value
    apart.head.weight.value[...] = tied.head.weight.value.T
    one, two = gradients(tied, *batch(tied)), gradients(apart, *batch(apart))
    two["embedding.table"] += two.pop("head.weight").T
    assert_near(one, two, 1e-14)  # the same sums in another order


def test_recompute_gives_the_same_bits_and_the_same_names():
    options = dict(dropout_embd=0.1, dropout_attn=0.2, dropout_resid=0.3)
    plain, again = model_of(**options), model_of(recompute=True, **options)
    one, two = (gradients(m, *batch(m), rng=np.random.default_rng(5)) for m in (plain, again))
    assert one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 1 << 30))
def test_pieces_with_unequal_counts_of_ignored_targets_add_up_to_the_whole(pieces, seed):
    model = model_of()
    ids, targets = batch(model, B=sum(pieces), seed=seed)
    targets[0] = -100  # a piece may even have none that counts
    whole, count = gradients(model, ids, targets), int((targets != -100).sum())
    loss = model(ids, targets)
    model.zero_grad()
    total = 0.0
    for begin, n in zip(itertools.accumulate([0, *pieces]), pieces):
        part = slice(begin, begin + n)
        piece, saved = model.forward(ids[part], targets[part], count=count)
        model.backward(saved)
        total += piece
    assert abs(total - loss) <= 1e-13 * max(loss, 1)
    assert_near({name: param.grad for name, param in model.named_params()}, whole, 1e-12)  # up to 20 terms in another order


# -- properties of the whole


FORMS = [{}, {"norm": "post", "activation": "relu"}, {"positions": "sinusoidal", "window": 2, "bias": False, "tied": False},
         {"scale_attn_by_layer": True, "head_size": 4, "head_bias": True, "activation": "gelu"}]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_changing_a_future_token_leaves_earlier_logits_bitwise_identical(form):
    model = model_of(**form)
    ids, _ = batch(model)
    logits = model.logits(ids)
    for t in range(1, ids.shape[1]):
        other = ids.copy()
        other[:, t:] = (other[:, t:] + 1) % model.config.n_vocab
        changed = model.logits(other)
        assert np.array_equal(changed[:, :t], logits[:, :t])
        assert not np.array_equal(changed[:, t], logits[:, t])


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_loss_alone_is_that_of_forward_and_of_the_logits(form):
    model = model_of(**form)
    ids, targets = batch(model)
    loss, saved = model.forward(ids, targets)
    assert model(ids, targets) == loss
    logits = model.logits(ids)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    rows = targets != -100
    by_hand = -np.log(np.take_along_axis(p[rows], targets[rows][:, None], -1)).mean()
    assert loss == pytest.approx(by_hand, rel=1e-13)
    assert np.array_equal(model.body.forward(ids)[0], model.body(ids))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_permuting_the_batch_permutes_the_logits(form):
    model = model_of(**form)
    ids, _ = batch(model)
    order = np.array([2, 0, 3, 1])
    logits = model.logits(ids)
    assert np.abs(model.logits(ids[order]) - logits[order]).max() <= 1e-13 * np.abs(logits).max()


def test_the_band_hides_what_lies_before_it():
    # One banded layer sees 3 positions; the dense one before it is silenced, so that nothing else carries news.
    model = model_of(window=3)
    model.body.blocks[0].attention.out.weight.value[...] = 0
    ids, _ = batch(model)
    other = ids.copy()
    other[:, 0] = (ids[:, 0] + 1) % 13
    same = [np.array_equal(a, b) for a, b in zip(model.logits(ids).swapaxes(0, 1), model.logits(other).swapaxes(0, 1))]
    assert same == [False] * 3 + [True] * 4


def test_dropout_without_a_generator_is_none_and_with_the_same_one_the_same():
    options = dict(dropout_embd=0.1, dropout_attn=0.2, dropout_resid=0.3)
    model, without = model_of(**options), model_of()
    ids, targets = batch(model)
    assert model(ids, targets) == without(ids, targets)
    one, two, other = (model(ids, targets, rng=np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert one == two != other
    for place in options:  # each of the three is at work
        alone = model_of(**{place: 0.3})
        assert alone(ids, targets, rng=np.random.default_rng(7)) != without(ids, targets)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_the_dtype_of_the_model_is_that_of_all_it_computes(dtype):
    model = model_of().astype(dtype)
    ids, targets = batch(model)
    loss, saved = model.forward(ids, targets)
    model.backward(saved)
    assert model.logits(ids).dtype == np.asarray(loss).dtype == model.grads.dtype == dtype


def test_float32_follows_float64():
    model = model_of(dtype=np.float64)
    ids, targets = batch(model)
    single = model.astype(np.float32)
    # Two layers at weights of order one: torch's own float32 is 6e-6 from its float64 at twelve (numerics).
    assert_near(gradients(single, ids, targets), gradients(model, ids, targets), 1e-5)


def test_large_logits_give_a_finite_loss_and_nothing_that_counts_gives_none():
    model = model_of()
    ids, targets = batch(model)
    model.body.embedding.table.value[...] *= 1e4
    assert np.isfinite(model(ids, targets))
    grads = gradients(model, ids, np.full_like(targets, -100))
    assert model(ids, np.full_like(targets, -100)) == 0 and not any(grad.any() for grad in grads.values())


# -- one array of parameters


def test_parameters_are_views_of_one_array_and_gradients_of_another():
    model = model_of(tied=False, head_bias=True)
    start = 0
    for name, param in model.named_params():
        part = slice(start, start + param.size)
        assert np.array_equal(model.values[part].reshape(param.shape), param.value), name
        for flat, view in ((model.values, param.value), (model.grads, param.grad)):
            assert view.flags.c_contiguous and np.shares_memory(flat[part], view)
        start += param.size
    assert start == model.n_params == model.values.size == model.grads.size
    grads = gradients(model, *batch(model))
    assert np.array_equal(np.concatenate([g.reshape(-1) for g in grads.values()]), model.grads)
    model.zero_grad()
    assert not model.grads.any()


@pytest.mark.parametrize("twin_of, shares, keeps_gradients", [
    (copy.copy, True, True), (copy.deepcopy, False, True), (GPT.replica, True, False),
    (lambda model: model.astype(np.float64), False, False), (lambda model: pickle.loads(pickle.dumps(model)), False, False),
], ids=["copy", "deepcopy", "replica", "astype", "pickle"])
def test_a_twin_stands_on_its_own_arrays_and_ties_what_was_tied(twin_of, shares, keeps_gradients):
    model = model_of()
    ids, targets = batch(model)
    expected = gradients(model, ids, targets)
    twin = twin_of(model)
    assert twin is not model and twin.body is not model.body and twin.config == model.config
    assert twin.head.weight is twin.body.embedding.table is not model.head.weight
    assert np.shares_memory(twin.values, model.values) == shares
    assert twin.grads.any() == keeps_gradients
    assert all(np.shares_memory(p.value, twin.values) and np.shares_memory(p.grad, twin.grads) for p in twin.params())
    before = model.grads.copy()
    got = gradients(twin, ids, targets)
    assert all(np.array_equal(got[name], expected[name]) for name in expected)
    if twin_of is not copy.copy:  # a shallow copy shares both, as shallow copies do
        assert np.array_equal(model.grads, before)


def test_pickle_and_copies_of_a_layer_inside_do_not_part_the_arrays():
    model = model_of()
    copy.deepcopy(model.body)
    ids, targets = batch(model)
    model.values *= 0.5
    halved = model_of()
    for _, param in halved.named_params():
        param.value *= 0.5
    assert model(ids, targets) == halved(ids, targets)


@pytest.mark.parametrize("exchange", [
    lambda m: setattr(m.body.blocks[0].ffn.down, "bias", None),
    lambda m: m.body.blocks.pop(),
    lambda m: m.body.blocks.reverse(),
    lambda m: setattr(m.body.blocks[0].ffn, "up", layers.Linear(15, 60, rng=3)),
    lambda m: setattr(m.body.embedding.table, "value", np.ones((13, 15))),
    lambda m: setattr(m.body.norm.gain, "grad", np.zeros(15)),
])
def test_a_model_whose_layers_were_exchanged_wants_to_be_laid_out_again(exchange):
    model = model_of()
    ids, targets = batch(model)
    exchange(model)
    loss = model(ids, targets)
    for use in (GPT.replica, GPT.zero_grad, copy.copy, copy.deepcopy, lambda m: m.astype(np.float64)):
        with pytest.raises(ValueError, match=r"were exchanged: call model.lay_out\(\) to bring"):
            use(model)
    model.lay_out()
    assert model(ids, targets) == model.replica()(ids, targets) == copy.deepcopy(model)(ids, targets) == loss
    assert model.n_params == sum(param.size for param in model.params())


def test_what_is_assigned_to_the_arrays_is_copied_into_them():
    model = model_of()
    ids, targets = batch(model)
    values, grads = model.values, model.grads
    gradients(model, ids, targets)
    stepped = model.values - 0.1 * model.grads
    model.values = stepped
    model.grads = np.zeros_like(model.grads)
    assert model.values is values is not stepped and model.grads is grads and not grads.any()
    assert np.array_equal(model.body.embedding.table.value.reshape(-1), stepped[:13 * 15])
    model.values -= 0.1 * model.grads
    with pytest.raises(ValueError, match="broadcast"):
        model.values = stepped[:-1]


def test_a_model_that_left_its_config_is_not_saved(tmp_path):
    model = model_of()
    model.body.blocks.pop()
    model.lay_out()
    with pytest.raises(ValueError, match="layers are no longer those of its config"):
        model.save(tmp_path / "m")
    assert not list(tmp_path.iterdir())


@pytest.mark.verify  # each element of nano is checked in the plain suite
def test_a_model_is_checked_like_a_layer():
    model = model_of(n_layer=1)
    assert check(model, *batch(model, B=2, T=3), mode="projection")
    model.body.backward = lambda dx, saved: None
    assert not check(model, *batch(model, B=2, T=3), mode="projection")


def test_replicas_add_their_gradients_to_their_own_array():
    model = model_of()
    ids, targets = batch(model)
    one, two = model.replica(), model.replica()
    gradients(one, ids, targets)
    assert one.grads.any() and not two.grads.any() and not model.grads.any()
    model.values[...] *= 1.5
    assert one(ids, targets) == model(ids, targets)


@pytest.mark.parametrize("changes", [{}, {"tied": False}, {"norm": "post", "positions": "sinusoidal", "head_bias": True}], ids=str)
def test_fleeting_gradients_are_the_same_and_whole_when_their_part_is_finished(changes):
    model = model_of(**changes)
    ids, targets = batch(model)
    truth = gradients(model, ids, targets)
    replica, found = model.replica(fleeting=True), {}
    assert replica.grads is None
    parts, names = dict(replica.parts()), {id(param): name for name, param in replica.named_params()}

    def fetch(part):
        for param in parts[part]:
            assert names[id(param)] not in found
            found[names[id(param)]] = param.grad
            param.begin_anew()

    loss, saved = replica.forward(ids, targets)
    replica.backward(saved, finished=fetch)
    assert list(parts) == [part for part, _ in replica.parts()] and found.keys() == truth.keys()
    assert all(np.array_equal(found[name], truth[name]) for name in truth)


# -- the start


def test_weights_start_as_the_config_says():
    config = GPTConfig(n_vocab=400, n_ctx=300, n_layer=5, n_head=2, n_embd=64, std=0.03, std_positions=0.01)
    stds = {name: param.value.std() for name, param in GPT(config, seed=3, dtype=np.float64).named_params()}
    for name, std in stds.items():
        if name.endswith(("bias", "gain")):
            assert std == 0
        else:
            expected = (0.01 if "positions" in name else 0.03 / np.sqrt(10) if name.endswith(("out.weight", "down.weight")) else 0.03)
            assert std == pytest.approx(expected, rel=0.05), name  # at least 4096 draws: 1.1 % is one standard error
    zeros = GPT(config.change(std_positions=0.0, std_residual=0.5))
    assert not zeros.body.positions.table.value.any()
    assert zeros.body.blocks[4].ffn.down.weight.value.std() == pytest.approx(0.5, rel=0.05)


def test_a_seed_says_all_weights_in_every_dtype():
    config = GPTConfig(**SIZES)
    one, two, other = GPT(config, seed=1), GPT(config, seed=1), GPT(config, seed=2)
    assert np.array_equal(one.values, two.values) and not np.array_equal(one.values, other.values)
    assert np.array_equal(GPT(config, seed=1, dtype=np.float64).values.astype(np.float32), one.values)


def test_weights_are_drawn_in_the_order_of_the_parameters_from_one_generator():
    config = GPTConfig(**SIZES, tied=False)
    rng = np.random.default_rng(11)
    for name, param in GPT(config, seed=11, dtype=np.float64).named_params():
        if not name.endswith(("bias", "gain")):
            std = 0.02 / np.sqrt(4) if name.endswith(("out.weight", "down.weight")) else 0.02
            assert np.array_equal(param.value, rng.normal(0, std, param.shape)), name


# -- files


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_saved_model_loads_to_the_same_bits(tmp_path, form, dtype):
    model = model_of(dtype=dtype, **form)
    model.save(tmp_path / "model.safetensors")
    again = GPT.load(tmp_path / "model.safetensors")
    assert again.config == model.config and again.values.dtype == dtype
    assert np.array_equal(again.values, model.values)
    assert not again.grads.any() and gradients(again, *batch(again)).keys() == dict(model.named_params()).keys()
    assert GPT.load(tmp_path / "model.safetensors", dtype=np.float64, recompute=True).values.dtype == np.float64


def test_a_model_is_saved_in_fewer_bits_when_asked_and_loads_into_float32(tmp_path):
    model = model_of(dtype=np.float32)
    for dtype, bits in (("float16", 11), ("bfloat16", 8)):
        model.save(tmp_path / dtype, dtype=dtype)
        again = GPT.load(tmp_path / dtype)
        assert again.values.dtype == np.float32
        assert (np.abs(again.values - model.values) <= np.abs(model.values) * 2.0 ** -bits + 1e-7).all()  # half an ulp
    with pytest.raises(TypeError, match="this file holds numbers in float64, .*; got complex128: choose one of them with dtype="):
        model.astype(complex).save(tmp_path / "complex")
    with pytest.raises(TypeError, match="got int8: choose one of them"):
        model.save(tmp_path / "int8", dtype="int8")
    assert {path.name for path in tmp_path.iterdir()} == {"float16", "bfloat16"}


def test_a_complex_file_is_not_halved_in_silence(tmp_path):
    model_of().astype(np.complex64).save(tmp_path / "m")
    assert GPT.load(tmp_path / "m").values.dtype == np.complex64
    with pytest.raises(TypeError, match="is complex; float32 would lose half of it"):
        GPT.load(tmp_path / "m", dtype=np.float32)
    for dtype in ("float32", "bfloat16"):
        with pytest.raises(TypeError, match=f"the model is complex; {dtype} would lose half of it"):
            GPT.load(tmp_path / "m").save(tmp_path / "half", dtype=dtype)


@pytest.mark.parametrize("damage, sentence", [
    (lambda t, c: t.pop("norm.gain"), "has no tensor 'norm.gain', which its config calls for"),
    (lambda t, c: t.update(more=np.zeros(3)), "has a tensor 'more', for which its config has no place"),
    (lambda t, c: t.update({"norm.gain": np.zeros(14)}), r"the config calls for \(15,\) as the shape of 'norm.gain'; it is \(14,\)"),
    (lambda t, c: t.update({"norm.gain": np.zeros(15, int)}), "'norm.gain' has the type int64; weights are floating-point numbers"),
    (lambda t, c: c.update(n_layer=2 ** 31 - 1), "has no tensor 'blocks.2.norm1.gain'"),
    (lambda t, c: c.update(n_ctx=2 ** 31 - 1), r"calls for \(2147483647, 15\) as the shape of 'positions.table'"),
    (lambda t, c: c.update(n_head=4), "its config is not one: n_embd 15 does not split into n_head 4"),
    (lambda t, c: c.update(colour="red"), "its config is not one: a config has no field 'colour'"),
    (lambda t, c: c.update(n_ctx=10 ** 4000), "n_ctx must be from 1 to .* got 1000000000.{,60}$"),
    (lambda t, c: c.clear(), "its config is not one: a config must say n_vocab"),
])
def test_a_file_that_does_not_fit_its_config_is_refused_before_memory_is_taken(tmp_path, damage, sentence):
    model = model_of(dtype=np.float32)
    tensors, config = {name: param.value for name, param in model.named_params()}, model.config.to_dict()
    damage(tensors, config)
    path = tmp_path / "m.safetensors"
    safetensors.write(path, tensors, {"format": "numgpt", "config": json.dumps(config)})
    tracemalloc.start()
    with pytest.raises(FormatError, match=sentence) as error:
        GPT.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in str(error.value) or "floating-point" in sentence
    assert peak < 1e6


def test_a_field_of_the_config_that_is_there_twice_is_refused(tmp_path):
    model = model_of()
    twice = model.config.to_json()[:-1] + ', "n_head": 5}'
    safetensors.write(tmp_path / "m", {name: param.value for name, param in model.named_params()}, {"format": "numgpt", "config": twice})
    with pytest.raises(FormatError, match="its config is not one: 'n_head' is there twice"):
        GPT.load(tmp_path / "m")


def test_sinusoidal_positions_take_no_memory_for_a_context_that_is_not_used():
    model = model_of(positions="sinusoidal", n_ctx=2 ** 31 - 1)
    assert model.logits(np.array([[1, 2, 3]])).shape == (1, 3, 13)


PEAK = """
import re, sys
from numgpt import GPT
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
before = peak()
model = GPT.load(sys.argv[1])
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak memory of a process is read from /proc")
def test_a_folder_is_no_model_s_file(tmp_path):
    with pytest.raises(FormatError, match="is a folder: name the file in it, such as best.safetensors"):
        GPT.load(tmp_path)


def test_loading_takes_the_memory_of_the_weights_and_of_one_of_them_while_it_is_copied(tmp_path):
    model = GPT(GPTConfig(n_vocab=6000, n_ctx=64, n_layer=3, n_head=4, n_embd=512))
    model.save(tmp_path / "m")
    ran = subprocess.run([sys.executable, "-c", PEAK, tmp_path / "m"], capture_output=True, text=True, check=True,
                         cwd=Path(numgpt.__file__).parent.parent)
    # 50 MB of weights, the largest 12 MB: the first to be copied, so that its pages are gone before the last is there.
    assert 0.9 < int(ran.stdout) / model.values.nbytes < 1.3


def test_a_file_without_our_config_is_refused(tmp_path):
    safetensors.write(tmp_path / "other", {"a": np.zeros(2)}, {"format": "pt"})
    with pytest.raises(FormatError, match="was not written by numgpt"):
        GPT.load(tmp_path / "other")
    with pytest.raises(FileNotFoundError):
        GPT.load(tmp_path / "none")


# -- words


def test_the_tree_shows_shapes_and_folds_what_is_alike():
    words = repr(GPT(GPTConfig.preset("nano", n_layer=5, window=3)))
    assert words == """\
GPT  9,888 parameters in float32, pre-norm, context 8
embedding       Embedding         table (29, 12)
positions       LearnedPositions  table (8, 12)
blocks 0, 2, 4  PreNormBlock
  norm1         LayerNorm         gain (12,), bias (12,)
  attention     SelfAttention     3 heads of 4
    qkv         Linear            weight (12, 36), bias (36,)
    out         Linear            weight (12, 12), bias (12,)
  norm2         LayerNorm         gain (12,), bias (12,)
  ffn           FeedForward
    up          Linear            weight (12, 48), bias (48,)
    activation  GELUTanh
    down        Linear            weight (48, 12), bias (12,)
blocks 1, 3     PreNormBlock
  norm1         LayerNorm         gain (12,), bias (12,)
  attention     SelfAttention     3 heads of 4
    qkv         Linear            weight (12, 36), bias (36,)
    attention   CausalAttention   sees 3 positions
    out         Linear            weight (12, 12), bias (12,)
  norm2         LayerNorm         gain (12,), bias (12,)
  ffn           FeedForward
    up          Linear            weight (12, 48), bias (48,)
    activation  GELUTanh
    down        Linear            weight (48, 12), bias (12,)
norm            LayerNorm         gain (12,), bias (12,)
head            HeadLoss          weight is embedding.table (29, 12)"""
    other = repr(GPT(GPTConfig.preset("nano", n_layer=12, dropout_embd=0.1, positions="sinusoidal", tied=False, head_bias=True),
                     recompute=True))
    for line in ("positions       SinusoidalPositions  12 waves", "dropout         Dropout              p 0.1",
                 "blocks 0-11     Recompute            of PreNormBlock", "head            HeadLoss             weight (12, 29), bias (29,)"):
        assert line in other.splitlines()


@pytest.mark.parametrize("call, sentence", [
    (lambda m: m.logits([1, 2, 3]), r"token ids must be \(B, T\), a batch of sequences; got an array of shape \(3,\): ids\[None\]"),
    (lambda m: m.logits(5), r"token ids must be \(B, T\)"),
    (lambda m: m.logits([[1, 13]]), "token id 13 at .* is outside the vocabulary: ids run from 0 to 12"),
    (lambda m: m.logits([[1, -1]]), "token id -1"),
    (lambda m: m.logits([[0.5]]), "token ids must be integers; got float64"),
    (lambda m: m.logits(np.zeros((2, 10), int)), "a sequence of 10 tokens does not fit into a context of 9"),
    (lambda m: m.forward([[1, 2]], [[1]]), r"targets must have the shape \(1, 2\)"),
    (lambda m: m([[1, 2]], [[1, 13]]), "target 13"),
    (lambda m: m.backward(m.forward([[1]], [[1]])[1], [1.0]), "a loss is one number"),
    (lambda m: m.backward(m.forward([[1]], [[1]])), "backward wants the second of what forward returned: loss, saved ="),
    (lambda m: m.backward(0.5), "backward wants the second of what forward returned"),
    (lambda m: model_of(n_layer=3).backward(m.forward([[1]], [[1]])[1]), "is longer than|is shorter than"),
    (lambda m: m.forward([[1, 2]], [[1, 2]], count=2.5), "count must be a whole number; got 2.5"),
    (lambda m: GPT(m.config, seed=-1), "seed must be a whole number from 0 on, or a generator; got -1"),
    (lambda m: GPT(m.config, seed="a"), "seed must be a whole number from 0 on, or a generator; got 'a'"),
    (lambda m: GPT(m.config, dtype=None), "such as np.float32; got None"),
    (lambda m: m.astype("bfloat16"), "of a floating-point type that NumPy computes in, such as np.float32; got bfloat16"),
    (lambda m: m.astype(int), "parameters are real or complex floating-point numbers; int64"),
    (lambda m: GPT({"n_vocab": 3}), "GPT wants a GPTConfig, such as GPTConfig.preset"),
    (lambda m: GPT(m.config, dtype=int), "parameters are real or complex"),
])
def test_a_wrong_call_is_answered_with_a_sentence(call, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        call(model_of())


def test_a_layer_by_itself_prints_its_own_line():
    assert repr(layers.LayerNorm(3)) == "LayerNorm  gain (3,), bias (3,)"
    assert repr(layers.Dropout(0.0)) == "Dropout" and repr(layers.Dropout(0.1)) == "Dropout  p 0.1"
    ring = layers.LayerNorm(3)
    ring.around = [ring]
    assert repr(ring) == repr(layers.LayerNorm(3))
    assert repr(layers.FeedForward(2, bias=False)).splitlines()[1:] == [
        "up          Linear    weight (2, 8)", "activation  GELUTanh", "down        Linear    weight (8, 2)"]
