"""A trace: what is in it, that it goes through its file unchanged, and that its steps and its decoding are what they say."""

import fnmatch
import json
import math

import numpy as np
import pytest
from layer_trace import POST, PRE, TOLERANCE, batch, made, of_layers

from numgpt import GPT, GPTConfig, safetensors
from numgpt.config import PRESETS
from numgpt.files import FormatError
from numgpt.plan import shapes
from numgpt.verify import cases
from numgpt.verify.compare import ALLOWED
from numgpt.verify.formulas import Tensor, evaluate
from numgpt.verify import hard
from numgpt.verify.manifest import count, listed
from numgpt.verify.noise import rounded_runs
from numgpt.verify.passes import Steps, compute
from numgpt.verify.trace import Trace, example, record, size_of
from stages import later

GPT2 = GPTConfig.preset("gpt2")


@pytest.fixture(scope="module")
def hardest() -> Trace:
    """GPT-2's form with everything at work."""
    return example(GPT2, adversarial=True, seed=3, dropout=True, n_decode=2, steps=Steps(3, clip=0.5))


@pytest.fixture(scope="module")
def plain() -> Trace:
    return example(GPT2, adversarial=True, seed=4, n_decode=3, steps=Steps(2, eps=1e-3))


def same(a, b):
    assert list(a) == list(b)
    for name in a:
        assert a[name].shape == b[name].shape and np.array_equal(a[name], b[name]), name


# -- what is in it


@pytest.mark.parametrize("config", [PRE, POST], ids=["pre", "post"])
def test_it_agrees_with_a_look_at_the_layers_from_outside(config):
    model, (ids, targets) = made(config), batch()
    outside, found = of_layers(model, ids, targets), compute(made(config), ids, targets)
    assert outside.keys() <= found.keys()
    for name, array in outside.items():
        assert np.linalg.norm(found[name] - array) <= TOLERANCE * np.linalg.norm(array), name


def test_the_order_is_that_of_execution(hardest):
    kinds = [name.split(".")[0] for name in hardest]
    runs = [kind for kind, before in zip(kinds, [None, *kinds]) if kind != before]
    assert runs[:2] == ["inputs", "weights"] and runs[-3:] == ["clip", "steps", "decode"]
    names = list(hardest)
    place = {name: names.index(name) for name in names}
    assert place["forward.loss"] < place["backward.logits"] < place["backward.norm"] < place["grads.norm.gain"]
    assert place["grads.norm.gain"] < place["backward.blocks.1.sum2"] < place["backward.blocks.0.sum2"] < place["grads.embedding.table"]
    assert place["masks.blocks.0.ffn.dropped"] < place["forward.blocks.0.ffn.dropped"] < place["forward.blocks.0.sum2"]
    for t, after in ((1, 2), (2, 3)):
        assert place[f"steps.{t}.weights.norm.bias"] < place[f"steps.{after}.grads.embedding.table"]


def test_the_manifest_says_of_each_tensor_its_shape_length_and_noise(hardest):
    for name, entry in hardest.entries.items():
        array = np.asarray(hardest[name])
        assert tuple(entry["shape"]) == array.shape
        assert entry["norm"] == pytest.approx(np.linalg.norm(array[np.isfinite(array)]), rel=1e-12)
        assert bool(entry["formula"]) != bool(entry.get("says"))
        assert entry["of"] or name.startswith(("inputs.", "weights."))
        assert all(fnmatch.filter(hardest, pattern) for pattern in entry["of"].values())
        exact = name.startswith(("inputs.", "masks."))
        assert exact or name.startswith("weights.") or 0 < entry["noise"]["float32"] < entry["noise"]["bfloat16"] or not entry["norm"], name
        assert not exact or entry["noise"] == {"float32": 0, "bfloat16": 0}
        assert not name.startswith("weights.") or entry["noise"]["float32"] <= 2.0 ** -23 * entry["norm"]


def test_the_weights_of_the_first_step_are_exact_in_float32(hardest):
    for name, shape in shapes(hardest.config):
        array = hardest[f"weights.{name}"]
        assert array.shape == shape and np.array_equal(array.astype(np.float32), array)
        assert np.array_equal(dict(hardest.model().named_params())[name].value, array)


