"""A classifier: its gradients, what padding and a batch may not change, and what pieces, runs and files must give back."""

import numpy as np
import pytest
from classifiers import DROPOUT, KINDS, LABELS, TOKENIZER, classifier
from runs import differing
from test_shards import TOLERANCE, gradients, same

from numgpt import GPT, safetensors
from numgpt.files import FormatError
from numgpt.gradcheck import check
from numgpt.layers import ops
from numgpt.layers.inputs import IGNORE
from numgpt.threads import Pool
from numgpt.training.checkpoint import Checkpoint
from numgpt.training.shards import Shards
from numgpt.training.settings import Settings
from numgpt.tuning import files
from numgpt.tuning.data import ClassifyData
from numgpt.tuning.encoding import encode
from numgpt.tuning.examples import Examples, Origin
from numgpt.tuning.lines import Choice, Pair, Text
from numgpt.tuning.start import Tuner
from numgpt.tuning.stages import STAGES
from numgpt.tuning.template import Template
from numgpt.verify import cases, mutants
from stages import later

OURS = [name for name in cases.tuned_models() if name.startswith("classifier")]
# What no gradient check sees; pieces that count for themselves show in pieces alone, see below.
BLIND = [form for slug in mutants.names("tuning") if slug.startswith("classifier-") for form in mutants.forms(slug)
         if form == mutants.forms("classifier-lm-weight")[1] or "the gradient is right, for" in form.story
         and form != mutants.forms("classifier-count")[0]]
WORDS = ("a bad cab", "hi", "jib", "feed a cic", "bead", "i aged", "fig")


def rows_of(kind, n=5):
    """Encoded examples of unlike lengths; of choices, the first has three and the others two."""
    made = []
    for i in range(n):
        a, b, c = (WORDS[(i + j) % len(WORDS)] for j in range(3))
        a, b = (a[:6], b[:6]) if kind != "classify" else (a, b)
        made.append({"classify": Text(a, LABELS[i % 3]), "choice": Choice(a, (b, c[:5])[:2] + (("j",) if i == 0 else ()), i % 2)}.get(
            kind, Pair(a, b, LABELS[i % 3])))
    examples = Examples(kind, made, [Origin("here", i) for i in range(n)], None if kind == "choice" else LABELS)
    return encode(examples, Template(kind, TOKENIZER.n_vocab), TOKENIZER, 16)


def batch(kind, n=5):
    found = rows_of(kind, n).at(range(n))
    return found.ids, found.last, found.classes, found.targets


# -- gradients


@pytest.mark.parametrize("name", [name if name in ("classifier", "classifier-choice") else later(name) for name in OURS])
def test_complex_step_agrees_within_1e_12_over_all_parameters(name):
    inputs, options = cases.make(name, seed=1).arguments()
    report = check(*inputs, method="complex", mode="every", **options)
    assert report.ok, report
    assert {f.method for f in report.gradients} == {"complex"} and all(f.checked == f.total for f in report.gradients)
    assert max(f.error for f in report.gradients) <= 1e-12


@pytest.mark.verify
@pytest.mark.parametrize("name", OURS)
def test_float32_follows_float64(name):
    inputs, options = cases.make(name, seed=3, sizes=cases.Sizes(dtype=np.float32)).arguments()
    report = check(*inputs, mode="every", **options)
    assert report.ok, report
    assert max(f.error for f in report.gradients if f.method == "float32") < 1e-5


def by_hand(model, ids, last, classes, targets):
    """The loss, a sequence at a time, from the logits and the head's weights."""
    task, language, n_task = [], [], (classes != IGNORE).sum()
    for i in range(len(ids)):
        rows = [(ids[i], last[i], targets[i])] if ids.ndim == 2 else [*zip(ids[i], last[i], targets[i])]
        hidden = []
        for row, end, target in rows:
            if end < 0:
                continue
            hidden.append(model.body(row[None, :end + 1])[0, -1])
            logits = model.logits(row[None, :end])[0]
            assert (target[end:] == IGNORE).all() and np.array_equal(target[:end], row[1:end + 1])
            logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            language += (-logp[np.arange(end), row[1:end + 1]]).tolist()
        weight, bias = model.task.linear.weight.value, model.task.linear.bias
        scores = np.concatenate([h @ weight for h in hidden]) if model.labels is None else sum(hidden) @ weight + bias.value
        task.append(np.log(np.exp(scores).sum()) - scores[classes[i]])
    return sum(task) / n_task + model.lm_weight * np.mean(language)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_the_task_and_its_weight_times_that_of_the_texts_own_tokens(kind):
    model = classifier(kind)
    truth = by_hand(model, *batch(kind))
    assert model(*batch(kind)) == pytest.approx(truth, rel=1e-13) and model.forward(*batch(kind))[0] == pytest.approx(truth, rel=1e-13)
    for form in BLIND:
        with mutants.apply(form):
            assert abs(model.forward(*batch(kind))[0] / truth - 1) > 1e-4, form


