"""The trainer: what it measures is what is there, and a run that goes on is the run that never stopped."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from numgpt import GPT, GPTConfig, huggingface, safetensors
from numgpt.files import FormatError
from numgpt.sample import generate
from numgpt.text import BPETokenizer, corpus
from numgpt.training import NotFinite, Settings, TextData, Trainer, prepare, train
from numgpt.training.folder import checkpoints, read_metrics
from runs import CLOCK, PROSE, differing
from stages import later

SHORT = dict(preset="nano", batch=4, steps=12, eval_every=4, save_every=5)


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text").write_text(PROSE * 8)
    return tmp_path / "text"


def copies(folder):
    """A report that copies the run as each of its checkpoints left it; where to find the copies."""
    def report(event, trainer, metrics):
        if event == "saved":
            shutil.copytree(trainer.folder.path, folder / f"at {trainer.n_done}")
    return report


# -- going on


def inputs(kind, tmp_path):
    """Files and options for prepare."""
    text = tmp_path / "text"
    text.write_text(PROSE * 8)
    if kind == "token files":
        corpus.write_tokens(tmp_path / "a.bin", np.random.default_rng(0).integers(0, 29, 700))
        corpus.write_tokens(tmp_path / "b.bin", np.random.default_rng(1).integers(0, 29, 300))
        return [tmp_path / "a.bin"], dict(validation=tmp_path / "b.bin")
    if kind == "two texts":
        (tmp_path / "more").write_text(PROSE * 2)
        return [text, tmp_path / "more"], dict(tokenizer="bpe", n_merged=262, validation=text)
    if kind == "numgpt's weights":
        GPT(GPTConfig.preset("nano"), seed=5).save(tmp_path / "m.safetensors")
        return [text], dict(init=tmp_path / "m.safetensors", tokenizer="char")
    if kind == "Hugging Face's weights":
        huggingface.save(GPT(GPTConfig.preset("nano"), seed=5), tmp_path / "m")
        return [text], dict(init=tmp_path / "m", tokenizer="char", recompute=True)
    return {
        "characters": ([text], {}), "byte pairs": ([text], dict(tokenizer="bpe", n_merged=270)),
        "sort": ([], dict(task="sort", preset=None, changes=dict(n_layer=1, n_embd=16, n_head=2))),
        "add": ([], dict(task="add", changes=dict(dropout_attn=0.2))), "epochs": ([text], dict(epochs=0.6, steps=None)),
        "dropout": ([text], dict(changes=dict(dropout_resid=0.1, dropout_attn=0.1, dropout_embd=0.1), pieces=2)),
        "pieces": ([text], dict(pieces=3, batch=7, shards=2)), "three shards": ([text], dict(shards=3)),
        "momentum": ([text], dict(optimizer="sgd", lr=0.1, min_lr=0.0, schedule="linear")),
        "plain descent": ([text], dict(optimizer="sgd", momentum=0.0, lr=0.1)),
        "float64": ([text], dict(dtype="float64", clip=0.5, tokens=5)),
    }[kind]


KINDS = ("characters", "byte pairs", "two texts", "token files", "sort", "add", "epochs", "dropout", "pieces", "three shards",
         "momentum", "plain descent", "float64", "numgpt's weights", "Hugging Face's weights")


SISTERS = {"characters", "add", "byte pairs", "three shards", "plain descent", "numgpt's weights"}  # others have what they have


@pytest.mark.parametrize("kind", [later(kind) if kind in SISTERS else kind for kind in KINDS])
def test_a_run_goes_on_from_each_checkpoint_to_the_same_bits(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("numgpt.training.data.EVALUATED", 50)
    files, options = inputs(kind, tmp_path)
    run = tmp_path / "run"
    whole = train(*files, folder=run, report=copies(tmp_path), **{**SHORT, **options})
    assert whole.n_done > 10
    for step in (5, 10):
        part = tmp_path / f"at {step}"
        with Trainer.resume(part) as trainer:
            assert trainer.n_done == step
            trainer.run()
        assert not differing(part, run)


def test_a_run_goes_on_from_before_its_first_step(text, tmp_path):
    train(text, folder=tmp_path / "run", **SHORT)
    prepare(text, folder=tmp_path / "begun", **SHORT).close()
    with Trainer.resume(tmp_path / "begun") as trainer:
        trainer.run()
    assert not differing(tmp_path / "begun", tmp_path / "run")


def test_recompute_may_come_and_go_between_the_parts_of_a_run(text, tmp_path):
    options = dict(SHORT, changes=dict(dropout_resid=0.1, dropout_attn=0.1))
    train(text, folder=tmp_path / "run", report=copies(tmp_path), **options)
    with Trainer.resume(tmp_path / "at 5", recompute=True) as trainer:
        trainer.run()
    assert not differing(tmp_path / "at 5", tmp_path / "run")


def test_metrics_after_the_checkpoint_are_cut_off_half_a_line_included(text, tmp_path):
    train(text, folder=tmp_path / "run", report=copies(tmp_path), **SHORT)
    for after in ('{"step": 6, "loss": 1.0}\n{"step": 7, "lo', '{"step": 6', "\0\0\0\0", '{"step": 6}\n{"step": 7}\n'):
        part = tmp_path / "part"
        shutil.copytree(tmp_path / "at 5", part)
        with open(part / "metrics.jsonl", "a") as file:
            file.write(after)
        with Trainer.resume(part) as trainer:
            assert [line["step"] for line in read_metrics(part)] == [0, 1, 2, 3, 4, 5]
            trainer.run()
        assert not differing(part, tmp_path / "run")
        shutil.rmtree(part)


def test_a_run_may_be_made_longer_and_nothing_else(text, tmp_path):
    run = tmp_path / "run"
    train(text, folder=run, **SHORT)
    with Trainer.resume(run, steps=20, eval_every=10) as trainer:
        trainer.run()
    steps = [line["step"] for line in read_metrics(run)]
    assert steps == list(range(21)) and "val_loss" in read_metrics(run)[20]
    for changes in (dict(lr=0.1), dict(batch=3), dict(seed=1)):
        with pytest.raises(ValueError, match=f"{min(changes)} cannot change on the way"):
            Trainer.resume(run, **changes)
    with pytest.raises(ValueError, match="say one of the three"):
        Trainer.resume(run, steps=30, minutes=1)
    Trainer.resume(run).close()  # what was refused let go of the lock


def test_a_text_that_has_changed_is_refused(text, tmp_path):
    run = tmp_path / "run"
    train(text, folder=run, **SHORT)
    for changed in (PROSE * 9, PROSE * 7 + PROSE[::-1], PROSE.replace("cat", "tac") + PROSE * 7, PROSE * 7 + "Ω" * len(PROSE), "the"):
        text.write_text(changed)
        with pytest.raises(FormatError, match="no longer that on which .*run was trained"):
            Trainer.resume(run)
    text.unlink()
    with pytest.raises(FileNotFoundError):
        Trainer.resume(run)
    text.write_text(PROSE * 8)
    Trainer.resume(run).close()


def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_named(text, tmp_path):
    run = tmp_path / "run"
    train(text, folder=run, report=copies(tmp_path), **SHORT)
    older, newest = checkpoints(run)
    whole = newest.read_bytes()
    for damaged in (whole[:-7], whole[:100], b"", whole + b"x", b"\xff" * len(whole)):
        newest.write_bytes(damaged)
        with pytest.raises(FormatError, match=f"{newest.name} .*{older.name} is the one before it: remove {newest.name}"):
            Trainer.resume(run)
    newest.unlink()
    with Trainer.resume(run) as trainer:  # as the sentence says
        assert trainer.n_done == 10
        trainer.run()
    assert newest.read_bytes()[-1000:] == whole[-1000:]
    older.unlink()
    newest.write_bytes(whole[:-7])
    with pytest.raises(FormatError, match="is not a safetensors file: (?!.*before it)"):
        Trainer.resume(run)


def test_a_checkpoint_without_moments_or_state_is_refused(text, tmp_path):
    run = tmp_path / "run"
    train(text, folder=run, **SHORT)
    path = checkpoints(run)[-1]
    with safetensors.File(path) as file:
        tensors, metadata = {name: np.array(file[name]) for name in file}, file.metadata
    state = json.loads(metadata["training"])
    for lost, kept, said in (("optimizer.m", state, "'m'"), ("", {"step": 1}, "'settings'")):
        safetensors.write(path, {name: tensor for name, tensor in tensors.items() if name != lost},
                          {**metadata, "training": json.dumps(kept)})
        with pytest.raises(FormatError, match=f"lacks {said}"):
            Trainer.resume(run)
    GPT.load(path).save(path)
    with pytest.raises(FormatError, match="is no checkpoint of a run"):
        Trainer.resume(run)


def test_data_that_a_program_gave_have_to_be_given_again(tmp_path):
    tokens = np.random.default_rng(0).integers(0, 29, 500)
    model = lambda: GPT(GPTConfig.preset("nano"))  # noqa: E731
    data = lambda: TextData(tokens[:400], tokens[400:])  # noqa: E731
    settings = Settings.of("nano", batch=4, steps=6, eval_every=3)
    with Trainer(model(), data(), settings, folder=tmp_path / "run", report=copies(tmp_path)) as trainer:
        trainer.run()
    with pytest.raises(FormatError, match="give them to Trainer.resume"):
        Trainer.resume(tmp_path / "at 3")
    with Trainer.resume(tmp_path / "at 3", data()) as trainer:
        trainer.run()
    assert not differing(tmp_path / "at 3", tmp_path / "run")


def test_weights_bring_their_tokenizer_and_without_one_a_text_is_refused(text, tmp_path):
    first = train(text, tokenizer="bpe", n_merged=262, folder=tmp_path / "first", **SHORT)
    text.write_text("another text, and a longer one than it was. " * 30)
    best, last = tmp_path / "first" / "best.safetensors", checkpoints(tmp_path / "first")[-1]
    for init, weights in ((best, best), (last, last), (tmp_path / "first", best)):
        with prepare(text, init=init, **SHORT) as trainer:
            assert trainer.data.tokenizer.tokens == first.data.tokenizer.tokens
            np.testing.assert_array_equal(trainer.model.values, GPT.load(weights).values)
    huggingface.save(first.model, tmp_path / "theirs")
    with pytest.raises(ValueError, match="say which one their ids are of"):
        prepare(text, init=tmp_path / "theirs", **SHORT)
    first.data.tokenizer.save(tmp_path / "theirs")
    with prepare(text, init=tmp_path / "theirs", **SHORT) as trainer:
        assert trainer.data.tokenizer.tokens == first.data.tokenizer.tokens
    with prepare(text, init=tmp_path / "theirs", tokenizer="char", **SHORT) as trainer:  # who says so shall have it
        assert trainer.data.tokenizer.n_vocab < 30


# -- what is measured


@pytest.mark.parametrize("kind", ["characters", later("byte pairs"), "two texts", "token files"])
def test_val_loss_is_the_mean_over_all_of_the_held_out_text(kind, tmp_path):
    files, options = inputs(kind, tmp_path)
    trainer = train(*files, folder=tmp_path / "run", **{**SHORT, **options})
    model, kept = GPT.load(checkpoints(tmp_path / "run")[-1], dtype="float64"), np.array(trainer.data.kept, np.int64)
    T, total = model.config.n_ctx, 0.0
    assert (len(kept) - 1) % T or kind != "characters"  # some of it is shorter than a window, and counts too
    for i in range(0, len(kept) - 1, T):  # one window at a time, by the definition
        logits = model.logits(kept[i:i + T][:len(kept) - 1 - i][None])[0]
        targets = kept[i + 1:i + T + 1]
        total -= sum(math.log(math.exp(row[t]) / np.exp(row).sum()) for row, t in zip(logits, targets))
    last = read_metrics(tmp_path / "run")[-1]
    loss = total / (len(kept) - 1)
    assert math.isclose(last["val_loss"], loss, rel_tol=1e-5)  # float32 beside float64
    assert math.isclose(last["perplexity"], math.exp(loss), rel_tol=1e-4)
    if kind == "token files":
        assert "bits_per_character" not in last  # nobody knows what the tokens stand for
        return
    content = trainer.data.tokenizer.decode(kept[1:].tolist()).replace("<|endoftext|>", "")
    assert math.isclose(last["bits_per_character"], total / math.log(2) / len(content), rel_tol=1e-5)


def test_characters_of_many_bytes_and_ends_of_texts_are_counted_as_one_and_none(tmp_path):
    tokenizer = BPETokenizer.train("none of these", 257)  # bytes alone: windows end within characters
    ids = [*tokenizer.encode("é北京😀" * 9), tokenizer.special["<|endoftext|>"], *tokenizer.encode("北" * 9)]
    data = TextData(np.array(tokenizer.encode("x" * 99)), np.array([0, *ids]), tokenizer)
    data.prepare(Settings.of("nano", batch=3), 8)
    assert data.n_characters == 4 * 9 + 9


def test_of_a_long_held_out_text_windows_are_evaluated_that_are_spread_over_it(text):
    with prepare(text, **SHORT, eval_tokens=24) as trainer:
        assert [len(ids) for ids, _ in trainer.data.held_out()] == [3]
        assert trainer.data.n_characters == 24
        starts = trainer.data.starts
        assert starts[0] == 0 and np.ptp(np.diff(starts)) <= 8 and starts[-1] > len(trainer.data.kept) / 2


@pytest.mark.parametrize("task", ["sort", later("add")])
def test_the_exact_score_is_what_greedy_decoding_would_get(task, monkeypatch):
    monkeypatch.setattr("numgpt.training.data.EVALUATED", 60)
    trainer = prepare(task=task, preset="nano", steps=120, lr=2e-2, eval_every=1000, changes=dict(n_embd=32, n_head=4), batch=30)
    with trainer:
        data, encode = trainer.data, trainer.data.tokenizer.encode
        data.batch = lambda step: data.task.rows(data.questions[:30])  # these it learns by heart
        trainer.run()
        right = 0
        for question in data.questions:
            answer = data.task.answer(question)
            right += generate(trainer.model, [encode(question)], len(answer), temperature=0)[0].tolist() == encode(answer)
        metrics = trainer.evaluate()
    assert metrics["exact"] == right / 60
    assert 0 < right < 60  # else this would prove little


def test_the_best_model_is_that_of_the_lowest_loss_on_what_is_held_out(text, tmp_path):
    values = {}

    def report(event, trainer, metrics):
        if "val_loss" in metrics:
            values[metrics["val_loss"]] = trainer.model.values.copy()

    for lr in (3e-2, 0.3, 3.0):  # the last two make it worse
        run = tmp_path / str(lr)
        values.clear()
        train(text, folder=run, **{**SHORT, "eval_every": 2}, lr=lr, warmup=3, report=report)
        losses = [line["val_loss"] for line in read_metrics(run) if "val_loss" in line]
        assert losses == list(values) and len(losses) == 7
        np.testing.assert_array_equal(GPT.load(run / "best.safetensors").values, values[min(losses)])
    assert min(losses) != losses[-1]  # the best of the last is not its end


def test_a_checkpoint_is_a_model_too(text, tmp_path):
    trainer = train(text, folder=tmp_path / "run", **SHORT)
    for path in checkpoints(tmp_path / "run"):
        assert GPT.load(path).config == trainer.model.config
    np.testing.assert_array_equal(GPT.load(path).values, trainer.model.values)


def test_each_step_is_a_line_of_metrics_with_what_an_independent_step_measures(text, tmp_path):
    run, rates = tmp_path / "run", Settings.of("nano", steps=12, batch=4).rate()
    train(text, folder=run, **SHORT)
    lines = read_metrics(run)
    assert [line["step"] for line in lines] == list(range(13))
    assert [line["step"] for line in lines if "val_loss" in line] == [0, 4, 8, 12]
    assert all({"loss", "lr", "grad_norm", *CLOCK} <= set(line) for line in lines[1:])
    assert [line["lr"] for line in lines[1:]] == [rates(step, 12) for step in range(12)]
    with prepare(text, **SHORT) as trainer:
        loss, saved = trainer.model.forward(*trainer.data.batch(0))
        trainer.model.zero_grad()
        trainer.model.backward(saved)
        assert math.isclose(lines[1]["loss"], loss, rel_tol=1e-5)
        assert math.isclose(lines[1]["grad_norm"], np.linalg.norm(trainer.model.grads), rel_tol=1e-5)


def test_without_a_folder_nothing_is_written(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = train(text, **SHORT)
    assert trainer.n_done == 12 and trainer.save() is None
    assert [path.name for path in Path(tmp_path).iterdir()] == ["text"]


def test_a_closed_trainer_still_steps_and_evaluates_to_the_same_bits_and_writes_nothing(text, tmp_path):
    options = dict(SHORT, folder=tmp_path / "run")
    closed = train(text, **options)
    assert closed.evaluate()["val_loss"] == read_metrics(tmp_path / "run")[-1]["val_loss"]
    held = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    with prepare(text, **SHORT) as other:
        other.run()
        steps = [other.step() | other.evaluate() for _ in range(2)]
    closed.best = 1e9  # so that it would be kept as the best
    again = [closed.step() | closed.evaluate() for _ in range(2)]
    assert [(line["loss"], line["val_loss"]) for line in again] == [(line["loss"], line["val_loss"]) for line in steps]
    with pytest.raises(ValueError, match="run is closed, .*: Trainer.resume\\('.*run'\\) opens it again"):
        closed.save()
    with pytest.raises(ValueError, match="run is closed"):
        closed._log({"step": 1})
    assert held == {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}


def test_a_run_by_epochs_or_minutes_warms_up_for_a_tenth_of_it_and_reaches_its_rate(text, tmp_path):
    options = {**SHORT, "preset": "classic", "steps": None, "changes": dict(n_layer=1, n_head=1, n_embd=8, n_ctx=8)}  # warm-up: 1000
    epochs = train(text, folder=tmp_path / "run", report=copies(tmp_path), epochs=1.3, **options)
    rates = [line["lr"] for line in read_metrics(tmp_path / "run")[1:]]
    assert len(rates) == epochs.n_steps > 20
    assert rates.index(max(rates)) == epochs.n_steps // 10 - 1 and max(rates) == epochs.settings.lr
    with Trainer.resume(tmp_path / "at 5") as again:
        again.run()
    assert [line["lr"] for line in read_metrics(tmp_path / "at 5")[1:]] == rates
    train(text, folder=tmp_path / "minutes", minutes=0.005, **{**options, "eval_every": 1000, "save_every": 1000})
    rates = [line["lr"] for line in read_metrics(tmp_path / "minutes")[1:]]
    assert 0.8 < max(rates) / epochs.settings.lr < 1.01 and rates.index(max(rates)) < len(rates) / 2


def test_minutes_end_a_run_and_lower_its_rate(text, tmp_path):
    trainer = train(text, folder=tmp_path / "run", preset="nano", minutes=0.005, batch=4, eval_every=1000, warmup=0)
    lines = read_metrics(tmp_path / "run")
    assert trainer.seconds >= 0.3 and "val_loss" in lines[-1] and lines[-1]["lr"] < lines[2]["lr"]
    assert lines[-2]["seconds"] <= 0.3  # which is rounded


def test_an_optimizer_that_overflows_stops_the_run(tmp_path):
    """Its squares would be inf for ever, and the steps of these parameters 0."""
    text = tmp_path / "text"
    text.write_text("the cat sat on the mat; the rat ate the oats. " * 40)
    with prepare(text, folder=tmp_path / "run", clip=np.inf, **SHORT) as trainer:
        trainer.optimizer.v[7] = np.inf
        with pytest.raises(NotFinite, match=r"after step 0 the optimizer's v is not finite.*checkpoint-00000000\.safetensors is from before it"):
            trainer.save()


def test_special_tokens_in_a_text_are_an_error_or_allowed(tmp_path):
    text = tmp_path / "text"
    text.write_text("the cat sat on the mat.<|endoftext|>the rat ate the oats. " * 40)
    BPETokenizer.train("the cat sat on the mat; the rat ate the oats. " * 40, 262).save(tmp_path / "bpe")
    with pytest.raises(ValueError, match="has the special token"):
        prepare(text, tokenizer=tmp_path / "bpe", **SHORT)
    trainer = train(text, tokenizer=tmp_path / "bpe", allow_special=True, folder=tmp_path / "run", **SHORT)
    assert (np.concatenate([trainer.data.train, trainer.data.kept]) == trainer.data.tokenizer.end).sum() == 40
    Trainer.resume(tmp_path / "run").close()  # which reads the text in the same way
    learned = train(text, tokenizer="bpe", n_merged=262, allow_special=True, **SHORT).data.tokenizer
    assert not any(b"<|" in token for token in learned.ids)


def test_parameters_are_of_one_of_two_types(text):
    for dtype in ("float16", np.complex64, complex):
        with pytest.raises(ValueError, match="training computes in float32 or float64; got "):
            prepare(text, dtype=dtype, **SHORT)
    for dtype in ("float32", np.float64, np.dtype("float32")):
        with prepare(text, dtype=dtype, **SHORT) as trainer:
            assert trainer.model.values.dtype == dtype


def test_a_task_that_shall_go_on_by_epochs_is_told_that_it_has_none_and_not_that_its_text_has_changed(tmp_path, monkeypatch):
    monkeypatch.setattr("numgpt.training.data.EVALUATED", 20)
    prepare(task="sort", steps=4, batch=4, folder=tmp_path / "run").close()
    with pytest.raises(ValueError, match="a task's questions are drawn, and have no epochs") as caught:
        Trainer.resume(tmp_path / "run", epochs=2)
    assert "no longer" not in str(caught.value)
