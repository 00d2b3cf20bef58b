"""A mistake is named from a port's numbers, alone or with another, and what is none of the known ones is given no name.

The ports here are numgpt itself in float32, with mistakes planted, as a file that has been written and read again. One that
numgpt did not write is in test_diagnose_against_torch.py.
"""

import contextlib
import functools
import importlib
from dataclasses import replace

import numpy as np
import pytest
from ports import dump

from numgpt import GPT, GPTConfig, safetensors
from numgpt.verify import cases, dumps, mutants
from numgpt.verify.conventions import conventions
from numgpt.verify.mutants.catalogue import Edit, Form
from numgpt.verify.replay import Replay, hypotheses
from numgpt.verify.passes import Steps, compute
from numgpt.verify.trace import record
from stages import later

module = importlib.import_module("numgpt.verify.diagnose")
diagnose = module.diagnose

CONFIG = GPTConfig(n_vocab=31, n_ctx=9, n_layer=1, n_head=3, n_embd=15)
B, T = 4, 7
# Where all of the catalogue would take seconds, these stand for it: each place has others beside the right one.
FEW = set("""
    ce-count ce-no-division ce-ignored-leak head-transposed ln-no-gain ln-no-xhat ln-dbias-axis ln-ddof b-mean w-last-row
    ffn-pre-activation gelu-no-3 gelu-sech residual-dropped residual-doubled linear-input softmax-axis softmax-no-sum
    scale-missing dk-transposed qk-swapped emb-duplicates tie-head-only pos-mean mask-off-by-one dropout-v dropout-no-mask
    adam-l2 adam-t-plus-one clip-per-tensor accum-overwrite""".split())


@functools.cache
def trace(steps=Steps(0), **changes):
    """Weights of order one, ids that repeat, targets that do not count."""
    config, rng = CONFIG.change(**changes), np.random.default_rng(0)
    ids, targets = rng.integers(0, 31, (2, B, T))
    ids[:, -1] = ids[:, 0]
    targets[0, :4] = -100
    model = cases.order_one(GPT(config), rng)
    return record(model, ids, targets, dropout=bool(config.dropout_attn), steps=steps)


def computed(trace, *mistakes, model=None, steps=None):
    """What numgpt with these mistakes computes in float32."""
    with mutants.apply(*mistakes):
        return compute(model or trace.model(np.float32), trace["inputs.ids"], trace["inputs.targets"], masks=trace.masks(),
                       steps=steps or trace.steps)


@pytest.fixture
def port(tmp_path):
    """Writes what a port computed, or those tensors of it whose names begin so, and reads it as diagnose's command does."""
    def written(trace, *mistakes, only=("forward.", "backward.", "grads.", "clip.", "steps."), **options):
        found = computed(trace, *mistakes, **options)
        safetensors.write(tmp_path / "port.safetensors", {name: found[name] for name in trace if name.startswith(only)})
        return dumps.read(tmp_path / "port.safetensors", trace.config, reference=trace)
    return written


@pytest.fixture
def few(monkeypatch):
    """The plainest forms of a part of the catalogue, and no conventions."""
    monkeypatch.setattr(module, "hypotheses", lambda trace: [
        one for one in hypotheses(trace) if one.form and one.slug in FEW and one.form == mutants.forms(one.slug)[0]])


@pytest.fixture
def other_ways(monkeypatch):
    """The conventions alone."""
    monkeypatch.setattr(module, "hypotheses", lambda trace: [one for one in hypotheses(trace) if one.convention])


def slugs(found):
    return sorted(one.slug for one in found)


# -- nothing is wrong


@pytest.mark.parametrize("options", [{}, {"only": "grads."}, {"only": "forward."}, {"only": "backward.blocks.0.attention"}])
def test_a_correct_run_in_float32_is_correct(port, options):
    diagnosis = diagnose(trace(), port(trace(), **options))
    assert diagnosis.verdict == "correct" and diagnosis.ok and not diagnosis.found and not diagnosis.wrong
    assert diagnosis.tried == 0  # no mistake is tried on numbers that are right
    assert f"correct: all {diagnosis.judged} tensors that were computed again are what the ones before make of them" in str(diagnosis)


DROPOUT = {"dropout_embd": 0.1, "dropout_attn": 0.2, "dropout_resid": 0.3}


@pytest.mark.parametrize("changes", [
    {"norm": "post"}, {"tied": False, "head_bias": True}, later({"activation": "gelu"}), later({"bias": False}), DROPOUT], ids=str)
