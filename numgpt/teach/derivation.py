"""The derivation in a layer's docstring, as something that can be run: line by line, with what each line gives.

The lines under Forward and Backward are Python. Their names are the inputs, the parameters, the layer's plain numbers,
its parts, NumPy's functions without prefix, and rows(a); prose stands on lines that begin with --.
"""

import ast
import inspect
import math
import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from numgpt.layers import Layer, Param, ops
from numgpt.layers.recompute import Recompute

SECTIONS = ("Forward", "Backward", "Saved")


class Broken(ValueError):
    """A docstring that cannot be run."""


@dataclass(frozen=True)
class Statement:
    """One line of a derivation, or as many as one statement of Python takes."""

    code: str
    prose: tuple[str, ...] = ()  # the lines above it that begin with --

    @cached_property
    def tree(self) -> ast.stmt:
        return ast.parse(self.code).body[0]

    @cached_property
    def names(self) -> list[str]:
        """What it assigns to."""
        nodes = list(ast.walk(self.tree))
        found = [node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
        found += [node.value.id for node in nodes if isinstance(node, ast.Subscript)
                  and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name)]
        loops = {node.target.id for node in nodes if isinstance(node, ast.For)}
        return [name for name in dict.fromkeys(found) if name not in loops]

    @cached_property
    def reads(self) -> set[str]:
        """Whose numbers it uses: of x.shape and x.dtype it would use none."""
        nodes = list(ast.walk(self.tree))
        plain = {id(node.value) for node in nodes if isinstance(node, ast.Attribute) and node.attr in ("shape", "dtype")}
        return {node.id for node in nodes
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and id(node) not in plain}

    @property
    def parts(self) -> list[str]:
        """Whose backward it calls: norm1 of norm1.backward(dy), from the innermost on, as they are called."""
        calls = [node.func.value.id for node in ast.walk(self.tree)
                 if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
                 and node.func.attr == "backward" and isinstance(node.func.value, ast.Name)]
        return calls[::-1]

    @property
    def calls(self) -> list[str]:
        """Names that it calls, as in norm1(x)."""
        calls = [node.func for node in ast.walk(self.tree) if isinstance(node, ast.Call)]
        return [called.id for called in calls if isinstance(called, ast.Name)]


@dataclass(frozen=True)
class Derivation:
    """A docstring of the house's form, taken apart."""

    title: str
    text: str          # all of it
    summary: str       # its first sentence
    shapes: tuple[str, ...]
    forward: tuple[Statement, ...]
    backward: tuple[Statement, ...]
    saved: str
    closing: dict = field(default_factory=dict)  # prose below the last statement of a section

    @classmethod
    def of(cls, item) -> "Derivation":
        """That of a layer or of its class; Broken where the docstring has none."""
        kind = item if isinstance(item, type) else type(item)
        text = inspect.getdoc(kind) or ""
        bodies = {title: _body(text, title, kind.__name__) for title in SECTIONS}
        summary, *rest = text.split("\n\n")
        shapes = [] if not rest or re.match("Forward ", rest[0]) else [line.strip() for line in rest[0].splitlines()]
        (forward, below), (backward, end) = (_statements(bodies[title], kind.__name__) for title in SECTIONS[:2])
        return cls(kind.__name__, text, " ".join(summary.split()), tuple(shapes), forward, backward,
                   " ".join(bodies["Saved"].split()), {"Forward": below, "Backward": end})

    @property
    def output(self) -> str:
        return next((name for name in ("loss", "y", "x") if any(name in s.names for s in self.forward)), "y")


def undone(statement: Statement, forward: Iterable[Statement], known: set[str]) -> list[Statement]:
    """The lines of forward that a line of backward goes back through.

    Of dxhat = ... they lead from xhat to names whose gradients are known by then, and are read here; of
    norm1.backward(...) it is the line that calls norm1.
    """
    forward, read = tuple(forward), known & statement.reads
    if not (statement.parts or read):
        return []  # a line that prepares
    found = [line for line in forward if any(part in line.calls for part in statement.parts)]
    for name in statement.names:
        if name.startswith("d"):
            found += _between(subject(name, forward), forward, known, read)
    return [line for line in forward if line in found]


def subject(name: str, forward: Iterable[Statement]) -> str:
    """Whose gradient that is: x for dx, and for dtable_head, a part of it, table."""
    whole = name[1:]
    return whole if any(whole in line.reads or whole in line.names for line in forward) else whole.partition("_")[0]


