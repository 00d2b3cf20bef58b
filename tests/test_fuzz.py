"""The fuzz benchmark: a few hundred of its mutations, and whether its loop can fail at all."""

import contextlib
import io
import json
import os
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest

from numgpt import safetensors
from numgpt.files import FormatError

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks are no part of the package
from benchmarks import _mutate, fuzz  # noqa: E402

pytestmark = pytest.mark.skipif(not hasattr(fuzz.signal, "setitimer"), reason="needs a timer that interrupts")


def test_a_broken_file_of_any_kind_is_refused_or_read_and_nothing_else():
    counts, sentences = Counter(), ""
    with fuzz.watched() as run:
        for number in range(400):
            outcome = run(number)
            counts[outcome.kind, outcome.verdict] += 1
            sentences += outcome.sentence + "\n"
            again = f"python -m benchmarks fuzz --only {number}"
            assert outcome.verdict != "fault", f"{again}\n{outcome.sentence}\n{outcome.where}"
    # Neither only what is broken beyond reading, nor only what is hardly touched: of 80 each.
    assert all(counts[kind.name, "refused"] > 20 and counts[kind.name, "accepted"] > 3 for kind in fuzz.KINDS), counts
    for rule in ("claims a header", "not UTF-8", "is not JSON", "nested too deeply", "there twice",
                 "not a whole number", "must be described by an object", "has no dtype", "where it ends; they are",
                 "can be counted", "without holes or overlaps", "the tensors end at byte", "has no place",
                 "its config is not one", "weight_map must name", "begins with", "has version", "pads a vocabulary",
                 "its header calls for"):
        assert rule in sentences


@pytest.mark.parametrize("change, name", [
    (_mutate.change_json, "config.json"), (_mutate.change_json, "model.safetensors.index.json"),
    (_mutate.change_claims, "model.safetensors"), (_mutate.change_tensors, "model.safetensors"),
    (_mutate.change_tensors, "x.safetensors"),
    (_mutate.change_header, "gpt2.bin"), (_mutate.change_header, "state.bin")],
    ids=lambda item: getattr(item, "__name__", item))
def test_what_knows_a_format_changes_its_valid_files_and_needs_no_help(change, name):
    valid = [files[name] for kind in fuzz.KINDS for files in fuzz.valid_files(kind.name) if name in files]
    if change is _mutate.change_json:
        valid = [content.decode() for content in valid]
    changed = [change(Random(seed), content) != content for seed in range(40) for content in valid]
    assert len(changed) >= 80 and sum(changed) > 0.8 * len(changed)  # some draw what is there already


def test_every_valid_file_is_accepted_within_what_is_allowed():
    with fuzz.watched(), fuzz.tempfile.TemporaryDirectory() as folder:
        for kind in fuzz.KINDS:
            for files in fuzz.valid_files(kind.name):
                assert fuzz.read(kind, files, Path(folder), [])[:2] == ("accepted", "")


class Unseen:
    def __del__(self):
        raise OSError("late")


PLANTED = {
    "KeyError": (lambda: {}["dtype"], "KeyError: 'dtype'"),
    "MemoryError": (lambda: np.zeros(1 << 50), "Unable to allocate"),
    "memory never touched": (lambda: np.zeros(100_000_000, "u1").shape, "too much memory: 10"),
    "memory given back": (lambda: len(bytes(30_000_000)), "too much memory: 30"),
    "a warning": (lambda: warnings.warn("old", DeprecationWarning), "DeprecationWarning: old"),
    "NumPy's warning": (lambda: np.float32(1) / np.float32(0), "RuntimeWarning: divide by zero"),
    "a hang": (lambda: time.sleep(5), "not done in 0.1 s"),
    "a loop that catches exceptions": (lambda: stubborn(5.0), "not done in 0.1 s"),
    "an exception in a destructor": (lambda: Unseen() and None, "raised where nobody sees it: OSError('late')"),
}


