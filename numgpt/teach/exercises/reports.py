"""Reports on a learner's code: gradients held against its forward, numbers against a reference.

Made so that no short cut passes: what is random is of order one, sizes are coprime, ids repeat, some targets do not
count; and forward itself must compute what it computed when it was given.
"""

import copy
import inspect

import numpy as np

from numgpt.gradcheck import Report, check
from numgpt.gradcheck.numeric import Element
from numgpt.gradcheck.patterns import looks_like
from numgpt.gradcheck.report import INCONCLUSIVE, OK, WRONG, Finding, Worst

NEAR = 1e-6  # of the largest number: far above what another order of operations makes, far below any mistake


class Misfit(Exception):
    """The learner's code cannot be checked, and why."""


class Apart(Worst):
    """The number that is furthest from the reference's."""

    def __str__(self):
        text = f"{self.where}: yours {self.analytic:.6g}, wanted {self.numeric:.6g}"
        return text + (f" (ratio {self.analytic / self.numeric:.6g})" if self.numeric else "")


def draw(*shapes, seed: int = 0) -> list[np.ndarray]:
    rng = generator(seed)
    return [rng.standard_normal(shape) for shape in shapes]


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng([seed, *b"exercises"])


def np_targets(n: int, n_vocab: int) -> np.ndarray:
    """The second and every fifth after it do not count."""
    targets = generator().integers(0, n_vocab, n)
    targets[1::5] = -100
    return targets


def repeated(B: int, T: int) -> np.ndarray:
    """Ids of which some occur more than once, below 9."""
    return generator().integers(0, 9, (B, T))


def layer(made, own, *inputs, params: tuple[str, ...] = (), hints: dict | None = None, **options) -> Report:
    """The learner's layer, beside the solution's, which has the right forward."""
    for method in ("forward", "backward"):
        _held_to_signature(getattr(made, method, None), getattr(own, method), f"{type(own).__name__}.{method}")
    returned = made.forward(*map(np.array, inputs), **copy.deepcopy(options))  # generators too: each call draws the same
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise Misfit("forward must return two things, y and what is saved for backward; "
                     f"it returned {type(returned).__name__}")

    wanted, _ = own.forward(*inputs, **copy.deepcopy(options))
    y = np.asarray(returned[0])
    if y.shape != np.shape(wanted) or y.dtype.kind not in "fc" or not _near(y, wanted):
        return Report(type(own).__name__, [Finding("forward", WRONG, notes=[
            "it computes something else than it did when it was given to you: only backward is to be changed"])])
    report = check(made, *inputs, hints=hints, **options)
    report.findings = [f for f in report.findings if f.method or f.verdict != INCONCLUSIVE or f.name not in params]
    found = {f.name for f in report.findings}
    report.findings += [Finding(name, WRONG, notes=[f"self.{name} and self.d{name} are to be checked: leave both as given"])
                        for name in params if name not in found]
    return report


class Compared(Report):
    """A report on plain functions, which no contract binds."""

    def table(self) -> str:
        return "\n".join(line for line in super().table().splitlines() if not line.startswith("rules of the contract"))


def values(target: str, got: dict, wanted: dict, near: float = NEAR) -> Report:
    """Numbers beside a reference's, as if they were gradients beside measured ones."""
    return Compared(target, [_compared(name, got[name], wanted[name], near) for name in wanted])


def _compared(name: str, got, wanted: np.ndarray, near: float) -> Finding:
    a, n = np.asarray(got), np.asarray(wanted, float)
    finding = Finding(name, OK, n.shape, "reference", "every", n.size, n.size)
    if a.shape != n.shape or a.dtype.kind not in "fiu" or not np.isfinite(a).all():
        finding.verdict = WRONG
        finding.notes.append(f"the shape is {a.shape}, wanted is {n.shape}" if a.shape != n.shape
                             else "there are nan or inf, or what is no number")
        return finding
    scale = float(abs(n).max())
    apart = abs(a - n)
    i = int(apart.argmax())
    where = f"{name}, at {[int(j) for j in np.unravel_index(i, n.shape)]}"
    finding.error, finding.tolerance, finding.scale = float(apart.max()) / scale, near, scale
    finding.worst = Apart(where, float(a.flat[i]), float(n.flat[i]), near * scale)
    if finding.error > near:
        finding.verdict, finding.differing = WRONG, int((apart > near * scale).sum())
        yours, right, allowed = a.reshape(-1, 1).astype(float), n.reshape(-1, 1), np.full((n.size, 1), near * scale)
        finding.looks_like = looks_like(n.shape, [Element(i) for i in range(n.size)], yours, right, allowed, {}, {})
    return finding


def _near(a, b) -> bool:
    return bool(abs(a - b).max() <= NEAR * abs(np.asarray(b)).max())


def _held_to_signature(method, own, name: str) -> None:
    wanted = inspect.signature(own).parameters.values()
    named = {p.name: None for p in wanted if p.kind is p.KEYWORD_ONLY}
    asked = ", ".join(f"{p.name}=..." if p.name in named else p.name for p in wanted)
    if not callable(method):
        raise Misfit(f"there is no {name} any more: it has to take ({asked})")
    try:
        signature = inspect.signature(method)
        signature.bind(*[None] * (len(wanted) - len(named)), **named)
    except TypeError:
        raise Misfit(f"{name} has to take ({asked}); it takes {signature}") from None
