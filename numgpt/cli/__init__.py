"""The command line: `numgpt COMMAND`, one small file a command."""

import argparse
import io
import sys
from pathlib import Path

from numgpt import __version__
from numgpt.cli import convert, gradcheck, plan, tokenize
from numgpt.files import FormatError
from numgpt.verify.adapters import Missing

COMMANDS = (plan, tokenize, convert, gradcheck)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="numgpt", description="A GPT in NumPy alone, with every gradient derived by hand.")
    parser.add_argument("--version", action="version", version=f"numgpt {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.register(commands)
    arguments, rest = parser.parse_known_args(argv)
    if rest and hasattr(arguments, "files") and not any(word.startswith("-") for word in rest):
        arguments.files += map(Path, rest)  # those that stand behind an option, which argparse leaves over
    elif rest:
        arguments.error(f"unrecognized arguments: {' '.join(rest)}")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no reason to fail
    try:
        return arguments.run(arguments)
    except (FormatError, Missing) as error:
        return _failed(str(error))
    except BrokenPipeError:  # the reader, say `head`, has seen enough
        sys.stderr.close()
        return 0
    except OSError as error:  # a file that is not there, or may not be written
        return _failed(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        return 130


def _failed(sentence: str) -> int:
    print(f"numgpt: {sentence}", file=sys.stderr)
    return 1
