"""numgpt audit: somebody's gradients held against themselves, with no reference."""

import argparse
import json
import re
from pathlib import Path

from numgpt import safetensors
from numgpt.cli.configs import config_named
from numgpt.cli.options import changed, path, said
from numgpt.cli.porting import name_map
from numgpt.config import GPTConfig
from numgpt.files import FormatError
from numgpt.plan import shapes
from numgpt.verify import dumps
from numgpt.verify.audit import Audit, audit
from numgpt.verify.trace import FORMAT

LAYER = re.compile(r"\b(?:blocks|layers?|h)\.(\d{1,9})\.")
SHOWN = 5  # of the names that mean nothing
EXAMPLES = """examples:
  numgpt audit dump.safetensors                        one file with weights.* and grads.*, and the config in its metadata
  numgpt audit gpt2_124M.bin gpt2_124M_debug_state.bin
  numgpt audit weights.npz grads.npz --config gpt2 --set n_layer=2 --no-dropout
  numgpt audit dump.npz --config config.json --map names.json
with names.json as in {"enc/*/Wqkv": "weights.blocks.*.attention.qkv.weight", "enc/*/dWqkv": "grads.blocks.*.attention.qkv.weight"}
"""


def register(commands) -> None:
    parser = commands.add_parser(
        "audit", help="find mistakes in gradients by themselves, without a reference",
        description="Hold the gradients of any GPT against the equations that correct ones obey among themselves: the key\n"
                    "bias's is 0, the two tables' have the same sum, and so on. Nothing else is needed than parameters and their\n"
                    "gradients: no data, no reference. What is found is wrong; what is not found may still be. A line for each\n"
                    "equation; exit status 1 if one is broken.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=path, metavar="WEIGHTS",
                        help="a model (a run, numgpt's or llm.c's file, Hugging Face's folder) or a dump: .safetensors, .npz, a folder of .npy, "
                             "a .pt of PyTorch")
    parser.add_argument("grads", type=path, nargs="?", metavar="GRADS",
                        help="a dump of their gradients, by the same names, or llm.c's debug state (default: in WEIGHTS)")
    parser.add_argument("--config", metavar="FILE|PRESET", help="what model it is, where WEIGHTS does not say: a JSON file, numgpt's or Hugging "
                        "Face's, or a preset")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", dest="changes",
                        help="change a field of the config, as in --set n_layer=2; may be repeated")
    parser.add_argument("--no-dropout", action="store_true", help="the gradients were made without dropout, whatever the config says of it")
    parser.add_argument("--map", type=path, metavar="FILE", dest="names",
                        help="JSON from names in the files to names of a trace, where * stands for a layer's number")
    parser.add_argument("--json", action="store_true", help="print all lines as JSON")
    parser.set_defaults(run=run, error=parser.error)


def run(arguments) -> int:
    try:
        config = _config(arguments).change(**dict(changed(text) for text in arguments.changes))
    except FormatError:
        raise
    except (ValueError, TypeError) as error:
        arguments.error(said(error))
    if arguments.no_dropout or _without_dropout(arguments.grads or arguments.weights):
        config = config.change(dropout_embd=0.0, dropout_attn=0.0, dropout_resid=0.0)
    _refuse_what_is_too_deep(config, arguments)
    names = name_map(arguments.names)
    read = [dumps.read(arguments.weights, config, names=names, bare="weights")]
    if arguments.grads is not None:
        read.append(dumps.read(arguments.grads, config, names=names, bare="grads"))
    report = _audited(config, read)
    print(json.dumps(report.to_dict()) if arguments.json else report)
    return 0 if report.ok else 1


def _audited(config: GPTConfig, read: list[dumps.Dump]) -> Audit:
    weights, grads = _of(read[0], "weights.", config), _of(read[-1], "grads.", config)
    if not weights:
        raise FormatError(f"{read[0].path} has no weights" + _hint(read[0]))
    if not grads:
        raise FormatError(f"{read[-1].path} has no gradients" + ("; name the file that has them second" if len(read) == 1 else "") + _hint(read[-1]))
    kinds = {name: read[-1].kinds[f"grads.{name}"] for name in grads}
    unmapped = [set(dump.notes) for dump in read]
    notes = [note for dump in read for note in dump.notes if not note.startswith("the map's") or len(read) == 1 or all(
        any(other.startswith(note.partition(" is the name")[0]) for other in found) for found in unmapped)]
    return audit(config, weights, grads, kinds=kinds, notes=tuple(filter(None, dict.fromkeys([*notes, *(_deeper(dump, config) for dump in read), *map(_unknown, read)]))))


def _without_dropout(path: Path) -> bool:
    """Whether a file is a trace that says of itself that no dropout was at work."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    with safetensors.File(path) as file:
        try:
            return file.metadata.get("format") == FORMAT and json.loads(file.metadata["manifest"])["dropout"] is False
        except (KeyError, TypeError, ValueError, RecursionError):  # its gradients may be right all the same
            return False


def _refuse_what_is_too_deep(config: GPTConfig, arguments) -> None:
    """A hundred million layers are not to be looked for by name in a file which has no room for them."""
    for path in filter(None, (arguments.weights, arguments.grads)):
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size
        if config.n_layer * config.n_embd > size:  # a byte for each number of one gain in each layer, the least that there can be
            raise FormatError(f"{path} has {size} bytes, which is too few tensors for {config.n_layer} layers of width {config.n_embd}: "
                              "say with --set n_layer how many it has")


def _of(dump: dumps.Dump, kind: str, config: GPTConfig) -> dict:
    return {name: dump.arrays[kind + name] for name, _ in shapes(config) if kind + name in dump.arrays}


def _hint(dump: dumps.Dump) -> str:
    unknown = _unknown(dump)
    return f": {unknown}; say with --map what they are" if unknown else ""


def _deeper(dump: dumps.Dump, config: GPTConfig) -> str:
    layers = sorted({int(layer) for name in dump.unknown for layer in LAYER.findall(name) if int(layer) >= config.n_layer})
    which = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]} to {layers[-1]}" if layers else ""
    return f"not looked at: {which} of {dump.path}, counted from 0, for the config has {config.n_layer}" if layers else ""


def _unknown(dump: dumps.Dump) -> str:
    if not dump.unknown:
        return ""
    shown = [name + (f" ({near}?)" if near else "") for name, near in list(dump.unknown.items())[:SHOWN]]
    more = len(dump.unknown) - len(shown)
    return f"names in {dump.path} that mean nothing here: {', '.join(shown)}" + (f" and {more} more" if more else "")


def _config(arguments) -> GPTConfig:
    if arguments.config is not None:
        return config_named(arguments.config)
    try:
        return config_named(arguments.weights)
    except FormatError as error:
        raise FormatError(f"{arguments.weights} does not say what model it is ({error}): say it with --config") from None
