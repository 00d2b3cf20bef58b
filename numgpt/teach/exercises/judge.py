"""A learner's file, run and checked: in a process of its own, for it may do anything, and may never end.

Whatever is wrong with it is told in a sentence about the learner's file; a traceback of ours would be no help.
"""

import contextlib
import faulthandler
import functools
import io
import json
import os
import re
import subprocess
import sys
import threading
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType

from numgpt.gradcheck import Report
from numgpt.gradcheck.report import OK, Finding
from numgpt.teach.exercises.exercise import Exercise, named
from numgpt.teach.exercises.hints import first_wrong, steps
from numgpt.teach.exercises.reports import Misfit

SECONDS = 20.0  # a check takes a fraction of one
GRACE = 10.0    # for a Python to start, and to die
OTHERWISE = " There is another mistake than the planted one; further hints speak of the planted one."
LEARNER = "learner"  # the name of the file as a module
PRINTED = 2000  # characters of what the file itself prints


@dataclass
class Verdict:
    passed: bool
    report: str = ""    # what was measured
    problem: str = ""   # why nothing could be
    hints: list[str] = field(default_factory=list)
    printed: str = ""   # by the file itself


def judge(exercise: Exercise, text: bytes | str, path: str) -> Verdict:
    """In this process: for files that can be trusted to end."""
    out = _Short()
    with contextlib.redirect_stdout(out):
        try:
            verdict = _of(exercise, _reports(exercise, text, path))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit as well: what it would end is not the check
            verdict = Verdict(False, problem=_sentence(error, exercise, path))
    verdict.printed = out.getvalue()
    return verdict


def judge_apart(exercise: Exercise, path: Path, seconds: float = SECONDS) -> Verdict:
    """In a process of its own, for so long and no longer."""
    root = str(Path(__file__).parents[3])
    code = f"import sys; sys.path[0] = {root!r}; from numgpt.teach.exercises.judge import main; main()"
    try:
        ran = subprocess.run([sys.executable, "-c", code, exercise.name, str(path), str(seconds)], timeout=seconds + GRACE,
                             stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace",
                             env=os.environ | {"PYTHONIOENCODING": "utf-8"})
    except subprocess.TimeoutExpired:
        return Verdict(False, problem=_endless(path, seconds, ""))
    try:
        return Verdict(**json.loads(ran.stdout.splitlines()[-1]))  # what other processes wrote comes before
    except (ValueError, IndexError):
        if "Timeout (" in ran.stderr:
            return Verdict(False, problem=_endless(path, seconds, ran.stderr))
        return Verdict(False, problem=f"{path.name} ended Python itself, with status {ran.returncode}, "
                                      "before it could be checked")


def main() -> None:
    """NAME FILE SECONDS, in the process apart."""
    name, path, seconds = sys.argv[1:]
    exercise = named(name)  # what it imports is not on the file's time
    watch = threading.Timer(float(seconds), _end)
    watch.daemon = True
    watch.start()
    faulthandler.dump_traceback_later(float(seconds) + 1, exit=True)  # where one call never lets another thread run
    sys.path.append(str(Path(path).resolve().parent))
    verdict = judge(exercise, Path(path).read_bytes(), path)
    print(json.dumps(asdict(verdict)))
    sys.stdout.flush()
    os._exit(0)  # threads that the file may have begun do not keep it


def _end() -> None:
    """From a thread: the others stand still meanwhile, and their lines can be read; faulthandler's own timer reads
    them as they run, and misses some."""
    os.write(2, b"Timeout (\n")
    faulthandler.dump_traceback(2)
    os._exit(1)


def _reports(exercise: Exercise, text: bytes | str, path: str) -> list[Report]:
    made = ModuleType(LEARNER)
    exec(compile(text, path, "exec"), vars(made))
    return list(exercise.module.checks(made))


def _of(exercise: Exercise, reports: list[Report]) -> Verdict:
    bad = _first_bad(reports)
    if bad is None:
        return Verdict(True, reports[0].table())
    said = "\n".join(str(f) for f in bad.findings if f.verdict != OK)
    hints = steps(bad, exercise.hints)
    hints[0] += OTHERWISE if _otherwise(exercise, first_wrong(bad, exercise.hints)) else ""
    return Verdict(False, (f"{bad.table()}\n\n" if bad.gradients else "") + said, hints=hints)


def _first_bad(reports: list[Report]) -> Report | None:
    return next((report for report in reports if not report.ok), None)


def _otherwise(exercise: Exercise, finding: Finding) -> bool:
    """Whether the hints on it speak of a planted mistake, and it is wrong by another amount; other hints say where it is
    made, and are true of any mistake."""
    planted = _planted(exercise)
    spoken_of = [exercise.hints[f.name] for f in planted]
    return exercise.hints.get(finding.name) in spoken_of and not any(_alike(finding, f) for f in planted)


@functools.cache
def _planted(exercise: Exercise) -> list[Finding]:
    """What the hints are on, where nothing but planted mistakes is wrong."""
    files = exercise.planted if exercise.mistakes else []
    return [first_wrong(_first_bad(_reports(exercise, file, exercise.file)), exercise.hints) for file in files]


def _alike(one: Finding, other: Finding) -> bool:
    """Whether the same is wrong, by as much."""
    return (one.name, f"{one.error:.5g}", one.looks_like) == (other.name, f"{other.error:.5g}", other.looks_like)


def _sentence(error: BaseException, exercise: Exercise, path: str) -> str:
    file = Path(path).name
    if isinstance(error, Misfit):
        return f"{file}: {error}"
    if isinstance(error, SyntaxError) and error.filename == path:
        line = f"\n    {error.text.strip()}" if error.text else ""
        return f"{file}, line {error.lineno}: {error.msg}, which is not Python{line}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    if isinstance(error, AttributeError) and not frames and getattr(error.obj, "__name__", "") == LEARNER:
        return (f"{file} has no {error.name} any more, which is to be checked: "
                f"numgpt exercise start {exercise.name} --force gives it anew")
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if not frames:
        return f"{file} could not be checked: {error or what}"
    where = "" if frames[-1].name == "<module>" else f", in {frames[-1].name}"
    line = _line(Path(path), frames[-1].lineno)
    return f"{file}, line {frames[-1].lineno}{where}: {what}" + (f"\n    {line}" if line else "")


def _endless(path: Path, seconds: float, dump: str) -> str:
    at = re.search(rf'File "{re.escape(str(path))}", line (\d+) in (\S+)', dump)
    where = f", and was then at line {at[1]}, in {at[2]}\n    {_line(path, int(at[1]))}" if at else ""
    return f"{path.name} did not end within {seconds:g} s: is there a loop that goes on for ever?{where}"


def _line(path: Path, number: int | None) -> str:
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    return lines[number - 1].strip() if number and number <= len(lines) else ""


class _Short(io.StringIO):
    """What is printed, up to a length: forward is called hundreds of times, or for ever."""

    def write(self, text: str) -> int:
        super().write(text[:PRINTED - self.tell()])
        return len(text)
