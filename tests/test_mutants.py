"""Every mistake of the catalogue is caught: of the gradient by the gradient check alone, of the step by what it does.

Those of tuning are caught by the gradient check too, but for a few that have their tests of values beside their layers'.
"""

import inspect
import math
from functools import cache
from itertools import combinations

import numpy as np
import pytest
import test_optim
import test_rollouts
import test_shards
from families import each
from test_policy import written_out

from numgpt.flat import Flat
from numgpt.gradcheck import check
from numgpt.layers import CausalAttention, Layer, LayerNorm
from numgpt.layers.ops import softmax, softmax_backward
from numgpt.training.optim import SGD, AdamW, clip
from numgpt.training.shards import Shards
from numgpt.verify import cases, mutants
from stages import later

# Masks that let something through: the gradient is right, for another function, or but for scores of ten thousand.
LEAKS = {"mask-off-by-one", "mask-finite"}


class AsLayer(Layer):
    """A whole model, whose backward takes the gradient of its loss last, as a layer."""

    def __init__(self, model):
        self.model = model

    def forward(self, *batch, **options):
        return self.model.forward(*batch, **options)

    def backward(self, dloss, saved):
        return self.model.backward(saved, dloss)


def caught(slug: str | mutants.Form, case_name: str, factor: float = 1.0, **options):
    case = cases.make(case_name, seed=3)
    if case.backward is None:
        case.target = cases.Scaled(AsLayer(case.target) if isinstance(case.target, Flat) else case.target, factor)
    inputs, case_options = case.arguments()
    with mutants.apply(slug):
        return check(*inputs, **case_options, **options)


# Of tuning, the same: what forward has too. The tests of what is tuned tell them by their values.
BY_VALUE = {slug for slug in mutants.names("tuning") if not mutants.CATALOGUE[slug].shows}

SHOWN = [(slug, case_name) for slug in sorted({*mutants.names("gradient"), *mutants.names("tuning")} - LEAKS - BY_VALUE)
         for case_name in mutants.CATALOGUE[slug].shows]
PLAIN = {pair for pair in SHOWN if mutants.CATALOGUE[pair[0]].shows[0] == pair[1]} - {
    pair for pair in SHOWN if pair[1] in cases.tuned_models()}  # those have cheaper tests beside the models'
# Of tuning, each layer's most usual mistake here; its tests of values are in the plain suite too.
USUAL = {"dpo-reference-follows", "dpo-sign", "pairs-sign", "logprobs-mean", "ppo-clip-side", "kl-sign", "gae-off-by-one",
         "lora-scale-a", "lora-scale-b", "last-token-off-by-one"}
PLAIN -= {pair for pair in PLAIN if mutants.CATALOGUE[pair[0]].kind == "tuning" and pair[0] not in USUAL}
FIRST = [pair if pair in PLAIN else later(*pair) for pair in SHOWN]


@pytest.mark.parametrize("slug, case_name", FIRST)
@pytest.mark.parametrize("factor", [1.0, later(1e-5)])
def test_every_wrong_gradient_is_called_wrong(slug, case_name, factor):
    mode = "projection" if "block" in case_name or "model" in case_name else "sampled"  # every element is in python -m benchmarks gradcheck
    report = caught(slug, case_name, factor, mode=mode)
    assert report.verdict == "wrong", report
    assert not report and report.worst is not None


@pytest.mark.parametrize("slug", ["ln-eps", later("ln-no-xhat"), later("ln-ddof"), "ce-count", later("gelu-erf")])
@pytest.mark.parametrize("options", [{"method": "richardson"}, {"mode": "projection"}, {"mode": "sampled"},
                                     {"method": "richardson", "mode": "projection"}, {"method": "central"}])
def test_the_subtle_ones_are_caught_by_every_method_and_mode(slug, options):
    assert caught(slug, mutants.CATALOGUE[slug].shows[0], **options).verdict == "wrong"


@pytest.mark.parametrize("factor", [later(1.0), 1e-5])
def test_an_all_zero_gradient_of_a_large_loss_is_caught(factor):
    # N = 2000: the largest entry is 5e-4, below the absolute tolerances of other checkers.
    rng = np.random.default_rng(0)
    logits, targets = rng.standard_normal((2000, 30)), rng.integers(0, 30, 2000)

    def loss(logits, targets):
        z = logits - logits.max(-1, keepdims=True)
        return factor * (np.log(np.exp(z).sum(-1)) - z[np.arange(len(z)), targets]).mean()

    report = check(loss, logits, targets, backward=lambda dy, logits, targets: np.zeros_like(logits), budget=3)
    assert report.verdict == "wrong"


