"""The command line: `numgpt COMMAND`, one small file a command."""

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Iterable
from importlib import import_module

from numgpt import __version__

COMMANDS = ("train", "finetune", "classify", "chat", "align", "sample", "score", "attention", "plot", "plan", "tokenize", "convert",
            "gradcheck", "trace", "compare", "diagnose", "audit", "explain", "exercise", "ablate")
VERDICTS = ("gradcheck", "compare", "diagnose", "audit", "explain", "exercise")  # whose exit status tells what they found


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    try:
        return _called(argv)
    except KeyboardInterrupt:  # while modules are loaded, too
        return 130


def _called(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="numgpt", description="A GPT in NumPy alone, with every gradient derived by hand.")
    parser.add_argument("--version", action="version", version=f"numgpt {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in _needed(argv):
        import_module(f"numgpt.cli.{name}").register(commands)
    arguments, rest = parser.parse_known_args(argv)
    if rest and hasattr(arguments, "files") and not any(word.startswith("-") and word != "-" for word in rest):
        arguments.files += rest  # those that stand behind an option, which argparse leaves over
    elif rest:
        arguments.error(f"unrecognized arguments: {' '.join(rest)}")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no reason to fail
    from numgpt.files import FormatError  # here, so that --version waits for no NumPy
    try:
        with contextlib.redirect_stdout(_Patient(sys.stdout)) if argv[0] in VERDICTS and sys.stdout is not None else contextlib.nullcontext():
            status = arguments.run(arguments)
        try:
            if sys.stdout is not None:
                sys.stdout.flush()  # a reader that has gone, or a disk that is full, is met here and not on the way out
        except BrokenPipeError:
            _abandon_output()
        return status
    except FormatError as error:
        return _failed(str(error))
    except ImportError as error:
        from numgpt.verify.adapters import Missing
        if not isinstance(error, Missing):
            raise
        return _failed(str(error))
    except BrokenPipeError:  # the reader, say `head`, has seen enough
        _abandon_output()
        return 0
    except OSError as error:  # a file that is not there, or may not be written
        if error.filename is None:
            _abandon_output()
        return _failed(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error))


class _Patient:
    """Standard output of a command that goes on to its verdict when the reader has left."""

    def __init__(self, stream):
        self.stream = stream

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except BrokenPipeError:
            _abandon_output()
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except BrokenPipeError:
            _abandon_output()


def _needed(argv: list[str]) -> Iterable[str]:
    """The commands to load: the one that is called, none for --version, and all for help and for what is no command."""
    first = argv[0] if argv else None
    if first == "--version":
        return ()
    return (first,) if first in COMMANDS else COMMANDS


def _failed(sentence: str) -> int:
    if sys.stderr is not None:  # else print would take standard output for it
        print(f"numgpt: {sentence}", file=sys.stderr)
    return 1


def _abandon_output() -> None:
    """What standard output still holds goes nowhere, or Python would try once more as it ends, and complain."""
    with contextlib.suppress(OSError, AttributeError):  # there is no such stream, or it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
