"""A reward model: its gradient, what it does not see, its pieces, and what a run of it measures."""

import numpy as np
import pytest

from numgpt import GPT
from numgpt.gradcheck import check
from numgpt.training.settings import Settings
from numgpt.training.shards import Shards
from numgpt.tuning import files
from numgpt.tuning.reward import RewardModel
from numgpt.tuning.start import Tuner, prepare
from numgpt.verify import cases, mutants
from tuned_models import moved, slope, tiny_start, write_pairs
from stages import later


def model_and_batch(seed=0, B=5):
    case = cases.make("reward-model", seed, cases.Sizes(B=B))
    return case.target, case.inputs


@pytest.mark.parametrize("name", [later("reward-model"), later("reward-model-dropout")])
def test_complex_step_agrees_within_1e_12_in_all_parameters(name):
    inputs, options = cases.make(name, seed=1).arguments()
    report = check(*inputs, method="complex", mode="every", **options)
    assert report.ok, report
    assert all(f.checked == f.total for f in report.gradients)
    assert max(f.error for f in report.gradients) <= 1e-12


@pytest.mark.parametrize("slug", [None, "reward-sides"])
def test_a_complex_step_in_a_random_direction_sees_the_mistakes_of_its_backward(slug):
    model, batch = model_and_batch()
    by_backward, by_step = slope(model, batch, planted=slug)
    # Sums of 2,000 products: rounding is some 1e-15 of them. The smallest mistake is of order one.
    assert (abs(by_backward - by_step) <= 1e-13 * abs(by_step)) == (slug is None)


def test_the_loss_is_the_mean_over_pairs_of_what_their_scores_differ_by():
    model, (ids, last) = model_and_batch()
    r = model.score(ids, last)
    expected = np.mean([np.log1p(np.exp(lost - won)) for won, lost in r])
    assert model(ids, last) == pytest.approx(expected, rel=1e-14)
    with mutants.apply("reward-count"):
        assert model(ids, last) == pytest.approx(expected / 2, rel=1e-14)  # the mistake that only a value shows


def test_scores_and_gradients_do_not_look_at_padding_to_a_bit():
    model, (ids, last) = model_and_batch()
    other = ids.copy()
    other[np.arange(ids.shape[-1]) > last[..., None]] = 7
    assert not np.array_equal(ids, other)
    assert np.array_equal(model.score(ids, last), model.score(other, last))
    grads = []
    for rows in (ids, other):
        model.zero_grad()
        model.backward(model.forward(rows, last)[1])
        grads.append({name: param.grad.copy() for name, param in model.named_params()})
    assert [name for name in grads[0] if not np.array_equal(grads[0][name], grads[1][name])] in ([], ["embedding.table"])
    # The table's sums have other zeros among them, and so another order.
    assert np.abs(grads[0]["embedding.table"] - grads[1]["embedding.table"]).max() <= 1e-15


@pytest.mark.parametrize("n, pieces", [(2, 1), (1, 3), (2, 2)])
def test_pieces_and_shards_add_up_to_the_whole_batch(n, pieces):
    model, batch = model_and_batch()
    model.zero_grad()
    loss, saved = model.forward(*batch)
    model.backward(saved)
    whole = model.grads.copy()
    with Shards(model, n, pieces=pieces) as shards:
        assert shards.backward(*batch) == pytest.approx(loss, rel=1e-14)
    assert np.abs(model.grads - whole).max() <= 1e-14 * np.abs(whole).max()


def test_a_batch_that_is_no_pairs_is_told():
    model, (ids, last) = model_and_batch()
    with pytest.raises(ValueError, match=r"ids \(B, 2, T\), chosen and rejected side by side, and last to them; got \(5, 7\) and \(5, 2\)"):
        model(ids[:, 0], last)


def test_it_comes_back_from_its_file_and_reads_as_the_gpt_it_was(tmp_path):
    model, (ids, last) = model_and_batch()
    model.save(tmp_path / "m.safetensors")
    back = files.load(tmp_path / "m.safetensors")
    assert isinstance(back, RewardModel) and np.array_equal(back.score(ids, last), model.score(ids, last))
    assert np.array_equal(GPT.load(tmp_path / "m.safetensors").logits(ids[:, 0]), model.logits(ids[:, 0]))


def test_a_run_measures_the_order_and_the_margin_and_goes_on_bit_for_bit(tmp_path):
    base, tokenizer = tiny_start()
    options = dict(tokenizer=tokenizer, validation=write_pairs(tmp_path / "v.jsonl", 8, seed=1), steps=6, batch=4, lr=1e-2, eval_every=3)
    data = write_pairs(tmp_path / "d.jsonl", 20)
    with prepare("reward", base, data, folder=tmp_path / "whole", **options) as whole:
        whole.run()
        metrics = whole.data.measure(whole)
        r = np.concatenate([whole.model.score(ids, last) for ids, last in whole.data.held_out()]).astype(np.float64)
    assert metrics["accuracy"] == np.mean(r[:, 0] > r[:, 1])
    assert metrics["margin"] == pytest.approx(np.mean(r[:, 0] - r[:, 1]), rel=1e-6)
    assert metrics["val_loss"] == pytest.approx(np.mean(np.log1p(np.exp(r[:, 1] - r[:, 0]))), rel=1e-6)  # float32
    with prepare("reward", base, data, folder=tmp_path / "parts", **{**options, "steps": 3}) as first:
        first.settings = Settings.from_dict({**first.settings.to_dict(), "steps": 6})
        moved(first, 3)
        first.save()
    with Tuner.resume(tmp_path / "parts") as rest:
        rest.run()
    assert np.array_equal(rest.model.values, whole.model.values)
