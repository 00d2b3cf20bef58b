"""numgpt align as it is called: what it says, what it refuses, and that it goes on as it would have."""

import json
import signal
from dataclasses import replace

import numpy as np
import pytest

from numgpt import GPT
from numgpt.cli import main
from numgpt.cli.align import START_CTX
from numgpt.text import CharTokenizer
from numgpt.training.folder import checkpoints, read_metrics
from numgpt.tuning import files, synthetic
from numgpt.tuning.classifier import Classifier
from numgpt.tuning.dpo import DPOModel
from numgpt.tuning.reward import RewardModel
from numgpt.tuning.stages import STAGES
from numgpt.tuning.start import Tuner, prepare
from numgpt.tuning.template import Template
from tuned_models import tiny_start, write_pairs

SHORT = ("--steps", 4, "--batch", 4, "--eval-every", 2, "--lr", 1e-2)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with a run's model that has the tokens of turns, and a file of pairs."""
    folder = tmp_path_factory.mktemp("desk")
    model, tokenizer = tiny_start()
    (folder / "start" / "tokenizer").mkdir(parents=True)
    tokenizer.save(folder / "start" / "tokenizer" / "characters.json")
    model.save(folder / "start" / "best.safetensors")
    write_pairs(folder / "pairs.jsonl", 30)
    return folder


@pytest.fixture
def called(desk, monkeypatch, capsys):
    """The command in this process: its status and what it said."""
    monkeypatch.chdir(desk)
    monkeypatch.setattr("numgpt.training.progress.matmul_speed", lambda *_: 1e9)  # a quarter of a second, and not the matter

    def call(*words, name="align"):
        try:
            status = main([name, *map(str, words)])
        except SystemExit as error:
            status = error.code
        said = capsys.readouterr()
        return status, said.out, said.err
    return call


@pytest.mark.parametrize("way, kind", [("dpo", DPOModel), ("reward", RewardModel)])
def test_a_run_says_what_it_measures_and_goes_on_bit_for_bit(called, desk, way, kind):
    status, out, err = called("start", "pairs.jsonl", "--by", way, *SHORT, "--out", f"{way}-whole")
    assert (status, err) == (0, "")
    assert out.count("% in order") == 3 and out.count("margin") == 3  # at 0, 2 and 4
    assert out.count("nats an answer") == out.count("answers to prompts held out, before and after") * 3 == (3 if way == "dpo" else 0)
    assert ("rewards of answers held out, chosen and rejected:" in out) == (way == "reward")
    assert "not tuned to follow instructions" not in out
    assert isinstance(files.load(desk / f"{way}-whole" / "best.safetensors"), kind)
    called("start", "pairs.jsonl", "--by", way, *SHORT, "--steps", 2, "--schedule", "constant", "--quiet", "--out", f"{way}-parts")
    called("start", "pairs.jsonl", "--by", way, *SHORT, "--schedule", "constant", "--quiet", "--out", f"{way}-at-once")
    assert called("--resume", f"{way}-parts", "--steps", 4, "--quiet") == (0, "", "")
    ends = [files.load(checkpoints(desk / f"{way}-{name}")[-1]).values for name in ("parts", "at-once")]
    assert np.array_equal(*ends)


def test_a_run_that_kl_ended_says_so_and_does_not_go_on(called, desk):
    status, out, _ = called("start", "pairs.jsonl", "--by", "dpo", *SHORT, "--steps", 40, "--lr", 3e-2, "--max-kl", 0.5, "--out", "bound")
    assert status == 0 and "ended early: KL to the start is " in out and "above the 0.5 it was given" in out
    assert "KL 0.00 of 0.5 nats an answer" in out
    n_done = read_metrics(desk / "bound")[-1]["step"]
    assert n_done < 40
    status, out, _ = called("--resume", "bound", "--steps", 60)
    assert (status, out.split(":")[0]) == (0, f"bound is at its end, step {n_done}") and "above the 0.5" in out


