"""Is there a broken file that does more than be refused?

Valid files are mutated (_mutate.py) and read: numgpt's own, safetensors of every type, llm.c's weights and debug
states, and Hugging Face's folders. A mutation must load or raise FormatError. Everything else is a fault: another
exception, a warning, more than SECONDS, or more memory allocated at once than `allowed` gives a file of its size,
where memory that was asked for and never touched counts as well.

Every case has a number that draws it: --only NUMBER runs one again and shows its traceback and what was changed.
"""

import argparse
import functools
import itertools
import json
import signal
import sys
import tempfile
import traceback
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np

from benchmarks._mutate import mutate
from numgpt import safetensors
from numgpt.bfloat16 import BFloat16
from numgpt.config import GPTConfig
from numgpt.files import FormatError
from numgpt.formats import huggingface, llmc
from numgpt.model import GPT

SECONDS = 2.0
SIZES = dict(n_vocab=7, n_ctx=3, n_layer=2, n_head=2, n_embd=4, n_hidden=5)
STATE_OF = GPTConfig(**{**SIZES, "n_hidden": None})  # llm.c has no other width


def allowed(size: int) -> int:
    """Bytes that may be allocated at once for files of that size."""
    # A weight read from bfloat16 is there as float32 four times for a moment: the parameter, the model's
    # values and its gradients, and the rounded numbers: 8 bytes for each byte. The rest is JSON and layers. The most
    # that any of the first 10,000 cases took is a fifth of this.
    return 16 * size + (1 << 19)


class Kind(NamedTuple):
    name: str
    write: Callable[[], Iterator[tuple[str, Callable[[Path], object]]]]  # some valid files: a name, and what writes it
    read: Callable[[Path], object]


class Outcome(NamedTuple):
    kind: str
    verdict: str                # "refused", "accepted" or "fault"
    sentence: str               # what was raised, if it was,
    where: str                  # in which line of numgpt,
    traceback: str              # and how it came there
    files: dict[str, bytes]     # as they were read,
    valid: dict[str, bytes]     # and before they were mutated


class Slow(BaseException):
    """Not an Exception: nobody on the way shall take it for a broken file."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks fuzz",
                                     description=__doc__.splitlines()[0] + " Exit status 1 if there is.")
    parser.add_argument("--cases", type=int, default=40_000, help="mutations (default: 40000, two minutes)")
    parser.add_argument("--seed", type=int, default=0, help="number of the first case (default: 0)")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="one case again, with its traceback")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="with --only: write its files there")
    arguments = parser.parse_args(argv)
    if arguments.only is not None:
        return show(arguments.only, arguments.keep)
    counts = {kind.name: {"refused": 0, "accepted": 0, "fault": 0} for kind in KINDS}
    faults = {}  # alike if they are of the same line
    with watched() as run:
        for number in range(arguments.seed, arguments.seed + arguments.cases):
            progress(f"case {number}")
            outcome = run(number)
            counts[outcome.kind][outcome.verdict] += 1
            if outcome.verdict == "fault":
                alike = faults.setdefault((outcome.kind, outcome.sentence[:20], outcome.where), [])
                alike.append(number)
                if len(alike) == 1:
                    progress("")
                    print(f"case {number}, {outcome.kind}: {outcome.sentence}\n{outcome.where}")
                    print(excerpt(outcome) + "\n", flush=True)
    progress("")
    for (kind, sentence, where), numbers in faults.items():
        print(f"{len(numbers)} of {kind}, {sentence}... {where}: cases {', '.join(map(str, numbers[:20]))}")
    print_table(counts)
    return int(any(count["fault"] for count in counts.values()))


def progress(text: str) -> None:
    """A line that updates, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r{text:20}\r", end="", file=sys.stderr, flush=True)


def show(number: int, folder: Path | None) -> int:
    with watched() as run:
        outcome = run(number)
    print(f"case {number}, {outcome.kind}: {outcome.verdict}: {outcome.sentence}")
    print(outcome.traceback)
    print(excerpt(outcome))
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in outcome.files.items():
            (folder / name).write_bytes(content)
    return int(outcome.verdict == "fault")


