"""numgpt ablate: what each part of a GPT is for."""

import argparse
import json
import sys

from numgpt.cli.options import target
from numgpt.files import replaceable, replacing
from numgpt.teach.ablate import STEPS, TRAINING, ablate
from numgpt.teach.ablate.course import PARTS, Run
from numgpt.teach.terminal import Ink, coloured, width

EXAMPLES = """examples:
  numgpt ablate                        every part in turn, in about a minute on two cores
  numgpt ablate residual norm
  numgpt ablate post-norm warm-up post-norm+warm-up
  numgpt ablate post-norm --lr 0.001       at a learning rate that it bears
  numgpt ablate mask --steps 1000 --json mask.json
"""


def register(commands) -> None:
    parser = commands.add_parser(
        "ablate", help="train a tiny GPT with one part missing, beside the whole", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train the same tiny GPT with one thing missing, from the same weights on the same batches, and print\n"
                    "its loss, and the length of its gradient block by block, beside the whole model's: what each part\n"
                    "is for.")
    add = parser.add_argument
    add("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}, or several at once with + (default: each of them)")
    add("--steps", type=int, default=STEPS, metavar="N", help=f"of training (default: {STEPS})")
    add("--seed", type=int, default=0, metavar="N",
        help="of weights and batches (default: 0); the same seed prints the same figures")
    add("--lr", type=float, default=TRAINING["lr"], metavar="RATE",
        help=f"highest learning rate (default: {TRAINING['lr']}, more than one would choose: one sees what norms and the "
             "warm-up are for)")
    add("--json", type=target, metavar="FILE", help="write all figures there too, with the loss of every step")
    add("--list", action="store_true", help="print the parts, and what a model without each is")
    parser.set_defaults(run=run, error=parser.error)


def run(arguments) -> int:
    if arguments.list:
        for name, (title, what) in PARTS.items():
            print(f"{name:10}  {title}: {what}")
        return 0
    if arguments.json is not None:
        replaceable(arguments.json)
    try:
        found = ablate(*arguments.parts, steps=arguments.steps, seed=arguments.seed, lr=arguments.lr, report=_said)
    except (ValueError, TypeError) as error:
        arguments.error(str(error))
    if arguments.json is not None:
        with replacing(arguments.json) as file:
            file.write(json.dumps(found.to_dict(), indent=1).encode())
    print(found.text(width(), Ink(coloured())))
    return 0


def _said(run: Run) -> None:
    """While one waits."""
    if sys.stderr is not None and sys.stderr.isatty():
        print(f"{run.title}: {run.broke or f'{run.loss:.3f}'} ({run.seconds:.0f} s)", file=sys.stderr)
