"""What compare and diagnose have in common: a trace, and what a port has dumped."""

from numgpt.cli.options import path
from numgpt.files import FormatError, read_json
from numgpt.verify import dumps
from numgpt.verify.compare import EPS
from numgpt.verify.dumps import Dump
from numgpt.verify.trace import Trace


def add_arguments(parser) -> None:
    parser.add_argument("trace", type=path, metavar="REF", help="a trace: what numgpt trace has written")
    parser.add_argument("dump", type=path, metavar="MINE",
                        help="what the port has dumped: a safetensors file, .npz, a folder of .npy, llm.c's debug state, or PyTorch's .pt; all of it or a part")
    parser.add_argument("--map", type=path, metavar="NAMES.json", help='the port\'s names and those of the trace: {"h.*.ln1": "forward.blocks.*.norm1", ...}')
    parser.add_argument("--precision", choices=tuple(EPS), help="the type in which the port computes (default: that in which its numbers are stored)")
    parser.add_argument("--json", action="store_true", help="print all that was found as JSON")


def read(arguments) -> tuple[Trace, Dump]:
    trace = Trace.read(arguments.trace)
    return trace, dumps.read(arguments.dump, trace.config, reference=trace, names=name_map(arguments.map))


def name_map(file) -> dict | None:
    if file is None:
        return None
    names = read_json(file)
    wrong = next((key for key, value in names.items() if not isinstance(value, str | None)), None)
    if wrong is not None:
        raise FormatError(f"{file}: {wrong!r} stands for {names[wrong]!r}: a map goes from the port's names to those of the trace, "
                          "or to null for what is to be left out")
    return names