def test_correct_runs_of_other_models_are_correct(port, changes):
    model = trace(Steps(2), **changes)
    assert diagnose(model, port(model)).verdict == "correct"


# -- one mistake


MISTAKES = ["ce-count", "head-transposed", "ln-no-xhat", "ln-dbias-axis", "w-last-row", "ffn-pre-activation", "gelu-sech",
            "residual-doubled", "linear-input", "softmax-axis", "dk-transposed", "emb-duplicates", "tie-head-only", "pos-mean",
            "mask-off-by-one"]
ALL, GRADIENTS = ("forward.", "backward.", "grads."), ("grads.",)
EITHER = [(slug, (ALL, GRADIENTS)[i % 2], (GRADIENTS, ALL)[i % 2]) for i, slug in enumerate(MISTAKES)]


@pytest.mark.parametrize("slug, only", [*((slug, now) for slug, now, _ in EITHER), *(later(slug, then) for slug, _, then in EITHER)])
def test_a_mistake_is_named_from_all_tensors_and_from_the_parameters_gradients_alone(port, few, slug, only):
    diagnosis = diagnose(trace(), port(trace(), slug, only=only))
    assert (diagnosis.verdict, slugs(diagnosis.found)) == ("known", [slug])
    assert diagnosis.digits >= 5  # of float32's 7


@pytest.mark.parametrize("slug", ["ln-ddof", *map(later, ("scale-by-width", "heads-merged-wrong", "gelu-no-x", "ce-shift"))])
def test_a_mistake_is_named_among_all_forms_of_all(port, slug):
    diagnosis = diagnose(trace(), port(trace(), slug))
    assert slugs(diagnosis.found) == [slug] and diagnosis.tried > 200
    assert diagnosis.found[0].form == mutants.forms(slug)[0]


@pytest.mark.parametrize("slug", ["adam-l2", "adam-t-plus-one", "clip-per-tensor", "accum-overwrite"])
def test_a_mistake_of_the_step_is_named(port, few, slug):
    model = trace(Steps(2, pieces=2))
    diagnosis = diagnose(model, port(model, slug))
    assert slugs(diagnosis.found) == [slug]
    assert all(row.name.startswith("steps.") for row in diagnosis.wrong)


@pytest.mark.parametrize("slug", ["dropout-v", "dropout-no-mask"])
def test_a_mistake_in_dropout_is_named(port, few, slug):
    model = trace(**DROPOUT)
    assert slugs(diagnose(model, port(model, slug)).found) == [slug]


def test_what_somebody_drew_again_is_read_from_their_gradients(port, few, monkeypatch):
    monkeypatch.setitem(globals(), "FEW", FEW | {"dropout-new-mask"})
    model = trace(**DROPOUT)
    assert slugs(diagnose(model, port(model, "dropout-new-mask")).found) == ["dropout-new-mask"]


# What its own inputs do not make of it; all that follows is right on the wrong numbers that it is given.
ALONE = {"ln-no-xhat": {"backward.blocks.0.sum2", "backward.blocks.0.sum1", "backward.positions"},
         "softmax-axis": {"backward.blocks.0.attention.scores"},
         "gelu-sech": {"backward.blocks.0.ffn.up"},
         "scale-missing": {"backward.blocks.0.attention.q", "backward.blocks.0.attention.k"},
         "b-mean": {f"grads.blocks.0.{name}.bias" for name in ("attention.qkv", "attention.out", "ffn.up", "ffn.down")},
         "pos-mean": {"grads.positions.table"},
         "ce-no-division": {"backward.logits"}}


@pytest.mark.parametrize("slug", ALONE)
def test_the_operation_that_is_wrong_fails_alone(port, few, slug):
    port = port(trace(), slug, only=("forward.", "backward.", "grads."))
    assert {row.name for row in diagnose(trace(), port).wrong} == ALONE[slug]


def test_what_is_said_of_it(few):
    model = trace()
    arrays = {name: array for name, array in computed(model, "ln-no-xhat").items() if name.startswith(("backward.", "grads."))}
    said = str(diagnose(model, dump(arrays)))
    assert "ln-no-xhat: the variance's part is missing" in said
    assert "it breaks, in the derivation of LayerNorm: - xhat * (dxhat * xhat).mean(-1, keepdims=True)" in said
    assert "3 tensors are not what their inputs make of them; the first is backward.blocks.0.sum2: off by " in said