def _between(name: str, forward: tuple[Statement, ...], known: set[str], read: set[str]) -> list[Statement]:
    found = []
    for i, line in enumerate(forward):
        if name in line.reads:
            ends = {f"d{one}" for one in (*line.names, *line.calls) if one != name} & known
            further = [] if ends else [step for one in line.names for step in _between(one, forward[i + 1:], known, read)]
            found += [line, *further] if ends & read or further else []
    return found


# -- running


class Part:
    """A layer inside a layer as its docstring writes it: part(x), part.backward(dy) with what it saved, part.weight.

    log, if there is one, hears what each call gave.
    """

    def __init__(self, layer: Layer, name: str = "", log: list | None = None, **options):
        self.layer, self.name, self.log, self.options = layer, name, log, options

    def __call__(self, *inputs):
        return self.forward(*inputs)[0]

    def forward(self, *inputs):
        y, self.saved = self.layer.forward(*inputs, **self.options)
        if self.log is not None:
            self.log.append((self.name, y))
        return y, self.saved

    def backward(self, dy, *saved):
        dx = self.layer.backward(dy, *(saved or (self.saved,)))
        if self.log is not None:
            self.log.append((f"{self.name}.backward", dx))
        return dx

    def __getattr__(self, name: str):
        item = getattr(self.__dict__["layer"], name)
        return item.value if isinstance(item, Param) else item


def scope(layer, log: list | None = None) -> dict:
    """NumPy's functions without prefix, the layer's plain numbers, its parameters and its parts."""
    names = {name: getattr(np, name) for name in np.__all__ if not name.startswith("_")}
    names |= {"rows": ops.rows, "softmax": ops.softmax, "normal_cdf": ops.normal_cdf, "sum": sum, "sqrt": _sqrt}
    for name, item in vars(layer).items():
        names[name] = _named(item, name, log)
    if not isinstance(layer, Recompute):  # whose lines call the layer itself
        return names
    return names | {"layer": Part(layer.layer, "layer", log)}


def _named(item, name: str, log):
    if isinstance(item, Param):
        return item.value
    if isinstance(item, Layer):
        return Part(item, name, log)
    if isinstance(item, list) and item and all(isinstance(one, Layer) for one in item):
        return [Part(one, f"{name}[{i}]", log) for i, one in enumerate(item)]
    return item


def _sqrt(a):
    """Of a plain number a plain number, which leaves float32 as it is."""
    return math.sqrt(a) if isinstance(a, (int, float)) and not isinstance(a, np.generic) else np.sqrt(a)


def run(statements: Iterable[Statement], names: dict) -> Iterator[tuple[Statement, dict[str, object]]]:
    """Execute one after the other in names; after each, what it assigned (a copy, for a later line may write into it)."""
    for statement in statements:
        try:
            exec(compile(statement.code, "<derivation>", "exec"), names)
        except Exception as error:
            line = " ".join(statement.code.split())
            raise Broken(f"the line {line} cannot be run: {type(error).__name__}: {error}") from error
        yield statement, {name: _copy(names[name]) for name in statement.names}


def execute(statements: Iterable[Statement], names: dict) -> None:
    for _ in run(statements, names):
        pass


def _copy(value):
    return value.copy() if isinstance(value, np.ndarray) else value


# -- reading


def _body(text: str, title: str, whose: str) -> str:
    """The lines of a section as they stand, without the margin."""
    head = re.search(rf"^{title} +", text, re.M)
    if not head:
        raise Broken(f"the docstring of {whose} has no {title}: an explanation is made of Forward, Backward and Saved")
    below = text[head.start():]
    end = re.search(r"\n(?=\S)|\n\n", below)
    return textwrap.dedent(" " * len(head[0]) + below[len(head[0]):end.start() if end else None])


def _statements(body: str, whose: str) -> tuple[tuple[Statement, ...], tuple[str, ...]]:
    """The statements, each with the prose above it, and the prose below the last."""
    lines = body.splitlines()
    prose = {i: line.strip().removeprefix("--").strip() for i, line in enumerate(lines) if line.lstrip().startswith("--")}
    code = ["" if i in prose else line for i, line in enumerate(lines)]
    try:
        nodes = ast.parse("\n".join(code)).body
    except SyntaxError as error:
        raise Broken(f"the docstring of {whose} has a line that is no Python: {(error.text or '').strip()}") from None
    found, above = [], 0
    for node in nodes:
        text = "\n".join(code[i] for i in range(node.lineno - 1, node.end_lineno) if i not in prose)
        found.append(Statement(text, tuple(prose[i] for i in range(above, node.end_lineno) if i in prose)))
        above = node.end_lineno
    return tuple(found), tuple(prose[i] for i in range(above, len(lines)) if i in prose)
