"""Examples to fine-tune on, from files of JSON lines (see lines.py); bad ones are told, or counted and left out."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from numgpt.files import FormatError, nearest, replacing, short
from numgpt.tuning.lines import KINDS, Bad, Label, called, names, parse, shown, wanted

LABELLED = ("classify", "pairs", "similarity")


class Origin(NamedTuple):
    """Where an example came from."""
    file: str
    line: int

    def __str__(self):
        return f"{self.file}, line {self.line}"


class BadLines:
    """Examples that cannot be used: the first is an error, or, with skip, each is counted under its reason.

    counts: how often each reason; first: the sentence on the first of each
    """

    def __init__(self, skip: bool = False):
        self.skip, self.counts, self.first = skip, Counter(), {}

    def add(self, origin: Origin, bad: Bad) -> None:
        sentence = f"{origin}: {bad}"
        if not self.skip:
            raise FormatError(f"{sentence} (--skip-bad leaves such lines out)") from None
        self.counts[bad.reason] += 1
        self.first.setdefault(bad.reason, sentence)

    def join(self, other: "BadLines") -> None:
        self.counts.update(other.counts)
        self.first = {**other.first, **self.first}

    def __len__(self) -> int:
        return self.counts.total()

    def __str__(self):
        return ", ".join(f"{reason} ({n})" for reason, n in self.counts.most_common()) or "none"


@dataclass(frozen=True)
class Examples:
    """Examples of a kind, each with where it came from.

    labels: those of classify, pairs and similarity, in the order of their classes; None for the others
    bad: the lines that were left out; who encodes the examples adds to it
    """
    kind: str
    items: list
    origins: list[Origin]
    labels: tuple[Label, ...] | None = None
    bad: BadLines = field(default_factory=BadLines)

    def __len__(self) -> int:
        return len(self.items)

    def classes(self) -> np.ndarray | None:
        """(n,) the number of each one's label or right choice, -1 where it is not said; None where there is no such thing."""
        if self.kind == "choice":
            answers = [item.answer for item in self.items]
        elif self.labels is None:
            return None
        else:
            number = {_key(label): i for i, label in enumerate(self.labels)}
            answers = [None if item.label is None else number[_key(item.label)] for item in self.items]
        return np.array([-1 if answer is None else answer for answer in answers], np.int64)


def read(paths, kind: str, *, labels: Sequence[Label] | None = None, skip_bad: bool = False, answers: bool = True) -> Examples:
    """The examples of files (one path or several), in their order.

    labels: the only ones there may be; None: those of the files, sorted
    skip_bad: bad lines are counted and left out; a file without a good line is an error all the same
    answers: False if a label or an answer may be lacking, since it is asked for
    """
    if kind not in KINDS:
        raise ValueError(f"there is no kind of examples {kind!r}: choose one of {', '.join(KINDS)}")
    if labels is not None:
        labels = _checked(labels)
    files = [_good(path, kind, labels, BadLines(skip_bad), answers) for path in ([paths] if isinstance(paths, (str, Path)) else paths)]
    if not files:
        raise ValueError("read wants one file at least; got none")
    if kind in LABELLED and labels is None:
        files = _alike(files)
    bad, items, origins = BadLines(skip_bad), [], []
    for good, here in files:
        if not good:  # of lines there were some
            path = next(iter(here.first.values())).rpartition(", line ")[0]
            raise FormatError(f"none of the {len(here)} lines of {path} can be used ({here}): {next(iter(here.first.values()))}")
        items += [item for _, item in good]
        origins += [origin for origin, _ in good]
        bad.join(here)
    if kind in LABELLED and labels is None and answers:
        labels = tuple(sorted({_key(item.label): item.label for item in items}.values()))
        if len(labels) < 2:
            which = " and ".join(dict.fromkeys(origin.file for origin in origins)) + (" that can be used" if bad else "")
            left = f" (left out: {bad})" if bad else ""
            raise FormatError(f"each of the {len(items)} lines of {which} has the label {shown(labels[0])}{left}: "
                              "to tell labels apart, there must be two of them")
    return Examples(kind, items, origins, labels, bad)


def _good(path, kind: str, labels, bad: BadLines, answers: bool) -> tuple[list, BadLines]:
    """Of a file each example with where it is, and the lines that are none."""
    _no_list(path)
    good = []
    for origin, line in _lines(path):
        try:
            item = parse(line, kind, answers=answers)
            if labels is not None and kind in LABELLED and item.label is not None:
                belongs(item.label, labels)
        except Bad as error:
            bad.add(origin, error)
            continue
        good.append((origin, item))
    if not good and not bad:
        raise FormatError(f"{path} has no lines: {wanted(kind)}")
    return good, bad


def _alike(files: list[tuple[list, BadLines]]) -> list[tuple[list, BadLines]]:
    """The same without labels of another type than most have: "1" beside 1 is a slip."""
    labels = [item.label for good, _ in files for _, item in good if item.label is not None]
    counts = Counter(map(type, labels))
    if len(counts) < 2:
        return files
    [(most, n)] = counts.most_common(1)  # of as many, the first that came
    usual, kept = next(label for label in labels if type(label) is most), []
    for good, bad in files:
        for origin, item in good:
            if type(item.label) not in (most, type(None)):
                bad.add(origin, Bad("a wrong type", f"the label is {called(item.label)}, {shown(item.label)}, and {called(usual)} "
                                                    f"in {n} other lines, such as {shown(usual)}: labels must be alike"))
        kept.append(([(origin, item) for origin, item in good if type(item.label) in (most, type(None))], bad))
    return kept


def _no_list(path) -> None:
    """One list of all examples is JSON, and no file of JSON lines."""
    content = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf")
    if not content.lstrip().startswith(b"["):
        return
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return  # a line of it is told
    if found and all(isinstance(item, dict) for item in found):
        raise FormatError(f"{path} is one list, of {len(found)} objects: a file of JSON lines is wanted, one object a line, "
                          "without commas between them")


def texts(item) -> list[str]:
    """All texts of an example, its label excepted."""
    return [text for name, field in asdict(item).items() if name not in ("label", "answer")
            for text in ([field] if isinstance(field, str) else field)]


def write(path, items: Iterable) -> None:
    """Write examples as read reads them, a line each."""
    with replacing(path) as file:
        for item in items:
            file.write(json.dumps(asdict(item), ensure_ascii=False).encode() + b"\n")


def _lines(path) -> Iterator[tuple[Origin, bytes]]:
    """The lines of a file that are not blank, without what ends them and without a byte order mark at the beginning."""
    content = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf")
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            yield Origin(str(path), number), line.removesuffix(b"\r")


def belongs(label: Label, labels: tuple[Label, ...]) -> None:
    """Bad, unless it is one of the labels."""
    if _key(label) not in map(_key, labels):
        near = nearest(label, labels) if isinstance(label, str) and isinstance(labels[0], str) else None
        raise Bad("an unknown label", f"there is no label {shown(label)}: the labels are {names(labels)}"
                  + (f"; is {shown(near)} meant?" if near else ""))


def _checked(labels: Sequence[Label]) -> tuple[Label, ...]:
    labels = () if isinstance(labels, str) else tuple(labels)
    if len(labels) < 2 or len(set(map(_key, labels))) < len(labels) or not all(
            isinstance(label, (str, int)) and label != "" and type(label) is type(labels[0]) for label in labels):
        raise ValueError(f"labels must be two or more different texts, whole numbers or booleans, all alike; got {short(labels)}")
    return labels


def _key(label: Label) -> tuple:
    return type(label), label  # to Python, True is 1
