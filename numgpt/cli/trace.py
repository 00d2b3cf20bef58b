"""numgpt trace: everything that a GPT computes for one batch, in a file."""

import argparse
import sys
from pathlib import Path

import numpy as np

from numgpt import formats
from numgpt.cli.configs import config_named
from numgpt.cli.options import changed, target
from numgpt.config import PRESETS, GPTConfig
from numgpt.files import FormatError, replaceable
from numgpt.formats import huggingface, llmc
from numgpt.model import GPT
from numgpt.plan import human
from numgpt.threads import keep_memory
from numgpt.verify import hard
from numgpt.verify.manifest import count
from numgpt.verify.passes import Steps
from numgpt.verify.trace import Trace, example, size_of

EXAMPLES = """examples:
  numgpt trace nano -o ref.safetensors                        a small model as it is before training
  numgpt trace gpt2 --adversarial -o hard.safetensors         GPT-2's form, small, in the case that hides nothing
  numgpt trace gpt2/ --batch 2 --tokens 16 --steps 0 -o ref.safetensors
  numgpt compare ref.safetensors mine.safetensors
"""
LARGE, WORTH_SAYING = 8 << 30, 10 ** 9  # bytes
MOST_TENSORS = 100_000  # a safetensors file's header, 100 MB at most, has the manifest in it: up to 800 bytes a tensor


def register(commands) -> None:
    parser = commands.add_parser(
        "trace", help="everything that a GPT computes for one batch, to hold a port against",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Write weights, token ids, every activation, every gradient, the loss and a few steps of AdamW into one\n"
                    "safetensors file, with a manifest that says of each tensor what it is: its shape, its formula, and how far\n"
                    "runs in float32 and bfloat16 come from it. Beside it stand the weights alone, as Hugging Face and llm.c have\n"
                    "them, so that any port can start from them. numgpt compare reads what the port then dumps.")
    parser.add_argument("model", metavar="CONFIG|PRESET|WEIGHTS", help="a preset, a config in JSON (numgpt's or Hugging Face's), or weights")
    parser.add_argument("-o", "--output", type=_output, required=True, metavar="FILE", help="the trace, ref.safetensors say")
    parser.add_argument("--seed", type=_seed, default=0, help="of weights, batch and dropout (default: 0)")
    parser.add_argument("--adversarial", action="store_true",
                        help="the hard case: sizes without a common divisor, weights of order one, large logits")
    parser.add_argument("--every-target", action="store_true", help="every target counts (else a quarter is -100, and does not)")
    parser.add_argument("--batch", type=_positive, metavar="B", help="sequences in the batch (default: 4)")
    parser.add_argument("--tokens", type=_positive, metavar="T", help="tokens in each (default: the context, at most 64; 7 if adversarial)")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", dest="changes", help="change a field of the config; may be repeated")
    parser.add_argument("--dropout", action="store_true", help="the config's dropout is at work, and its masks are in the trace")
    parser.add_argument("--decode", type=_count, default=0, metavar="N", help="so many tokens are decoded one by one: logits and the store after each (default: 0)")
    group = parser.add_argument_group("steps of AdamW")
    usual = Steps()
    group.add_argument("--steps", type=_count, default=usual.n, metavar="N", help=f"how many (default: {usual.n})")
    group.add_argument("--accumulate", type=_positive, default=usual.pieces, metavar="K", help="the gradient is added up over K pieces of the batch (default: 1)")
    for name, said in (("lr", "learning rate"), ("eps", "what is added to the root"), ("weight-decay", "of matrices and tables"),
                       ("clip", "the gradient's largest length")):
        value = getattr(usual, name.replace("-", "_"))
        group.add_argument(f"--{name}", type=_number, default=value, help=f"{said} (default: {value:g})")
    group.add_argument("--betas", type=_number, nargs=2, default=usual.betas, metavar=("B1", "B2"), help="of the two moments (default: 0.9 0.95)")
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64", help="in which the file has what is computed (default: float64)")
    parser.add_argument("--alone", action="store_true", help="no weights beside the trace")
    parser.set_defaults(run=run, error=parser.error)


