"""numgpt compare: a port's tensors beside a trace's."""

import argparse

from numgpt.cli import porting
from numgpt.files import FormatError
from numgpt.verify.compare import compare

EXAMPLES = """examples:
  numgpt trace gpt2 --adversarial -o ref.safetensors
  numgpt compare ref.safetensors mine.safetensors
  numgpt compare ref.safetensors dump/ --map names.json --wrong
  numgpt compare ref.safetensors gpt2_debug_state.bin
"""


def register(commands) -> None:
    parser = commands.add_parser(
        "compare", help="a port's tensors beside a trace's: the first that differs",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Hold what a port has dumped against a trace, tensor by tensor in the order in which they are computed: the largest\n"
                    "difference, the length of the difference as a share of the tensor's, the cosine between the two, the number by\n"
                    "which the reference is best multiplied. A tensor differs if it is off by more than the port's type makes of rounding,\n"
                    "which was measured when the trace was made. Exit status 1 if one does.")
    porting.add_arguments(parser)
    parser.add_argument("--wrong", action="store_true", help="show only what differs")
    parser.set_defaults(run=run)


def run(arguments) -> int:
    trace, dump = porting.read(arguments)
    try:
        comparison = compare(trace, dump, kind=arguments.precision)
    except ValueError as error:
        raise FormatError(f"{arguments.dump}: {error}") from None
    if arguments.json:
        print(comparison.to_json())
    else:
        rows = comparison.wrong if arguments.wrong else comparison.rows
        if rows:
            print(comparison.table(rows))
        print(comparison.summary())
        if not comparison.ok:
            print(f"the name of the mistake: numgpt diagnose {arguments.trace} {arguments.dump}" + (f" --map {arguments.map}" if arguments.map else ""))
    return 0 if comparison.ok else 1
