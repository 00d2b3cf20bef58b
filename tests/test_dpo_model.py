"""DPO's policy: its gradient, what its loss is of, its reference, the KL of its answers, and what a run of it measures."""

import itertools
import json
import math

import numpy as np
import pytest

from numgpt import GPT, GPTConfig
from numgpt.files import FormatError
from numgpt.gradcheck import check
from numgpt.layers.ops import log_softmax
from numgpt.training.folder import read_metrics
from numgpt.training.settings import Settings
from numgpt.training.shards import Shards
from numgpt.tuning import adapters, files
from numgpt.tuning.dpo import DPOModel
from numgpt.tuning.kl import Answers
from numgpt.tuning.pairs import REFERENCE, in_order
from numgpt.tuning.start import ADAPTERS, Tuner, prepare
from numgpt.verify import cases, mutants
from stages import later
from tuned_models import moved, slope, tiny_start, write_pairs


def model_and_batch(seed=0, B=5, name="dpo-model"):
    case = cases.make(name, seed, cases.Sizes(B=B))
    return case.target, (*case.inputs, case.options["reference"])


@pytest.mark.parametrize("name", [later("dpo-model"), later("dpo-model-untied")])
def test_complex_step_agrees_within_1e_12_in_all_parameters(name):
    inputs, options = cases.make(name, seed=1).arguments()
    report = check(*inputs, method="complex", mode="every", **options)
    assert report.ok, report
    assert all(f.checked == f.total for f in report.gradients)
    assert max(f.error for f in report.gradients) <= 1e-12


@pytest.mark.parametrize("slug", [None, "dpo-model-reference", "dpo-model-sides", "dpo-model-mean"])
def test_a_complex_step_in_a_random_direction_sees_the_mistakes_of_its_backward(slug):
    model, batch = model_and_batch()
    by_backward, by_step = slope(model, batch, planted=slug)
    # Sums of 2,000 products: rounding is some 1e-15 of them. The smallest mistake is of order one.
    assert (abs(by_backward - by_step) <= 1e-13 * abs(by_backward)) == (slug is None)


def written_out(model, ids, targets, reference):
    """The loss by loops over pairs and tokens, of the whole table of probabilities."""
    losses = []
    for pair in range(len(ids)):
        gained = []
        for side in range(2):
            logp = log_softmax(model.logits(ids[pair, side][None])[0])
            said = sum(logp[t, token] for t, token in enumerate(targets[pair, side]) if token != -100)
            gained.append(said - reference[pair, side])
        losses.append(math.log1p(math.exp(-model.dpo.beta * (gained[0] - gained[1]))))
    return sum(losses) / len(ids)


@pytest.mark.parametrize("mistake", [None, "dpo-model-prompt", "dpo-model-count", "dpo-model-mean"])
def test_the_loss_is_of_the_answers_own_tokens_summed_and_a_mean_over_pairs(mistake):
    model, batch = model_and_batch()
    if mistake is None:
        assert model(*batch) == pytest.approx(written_out(model, *batch), rel=1e-13)
        return
    with mutants.apply(mistake, variant=1 if mistake == "dpo-model-mean" else 0):
        assert model.forward(*batch)[0] != pytest.approx(written_out(model, *batch), rel=1e-3)


def test_a_policy_that_is_its_reference_has_a_loss_of_log_2_and_a_gradient():
    model, (ids, targets, _) = model_and_batch()
    model.zero_grad()
    loss, saved = model.forward(ids, targets, model.log_probs(ids, targets))
    model.backward(saved)
    assert loss == pytest.approx(math.log(2), rel=1e-15)
    assert np.abs(model.grads).max() > 1e-3


@pytest.mark.parametrize("n, pieces", [(2, 1), (1, 3), (2, 2)])
def test_pieces_and_shards_add_up_to_the_whole_batch(n, pieces):
    model, batch = model_and_batch(name="dpo-model-untied")
    model.zero_grad()
    loss, saved = model.forward(*batch)
    model.backward(saved)
    whole = model.grads.copy()
    with Shards(model, n, pieces=pieces) as shards:
        assert shards.backward(*batch) == pytest.approx(loss, rel=1e-14)
    assert np.abs(model.grads - whole).max() <= 1e-14 * np.abs(whole).max()


def test_a_batch_without_its_reference_s_numbers_is_told():
    model, (ids, targets, reference) = model_and_batch()
    with pytest.raises(ValueError, match=r"and targets and reference to them; got \(5, 2, 7\) and \(5, 2, 7\) and \(2,\)"):
        model(ids, targets, reference[0])