@pytest.mark.parametrize("options", [{"dropout": True}, later({}), later({"steps": Steps(2, pieces=2)})], ids=str)
def test_the_seed_decides_every_byte_and_another_seed_others(tmp_path, options):
    config = cases.small("gpt1")
    files = [tmp_path / str(i) for i in range(3)]
    for file, seed in zip(files, (5, 5, 6)):
        example(config, seed=seed, n_tokens=4, **{"steps": Steps(1), **options}).write(file)
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()
    a, b = Trace.read(files[0]), Trace.read(files[2])
    assert not np.array_equal(a["inputs.ids"], b["inputs.ids"])
    assert not np.array_equal(a["weights.embedding.table"], b["weights.embedding.table"])


# -- the case that hides nothing


@pytest.mark.parametrize("preset", ["gpt2", later("gpt1"), later("classic"), later("gpt3-125m"), later("gpt3-1.3b")])
@pytest.mark.parametrize("seed", [0, later(1), later(2)])
def test_the_adversarial_case_hides_nothing(preset, seed):
    trace = example(GPTConfig.preset(preset), adversarial=True, seed=seed, steps=Steps(0))
    c, ids, targets = trace.config, trace["inputs.ids"], trace["inputs.targets"]
    sizes = [*ids.shape, c.n_head, c.head_dim, c.n_vocab]
    assert all(math.gcd(a, b) == 1 for i, a in enumerate(sizes) for b in sizes[:i])
    assert len({*sizes, c.n_embd, c.hidden_dim, 3 * c.n_head * c.head_dim, c.n_ctx}) == 9
    assert all(len(set(row)) < len(row) for row in ids.tolist())
    counted = (targets != -100).reshape(2, -1).sum(1)
    assert counted[0] != counted[1] and 0 < counted.sum() < targets.size and counted.sum() == trace.manifest["batch"]["counted"]
    assert np.std(trace["forward.logits"]) == pytest.approx(10, rel=1e-4)
    for name in trace:
        if name.startswith("grads."):
            size = np.abs(trace[name]).max()
            assert size > 1e-4, f"{name} is {size:.0e} at most: a mistake in it would hide"


def test_halves_of_the_hard_batch_never_count_alike():
    for seed in range(50):
        ids, targets = hard.batch(GPT2, *hard.BATCH, seed)
        counted = (targets != -100).reshape(2, -1).sum(1)
        assert (targets[0, :3] == -100).all() and 0 < counted.min() < counted.max(), seed


def test_the_hard_config_keeps_what_the_preset_turns_on():
    for name in PRESETS:
        before, after = GPTConfig.preset(name), hard.hard(GPTConfig.preset(name), False)
        kept = ("norm", "activation", "positions", "tied", "head_bias", "bias", "dropout_attn", "scale_attn")
        assert all(getattr(before, field) == getattr(after, field) for field in kept)
        assert [getattr(before, field) is None for field in ("n_hidden", "head_size", "window")] == [
            getattr(after, field) is None for field in ("n_hidden", "head_size", "window")]
    assert hard.hard(GPTConfig.preset("nano"), True).dropout_attn > 0 and hard.BATCH == (4, 7)


# -- dropout


def test_masks_are_in_the_trace_and_say_what_is_kept(hardest):
    masks = hardest.masks()
    assert set(masks) == {"masks.dropout", *(f"masks.blocks.{i}.{part}" for i in range(2)
                                             for part in ("attention.kept", "attention.dropped", "ffn.dropped"))}
    for i in range(2):
        P = f"blocks.{i}.attention"
        kept = hardest[f"forward.{P}.probabilities"] * masks[f"masks.{P}.kept"] / (1 - hardest.config.dropout_attn)
        assert np.allclose(hardest[f"forward.{P}.kept"], kept, rtol=1e-15, atol=0)
    share = np.mean(np.concatenate([mask.ravel() for name, mask in masks.items()]))
    assert abs(share - 0.9) < 0.05  # 0.9 is kept; of 3,000 numbers, 0.05 is ten standard deviations
    assert example(GPT2, adversarial=True, steps=Steps(0)).masks() is None


