"""numgpt exercise: a course of layers whose backward is missing or broken, and the check that says so."""

import argparse
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from numgpt.cli.options import path
from numgpt.files import FormatError, nearest, replacing
from numgpt.teach.exercises.course import ORDER
from numgpt.teach.exercises.exercise import HEAD, Exercise, in_order, named
from numgpt.teach.exercises.judge import SECONDS, Verdict, judge_apart
from numgpt.teach.terminal import Ink, coloured, width

LONGEST = 24 * 60 * 60
EXAMPLES = f"""the course, in order:
{textwrap.fill(", ".join(ORDER), 100, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)}

examples:
  numgpt exercise start linear            writes linear.py: read it, and fill in what is missing
  numgpt exercise check linear            what is right, what is wrong, and a first hint
  numgpt exercise check linear --hint 2   the next one: where to look; the one after says which term
  numgpt exercise list                    how far you are
"""


def register(commands) -> None:
    parser = commands.add_parser(
        "exercise", help="write and mend backward passes: a course, with a check that gives hints",
        description="A course of exercises from a matrix product to AdamW. Each is a Python file whose backward is "
                    "missing or has a mistake in it,\n"
                    "one that people really make, with the start of the derivation. Nothing is remembered but your files.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    _action(actions, "list", _list, "the exercises, and which of them are done in this folder",
            "Print the course. A file that has been changed is checked; nothing is remembered from earlier.")

    start = _action(actions, "start", _start, "write an exercise's file", "Write the file of an exercise, with the start "
                                                                          "of its derivation.")
    start.add_argument("name", metavar="NAME", help="an exercise: numgpt exercise list prints all")
    start.add_argument("--force", action="store_true", help="write it anew where there is one: what was written in it is "
                                                            "lost")

    check = _action(actions, "check", _check, "check an exercise's file: a report, and a hint",
                    "Check a file: gradients against derivatives measured from forward, steps against numgpt's own. The "
                    "file is run in a process apart. Exit status 0 if it passes, 1 if it does not, 2 if there is nothing "
                    "to check.")
    check.add_argument("name", metavar="NAME|FILE", help="an exercise, whose file is in the folder; or a file, under any "
                                                         "name")
    check.add_argument("--hint", type=_hints, default=1, metavar="N", help="how many hints: 1 what kind of error (the "
                                                                           "default), 2 where, 3 which term")
    check.add_argument("--solution", action="store_true", help="print the solution, and check nothing")
    check.add_argument("--seconds", type=float, default=SECONDS, metavar="S", help=f"how long the file may run (default: "
                                                                                   f"{SECONDS:g})")

    key = _action(actions, "key", _key, "for instructors: all mistakes and what mends them",
                  "Print each exercise's mistake, by its name in numgpt.verify.mutants, and the lines between what is "
                  "given (-) and the solution (+).", folder=False)
    key.add_argument("names", nargs="*", metavar="NAME", help="exercises (default: all)")


def _action(actions, name: str, run, text: str, description: str, *, folder: bool = True) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text, description=description)
    if folder:
        parser.add_argument("--folder", type=path, default=Path(), metavar="DIR", help="where the files are (default: the "
                                                                                       "current folder)")
    parser.set_defaults(run=run, error=parser.error)
    return parser


def _list(arguments) -> int:
    exercises, ink = in_order(), Ink(coloured())
    with ThreadPoolExecutor(2) as pool:
        states = list(pool.map(lambda exercise: _state(exercise, arguments.folder / exercise.file), exercises))
    widest = max(map(len, ORDER))
    for exercise, state in zip(exercises, states):
        shown = {"done": ink.good, "": ink.faint}.get(state, ink.strong)(f"{state or '-':5}")
        print(f"{exercise.number:2}  {exercise.name:{widest}}  {shown}  {exercise.module.TASK:5}  {exercise.title}")
    undone = next((exercise for exercise, state in zip(exercises, states) if state != "done"), None)
    print(f"\ndone: {states.count('done')} of {len(exercises)}" + (
        "" if undone is None else f"; next: numgpt exercise {'check' if states[undone.number - 1] else 'start'} "
                                  f"{undone.name}"))
    return 0


def _state(exercise: Exercise, file: Path) -> str:
    if not file.is_file() or not file.read_bytes().startswith(HEAD.encode()):  # somebody's own file of that name is not run
        return ""
    if file.read_bytes() == exercise.given.encode():
        return "begun"
    return "done" if judge_apart(exercise, file).passed else "begun"


