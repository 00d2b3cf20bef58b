"""numgpt finetune --task classify and its like, as they are called: in a folder, with files of JSON lines."""

import errno
import json
import os
import re
import shutil

import numpy as np
import pytest
from classifiers import LABELS, TOKENIZER, classifier, saved
from runs import differing

from numgpt import GPT, GPTConfig
from numgpt.cli import main
from numgpt.cli.finetune import _labels
from numgpt.formats import load as load_gpt
from numgpt.training.folder import read_metrics
from numgpt.tuning import files
from numgpt.tuning.stages import STAGES
from numgpt.tuning.start import prepare

LINES = [{"text": text, "label": LABELS[i % 3]} for i, text in enumerate(
    ("bad cab", "hi", "jib a fig", "a", "feed a cicada", "bead", "i aged", "faded", "big dad", "a gif", "fee", "abide", "chide", "jade"))]
FAST = ("--steps", 4, "--batch", 4, "--eval-every", 2)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with examples, a GPT that reads their letters, and a run of classification."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, LINES)))
    (folder / "base").mkdir()
    GPT(GPTConfig.preset("nano", n_vocab=TOKENIZER.n_vocab, n_ctx=20, dropout_resid=0.1)).save(folder / "base" / "best.safetensors")
    TOKENIZER.save(folder / "base" / "characters.json")
    assert here(folder, "base", "data.jsonl", *FAST, "--out", "run", "--quiet") == 0
    return folder


def here(folder, *words, command="finetune") -> int:
    before = os.getcwd()
    os.chdir(folder)
    words = words if command != "finetune" or {"--task", "--resume"} & set(words) else (*words, "--task", "classify")
    try:
        return main([command, *map(str, words)])
    finally:
        os.chdir(before)


def refused(folder, capsys, *words, status=1, **more) -> str:
    """What is said to a call that fails."""
    capsys.readouterr()
    try:
        assert here(folder, *words, **more) == status
    except SystemExit as error:
        assert error.code == 2
    return capsys.readouterr().err


def wrote(folder, name, lines) -> str:
    (folder / name).write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return name


def test_a_run_says_what_the_model_that_it_leaves_takes_for_what(desk, capsys):
    assert here(desk, "base", "data.jsonl", *FAST, "--out", "said", "--held-out", 0.3) == 0
    out = capsys.readouterr().out
    best = min((line for line in read_metrics(desk / "said") if "val_loss" in line), key=lambda line: line["val_loss"])
    table = out[out.index(f"said/best.safetensors (step {best['step']}), on the 4 examples held out:"):]
    assert f"accuracy {best['accuracy']:.1%}, macro-F1" in table and '"so so"' in table
    assert f"{best['accuracy']:.1%} right" in out


def test_a_run_that_goes_on_ends_with_the_bits_of_one_that_never_stopped(desk):
    assert here(desk, "base", "data.jsonl", "--steps", 5, "--batch", 4, "--eval-every", 3, "--out", "short", "--quiet") == 0
    shutil.copytree(desk / "short", desk / "longer")
    assert here(desk, "--resume", "longer", "--steps", 7, "--quiet") == 0
    steps = [line["step"] for line in read_metrics(desk / "longer")]
    assert steps == list(range(8)) and not differing(desk / "short", desk / "short")
    model = files.load(desk / "longer" / "checkpoint-00000007.safetensors")
    assert model.labels == tuple(sorted(LABELS)) and model.config.dropout_resid == model.task.dropout.p == 0.1


def test_a_classifier_goes_on_with_its_head_and_its_tokens_where_the_labels_are_the_same(desk):
    first = files.load(desk / "run")
    again = prepare("classify", desk / "run", [desk / "data.jsonl"], steps=1).model
    assert again.config == first.config and again.template == first.template
    assert np.array_equal(again.values, first.values)
    turned = [LABELS[i] for i in (2, 0, 1)]
    trainer = prepare("classify", desk / "run", [desk / "data.jsonl"], labels=turned, steps=1)
    assert trainer.data.remarks() == ["the head goes on as it was, with its labels in another order"]
    rows = trainer.data.kept.at([0, 1])
    known, now = (dict(zip(model.labels, model.probabilities(rows.ids, rows.last).T)) for model in (first, trainer.model))
    assert trainer.model.labels == tuple(turned) and all(np.allclose(known[label], now[label], rtol=1e-5) for label in LABELS)  # float32
    trainer = prepare("classify", desk / "run", [desk / "data.jsonl"], labels=[*LABELS, "new"], steps=1)
    other = trainer.model
    assert trainer.data.remarks()[0] == 'the head begins anew: the model\'s own is for classify, with the labels "bad", "good", "so so"'
    assert other.labels == (*LABELS, "new") and other.config == first.config  # the same tokens, and another head
    assert np.array_equal(other.body.embedding.table.value, first.body.embedding.table.value)
    (desk / "pairs.jsonl").write_text("\n".join(json.dumps({"a": line["text"][:5], "b": "hi", "label": line["label"]}) for line in LINES))
    pairs = prepare("pairs", desk / "run", [desk / "pairs.jsonl"], steps=1).model  # which has tokens of its own
    assert pairs.template.n_base == first.config.n_vocab and pairs.config.n_vocab == first.config.n_vocab + 3
    assert np.array_equal(pairs.body.embedding.table.value[:first.config.n_vocab], first.body.embedding.table.value)