def test_steps_have_the_same_masks(hardest):
    for name in hardest:
        if name.startswith("grads."):
            assert np.array_equal(hardest[f"steps.1.{name}"], hardest[name])
    assert hardest["steps.1.loss"] == hardest["forward.loss"]
    moved = hardest.model()
    for name, param in moved.named_params():
        param.value[...] = hardest[f"steps.1.weights.{name}"]
    again = compute(moved, hardest["inputs.ids"], hardest["inputs.targets"], masks=hardest.masks())
    assert again["forward.loss"] == hardest["steps.2.loss"]
    assert np.array_equal(again["grads.norm.gain"], hardest["steps.2.grads.norm.gain"])


def test_dropout_with_pieces_and_dropout_of_nothing_are_refused():
    with pytest.raises(ValueError, match="trace dropout, or pieces, not both"):
        example(GPT2, adversarial=True, dropout=True, steps=Steps(1, pieces=2))
    with pytest.raises(ValueError, match="the config has no dropout to trace: change dropout_embd"):
        example(GPTConfig.preset("nano"), dropout=True)


# -- steps


@pytest.mark.parametrize("which", ["hardest", "plain"])
def test_the_steps_are_adamws_of_the_equations(which, request):
    trace = request.getfixturevalue(which)
    names, s = [name for name, _ in shapes(trace.config)], trace.steps
    w = {name: np.asarray(trace[f"weights.{name}"], np.float64) for name in names}
    m, v = ({name: 0.0 for name in names} for _ in range(2))
    for t in range(1, s.n + 1):
        g = {name: trace[f"steps.{t}.grads.{name}"] for name in names}
        norm = math.sqrt(sum((one ** 2).sum() for one in g.values()))
        assert norm == pytest.approx(float(trace[f"steps.{t}.norm"]), rel=1e-14)
        assert norm > s.clip  # it is clipped, as torch's clip_grad_norm_ does
        for name in names:
            clipped = g[name] * min(1.0, s.clip / (norm + 1e-6))
            m[name] = s.betas[0] * m[name] + (1 - s.betas[0]) * clipped
            v[name] = s.betas[1] * v[name] + (1 - s.betas[1]) * clipped ** 2
            decay = s.weight_decay if w[name].ndim == 2 else 0
            update = m[name] / (1 - s.betas[0] ** t) / (np.sqrt(v[name] / (1 - s.betas[1] ** t)) + s.eps)
            w[name] = w[name] * (1 - s.lr * decay) - s.lr * update
            for kind, mine in (("m", m), ("v", v), ("weights", w)):
                theirs = trace[f"steps.{t}.{kind}.{name}"]
                assert np.linalg.norm(mine[name] - theirs) <= 1e-13 * np.linalg.norm(theirs), (t, kind, name)
    assert trace["clip.norm"] == trace["steps.1.norm"]


def test_a_gradient_added_up_over_pieces_is_that_of_the_whole(plain):
    pieces = example(GPT2, adversarial=True, seed=4, steps=Steps(2, pieces=2, eps=1e-3))
    for name in pieces:
        if name.startswith("steps."):
            assert np.linalg.norm(pieces[name] - plain[name]) <= 1e-13 * max(np.linalg.norm(plain[name]), 1e-3), name
    assert any(not np.array_equal(pieces[name], plain[name]) for name in pieces if name.startswith("steps.1.grads."))


def test_no_steps_and_no_decoding_leave_none(plain):
    bare = example(GPT2, adversarial=True, seed=4, steps=Steps(0))
    assert list(bare) == [name for name in plain if not name.startswith(("steps.", "decode."))]


@pytest.mark.parametrize("wrong", [dict(n=-1), dict(n=1.5), dict(n="2"), dict(n=True), dict(pieces=0), dict(lr=math.nan), dict(lr=-1.0), dict(lr="1"),
                                   dict(betas=(0.9,)), dict(betas=(0.9, 1.0)), dict(betas=3), dict(eps=0), dict(eps=math.inf), dict(clip=-1),
                                   dict(weight_decay=None), dict(lr=10 ** 400)], ids=lambda wrong: str(wrong)[:30])
def test_steps_that_no_optimizer_takes_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be .*; got ."):
        Steps(**wrong)


