"""numgpt classify as it is called: lines in, labels out, and a sentence where there can be none."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from classifiers import LABELS, SIZES, TOKENIZER, classifier, saved

import numgpt
from numgpt import GPT, GPTConfig
from numgpt.cli import main

TEXTS = ("a bad cab", "hi", "jib", "a", "feed a cicada", "bead", "i aged")
PAIRS = [{"a": "hi", "b": "a jade"}, {"a": "bad", "b": "feed", "label": "good"}]
CHOICES = [{"context": "a", "choices": ["bad", "cab", "fig"]}, {"context": "hi", "choices": ["jib", "b"], "answer": 0}]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    made = {kind: classifier(kind, seed=1) for kind in ("classify", "pairs", "similarity", "choice")}
    made["numbers"] = classifier(labels=(3, 10), seed=2)
    for name, model in made.items():
        saved(folder / name, model)
    return folder, made


def said(capsys, *words, status=0):
    assert main(["classify", *map(str, words)]) == status
    return capsys.readouterr()


def alone(model, *sequences):
    """The probabilities of one example, from its ids by hand."""
    special, encoded = model.template.special, []
    for texts in sequences:
        ids = [special["start"]]
        for i, text in enumerate(texts):
            ids += ([special["delimiter"]] if i else []) + TOKENIZER.encode(text)
        encoded.append([*ids, special["extract"]])
    x = [model.body(np.array([ids]))[0, -1] for ids in encoded]  # each in a batch of its own, without padding
    head = model.task.linear
    if model.labels is None:
        scores = np.array([(row @ head.weight.value).item() for row in x])
    else:
        scores = sum(x) @ head.weight.value + head.bias.value
    e = np.exp(scores - scores.max())
    return e / e.sum()


def test_each_line_gets_the_label_and_the_probability_that_the_text_alone_has(models, tmp_path, capsys):
    folder, made = models
    (tmp_path / "texts").write_text("\n".join(TEXTS) + "\n")
    for batch in (1, 3, 32):  # with texts of other lengths beside it, or none
        lines = said(capsys, folder / "classify", tmp_path / "texts", "--batch", batch).out.splitlines()
        for text, line in zip(TEXTS, lines, strict=True):
            p = alone(made["classify"], [text])
            assert line == f"{LABELS[p.argmax()]}\t{p.max():.4f}"
    assert len({line.split("\t")[0] for line in lines}) > 1  # it tells them apart


def test_all_shows_every_label_the_highest_first(models, tmp_path, capsys):
    folder, made = models
    (tmp_path / "texts").write_text(TEXTS[0])  # without an end of line
    p = alone(made["classify"], [TEXTS[0]])
    order = np.argsort(-p)
    line = "\t".join(f"{LABELS[i]}\t{p[i]:.4f}" for i in order)
    assert said(capsys, folder / "classify", tmp_path / "texts", "--all").out == line + "\n"


def test_pairs_similarity_and_choices_are_read_from_json_lines(models, tmp_path, capsys):
    folder, made = models
    (tmp_path / "pairs").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    (tmp_path / "choices").write_text("".join(json.dumps(choice) + "\n" for choice in CHOICES))
    for kind in ("pairs", "similarity"):
        lines = said(capsys, folder / kind, tmp_path / "pairs", "--json").out.splitlines()
        for number, (pair, line) in enumerate(zip(PAIRS, lines, strict=True), 1):
            orders = [[pair["a"], pair["b"]], [pair["b"], pair["a"]]][:2 if kind == "similarity" else 1]
            p = alone(made[kind], *orders)
            found = json.loads(line)
            assert (found["line"], found["label"]) == (number, LABELS[p.argmax()])
            assert found["probability"] == pytest.approx(p.max(), rel=1e-12)
    lines = said(capsys, folder / "choice", tmp_path / "choices", "--json", "--all").out.splitlines()
    for choice, line in zip(CHOICES, lines, strict=True):
        p = alone(made["choice"], *([choice["context"], text] for text in choice["choices"]))
        found = json.loads(line)
        assert found["answer"] == p.argmax() and found["choice"] == choice["choices"][p.argmax()]
        assert [pair["answer"] for pair in found["probabilities"]][0] == found["answer"]
        assert len(found["probabilities"]) == len(choice["choices"])  # though the other line has more
        assert [pair["probability"] for pair in found["probabilities"]] == pytest.approx(sorted(p, reverse=True), rel=1e-12)


def test_the_table_is_of_the_labels_that_the_lines_carry(models, tmp_path, capsys):
    folder, made = models
    lines = [{"text": text, "label": LABELS[i % 3]} for i, text in enumerate(TEXTS)]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, lines)))
    predicted = [int(alone(made["classify"], [text]).argmax()) for text in TEXTS]
    content = json.loads(said(capsys, folder / "classify", tmp_path / "test.jsonl", "--table", "--json").out)
    assert content["labels"] == list(LABELS) and content["n"] == len(TEXTS)
    assert content["accuracy"] == sum(p == i % 3 for i, p in enumerate(predicted)) / len(TEXTS)
    for i, p in enumerate(predicted):
        assert content["counts"][i % 3][p] >= 1
    shown = said(capsys, folder / "classify", tmp_path / "test.jsonl", "--table").out
    assert "is \\ taken for" in shown and f"accuracy {content['accuracy']:.1%}" in shown
    (tmp_path / "answered.jsonl").write_text(json.dumps(CHOICES[1]) + "\n" + json.dumps({**CHOICES[0], "answer": "cab"}))
    content = json.loads(said(capsys, folder / "choice", tmp_path / "answered.jsonl", "--table", "--json").out)
    assert content["n"] == 2 and content["labels"] == [0, 1, 2]  # as many as the longest line has choices
    assert [sum(row) for row in content["counts"]] == [1, 1, 0]


@pytest.mark.parametrize("name", ["-", "texts", "texts.txt", "texts.ndjson"])
def test_an_object_that_has_a_text_is_read_as_json_wherever_it_comes_from(models, tmp_path, capsys, monkeypatch, name):
    folder, made = models
    path = tmp_path / "texts.txt" if name == "-" else tmp_path / name
    path.write_text("".join(json.dumps({"id": 7, "text": text, "label": "bad"}) + "\n" for text in TEXTS))
    with open(path, "rb") as lines:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=lines, isatty=lambda: False, fileno=lines.fileno))
        found = said(capsys, folder / "classify", "-" if name == "-" else path).out.splitlines()
        lines.seek(0)
        table = json.loads(said(capsys, folder / "classify", "-" if name == "-" else path, "--table", "--json").out)
    best = [alone(made["classify"], [text]).argmax() for text in TEXTS]
    assert [line.split("\t")[0] for line in found] == [LABELS[i] for i in best]
    assert table["n"] == len(TEXTS) and table["counts"][0] == np.bincount(best, minlength=3).tolist()


def test_labels_that_are_numbers_are_printed_as_such(models, tmp_path, capsys):
    folder, _ = models
    (tmp_path / "texts").write_text("hi\n")
    assert said(capsys, folder / "numbers", tmp_path / "texts").out.split("\t")[0] in ("3", "10")


def test_a_line_is_answered_before_the_next_is_asked(models):
    folder, _ = models
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(os.path.dirname(numgpt.__file__)),
                                                               os.environ.get("PYTHONPATH", "")])}
    words = [sys.executable, "-m", "numgpt", "classify", str(folder / "classify")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        for text in TEXTS[:3]:
            process.stdin.write(text.encode() + b"\n")
            process.stdin.flush()
            label, probability = process.stdout.readline().decode().split("\t")
            assert label in LABELS and 1 / 3 < float(probability) <= 1
        process.stdin.close()
        assert process.stdout.read() == b"" and process.wait() == 0


# -- what cannot be classified


@pytest.mark.parametrize("line, sentence", [
    ("", "line 2: the line is empty: a text is wanted"),
    ("   ", "line 2: the line is empty but for white space"),
    ("Zebra", "line 2: 'Zebra': the vocabulary lacks 'Z' at 0, 'r' at 3"),
    ("abcdefghij abcdefghij", "line 2: 23 tokens (21, and 2 special ones), where 16 have room: shorten it, have it cut (--truncate)"),
    (b"\xff", "line 2: byte 1 of the line, 0xff, is not UTF-8")])
def test_a_line_that_cannot_be_used_is_named_or_counted(models, tmp_path, capsys, line, sentence):
    folder, _ = models
    line = line.encode() if isinstance(line, str) else line
    (tmp_path / "texts").write_bytes(b"hi\n" + line + b"\njib\n")
    found = said(capsys, folder / "classify", tmp_path / "texts", status=1).err
    assert sentence in found and found.endswith("(--skip-bad leaves such lines out)\n")
    found = said(capsys, folder / "classify", tmp_path / "texts", "--skip-bad", "--json")
    assert [json.loads(line)["line"] for line in found.out.splitlines()] == [1, 3]
    assert found.err.startswith("left out: ") and found.err.endswith("(1)\n")


def test_a_text_that_is_too_long_is_cut_where_that_is_asked_for(models, tmp_path, capsys):
    folder, made = models
    (tmp_path / "texts").write_text("abcdefghij abcdefghij\n")
    p = alone(made["classify"], ["abcdefghij abcdefghij"[:SIZES["n_ctx"] - 2]])
    assert said(capsys, folder / "classify", tmp_path / "texts", "--truncate").out == f"{LABELS[p.argmax()]}\t{p.max():.4f}\n"


@pytest.mark.parametrize("line, sentence", [
    ("{", "line 17: not JSON"),
    ('{"txet": "hi"}', 'line 17: "text" is missing (is "txet" meant?)'),
    ('["hi"]', "line 17: an object is wanted; got a list")])
def test_a_line_of_json_that_is_none_is_named(models, tmp_path, capsys, line, sentence):
    folder, _ = models
    (tmp_path / "texts.jsonl").write_text('{"text": "hi"}\n' * 14 + "\n\n" + line + "\n")
    assert sentence in said(capsys, folder / "classify", tmp_path / "texts.jsonl", status=1).err
    found = said(capsys, folder / "classify", tmp_path / "texts.jsonl", "--skip-bad")
    assert len(found.out.splitlines()) == 14


@pytest.mark.parametrize("line, sentence", [
    ({"text": "hi"}, '"label" is missing'),
    ({"text": "hi", "label": "god"}, 'there is no label "god": the labels are "bad", "good", "so so"; is "good" meant?')])
def test_the_table_wants_a_label_that_the_model_knows(models, tmp_path, capsys, line, sentence):
    folder, _ = models
    (tmp_path / "test.jsonl").write_text(json.dumps(line))
    assert sentence in said(capsys, folder / "classify", tmp_path / "test.jsonl", "--table", status=1).err
    found = said(capsys, folder / "classify", tmp_path / "test.jsonl", "--table", "--skip-bad", status=1).err
    assert "there is no line to judge" in found
    said(capsys, folder / "classify", tmp_path / "test.jsonl")  # without a table nobody asks
    (tmp_path / "texts").write_text("hi\n")
    assert "line 1: a plain line does not say what is right" in said(capsys, folder / "classify", tmp_path / "texts", "--table", status=1).err


def test_a_model_that_is_no_classifier_is_named_for_what_it_is(models, tmp_path, capsys):
    folder, _ = models
    GPT(GPTConfig(**SIZES, n_vocab=11)).save(tmp_path / "model.safetensors")
    found = said(capsys, tmp_path / "model.safetensors", "-", status=1).err
    assert ("tells which token comes next, and was not tuned to classify: numgpt finetune --task classify, pairs, similarity or choice "
            "makes a model that does") in found
    assert "there is no run" in said(capsys, tmp_path / "nowhere", status=1).err
    (tmp_path / "alone.safetensors").write_bytes((folder / "classify" / "best.safetensors").read_bytes())
    assert "no tokenizer lies with" in said(capsys, tmp_path / "alone.safetensors", "-", status=1).err


def test_standard_input_that_is_closed_is_said(models, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert "standard input is closed" in said(capsys, models[0] / "classify", status=1).err


def test_somebody_at_a_terminal_may_try_again_after_a_bad_line(models, capsys, monkeypatch, tmp_path):
    (tmp_path / "typed").write_text("Zebra\nhi\n")
    with open(tmp_path / "typed", "rb") as typed:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=typed, isatty=lambda: True, fileno=typed.fileno))
        found = said(capsys, models[0] / "classify")
    assert "line 1: 'Zebra': the vocabulary lacks 'Z'" in found.err and len(found.out.splitlines()) == 1