def test_looking_ahead_is_caught_by_causality():
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 2, 3, 5, 7))
    other = k.copy()
    other[:, :, 4] += 1  # the last key: no earlier query may notice
    attention = CausalAttention(scale=0.5)
    assert np.array_equal(attention(q, k, v)[:, :, :4], attention(q, other, v)[:, :, :4])
    with mutants.apply("mask-off-by-one"):
        assert not np.array_equal(attention(q, k, v)[:, :, :4], attention(q, other, v)[:, :, :4])


def test_the_code_is_healthy_again_after_a_mutant():
    inputs, options = cases.make("layernorm").arguments()
    with pytest.raises(RuntimeError), mutants.apply("ln-no-xhat"):
        raise RuntimeError
    assert check(*inputs, **options)


def test_a_mutant_whose_line_is_gone_says_so():
    gone = mutants.Form("gone", "", (mutants.Edit("layers.norm.LayerNorm.backward", "no such line", ""),))
    with pytest.raises(ValueError, match="occurs 0 times in numgpt.layers.norm.LayerNorm.backward"), mutants.apply(gone):
        pass


def test_a_finite_mask_leaks_through_large_scores_and_through_no_others():
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 2, 3, 5, 7))
    attention = CausalAttention(scale=0.5)
    for size, alike in ((1, True), (300, False)):  # products of 300 * 300 * a few: below -1e4 some, others far above
        healthy = attention(size * q, size * k, v)
        with mutants.apply("mask-finite"):
            assert np.array_equal(attention(size * q, size * k, v), healthy) == alike


# -- the catalogue


def test_the_catalogue_has_each_mistake_once():
    assert len(mutants.names("gradient")) == 49 + 1  # and the finite mask
    assert len(mutants.names("step")) == 10
    assert sorted(mutants.names()) == sorted(mutants.names("gradient") + mutants.names("step"))
    assert set(mutants.CATALOGUE) == {*mutants.names(), *mutants.names("tuning")}
    every = [form.edits for slug in mutants.CATALOGUE for form in mutants.forms(slug)]
    assert len(set(every)) == len(every)


def cases_of(slug):
    """The cases of the layer that has the mistake."""
    whose = f"numgpt.{mutants.CATALOGUE[slug].where.rpartition('.')[0]}"  # a class's, or a module's if it is in a function
    return [name for name, inside in homes().items() if whose in inside and name.startswith("packed-") == slug.startswith("packed-")]


@cache
def homes():
    """Of each case, the modules and the classes of what it is made of."""
    found = {}
    for name in (*cases.names(), *cases.tuned_models()):
        target = cases.make(name).target
        kinds = {type(layer) for layer in (target, *(layer for _, layer in getattr(target, "named_layers", dict)()))}
        found[name] = {home for kind in kinds for home in (kind.__module__, f"{kind.__module__}.{kind.__name__}")}
    return found


def test_every_mistake_of_tuning_names_a_case_that_shows_it_or_has_a_test_of_values():
    for slug in mutants.names("tuning"):
        assert bool(mutants.CATALOGUE[slug].shows) == ("the gradient is right, for" not in mutants.CATALOGUE[slug].story), slug
        assert set(mutants.CATALOGUE[slug].shows) <= {*cases.names(), *cases.tuned_models()}


@pytest.mark.verify
@pytest.mark.parametrize("slug", sorted(mutants.names("tuning")))
def test_a_form_that_no_gradient_check_can_see_says_so_and_no_other_does(slug):
    for form in mutants.forms(slug):
        blind = all(caught(form, name).verdict == "ok" for name in cases_of(slug))
        assert ("the gradient is right, for" in form.story) == blind, form


@pytest.mark.parametrize("slug", [slug for slug in sorted(mutants.names("tuning")) if slug.startswith("rollout-") or any(cases_of(slug))])
def test_no_form_of_a_mistake_of_tuning_passes_for_its_neighbour(slug):
    """Each is another function, or another gradient: all numbers of all cases of its layer, to be told apart by them."""
    found = {}
    for form in mutants.forms(slug):
        with mutants.apply(form):
            found[form.story] = numbers_of(slug)
    healthy = numbers_of(slug)
    for story, numbers in found.items():
        assert far(numbers, healthy), story
    assert all(far(found[a], found[b]) for a, b in combinations(found, 2))