def test_all_numbers_of_a_run_are_of_the_models_type():
    run = compute(GPT(cases.small("nano")), np.array([[1, 2, 3]]), np.array([[2, 3, 4]]), steps=Steps(1), n_decode=1)
    assert {np.asarray(array).dtype for name, array in run.items() if not name.startswith("inputs.")} == {np.dtype(np.float32)}


# -- how far a shorter type is off


def test_a_change_sees_what_passes_in_steps_and_decoding_apart_from_the_first_pass(hardest):
    seen = []
    compute(hardest.model(), hardest["inputs.ids"], hardest["inputs.targets"], change=lambda name, array: (seen.append(name), array)[1],
            steps=Steps(2), n_decode=2)
    for name, times in (("forward.blocks.1.norm1", 2 + 3), ("backward.blocks.1.attention.q", 2), ("forward.loss", 2)):
        assert seen.count(name) == 1 and seen.count(f"within.{name}") == times


def test_all_that_was_measured_is_finite_also_in_the_steps(hardest):
    batch = dict(masks=hardest.masks(), steps=hardest.steps)
    for kind, change in rounded_runs():
        run = compute(hardest.model(np.float32), hardest["inputs.ids"], hardest["inputs.targets"], change=change, **batch)
        assert all(np.isfinite(array).all() for name, array in run.items() if not name.endswith("scores")), kind
    for name in hardest:
        if name.startswith("grads."):  # the first step's gradient is the same, with the same noise
            first, alone = (hardest.entries[one]["noise"] for one in (f"steps.1.{name}", name))
            assert all(0.2 < first[kind] / alone[kind] < 5 for kind in first), name


def test_a_number_that_rounding_may_turn_around_is_allowed_to_step_the_other_way():
    """Adam makes 2 lr of it, however small it is, and no run need have met it."""
    met = 0
    for seed in range(2):
        trace = example(cases.small("nano"), seed=seed, steps=Steps(1), batch=4, n_tokens=7)
        for name, _ in shapes(trace.config):
            grad, noise = trace[f"steps.1.grads.{name}"], trace.entries[f"steps.1.grads.{name}"]["noise"]["bfloat16"]
            # Smaller than two usual errors, and not the key's bias, whose gradient is nothing but rounding.
            near = (np.abs(grad) < 2 * noise / math.sqrt(grad.size)) & (np.abs(grad) > 1e-12)
            met += near.any()
            if near.any():
                assert ALLOWED * trace.entries[f"steps.1.weights.{name}"]["noise"]["bfloat16"] > 2 * trace.steps.lr, name
    assert met > 5


# -- decoding


def test_decoding_gives_the_full_forwards_logits_and_keys_and_values(plain):
    T, n = plain["inputs.ids"].shape[1], plain.manifest["n_decode"]
    for j in range(n + 1):
        seen = T - n + j
        mine, full = plain[f"decode.{j}.logits"], plain["forward.logits"][:, seen - 1]
        assert np.linalg.norm(mine - full) <= 1e-12 * np.linalg.norm(full)
        for i in range(2):
            for part in "kv":
                mine, full = plain[f"decode.{j}.blocks.{i}.{part}"], plain[f"forward.blocks.{i}.attention.{part}"][:, :, :seen]
                assert mine.shape == full.shape and np.linalg.norm(mine - full) <= 1e-12 * np.linalg.norm(full)
    assert f"decode.{n + 1}.logits" not in plain


def test_decoding_is_without_dropout_beside_a_pass_with_it(hardest):
    trace = example(hardest.config, model=hardest.model(), n_tokens=7, n_decode=2, steps=Steps(0))
    again = compute(hardest.model(), hardest["inputs.ids"], hardest["inputs.targets"], n_decode=2)
    assert all(np.array_equal(hardest[name], again[name]) for name in hardest if name.startswith("decode."))
    assert [name for name in trace if name.startswith("decode.")] == [name for name in hardest if name.startswith("decode.")]
    assert not np.allclose(hardest["decode.2.logits"], hardest["forward.logits"][:, -1])


@pytest.mark.parametrize("options, says", [
    (dict(n_tokens=10), "sequences of 10 tokens do not fit into a context of 8"), (dict(n_tokens=-1), "sequences of -1 tokens"),
    (dict(n_tokens=4, n_decode=4), "of 4 tokens, at most 3 can be decoded after the first; got 4"),
    (dict(n_decode=-1), "got -1"), (dict(adversarial=True, model=object()), "name a preset or a config, not weights")], ids=str)
