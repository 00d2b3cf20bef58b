"""Instruction tuning: what is a lesson in a packed row and what is not, and runs from prompts to answers."""

import json
import math
import signal
from dataclasses import replace

import numpy as np
import pytest

from numgpt import GPT, GPTConfig
from numgpt.cli import main
from numgpt.gradcheck import check
from numgpt.layers.inputs import IGNORE
from numgpt.layers.ops import log_softmax
from numgpt.text import CharTokenizer
from numgpt.training.settings import Settings
from numgpt.training.shards import Shards
from numgpt.tuning import files, stages, synthetic
from numgpt.tuning.classifier import Classifier
from numgpt.tuning.encoding import encode
from numgpt.tuning.examples import Examples, Origin, write
from numgpt.tuning.growth import grown
from numgpt.tuning.instruct import Instructed, InstructData
from numgpt.tuning.lines import Instruction
from numgpt.tuning.start import Tuner, prepare
from numgpt.tuning.talk import answer
from numgpt.tuning.template import Template
from numgpt.verify import cases, mutants
from runs import differing
from stages import later

TOKENIZER = CharTokenizer("abcdefgh")
USER, ASSISTANT, END, N_VOCAB = 8, 9, 10, 11
ITEMS = [Instruction("ab", "cd"), Instruction("e", "f"), Instruction("gha", "b"), Instruction("c", "dee"), Instruction("ff", "gh")]
N_CTX = 19
OTHER = dict(norm="post", positions="sinusoidal", tied=False, window=3)
# Products of a packed row are summed in another order, with zeros in between: some ten roundings of 1e-16 of the largest
# number each, and in two layers not a hundred. What is wrong is wrong by 1e-3 or more.
BOUND = 1e-13


def rows_of(items):
    return encode(Examples("instruct", items, [Origin("data", i) for i in range(len(items))]), Template("instruct", 8), TOKENIZER, 300)


def data_of(items=ITEMS, kept=ITEMS[:3], *, batch=4, n_ctx=N_CTX, tokens=None, seed=0, **options):
    data = InstructData(rows_of(items), rows_of(kept), Template("instruct", 8), TOKENIZER, **options)
    data.prepare(Settings(steps=3, batch=batch, tokens=tokens, seed=seed), n_ctx)
    return data


def model_of(dtype=np.float64, **changes):
    sizes = dict(n_layer=2, n_head=3, n_embd=15, n_hidden=17, head_size=7)
    config = GPTConfig(n_vocab=N_VOCAB, n_ctx=N_CTX, **{**sizes, **changes})
    return Instructed(cases.order_one(GPT(config, dtype=dtype), np.random.default_rng(1)), Template("instruct", 8))


def whole(data):
    """All rows of the examples as one batch."""
    return data.taken(data.rows, np.arange(len(data.rows)))


def learned(model, *batch, count=None):
    model.zero_grad()
    loss, saved = model.forward(*batch, count=count)
    model.backward(saved)
    return float(loss), model.grads.copy()


def near(a, b):
    return np.abs(np.subtract(a, b)).max() <= BOUND * np.abs(b).max()


def far(a, b):
    return np.abs(np.subtract(a, b)).max() > 1e-3 * np.abs(b).max()


def written_out(items=ITEMS):
    """Of each example its ids and targets alone, token by token."""
    for item in items:
        ids = [USER, *TOKENIZER.encode(item.prompt), ASSISTANT, *TOKENIZER.encode(item.response), END]
        answer_begins = ids.index(ASSISTANT) + 1
        targets = [ids[i + 1] if answer_begins <= i + 1 < len(ids) else IGNORE for i in range(len(ids))]
        yield np.array([ids]), np.array([targets])


def one_by_one(model, items=ITEMS):
    """The loss and the gradients of examples that are read each by itself, with a mean over the tokens of all responses."""
    model.zero_grad()
    count, total = sum(len(item.response) + 1 for item in items), 0.0
    for ids, targets in written_out(items):
        loss, saved = model.forward(ids, targets, count=count)
        model.backward(saved)
        total += loss
    return total, model.grads.copy()