def test_it_comes_back_from_its_file_with_its_beta(tmp_path):
    model, batch = model_and_batch(name="dpo-model-untied")
    model.save(tmp_path / "m.safetensors")
    back = files.load(tmp_path / "m.safetensors")
    assert isinstance(back, DPOModel) and (back.dpo.beta, back.dpo.smoothing) == (0.3, 0.1)
    assert back(*batch) == model(*batch)


# -- KL


def test_the_estimate_of_kl_is_right_on_average_over_all_answers_that_there_are():
    """Of answers of two tokens over four, of which one ends: all of them, each as often as the policy gives it."""
    policy, reference = (GPT(GPTConfig(n_vocab=4, n_ctx=4, n_layer=1, n_head=1, n_embd=4, std=1.0), seed=seed, dtype=np.float64) for seed in (0, 1))
    prompt, end = np.array([1, 2]), 3
    every = [[end], *([a, b] for a, b in itertools.product(range(3), range(4)))]
    exact = expected = 0.0
    for answer in every:
        ids = np.concatenate([prompt, answer])
        logp, logq = (log_softmax(model.logits(ids[None])[0])[np.arange(1, len(ids) - 1), answer].sum() for model in (policy, reference))
        estimate, = Answers([prompt], [np.array(answer)]).divergence(policy, reference)
        assert estimate >= 0
        exact += math.exp(logp) * (logp - logq)
        expected += math.exp(logp) * estimate
    assert exact > 0.1
    assert expected == pytest.approx(exact, rel=1e-13)


def test_a_policy_is_at_no_distance_of_itself_and_its_answers_stay_within_the_context():
    start, tokenizer = tiny_start()
    prompts = [np.arange(n) % 40 for n in (5, 54, 56)]
    answers = Answers.drawn(start, prompts, 10, end=start.template.special["end"], seed=0)
    assert [len(ids) <= room for ids, room in zip(answers.ids, (10, 2, 0))] == [True] * 3
    assert len(answers.ids[2]) == 0 < len(answers.ids[1])
    assert not answers.divergence(start, start).any()


# -- runs


def options(tmp_path, **more):
    return dict(validation=write_pairs(tmp_path / "v.jsonl", 6, seed=1), steps=6, batch=4, lr=1e-2, eval_every=3, **more)


def test_a_run_goes_on_bit_for_bit_with_the_reference_that_lies_in_its_folder(tmp_path):
    base, tokenizer = tiny_start()
    data = write_pairs(tmp_path / "d.jsonl", 20)
    how = options(tmp_path, tokenizer=tokenizer)
    with prepare("dpo", base, data, folder=tmp_path / "whole", **how) as whole:
        whole.run()
    with prepare("dpo", base, data, folder=tmp_path / "parts", **{**how, "steps": 3}) as first:
        first.settings = Settings.from_dict({**first.settings.to_dict(), "steps": 6})
        moved(first, 3)
        first.save()
    with Tuner.resume(tmp_path / "parts") as rest:
        rest.run()
        assert np.array_equal(rest.model.values, whole.model.values)
        assert np.array_equal(rest.data.reference.values, base.values)  # nothing grew, and no step moved it
        final = [{name: value for name, value in lines[-1].items() if name not in ("seconds", "tokens_per_s")}
                 for lines in map(read_metrics, (tmp_path / "whole", tmp_path / "parts"))]
    assert final[0] == final[1] and final[0]["kl"] > 0
    (tmp_path / "parts" / REFERENCE).write_bytes((tmp_path / "parts" / "best.safetensors").read_bytes())
    other = files.load(tmp_path / "parts" / REFERENCE)
    other.values += 1
    other.save(tmp_path / "parts" / REFERENCE)
    with pytest.raises(FormatError, match="the run cannot go on as it was"):
        Tuner.resume(tmp_path / "parts", steps=9)
    GPT(base.config).save(tmp_path / "parts" / REFERENCE)
    with pytest.raises(FormatError, match="reference.safetensors is not the model that this run began as"):
        Tuner.resume(tmp_path / "parts", steps=9)