def test_what_cannot_be_traced_is_refused(options, says):
    with pytest.raises(ValueError, match=says):
        example(cases.small("nano"), **options)


@pytest.mark.parametrize("options, says", [
    (dict(config=cases.small("nano").change(std=1e300)), "numbers of weights.embedding.table are not finite"),
    (dict(steps=Steps(1, lr=1e308)), "195 of 195 numbers of steps.1.weights.embedding.table are not finite"),
    (dict(steps=Steps(1, lr=1e100)), "in float32, steps.1.weights.embedding.table is not finite"),
    (dict(steps=Steps(2, weight_decay=1e300)), "numbers of steps.2.grads.embedding.table are not finite")], ids=str)
def test_what_is_not_finite_is_named_and_no_trace_is_made_of_it(options, says, recwarn):
    with pytest.raises(ValueError, match=says):
        example(options.pop("config", cases.small("nano")), **{"steps": Steps(0), **options})
    assert not recwarn.list


# -- the file


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_trace_read_back_is_the_one_that_was_written(tmp_path, hardest, dtype):
    hardest.write(tmp_path / "t", dtype=dtype)
    read = Trace.read(tmp_path / "t")
    assert read.manifest == json.loads(json.dumps(hardest.manifest)) and read.config == hardest.config and read.steps == hardest.steps
    assert list(read) == list(hardest) == [entry["name"] for entry in read.manifest["tensors"]]
    for name, array in hardest.items():
        stored = np.asarray(read[name])
        assert np.array_equal(stored, array.astype(dtype) if array.dtype.kind == "f" else array), name
        if name.startswith("weights."):
            assert stored.dtype == np.float32 and np.array_equal(stored, array)
    assert read["inputs.ids"].dtype == np.int32 and read["masks.dropout"].dtype == bool


@pytest.mark.parametrize("which", ["hardest", "plain"])
def test_a_trace_can_be_recomputed_from_its_own_manifest(tmp_path, which, request):
    """The largest difference was 3e-16 of a tensor's length; decoding adds up in another order."""
    request.getfixturevalue(which).write(tmp_path / "t")
    read = Trace.read(tmp_path / "t")
    told = set()
    for entry in read.manifest["tensors"]:
        if entry["formula"]:
            tensor = Tensor(entry["name"], tuple(entry["shape"]), entry["formula"], entry["of"])
            mine, truth = evaluate(tensor, read, read.config, read.manifest["steps"]), read[entry["name"]]
            finite = np.isfinite(truth)
            assert mine.shape == truth.shape
            bound = 1e-12 if entry["name"].startswith("decode.") else 1e-14
            assert np.linalg.norm(mine[finite] - truth[finite]) <= bound * np.linalg.norm(truth[finite]), entry["name"]
            told.add(entry["name"])
    words = ("inputs.", "weights.", "masks.") + ("decode.",) * (which == "hardest")
    again = tuple(f"steps.{t}.{what}" for t in (2, 3) for what in ("grads.", "loss"))  # a whole pass
    assert {name for name in read if not name.startswith(words + again)} == told


def test_how_the_batch_comes_in_pieces_and_tokens_in_decoding_is_said():
    manifest = example(GPT2, adversarial=True, seed=4, steps=Steps(1, pieces=3), n_decode=2).manifest
    assert "rows B * i // K to B * (i + 1) // K" in manifest["rules"]["pieces"] and "min(1, clip / (norm + 1e-6))" in manifest["rules"]["steps"]
    said = {entry["name"]: entry for entry in manifest["tensors"]}
    assert [said[f"decode.{j}.logits"]["formula"] for j in range(3)] == ["a[:, 4]", "a[:, 5]", "a[:, 6]"]
    assert said["weights.norm.gain"]["says"].startswith("the parameter before the first step, drawn from seeds.adversarial weights")