def print_table(counts: dict[str, dict[str, int]]) -> None:
    print(f"{'kind of file':20}{'mutations':>11}{'refused':>11}{'accepted':>11}{'faults':>11}")
    total = {verdict: sum(count[verdict] for count in counts.values()) for verdict in ("refused", "accepted", "fault")}
    for name, count in {**counts, "all": total}.items():
        print(f"{name:20}" + "".join(f"{n:11}" for n in (sum(count.values()), *count.values())))


# -- one case


@contextmanager
def watched() -> Iterator[Callable[[int], Outcome]]:
    """run(number) for as long as memory is traced, warnings are errors and time is limited."""
    strays = []  # exceptions where none can be raised, such as in a destructor

    def late(*_):
        raise Slow

    tracing, hook, handler = tracemalloc.is_tracing(), sys.unraisablehook, signal.signal(signal.SIGALRM, late)
    sys.unraisablehook = strays.append
    if not tracing:
        tracemalloc.start()
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("error")
            for kind in KINDS:  # what is made once, by NumPy or by us, is made before it would be counted
                read(kind, valid_files(kind.name)[0], Path(folder), strays)
            yield lambda number: run(number, Path(folder), strays)
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGALRM, handler)
        if not tracing:
            tracemalloc.stop()


def run(number: int, folder: Path, strays: list) -> Outcome:
    """Draw the case of that number and read its files."""
    kind, rng = KINDS[number % len(KINDS)], Random(number)
    valid = rng.choice(valid_files(kind.name))
    donor = rng.choice(valid_files(rng.choice(KINDS).name))
    files = mutate(rng, valid, rng.choice(sorted(donor.items()))[1])
    return Outcome(kind.name, *read(kind, files, folder, strays), files, valid)


def read(kind: Kind, files: dict[str, bytes], folder: Path, strays: list) -> tuple[str, str, str, str]:
    """The verdict on files, what was raised, in which line, and its traceback."""
    for path in folder.iterdir():
        path.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    strays.clear()
    tracemalloc.reset_peak()
    before, raised = tracemalloc.get_traced_memory()[0], None
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        kind.read(folder)
        verdict, sentence = "accepted", ""
    except FormatError as error:
        verdict, sentence, raised = "refused", str(error), error
    except Slow as slow:
        verdict, sentence, raised = "fault", f"not done in {SECONDS} s", slow
    except Exception as error:
        verdict, sentence, raised = "fault", f"{type(error).__name__}: {error}", error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    taken, most = tracemalloc.get_traced_memory()[1] - before, allowed(sum(map(len, files.values())))
    if verdict != "fault" and strays:
        verdict, sentence = "fault", f"raised where nobody sees it: {strays[0].exc_value!r}"
    elif verdict != "fault" and taken > most:
        verdict, sentence = "fault", f"too much memory: {taken} bytes at once, {most} are allowed; {verdict} {sentence}"
    frames = traceback.extract_tb(raised.__traceback__) if raised else []
    ours = [f"{Path(frame.filename).name}, line {frame.lineno}: {frame.line}" for frame in frames
            if "numgpt" in frame.filename]
    return verdict, sentence, ours[-1] if ours else "", "".join(traceback.format_exception(raised)) if raised else ""


def excerpt(outcome: Outcome) -> str:
    """Of each file that is not as it was, its first 8 bytes, and some from the first difference in the others on."""
    lines = []
    for name in sorted({*outcome.files, *outcome.valid}):
        new, old = outcome.files.get(name), outcome.valid.get(name, b"")
        if new is None:
            lines.append(f"  {name} is gone")
        elif new != old:
            first = next((i for i, (a, b) in enumerate(zip(new[8:], old[8:]), 8) if a != b), min(len(new), len(old)))
            begin = max(first - 30, 0)
            part = new[begin:begin + 100]
            readable = part.isascii() and part.decode().isprintable()
            lines.append(f"  {name}, {len(new)} bytes ({len(old)} before), {new[:8].hex()}, from byte {begin}: "
                         + (part.decode() if readable else part.hex()))
    return "\n".join(lines)


# -- the valid files


def config(**changes) -> GPTConfig:
    return GPTConfig(**{**SIZES, **changes})


def model(config: GPTConfig, dtype=np.float32) -> GPT:
    model = GPT(config, seed=0, dtype=dtype)
    model.values += np.random.default_rng(1).normal(size=model.values.size)
    return model


