"""What the commands share that train: options, the folder, the loop, and what is said when it stops."""

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from numgpt.cli.options import path, said
from numgpt.files import FormatError
from numgpt.training import NotFinite, Trainer
from numgpt.training.progress import Progress
from numgpt.training.schedule import SHAPES
from numgpt.training.settings import FREE, OPTIMIZERS

RUNS = Path("runs")
BESIDE = ", ".join("--" + name.replace("_", "-") for name in (*FREE, "recompute", "quiet"))  # --resume
SETTINGS = ("steps", "minutes", "epochs", "batch", "tokens", "shards", "pieces", "optimizer", "lr", "min_lr", "warmup", "schedule",
            "betas", "momentum", "weight_decay", "clip", "seed", "eval_every", "eval_tokens", "save_every")


def add_how(parser, *, steps: str = "the preset's", epochs: str = "times through the text, which then comes window by window",
            batch: str = "sequences in a batch", tokens: str = "in a sequence (default: the model's context)",
            rates: tuple[str, str] = ("", ""), fall: str = "the preset's, mostly cosine", decay: str = "the preset's, mostly 0.1",
            warmup: str = "the preset's, and a tenth of the run at most") -> None:
    """What is said of options and of their defaults."""
    how = parser.add_argument_group("how")
    length = how.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, metavar="N", help=f"stop after so many steps (default: {steps}),")
    length.add_argument("--minutes", type=float, metavar="N", help="or minutes (then no two runs are alike to the bit),")
    length.add_argument("--epochs", type=float, metavar="N", help=f"or {epochs}")
    add = how.add_argument
    add("--batch", type=int, metavar="B", help=batch)
    if tokens:
        add("--tokens", type=int, metavar="T", help=f"tokens {tokens}")
    add("--shards", type=int, metavar="N", help="threads that share a batch (default: 2); the bits of a run depend on it, and not on the cores")
    add("--pieces", type=int, metavar="N", help="take each shard's sequences in so many pieces, to save memory (default: 1)")
    add("--optimizer", choices=OPTIMIZERS)
    add("--lr", type=float, metavar="RATE", help=f"highest learning rate{rates[0]},")
    add("--min-lr", type=float, metavar="RATE", help=f"and the one it falls to{rates[1]}")
    add("--warmup", type=int, metavar="N", help=f"steps in which it rises (default: {warmup})")
    add("--schedule", choices=SHAPES, help=f"how it falls (default: {fall})")
    add("--betas", type=float, nargs=2, metavar="B", help="AdamW's")
    add("--momentum", type=float, metavar="M", help="SGD's (default: 0.9)")
    add("--weight-decay", type=float, metavar="D", help=f"of matrices and tables (default: {decay})")
    add("--clip", type=float, metavar="NORM", help="longest gradient; inf: any (default: 1)")
    add("--seed", type=int, metavar="N", help="of weights, batches and dropout (default: 0)")


def add_where(parser, name: str, eval_tokens: bool = True) -> None:
    """name: what a run's folder is called after."""
    add = parser.add_argument_group("where, and how often").add_argument
    add("--out", type=path, metavar="DIR", help=f"the run's folder (default: {RUNS}/{name}-1, or the next number that is free)")
    add("--resume", type=path, metavar="DIR", help=f"go on with this run; only {BESIDE} may be given beside")
    add("--eval-every", type=int, metavar="N", help="evaluate every N steps" + "," * eval_tokens)
    if eval_tokens:
        add("--eval-tokens", type=int, metavar="N", help="on so many tokens at most (default: 100000)")
    add("--save-every", type=int, metavar="N", help="checkpoint every N steps (default: with each evaluation)")
    add("--quiet", action="store_true", help="print nothing")


def given(arguments, names) -> dict:
    return {name: value for name in names if (value := getattr(arguments, name, None)) is not None}


def numbered(name: str) -> Iterator[Path]:
    """Folders for the run: the next number that is free, and those after it, should another run begin at the same moment."""
    taken = [int(found.group(1)) for path in RUNS.glob("*") if (found := re.fullmatch(re.escape(name) + r"-(\d+)", path.name))]
    return (RUNS / f"{name}-{number}" for number in itertools.count(max(taken, default=0) + 1))


def refuse_idle(arguments, where) -> None:
    """Refuse options that would do nothing; where: (whether it holds, why, the options' names)"""
    for holds, reason, names in (
            (arguments.optimizer == "sgd", "--optimizer sgd has a momentum", ("betas",)),
            (arguments.optimizer != "sgd", "AdamW has betas, --optimizer sgd a momentum", ("momentum",)), *where):
        for option in ("--" + name.replace("_", "-") for name in names if holds and getattr(arguments, name) is not None):
            arguments.error(f"{option} would do nothing here: {reason}")


def resumed(arguments, kind: type[Trainer], others, report) -> Trainer:
    """others: names of the command's own options, which a run that goes on has already"""
    said_too = {name: getattr(arguments, name, None) for name in (*SETTINGS, *others) if name not in FREE}
    taken = [name for name, value in said_too.items() if not (value is None or value is False or value == [])]
    if taken:
        option = "text" if taken[0] == "files" else "--set" if taken[0] == "changes" else "--" + taken[0].replace("_", "-")
        arguments.error(f"a run that goes on has its own {option}: with --resume only {BESIDE} may be given")
    return kind.resume(arguments.resume, report=report, recompute=arguments.recompute, **given(arguments, FREE))


def run(arguments, begun: Callable[[Progress | None], Trainer], shown: Callable[[Trainer], str]) -> int:
    """Train to the end.

    begun: makes the trainer, given its report
    shown: what stands below the last line of a run that came to its end
    """
    try:
        return _run(arguments, begun, shown)
    except MemoryError as error:
        raise FormatError(f"the memory does not suffice{f' ({error})' if str(error) else ''}: a smaller --batch, more --pieces or "
                          "--recompute takes less") from None


def _run(arguments, begun, shown) -> int:
    report = None if arguments.quiet else Progress()
    try:
        trainer = begun(report)
    except FormatError:
        raise
    except (ValueError, TypeError) as error:
        arguments.error(said(error))
    with trainer:
        if trainer.done:
            if not arguments.quiet:
                print(f"{arguments.resume} is at its end, step {trainer.n_done:,}: {trainer.ended or 'say --steps to go on further'}")
            return 0
        try:
            trainer.run()
        except NotFinite as error:
            raise FormatError(str(error)) from None
        except ValueError as error:  # a token outside the vocabulary, in a file too long to be read through before
            files = ", ".join((trainer.source or {}).get("files", []))
            raise FormatError(f"in step {trainer.n_done + 1}, from {files}: {error}. {_kept(trainer)}") from None
        except OSError as error:
            raise FormatError(f"{error.filename or trainer.folder.path}: {error.strerror or error}. {_kept(trainer)}") from None
        finally:
            if report is not None:
                report.close()
        if trainer.stopped_by is not None:
            return 128 + trainer.stopped_by
        if report is not None and report.out is not None:
            print("\n" + shown(trainer))
    return 0


def _kept(trainer: Trainer) -> str:
    """What there is to go on from."""
    path, last = trainer.folder.path, trainer.folder.last()
    if last is None:
        return f"{path} was removed while it was trained, and nothing is left to go on from"
    return f"{last} is whole: go on from it with --resume {path}"
