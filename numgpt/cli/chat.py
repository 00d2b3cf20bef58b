"""numgpt chat: speak with a model that was taught to answer."""

import argparse
import contextlib
import json
import re
import sys
from collections.abc import Iterator

from numgpt.cli import models
from numgpt.files import FormatError
from numgpt.sample import Filters
from numgpt.teach.terminal import Ink, coloured
from numgpt.tuning import files
from numgpt.tuning.talk import Talk

JUDGES = ("reward",)  # kinds that have the tokens of a turn, and were not taught to write any
COMMANDS = {"/reset": "forgets what was said", "/quit": "ends (as Ctrl-D does)"}
EXAMPLES = """examples:
  numgpt finetune --task instruct               a small model learns to sort and to add, asked in words
  numgpt chat runs/instruct-1                   then: sort 3 1 2
  numgpt chat runs/ppo-1 --temperature 0        always the likeliest answer; runs of numgpt align speak as well
  numgpt chat runs/instruct-1 --single < prompts.txt > answers.txt
  echo "add 12 and 30" | numgpt chat runs/instruct-1 --json

On a terminal, /reset forgets what was said, /quit or Ctrl-D ends, Ctrl-C stops an answer. Elsewhere each line of
standard input is a prompt, and each answer a line, in which the ends of its own lines are spaces; what is wrong with a
prompt is said on standard error, its answer is an empty line, and the status in the end is 1.
"""


def register(commands) -> None:
    parser = commands.add_parser(
        "chat", help="speak with a model that was taught to answer", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Speak with a model that numgpt finetune --task instruct or numgpt align has made. What was said\nbefore stands before each new "
                    "prompt; the oldest goes when the context is full. A model whose examples\nwere single turns may have learned nothing of longer "
                    "talks: --single, or finetune --turns, helps.")
    models.add_arguments(parser)
    add = parser.add_argument
    add("--single", action="store_true", help="each prompt is a conversation of its own")
    add("--tokens", type=int, default=200, metavar="N", help="the most tokens of an answer (default: 200)")
    add("--temperature", type=float, default=0.8, metavar="T", help="0: always the most likely token; 1: as the model has it (default: 0.8)")
    add("--top-k", type=int, metavar="K", help="draw from the K most likely tokens only")
    add("--top-p", type=float, metavar="P", help="draw from the most likely tokens that together have the probability P")
    add("--seed", type=int, metavar="N", help="draw the same answers every time")
    add("--json", action="store_true", help="print an object of JSON a line: prompt, answer, and cut, why it was cut off (null if it was not)")
    parser.set_defaults(run=run, error=parser.error)


def run(arguments) -> int:
    options = {name: getattr(arguments, name) for name in ("temperature", "top_k", "top_p")}
    try:
        Filters(**options)
        if arguments.tokens < 1:
            raise ValueError(f"--tokens is at least 1; got {arguments.tokens}")
        if arguments.seed is not None and arguments.seed < 0:
            raise ValueError(f"--seed is a whole number from 0 on; got {arguments.seed}")
    except ValueError as error:
        arguments.error(str(error))
    if sys.stdin is None:
        raise FormatError("standard input is closed, and there is nobody to speak with")
    talk = Talk(*_speaker(arguments), n_tokens=arguments.tokens, single=arguments.single, seed=arguments.seed, **options)
    if arguments.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return _scripted(talk, arguments.json)
    return _typed(talk, Ink(coloured()))


def _speaker(arguments) -> tuple:
    """The model, its template and its tokenizer."""
    path = arguments.model
    template = files.template_of(path) if path.exists() else None
    model, tokenizer = models.loaded(arguments)
    kind = None if template is None else files.told_at(path).get("kind", template.kind)
    if kind is None or kind in JUDGES or "end" not in template.special:
        was = "was not taught to answer" if kind is None else f"was tuned to {kind}, and does not answer"
        raise FormatError(f"{path} {was}: teach {'a model' if kind else 'it'} with numgpt finetune {'MODEL' if kind else path} DATA.jsonl "
                          '--task instruct, where a line of DATA is like {"prompt": "add 12 and 30", "response": "42"}')
    if tokenizer.n_vocab > template.n_base or template.n_vocab > model.config.n_vocab:
        raise FormatError(f"the tokenizer has {tokenizer.n_vocab} tokens, and <user>, <assistant> and <end> stand after {template.n_base} others: "
                          "it is not the one that the model was taught with")
    return model, template, tokenizer


def _typed(talk: Talk, ink: Ink) -> int:
    """On a terminal."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (input() then has the arrow keys)
    print(ink.faint(", ".join(f"{name} {what}" for name, what in COMMANDS.items())))
    while True:
        try:
            prompt = input("> ")
        except EOFError:
            print()
            return 0
        except KeyboardInterrupt:
            print()
            return 130
        if prompt.strip() in COMMANDS or re.fullmatch(r"/\w+", prompt.strip()):
            if prompt.strip() == "/quit":
                return 0
            if prompt.strip() == "/reset":
                talk.reset()
                print(ink.faint("(forgotten)"))
            else:
                print(ink.bad(f"there is no {prompt.strip()}, but {' and '.join(COMMANDS)}"))
            continue
        if not prompt.strip():
            continue
        try:
            made = talk.ask(prompt)
        except ValueError as error:
            print(ink.bad(_said(error)))
            continue
        for note in _forgotten(talk):
            print(ink.faint(note))
        try:
            for text in made:
                print(text, end="", flush=True)
            print()
        except KeyboardInterrupt:
            made.close()  # it is remembered as far as it came
            print(ink.faint(" (stopped)"))
            continue
        for note in _cut(talk):
            print(ink.faint(note))


def _scripted(talk: Talk, as_json: bool) -> int:
    """Line by line. What is a command on a terminal is a prompt here, as any other text in a file may be."""
    status = 0
    try:
        for number, prompt in enumerate(_lines(), 1):
            notes, answer, said = [], "", {"prompt": prompt.decode("utf-8", "replace")}
            try:
                made = talk.ask(_decoded(prompt))
                notes += _forgotten(talk)
                answer = "".join(made)
                notes += _cut(talk)
                said |= {"answer": answer, "cut": talk.cut}
            except ValueError as error:
                status = 1
                notes.append(_said(error))
                said |= {"error": _said(error)}
            print(json.dumps(said, ensure_ascii=False) if as_json else " ".join(answer.splitlines()), flush=True)
            for note in notes:
                if sys.stderr is not None:
                    print(f"numgpt: line {number}: {note}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return status


def _lines() -> Iterator[bytes]:
    """As they come, so that another program may wait for an answer before its next prompt."""
    for line in iter(sys.stdin.buffer.readline, b""):
        yield line.removesuffix(b"\n").removesuffix(b"\r")


def _decoded(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1}, {line[error.start]:#04x}, is not UTF-8") from None


def _said(error: ValueError) -> str:
    """The sentence, without what a program might do about it."""
    return re.split(r": (?:encode with|allow it with)", str(error))[0]


def _forgotten(talk: Talk) -> list[str]:
    n = talk.forgotten
    return [f"(the context is full: the oldest {'turn is' if n == 1 else f'{n} turns are'} forgotten)"] if n else []


def _cut(talk: Talk) -> list[str]:
    why = {"tokens": f"after {talk.n_tokens} tokens: --tokens allows more", "context": "where the context is full"}
    return [f"(cut off {why[talk.cut]})"] if talk.cut else []