def test_how_many_digits_are_reproduced(few):
    """Of float32's seven about as many, and of float64's sixteen."""
    found = {}
    for dtype in (np.float64, np.float32):
        with mutants.apply("gelu-sech"):
            run = compute(trace().model(dtype), trace()["inputs.ids"], trace()["inputs.targets"])
        found[dtype] = diagnose(trace(), dump({name: a for name, a in run.items() if name.startswith("grads.")}))
        assert slugs(found[dtype].found) == ["gelu-sech"]
    assert found[np.float64].digits > 13 and 5.5 < found[np.float32].digits < 8


# -- two mistakes


@pytest.mark.parametrize("pair", [
    ("softmax-axis", "pos-mean"), ("gelu-no-3", "b-mean"), ("ln-no-gain", "ln-dbias-axis")], ids="+".join)
def test_two_mistakes_at_once_are_named_both(port, few, pair):
    diagnosis = diagnose(trace(), port(trace(), *pair, only=("forward.", "backward.", "grads.")))
    assert slugs(diagnosis.found) == sorted(pair)
    assert "both together" in str(diagnosis)


def test_a_mistake_of_the_gradient_and_one_of_the_step_are_named_both(port, few):
    model = trace(Steps(2))
    assert slugs(diagnose(model, port(model, "ln-no-xhat", "adam-t-plus-one")).found) == ["adam-t-plus-one", "ln-no-xhat"]


# -- conventions


@pytest.mark.parametrize("convention", [one for one in conventions(CONFIG, Steps()) if one.edits], ids=lambda one: one.slug)
def test_every_convention_is_of_lines_that_are_there(convention):
    with mutants.apply(Form("", "", convention.edits)):
        pass


def edits_of(slug):
    return next(Form("", "", one.edits) for one in conventions(CONFIG, Steps()) if one.slug == slug)


@pytest.mark.parametrize("slug, changes", [("activation-gelu", {"activation": "gelu"}), ("eps-0.001", {"norm_eps": 1e-3})])
def test_another_config_than_the_traces_is_named(port, other_ways, slug, changes):
    other = GPT(CONFIG.change(**changes), dtype=np.float32)
    other.values[...] = trace().model(np.float32).values
    assert slugs(diagnose(trace(), port(trace(), model=other)).found) == [slug]


@pytest.mark.parametrize("slug", ["heads-last", "eps-outside", "mean-over-sequences", "embeddings-scaled", "no-positions"])
def test_a_convention_is_named(port, other_ways, slug):
    diagnosis = diagnose(trace(), port(trace(), edits_of(slug)))
    assert slug in slugs(diagnosis.found)


def test_what_no_number_tells_apart_is_listed(port, monkeypatch):
    """The exact GELU, forward and backward, is a convention, and a form of a mistake."""
    alike = "gelu-erf", "activation-gelu"
    monkeypatch.setattr(module, "hypotheses", lambda trace: [one for one in hypotheses(trace) if one.slug in alike])
    other = GPT(CONFIG.change(activation="gelu"), dtype=np.float32)
    other.values[...] = trace().model(np.float32).values
    diagnosis = diagnose(trace(), port(trace(), model=other))
    assert [slugs(found) for found in (diagnosis.found, *diagnosis.others)] == [["gelu-erf"], ["activation-gelu"]]
    assert "here no different: activation-gelu (the activation is gelu, not gelu_tanh)" in str(diagnosis)


def test_a_square_weight_that_is_read_as_its_transpose_is_named(other_ways):
    model = trace().model(np.float32)
    weight = dict(model.named_params())["blocks.0.attention.out.weight"]
    weight.value[...] = weight.value.T.copy()
    found = compute(model, trace()["inputs.ids"], trace()["inputs.targets"])
    found["grads.blocks.0.attention.out.weight"] = found["grads.blocks.0.attention.out.weight"].T
    port = dump({name: a for name, a in found.items() if name.startswith(("forward.", "backward.", "grads."))})
    assert slugs(diagnose(trace(), port).found) == ["out-transposed"]


@pytest.mark.parametrize("slug, settings", [
    ("decay-after", {}), ("no-decay", {"weight_decay": 0.0}), ("no-clip", {"clip": 1e30}),
    ("betas-0.999", {"betas": (0.9, 0.999)})])
def test_another_optimizer_than_the_traces_is_named(port, other_ways, slug, settings):
    steps = Steps(2, lr=0.1)  # a decay after the step is another by lr * lr * weight_decay, which has to be seen
    edits = [edits_of(slug)] if slug == "decay-after" else []
    model = trace(steps)
    assert slugs(diagnose(model, port(model, *edits, steps=replace(steps, **settings))).found) == [slug]


