"""The command line, as it is called."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from numgpt.cli import main
from numgpt.verify import cases, mutants
from numgpt.verify.passes import Steps
from numgpt.verify.trace import example

ROOT = Path(__file__).parent.parent


def test_gradcheck_prints_a_line_a_layer_and_exits_0(capsys):
    assert main(["gradcheck", "layernorm", "gelu-tanh"]) == 0
    head, *lines, end = capsys.readouterr().out.splitlines()
    assert head.split() == ["layer", "method", "worst", "error", "tolerance", "time"]
    assert [line.split()[0] for line in lines] == ["layernorm", "gelu-tanh"]
    assert all(re.fullmatch(r"\S+ +complex +\d\.\de-1\d +\d\.\de-1\d +\d+\.\d s", line) for line in lines)
    assert end.startswith("2 checked, all right")


def test_gradcheck_reports_a_failure_and_exits_1(capsys):
    with mutants.apply("ln-no-xhat"):
        assert main(["gradcheck", "layernorm", "linear"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"^layernorm .* WRONG$", out, re.M)
    assert "looks like: in each row a multiple of x - mean(x) is missing or added: the variance's part" in out


def test_gradcheck_in_float32(capsys):
    assert main(["gradcheck", "linear", "--float32"]) == 0
    assert re.search(r"^linear +float32 +\d\.\de-0[78] ", capsys.readouterr().out, re.M)


def test_a_beginning_names_all_that_begin_so_and_an_exact_name_only_itself(capsys):
    assert main(["gradcheck", "--list", "pre-norm"]) == 0
    assert capsys.readouterr().out.split() == [name for name in cases.names() if name.startswith("pre-norm")]
    assert main(["gradcheck", "--list", "linear"]) == 0
    assert capsys.readouterr().out.split() == ["linear"]


@pytest.mark.parametrize("argv, says", [
    (["gradcheck", "LayerNrm"], "there is no layer or model 'LayerNrm': layernorm"),
    (["gradcheck", "nonsense"], "there is no layer or model 'nonsense'; --list prints all"),
    (["gradcheck", "--seed", "-1"], "a seed is a whole number from 0 on; got -1"),
    (["gradcheck", "--method", "exact"], "invalid choice: 'exact'"),
    ([], "the following arguments are required: COMMAND"),
    (["nonsense"], "invalid choice: 'nonsense'"),
])
def test_wrong_calls_exit_2_with_a_sentence(argv, says, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2 and says in capsys.readouterr().err


def test_help_and_version(capsys):
    for argv, says in ((["--help"], "gradcheck"), (["gradcheck", "--help"], "exit status 1"), (["--version"], "numgpt 0.1.0")):
        with pytest.raises(SystemExit) as stop:
            main(argv)
        assert stop.value.code == 0 and says in " ".join(capsys.readouterr().out.split())


def test_python_m_and_a_reader_that_leaves_early():
    ran = subprocess.run(f"{sys.executable} -m numgpt gradcheck --list | head -1", shell=True, cwd=ROOT, capture_output=True, text=True)
    assert ran.stdout == "linear\n" and ran.stderr == ""


class Gone:
    """What print writes to when the reader has left."""

    encoding = "utf-8"

    def write(self, *text):
        raise BrokenPipeError

    flush = fileno = write


def test_a_verdict_is_the_exit_status_though_nobody_reads_it(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Gone())
    monkeypatch.setattr("numgpt.cli._abandon_output", lambda: None)  # standard output is the tests' own
    assert main(["gradcheck", "layernorm"]) == 0
    with mutants.apply("ln-no-xhat"):
        assert main(["gradcheck", "layernorm"]) == 1


def test_a_dump_that_differs_is_exit_status_1_into_a_pipe_without_a_reader(tmp_path):
    trace, wrong = example(cases.small("nano"), steps=Steps(0), batch=1, n_tokens=3), tmp_path / "wrong.npz"
    trace.write(tmp_path / "ref")
    np.savez(wrong, **{"forward.logits": 2 * trace["forward.logits"]})
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run([sys.executable, "-m", "numgpt", "compare", tmp_path / "ref", wrong], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert ran.returncode == 1 and ran.stderr == b""


def test_ctrl_c_while_a_command_is_loaded_exits_130_without_a_traceback(monkeypatch):
    def interrupted(name):
        raise KeyboardInterrupt
    monkeypatch.setattr("numgpt.cli.import_module", interrupted)
    assert main(["plan", "nano"]) == 130