PPO = [slug for slug in mutants.names("tuning") if mutants.CATALOGUE[slug].where.startswith(("layers.policy.", "layers.reward."))]
BLIND = [form for slug in PPO for form in mutants.forms(slug) if "the gradient is right, for" in form.story]


@pytest.mark.parametrize("form", BLIND, ids=lambda form: f"{form.slug}: {form.story.partition(':')[0]}")
def test_where_ppo_s_gradient_is_right_for_another_function_a_loop_over_the_tokens_gives_other_values(form):
    made = [cases.make(name, seed=3) for name in cases_of(form.slug)]
    with mutants.apply(form):
        assert any(far(case.target(*case.inputs, **case.options), written_out(case)) for case in made)
    assert not any(far(case.target(*case.inputs, **case.options), written_out(case)) for case in made)


def numbers_of(slug):
    """Outputs and gradients in the cases of its layer."""
    if slug.startswith("rollout-"):
        return test_rollouts.numbers()
    found = []
    for case in (cases.make(name, seed=3) for name in cases_of(slug)):
        layer = AsLayer(case.target) if isinstance(case.target, Flat) else case.target
        y, saved = layer.forward(*case.inputs, **case.options)
        dy = np.random.default_rng(1).standard_normal(y.shape) if np.ndim(y) else 0.7
        dx = layer.backward(dy, saved)
        found += [np.where(np.isfinite(y), y, 0), *(d for d in (dx if isinstance(dx, tuple) else (dx,)) if d is not None)]
        found += [param.grad for param in case.target.params()]
    return np.concatenate([np.ravel(one) for one in found])


def test_what_a_mistake_breaks_is_derived_in_a_docstring_and_its_line_is_in_the_code():
    def claim(slug):
        whose, what = mutants.CATALOGUE[slug].breaks
        assert inspect.getdoc(mutants.named(whose)).count(what) == 1
        edits = mutants.CATALOGUE[slug].edits
        sources = {edit.where: inspect.getsource(mutants.named(edit.where)) for edit in edits}
        with mutants.apply(slug):
            assert all(mutants.named(where).__code__.co_filename.startswith("<") for where in sources)
        assert sources == {where: inspect.getsource(mutants.named(where)) for where in sources}

    each(mutants.CATALOGUE, claim)


def layer_norm_gradient(*slugs):
    layer, rng = cases.order_one(LayerNorm(5), np.random.default_rng(0)), np.random.default_rng(1)
    x, dy = rng.standard_normal((2, 3, 4, 5))
    with mutants.apply(*slugs):
        _, saved = layer.forward(x)
        return layer.backward(dy, saved), layer.gain.value * dy, *saved


def test_several_at_once_may_be_in_one_function_and_in_any_order():
    dx, dxhat, xhat, rstd = layer_norm_gradient("ln-no-xhat", "ln-no-mean")
    assert np.allclose(dx, rstd * dxhat, rtol=1e-14, atol=0)
    assert np.array_equal(layer_norm_gradient("ln-no-mean", "ln-no-xhat")[0], dx)
    with mutants.apply("ln-no-mean"), mutants.apply("ln-no-xhat"):
        assert np.array_equal(layer_norm_gradient()[0], dx)
        assert np.array_equal(layer_norm_gradient("ln-ddof")[0], math.sqrt(4 / 5) * rstd * dxhat)
        assert np.array_equal(layer_norm_gradient()[0], dx)
    assert not np.allclose(layer_norm_gradient()[0], dx)


def test_two_mistakes_of_one_line_are_refused_and_leave_the_code_healthy():
    healthy = softmax(np.arange(3.0)), LayerNorm.backward.__code__
    with pytest.raises(ValueError, match="or two mistakes are of the same line"):
        with mutants.apply("ln-no-xhat", "softmax-no-sum", "softmax-diagonal"):
            pass
    assert np.array_equal(softmax(np.arange(3.0)), healthy[0]) and LayerNorm.backward.__code__ is healthy[1]


# -- every form of every mistake, in small models that together have all of what one may be about