# -- what nobody knows


def test_no_candidate_changes_the_ports_own_numbers():
    """Code with a mistake in it may write into what it is given."""
    found = computed(trace())
    replay = Replay(trace(), dump({name: found[name] for name in trace() if name.startswith(("forward.", "backward.", "grads."))}))
    theirs = {name: array.copy() for name, array in replay.theirs.items()}
    for one in hypotheses(trace()):
        if one.form and one.plain and one.kind == "gradient":
            with contextlib.suppress(ValueError, IndexError):  # of a model that has no such part
                replay.run([one])
            changed = [name for name in theirs if not np.array_equal(theirs[name], replay.theirs[name])]
            assert not changed, one.slug


UNKNOWN = {"a norm's gradient a hundredth too long": ("layers.norm.LayerNorm.backward", "rstd_ * (dxhat", "1.01 * rstd_ * (dxhat"),
           "the last head's values get no gradient": ("layers.attention.SelfAttention.backward", "dqkv[:, :, i] = d.swapaxes(1, 2)",
                                                      "d[:, -1] *= i != 2; dqkv[:, :, i] = d.swapaxes(1, 2)"),
           "half the gain's gradient": ("layers.norm.LayerNorm.backward", "rows(dy_ * xhat_)", "0.5 * rows(dy_ * xhat_)")}


@pytest.mark.parametrize("story", UNKNOWN)
def test_a_mistake_that_is_none_of_the_known_has_no_name(port, few, story):
    mistake = Form("", "", (Edit(*UNKNOWN[story]),))
    diagnosis = diagnose(trace(), port(trace(), mistake, only=("forward.", "backward.", "grads.")))
    assert diagnosis.verdict == "unknown" and not diagnosis.found and not diagnosis.ok
    assert f"where to look: {diagnosis.wrong[0].name}" in str(diagnosis)


def test_gradients_that_are_nan_are_wrong_and_have_no_name(few):
    found = {name: a for name, a in computed(trace()).items() if name.startswith(("forward.", "backward.", "grads."))}
    found["backward.blocks.0.ffn.up"][0, 0] = np.nan
    diagnosis = diagnose(trace(), dump(found))
    assert diagnosis.verdict == "unknown"
    assert [row.name for row in diagnosis.wrong] == ["backward.blocks.0.ffn.up"]


def test_a_dump_of_nothing_that_could_be_run_again_is_refused():
    weights = {name: trace()[name].astype(np.float32) for name in trace() if name.startswith("weights.")}
    with pytest.raises(ValueError, match="nothing in the dump can be run again: gradients, activations and steps can"):
        diagnose(trace(), dump(weights))


def correct():
    """A trace, and a correct port's tensors in float32."""
    found = computed(trace())
    return trace(), {name: np.array(found[name]) for name in trace() if name.startswith(("forward.", "backward.", "grads.", "clip."))}


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_said_and_taken_for_no_mistake(number):
    trace, mine = correct()
    mine["grads.norm.gain"] = np.full_like(mine["grads.norm.gain"], number)
    diagnosis = diagnose(trace, dump(mine))
    assert diagnosis.verdict == "unknown" and "15 numbers are not finite" in str(diagnosis)


def test_a_gradient_that_was_never_written_is_taken_for_no_mistake():
    trace, mine = correct()
    mine["grads.norm.gain"] *= 0
    assert diagnose(trace, dump(mine)).verdict == "unknown"


def test_other_inputs_than_the_traces_are_said(few):
    trace, mine = correct()
    mine["inputs.ids"] = (np.asarray(trace["inputs.ids"]) + 1) % trace.config.n_vocab
    mine["weights.norm.gain"] = np.asarray(trace["weights.norm.gain"], np.float32) + 1
    said = str(diagnose(trace, dump(mine)))
    assert "the token ids are not those of the trace" in said and "weights are not those of the trace (weights.norm.gain)" in said


def test_a_correct_run_in_float16_is_correct():
    trace, mine = correct()
    with np.errstate(under="ignore"):
        assert diagnose(trace, dump({name: array.astype(np.float16) for name, array in mine.items()})).ok


def test_gradients_after_clipping_are_told_by_their_factor(few):
    trace, mine = correct()
    factor = trace.steps.clip / float(trace["clip.norm"])
    assert factor < 0.9
    said = str(diagnose(trace, dump({name: array * np.float32(factor) for name, array in mine.items() if name.startswith("grads.")})))
    assert "times the right ones, which is what clipping makes of them: dump them before it" in said
