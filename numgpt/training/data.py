"""What a run reads: text or a task, the batches to train on, and what is held out."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from numgpt.files import FormatError
from numgpt.flat import Flat
from numgpt.layers.inputs import IGNORE
from numgpt.text import BPETokenizer, CharTokenizer, Epochs, RandomCrops, corpus, split
from numgpt.text.tasks import ALPHABET, TASKS

EVALUATED = 1000  # questions of a task
TAG = 2  # sets the generator of those questions apart from the others


class Data:
    """The face that a trainer knows of what it reads.

    T          tokens in a row
    n_vocab    tokens of its tokenizer; None: not known
    forms      how what it measures is said, by name
    dropout    whether it is at work in a step
    n_updates  batches in a step
    notes      of the last step, numbers for the run's metrics
    """

    tokenizer = None
    forms = (("exact", "{:.1%} exact"),)
    dropout = True
    n_updates = 1
    notes: dict[str, float] = {}

    def prepare(self, settings, n_ctx: int) -> None:
        """Make ready for a run of these settings and a model of this context; what does not go together is said."""

    def batch(self, step: int) -> tuple[np.ndarray, ...]:
        """What the model's forward takes; it depends on the settings and the step alone."""
        raise NotImplementedError

    def updates(self, trainer) -> Iterator[tuple[np.ndarray, ...]]:
        """The batches of the trainer's next step, each of which moves the parameters once; what comes may depend on these."""
        yield self.batch(trainer.n_done)

    def held_out(self) -> Iterator[tuple[np.ndarray, ...]]:
        """The batches of an evaluation."""
        raise NotImplementedError

    def measure(self, trainer) -> dict[str, float]:
        """The loss on what is held out, and the share of rows that are right in every target that counts."""
        right = count = total = n = 0
        for ids, targets in self.held_out():
            logits = trainer.model.logits(ids)
            right += int(exact(logits.argmax(-1), targets).sum())
            n += len(ids)
            counted = int((targets >= 0).sum())
            total += trainer.loss(ids, targets) * counted
            count += counted
        return {"val_loss": total / count, "exact": right / n}

    def judged(self, metrics: dict[str, float]) -> float:
        """The number in an evaluation's metrics by which a run's best model is chosen: the lowest."""
        return metrics["val_loss"]

    def best_said(self, best: float) -> str:
        """What to say of the lowest such number."""
        return f"lowest loss on what is held out {best:.4f}"

    def ended(self, metrics: dict[str, float]) -> str | None:
        """Why a run ends with this evaluation, before its last step; None, if it goes on."""
        return None

    def models(self) -> dict[str, Flat]:
        """Models that what it measures needs, by the names of their files, which are written as a run's folder is made."""
        return {}

    def fingerprint(self) -> str:
        """By which a run that goes on knows that its data are those it began with."""
        raise NotImplementedError

    def highest(self) -> int:
        """The highest token id."""
        raise NotImplementedError