# -- the loss


@pytest.mark.parametrize("changes", [{}, later(OTHER)])
def test_complex_step_agrees_within_1e_12_over_all_parameters_on_packed_rows(changes):
    ids, targets, segments = whole(data_of())
    assert segments.max() >= 2 and len(ids) < len(ITEMS)
    model = model_of(n_layer=1, n_head=2, n_embd=5, n_hidden=7, head_size=3, **changes)
    report = check(model, ids, targets, segments, method="complex", mode="every")
    assert report.ok, report
    assert all(f.checked == f.total and f.method == "complex" for f in report.gradients)
    assert max(f.error for f in report.gradients) <= 1e-12


@pytest.mark.parametrize("changes", [{}, OTHER])
def test_packed_rows_teach_what_their_examples_teach_one_by_one(changes):
    model = model_of(**changes)
    assert all(map(near, learned(model, *whole(data_of())), one_by_one(model)))


@pytest.mark.parametrize("form", [form for slug in mutants.names("tuning") if slug.startswith("instruct-")
                                  for form in mutants.forms(slug) if slug != "instruct-mean"], ids=lambda form: form.story.partition(":")[0])
def test_each_mistake_about_what_is_a_lesson_shows_beside_the_examples_written_out(form):
    model = model_of()
    with mutants.apply(form):
        found = learned(model, *whole(data_of()))
    assert all(map(far, found, one_by_one(model)))


def test_a_mean_over_responses_is_told_from_the_mean_over_their_tokens():
    model, batch = model_of(), whole(data_of())
    by_token = one_by_one(model)
    own = [float(model(ids, targets)) for ids, targets in written_out()]
    with mutants.apply("instruct-mean", variant=1):
        loss, grads = learned(model, *batch)
    assert far(loss, by_token[0]) and far(grads, by_token[1]) and near(loss, np.mean(own))


def test_nothing_of_a_prompt_has_a_direct_loss():
    model, (ids, targets, segments) = model_of(), whole(data_of())
    (loss, saved), lesson = model.forward(ids, targets, segments), targets != IGNORE
    dx = model.head.backward(1.0, saved[1])
    assert (dx[~lesson] == 0).all() and (dx[lesson] != 0).any(-1).all()
    assert lesson.sum() == sum(len(item.response) + 1 for item in ITEMS)
    # Whatever the targets of prompts would be, they are not there to be changed: a token of a prompt changes no target.
    others = whole(data_of([replace(item, prompt=item.prompt.translate(str.maketrans("abcdefgh", "hgfedcba"))) for item in ITEMS]))
    assert np.array_equal(others[1], targets) and not np.array_equal(others[0], ids)


def test_shards_and_pieces_add_up_to_the_whole():
    model, batch = model_of(), data_of(batch=7).batch(0)
    loss, grads = learned(model, *batch)
    with Shards(model, 3, pieces=2) as shards:
        assert near(shards.backward(*batch), loss) and near(model.grads, grads)
        assert near(shards.loss(*batch), loss)


# -- the data


def test_batches_depend_on_the_seed_and_the_step_alone_and_bring_each_row_once_an_epoch():
    data, again, other = data_of(batch=2), data_of(batch=2), data_of(batch=2, seed=1)
    assert data.steps_per_epoch == len(data.rows) / 2
    assert all(np.array_equal(a, b) for a, b in zip(data.batch(5), again.batch(5)))
    steps = [[each.batch(step)[0].tolist() for step in range(len(data.rows))] for each in (data, other)]
    assert steps[0] != steps[1]
    rows = [row for batch in steps[0] for row in batch]
    assert all(sorted(rows[i:i + len(data.rows)]) == sorted(data.rows.ids.tolist()) for i in (0, len(data.rows)))