def test_what_is_taken_for_the_best_is_a_classifier_to_classify_and_a_gpt_to_others(desk, capsys):
    assert here(desk, "run", "data.jsonl", command="classify") == 0
    assert len(capsys.readouterr().out.splitlines()) == len(LINES)
    assert type(load_gpt(desk / "run")) is GPT
    assert here(desk, "run", "--prompt", "a", "--tokens", 40, "--temperature", 5, "--seed", 1, command="sample") == 0
    assert set(capsys.readouterr().out) <= {*TOKENIZER.characters, "\n"}  # none of the tokens between texts


@pytest.mark.parametrize("options", [("--lm-weight", 0), ("--recompute",), ("--dtype", "float64"), ("--pieces", 2, "--shards", 3)])
def test_each_option_trains_and_its_file_says_so(desk, tmp_path, options):
    assert here(desk, "base", "data.jsonl", *FAST, "--out", tmp_path / "run", "--quiet", *options) == 0
    model = files.load(tmp_path / "run")
    assert model.lm_weight == (0.0 if "--lm-weight" in options else 0.5)
    assert model.values.dtype == (np.float64 if "--dtype" in options else np.float32)


def test_without_a_model_a_small_one_has_room_for_the_longest_example_within_reason(desk):
    trainer = prepare("classify", None, [desk / "data.jsonl"], steps=1)
    assert trainer.model.config.n_ctx == 2 + max(len(line["text"]) for line in LINES)
    long = wrote(desk, "long.jsonl", [*LINES, {"text": "a" * 3000, "label": "bad"}])
    with pytest.raises(ValueError, match="line 15: 3002 tokens .*, where 1024 have room"):
        prepare("classify", None, [desk / long], steps=1)
    trainer = prepare("classify", None, [desk / long], steps=1, skip_bad=True)
    assert trainer.data.bad.counts == {"longer than the context": 1}
    assert prepare("classify", None, [desk / long], steps=1, truncate=True).data.train.T in (15, 1024)


def test_a_label_without_an_example_to_train_on_is_named(desk, capsys):
    assert here(desk, "base", "data.jsonl", *FAST, "--labels", "bad,good,so so,fair", "--out", "named") == 0
    assert 'note: nothing teaches the label "fair": it has no example to train on, and 0 held out' in capsys.readouterr().out


@pytest.mark.parametrize("lines, words, says", [
    ([*LINES, "{"], (), "line 15: not JSON"),
    ([*LINES, {"text": "a" * 30, "label": "bad"}], (), "line 15: 32 tokens (30, and 2 special ones), where 20 have room"),
    ([*LINES, {"text": "Zug", "label": "bad"}], (), "line 15: 'Zug': the vocabulary lacks 'Z' at 0"),
    ([*LINES, {"text": "", "label": "bad"}], (), 'line 15: "text" is empty'),
    ([*LINES, {"text": "a"}], (), 'line 15: "label" is missing'),
    ([*LINES, {"text": "a", "label": "goood"}], ("--labels", ",".join(LABELS)), 'line 15: there is no label "goood"')])
def test_a_bad_line_is_named_or_counted(desk, capsys, lines, words, says, tmp_path):
    name = wrote(desk, "bad.jsonl", lines)
    assert says in refused(desk, capsys, "base", name, *FAST, *words, "--out", tmp_path / "run") and not (tmp_path / "run").exists()
    assert here(desk, "base", name, *FAST, *words, "--out", tmp_path / "run", "--skip-bad") == 0
    assert "left out of the examples: " in (out := capsys.readouterr().out) and "(1)" in out


