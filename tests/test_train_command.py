"""numgpt train as it is called: killed, stopped, full disks, wrong calls; in a process of its own where that is what counts."""

import os
import pty
import re
import shutil
import signal
import subprocess

import numpy as np
import pytest

from numgpt import GPT, GPTConfig, huggingface
from numgpt.cli import main
from numgpt.text import CharTokenizer, corpus
from numgpt.training.folder import checkpoints, read_metrics
from runs import PROSE, UNMEASURED, at_call, command, differing, here, left_by, options, sending, train, until
from stages import later

SMALL = ("--preset", "nano", "--batch", 4, "--steps", 40, "--eval-every", 8, "--quiet")


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with a text, a run of it that nothing disturbed, and one that was stopped on the way."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "text").write_text(PROSE * 8)
    assert here(folder, "text", *SMALL, "--out", "whole") == 0
    planted = at_call("time.perf_counter", 25, sending("SIGTERM"))
    assert train(folder, "text", *SMALL, "--out", "stopped", planted=planted).returncode == 143
    return folder


# -- killed


def killed_again_and_again(folder, words, whole, kills: int, seed: int) -> None:
    """A run that is killed so many times, each time begun again as one would, leaves what the whole one left."""
    rng = np.random.default_rng(seed)
    for kill in range(kills + 1):
        planted, delay = at_call("time.perf_counter", 24, sending("SIGKILL")), None  # 12 steps at the most
        if kill == 0:  # before there is a run
            planted = at_call("os.fsync", 5, sending("SIGKILL"))
        elif rng.random() < 0.3:
            delay = rng.uniform(0.05, 0.6)  # a moment of the machine's
        elif rng.random() < 0.7:  # or one within the work on a file, whose tensors are written one by one
            name, most = (("os.fsync", 9), ("os.replace", 5), ("numpy.ascontiguousarray", 120))[rng.integers(3)]
            planted = at_call(name, rng.integers(1, most), sending("SIGKILL"))
        else:  # or on a step
            planted = at_call("time.perf_counter", rng.integers(1, 24), sending("SIGKILL"))
        run = folder / "killed"
        again = ["--resume", run, "--quiet"] if run.exists() else [*words, "--out", run]
        process = subprocess.Popen(command(*again), stderr=subprocess.PIPE, text=True,
                                   **options(folder, planted if kill < kills else ""))
        if delay is not None and kill < kills:
            try:
                process.wait(delay)
            except subprocess.TimeoutExpired:
                process.kill()
        error = process.communicate()[1]
        assert process.returncode == (-signal.SIGKILL if kill < kills else 0), error
    assert not differing(run, whole)
    assert not list(folder.glob(".killed-*"))  # of processes that were killed before there was a run


@pytest.mark.parametrize("kills, seed", [(10, 0), later(50, 1)])
def test_a_run_that_is_killed_at_any_moment_ends_as_the_one_that_never_was(tmp_path, kills, seed):
    (tmp_path / "text").write_text(PROSE * 8)
    words = ("text", "--preset", "nano", "--batch", 4, "--steps", 12 * kills, "--eval-every", 5, "--save-every", 3, "--quiet",
             "--set", "dropout_resid=0.1")
    assert here(tmp_path, *words, "--out", "whole") == 0
    killed_again_and_again(tmp_path, words, tmp_path / "whole", kills, seed)


def test_one_core_and_two_give_the_same_bits(desk):
    allowed = os.sched_getaffinity(0)
    try:
        for cores in (1, 2):
            os.sched_setaffinity(0, sorted(allowed)[:cores])
            assert here(desk, "text", *SMALL, "--set", "dropout_attn=0.1", "--out", f"{cores} cores") == 0
    finally:
        os.sched_setaffinity(0, allowed)
    assert not differing(desk / "1 cores", desk / "2 cores")


# -- asked to stop


@pytest.mark.parametrize("name, status, moment", [  # in a step, while it saves, while it logs
    ("SIGINT", 130, "time.perf_counter"), later("SIGTERM", 143, "time.perf_counter"), ("SIGHUP", 129, "time.perf_counter"),
    ("SIGTERM", 143, "os.fsync"), later("SIGTERM", 143, "json.dumps")])