def test_a_share_of_rows_are_examples_drawn_at_random_each_of_which_sees_what_was_before():
    plain, half = data_of(batch=100), data_of(batch=100, turns=0.5)
    (ids, targets, segments), (ids2, targets2, segments2) = plain.batch(3), half.batch(3)
    turns = (segments != segments2).any(-1)
    assert 30 < turns.sum() < 70  # of 100 with chances of a half
    assert all(np.array_equal(a[~turns], b[~turns]) for a, b in ((ids, ids2), (targets, targets2)))
    alone = {tuple(ids[0].tolist()): targets[0].tolist() for ids, targets in written_out()}
    orders = set()
    for ids, targets, segments in zip(ids2[turns], targets2[turns], segments2[turns]):
        n = int((segments == 0).sum())
        assert (np.sort(segments) == segments).all() and (targets[n:] == IGNORE).all()
        starts = [*np.flatnonzero(ids[:n] == USER).tolist(), n]
        sequences = [tuple(ids[a:b].tolist()) for a, b in zip(starts, starts[1:])]
        assert [target for sequence in sequences for target in alone[sequence]] == targets[:n].tolist()
        orders.add(tuple(sequences))
    assert len(orders) > 20 and half.batch(3)[0].tolist() == ids2.tolist() != half.batch(4)[0].tolist()
    assert all(np.array_equal(a, b) for a, b in zip(next(half.held_out()), next(plain.held_out())))


@pytest.mark.parametrize("options, sentence", [
    (dict(tokens=20), "rows of 20 tokens do not fit into the model's context of 19"),
    (dict(tokens=6), "rows of 6 tokens have no room for the longest example, which has 7: say --tokens 7 or more"),
    (dict(turns=1.5), "turns is a share of rows, from 0 to 1; got 1.5")])
def test_rows_that_cannot_be_are_refused(options, sentence):
    with pytest.raises(ValueError) as error:
        data_of(**options)
    assert str(error.value) == sentence


def test_rows_may_be_shorter_than_the_context():
    assert [data_of(n_ctx=n_ctx).T for n_ctx in (19, 300)] == [19, 256]
    assert data_of([Instruction("ab" * 140, "c")], n_ctx=300).T == 2 * 140 + 1 + 3
    data = data_of(tokens=7)
    assert data.batch(0)[0].shape == (4, 7)
    model = model_of()
    assert all(map(near, learned(model, *whole(data)), one_by_one(model)))


class Trained:
    """What measure and shown know of a trainer."""

    folder, n_done = None, 7

    def __init__(self, model):
        self.model = model

    def loss(self, *batch):
        return self.model(*batch)


def test_exact_is_the_share_of_prompts_that_greedy_decoding_answers_right_and_the_loss_that_of_a_response_s_token():
    model = model_of()
    items = []
    for prompt in ("a", "bc", "d", "ee", "fgh", "hh", "cab", "ga"):
        said = answer(model, model.template, TOKENIZER, [USER, *TOKENIZER.encode(prompt), ASSISTANT], 3)
        wrong = "".join("ab"[c == "a"] for c in said)  # in every token, and counted once all the same
        items.append(Instruction(prompt, (said if prompt in ("a", "d", "fgh", "hh") else wrong) or "a"))
    data = data_of(kept=items, batch=2, tokens=15)  # of rows with one example and with two
    right, logps = 0, []
    for (ids, targets), item in zip(written_out(items), items):
        begin = 2 + len(item.prompt)
        # As many tokens as the answer and one more, so that an answer that goes on is not taken for one that has ended.
        right += answer(model, model.template, TOKENIZER, ids[0, :begin].tolist(), len(item.response) + 1) == item.response
        logp = log_softmax(model.logits(ids)[0])
        logps += [logp[i, target] for i, target in enumerate(targets[0]) if target != IGNORE]
    found = data.measure(Trained(model))
    assert found["exact"] == right / 8
    assert abs(found["val_loss"] + np.mean(logps)) < 1e-12 and found["perplexity"] == math.exp(found["val_loss"])
    with mutants.apply("instruct-mean"):
        assert far(data.measure(Trained(model))["val_loss"], -np.mean(logps))
    whose, *lines = data.shown(Trained(model)).split("\n")
    assert whose == "the model of step 7, on prompts held out:" and len(lines) == 5
    assert all(line.startswith(f"{item.prompt} -> ") for line, item in zip(lines, items))


