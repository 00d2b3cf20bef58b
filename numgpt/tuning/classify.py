"""What a classifier says of texts: lines in, a probability of each class out."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from numgpt.tuning.classifier import Classifier
from numgpt.tuning.confusion import Confusion
from numgpt.tuning.encoding import Rows
from numgpt.tuning.examples import LABELLED, BadLines, Origin, belongs
from numgpt.tuning.lines import Bad, Choice, Label, Text, decoded, parse, wanted


@dataclass(frozen=True)
class Verdict:
    """On one line: the probability of each of the names, which are the model's labels, or the numbers of the choices."""

    origin: Origin
    item: object
    names: tuple[Label, ...]
    probabilities: np.ndarray

    @property
    def best(self) -> int:
        return int(self.probabilities.argmax())

    def ranked(self) -> list[tuple[Label, float]]:
        """The names and their probabilities, the highest first."""
        return [(self.names[i], float(self.probabilities[i])) for i in np.argsort(-self.probabilities, kind="stable")]

    @property
    def true(self) -> int:
        """The number of what the line says is right."""
        return self.item.answer if isinstance(self.item, Choice) else self.names.index(self.item.label)


class Lines:
    """The lines of a file, as examples of the model's kind. What is none of them goes to bad: an error, or counted and left out.

    plain     a line is the text itself, unless it is an object of JSON that has a "text", which nobody classifies as it stands
    answers   whether a line must say what is right
    """

    def __init__(self, model: Classifier, bad: BadLines, *, plain: bool, answers: bool = False):
        if plain and model.template.kind != "classify":
            raise ValueError("a plain line is a text alone, for --task classify")
        self.model, self.bad, self.plain, self.answers = model, bad, plain, answers

    def read(self, lines: Iterable[bytes], name: str) -> Iterator[tuple[Origin, object]]:
        for number, line in enumerate(lines, 1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            if not self.plain and not line.strip():  # as where examples are read to learn from
                continue
            origin = Origin(name, number)
            try:
                yield origin, self._item(line)
            except Bad as error:
                self.bad.add(origin, error)

    def _item(self, line: bytes):
        kind, labels = self.model.template.kind, self.model.labels
        if not self.plain or _has_text(line):
            item = parse(line, kind, answers=self.answers)
            if self.answers and kind in LABELLED:
                belongs(item.label, labels)
            return item
        text = decoded(line)
        if not text.strip():
            raise Bad("an empty text", "the line is empty" + (" but for white space" if text else "") + ": a text is wanted")
        if self.answers:
            raise Bad("no label", f"a plain line does not say what is right, and that is asked for: {wanted(kind)}")
        return Text(text, None)


def _has_text(line: bytes) -> bool:
    """Whether a line is an object of JSON that has a "text"; bytes that are not UTF-8 are spoken of elsewhere."""
    if not line.lstrip().startswith(b"{"):
        return False
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and "text" in content


def classified(model: Classifier, tokenizer, items: Iterable[tuple[Origin, object]], bad: BadLines, *, batch: int = 1,
               truncate: bool = False) -> Iterator[Verdict]:
    """A verdict on each, in their order, taken so many at a time; what is too long or cannot be encoded goes to bad."""
    kind, waiting = model.template.kind, []
    for origin, item in items:
        try:
            waiting.append((origin, item, model.template.sequences(item, kind, tokenizer, model.config.n_ctx, truncate=truncate)))
        except Bad as error:
            bad.add(origin, error)
        if len(waiting) == batch:
            yield from _judged(model, waiting)
            waiting = []
    if waiting:
        yield from _judged(model, waiting)


def _judged(model: Classifier, waiting) -> Iterator[Verdict]:
    ids = [tuple(np.array(ids, np.int32) for ids, _ in sequences) for _, _, sequences in waiting]
    begins = [tuple(begin for _, begin in sequences) for _, _, sequences in waiting]
    rows = Rows(model.template.kind, ids, begins, None, [origin for origin, _, _ in waiting]).at(range(len(waiting)))
    for (origin, item, sequences), probabilities in zip(waiting, model.probabilities(rows.ids, rows.last)):
        names = tuple(range(len(sequences))) if model.labels is None else model.labels
        yield Verdict(origin, item, names, probabilities[:len(names)])


def confusion(verdicts: Iterable[Verdict]) -> Confusion | None:
    """How often each class is taken for each; None, if there is no verdict."""
    true, predicted, names = [], [], ()
    for verdict in verdicts:
        true.append(verdict.true)
        predicted.append(verdict.best)
        names = max(names, verdict.names, key=len)
    return Confusion.of(true, predicted, names) if true else None