def write_numgpt():
    for name, config_, dtype in (("a", config(), "f4"), ("b", config(norm="post", window=2, n_hidden=None), "f8"),
                                 ("c", config(positions="sinusoidal", tied=False, head_bias=True, bias=False), "f4"),
                                 ("d", config(head_size=3, n_layer=1), "c8")):
        yield name, lambda folder: model(config_, dtype).save(folder / "model.safetensors")
    for codes in (("f2",), ("BF16",), ("f4", "f8"), ("c8", "f2")):
        def write(folder):
            small = model(config())
            tensors = {name: BFloat16.of(param.value) if code == "BF16" else param.value.astype(code)
                       for (name, param), code in zip(small.named_params(), itertools.cycle(codes))}
            metadata = {"format": "numgpt", "config": small.config.to_json()}
            safetensors.write(folder / "model.safetensors", tensors, metadata)
        yield str(codes), write


def write_safetensors():
    rng = np.random.default_rng(2)
    every = {code: rng.integers(0, 2, (2, 3)).astype(dtype) for code, dtype in safetensors.DTYPES.items()}
    every |= {"BF16": BFloat16.of(rng.normal(size=(3, 2))), "none": np.zeros((0, 3), "f4"), "é.0": np.float32(1)}
    metadata = {"of": "every type", "": "é"}
    yield "every type", lambda folder: safetensors.write(folder / "x.safetensors", every, metadata)
    turned = {name: every[name] for name in ("BF16", "BOOL", "F16")}  # what is not read as it lies there
    yield "turned", lambda folder: safetensors.write(folder / "x.safetensors", turned)
    yield "one", lambda folder: safetensors.write(folder / "x.safetensors", {"": np.arange(5.0)})


def write_llmc():
    for name in ("float32", "bfloat16"):
        for config_ in (STATE_OF, GPTConfig(n_vocab=129, n_ctx=2, n_layer=1, n_head=1, n_embd=1)):
            yield name, lambda folder: llmc.save(model(config_), folder / "gpt2.bin", dtype=name)


def write_states():
    for ids, targets in (([[0, 1, 2], [6, 6, 3]], [[1, 2, 0], [6, -100, 3]]), ([[4]], [[5]])):
        state = llmc.state_of(model(STATE_OF), np.array(ids), np.array(targets))
        yield str(ids), lambda folder: llmc.write_state(state, folder / "state.bin", STATE_OF)


def write_huggingface():
    for changes, options in (({}, {}), ({"norm": "post", "n_hidden": None}, {}), ({}, {"dtype": "float16"}),
                             ({"tied": False}, {"shard_bytes": 300}), ({}, {"shard_bytes": 500, "dtype": "bfloat16"})):
        yield str(changes | options), lambda folder: huggingface.save(model(config(**changes)), folder, **options)

    def write(folder):  # as the oldest are: no type, no prefix, masks, and the tied head once more
        huggingface.save(model(config()), folder)
        weights, description = folder / "model.safetensors", folder / "config.json"
        tensors = {name.removeprefix("transformer."): array for name, array in safetensors.read(weights).items()}
        tensors |= {"h.0.attn.bias": np.tri(3), "h.0.attn.masked_bias": np.float32(-1e4),
                    "lm_head.weight": tensors["wte.weight"]}
        safetensors.write(weights, tensors)
        said = json.loads(description.read_bytes())
        del said["model_type"]
        description.write_text(json.dumps(said))
    yield "old", write


def read_tensors(folder: Path) -> None:
    with safetensors.File(folder / "x.safetensors") as file:
        for name in file:
            file[name].tobytes()  # looked at, not only mapped


KINDS = (Kind("numgpt", write_numgpt, lambda folder: GPT.load(folder / "model.safetensors")),
         Kind("safetensors", write_safetensors, read_tensors),
         Kind("llm.c weights", write_llmc, lambda folder: llmc.load(folder / "gpt2.bin")),
         Kind("llm.c debug state", write_states, lambda folder: llmc.read_state(folder / "state.bin", STATE_OF)),
         Kind("Hugging Face", write_huggingface, huggingface.load))


@functools.cache
def valid_files(kind: str) -> list[dict[str, bytes]]:
    """The contents of some valid files, or folders of them."""
    found = []
    for _, write in next(one for one in KINDS if one.name == kind).write():
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            found.append({path.name: path.read_bytes() for path in Path(folder).iterdir()})
    return found