# -- models


def test_a_gpt_gets_three_tokens_and_one_that_has_them_keeps_them(tmp_path):
    gpt = GPT(GPTConfig(n_vocab=8, n_ctx=N_CTX, n_layer=1, n_head=2, n_embd=6), seed=3)
    path = tmp_path / "data.jsonl"
    write(path, ITEMS)
    options = dict(tokenizer=TOKENIZER, held_out=0.4, steps=1, batch=2, eval_every=1)
    with prepare("instruct", gpt, path, **options) as first:
        assert first.model.template == Template("instruct", 8) and first.model.config.n_vocab == 11
        assert np.array_equal(first.model.body.embedding.table.value[:8], gpt.body.embedding.table.value)
        with prepare("instruct", first.model, path, **options) as second:
            assert second.model.template == first.model.template and np.array_equal(second.model.values, first.model.values)
    judge = Classifier(grown(gpt, 10), Template("classify", 8), (0, 1), rng=np.random.default_rng(0))
    with prepare("instruct", judge, path, **options) as third:  # its tokens are others
        assert third.model.template == Template("instruct", 10) and third.model.config.n_vocab == 13


def test_a_file_gives_back_the_model_and_is_read_as_a_gpt_too(tmp_path):
    model, batch = model_of(np.float32), whole(data_of())
    model.save(tmp_path / "a.safetensors")
    loaded, gpt = files.load(tmp_path / "a.safetensors"), GPT.load(tmp_path / "a.safetensors")
    assert type(loaded) is Instructed and loaded.template == model.template == files.template_of(tmp_path / "a.safetensors")
    assert np.array_equal(loaded.values, model.values) and loaded(*batch) == model(*batch) == gpt(*batch)
    gpt.save(tmp_path / "b.safetensors")
    assert type(files.load(tmp_path / "b.safetensors")) is GPT and files.template_of(tmp_path / "b.safetensors") is None


# -- runs


@pytest.fixture
def drawn(monkeypatch):
    """The stage as it is, with few examples and a tiny model."""
    stage = stages.STAGES["instruct"]
    small = replace(stage.drawn, n=40, n_held_out=10, config=dict(n_layer=1, n_head=2, n_embd=8, dropout_resid=0.1))
    monkeypatch.setitem(stages.STAGES, "instruct", replace(stage, drawn=small))


@pytest.mark.parametrize("kind", ["instruct", "instruct-mixed"])
def test_an_interrupted_run_arrives_at_the_same_bits(tmp_path, monkeypatch, drawn, kind):
    options = dict(steps=4, batch=3, eval_every=2, save_every=1, drawn=kind)

    def stopping(event, trainer, metrics):
        if event == "step" and metrics["step"] == 3 and trainer.folder.path.name == "b":
            signal.raise_signal(signal.SIGTERM)

    for name in "ab":
        with prepare("instruct", folder=tmp_path / name, report=stopping, **options) as trainer:
            trainer.run()
    assert trainer.n_done == 3 and trainer.stopped_by == signal.SIGTERM
    with Tuner.resume(tmp_path / "b") as trainer:
        sentences = [trainer.data.template.text(ids[0][begin[0]:], trainer.data.tokenizer) for ids, begin in
                     zip(trainer.data.train.ids, trainer.data.train.begins)]
        assert any(said.startswith(synthetic.LONG) for said in sentences) == (kind == "instruct-mixed") and trainer.data.turns == 0.5
        trainer.run()
    assert differing(tmp_path / "a", tmp_path / "b") == []


