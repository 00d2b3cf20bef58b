"""numgpt attention: who looks at whom in a text, head by head."""

import argparse

from numgpt.cli import models
from numgpt.cli.options import bytes_of, called, target
from numgpt.files import FormatError
from numgpt.teach.look import look
from numgpt.teach.terminal import Ink, coloured, width

MOST = 200  # columns
EXAMPLES = """examples:
  numgpt attention runs/char-cpu-1 --text "to be or not to be"     how each head looks, and the last layer token by token
  numgpt attention gpt2/ --text "the cat sat; the cat" --layer 5 --head 1
  numgpt attention gpt2/ --text - --at -1 < notes.txt              the text as its last token sees it
  numgpt attention runs/char-cpu-1 --text "to be or not" --layer 0 --out layer0.png
"""


def register(commands) -> None:
    parser = commands.add_parser(
        "attention", help="who looks at whom in a text, head by head", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Show what the attention heads of a model do with a text: how each looks on average, and for the heads\n"
                    "of one layer which token looks at which, as shades. The numbers are the model's own probabilities.")
    models.add_arguments(parser)
    parser.add_argument("--text", required=True, metavar="TEXT", help="what is looked at; - reads it from standard input")
    parser.add_argument("--layer", type=int, metavar="N",
                        help="this layer's heads alone, counted from 0 (default: a line for each head, and the last layer)")
    parser.add_argument("--head", type=int, metavar="N", help="this head of the layer alone, counted from 0")
    parser.add_argument("--at", type=int, metavar="N",
                        help="the text as the token at this position sees it, counted from 0; -1 is the last")
    parser.add_argument("-o", "--out", type=target, metavar="FILE",
                        help="draw the heads, too, to a PNG (or what the name ends in: .pdf, .svg); it needs matplotlib")
    parser.add_argument("--allow-special", action="store_true",
                        help="special tokens in the text, such as <|endoftext|>, are those tokens")
    parser.set_defaults(run=run, error=parser.error)


def run(arguments) -> int:
    model, tokenizer = models.loaded(arguments)
    text = bytes_of("-") if arguments.text == "-" else arguments.text.encode("utf-8", "surrogateescape")
    name = called("-") if arguments.text == "-" else "the text"
    ids = models.encoded(tokenizer, text, name, arguments.allow_special)
    if not ids:
        raise FormatError(f"{name} is empty: there is no token to look from")
    try:
        seen = look(model, ids, tokenizer)
        view = seen.view(layer=arguments.layer, head=arguments.head, at=arguments.at)
    except ValueError as error:  # a layer, a head or a position that there is not
        raise FormatError(str(error)) from None
    columns, ink = width(MOST), Ink(coloured())
    if (arguments.layer, arguments.head, arguments.at) == (None, None, None):
        print(seen.text(columns, ink))
    else:
        print("\n\n".join(filter(None, [seen.note(columns), view.text(columns, ink)])))
    if arguments.out is not None:
        view.picture(arguments.out)
        print(arguments.out)
    return 0
