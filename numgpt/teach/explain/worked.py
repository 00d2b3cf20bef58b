"""A layer's forward and backward on an example, and beside them its derivation, line by line."""

import ast
import copy
import functools
import inspect

import numpy as np

from numgpt.teach.derivation import Broken, Derivation, Part, Statement, run, scope, subject, undone
from numgpt.teach.explain.examples import EXAMPLES, PRIMES, Draw, Example, make
from numgpt.teach.explain.figures import letters
from numgpt.teach.explain.measured import tolerance
from numgpt.teach.explain.page import Chapter, Shown, Step

LONG = 22  # of what is called, to be a name itself
COMING = np.array([-1, -0.5, 0.5, 1, 1.5, 2])  # the numbers of a gradient from above


class Worked:
    """Both, at work on one example."""

    def __init__(self, example: Example, derivation: Derivation, seed: int):
        self.example, self.derivation = example, derivation
        layer = self.layer = example.layer
        try:
            self.y, saved = layer.forward(*example.inputs.values(), **example.fresh_options())
            self.dy = _cotangent(self.y, seed)
            layer.zero_grad()
            result = layer.backward(self.dy, saved)
        except Exception as error:
            raise Broken(f"{derivation.title} cannot be run: {type(error).__name__}: {error}") from error
        self.returned = result if isinstance(result, tuple) else (result,)
        self.grads = {name: param.grad.copy() for name, param in layer.named_params() if not param.frozen}

        self.log: list[tuple[str, object]] = []
        self.names = scope(layer, self.log) | copy.deepcopy(example.names) | example.inputs
        self.forward = self._run(derivation.forward)
        self.names[f"d{derivation.output}"] = self.dy
        layer.zero_grad()
        self.backward = self._run(derivation.backward)
        self.parts = {name: param.grad.copy() for name, param in layer.named_params() if not param.frozen}  # as the parts' backwards left them
        layer.zero_grad()

    def gradients(self) -> dict[str, np.ndarray]:
        """What the layer's backward gave, by the names of what is differentiated."""
        return {name: np.asarray(d) for name, d in zip(self.example.inputs, self.returned) if d is not None} | self.grads

    def compare(self) -> list[str]:
        """Sentences about what the docstring's lines and the layer do not agree in."""
        output = self.derivation.output
        pairs = {output: (self.names.get(output), self.y)}
        inputs = {f"d{name}": d for name, d in zip(self.example.inputs, self.returned) if d is not None}
        pairs |= {name: (self.names.get(name), d) for name, d in inputs.items()}
        called = {part for line in self.derivation.backward for part in line.parts}
        for name, grad in self.grads.items():
            if f"d{name}" in self.names:
                pairs[f"d{name}"] = self.names[f"d{name}"], grad
            elif called & {name.partition(".")[0], "layer"}:
                pairs[f"d{name}"] = self.parts[name], grad
        limit = tolerance(self.gradients() | {"y": np.asarray(self.y)}, np.asarray(self.y).dtype)
        self.drift = {name: _apart(*pair) for name, pair in pairs.items()}
        return [f"the docstring's lines give another {name} than {self.derivation.title} does"
                + (f": they are {apart:.2g} apart" if np.isfinite(apart) else "")
                for name, apart in self.drift.items() if not apart <= limit]

    def chapters(self, shapes: dict) -> list[Chapter]:
        """The pages of it; shapes are the same arrays' in letters."""
        d = self.derivation
        given = [Shown(name, shapes.get(("given", name), ""), value) for name, value in given_names(self.example).items()]
        forward = [Step(line.code, line.prose, (), self._shown(made, shapes, ("forward", i), "value"))
                   for i, (line, made) in enumerate(self.forward)]
        backward, known = [], {f"d{d.output}"} | {name for line in d.forward for name in line.names if name.startswith("d")}
        for i, (line, made) in enumerate(self.backward):
            through = undone(line, d.forward, known)
            shown = self._shown(made, shapes, ("backward", i), "gradient")
            if through:
                shown += [one for name in line.names for one in self._beside(name, through, shapes)]
            backward.append(Step(line.code, line.prose, tuple(one.code for one in through), shown))
            known |= set(line.names)
        coming = Shown(f"d{d.output}", shapes.get(("name", d.output), ""), self.dy, "gradient")
        return [Chapter("Given", given), Chapter("Forward", [], forward, d.closing["Forward"]),
                Chapter(f"Backward, from d{d.output} on", [coming], backward, d.closing["Backward"])]

    def _run(self, lines: tuple[Statement, ...]) -> list[tuple[Statement, dict]]:
        """Each line with what it gave: what its parts did first, by how they were called, then what it assigned."""
        found = []
        for line in lines:
            self.log.clear()
            calls = _calls(line, self.names)
            for _, made in run([line], self.names):
                parts = {}
                for text, (part, item) in zip(calls, self.log):
                    parts |= dict(zip(_inputs(self.names, part), item)) if isinstance(item, tuple) else {text: item}
                more = {text: value for text, value in parts.items() if not _among(value, made.values())}
                found.append((line, more | made))
        return found

    def _beside(self, name: str, through: list[Statement], shapes: dict) -> list[Shown]:
        """The value whose gradient that is: xhat for dxhat; for dqkv, of a part, what it gave; else what was undone."""
        whole = subject(name, self.derivation.forward)
        if isinstance(self.names.get(whole), np.ndarray):
            found = {whole: (("name", whole), self.names[whole])}
        else:
            found = {text: (("forward", i, text), value) for i, (_, made) in enumerate(self.forward)
                     for text, value in made.items() if text.startswith(f"{whole}(")}
            found = found or {one: (("name", one), self.names[one]) for line in through for one in line.names}
        return [Shown(text, shapes.get(where, ""), value, "beside") for text, (where, value) in found.items()]

    def _shown(self, made: dict, shapes: dict, where: tuple, kind: str) -> list[Shown]:
        return [Shown(name, shapes.get((*where, name), ""), value, kind)
                for name, value in made.items() if _is_numbers(value)]