def stubborn(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            sum(range(1000))
        except Exception:
            pass


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_counted_and_named(name, monkeypatch):
    deed, says = PLANTED[name]
    parse, plant = safetensors.parse_header, []

    def planted(header, size):
        plant and deed()
        return parse(header, size)

    monkeypatch.setattr(safetensors, "parse_header", planted)
    monkeypatch.setattr(fuzz, "SECONDS", 0.1 if "0.1 s" in says else 2.0)
    with fuzz.watched() as run:  # which reads valid files first
        plant.append(True)
        outcome = next(outcome for outcome in map(run, range(1, 1000, len(fuzz.KINDS)))
                       if outcome.verdict == "fault" or outcome.verdict == "accepted")
        assert (outcome.kind, outcome.verdict) == ("safetensors", "fault") and says in outcome.sentence
        plant.clear()
        assert not any(run(number).verdict == "fault" for number in range(20))  # it leaves nothing behind


def test_faults_are_printed_with_their_numbers_and_make_the_exit_status_1(monkeypatch, capsys):
    monkeypatch.setattr(fuzz.llmc, "load", lambda path: {}["version"])
    monkeypatch.setattr(fuzz, "KINDS", tuple(kind._replace(read=lambda folder: fuzz.llmc.load(folder))
                                             if kind.name == "llm.c weights" else kind for kind in fuzz.KINDS))
    assert fuzz.main(["--cases", "50", "--seed", "100"]) == 1
    out = capsys.readouterr().out
    assert "case 102, llm.c weights: KeyError: 'version'" in out and "case 107" not in out  # one of a line in full
    assert "10 of llm.c weights, KeyError: 'version'" in out and "cases 102, 107, 112, 117, 122" in out
    assert out.splitlines()[-1].split() == ["all", "50", *out.splitlines()[-1].split()[2:4], "10"]


def test_one_case_is_run_again_with_its_traceback_and_its_files_kept(tmp_path, capsys, monkeypatch):
    with fuzz.watched() as run:
        number, outcome = next((n, outcome) for n in range(1, 1000, 5) if (outcome := run(n)).verdict == "refused")
    assert fuzz.main(["--only", str(number), "--keep", str(tmp_path / "kept")]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"case {number}, safetensors: refused: ") and "Traceback (most recent call last)" in out
    assert {path.name: path.read_bytes() for path in (tmp_path / "kept").iterdir()} == outcome.files
    with pytest.raises(FormatError):
        safetensors.File(tmp_path / "kept" / "x.safetensors")


DIGEST = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from benchmarks import fuzz
digest = hashlib.sha256()
with fuzz.watched() as run:
    for number in range(30):
        digest.update(repr(sorted(run(number).files.items())).encode())
print(digest.hexdigest())
"""


@pytest.mark.verify
def test_a_number_draws_the_same_files_in_every_process():
    ran = subprocess.run([sys.executable, "-c", DIGEST, str(ROOT)], capture_output=True, text=True, check=True,
                         cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "1"}).stdout
    here = io.StringIO()
    with contextlib.redirect_stdout(here):
        exec(DIGEST.replace("sys.argv[1]", repr(str(ROOT))), {})  # in this process, whose hashes are others
    assert ran == here.getvalue() != ""


@pytest.mark.verify
def test_what_is_accepted_the_official_library_accepts_and_reads_bit_for_bit_alike(tmp_path):
    import safetensors as official

    accepted = 0
    with fuzz.watched() as run:
        for number in range(1, 20_000, len(fuzz.KINDS)):
            outcome = run(number)
            if outcome.verdict == "accepted":
                content = outcome.files["x.safetensors"]
                (tmp_path / "x").write_bytes(content)
                theirs = {name: bytes(one["data"]) for name, one in official.deserialize(content)}
                with safetensors.File(tmp_path / "x") as file:
                    assert set(file) == set(theirs)
                    for name, entry in file.entries.items():
                        array = file[name]
                        bits = (array.view("u4") >> 16).astype("<u2") if entry.dtype == "BF16" else array
                        assert np.asarray(bits).tobytes() == theirs[name]
                accepted += 1
    assert accepted > 400


# -- what the loop has found


@pytest.mark.parametrize("shard", ["x" * 300, "é" * 200, "x/" * 3000, "a\0b", "", ".", "..", "/",
                                   "config.json"], ids=lambda text: repr(text[:6]))
def test_an_index_may_name_any_text_as_a_file_and_is_refused(tmp_path, shard):
    files = next(files for files in fuzz.valid_files("Hugging Face") if "model.safetensors.index.json" in files)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    index = json.loads(files["model.safetensors.index.json"])
    index["weight_map"] = dict.fromkeys(index["weight_map"], shard)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    says = "is not a safetensors file" if shard == "config.json" else "which is no file beside it"
    with pytest.raises(FormatError, match=says):
        fuzz.huggingface.load(tmp_path)


def test_signalling_nans_are_loaded_without_a_warning_whatever_type_they_come_in(tmp_path):
    model = fuzz.model(fuzz.config())
    tensors = {name: param.value.astype("f8" if "norm1" in name else "f4") for name, param in model.named_params()}
    tensors["embedding.table"].view("u4")[...] = 0x7F800001
    safetensors.write(tmp_path / "x", tensors, {"format": "numgpt", "config": model.config.to_json()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = fuzz.GPT.load(tmp_path / "x")
    assert loaded.values.dtype == np.float64 and np.isnan(loaded.body.embedding.table.value).all()
