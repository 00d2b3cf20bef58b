"""numgpt diagnose: the name of the mistake in a port."""

import argparse
import json
import sys

from numgpt.cli import porting
from numgpt.files import FormatError
from numgpt.verify.diagnose import diagnose

EXAMPLES = """examples:
  numgpt diagnose ref.safetensors mine.safetensors
  numgpt diagnose ref.safetensors dump/ --map names.json --json
"""


def register(commands) -> None:
    parser = commands.add_parser(
        "diagnose", help="the name of the mistake in a port", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Run each operation again on what the port has dumped, so that one that is wrong fails alone; then run numgpt with every\n"
                    "known mistake in it, with every convention that a port may have otherwise, and with two of them: the one that\n"
                    "reproduces the port's numbers is named, with the line of the derivation that it breaks. The more the port dumps, the\n"
                    "surer the answer; gradients of the parameters alone will often do. Exit status 0 if nothing is wrong, 1 if something is.")
    porting.add_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments) -> int:
    trace, dump = porting.read(arguments)
    watching = sys.stderr is not None and sys.stderr.isatty()
    try:
        diagnosis = diagnose(trace, dump, kind=arguments.precision, report=lambda said: watching and print(said, file=sys.stderr, flush=True))
    except ValueError as error:
        raise FormatError(f"{arguments.dump}: {error}") from None
    print(json.dumps(diagnosis.to_dict(), indent=1, allow_nan=False) if arguments.json else diagnosis)
    return 0 if diagnosis.ok else 1