def test_without_a_model_one_is_made_first_and_both_steps_are_said(called, desk, monkeypatch):
    monkeypatch.chdir(desk / "start")  # where no runs are yet
    small = dict(n=40, n_held_out=8, config=dict(n_layer=1, n_head=1, n_embd=4))
    for name, settings in (("instruct", {**SETTINGS, "turns": 0.25}), ("dpo", {**SETTINGS, "beta": 0.5})):
        monkeypatch.setitem(STAGES, name, replace(STAGES[name], drawn=replace(STAGES[name].drawn, **small, settings=settings)))
    status, out, err = called("--by", "dpo")
    assert (status, err) == (0, "")
    first, second = out.index("first, as no MODEL is named"), out.index("then --by dpo, as numgpt align runs/instruct-1 --by dpo does alone:")
    assert first < out.index("runs/instruct-1") and second < out.index("nats an answer") < out.index("runs/dpo-1")
    assert {"right", "short"} <= set(read_metrics("runs/dpo-1")[-1])
    assert files.load("runs/dpo-1/best.safetensors").dpo.beta == 0.5


SETTINGS = dict(steps=2, batch=4, lr=1e-3, min_lr=1e-3, warmup=0, eval_every=2)


def test_a_model_that_knows_no_turns_gets_their_tokens_and_a_word_of_warning(called, desk):
    model, tokenizer = tiny_start()
    GPT(model.config.change(n_vocab=tokenizer.n_vocab)).save(desk / "plain.safetensors")
    CharTokenizer(synthetic.ALPHABET).save(desk / "characters.json")
    status, out, _ = called("plain.safetensors", "pairs.jsonl", "--by", "reward", *SHORT, "--out", "plain")
    assert status == 0
    assert "plain.safetensors was not tuned to follow instructions, and has never seen where a prompt ends" in out
    assert files.load(desk / "plain" / "best.safetensors").config.n_vocab == tokenizer.n_vocab + 3


# -- what is refused


@pytest.mark.parametrize("words, sentence", [
    ((), "say how with --by: reward, dpo"),
    (("pairs.jsonl", "--by", "dpo"), "say which model is to learn from these preferences"),
    (("start", "--by", "reward", "--beta", 0.1), "--beta would do nothing here: it is not of --by reward"),
    (("start", "--by", "reward", "--max-kl", 3), "--max-kl would do nothing here: it is not of --by reward"),
    (("start", "--by", "dpo", "--skip-bad"), "--skip-bad would do nothing here: it is for files of examples, and none is named"),
    (("--by", "dpo", "--tokenizer", "start"), "--tokenizer would do nothing here"),
    (("start", "pairs.jsonl", "--by", "dpo", "--validation", "pairs.jsonl", "--held-out", 0.2), "--held-out would do nothing here"),
    (("start", "pairs.jsonl", "--by", "dpo", "--beta", 0), "beta, the price of a nat of KL to the reference, must be above 0"),
    (("--by", "dpo", "--max-kl", -1), "must be above 0 and finite; got -1"),  # before a model is made
    (("--by", "dpo", "--lr", -1), "got -1"),
    (("start", "other", "--by", "dpo"), "one begins with one model; got start, other"),
    (("start", "pairs.jsonl", "--by", "dpo", "--smoothing", 0.5), "at least 0 and below 0.5"),
])
def test_what_makes_no_sense_is_refused_before_anything_is_trained(called, desk, words, sentence, monkeypatch):
    monkeypatch.setitem(STAGES, "dpo", replace(STAGES["dpo"], drawn=replace(STAGES["dpo"].drawn, n=40, n_held_out=8)))
    before = sorted(desk.iterdir())
    status, out, err = called(*words)
    assert status == 2 and sentence in err and "Traceback" not in err
    assert sorted(desk.iterdir()) == before


