"""Runs of `numgpt train`, in processes of their own, and what is left of them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numgpt
from numgpt import safetensors
from numgpt.cli import main
from numgpt.training.folder import checkpoints, read_metrics

CLOCK = ("seconds", "tokens_per_s")  # what depends on how fast the machine is
PROSE = "the cat sat on the mat; the rat ate the oats. a mat, a hat; the theatre! where is the cat? on the oats, the rat.\n"


# To plant: the speed of matrix products is not measured, which takes a quarter of a second of two cores.
UNMEASURED = "import numgpt.training.progress; numgpt.training.progress.matmul_speed = lambda *_: 1e9\n"


def command(*words) -> list[str]:
    return [sys.executable, "-m", "numgpt", "train", *map(str, words)]


def options(folder, planted: str = "") -> dict:
    """Where a command runs; planted: Python that is executed before it begins."""
    hook = Path(folder, ".hook")
    hook.mkdir(exist_ok=True)
    # A shell that runs the tests in the background has them ignore SIGINT, and so would what they start.
    (hook / "sitecustomize.py").write_text("import os, signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
                                           "exec(os.environ['PLANTED'])\n")
    path = os.pathsep.join([str(hook), str(Path(numgpt.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return dict(cwd=folder, env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "", "PLANTED": planted})


def train(folder, *words, planted: str = "", **more) -> subprocess.CompletedProcess:
    """The command, run in a folder to its end."""
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=120, **options(folder, planted), **more)


def here(folder, *words) -> int:
    """The command in this process, where nothing of a process of its own is claimed: its status."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        return main(["train", *map(str, words)])
    finally:
        os.chdir(before)


def at_call(function: str, n: int, action: str) -> str:
    """Something to plant: an action when a function, such as os.fsync, is called for the nth time."""
    module = function.split(".")[0]
    return f"""
import {module}, os, signal, itertools
def plant(real={function}, calls=itertools.count(1)):
    def planted(*a, **k):
        if next(calls) == {n}:
            {action}
        return real(*a, **k)
    return planted
{function} = plant()
"""


def sending(name: str) -> str:
    return f"os.kill(os.getpid(), signal.{name})"


def until(condition, process: subprocess.Popen) -> None:
    """Wait for something that a running command does."""
    while not condition():
        assert process.poll() is None, "it ended before"
        time.sleep(0.002)


def left_by(run) -> dict:
    """Everything that a run left, but for what the clock says: weights and moments as bytes, state, metrics, the best model."""
    path = checkpoints(run)[-1]
    with safetensors.File(path) as file:
        state = json.loads(file.metadata["training"])
        left = {name: file[name].tobytes() for name in file} | {"config": file.metadata["config"], "tokenizer": file.metadata["tokenizer"]}
    left |= {f"state {name}": item for name, item in state.items() if name not in CLOCK}
    left["metrics"] = [{name: item for name, item in line.items() if name not in CLOCK} for line in read_metrics(run)]
    left["best"] = Path(run, "best.safetensors").read_bytes()
    left["files"] = sorted(file.name for file in Path(run).iterdir())
    return left


def differing(run, other) -> list[str]:
    """The names of what is not the same in two runs."""
    a, b = left_by(run), left_by(other)
    return [name for name in {**a, **b} if a.get(name) != b.get(name)]