def test_a_held_out_file_has_the_labels_of_the_one_that_is_trained_on(desk, capsys):
    name = wrote(desk, "test.jsonl", [LINES[0], {"text": "a", "label": "goo"}])
    found = refused(desk, capsys, "base", "data.jsonl", "--validation", name, *FAST)
    assert 'test.jsonl, line 2: there is no label "goo"' in found and 'is "good" meant?' in found
    assert here(desk, "base", "data.jsonl", "--validation", name, *FAST, "--skip-bad", "--out", "validated") == 0
    assert "on the 1 examples held out" in capsys.readouterr().out


@pytest.mark.parametrize("words, says", [
    (("base", "run", "data.jsonl"), "one begins with one model; got base, run"),
    (("--labels", "a,b"), "--labels would do nothing here: without a file of examples they are drawn"),
    (("--skip-bad",), "--skip-bad would do nothing here: without a file of examples they are drawn"),
    (("--truncate",), "--truncate would do nothing here"),
    (("base", "text.txt"), "text.txt is a text and no model; files of examples are JSON lines, and end in .jsonl"),
    (("texts.jsonl", "--labels", "0,1"), 'there is no label "0": the labels are 0, 1'),
    (("texts.jsonl", "--labels", "0,1"), """. As texts they would be --labels '"0","1"'"""),
    (("texts.jsonl", "--labels", "True,False"), 'there is no label "0": the labels are "True", "False"'),
    (("booleans.jsonl", "--labels", "True,False"), "As booleans they would be --labels true,false"),
    (("data.jsonl", "--lm-weight", "inf"), "lm_weight must be 0 or above, and finite; got inf"),
    (("--held-out", 0.2), "--held-out would do nothing here"),
    (("data.jsonl", "--validation", "data.jsonl", "--held-out", 0.2), "--held-out would do nothing here: --validation is what is held out"),
    (("data.jsonl", "--task", "pairs", "--lm-weight", -1), '"a" is missing'),
    (("data.jsonl", "--lm-weight", -1), "lm_weight must be 0 or above"),
    (("data.jsonl", "--held-out", 0.01), "14 examples are too few to hold out 0.01 of them: say --held-out 0.08, or give others by --validation FILE"),
    (("data.jsonl", "--held-out", 1.5), "held_out is a share between 0 and 1; got 1.5"),
    (("data.jsonl", "--held-out", 0.99), "to hold out 0.99 of 14 examples leaves none to train on"),
    (("--task", "choice"), "nothing is drawn for choice: give a file of JSON lines"),
    (("--task", "choice", "--labels", "a,b", "data.jsonl"), "examples of choice have no labels"),
    (("nowhere", "data.jsonl"), "nowhere"), (("nowhere.jsonl",), "nowhere.jsonl: No such file")])
def test_a_wrong_call_is_told_in_a_sentence(desk, capsys, words, says):
    wrote(desk, "text.txt", ["the cat sat on the mat"])
    wrote(desk, "texts.jsonl", [{"text": "a", "label": "0"}, {"text": "b", "label": "1"}])
    wrote(desk, "booleans.jsonl", [{"text": "a", "label": True}, {"text": "b", "label": False}])
    assert says in refused(desk, capsys, *words, *FAST)


def test_examples_are_known_by_how_they_begin_whatever_their_file_is_called(desk):
    shutil.copy(desk / "data.jsonl", desk / "data.txt")
    assert here(desk, "base", "data.txt", *FAST, "--out", "known", "--quiet") == 0


def test_each_command_sends_the_other_s_runs_to_it(desk, capsys):
    assert "it goes on with numgpt finetune --resume" in refused(desk, capsys, "--resume", "run", command="train")
    wrote(desk, "text", ["the cat sat on the mat. " * 40])
    assert here(desk, "text", "--preset", "nano", "--steps", 2, "--out", "trained", "--quiet", command="train") == 0
    assert "no fine-tuning: it goes on with numgpt train --resume" in refused(desk, capsys, "--resume", "trained")


def test_examples_that_have_changed_cannot_be_gone_on_with(desk, capsys):
    name = wrote(desk, "changing.jsonl", LINES)
    assert here(desk, "base", name, *FAST, "--out", "changed", "--quiet") == 0
    wrote(desk, name, [*LINES, LINES[0]])
    found = refused(desk, capsys, "--resume", "changed", "--steps", 6)
    assert "the examples are no longer those on which changed was trained" in found
    assert found.endswith("bring back what there was, or begin a new run with changed/checkpoint-00000004.safetensors for a MODEL\n")