def bad_file(desk):
    lines = (desk / "pairs.jsonl").read_text().splitlines()[:6]
    lines[1] = '{"prompt": "add 1 and 2", "chosen": "3"'
    lines[2] = json.dumps({"prompt": "add 1 and 2", "chosen": "3", "rejcted": "4"})
    lines[3] = json.dumps({"prompt": "add 1 and 2", "chosen": "3", "rejected": "3"})
    lines[4] = json.dumps({"prompt": "add 1 and 2", "chosen": "3", "rejected": "the answer is 3 " * 10})
    (desk / "bad.jsonl").write_text("\n".join(lines + (desk / "pairs.jsonl").read_text().splitlines()[6:]))
    return lines


def test_bad_lines_are_told_with_their_number_or_counted(called, desk):
    lines = bad_file(desk)
    for number, sentence in ((2, "not JSON"), (3, 'is "rejcted" meant?'), (4, '"chosen" and "rejected" are the same'), (5, "where 56 have room")):
        (desk / "one.jsonl").write_text("\n".join([lines[0]] * (number - 1) + [lines[number - 1]] + [lines[5]]))
        status, _, err = called("start", "one.jsonl", "--by", "dpo", *SHORT)
        assert status == 1 and f"one.jsonl, line {number}" in err and sentence in err
    status, out, _ = called("start", "bad.jsonl", "--by", "dpo", *SHORT, "--skip-bad", "--out", "skipped")
    assert status == 0
    assert all(reason in out for reason in ("left out of the examples:", "not JSON (1)", "a key missing (1)", "chosen as rejected (1)",
                                            "longer than the context (1)"))


def test_a_model_that_is_none_and_a_run_of_another_kind_are_told(called, desk):
    (desk / "empty").mkdir()
    assert called("nowhere", "pairs.jsonl", "--by", "dpo")[0] == 1
    status, _, err = called("empty", "pairs.jsonl", "--by", "dpo")
    assert status == 1 and "empty" in err
    called("start", "pairs.jsonl", "--by", "reward", *SHORT, "--quiet", "--out", "r")
    status, _, err = called("--resume", "r", name="finetune")
    assert status == 1 and "r is a run of reward: it goes on with numgpt align --resume" in err
    status, _, err = called("--resume", "r", name="train")
    assert status == 1 and "goes on with numgpt align --resume" in err
    status, _, err = called("--resume", "start")
    assert status == 1 and "has no checkpoint to go on from" in err
    status, _, err = called("--resume", "r", "--by", "reward")
    assert status == 2 and "a run that goes on has its own --by" in err


def test_ppo_makes_a_model_and_a_reward_model_first_and_all_three_are_said(called, desk, monkeypatch):
    (desk / "ppo").mkdir()
    monkeypatch.chdir(desk / "ppo")
    small = dict(n=40, n_held_out=8, config=dict(n_layer=1, n_head=1, n_embd=4))
    for name, more in (("instruct", {"turns": 0.25}), ("reward", {}), ("ppo", {"response": 6, "rollout": 6, "max_kl": 2.0})):
        monkeypatch.setitem(STAGES, name, replace(STAGES[name], drawn=replace(STAGES[name].drawn, **small, settings={**SETTINGS, **more})))
    status, out, err = called("--by", "ppo")
    assert (status, err) == (0, "")
    places = [out.index(words) for words in ("first, as no MODEL is named", "then --by ppo, as numgpt align runs/instruct-1 --by ppo does alone:",
                                             "as no --reward is named", "runs/instruct-1 --by ppo --reward runs/reward-1 does alone:",
                                             "nats an answer", "highest reward on what is held out, KL within 2, ")]
    assert places == sorted(places)
    assert {"reward", "kl", "right", "short"} <= set(read_metrics("runs/ppo-1")[-1])
    assert called("runs/instruct-1", "--by", "ppo", "--reward", "runs/reward-1", "--out", "alone", "--quiet")[0] == 0
    ends = [files.load(checkpoints(desk / "ppo" / run)[-1]).values for run in ("runs/ppo-1", "alone")]
    assert np.array_equal(*ends)