def rewritten(tmp_path, trace, *, without=(), metadata=None, edit=None, other={}):
    file, manifest = tmp_path / "damaged", json.loads(json.dumps(trace.manifest))
    if edit:
        edit(manifest)
    meta = {"format": "numgpt-trace", "config": trace.config.to_json(), "manifest": json.dumps(manifest), **(metadata or {})}
    safetensors.write(file, {name: other.get(name, array) for name, array in trace.items() if name not in without},
                      {key: value for key, value in meta.items() if value is not None})
    return file


def deep(**changes):
    """A manifest with other things in its steps."""
    return dict(edit=lambda m: m["steps"].update(changes))


DROPS = dict(dropout_embd=0.1, dropout_attn=0.2, dropout_resid=0.3)
LAYERS = json.dumps({**hard.hard(GPT2, False).to_dict(), "n_layer": 10 ** 8})


@pytest.mark.parametrize("damage, says", [
    (dict(metadata={"format": None}), "is no trace of numgpt's: numgpt trace writes one"),
    (dict(metadata={"format": "numgpt"}), "is no trace of numgpt's"),
    (dict(metadata={"manifest": None}), "it says nothing of 'manifest'"),
    (dict(metadata={"manifest": "{"}), "Expecting property name"), (dict(metadata={"manifest": "[]"}), "list indices must be"),
    (dict(metadata={"manifest": '{"a": 1, "a": 2}'}), "'a' is there twice"),
    (dict(metadata={"manifest": "[" * 100000}), "its manifest is nested too deeply"),
    (dict(metadata={"config": None}), "it says nothing of 'config'"),
    (dict(metadata={"config": '{"n_vocab": 3}'}), "a config must say n_ctx"),
    (dict(metadata={"config": LAYERS}), "call for 15800000061 tensors, and it lists "),
    (dict(metadata={"config": hard.hard(GPT2, False).change(n_hidden=61).to_json()}),
     "its config calls for weights.blocks.0.ffn.up.weight of shape (15, 61), and its manifest says [15, 60]"),
    (dict(metadata={"config": hard.hard(GPT2, False).change(bias=False).to_json()}), "tensors, and it lists"),
    (dict(metadata={"config": hard.hard(GPT2, False).change(n_ctx=6).to_json()}), "in a context of 6"),
    (dict(edit=lambda m: m.update(version=99)), "it is of version 99; this numgpt reads 1"),
    (dict(edit=lambda m: m.update(version=True)), "it is of version True"), (dict(edit=lambda m: m.update(version=1.0)), "it is of version 1.0"),
    (dict(edit=lambda m: m.pop("version")), "it says nothing of 'version'"),
    (dict(edit=lambda m: m.pop("steps")), "it says nothing of 'steps'"),
    (dict(edit=lambda m: m.update(dropout="no")), "its dropout cannot be 'no'"),
    (dict(edit=lambda m: m.update(n_decode=-1)), "its n_decode cannot be -1"),
    (dict(edit=lambda m: m.update(n_decode=7)), "no 1 pieces and 7 decode steps"),
    (dict(edit=lambda m: m["batch"].update(T="7")), "its batch cannot be"),
    (dict(edit=lambda m: m["batch"].update(counted=3)), "of its targets count, and its batch says 3"),
    (deep(wings=2), "its steps say {"),
    (dict(edit=lambda m: m.update(steps=None)), "its steps say None, and not n, "),
    (dict(edit=lambda m: m["steps"].pop("lr")), "and not n, pieces, lr"),
    (deep(n=-1), "the steps' n must be a whole number from 0 on; got -1"),
    (deep(n=2.0), "the steps' n must be"),
    (deep(n="2"), "the steps' n must be"),
    (deep(n=1), "tensors, and it lists"),
    (deep(n=10 ** 9), "tensors, and it lists"),
    (deep(lr=math.nan), "the steps' lr must be a finite number from 0 on; got nan"),
    (deep(betas=[0.9, 1]), "the steps' betas must be numbers from 0 on, below 1; got 1"), (deep(betas=0.9), "betas must be two numbers; got 0.9"),
    (deep(eps=0), "the steps' eps must be a finite number above 0; got 0"), (deep(clip=-1.0), "the steps' clip must be"),
    (deep(pieces=5), "a batch of 4 sequences of 7 tokens has no 5 pieces"),
    (dict(edit=lambda m: m["tensors"][3].pop("noise")), "it says nothing of 'noise'"),
    (dict(edit=lambda m: m["tensors"][3].update(noise=None)), "the noise of weights.positions.table cannot be None"),
    (dict(edit=lambda m: m["tensors"][3].update(noise={"float32": "0", "bfloat16": 0})), "the noise in float32 of weights.positions.table cannot be '0'"),
    (dict(edit=lambda m: m["tensors"][3].update(norm=math.nan)), "the length of weights.positions.table cannot be nan"),
    (dict(edit=lambda m: m["tensors"][3].update(shape=[3])), "its config calls for weights.positions.table of shape (9, 15), and its manifest says [3]"),
    (dict(edit=lambda m: m["tensors"].__setitem__(3, m["tensors"][2])), "it lists 'weights.embedding.table' where weights.positions.table comes"),
    (dict(edit=lambda m: m["tensors"].reverse()), "where inputs.ids comes"),
    (dict(edit=lambda m: m["tensors"].append(m["tensors"][3])), "tensors, and it lists"),
    (dict(edit=lambda m: m.update(tensors=[])), "tensors, and it lists 0"), (dict(edit=lambda m: m.update(tensors=3)), "its tensors cannot be 3"),
    (dict(other={"forward.loss": np.zeros(2)}), "forward.loss is (2,), and not []"),
    (dict(other={"inputs.ids": np.full((4, 7), 31, np.int32)}), "inputs.ids has 31 in it, where the vocabulary has 31 tokens"),
    (dict(other={"inputs.targets": np.full((4, 7), -1, np.int32)}), "inputs.targets has -1 in it"),
    (dict(other={"forward.loss": np.array(1)}), "forward.loss is I64, and not F64 or F32"),
    (dict(without=("forward.logits",)), "it lacks forward.logits, which its manifest names")], ids=str)
