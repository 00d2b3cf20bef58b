"""The command line: `numgpt COMMAND`, one small file a command."""

import argparse
import sys

from numgpt import __version__
from numgpt.cli import gradcheck

COMMANDS = (gradcheck,)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="numgpt", description="A GPT in NumPy alone, with every gradient derived by hand.")
    parser.add_argument("--version", action="version", version=f"numgpt {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.register(commands)
    arguments = parser.parse_args(argv)
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, say `head`, has seen enough
        sys.stderr.close()
        return 0
