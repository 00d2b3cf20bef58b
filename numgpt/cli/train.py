"""numgpt train: train a GPT, and go on with it."""

import argparse
from pathlib import Path

from numgpt.cli import runs
from numgpt.cli.options import changed, path
from numgpt.config import PRESETS
from numgpt.sample import generate
from numgpt.text import TASKS
from numgpt.training import TaskData, Trainer, prepare
from numgpt.training.start import DEFAULT, MINUTE

SAMPLE = 400  # tokens
EXAMPLES = """examples:
  numgpt train                                    the text that ships inside Python, in about a minute
  numgpt train book.txt --tokenizer bpe --vocab 2000 --minutes 30
  numgpt train --task add
  numgpt train notes/*.txt --init gpt2/ --tokenizer gpt2/ --lr 3e-5 --steps 200
  numgpt train train.bin --validation val.bin --preset gpt2 --batch 4
  numgpt train --resume runs/char-cpu-1           goes on, bit for bit, from where it was interrupted
"""


def register(commands) -> None:
    parser = commands.add_parser(
        "train", help="train a GPT on a text or a task", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train a GPT. The run leaves a folder with checkpoints, the best model, the\ntokenizer and metrics. Ctrl-C finishes the step and "
                    "saves. What is not said is as\nthe preset has it.")
    add = parser.add_argument
    add("files", nargs="*", metavar="TEXT", help="files of text in UTF-8, or of tokens (.bin); none: the text that ships inside Python. "
                                                 "Between several texts stands the tokenizer's end of text, if it has one")
    what = parser.add_argument_group("what is trained")
    add = what.add_argument
    add("--preset", metavar="NAME", choices=PRESETS, help=f"size of the model, and its training ({', '.join(PRESETS)}; default: {DEFAULT})")
    add("--set", action="append", default=[], metavar="FIELD=VALUE", dest="changes", help="change a field of the config, as numgpt plan does")
    add("--init", type=path, metavar="PATH", help="begin with these weights: a run's, numgpt's, llm.c's, a folder of Hugging "
                                                     "Face's; of --preset only the training counts then")
    add("--tokenizer", metavar="char|bpe|PATH", help="characters or byte pairs of the text, or where a tokenizer lies (default: "
                                                           "char, or the one that lies with --init's weights)")
    add("--vocab", type=int, metavar="N", help="tokens that bpe learns (default: 1000)")
    add("--allow-special", action="store_true", default=None, help="special tokens in the text, such as <|endoftext|>, are those tokens; else they are an error")
    add("--task", choices=TASKS, help="in place of text: sort six digits, or add two numbers")
    add("--validation", type=path, metavar="FILE", help="evaluate on this file")
    add("--held-out", type=float, metavar="SHARE", help="or on the last part of the text (default: 0.1)")
    add("--dtype", choices=("float32", "float64"), help="of the parameters (default: float32)")
    add("--recompute", action="store_true", help="keep less for backward, and compute it again: less memory, more time")
    runs.add_how(parser, steps=f"the preset's, or {MINUTE} if none is named")
    runs.add_where(parser, "PRESET")
    parser.set_defaults(run=run, error=parser.error)


OTHERS = ("files", "preset", "changes", "init", "tokenizer", "vocab", "task", "validation", "held_out", "dtype", "out", "allow_special")


def run(arguments) -> int:
    return runs.run(arguments, lambda report: (_resumed if arguments.resume else _prepared)(arguments, report), sample)


def _resumed(arguments, report) -> Trainer:
    return runs.resumed(arguments, Trainer, OTHERS, report)


def _prepared(arguments, report) -> Trainer:
    encoded = any(Path(file).suffix == ".bin" for file in arguments.files)
    runs.refuse_idle(arguments, (
        (arguments.tokenizer != "bpe", "it is for --tokenizer bpe", ("vocab",)),
        (arguments.validation, "--validation is what is held out", ("held_out",)),
        (arguments.task, "a task draws its own questions", ("held_out", "tokenizer", "allow_special")),
        (encoded, "a .bin file is of tokens already", ("allow_special",)),
        (encoded and arguments.tokenizer in ("char", "bpe"),
         "a .bin file is of tokens already: name the tokenizer that made them", ("tokenizer",))))
    options = runs.given(arguments, ("preset", "tokenizer", "task", "init", "validation", "held_out", "dtype", *runs.SETTINGS))
    if arguments.vocab is not None:
        options["n_merged"] = arguments.vocab
    return prepare(*arguments.files, folder=arguments.out or runs.numbered(arguments.task or arguments.preset or (
        arguments.init.name if arguments.init else DEFAULT)), changes=dict(map(changed, arguments.changes)),
        recompute=arguments.recompute, allow_special=bool(arguments.allow_special), report=report, **options)


def sample(trainer: Trainer) -> str:
    """What the model has learned: questions with its answers, or text that it writes."""
    model, data = trainer.model, trainer.data
    if isinstance(data, TaskData):
        return "\n".join(_answered(model, data, question) for question in data.questions[:5])
    if data.tokenizer is None:
        return "(no tokenizer, no sample: give one with --tokenizer)"
    start = data.kept[:max(1, data.T // 2)].tolist()
    text = data.tokenizer.decode(generate(model, [start], SAMPLE, temperature=0.8, seed=trainer.settings.seed,
                                          tokenizer=data.tokenizer)[0])
    return f"{data.tokenizer.decode(start)}|{text}\n\n(up to the bar held-out text, after it the model's)"


def _answered(model, data: TaskData, question: str) -> str:
    right = data.task.answer(question)
    answer = data.tokenizer.decode(generate(model, [question], len(right), temperature=0, tokenizer=data.tokenizer)[0])
    return f"{question}{answer}" + ("" if answer == right else f"   (right: {right})")