def model_of(size=1.0, rng=None, **changes):
    """Loss and gradients of a model, as a function; ids repeat, and some targets do not count."""
    model = test_optim.model_of(dict(test_optim.SMALL, n_vocab=113, head_bias=False, **{"tied": True, **changes}))
    for block in model.body.blocks:
        block.attention.qkv.weight.value *= size
    draw = np.random.default_rng(3)
    ids, targets = draw.integers(0, 113, (2, 2, 7))
    ids[[0, 0, 1, 1, 1], [1, 3, 2, 4, 6]] = ids[0, 0], ids[0, 0], ids[1, 1], ids[0, 0], ids[0, 6]
    targets[[0, 1, 1], [2, 4, 5]] = -100

    def numbers():
        model.zero_grad()
        loss, saved = model.forward(ids, targets, rng=rng and np.random.default_rng(rng))
        model.backward(saved)
        return [loss, *model.grads]
    return numbers


def three_steps():
    """Losses, lengths of gradients and weights of three steps by shards, and of one by a gradient that is tiny."""
    model = test_shards.model_of()
    values, (ids, targets) = model.values.copy(), (a[::-1] for a in test_shards.batch())  # a row that counts comes last

    def numbers():
        model.values, found = values, []
        optimizer = AdamW(model, betas=(0.9, 0.95), weight_decay=0.1)
        with Shards(model, 2, pieces=2) as shards:
            for _ in range(3):
                found += [shards.backward(ids, targets), optimizer.norm()]
                optimizer.step(0.1, scale=clip(optimizer.norm(), 1.0))
                found += [*model.values]
        model.grads[...] = 1e-9
        AdamW(model).step(0.1)
        return [*found, *model.values]
    return numbers


def scenes(kind):
    if kind == "step":
        return [three_steps()]
    dropouts = dict(dropout_embd=0.1, dropout_attn=0.2, dropout_resid=0.3)
    return [model_of(), model_of(rng=5, **dropouts), model_of(norm="post"), model_of(activation="gelu"),
            model_of(tied=False), model_of(head_size=7), model_of(size=100)]  # the last has scores of ten thousand


def far(found, truth):
    if np.shape(found) != np.shape(truth):  # answers of other lengths
        return True
    return not np.abs(np.subtract(found, truth)).max() <= 1e-9 * np.abs(truth).max()


@pytest.mark.parametrize("kind", ["gradient", "step"])
def test_every_form_of_every_mistake_can_be_planted_and_changes_some_model_s_numbers(kind):
    compared = [(scene, scene()) for scene in scenes(kind)]
    for slug in mutants.names(kind):
        for form in mutants.forms(slug):
            with mutants.apply(form):
                assert any(far(scene(), truth) for scene, truth in compared), form
    assert not any(far(scene(), truth) for scene, truth in compared)


@pytest.mark.verify
@pytest.mark.parametrize("kind", ["gradient", "step"])
def test_no_two_forms_are_the_same_in_every_model(kind):
    every = scenes(kind)
    found = {}
    for slug in mutants.names(kind):
        for i, form in enumerate(mutants.forms(slug)):
            with mutants.apply(form):
                found[slug, i] = [np.array(scene()) for scene in every]
    alike = [(a, b) for a, b in combinations(found, 2) if not any(map(far, found[a], found[b]))]
    assert not alike


def test_a_form_may_be_chosen_by_its_number():
    rng = np.random.default_rng(0)
    dp, p = rng.standard_normal((2, 3, 5, 4)), softmax(rng.standard_normal((2, 3, 5, 4)))
    for variant, axis in ((0, -2), (1, -3), (2, 0), (3, (-2, -1))):
        with mutants.apply("softmax-axis", variant=variant):
            assert np.array_equal(softmax_backward(dp, p), p * (dp - (dp * p).sum(axis, keepdims=True)))


# -- the step


def moved(*slugs, grads=1.0, lr=0.1, longest=math.inf, kind=AdamW, weight_decay=0.0, **options):
    """What one step adds to the parameters, by name, and what they were."""
    model = test_optim.model_of()
    before = test_optim.arrays(model)
    model.grads[...] = grads * np.random.default_rng(1).choice([-1.0, 1.0], model.grads.size)
    with mutants.apply(*slugs):
        optimizer = kind(model, weight_decay=weight_decay, **options)
        optimizer.step(lr, scale=clip(optimizer.norm(), longest))
    return {name: after - before[name] for name, after in test_optim.arrays(model).items()}, before


@pytest.mark.parametrize("slug, factor", [
    ("adam-t-plus-one", (0.1 / 0.19) / math.sqrt(0.001 / 0.001999)),  # 0.744
    ("adam-no-correction", 0.1 / math.sqrt(0.001)),                    # 3.16
    ("adam-eps-inside-root", 1.0)])
