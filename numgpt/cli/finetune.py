"""numgpt finetune: teach a model a task from examples."""

import argparse
import json
import re
from pathlib import Path

from numgpt.cli import runs
from numgpt.cli.options import path
from numgpt.files import FormatError
from numgpt.training import Trainer
from numgpt.training.settings import Settings
from numgpt.tuning.stages import BRACKETS, GPT1, STAGES, WORDS
from numgpt.tuning.start import FRESH_SETTINGS, Tuner, prepare

COMMAND = "finetune"
TASKS = tuple(name for name, stage in STAGES.items() if stage.command == COMMAND)
JSON = (".jsonl", ".ndjson", ".json")  # names of files of examples
EXAMPLES = """a line of DATA is an object of JSON:
  classify            {"text": "a fine film", "label": "good"}
  pairs, similarity   {"a": "it rains", "b": "it is wet", "label": "entails"}
  choice              {"context": "it rained, so", "choices": ["I got wet", "I flew"], "answer": 0}
  instruct            {"prompt": "add 12 and 30", "response": "42"}

what a run says, and what it keeps:
  loss          of the batches trained on; where examples are classified, the task's and, --lm-weight times, the language model's
  held out      what examples held out cost: the cross-entropy of the label or choice alone, a mean over examples; beside it the language
                model's, a mean over tokens (val_loss and lm_loss in metrics.jsonl). Of instruct, a mean over the tokens of responses
  best.safetensors   the model whose held-out loss was lowest in an evaluation, of which the first is before the first step

examples:
  numgpt finetune --task classify                         is a string of brackets balanced? drawn examples, a model from nothing
  numgpt finetune gpt2/ films.jsonl --task classify       then: numgpt classify runs/classify-1 < films.txt
  numgpt finetune runs/char-1 train.jsonl --validation test.jsonl --task pairs --epochs 5 --lr 3e-4
  numgpt finetune gpt2/ faq.jsonl --task instruct --lora 8    then: numgpt chat runs/instruct-1
  numgpt finetune --resume runs/classify-1                goes on, bit for bit, from where it was interrupted
"""


def register(commands) -> None:
    parser = commands.add_parser(
        COMMAND, help="teach a model a task from examples", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Teach a model a task from examples: to classify texts or pairs of texts, to choose, to follow\ninstructions. The run leaves a "
                    "folder as numgpt train does. What is not said is as GPT-1's paper\nhas it, or as drawn examples want it.")
    add_data(parser, "what is taught", TASKS)
    add = parser.add_argument_group("the task").add_argument
    add("--labels", metavar="A,B,...", type=_labels, help="the only labels there may be (default: those of the examples)")
    add("--lm-weight", type=float, metavar="W", help="of the language model's loss beside the task's in what is trained (default: 0.5)")
    add("--turns", type=float, metavar="SHARE", help="of rows of instruct that are turns of a conversation, each of which sees what was said "
                                                     "before (default: 0, of drawn examples 0.5): so numgpt chat may remember it")
    runs.add_how(parser, steps=f"as --epochs has it; of drawn examples {BRACKETS.settings['steps']}, of instruct {WORDS.settings['steps']}",
                 epochs=f"times through the examples (default: {_usual('epochs')})",
                 batch=f"examples in a batch (default: {_usual('batch')}); of instruct, rows that several share "
                       f"(default: {STAGES['instruct'].settings['batch']} and {STAGES['instruct'].fresh['batch']})",
                 rates=(f" (default: {_usual('lr')})", f" (default: {_usual('min_lr')})"), fall="linear with a MODEL, cosine from nothing",
                 warmup="0.2 %% of the run with a MODEL, a tenth of it or 100 from nothing", decay=f"{_usual('weight_decay')}",
                 tokens="in such a row (default: 256, if the longest example has no more and the context no less)")
    runs.add_where(parser, "TASK", eval_tokens=False)
    parser.set_defaults(run=run, error=parser.error)


def _usual(name: str) -> str:
    """The default of a setting, on files of examples."""
    own = [getattr(Settings.of(settings), name) for settings in (GPT1, FRESH_SETTINGS)]
    return f"{own[0]:g} with a MODEL, {own[1]:g} from nothing"


def add_data(parser, title: str, tasks, *, option: str = "--task", about: str = "what to teach") -> None:
    """What finetune and align have in common: the model to begin with, and examples."""
    parser.add_argument("files", nargs="*", metavar="MODEL DATA", help="the model to begin with (a run's folder, numgpt's file, llm.c's, a folder of "
                                                                       "Hugging Face's; none: a small one, from nothing), and files of JSON lines "
                                                                       "(.jsonl; none: drawn examples)")
    add = parser.add_argument_group(title).add_argument
    add(option, choices=tasks, help=about)
    add("--validation", type=path, metavar="FILE", help="evaluate on these examples,")
    add("--held-out", type=float, metavar="SHARE", help="or on a share of DATA, drawn at random by a fixed seed (default: 0.1; of each label, where there are any, "
                                                            "that share and one example at least)")
    add("--skip-bad", action="store_true", help="count lines that cannot be used, and leave them out; else the first ends the command")
    add("--truncate", action="store_true", help="cut what is too long for the context: the end of a text, or of the longer of two; of a prompt the "
                                                      "beginning; a response never")
    add("--tokenizer", type=path, metavar="PATH", help="where the model's tokenizer lies (default: beside the weights)")
    add("--lora", type=int, metavar="RANK", help="train small matrices beside the weights, which stay as they are: much less is trained and kept, and the "
                                                 "run's adapters.safetensors has it alone. Where no --lr is said, numgpt takes ten times the usual rate by "
                                                 "itself on files of examples")
    add("--lora-alpha", type=float, metavar="A", help="they count A / RANK times (default: once)")
    add("--lora-layers", type=_names, metavar="NAMES", help="beside which: attention,ffn or all or blocks.*.ffn.up (default: all)")
    add("--dtype", choices=("float32", "float64"), help="of the parameters (default: as they are stored)")
    add("--recompute", action="store_true", help="keep less for backward, and compute it again: less memory, more time")