@pytest.mark.parametrize("words, sentence", [
    (("start", "pairs.jsonl", "--by", "ppo"), "say with --reward what scores the answers"),
    (("start", "--by", "ppo", "--clip-ratio", 1), "is between 0 and 1"),
    (("start", "--by", "ppo", "--max-kl", 0), "must be above 0 and finite; got 0"),
    (("start", "--by", "ppo", "--gamma", 7), "gamma must be"),
    (("start", "--by", "ppo", "--response", 40), "a prompt of 27 tokens and an answer of 40 do not fit into a context of 56: say --response 29 or less"),
    (("start", "--by", "ppo", "--rollout", 7, "--batch", 8), "say --batch 7 or less"),
    (("start", "pairs.jsonl", "--by", "dpo", "--lam", 0.5), "--lam would do nothing here: it is not of --by dpo")])
def test_what_ppo_cannot_be_asked_is_said_before_anything_is_made(called, desk, words, sentence, monkeypatch):
    monkeypatch.setitem(STAGES, "ppo", replace(STAGES["ppo"], drawn=replace(STAGES["ppo"].drawn, n=400, n_held_out=8)))
    before = sorted(desk.rglob("*"))
    status, _, err = called(*words)
    assert status == 2 and sentence in err and sorted(desk.rglob("*")) == before


@pytest.mark.verify
def test_the_context_of_the_model_that_is_made_first_is_known_before_it_is_made():
    with prepare("instruct", drawn="instruct-mixed", steps=1) as trainer:
        assert trainer.model.config.n_ctx == START_CTX


def test_a_reward_model_is_no_policy_and_a_classifier_gets_the_word_of_warning(called, desk):
    model, tokenizer = tiny_start()
    (desk / "judge" / "tokenizer").mkdir(parents=True)
    CharTokenizer(synthetic.ALPHABET).save(desk / "judge" / "tokenizer" / "characters.json")
    RewardModel(GPT(model.config), Template("preference", model.template.n_base)).save(desk / "judge" / "best.safetensors")
    for words, more in ((("--by", "dpo"), ""), (("--by", "ppo", "--reward", "judge"), ", and this one with --reward")):
        status, _, err = called("judge", *words)
        assert status == 1 and "judge is a reward model, which scores answers and was not taught to write any: name the model" in err
        assert err.rstrip().endswith("that it was made from" + more)
    assert called("judge", "pairs.jsonl", "--by", "reward", *SHORT, "--quiet", "--out", "judge-on") == (0, "", "")
    Classifier(GPT(model.config), Template("classify", tokenizer.n_vocab), (0, 1)).save(desk / "judge" / "best.safetensors")
    status, out, _ = called("judge", "pairs.jsonl", "--by", "dpo", *SHORT, "--out", "classifier-on")
    assert status == 0 and "judge was not tuned to follow instructions" in out


def test_whoever_interrupts_what_is_made_first_is_told_the_whole_way_on(called, desk, monkeypatch):
    (desk / "stopped").mkdir()
    monkeypatch.chdir(desk / "stopped")
    small = dict(n=40, n_held_out=8, config=dict(n_layer=1, n_head=1, n_embd=4))
    for name, more in (("instruct", {"turns": 0.25}), ("reward", {}), ("ppo", {"response": 6, "rollout": 6, "max_kl": 2.0})):
        monkeypatch.setitem(STAGES, name, replace(STAGES[name], drawn=replace(STAGES[name].drawn, **small, settings={**SETTINGS, **more})))
    step = Tuner.step
    monkeypatch.setattr(Tuner, "step", lambda trainer: signal.raise_signal(signal.SIGINT) or step(trainer))
    status, out, _ = called("--by", "ppo")
    assert status == 130 and out.rstrip().endswith("the way on is numgpt finetune --resume runs/instruct-1, and then numgpt align runs/instruct-1 "
                                                   "--by ppo, with the other options that you gave")
    status, out, _ = called("runs/instruct-1", "--by", "ppo")
    assert status == 130 and "the way on is numgpt align --resume runs/reward-1, and then numgpt align runs/instruct-1 --by ppo --reward runs/reward-1," in out