def test_the_first_step_is_too_long_or_too_short_by_a_known_factor(slug, factor):
    right, wrong = moved()[0], moved(slug)[0]
    for name in right:
        assert wrong[name] == pytest.approx(factor * right[name], rel=1e-6), name  # eps is 1e-8, a root 0.03


def test_eps_inside_the_root_shows_where_gradients_are_tiny():
    right, wrong = (moved(*slugs, grads=1e-8)[0] for slugs in ((), ("adam-eps-inside-root",)))
    for name in right:  # g / (g + eps) beside g / sqrt(g * g + eps)
        assert np.abs(right[name]) == pytest.approx(0.1 / 2, rel=1e-6)
        assert np.abs(wrong[name]) == pytest.approx(0.1 * 1e-4, rel=1e-6)


def test_decay_in_the_gradient_goes_through_the_moments_and_comes_out_as_a_sign():
    steps, before = moved("adam-l2", grads=0.0, weight_decay=0.5)
    for name, step in steps.items():
        assert step == pytest.approx(-0.1 * np.sign(before[name]) if step.ndim == 2 else 0.0, rel=1e-3), name


@pytest.mark.parametrize("slug, matrix, vector", [
    ((), 0.1 * 0.5, 0), (("adam-decay-lr-squared",), 0.1 * 0.1 * 0.5, 0), (("adam-decay-vectors",), 0.1 * 0.5, 0.1 * 0.5)])
def test_decay_by_too_little_or_of_too_much(slug, matrix, vector):
    steps, before = moved(*slug, grads=0.0, weight_decay=0.5)
    for name, step in steps.items():
        assert step == pytest.approx(-(matrix if step.ndim == 2 else vector) * before[name], rel=1e-10), name


def test_clipped_by_tensor_each_is_as_long_as_it_may_be_and_small_ones_are_left():
    sizes = {name: math.sqrt(step.size) for name, step in moved()[0].items()}  # the length of a gradient of ones
    steps, _ = moved("clip-per-tensor", kind=SGD, momentum=0.0, lr=1.0, longest=5.0)
    assert any(size > 5 for size in sizes.values()) and any(size < 5 for size in sizes.values())
    for name, step in steps.items():
        assert np.linalg.norm(step) == pytest.approx(min(sizes[name], 5.0), rel=1e-6), name
    right, _ = moved(kind=SGD, momentum=0.0, lr=1.0, longest=5.0)
    assert math.hypot(*(np.linalg.norm(step) for step in right.values())) == pytest.approx(5.0, rel=1e-6)


def test_without_the_root_a_gradient_is_clipped_to_its_length_s_inverse():
    right, wrong = (moved(*slugs, kind=SGD, momentum=0.0, longest=5.0)[0] for slugs in ((), ("clip-no-square-root",)))
    length = math.sqrt(sum(step.size for step in right.values()))
    for name in right:
        assert wrong[name] == pytest.approx(right[name] / length, rel=1e-6), name


@pytest.mark.parametrize("slug", ["accum-overwrite", "accum-mean-of-means"])
def test_microbatches_that_are_put_together_wrongly(slug):
    (ids, targets), found = test_shards.batch(), []
    for part in (slice(0, 2), slice(2, 5)):  # as Shards splits five rows; 6 and 14 targets that count
        model = test_shards.model_of()
        test_shards.whole(model, ids[part], targets[part])
        found.append(model.grads.copy())
    truth = 14 / 20 * found[1] if slug == "accum-overwrite" else (found[0] + found[1]) / 2
    model = test_shards.model_of()
    with mutants.apply(slug), Shards(model, 1, pieces=2) as shards:
        shards.backward(ids, targets)
    assert (targets[:2] != -100).sum() == 6 and (targets[2:] != -100).sum() == 14
    assert np.abs(model.grads - truth).max() <= test_shards.TOLERANCE * np.abs(truth).max()


def ten_steps():
    test_optim.test_ten_steps_with_schedule_clipping_and_decay_follow_the_equations(
        *test_optim.OPTIMIZERS[0], sizes=test_optim.SMALL)


def pieces():
    test_shards.test_loss_and_gradient_are_the_whole_batch_s_in_any_number_of_shards_and_pieces(2, 2, 5)


@pytest.mark.parametrize("slug", [None, *mutants.names("step")])
def test_every_wrong_step_is_noticed_beside_the_equations(slug):
    claim = pieces if slug and slug.startswith("accum-") else ten_steps
    if slug is None:
        ten_steps(), pieces()
        return
    with mutants.apply(slug), pytest.raises(AssertionError):
        claim()