def test_a_signal_finishes_the_step_saves_says_where_and_the_run_goes_on(desk, tmp_path, name, status, moment):
    run = tmp_path / "run"
    planted = UNMEASURED + at_call(moment, 21 if moment != "os.fsync" else 9, sending(name))
    stopped = train(desk, "text", *SMALL[:-1], "--out", run, planted=planted)
    step = read_metrics(run)[-1]["step"]
    assert stopped.returncode == status and not stopped.stderr and 0 < step < 40
    assert f"stopped by {name} after step {step}; saved in {run}: go on with --resume {run}" in stopped.stdout.splitlines()[-1]
    assert checkpoints(run)[-1].name == f"checkpoint-{step:08}.safetensors"  # nothing is lost
    assert here(desk, "--resume", run, "--quiet") == 0
    assert not differing(run, desk / "whole")


def test_a_second_interrupt_is_not_waited_with(desk, tmp_path):
    planted = at_call("time.perf_counter", 21, f"{sending('SIGINT')}; {sending('SIGINT')}")
    stopped = train(desk, "text", *SMALL, "--out", tmp_path / "run", planted=planted)
    assert (stopped.returncode, stopped.stdout, stopped.stderr) == (130, "", "")
    assert checkpoints(tmp_path / "run")[-1].name == "checkpoint-00000008.safetensors"  # not even the step is finished
    assert here(desk, "--resume", tmp_path / "run", "--quiet") == 0
    assert not differing(tmp_path / "run", desk / "whole")


def test_a_signal_that_is_ignored_as_nohup_has_it_stays_so(desk, tmp_path):
    planted = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + at_call("time.perf_counter", 21, sending("SIGHUP"))
    assert train(desk, "text", *SMALL, "--out", tmp_path / "run", planted=planted).returncode == 0
    assert not differing(tmp_path / "run", desk / "whole")


# -- one writer at a time


def test_a_second_process_is_refused_until_the_first_has_died(desk, tmp_path, capsys):
    run = tmp_path / "run"
    first = subprocess.Popen(command("text", *SMALL, "--steps", 10 ** 6, "--out", run), **options(desk))
    try:
        until(lambda: run.exists() and len(checkpoints(run)) == 2, first)
        assert here(desk, "--resume", run) == 1
        assert capsys.readouterr().err == f"numgpt: {run} is in use by another process, which is still alive\n"
        assert here(desk, "text", *SMALL, "--out", run) == 1
        assert capsys.readouterr().err == f"numgpt: {run} exists: go on with --resume {run}, or choose another --out\n"
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()
    done = read_metrics(run)[-1]["step"]
    assert here(desk, "--resume", run, "--steps", done + 3, "--quiet") == 0
    assert read_metrics(run)[-1]["step"] == done + 3


