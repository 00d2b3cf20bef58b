"""A run's folder: its checkpoints, its metrics, its best model, and a lock, so that it has one writer at a time.

    checkpoint-00001000.safetensors    the last two, from which the run goes on
    best.safetensors                   the model with the lowest loss on held-out text
    metrics.jsonl                      a line a step
    tokenizer/                         as numgpt tokenize and GPT's other readers take it
"""

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from numgpt.files import UNFINISHED, FormatError, hold, replacing, short
from numgpt.flat import Flat
from numgpt.formats import BEST, TOKENIZER
from numgpt.training.checkpoint import Checkpoint

METRICS, LOCK = "metrics.jsonl", ".lock"
KEPT = 2


class Taken(FormatError):
    """There is something of that name."""


class RunFolder:
    """Holds the folder's lock from the beginning until close(); a process that dies lets go of it."""

    def __init__(self, path: Path, lock):
        self.path, self._lock = path, lock
        self._metrics = None

    @classmethod
    def create(cls, path, first: Checkpoint, models: Mapping[str, Flat] | None = None) -> "RunFolder":
        """A new folder, which appears with its first checkpoint in it, so that a run can go on as soon as it is there.

        path: or an iterator of several, of which the first is taken that is free when the folder is made
        models: that lie beside it as long as the run does, by the names of their files
        """
        if isinstance(path, Iterator):
            for candidate in path:
                with suppress(Taken):
                    return cls.create(candidate, first, models)
            raise FormatError("none of the names for the run's folder is free")
        path = Path(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise Taken(f"{path} exists: go on with --resume {path}, or choose another --out" if checkpoints(path)
                        else f"{path} exists and is no run: choose another --out")
        if path.resolve() == Path.cwd():  # whose place another would take, and the process would stand nowhere
            raise FormatError(f"{path} is where you are; a run's folder is made anew: give --out another name, such as {path / 'run'}")
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        staging = path.with_name(f".{path.name}-{secrets.token_hex(4)}.tmp")
        try:
            staging.mkdir()
        except OSError as error:  # a folder that may not be written to; the other name is nobody's concern
            raise type(error)(error.errno, error.strerror, str(path)) from None
        run = None
        try:
            run = cls(staging, hold(staging / LOCK))
            run._fill(first)
            for name, model in (models or {}).items():
                model.save(staging / name)
            os.replace(staging, path)  # an empty folder of that name gives way
        except BaseException as error:
            shutil.rmtree(staging, ignore_errors=True)
            if run is not None:
                run.close()
            if isinstance(error, OSError) and path.is_dir() and any(path.iterdir()):
                raise Taken(f"{path} was begun by another process at the same moment: choose another --out") from None
            raise
        run.path = path
        return run

    def _fill(self, first: Checkpoint) -> None:
        if first.tokenizer_files:
            (self.path / TOKENIZER).mkdir()
        for name, text in first.tokenizer_files.items():
            with replacing(self.path / TOKENIZER / name) as file:
                file.write(text.encode())
        self.save(first)

    @classmethod
    def open(cls, path) -> "RunFolder":
        """The folder of a run that is to go on."""
        path = Path(path)
        if path.is_file() and checkpoints(path.parent):
            raise FormatError(f"{path} is one of the files of a run, which goes on from its last checkpoint: name its folder, {path.parent}")
        if not checkpoints(path):
            raise FormatError(f"{path} has no checkpoint to go on from" if path.exists() else f"there is no run {path}")
        run = cls(path, hold(path / LOCK))
        for unfinished in path.glob(f"{UNFINISHED}*"):  # of a process that was killed while it wrote
            unfinished.unlink()
        return run

    # -- checkpoints

    def last(self) -> Path | None:
        """The newest checkpoint; None if somebody has removed the folder."""
        return next(reversed(checkpoints(self.path)), None)

    @property
    def closed(self) -> bool:
        return self._lock.closed

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint; then all but the last two go."""
        self._check_open()
        if self._metrics is not None:
            os.fsync(self._metrics.fileno())  # a checkpoint speaks of steps whose metrics are on the disk
        path = self.path / f"checkpoint-{checkpoint.state['step']:08d}.safetensors"
        checkpoint.write(path)
        for old in checkpoints(self.path)[:-KEPT]:
            old.unlink()
        return path

    def save_best(self, model) -> None:
        model.save(self.path / BEST)

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError(f"{self.path} is closed, and may be another process's by now: Trainer.resume({str(self.path)!r}) opens it again")

    # -- metrics

    def log(self, metrics: dict) -> None:
        self._check_open()
        path = self.path / METRICS
        try:
            if self._metrics is None:
                self._metrics = open(path, "ab", buffering=0)
            rest = json.dumps(metrics).encode() + b"\n"
            while rest:  # a disk that is nearly full takes a part
                rest = rest[self._metrics.write(rest):]
        except OSError as error:
            raise type(error)(error.errno, error.strerror, str(path)) from None

    def cut_metrics(self, step: int) -> None:
        """Take out what was logged after that step, half a line included."""
        path = self.path / METRICS
        if not path.exists():
            return
        end = 0
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                    break
            except (ValueError, KeyError, TypeError):
                break
            end += len(line)
        os.truncate(path, end)

    def close(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
        self._lock.close()


def _sweep(path: Path) -> None:
    """Remove what processes left that were killed before their run of that name was there."""
    for staging in path.parent.iterdir():
        if re.fullmatch(re.escape(f".{path.name}-") + r"[0-9a-f]{8}\.tmp", staging.name) and (staging / LOCK).exists():
            with suppress(FormatError, OSError), hold(staging / LOCK):  # unless its process lives
                shutil.rmtree(staging)


def checkpoints(path) -> list[Path]:
    """The checkpoints in a folder, the oldest first."""
    named = re.compile(r"checkpoint-\d{8,}\.safetensors")
    return sorted((file for file in Path(path).glob("checkpoint-*") if named.fullmatch(file.name)),
                  key=lambda file: int(re.search(r"\d+", file.name).group()))


def read_metrics(path) -> list[dict]:
    """The lines of a run's metrics; a last one that is not whole is left out."""
    file = Path(path, METRICS)
    if not file.exists():
        raise FormatError(f"{path} has no {METRICS}" if Path(path).is_dir() else f"there is no run {path}")
    lines = file.read_bytes().split(b"\n")
    metrics = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise FormatError(f"{file}, line {number}: it is not JSON") from None
        if not isinstance(record, dict) or not isinstance(record.get("step"), int) or not all(
                value is None or isinstance(value, (int, float)) for value in record.values()):
            raise FormatError(f"{file}, line {number}: it is no record of a step, which is numbers by their names; got {short(record)}")
        metrics.append(record)
    return metrics
