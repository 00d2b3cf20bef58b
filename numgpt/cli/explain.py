"""numgpt explain: a derivation, and the same with numbers."""

import argparse
from collections.abc import Callable

import numpy as np

from numgpt.teach import terminal
from numgpt.teach.derivation import Broken
from numgpt.teach.explain import explain, find, names
from numgpt.teach.paragraphs import fill

EXAMPLES = """examples:
  numgpt explain                                   the names, with a sentence each
  numgpt explain layernorm
  numgpt explain block --shape 1,3,4 --seed 1      three tokens, four channels in two heads, other numbers
  numgpt explain softmax-cross-entropy --float32
  numgpt explain gpt | less                        a whole model's ledger
In a notebook: from numgpt.teach.explain import explain; explain("layernorm")
"""


def _gpt(arguments):
    """The ledger of a model like nano, of the width that --shape says."""
    from numgpt.config import GPTConfig
    from numgpt.teach.ledger import ledger

    drawn = dict(seed=arguments.seed, dtype=_dtype(arguments))
    if arguments.shape is None:
        return ledger(**drawn)
    B, T, C = arguments.shape
    try:
        config = GPTConfig.preset("nano", n_ctx=max(T, 1), n_embd=C, n_head=max(n for n in (1, 2, 3) if C % n == 0))
        return ledger(config, batch=B, n_tokens=T, **drawn)
    except ValueError as error:
        arguments.error(str(error))


# Names that have pages of their own: a sentence, and what makes the page, with ok, from (arguments).
PAGES: dict[str, tuple[str, Callable]] = {
    "gpt": ("A whole model of two layers: each tensor's formula, size, gradient, bytes and FLOPs, which add up.", _gpt)}


def register(commands) -> None:
    parser = commands.add_parser(
        "explain", help="a layer's derivation, and the same with numbers",
        description="Print the derivation of a layer's backward as its docstring has it, then the same with numbers:\n"
                    "each line run on a tiny example, each line of backward beside the line that it undoes, and every\n"
                    "gradient beside a finite difference and a complex step. All numbers come from running the layer;\n"
                    "exit status 1 if anything in it disagrees. Without a name, print the names.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layer", nargs="?", metavar="LAYER",
                        help="a layer, or block, gpt, adamw, softmax-cross-entropy, weight-tying (default: list all)")
    parser.add_argument("--seed", type=_seed, default=0, help="of the example's numbers (default: 0)")
    parser.add_argument("--shape", type=_shape, metavar="B,T,C",
                        help="sequences, tokens and channels (default: 1,2,3, with more where that hides something)")
    parser.add_argument("--float32", action="store_true",
                        help="run the example in single precision; derivatives are measured in double")
    parser.set_defaults(run=run, error=parser.error)


def run(arguments) -> int:
    if arguments.layer is None:
        if arguments.shape or arguments.float32 or arguments.seed:
            arguments.error("of what? name a layer")
        print(_list(terminal.width()))
        return 0
    if arguments.layer.lower() in PAGES:
        page = PAGES[arguments.layer.lower()][1](arguments)
        print(page)
        return 0 if page.ok else 1
    try:
        name = find(arguments.layer, also=PAGES)
        explanation = explain(name, seed=arguments.seed, shape=arguments.shape, dtype=_dtype(arguments))
    except Broken as error:
        print(f"WRONG: {error}")
        return 1
    except ValueError as error:
        arguments.error(str(error))
    print(explanation.text(ink=terminal.Ink(terminal.coloured())))
    return 0 if explanation.ok else 1


def _dtype(arguments):
    return np.float32 if arguments.float32 else np.float64


def _list(width: int) -> str:
    sentences = names() | {name: sentence for name, (sentence, _) in PAGES.items()}
    margin = max(map(len, sentences)) + 2
    return "\n".join(line for name, sentence in sentences.items()
                     for line in fill(sentence, max(width, margin + 20), f"{name:{margin}}", " " * margin))


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a seed is a whole number from 0 on; got {text}")
    return int(text)


def _shape(text: str) -> tuple[int, ...]:
    numbers = text.split(",")
    if len(numbers) != 3 or not all(number.strip().isdecimal() for number in numbers):
        raise argparse.ArgumentTypeError(f"a shape is three whole numbers, B,T,C, such as 1,2,3; got {text}")
    return tuple(map(int, numbers))