def test_the_command_reads_a_file_and_says_what_the_model_answers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("numgpt.training.progress.matmul_speed", lambda *_: 1e9)  # not measured, which takes its time
    write("data.jsonl", ITEMS * 3)
    with open("data.jsonl", "a") as file:
        file.write('{"prompt": "a"}\n')
    assert main(["finetune", "data.jsonl", "--task", "instruct", "--quiet"]) == 1
    assert 'data.jsonl, line 16: "response" is missing' in capsys.readouterr().err
    words = ["--task", "instruct", "--steps", "2", "--batch", "2", "--out", "run", "--turns", "0.5", "--tokens", "20", "--skip-bad"]
    assert main(["finetune", "data.jsonl", *words]) == 0
    out = capsys.readouterr().out
    assert "left out of the examples: a key missing (1)" in out and "% exact" in out and "perplexity" in out and " -> " in out
    lines = [json.loads(line) for line in open("run/metrics.jsonl")]
    assert [set(line) >= {"val_loss", "exact", "perplexity"} for line in lines] == [True, False, True]
    with Tuner.resume("run") as trainer:
        trainer.model.values[...] = 0  # what is shown is not the last model, but the one that the run leaves
        assert f"run/best.safetensors (step {trainer.best_at}), on prompts held out:\n" in out and trainer.data.shown(trainer) in out
        capsys.readouterr()
        assert main(["convert", "run", "other", "--to", "huggingface"]) == 0  # it has no head that could be lost
        assert "note: other has the GPT alone; that it was tuned to instruct and the tokens' names" in capsys.readouterr().out
        assert trainer.data.T == 20 and trainer.data.turns == 0.5 and trainer.model.config.n_ctx == 3 * 7


@pytest.mark.parametrize("words, sentence", [
    (["--labels", "a,b"], "--labels would do nothing here: --task instruct has responses"),
    (["--turns", "2"], "turns is a share of rows, from 0 to 1; got 2.0")])
def test_options_that_do_not_go_are_refused(drawn, tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["finetune", "--task", "instruct", *words])
    assert sentence in capsys.readouterr().err


def test_what_is_not_drawn_for_the_stage_is_said():
    with pytest.raises(ValueError, match="'shorter' is nothing that is drawn for instruct"):
        prepare("instruct", drawn="shorter")


# -- torch


@pytest.mark.verify
@pytest.mark.parametrize("tied", [True, False])
def test_loss_and_gradients_are_torchs_with_a_block_diagonal_mask(tied):
    import torch
    model, (ids, targets, segments) = model_of(tied=tied), whole(data_of())
    loss, _ = learned(model, ids, targets, segments)
    w = {name: torch.from_numpy(param.value.copy()).requires_grad_() for name, param in model.named_params()}
    B, T = ids.shape
    row, same = torch.arange(T), torch.from_numpy(segments[:, :, None] == segments[:, None])
    seen = (same & (row[:, None] >= row))[:, None]
    place = torch.from_numpy(np.array([[sum(segments[b, :t] == segments[b, t]) for t in range(T)] for b in range(B)]))

    def linear(name, x):
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    def norm(name, x):
        return torch.nn.functional.layer_norm(x, x.shape[-1:], w[f"{name}.gain"], w[f"{name}.bias"], model.config.norm_eps)

    x = w["embedding.table"][torch.from_numpy(ids)] + w["positions.table"][place]
    for block in ("blocks.0", "blocks.1"):
        q, k, v = linear(f"{block}.attention.qkv", norm(f"{block}.norm1", x)).reshape(B, T, 3, 3, 7).permute(2, 0, 3, 1, 4)
        z = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + linear(f"{block}.attention.out", z.transpose(1, 2).reshape(B, T, 21))
        h = torch.nn.functional.gelu(linear(f"{block}.ffn.up", norm(f"{block}.norm2", x)), approximate="tanh")
        x = x + linear(f"{block}.ffn.down", h)
    logits = norm("norm", x) @ (w["embedding.table"].T if tied else w["head.weight"])
    other = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).flatten(), ignore_index=IGNORE)
    other.backward()
    assert abs(loss - other.item()) <= 1e-11
    for name, param in model.named_params():
        assert np.abs(param.grad - w[name].grad.numpy()).max() <= 1e-11, name