# -- padding and neighbours


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_stands_in_the_padding_changes_no_bit(kind, dtype):
    model, (ids, last, classes, targets) = classifier(kind, dtype=dtype), batch(kind)
    other, padding = ids.copy(), np.arange(ids.shape[-1]) > last[..., None]
    other[padding] = np.random.default_rng(0).integers(0, model.config.n_vocab, padding.sum())
    assert padding.any() and not np.array_equal(ids, other)
    assert np.array_equal(model.scores(ids, last), model.scores(other, last))
    found = []
    for one in (ids, other):
        model.zero_grad()
        loss, saved = model.forward(one, last, classes, targets)
        model.backward(saved)
        found.append((loss, model.task.linear.weight.grad.copy()))
    assert same(*found)
    with mutants.apply(mutants.forms("classifier-off-by-one")[2]):
        assert not np.array_equal(*(model.forward(one, last, classes, targets)[0] for one in (ids, other)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_how_far_a_batch_is_padded_changes_no_bit_of_scores_loss_or_gradients(kind, dtype):
    model, rows, found = classifier(kind, dtype=dtype), rows_of(kind), []
    for T in (rows.T, rows.T + 1, rows.T + 2):
        ids, last, targets, classes = rows.at(range(5), T)
        model.zero_grad()
        loss, saved = model.forward(ids, last, classes, targets)
        model.backward(saved)
        found.append((ids.shape[-1], [model.scores(ids, last), loss, model(ids, last, classes, targets), model.grads.copy()]))
    assert len({T for T, _ in found}) == 3 and all(same(found[0][1], numbers) for _, numbers in found)


@pytest.mark.parametrize("kind", KINDS)
def test_an_example_alone_scores_as_in_a_batch_and_behind_more_padding(kind):
    """Products of other shapes add in another order: n terms of order one, so n eps; measured 3e-15."""
    model, rows = classifier(kind), rows_of(kind)
    together, wide = (model.scores(*rows.at(range(5), T)[:2]) for T in (None, 16))
    for i in range(5):
        one = rows.at([i])
        alone = model.scores(one.ids, one.last)[0]
        there = np.isfinite(alone)
        for scores in (together, wide):
            assert np.abs(scores[i][there] - alone[there]).max() <= 1e-13
            assert (scores[i][~there] == -np.inf).all()
    p = model.probabilities(rows.at(range(5)).ids, rows.at(range(5)).last)
    assert np.allclose(p.sum(-1), 1, rtol=0, atol=1e-15) and np.allclose(p, ops.softmax(together), rtol=0, atol=1e-15)


def test_the_last_real_token_is_extract_and_the_head_reads_its_row():
    model, (ids, last, _, _) = classifier(), batch("classify")
    assert (ids[np.arange(5), last] == model.template.special["extract"]).all() and len(set(last.tolist())) > 2
    x = model.body(ids)
    expected = np.stack([x[i, n] for i, n in enumerate(last)]) @ model.task.linear.weight.value + model.task.linear.bias.value
    assert np.array_equal(model.scores(ids, last), expected)


# -- shards and pieces


@pytest.mark.parametrize("kind", KINDS)
def test_shards_and_pieces_add_up_to_the_whole_batch_though_each_has_other_counts(kind):
    model, whole = classifier(kind), [*batch(kind)]
    whole[2] = whole[2].copy()
    whole[2][1] = IGNORE
    model.zero_grad()
    loss, saved = model.forward(*whole)
    model.backward(saved)
    truth = gradients(model)

    def parts(n, pieces):
        with Shards(model, n, pieces=pieces, pool=Pool(1)) as shards:
            return shards.backward(*whole), gradients(model)

    for n, pieces in ((1, 2), (2, 1), (3, 2)):
        found, grads = parts(n, pieces)
        assert found == pytest.approx(loss, rel=TOLERANCE)
        for name, grad in grads.items():
            assert np.abs(grad - truth[name]).max() <= TOLERANCE * np.abs(truth[name]).max(), name
    with mutants.apply("classifier-count"):
        assert parts(2, 1)[0] > 1.2 * loss


# -- runs


def tuner(folder, model=None, **settings):
    model = model or classifier(dropout=0.2, dtype=np.float32, **DROPOUT)
    data = ClassifyData(rows_of("classify", 7), rows_of("classify", 3), model.template, TOKENIZER, labels=LABELS)
    settings = {**dict(steps=9, batch=3, eval_every=3, save_every=3, shards=2), **settings}
    return Tuner(model, data, Settings.of("nano", **settings), folder=folder)


def data_of():
    return tuner(None).data


def test_a_run_that_is_interrupted_at_an_odd_step_ends_with_the_bits_of_the_one_that_was_not(tmp_path):
    with tuner(tmp_path / "whole") as whole:
        whole.run()
    with tuner(tmp_path / "stopped") as stopped:
        step = stopped.step

        def interrupted():
            if stopped.n_done == 5:  # its last checkpoint is of step 3
                raise KeyboardInterrupt
            return step()

        stopped.step = interrupted
        with pytest.raises(KeyboardInterrupt):
            stopped.run()
    with Tuner.resume(tmp_path / "stopped", data_of()) as again:
        assert again.n_done == 3 and type(again.model).__name__ == "Classifier"
        again.run()
    assert np.array_equal(whole.model.values, again.model.values)
    assert all(np.array_equal(one, other) for one, other in zip(whole._moments().values(), again._moments().values()))
    assert not differing(tmp_path / "stopped", tmp_path / "whole")


def test_a_checkpoint_and_the_best_model_come_back_bit_for_bit(tmp_path):
    with tuner(tmp_path / "run", steps=3) as run:
        run.run()
    model, path = run.model, tmp_path / "run" / "checkpoint-00000003.safetensors"
    again = files.load(path)
    assert np.array_equal(again.values, model.values) and again.about() == model.about() and again.config == model.config
    ids, last, *_ = batch("classify")
    assert np.array_equal(again.scores(ids, last), model.scores(ids, last))
    best = files.load(tmp_path / "run")  # by the name of its folder
    assert best.about() == model.about() and np.array_equal(best.values, files.load(tmp_path / "run" / "best.safetensors").values)
    assert np.array_equal(GPT.load(path).logits(ids), model.logits(ids))  # to whom knows no tuning, a GPT
    assert Checkpoint.read(path, files.load).model.about() == model.about()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_goes_into_a_file_and_comes_back(kind, tmp_path):
    model = classifier(kind, lm_weight=0.25, dropout=0.3, labels=(True, False))
    model.save(tmp_path / "model.safetensors")
    again = files.load(tmp_path / "model.safetensors", dtype=np.float32, recompute=True)
    assert np.array_equal(again.values, model.values.astype(np.float32)) and again.about() == model.about()
    assert again.labels == (None if kind == "choice" else (True, False)) and (again.lm_weight, again.task.dropout.p) == (0.25, 0.3)


@pytest.mark.parametrize("change, says", [
    (lambda tensors: tensors.pop("task.linear.bias"),
     "a model of this kind has task.linear.bias, task.linear.weight; the file has task.linear.weight"),
    (lambda tensors: tensors.update({"task.linear.bias": np.zeros(4)}),
     r"'task.linear.bias' has the shape \(4,\), where its kind has \(3,\)")])
def test_a_file_whose_head_is_not_that_of_its_labels_is_refused(change, says, tmp_path):
    model = classifier()
    tensors = {name: param.value for name, param in model.named_params()}
    change(tensors)
    safetensors.write(tmp_path / "model.safetensors", tensors, model.metadata())
    with pytest.raises(FormatError, match=says):
        files.load(tmp_path / "model.safetensors")


# -- what is refused


def test_what_makes_no_classifier_is_said():
    for kind, labels, says in (("classify", None, "classify wants labels"), ("choice", LABELS, "an example has choices of its own")):
        with pytest.raises(ValueError, match=says):
            STAGES[kind].model(classifier(kind), type("Data", (), {"template": Template(kind, TOKENIZER.n_vocab), "labels": labels}),
                               lm_weight=0.5, rng=None)
    with pytest.raises(ValueError, match="lm_weight must be 0 or above, and finite; got -1"):
        classifier(lm_weight=-1)
    with pytest.raises(ValueError, match="a batch is ids and targets"):
        model = classifier()
        ids, last, classes, targets = batch("classify")
        model(ids, last, classes[:-1], targets)