def test_what_another_program_has_no_place_for_is_said(desk, capsys):
    assert here(desk, "run", "folder", "--to", "huggingface", command="convert") == 0
    assert "note: folder has the GPT alone; a head for classify" in capsys.readouterr().out
    assert here(desk, "run", "again.safetensors", command="convert") == 0
    assert files.load(desk / "again.safetensors").labels == tuple(sorted(LABELS))
    assert "note" not in capsys.readouterr().out


def test_the_stages_are_told_apart_by_name():
    with pytest.raises(ValueError, match="there is no stage 'clasify', but there is 'classify'"):
        prepare("clasify")
    assert {"classify", "pairs", "similarity", "choice"} <= set(STAGES)


def test_a_classifier_of_a_program_is_trained_and_left_as_it_was(tmp_path, desk):
    model = classifier(n_ctx=20)
    before = model.values.copy()
    trainer = prepare("classify", model, [desk / "data.jsonl"], tokenizer=TOKENIZER, steps=2, batch=4)
    trainer.run()
    assert np.array_equal(model.values, before) and not np.array_equal(trainer.model.values, before)
    saved(tmp_path / "it", trainer.model)


def test_the_best_classifier_is_the_best_at_the_task_whatever_the_language_model_loses(desk):
    with prepare("classify", desk / "base", [desk / "data.jsonl"], held_out=0.4, batch=2, steps=1, lm_weight=3.0) as trainer:
        measured, model, rows = trainer.evaluate(), trainer.model, trainer.data.kept.at(range(6))
    scores = model.scores(rows.ids, rows.last).astype(float)
    loss = np.mean([np.log(np.exp(row).sum()) - row[right] for row, right in zip(scores, rows.classes)])
    total = model(rows.ids, rows.last, rows.classes, rows.targets)  # in one batch, whose tokens all count alike
    assert measured["val_loss"] == pytest.approx(loss, rel=1e-5) and trainer.best == measured["val_loss"]  # float32
    assert loss + 3.0 * measured["lm_loss"] == pytest.approx(total, rel=1e-5)
    with prepare("classify", desk / "base", [desk / "data.jsonl"], steps=1, lm_weight=0.0) as trainer:
        assert "lm_loss" not in trainer.evaluate()


def test_what_is_held_out_and_trained_on_too_is_counted_and_a_label_that_nothing_measures_is_named(desk, capsys):
    name = wrote(desk, "some.jsonl", [*LINES[:2], {"text": "a bee", "label": "good"}])
    assert here(desk, "base", "data.jsonl", *FAST, "--validation", name, "--out", "some") == 0
    out = capsys.readouterr().out
    assert "note: 2 of 3 held-out examples are also trained on" in out
    assert 'note: nothing measures the label "so so": none of its examples (4 to train on) is held out' in out
    assert here(desk, "base", "data.jsonl", *FAST, "--out", "none") == 0
    assert "also trained on" not in capsys.readouterr().out


def test_labels_said_as_texts_are_texts_and_a_folder_that_may_not_be_written_to_is_named(desk, capsys, monkeypatch):
    assert _labels('"0","1"') == ["0", "1"] and _labels("0,1") == [0, 1] and _labels("true,false") == [True, False]
    real = os.mkdir

    def mkdir(path, *rest, **more):
        if str(path).endswith(".tmp"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        real(path, *rest, **more)
    monkeypatch.setattr(os, "mkdir", mkdir)
    assert refused(desk, capsys, "base", "data.jsonl", *FAST, "--out", "locked").endswith("numgpt: locked: Permission denied\n")


def test_a_fresh_model_s_characters_are_none_of_a_file_s_name(desk, monkeypatch):
    monkeypatch.chdir(desk)
    (desk / "ab").write_text("a file whose name is what the examples are written in")
    wrote(desk, "two.jsonl", [{"text": "ab", "label": "x"}, {"text": "ba", "label": "y"}] * 10)
    assert prepare("classify", None, ["two.jsonl"], steps=1).data.tokenizer.characters == ["a", "b"]


def test_the_help_has_the_defaults_that_a_run_takes(desk, capsys):
    with pytest.raises(SystemExit):
        main(["finetune", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    for base in ("base", None):
        settings = prepare("classify", base and desk / base, [desk / "data.jsonl"]).settings
        for name in ("epochs", "batch", "lr", "min_lr"):
            assert re.search(f"{getattr(settings, name):g} {'with a MODEL' if base else 'from nothing'}", words)