class TextData(Data):
    """Tokens to train on and tokens held out, with the tokenizer that made them, if it is known.

    n_characters   of text in the targets of an evaluation, to say a loss in bits a character; None if it is not known
    """

    forms = (("perplexity", "perplexity {:.2f}"), ("bits_per_character", "{:.3f} bits a character"))

    def __init__(self, train, held_out, tokenizer=None):
        self.train, self.kept, self.tokenizer = np.asanyarray(train), np.asanyarray(held_out), tokenizer
        self.windows = None

    @property
    def n_vocab(self) -> int | None:
        return None if self.tokenizer is None else self.tokenizer.n_vocab

    def prepare(self, settings, n_ctx: int) -> None:
        """Cut windows as the settings say."""
        T = n_ctx if settings.tokens is None else settings.tokens
        if T > n_ctx:
            raise ValueError(f"sequences of {T} tokens do not fit into the model's context of {n_ctx}")
        kind = RandomCrops if settings.epochs is None else Epochs
        self.windows = kind(self.train, T, batch=settings.batch, seed=settings.seed)
        if len(self.kept) < 2:
            raise ValueError(f"{len(self.kept)} tokens are too few to evaluate on: hold out more, or take a longer text")
        self.held_T = min(T, len(self.kept) - 1)
        n, most = (len(self.kept) - 1) // self.held_T, max(1, settings.eval_tokens // self.held_T)
        self.starts = _spread(n, most) * self.held_T
        self.rest = self.kept[n * self.held_T:] if n <= most else self.kept[:0]  # shorter than a window
        self.held_windows = RandomCrops(self.kept, self.held_T, batch=settings.batch)
        self.n_characters = None if self.tokenizer is None else sum(
            characters(self.tokenizer, row) for _, targets in self.held_out() for row in targets.tolist())

    @property
    def T(self) -> int:
        return self.windows.T

    @property
    def steps_per_epoch(self) -> float:
        return len(self.windows) / self.windows.B

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        return self.windows.batch(step)

    def held_out(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The batches of an evaluation: windows side by side, spread over the held-out text where it is long."""
        for i in range(0, len(self.starts), self.windows.B):
            yield self.held_windows.at(self.starts[i:i + self.windows.B])
        if len(self.rest) > 1:
            row = self.rest[None].astype(np.int64)
            yield row[:, :-1], row[:, 1:]

    def measure(self, trainer) -> dict[str, float]:
        """The loss on what is held out."""
        total = count = 0
        for ids, targets in self.held_out():
            total += trainer.loss(ids, targets) * targets.size
            count += targets.size
        loss = total / count
        metrics = {"val_loss": loss, "perplexity": math.exp(min(loss, 700))}
        if self.n_characters:
            metrics["bits_per_character"] = total / math.log(2) / self.n_characters
        return metrics

    def fingerprint(self) -> str:
        return _fingerprint(self.train, self.kept)

    def highest(self) -> int:
        """The highest id, so far as one can see without reading very long texts to their end."""
        return max(int(stretch.max(initial=0)) for array in (self.train, self.kept) for stretch in _stretches(array))


class TaskData(Data):
    """Questions with exact answers. One in ten is held out: it is never trained on, and the evaluation asks no others."""

    def __init__(self, name: str):
        if name not in TASKS:
            raise ValueError(f"there is no task {name!r}: choose one of {', '.join(TASKS)}")
        self.task, self.tokenizer, self.n_vocab = TASKS[name], CharTokenizer(ALPHABET), len(ALPHABET)
        self.T = self.task.length - 1

    def prepare(self, settings, n_ctx: int) -> None:
        if settings.tokens not in (None, self.T) or n_ctx < self.T:
            raise ValueError(f"an example of {self.task.name} has {self.T} tokens; the model or the settings say otherwise")
        if settings.epochs is not None:
            raise ValueError("a task's questions are drawn, and have no epochs: say --steps or --minutes")
        self.B, self.seed = settings.batch, settings.seed
        self.questions = self._distinct(EVALUATED, np.random.default_rng((settings.seed, TAG)))

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        return self.task.rows(self._drawn(self.B, np.random.default_rng((self.seed, step)), held_out=False))

    def held_out(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for i in range(0, len(self.questions), self.B):
            yield self.task.rows(self.questions[i:i + self.B])

    def fingerprint(self) -> str:
        return self.task.name

    def highest(self) -> int:
        return self.n_vocab - 1

    def _drawn(self, n: int, rng: np.random.Generator, held_out: bool) -> list[str]:
        drawn = []
        while len(drawn) < n:
            drawn += [question for question in self.task.questions(n, rng) if is_held_out(question) == held_out]
        return drawn[:n]

    def _distinct(self, n: int, rng: np.random.Generator) -> list[str]:
        found = {}
        while len(found) < n:
            found.update(dict.fromkeys(self._drawn(n, rng, held_out=True)))
        return list(found)[:n]


def is_held_out(question: str) -> bool:
    """One question in ten, whatever the seed."""
    return hashlib.sha256(question.encode()).digest()[0] % 10 == 0


def read(files: Sequence[str], tokenizer, *, held_out: float = 0.1, validation: str | None = None, n_vocab: int = 1000,
         allow_special: bool = False) -> TextData:
    """Text files, token files (.bin), or, if there are none, the text that ships inside Python.

    tokenizer: "char" and "bpe" are learned from the text; else one that is there, or None for tokens of unknown origin.
    validation: a file of its own, in place of the last part of the text.
    """
    paths = [Path(path) for path in files]
    kinds = {path.suffix == ".bin" for path in (*paths, *([Path(validation)] if validation else []))}
    if kinds == {True, False}:
        raise FormatError("text files and token files (.bin) do not mix: encode the text first (numgpt tokenize encode)")
    if kinds == {True}:
        known = None if isinstance(tokenizer, str) else tokenizer
        tokens = [corpus.read_tokens(path) for path in paths]
        tokens = tokens[0] if len(tokens) == 1 else np.concatenate(tokens)
        return TextData(*((tokens, corpus.read_tokens(validation)) if validation else split(tokens, held_out)), known)
    if tokenizer is None:
        raise ValueError("a text wants a tokenizer, and none lies with the weights: say which one their ids are of")
    texts = [corpus.read_text([path]) for path in paths] or [corpus.default()]
    extra = [corpus.read_text([validation])] if validation else []
    if tokenizer == "char":
        tokenizer = CharTokenizer.train("".join(texts + extra))
    elif tokenizer == "bpe":
        text = "".join(texts)
        if not validation:
            text = text[:len(split(np.empty(len(text), np.uint8), held_out)[0])]  # nothing is learned from what is held out
        tokenizer = BPETokenizer.train(text, n_vocab, allowed_special="all" if allow_special else ())
    tokens = encoded(texts, tokenizer, allow_special)
    return TextData(*((tokens, encoded(extra, tokenizer, allow_special)) if validation else split(tokens, held_out)), tokenizer)


def restored(source: dict | None, tokenizer):
    """The data that a run's checkpoint names."""
    if source is None:
        raise FormatError("this run was given its data by a program: give them to Trainer.resume as well")
    if "stage" in source:
        raise FormatError(f"this run is one of {source['stage']}: it goes on with numgpt {source['command']} --resume")
    return TaskData(source["task"]) if source.get("task") else read(tokenizer=tokenizer, **source)


def encoded(texts: Sequence[str], tokenizer, allow_special: bool = False) -> np.ndarray:
    """The ids of texts one after the other; where there are several, the tokenizer's end, if it has one, after each."""
    end = getattr(tokenizer, "end", None)
    end = [] if end is None or len(texts) == 1 else [end]
    dtype = np.uint16 if tokenizer.n_vocab <= 1 << 16 else np.int32
    options = {"allowed_special": "all"} if allow_special and getattr(tokenizer, "special", None) else {}
    try:
        return np.concatenate([np.array([*tokenizer.encode(text, **options), *end], dtype) for text in texts])
    except ValueError as error:
        sentence, found, _ = str(error).partition(": encode with replace=True")  # of characters; there is no such option here
        if not found:
            raise
        raise ValueError(f"{sentence}: take them out of the text, or take a tokenizer that has them") from None


def characters(tokenizer, ids: list[int]) -> int:
    """In the text of ids. Of a character that several tokens share, the first byte counts; the end of a text is none."""
    if not isinstance(tokenizer, BPETokenizer):
        return len(tokenizer.decode(ids))
    special = set(tokenizer.special.values())
    return sum(byte & 0xC0 != 0x80 for byte in tokenizer.decode_bytes(i for i in ids if i not in special))


def exact(predicted: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Which rows are right in every target that counts. With the answer so far given, this is what greedy decoding would
    write: up to the first wrong token both see the same, and after it the answer is wrong."""
    return ((predicted == targets) | (targets == IGNORE)).all(-1)


def _spread(n: int, most: int) -> np.ndarray:
    """At most so many of 0 to n - 1, evenly."""
    return np.arange(n) if n <= most else np.arange(most) * n // most


def _fingerprint(*arrays: np.ndarray) -> str:
    """Of long ones a part: their lengths, and 64 stretches of each."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str} {len(array)};".encode())
        for stretch in _stretches(array):
            digest.update(np.ascontiguousarray(stretch))
    return digest.hexdigest()


def _stretches(array: np.ndarray) -> Iterator[np.ndarray]:
    """All of an array, or, of a long one, 64 parts that are spread over it."""
    for i in _spread(-(-len(array) // 65536), 64):
        yield array[i * 65536:(i + 1) * 65536]