@pytest.mark.parametrize("by_hand", ["frozen", "adapters"])
def test_a_policy_with_frozen_parameters_or_adapters_put_on_by_hand_goes_on_and_its_adapters_come_back(tmp_path, by_hand):
    base, tokenizer = tiny_start()
    data = write_pairs(tmp_path / "d.jsonl", 20)
    with prepare("dpo", base, data, **options(tmp_path, tokenizer=tokenizer)) as usual:
        policy, source, examples, settings = usual.model, usual.source, usual.data, Settings.from_dict({**usual.settings.to_dict(), "steps": 1})
    before = policy.astype(np.float32)
    if by_hand == "frozen":
        policy.freeze(lambda name: name.startswith("embedding"))
        policy.lay_out()
    else:
        adapters.add(policy, 2)
    examples.begins_with(policy)
    with Tuner(policy, examples, settings, folder=tmp_path / "run", source=source) as trainer:
        trainer.run()
    with Tuner.resume(tmp_path / "run", steps=2) as again:
        assert np.array_equal(again.model.values, policy.values) and again.model.grads.size == policy.grads.size < policy.values.size
        assert np.array_equal(again.data.reference.values, before.values)
    if by_hand == "adapters":
        adapters.load(before, tmp_path / "run" / ADAPTERS)
        best = files.load(tmp_path / "run").values
        assert np.array_equal(adapters.merged(before).values, best) and not np.array_equal(best, base.values)


def test_a_pair_without_an_order_counts_half():
    assert in_order(np.array([2.0, 0.0, -1.0, 0.0])) == 0.5 and in_order(np.zeros(3)) == 0.5 and in_order(np.array([1.0, -1.0, 3.0, 0.0])) == 0.625


def test_what_is_measured_is_what_the_pairs_and_the_policy_s_own_answers_say(tmp_path):
    base, tokenizer = tiny_start()
    with prepare("dpo", base, write_pairs(tmp_path / "d.jsonl", 20), **options(tmp_path, tokenizer=tokenizer)) as trainer:
        begun = trainer.evaluate()
        assert (begun["kl"], begun["margin"], begun["accuracy"]) == (0, 0, 0.5)
        assert begun["val_loss"] == pytest.approx(math.log(2), rel=1e-6)
        moved(trainer, 4)
        metrics, data, model = trainer.evaluate(), trainer.data, trainer.model
        assert metrics == trainer.evaluate()  # the same answers are drawn
        batch = data.kept.at(np.arange(len(data.kept)))
        gained = model.dpo.beta * (model.log_probs(batch.ids, batch.targets) - data.reference.log_probs(batch.ids, batch.targets)).astype(np.float64)
        assert metrics["margin"] == pytest.approx((gained[:, 0] - gained[:, 1]).mean(), rel=1e-5)  # float32's sums of 30 tokens
        assert metrics["kl"] / metrics["kl_per_token"] == pytest.approx(metrics["answer_tokens"])


def test_a_bound_on_kl_ends_the_run_and_the_best_model_is_from_within_it(tmp_path):
    base, tokenizer = tiny_start()
    how = options(tmp_path, tokenizer=tokenizer) | {"steps": 40, "eval_every": 2, "lr": 3e-2}
    with prepare("dpo", base, write_pairs(tmp_path / "d.jsonl", 20), folder=tmp_path / "run", max_kl=0.5, **how) as trainer:
        trainer.run()
    evaluated = [line for line in read_metrics(tmp_path / "run") if "kl" in line]
    assert trainer.n_done < 40 and evaluated[-1]["kl"] > 0.5
    assert all(line["kl"] <= 0.5 for line in evaluated[:-1])
    assert f"{evaluated[-1]['kl']:.2f} nats an answer, above the 0.5" in trainer.ended
    best = files.load(tmp_path / "run" / "best.safetensors")
    within = min((line for line in evaluated[:-1]), key=lambda line: line["val_loss"])
    answers = trainer.data.answers(best)
    said = trainer.data.shown(trainer).split("\n")
    assert within["step"] == 0 and said[0].startswith("ended early") and said[1].startswith("no step was better than the start; ")
    assert said[3] == f"    {trainer.data.texts(answers)[0][1]}" and len(said) == 2 + 2 * 3
    assert answers.divergence(best, trainer.data.reference).sum() / len(answers.ids) == pytest.approx(within["kl"], rel=1e-12)
    with Tuner.resume(tmp_path / "run", steps=60) as again:
        assert again.done and again.ended == trainer.ended
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == trainer.n_done


@pytest.mark.parametrize("max_kl", [0, -1, math.nan, math.inf])
def test_a_bound_that_is_none_is_told(tmp_path, max_kl):
    base, tokenizer = tiny_start()
    with pytest.raises(ValueError, match="max_kl, the nats of KL that an answer may have, must be above 0 and finite"):
        prepare("dpo", base, write_pairs(tmp_path / "d.jsonl", 20), max_kl=max_kl, tokenizer=tokenizer)