def given_names(example: Example) -> dict[str, object]:
    """What a derivation starts from, by name: inputs, parameters, numbers."""
    numbers = {name: value for name, value in vars(example.layer).items() if isinstance(value, float) and np.isfinite(value)}
    params = {name: param.value for name, param in example.layer.named_params()}
    more = {name: value for name, value in example.names.items() if _is_numbers(value) and name not in vars(PRIMES)}
    return example.inputs | params | numbers | more


def _cotangent(y, seed: int):
    """What comes from above: 1 for a loss, else drawn like an input."""
    if np.ndim(y) == 0:
        return 1.0
    return Draw([seed, 1], y.dtype).rows(*y.shape, among=COMING)


def _calls(line: Statement, known: dict) -> list[str]:
    """The calls of parts in a line as it writes them, the inner ones first."""
    found = []

    class Visit(ast.NodeVisitor):
        def visit_Call(self, node):
            self.generic_visit(node)
            owner = node.func.value if isinstance(node.func, ast.Attribute) else node.func
            if isinstance(owner, ast.Name) and isinstance(known.get(owner.id), Part):
                text = ast.unparse(node)
                found.append(text if len(text) <= LONG else f"{ast.unparse(node.func)}(...)")

    Visit().visit(line.tree)
    return found


def _inputs(known: dict, called: str) -> list[str]:
    """What a part's backward returns several of: dq, dk, dv, by the names of its forward."""
    return [f"d{name}" for name in inspect.signature(known[called.partition(".")[0]].layer.forward).parameters]


def _is_numbers(value) -> bool:
    return isinstance(value, (np.ndarray, np.generic, int, float))


def _among(value, others) -> bool:
    return any(_is_numbers(one) and np.array_equal(value, one) for one in others)


def _apart(a, b) -> float:
    a, b = np.asarray(np.nan if a is None else a), np.asarray(b)
    return float(np.abs(a - b).max(initial=0)) if a.shape == b.shape else np.inf


@functools.cache
def shapes_of(name: str, docstring: str) -> dict:
    """The shape of each array in letters, by where it stands: from a run in which every axis has its own prime."""
    example = make(name, PRIMES)
    worked = Worked(example, Derivation.of(EXAMPLES[name][0]), 0)
    primes = vars(PRIMES)
    products = {letter: int(np.prod([primes[one] for one in axes.split("*")])) for letter, axes in example.letters}
    known = products | {letter: prime for letter, prime in primes.items()
                        if letter not in products and letter not in dict(example.letters).values()}
    arrays = {("given", one): value for one, value in given_names(example).items()}
    for where, found in (("forward", worked.forward), ("backward", worked.backward)):
        arrays |= {(where, i, one): value for i, (_, made) in enumerate(found) for one, value in made.items()}
    arrays |= {("name", one): value for one, value in worked.names.items()}
    return {where: letters(value.shape, known) for where, value in arrays.items()
            if isinstance(value, np.ndarray) and value.ndim}