def _start(arguments) -> int:
    exercise = _named(arguments, arguments.name)
    file = arguments.folder / exercise.file
    if file.exists() and not arguments.force and file.read_bytes() != exercise.given.encode():
        raise FormatError(f"{file} is there already, with work in it that would be lost: check it, move it, or say "
                          f"--force to begin anew")
    with replacing(file) as new:
        new.write(exercise.given.encode())
    print(f"{file}: {_place(exercise)}")
    print(f"{exercise.asks}. Read it from the top; then: numgpt exercise check {_again(arguments, exercise)}")
    return 0


def _check(arguments) -> int:
    exercise, file = _wanted(arguments)
    if arguments.solution:
        print(exercise.solution, end="")
        return 0
    if not 0 < arguments.seconds <= LONGEST:
        arguments.error(f"--seconds wants a number above 0, and a day at most; got {arguments.seconds:g}")
    if not file.is_file():
        arguments.error(f"there is no {file} to check: numgpt exercise start {exercise.name} writes it")
    verdict = judge_apart(exercise, file, arguments.seconds)
    again = arguments.name if file != arguments.folder / exercise.file else _again(arguments, exercise)
    _tell(exercise, verdict, arguments.hint, again)
    return 0 if verdict.passed else 1


def _tell(exercise: Exercise, verdict: Verdict, n_hints: int, again: str) -> None:
    ink = Ink(coloured())
    print(ink.strong(_place(exercise)))
    if verdict.printed:
        print(f"\nit printed:\n{textwrap.indent(verdict.printed.rstrip(), '  ')}")
    if verdict.problem:
        print(f"\n{ink.bad('not checked')}: {verdict.problem}")
        return
    print(f"\n{verdict.report}\n")
    if verdict.passed:
        print(_filled("passed", exercise.module.LESSON, ink.good))
        following = exercise.following
        if following:
            print(f"\nnext: numgpt exercise start {following.name}  ({following.number} of {len(ORDER)}: {following.title})")
        return
    if "analytic" in verdict.report:
        print(ink.faint("analytic is what your backward says, numeric what forward does when that number moves") + "\n")
    for i, hint in enumerate(verdict.hints[:n_hints], 1):
        print(_filled(f"hint {i} of {len(verdict.hints)}", hint, ink.strong))
    if n_hints < len(verdict.hints):
        print(f"\nthe next one: numgpt exercise check {again} --hint {n_hints + 1}")
    else:
        print(f"\nthere are no more; the solution: numgpt exercise check {exercise.name} --solution")


def _key(arguments) -> int:
    from numgpt.verify.mutants import CATALOGUE  # not above: it loads the whole of verify
    for exercise in [_named(arguments, name) for name in arguments.names] or in_order():
        print(f"{exercise.number:2}  {exercise.name}: {exercise.title}")
        for slug in exercise.mistakes:
            whose, what = CATALOGUE[slug].breaks
            print(f"    {slug}: {CATALOGUE[slug].story}; it breaks, in {whose.rpartition('.')[2]}: {what}")
        if not exercise.mistakes:
            print("    nothing is wrong with it but that lines are missing")
        print(textwrap.indent("\n".join(exercise.difference), "      ") + "\n")
    return 0


def _wanted(arguments) -> tuple[Exercise, Path]:
    """NAME is a file in the folder; a FILE says which exercise it is by its name, or else in its first line."""
    given = Path(arguments.name)
    if len(given.parts) == 1 and not given.suffix:
        exercise = _named(arguments, arguments.name)
        return exercise, arguments.folder / exercise.file
    if given.stem.replace("_", "-") in ORDER:
        return named(given.stem), given
    if not given.is_file():
        arguments.error(f"there is no file {given}")
    first = given.read_bytes()[:100].decode(errors="replace").partition("\n")[0]
    if not first.startswith(HEAD):
        arguments.error(f"{given} does not say which exercise it is: its first line should begin with {HEAD}NAME:")
    return _named(arguments, first.removeprefix(HEAD).partition(":")[0]), given


def _named(arguments, name: str) -> Exercise:
    try:
        return named(name)
    except KeyError:
        near = nearest(name, ORDER)
        arguments.error(f"there is no exercise {name!r}" + (f": {near}?" if near else "; numgpt exercise list prints all"))


def _place(exercise: Exercise) -> str:
    return f"exercise {exercise.number} of {len(ORDER)}, {exercise.name}: {exercise.title}"


def _again(arguments, exercise: Exercise) -> str:
    return exercise.name + (f" --folder {arguments.folder}" if arguments.folder != Path() else "")


def _filled(head: str, text: str, ink) -> str:
    lines = textwrap.fill(f"{head}: {text}", width(), break_on_hyphens=False, break_long_words=False)
    return ink(head) + lines.removeprefix(head)  # coloured after it was filled: what gives colour has no width


def _hints(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"hints are counted from 1; got {text}")
    return int(text)