def run(arguments) -> int:
    replaceable(arguments.output)
    keep_memory()
    try:
        config, model = _named(arguments)
        steps = Steps(n=arguments.steps, pieces=arguments.accumulate, lr=arguments.lr, betas=tuple(arguments.betas), eps=arguments.eps,
                      weight_decay=arguments.weight_decay, clip=arguments.clip)
        _refuse_what_is_too_large(config, arguments, steps)
        trace = example(config, seed=arguments.seed, adversarial=arguments.adversarial, model=model, batch=arguments.batch,
                        n_tokens=arguments.tokens, every_target=arguments.every_target, dropout=arguments.dropout, steps=steps, n_decode=arguments.decode)
    except FormatError:
        raise
    except (ValueError, TypeError) as error:
        arguments.error(str(error))
    trace.write(arguments.output, dtype=arguments.dtype)
    c, batch = trace.config, trace.manifest["batch"]
    print(f"{arguments.output}: {len(trace)} tensors, {human(arguments.output.stat().st_size, 'B')}, loss {float(trace['forward.loss']):.6f}")
    print(f"B {batch['B']}, T {batch['T']}, C {c.n_embd}, H {c.n_head}, D {c.head_dim}, F {c.hidden_dim}, V {c.n_vocab}, {c.n_layer} layers; "
          f"{batch['counted']} targets count")
    if not arguments.alone:
        for line in _beside(trace, arguments.output):
            print(line)
    return 0


def _named(arguments) -> tuple[GPTConfig, GPT | None]:
    """The config that a preset, a JSON file or weights stand for; and the model, if it is weights."""
    config, changes = config_named(arguments.model), dict(changed(text) for text in arguments.changes)
    if arguments.model in PRESETS or Path(arguments.model).suffix == ".json":
        return config.change(**changes), None
    if changes:
        raise ValueError("--set changes a preset or a config; weights are of the config that they are of")
    return config, formats.load(arguments.model, dtype=np.float32)


def _refuse_what_is_too_large(config: GPTConfig, arguments, steps: Steps) -> None:
    B, T = hard.BATCH if arguments.adversarial else (4, min(config.n_ctx, 64))
    config = hard.hard(config, arguments.dropout) if arguments.adversarial else config
    B, T = arguments.batch or B, arguments.tokens or T
    tensors = count(config, B, T, dropout=arguments.dropout, steps=steps, n_decode=arguments.decode)
    size = size_of(config, B, T, steps.n, np.dtype(arguments.dtype).itemsize)
    smaller = "fewer --steps, --batch and --tokens, or --dtype float32, make it smaller" + (
        "" if arguments.adversarial else "; --adversarial takes the model's form in a small size, in which mistakes hide less")
    if size > LARGE:
        raise ValueError(f"the trace would be {human(size, 'B')} large; {smaller}")
    if tensors > MOST_TENSORS:
        raise ValueError(f"the trace would have {tensors:,} tensors, and a file holds about {MOST_TENSORS:,}; fewer layers or --steps make it smaller")
    if size > WORTH_SAYING:
        print(f"the trace will be {human(size, 'B')} large; {smaller}", file=sys.stderr, flush=True)


def _beside(trace: Trace, output: Path) -> list[str]:
    """Write the weights for other programs; what was written, and what could not be."""
    model, lines = trace.model(np.float32), []
    for kind, save, ending in (("Hugging Face", huggingface.save, "-huggingface"), ("llm.c", llmc.save, "-llmc.bin")):
        place = output.with_name(output.stem + ending)
        try:
            save(model, place)
            lines.append(f"{place}: the weights for {kind}")
        except FormatError as error:
            lines.append(f"no weights for {kind}: {error}")
    return lines


def _output(text: str) -> Path:
    if text in ("/dev/stdout", "/dev/stderr") or text.startswith(("/dev/fd/", "/proc/self/fd/")):
        raise argparse.ArgumentTypeError(f"a trace is written whole or not at all, which {text} cannot be: name a file")
    return target(text)


def _seed(text: str) -> int:
    return _whole(text, 0, "a seed")


def _count(text: str) -> int:
    return _whole(text, 0, "a count")


def _positive(text: str) -> int:
    return _whole(text, 1, "it")


def _whole(text: str, least: int, what: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{what} is a whole number from {least} on; got {text}")
    return int(text)


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"it is a number from 0 on; got {text}")
    return number