def test_a_run_whose_number_is_taken_at_the_last_moment_takes_the_next(desk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    replace = os.replace

    def late(source, target):
        if str(target) == "runs/nano-1":
            shutil.copytree(desk / "whole", target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", late)
    assert main(["train", str(desk / "text"), *map(str, SMALL), "--steps", "1"]) == 0
    assert [path.name for path in sorted((tmp_path / "runs").iterdir())] == ["nano-1", "nano-2"]
    assert not differing(tmp_path / "runs" / "nano-1", desk / "whole")


# -- faults


def test_a_rate_that_is_far_too_high_ends_with_the_step_and_the_layer_and_the_last_good_checkpoint(desk, tmp_path, capsys):
    run = tmp_path / "run"
    words = ("text", "--preset", "nano", "--batch", 4, "--steps", 40, "--eval-every", 100, "--save-every", 1, "--warmup", 0)
    ended = train(desk, *words, "--quiet", "--lr", "1e20", "--clip", "inf", "--out", run)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr and "Warning" not in ended.stderr
    step, where, kept, init = re.fullmatch(
        r"numgpt: (in step \d+|after step \d+) [a-z ]+ is not finite, and first of all (.*?)\. A lower learning rate, .* may help: "
        r"(\S+) is from before it, so begin a new run with --init (\S+) and --lr 1e\+19\n", ended.stderr).groups()
    assert init == kept
    assert re.match(r"the (output of|gradient of|gradient that|parameter) \S+", where)
    assert kept == str(checkpoints(run)[-1])
    model = GPT.load(kept)
    assert np.isfinite(model.values).all()
    assert here(desk, "--resume", run, "--quiet") == 1 and capsys.readouterr().err == ended.stderr  # and it is the same a second time


def full(what: str, size: int) -> str:
    """To plant: a disk that takes files of so many bytes, or one that is full from the nth fsync on."""
    return f"""
import os, resource, signal, errno, itertools
if {what!r} == "size":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
def fsync(number, real=os.fsync, calls=itertools.count(1)):
    if {what!r} == "fsync" and next(calls) >= {size}:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return real(number)
os.fsync = fsync
"""


@pytest.mark.parametrize("what, size", [("size", 500), ("fsync", 2), later("fsync", 3), later("fsync", 5)])
def test_a_full_disk_ends_the_run_with_a_sentence_and_the_last_checkpoint_is_whole(desk, tmp_path, what, size):
    run = shutil.copytree(desk / "stopped", tmp_path / "run")
    if what == "size":  # metrics.jsonl outgrows it
        size += (run / "metrics.jsonl").stat().st_size
    ended = train(desk, "--resume", run, planted=UNMEASURED + full(what, size))
    last = checkpoints(run)[-1]
    assert ended.returncode == 1 and ended.stderr.count("\n") == 1
    assert re.fullmatch(rf"numgpt: {run}[^ ]*: (File too large|No space left on device)\. {last} is whole: "
                        rf"go on from it with --resume {run}\n", ended.stderr)
    assert not list(run.glob(".numgpt-*"))
    assert here(desk, "--resume", run, "--quiet") == 0  # when there is room again
    assert not differing(run, desk / "whole")


@pytest.mark.parametrize("where", ["Trainer.step", "prepare"])
def test_memory_that_does_not_suffice_is_said_with_what_takes_less(desk, tmp_path, monkeypatch, capsys, where):
    def greedy(*arguments, **options):
        np.empty((1 << 20, 1 << 30))  # 8 PiB
    monkeypatch.setattr(f"numgpt.cli.train.{where}", greedy)
    assert main(["train", str(desk / "text"), *map(str, SMALL), "--out", str(tmp_path / "run")]) == 1
    assert re.fullmatch(r"numgpt: the memory does not suffice \(Unable to allocate 8.* PiB .*\): a smaller --batch, more --pieces or "
                        "--recompute takes less\n", capsys.readouterr().err)


def test_a_folder_that_is_removed_while_it_is_trained_is_answered_with_a_sentence(desk, tmp_path):
    run = tmp_path / "run"
    gone = f"__import__('shutil').rmtree({str(run)!r})"
    ended = train(desk, "text", *SMALL, "--out", run, planted=at_call("time.perf_counter", 21, gone))
    assert ended.returncode == 1 and ended.stderr.count("\n") == 1
    assert ended.stderr.endswith(f"{run} was removed while it was trained, and nothing is left to go on from\n")


def test_a_disk_that_is_full_at_the_beginning_leaves_nothing(desk, tmp_path, monkeypatch, capsys):
    for n in (1, 2, 3):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", os.fsync)  # and back
            exec(full("fsync", n), {"os": os})
            assert here(desk, "text", *SMALL, "--out", tmp_path / "run") == 1
        err = capsys.readouterr().err
        assert err.endswith("No space left on device\n") and err.count("\n") == 1
        assert not list(tmp_path.iterdir())


def test_an_id_outside_the_vocabulary_met_on_the_way_is_said_with_the_step_the_file_and_the_checkpoint(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("numgpt.training.data.TextData.highest", lambda self: 0)  # as of a file too long to be read through
    tokens = np.arange(900) % 29
    tokens[100:800:60] = 60000
    corpus.write_tokens("t.bin", tokens)
    assert main(["train", "t.bin", *map(str, SMALL), "--set", "n_vocab=29", "--out", "run"]) == 1
    kept = checkpoints("run")[-1]
    assert re.search(rf"in step \d+, from {tmp_path}/t.bin: token id 60000 .* outside the vocabulary.*{kept} is whole: go on",
                     capsys.readouterr().err)


# -- what is printed


def test_quiet_prints_nothing_at_all(desk, tmp_path, capfd):
    for words in (("text", *SMALL, "--out", tmp_path / "a"), ("--resume", tmp_path / "a", "--steps", 44, "--quiet"),
                  ("--resume", tmp_path / "a", "--quiet")):
        assert here(desk, *words) == 0
        assert capfd.readouterr() == ("", "")


def test_what_is_printed_elsewhere_than_on_a_terminal_are_plain_lines(desk, tmp_path):
    done = train(desk, "text", *SMALL[:-1], "--out", tmp_path / "run")
    assert done.returncode == 0 and not done.stderr and "\r" not in done.stdout and "\x1b" not in done.stdout
    steps = re.findall(r"^step (\d+) of 40  .*held out \d+\.\d+  perplexity \d+\.\d+  \d+\.\d+ bits a character", done.stdout, re.M)
    assert steps == ["0", "8", "16", "24", "32", "40"]
    assert re.search(r"^done: 40 steps in 0:\d\d; lowest loss on what is held out \d\.\d{4} at step \d+; " + str(tmp_path / "run"), done.stdout, re.M)


def test_the_sample_at_the_end_has_the_tokenizers_ids_alone_where_the_model_has_more(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("numgpt.training.progress.matmul_speed", lambda *_: 1e9)
    (tmp_path / "text").write_text(PROSE * 8)
    words = ("text", *SMALL[:-1], "--steps", 1, "--set", "n_vocab=400", "--out", "run")
    assert main(["train", *map(str, words)]) == 0
    assert "the model's)" in capsys.readouterr().out


@pytest.mark.parametrize("columns", [30, later(200)])
def test_on_a_terminal_a_line_is_written_anew_within_its_width(desk, tmp_path, columns):
    ours, theirs = pty.openpty()
    how = options(desk, UNMEASURED)
    how["env"] |= {"COLUMNS": str(columns)}
    process = subprocess.Popen(command("text", *SMALL[:-1], "--steps", 150, "--out", tmp_path / "run"), stdout=theirs, **how)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # so it ends on Linux
        pass
    os.close(ours)
    assert process.wait() == 0
    lines = re.findall(r"(step \d+ of 150[^\r\n]*)([\r\n])", shown.decode().replace("\r\n", "\n"))
    rewritten = [line for line, end in lines if end == "\r"]
    assert len(rewritten) > 10 and all(len(line) < columns for line in rewritten)
    assert [int(line.split()[1]) for line, end in lines if end == "\n"] == [*range(0, 150, 8), 150]  # evaluations stay
    if columns == 200:
        assert re.fullmatch(r"step \d+ of 150  loss \d\.\d{3}  held out \d\.\d{4}  [\d,]+ tokens/s  \d+% of matmul speed  \d:\d\d left *",
                            rewritten[-2])


def test_a_reader_that_goes_away_neither_ends_the_run_nor_costs_it_anything(desk, tmp_path):
    run = tmp_path / "run"
    process = subprocess.Popen(command("text", *SMALL[:-1], "--out", run), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               **options(desk, UNMEASURED))
    assert "parameters" in process.stdout.readline()
    process.stdout.close()  # as `head -1` does
    assert process.stderr.read() == "" and process.wait() == 0
    assert not differing(run, desk / "whole")


@pytest.mark.parametrize("closed", [later("import sys; sys.stdout = None"), "os.dup2(os.open('/dev/full', os.O_WRONLY), 1)"])
def test_a_run_whose_output_goes_nowhere_goes_on(desk, tmp_path, closed):
    train(desk, "text", *SMALL[:-1], "--out", tmp_path / "run", planted=UNMEASURED + closed)
    assert not differing(tmp_path / "run", desk / "whole")


def test_a_signal_has_its_status_when_nobody_reads(desk, tmp_path):
    planted = UNMEASURED + "r, w = os.pipe(); os.dup2(w, 1); os.close(w); os.close(r)\n" + at_call("time.perf_counter", 21, sending("SIGTERM"))
    stopped = train(desk, "text", *SMALL[:-1], "--out", tmp_path / "run", planted=planted)
    assert stopped.returncode == 143 and not stopped.stderr


# -- wrong calls


def wrong_calls(folder):
    """Words, the status, and what the sentence says."""
    (folder / "empty").write_text("")
    (folder / "short").write_text("the cat")
    (folder / "latin").write_bytes(b"caf\xe9 " * 100)
    (folder / "odd.bin").write_bytes(b"xyz")
    corpus.write_tokens(folder / "t.bin", np.arange(500) % 400)
    GPT(GPTConfig.preset("nano", n_vocab=5)).save(folder / "five.safetensors")
    huggingface.save(GPT(GPTConfig.preset("nano", n_vocab=5)), folder / "five")
    (folder / "damaged.safetensors").write_bytes(b"nothing")
    CharTokenizer("abc").save(folder / "abc.json")
    text = ("text", *SMALL)
    return [
        (("nowhere", *SMALL), 1, "nowhere: No such file"),
        ((".", *SMALL), 1, "Is a directory"),
        (("empty", *SMALL), 2, "a text to learn from; got an empty one"),
        (("short", *SMALL), 2, "a window of 8 tokens and the one after them do not fit"),
        (("latin", *SMALL), 1, "latin is not UTF-8 at byte 3"),
        (("odd.bin", *SMALL), 1, "no whole number of 2-byte tokens"),
        (("t.bin", *SMALL), 2, "the text has a token 399, the model a vocabulary of 29"),
        (("text", "t.bin", *SMALL), 1, "do not mix"),
        ((*text, "--validation", "t.bin"), 1, "do not mix"),
        ((*text, "--validation", "nowhere"), 1, "nowhere: No such file"),
        ((*text, "--validation", "empty"), 2, "too few to evaluate on"),
        ((*text, "--held-out", "0"), 2, "between 0 and 1; got 0"),
        ((*text, "--held-out", "nan"), 2, "between 0 and 1; got nan"),
        ((*text, "--held-out", "nan", "--tokenizer", "bpe"), 2, "between 0 and 1; got nan"),
        ((*text, "--held-out", "2", "--tokenizer", "bpe"), 2, "between 0 and 1; got 2"),
        ((*text, "--held-out", "inf", "--tokenizer", "bpe"), 2, "between 0 and 1; got inf"),
        ((*text, "--init", "five.safetensors"), 2, "a text wants a tokenizer, and none lies with the weights"),
        ((*text, "--init", "five.safetensors", "--tokenizer", "char"), 2, "the tokenizer has 19 tokens, the model 5"),
        ((*text, "--init", "five", "--tokenizer", "char"), 2, "the tokenizer has 19 tokens, the model 5"),
        ((*text, "--init", "five.safetensors", "--tokenizer", "char", "--set", "n_layer=3"), 2, "n_layer cannot be changed"),
        ((*text, "--init", "damaged.safetensors"), 1, "damaged.safetensors is not a safetensors file"),
        ((*text, "--init", "nowhere"), 1, "nowhere: No such file"),
        ((*text, "--tokenizer", "abc.json"), 2, "take them out of the text, or take a tokenizer that has them"),
        ((*text, "--steps", "9" * 400), 2, "steps must be at most 2**53"),
        ((*text, "--tokenizer", "nowhere"), 1, "nowhere: No such file"),
        ((*text, "--vocab", 300), 2, "--vocab would do nothing here: it is for --tokenizer bpe"),
        ((*text, "--vocab", 300, "--tokenizer", "char"), 2, "--vocab would do nothing here"),
        (("t.bin", *SMALL, "--vocab", 300, "--tokenizer", "bpe"), 2, "--tokenizer would do nothing here: a .bin file is of tokens already"),
        (("t.bin", *SMALL, "--tokenizer", "char"), 2, "--tokenizer would do nothing here"),
        (("t.bin", *SMALL, "--allow-special"), 2, "--allow-special would do nothing here"),
        ((*text, "--validation", "text", "--held-out", "0.2"), 2, "--held-out would do nothing here: --validation is what"),
        (("--task", "sort", "--held-out", "0.2"), 2, "--held-out would do nothing here: a task draws its own questions"),
        (("--task", "sort", "--tokenizer", "bpe"), 2, "--tokenizer would do nothing here"),
        (("--task", "sort", "--allow-special"), 2, "--allow-special would do nothing here"),
        (("--task", "sort", "--vocab", 300), 2, "--vocab would do nothing here"),
        ((*text, "--optimizer", "sgd", "--betas", 0.9, 0.9), 2, "--betas would do nothing here: --optimizer sgd has a momentum"),
        ((*text, "--optimizer", "adamw", "--momentum", 0.5), 2, "--momentum would do nothing here: AdamW has betas"),
        ((*text, "--momentum", 0.5), 2, "--momentum would do nothing here"),
        ((*text, "--tokenizer", "bpe", "--vocab", 5), 2, "256 bytes and 1 special tokens at least"),
        ((*text, "--set", "n_vocab=5"), 2, "the tokenizer has 19 tokens, the model 5"),
        ((*text, "--set", "n_embd=13"), 2, "n_embd 13 does not split into"),
        ((*text, "--set", "nonsense=3"), 2, "nonsense"),
        ((*text, "--set", "n_layer"), 2, "--set wants FIELD=VALUE"),
        ((*text, "--task", "sort"), 2, "it reads no files"),
        (("--task", "sort", "--tokens", 5, *SMALL), 2, "an example of sort has 13 tokens"),
        (("--task", "sort", "--epochs", 2), 2, "no epochs"),
        ((*text, "--tokens", 9), 2, "do not fit into the model's context of 8"),
        ((*text, "--epochs", 2), 2, "not allowed with argument"),
        ((*text, "--steps", 0), 2, "steps must be at least 1; got 0"),
        ((*text, "--batch", 0), 2, "batch must be at least 1"),
        ((*text, "--shards", 0), 2, "shards must be at least 1"),
        ((*text, "--eval-every", 0), 2, "eval_every must be at least 1"),
        ((*text, "--lr", -1), 2, "learning rate falls from lr to floor"),
        ((*text, "--lr", "nan"), 2, "learning rate falls from lr to floor"),
        ((*text, "--min-lr", 1), 2, "learning rate falls from lr to floor"),
        ((*text, "--clip", 0), 2, "clip must be a finite number above 0"),
        ((*text, "--warmup", -1), 2, "warmup must be a whole number from 0 on"),
        ((*text, "--seed", -1), 2, "seed must be a whole number from 0 on"),
        ((*text, "--betas", 1, 0.9), 2, "a beta must be at least 0 and below 1"),
        ((*text, "--weight-decay", -1), 2, "weight_decay must be"),
        ((*text, "--optimizer", "sgd", "--momentum", 1), 2, "momentum must be at least 0 and below 1"),
        ((*text, "--out", "whole"), 1, "whole exists: go on with --resume whole"),
        ((*text, "--out", "text"), 1, "text exists and is no run"),
        ((*text, "--out", "text/run"), 1, "text: File exists"),
        ((*text, "--out", ".hook"), 1, ".hook exists and is no run"),
        (("--resume", "nowhere"), 1, "there is no run nowhere"),
        (("--resume", ".hook"), 1, ".hook has no checkpoint to go on from"),
        (("--resume", "text"), 1, "text has no checkpoint to go on from"),
        (("--resume", "whole/checkpoint-00000040.safetensors"), 1, "name its folder, whole"),
        (("--resume", "whole/best.safetensors"), 1, "name its folder, whole"),
        (("--resume", "whole", "--epochs", "1e306"), 2, "epochs must be at most 2**53"),
        (("--resume", "whole", "--lr", "1"), 2, "a run that goes on has its own --lr: with --resume only --steps, "),
        (("--resume", "whole", "--seed", "0"), 2, "its own --seed"),
        (("--resume", "whole", "text"), 2, "its own text"),
        (("--resume", "whole", "--out", "elsewhere"), 2, "its own --out"),
        (("--resume", "whole", "--set", "n_layer=1"), 2, "its own --set"),
        (("--resume", "whole", "--save-every", "-1"), 2, "save_every must be at least 1"),
    ]


def test_wrong_calls_end_in_a_sentence_and_leave_nothing(desk, tmp_path, monkeypatch, capsys):
    """In this process, for there are many of them."""
    monkeypatch.chdir(desk)
    before = left_by("whole")
    wrong = []
    for words, status, said in wrong_calls(desk):
        there = sorted(desk.rglob("*"))
        try:
            ended = main(["train", *map(str, words), *([] if {"--out", "--resume"} & set(words) else ["--out", str(tmp_path / "run")])])
        except SystemExit as stop:
            ended = stop.code
        except Exception as error:
            ended = repr(error)
        out, err = capsys.readouterr()
        last = err.rstrip("\n").split("\n")[-1]
        left = sorted(desk.rglob("*")) != there or any(tmp_path.iterdir())
        if (ended, out) != (status, "") or said not in last or not last.startswith("numgpt") or left:
            wrong.append((words, ended, out, last))
    assert not wrong and left_by("whole") == before