def without_lora(arguments) -> tuple:
    """For runs.refuse_idle."""
    return arguments.lora is None, "LoRA has a rank, which --lora says", LORA[1:]


LORA = ("lora", "lora_alpha", "lora_layers")
OWN = ("labels", "lm_weight", "turns", *LORA)
OTHERS = ("files", "task", "validation", "held_out", "skip_bad", "truncate", "tokenizer", "dtype", "out", *OWN)


def run(arguments) -> int:
    return runs.run(arguments, lambda report: (_resumed if arguments.resume else _prepared)(arguments, report), shown)


def _resumed(arguments, report) -> Tuner:
    return resumed(arguments, COMMAND, OTHERS, report)


def resumed(arguments, command: str, others, report) -> Tuner:
    trainer = runs.resumed(arguments, Tuner, others, report)
    if trainer.source["command"] != command:
        trainer.close()
        raise FormatError(f"{arguments.resume} is a run of {trainer.source['stage']}: it goes on with numgpt {trainer.source['command']} --resume")
    return trainer


def _prepared(arguments, report) -> Tuner:
    if arguments.task is None:
        arguments.error(f"say what to teach with --task: {', '.join(TASKS)}")
    instruct = arguments.task == "instruct"
    model, data = parted(arguments.files)
    runs.refuse_idle(arguments, ((arguments.validation, "--validation is what is held out", ("held_out",)),
                                 (instruct, "--task instruct has responses", ("labels", "lm_weight")),
                                  without_lora(arguments),
                                 (not instruct, "it is for --task instruct", ("turns", "tokens")),
                                 (not data and STAGES[arguments.task].drawn, "without a file of examples they are drawn",
                                  ("held_out", "labels", *(name for name in ("skip_bad", "truncate") if getattr(arguments, name)),
                                   *(() if model else ("tokenizer",))))))
    options = runs.given(arguments, ("validation", "held_out", "skip_bad", "truncate", "tokenizer", "dtype", "recompute", *OWN, *runs.SETTINGS))
    try:
        trainer = prepare(arguments.task, model, data, folder=arguments.out or runs.numbered(arguments.task), report=report, **options)
    except FormatError as error:
        raise FormatError(f"{error}{_otherwise(arguments.labels, str(error))}") from None
    say_bad(trainer, report)
    return trainer


def parted(names) -> tuple[Path | None, list[str]]:
    """The model, if one is named, and the files of examples."""
    data = [name for name in names if _of_examples(Path(name))]
    models = [name for name in names if name not in data]
    if (text := next((name for name in models if _is_text(Path(name))), None)) is not None:
        raise ValueError(f"{text} is a text and no model; files of examples are JSON lines, and end in .jsonl")
    if len(models) > 1:
        raise ValueError(f"one begins with one model; got {', '.join(models)} (files of examples are JSON lines, and end in .jsonl)")
    return (path(models[0]) if models else None), data


def _is_text(file: Path) -> bool:
    """No weights begin without a byte that is nought."""
    if file.suffix == ".safetensors" or not file.is_file():
        return False
    with open(file, "rb") as content:
        start = content.read(64)
    return bool(start) and b"\0" not in start


def _of_examples(file: Path) -> bool:
    """By its name, or because it begins as JSON does: no weights do."""
    if file.suffix in JSON or not file.is_file():
        return file.suffix in JSON
    with open(file, "rb") as content:
        return content.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b'{"', b'{ "'))


def say_bad(trainer: Tuner, report) -> None:
    """How many lines were left out, and why; and what else there is to know of the examples."""
    if report is not None and trainer.data.bad:
        print(f"left out of the examples: {trainer.data.bad}")
    for note in trainer.data.remarks() if report is not None else ():
        print(f"note: {note}")


def shown(trainer: Trainer) -> str:
    """What the model has learned."""
    return trainer.data.shown(trainer)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _labels(text: str) -> list:
    """As in the examples: whole numbers and booleans, if all are, else texts."""
    labels = [label.strip() for label in text.split(",")]
    try:
        values = [json.loads(label) for label in labels]
    except json.JSONDecodeError:
        return labels
    return values if len(set(map(type, values))) == 1 else labels


def _otherwise(labels, sentence: str) -> str:
    """How labels are said in the other type, if a file's look the same and are none of them."""
    if labels and not isinstance(labels[0], str) and 'there is no label "' in sentence:
        return ". As texts they would be --labels '" + ",".join(json.dumps(json.dumps(label)) for label in labels) + "'"
    if labels and {*map(str, labels)} <= {"True", "False"} and re.search("there is no label (true|false)", sentence):
        return ". As booleans they would be --labels " + ",".join(map(str.lower, labels))
    return ""
