"""numgpt convert: weights from one program's files to another's."""

import argparse
from pathlib import Path

from numgpt import formats
from numgpt.cli.options import path
from numgpt.files import FormatError
from numgpt.formats import huggingface, llmc, pytorch
from numgpt.layers import ACTIVATIONS
from numgpt.model import GPT
from numgpt.tuning import adapters, files
from numgpt.verify.adapters import torch_checkpoint

DTYPES = ("float64", "float32", "float16", "bfloat16")


def register(commands) -> None:
    parser = commands.add_parser(
        "convert", help="turn weights of one program into another's",
        description="Read a model and write it for another program. What IN is, is told from what is there: a folder of "
                    "Hugging Face (GPT-1 or GPT-2), llm.c's .bin, numgpt's .safetensors or run, or a .pt of nanoGPT or minGPT "
                    "(where torch is installed). What OUT becomes, is told from its name: .safetensors numgpt's, .bin "
                    "llm.c's, a folder Hugging Face's. What the other program cannot represent is refused by name.")
    parser.add_argument("source", metavar="IN", type=path)
    parser.add_argument("target", metavar="OUT", type=path)
    parser.add_argument("--to", choices=("huggingface", "llmc", "numgpt"), help="what OUT becomes, whatever its name")
    parser.add_argument("--dtype", choices=DTYPES, help="type of the numbers in OUT (default: as in IN, but 16-bit numbers as float32; llm.c: float32)")
    parser.add_argument("--shard-bytes", type=_bytes, metavar="N", help="huggingface: at most so many bytes of tensors a file, as 5GB or 500MB")
    parser.add_argument("--n-head", type=int, metavar="H", help="minGPT: how many heads, which its files do not say; "
                        "a wrong number gives a wrong model")
    parser.add_argument("--activation", choices=ACTIVATIONS, help="nanoGPT, minGPT: which one, which their files do not say "
                        "(default: gelu for nanoGPT, whose first months had gelu_tanh; gelu_tanh for minGPT)")
    parser.add_argument("--adapters", type=path, metavar="FILE", help="LoRA's matrices, trained on IN, to be merged into its weights; new "
                        "tokens come with them, and into .safetensors the task that they were trained to (the tokenizer stays IN's)")
    parser.add_argument("--force", action="store_true", help="write over what OUT holds")
    parser.set_defaults(run=run, error=parser.error)


def run(arguments) -> int:
    source, target = arguments.source, arguments.target
    to = arguments.to or _told_from(target, arguments.error)
    if arguments.shard_bytes and to != "huggingface":
        arguments.error("--shard-bytes is for Hugging Face's folders")
    if not arguments.force and target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FormatError(f"{target} exists: choose another name, or --force to write over it")
    kind = formats.kind_of(source)
    if kind == "pytorch":
        model = pytorch.build(torch_checkpoint(source), str(source), n_head=arguments.n_head, activation=arguments.activation)
    elif arguments.n_head is not None or arguments.activation:
        arguments.error(f"--n-head and --activation are for .pt files; {source} says both itself")
    else:
        # Others have no place for what it was tuned to, and with adapters it is what these were trained to.
        model = (files if to == "numgpt" and not arguments.adapters else formats).load(source)
    if adapters.adapters(model):  # of a run's checkpoint
        adapters.merge(model)
    if arguments.adapters:
        if to == "numgpt":
            model = files.with_adapters(model, arguments.adapters)
        else:
            adapters.load(model, arguments.adapters)
        adapters.merge(model)
    dtype = arguments.dtype or ("float32" if to == "llmc" else model.values.dtype.name)
    try:
        _save(model, target, to, dtype, arguments.shard_bytes)
    except (TypeError, ValueError) as error:  # a type that the format does not have, or that is too narrow
        raise FormatError(str(error)) from None
    own = files.told_at(source) if to != "numgpt" else None
    if own is not None:
        what = own.get("kind")
        lost = f"that it was tuned to {what}" if what in files.HEADLESS else f"a head for {what}"
        print(f"note: {target} has the GPT alone; {lost} and the tokens' names are only in numgpt's own files")
    beside = f" with {arguments.adapters} merged" if arguments.adapters else ""
    print(f"{source} ({kind}){beside} -> {target} ({to}): {model.n_params:,} parameters in {dtype}")
    return 0


def _save(model: GPT, target: Path, to: str, dtype: str, shard_bytes: int | None) -> None:
    if to == "huggingface":
        huggingface.save(model, target, dtype=dtype, shard_bytes=shard_bytes)
    elif to == "llmc":
        llmc.save(model, target, dtype=dtype)
    else:
        model.save(target, dtype=dtype)


def _told_from(target: Path, error) -> str:
    if target.is_dir() or not target.suffix:
        return "huggingface"
    kinds = {".safetensors": "numgpt", ".bin": "llmc"}
    if target.suffix not in kinds:
        error(f"the name {target} does not tell what it should become: say --to")
    return kinds[target.suffix]


def _bytes(text: str) -> int:
    number, factor = text.upper().removesuffix("B"), 1
    if number and number[-1] in "KMGT":
        number, factor = number[:-1], 1000 ** (1 + "KMGT".index(number[-1]))
    if not number.isdecimal() or int(number) < 1:
        raise argparse.ArgumentTypeError(f"a size is a number of bytes, such as 5000000, 500MB or 5GB; got {text}")
    return int(number) * factor
