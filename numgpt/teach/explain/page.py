"""An explanation and how it is laid out: a derivation, the same with numbers, and its gradients measured."""

import html
import re
from dataclasses import dataclass, field

from numgpt.teach import terminal
from numgpt.teach.explain.figures import lines, plain
from numgpt.teach.explain.measured import Measured
from numgpt.teach.paragraphs import docstring, fill
from numgpt.teach.terminal import Ink

LABEL = 22  # the widest column of names and shapes
ROOM = 26   # columns that it leaves to the numbers
DIGITS = 10  # behind the point, of what is measured
STYLES = {"strong": "font-weight:bold", "faint": "opacity:0.6", "bad": "color:#c0392b", "gradient": "color:#b07400",
          "value": "color:#0f7c90"}  # a notebook's, by the names of Ink
COLOURS = {getattr(Ink(True), name)("|").partition("|")[0]: style for name, style in STYLES.items()}


@dataclass
class Shown:
    """An array under its name; kind is a value, a gradient, or what stands beside to be compared."""

    name: str
    shape: str  # in letters
    value: object
    kind: str = "value"

    @property
    def label(self) -> str:
        return f"{self.name} {self.shape}".rstrip()


@dataclass
class Step:
    """A line of the derivation with what it gave."""

    code: str
    prose: tuple[str, ...] = ()
    undoes: tuple[str, ...] = ()  # lines of forward
    shown: list[Shown] = field(default_factory=list)


@dataclass
class Chapter:
    title: str
    opening: list[Shown] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    closing: tuple[str, ...] = ()


@dataclass
class Explanation:
    """What `numgpt explain NAME` prints: str(it), it.text(width, ink), or as a notebook's cell."""

    name: str
    title: str
    docstring: str
    example: str  # what it was run with, in a line
    chapters: list[Chapter]
    measured: list[Measured]
    verdicts: list[str]
    faults: list[str]  # sentences; none where the docstring, the layer and its forward pass agree

    @property
    def ok(self) -> bool:
        return not self.faults

    def __str__(self) -> str:
        return self.text()

    __repr__ = __str__  # what a session shows of it

    def _repr_html_(self) -> str:
        text = html.escape(self.text(width=100, ink=Ink(True)), quote=False)
        styled = re.sub("(\x1b\\[[0-9]+m)(.*?)\x1b\\[0m",
                        lambda found: f'<span style="{COLOURS[found[1]]}">{found[2]}</span>', text)
        return f'<pre style="line-height:1.3">{styled}</pre>'

    def text(self, width: int | None = None, ink: Ink = Ink(False)) -> str:
        width = max(terminal.width() if width is None else width, 40)
        label = min(LABEL, width - ROOM, max((len(one.label) for one in self.shown()), default=0))
        page = [ink.strong(self.title), *docstring(self.docstring, width)]
        if re.search(r"\brows\(", self.docstring):
            page += ["", *fill("rows(a) adds a up over all axes but the last: over all sequences and tokens.", width)]
        page += ["", ink.strong("With numbers"), *fill(self.example, width, "  ")]
        for chapter in self.chapters:
            page += ["", f"  {ink.strong(chapter.title)}"]
            page += [line for one in chapter.opening for line in _rows(one, label, width, ink)]
            for i, step in enumerate(chapter.steps):
                page += [""] if i or chapter.opening else []
                page += _step(step, label, width, ink)
            if chapter.closing:
                page += ["", *(ink.faint(line) for line in _prose(chapter.closing, width))]
        if self.measured:
            page += ["", ink.strong("Every gradient, measured"), *_table(self.measured, width, ink)]
        page += ["", *(line for verdict in self.verdicts for line in fill(verdict, width))]
        page += [ink.bad(line) for fault in self.faults for line in fill(f"WRONG: {fault}", width)]
        return "\n".join(page)

    def shown(self) -> list[Shown]:
        """Every array of it, in order."""
        return [one for chapter in self.chapters
                for one in (*chapter.opening, *(shown for step in chapter.steps for shown in step.shown))]


def _step(step: Step, label: int, width: int, ink: Ink) -> list[str]:
    page = [ink.faint(line) for line in _prose(step.prose, width)]
    page += [ink.strong(line) for code in step.code.splitlines() for line in fill(code, width, "    ", "        ")]
    page += [ink.faint(line) for i, code in enumerate(step.undoes)
             for line in fill(" ".join(code.split()), width, "      undoes  " if i == 0 else " " * 14, " " * 18)]
    return page + [line for one in step.shown for line in _rows(one, label, width, ink)]


def _prose(prose: tuple[str, ...], width: int) -> list[str]:
    return fill("-- " + " ".join(prose), width, "    ", "       ") if prose else []


def _rows(one: Shown, label: int, width: int, ink: Ink) -> list[str]:
    """Its name and shape, and beside them its rows."""
    names = [one.label] if len(one.label) <= label else [_cut(one.name, label), *([one.shape[:label]] if one.shape else [])]
    numbers = lines(one.value, width - label - 9)
    paint = {"value": ink.value, "gradient": ink.gradient, "beside": ink.faint}[one.kind]
    longer = max(len(names), len(numbers))
    names, numbers = ([*column, *[""] * (longer - len(column))] for column in (names, numbers))
    return [f"      {name:{label}} | {paint(row)}".rstrip() for name, row in zip(names, numbers)]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[:width - 3] + "..."


def _table(measured: list[Measured], width: int, ink: Ink) -> list[str]:
    """A line for each entry; where its index and its numbers have no room beside each other, the index is above."""
    entries = [entry for array in measured for entry in array.shown]
    margin = max(len(_index(entry.index)) for entry in entries) + 4
    numbers = [(e.backward, e.difference, e.exact) for e in entries]
    above = width - margin - 11 < 3 * (2 + len("backward"))
    margin = 2 if above else margin
    room = (width - margin - 11) // 3 - 2
    decimals = min(DIGITS, room - max(len(f"{x:.0f}") for row in numbers for x in row) - 1)
    words = [[plain(x, decimals) if decimals > 2 else f"{x:.{max(room - 7, 1)}g}" for x in row] for row in numbers]
    short = ["back" if above else "backward", "differ.", "complex"]
    heads = ["backward", "difference", "complex step"] if room >= 12 else short
    cell = max(map(len, [*heads, *(word for row in words for word in row)]))
    page = [ink.faint(" " * margin + "".join(f"  {head:>{cell}}" for head in heads) + "    apart")]
    rows = iter(words)
    for array in measured:
        many = array.size > len(array.shown)
        more = f"  {array.wrong} of {array.size} wrong, the farthest first" if many and array.wrong else (
            f"  the largest {len(array.shown)} of {array.size}" if many else "")
        first, *rest = fill(f"d{array.name}{more}", width, "  ", " " * 6)
        name, _, words_beside = first.strip().partition("  ")
        page += [f"  {ink.strong(name)}" + ink.faint(f"  {words_beside}" if words_beside else ""), *map(ink.faint, rest)]
        for entry in array.shown:
            cells = zip(next(rows), (ink.gradient, ink.value, ink.value))
            line = "".join(f"  {paint(f'{word:>{cell}}')}" for word, paint in cells)
            index = " " * margin if above else f"    {_index(entry.index):{margin - 4}}"
            page += [f"    {_index(entry.index)}"] if above else []
            page.append(f"{index}{line}  {_size(entry.apart):>7}" + (ink.bad(" !") if entry.wrong else ""))
    return page


def _index(index: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, index)) + "]"


def _size(x: float) -> str:
    return f"{x:.0e}" if x else "0"
