"""numgpt classify: what a fine-tuned model takes lines for."""

import argparse
import contextlib
import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from numgpt import formats
from numgpt.cli.finetune import JSON
from numgpt.cli.options import called, path
from numgpt.files import FormatError
from numgpt.layers.inputs import positive
from numgpt.teach.terminal import width
from numgpt.text import load_tokenizer
from numgpt.threads import keep_memory, one_blas_thread
from numgpt.tuning import files
from numgpt.tuning.classifier import HEADS, Classifier
from numgpt.tuning.classify import Lines, Verdict, classified, confusion
from numgpt.tuning.examples import BadLines
from numgpt.tuning.lines import shown
from numgpt.tuning.tuned import Tuned

EXAMPLES = """examples:
  numgpt classify runs/classify-1 films.txt               a text a line; a label and its probability a line
  echo "([])" | numgpt classify runs/classify-1
  numgpt classify runs/classify-1 test.jsonl --table      accuracy, precision and recall, and what is taken for what
  numgpt classify runs/pairs-1 pairs.jsonl --json         {"a": ..., "b": ...} a line; an object a line
"""


def register(commands) -> None:
    parser = commands.add_parser(
        "classify", help="what a fine-tuned model takes lines for", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Print for each line the label that a model gives it, and how probable it is. A line is a text,\n"
                    'or an object of JSON as numgpt finetune reads it: wherever it has a "text", such as {"text": "a fine film"};\n'
                    "always in files that end in .jsonl, and for pairs and choices. Of choices, the label is the number of\n"
                    "one, counted from 0.")
    parser.add_argument("model", type=path, metavar="RUN",
                        help="a run of numgpt finetune, whose best model is taken, or a file of one")
    parser.add_argument("files", nargs="*", metavar="FILE",
                        help="lines; - or none is standard input, which is answered line by line")
    add = parser.add_argument
    add("--all", action="store_true", help="every label and its probability, the highest first")
    add("--json", action="store_true", help="print objects of JSON")
    add("--table", action="store_true",
        help="of lines that say what is right: accuracy, precision, recall and what is taken for what")
    add("--truncate", action="store_true", help="cut texts that are too long for the context")
    add("--skip-bad", action="store_true",
        help="count lines that cannot be used, and leave them out; else the first ends the command")
    add("--batch", type=int, default=32, metavar="B", help="lines of a file that are read together (default: 32)")
    add("--tokenizer", type=path, metavar="PATH", help="where the model's tokenizer lies (default: in the run)")
    parser.set_defaults(run=run, error=parser.error)


def run(arguments) -> int:
    try:
        positive(arguments.batch, "--batch")
    except (TypeError, ValueError) as error:
        arguments.error(str(error))
    if arguments.all and arguments.table:
        arguments.error("--all is of each line, --table of all of them: say one")
    model, tokenizer = _loaded(arguments)
    names, bad = arguments.files or ["-"], BadLines(arguments.skip_bad)
    at_once = "-" in names
    verdicts = (verdict for name in names for verdict in _verdicts(arguments, model, tokenizer, name, bad))
    keep_memory()
    try:
        with one_blas_thread():  # matrices this small are slower with more
            if arguments.table:
                _table(arguments, verdicts, names)
            else:
                for verdict in verdicts:
                    print(_line(verdict, arguments), flush=at_once)
    except KeyboardInterrupt:
        return 130
    if len(bad):
        print(f"left out: {bad}", file=sys.stderr)
    return 0


def _loaded(arguments) -> tuple[Classifier, object]:
    if not arguments.model.exists():
        raise FormatError(f"there is no run {arguments.model}")
    model = files.load(arguments.model)
    if not isinstance(model, Classifier):
        kind = model.about()["kind"] if isinstance(model, Tuned) else None
        what = f"was tuned to {kind}, not" if kind else "tells which token comes next, and was not tuned"
        *others, last = HEADS
        what += f" to classify: numgpt finetune --task {', '.join(others)} or {last} makes a model that does"
        raise FormatError(f"{arguments.model} {what}")
    tokenizer = load_tokenizer(arguments.tokenizer) if arguments.tokenizer else formats.tokenizer_of(arguments.model)
    if tokenizer is None:
        raise FormatError(f"no tokenizer lies with {arguments.model}: name one with --tokenizer")
    if tokenizer.n_vocab > model.template.n_base:
        raise FormatError(f"the tokenizer has {tokenizer.n_vocab} tokens, the model {model.template.n_base} and those between "
                          "texts: the one belongs to another model")
    return model, tokenizer


def _verdicts(arguments, model: Classifier, tokenizer, name: str, bad: BadLines) -> Iterator[Verdict]:
    plain = model.template.kind == "classify" and Path(name).suffix not in JSON
    terminal = name == "-" and sys.stdin is not None and sys.stdin.isatty()
    if terminal:
        print(f"{'a text' if plain else 'an object of JSON'} a line; Ctrl-D ends", file=sys.stderr)
        bad = _Told()
    lines = Lines(model, bad, plain=plain, answers=arguments.table)
    with _opened(name) as file:
        batch = 1 if _interactive(name) else arguments.batch
        items = lines.read(iter(file.readline, b""), called(name))
        yield from classified(model, tokenizer, items, bad, batch=batch, truncate=arguments.truncate)


class _Told(BadLines):
    """Somebody who types may type again."""

    def add(self, origin, error) -> None:
        print(f"line {origin.line}: {error}", file=sys.stderr)


def _opened(name: str):
    if name != "-":
        return open(name, "rb")
    if sys.stdin is None:
        raise FormatError("standard input is closed: name a file, or give it something to read")
    return contextlib.nullcontext(sys.stdin.buffer)


def _interactive(name: str) -> bool:
    """Whether somebody, or a program, may wait for the answer to a line before the next."""
    return name == "-" and not stat.S_ISREG(os.fstat(sys.stdin.fileno()).st_mode)


def _line(verdict: Verdict, arguments) -> str:
    best = verdict.names[verdict.best]
    if not arguments.json:
        pairs = verdict.ranked() if arguments.all else verdict.ranked()[:1]
        return "\t".join(part for name, probability in pairs for part in (_said(name), f"{probability:.4f}"))
    content = {"file": verdict.origin.file, "line": verdict.origin.line}
    key = "answer" if hasattr(verdict.item, "choices") else "label"
    content[key] = best
    if key == "answer":
        content["choice"] = verdict.item.choices[best]
    content["probability"] = float(verdict.probabilities[verdict.best])
    if arguments.all:
        content["probabilities"] = [{key: name, "probability": probability} for name, probability in verdict.ranked()]
    return json.dumps(content, ensure_ascii=False)


def _said(name) -> str:
    """A text as it is, unless it would not stay one field of one line."""
    plain = isinstance(name, str) and name.isprintable()
    return name if plain else shown(name)


def _table(arguments, verdicts, names) -> None:
    found = confusion(verdicts)
    if found is None:
        raise FormatError(f"{', '.join(map(called, names))}: there is no line to judge")
    print(json.dumps(found.to_dict(), ensure_ascii=False) if arguments.json else found.table(width()))