def test_files_that_are_no_whole_trace_are_refused_in_a_sentence(tmp_path, plain, damage, says):
    file = rewritten(tmp_path, plain, **damage)
    with pytest.raises(FormatError) as error:
        Trace.read(file)
    assert str(error.value).startswith(f"{file} is no trace ") and says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("preset", ["gpt2", "gpt1", "classic", "nano"])
def test_the_tensors_of_a_trace_are_counted_without_listing_them(preset):
    for changes in ({}, dict(tied=False, n_layer=5, **DROPS), dict(bias=False, head_bias=True)):
        config = cases.small(preset).change(**changes)
        for options in (dict(steps=Steps(3), n_decode=2), dict(dropout=True)):
            assert count(config, 2, 5, **options) == sum(1 for _ in listed(config, 2, 5, **options))


def test_a_trace_cut_short_and_weights_are_refused(tmp_path, plain):
    plain.write(tmp_path / "t")
    whole = (tmp_path / "t").read_bytes()
    for length in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(FormatError):
            Trace.read(tmp_path / "cut")
    plain.model().save(tmp_path / "weights")
    with pytest.raises(FormatError, match="is no trace of numgpt's"):
        Trace.read(tmp_path / "weights")
    assert Trace.read(rewritten(tmp_path, plain)).manifest == json.loads(json.dumps(plain.manifest))


def test_the_size_is_about_that_of_the_file(tmp_path, plain):
    for dtype, itemsize in (("float64", 8), ("float32", 4)):
        plain.write(tmp_path / "t", dtype=dtype)
        tensors = sum(entry.nbytes for entry in safetensors.File(tmp_path / "t").values())
        guess = size_of(plain.config, *plain["inputs.ids"].shape, plain.steps.n, itemsize)
        assert guess == pytest.approx(tensors, rel=0.1)


def test_a_model_of_ones_own_is_traced_as_it_is_in_float32():
    model = GPT(cases.small("nano"), dtype=np.float64)
    ids = np.arange(10).reshape(2, 5)
    trace = record(model, ids, ids + 1, steps=Steps(0))
    assert np.array_equal(trace["weights.embedding.table"], model.body.embedding.table.value.astype(np.float32))
    assert trace["forward.loss"] == model.astype(np.float32).astype(np.float64)(ids, ids + 1)
    assert trace["forward.loss"].dtype == np.float64 and not model.grads.any()
