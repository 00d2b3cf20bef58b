"""The check itself: what is measured, how, and on what."""

import time
from collections.abc import Callable, Iterable

import numpy as np

from numgpt.gradcheck.analytic import Analytic
from numgpt.gradcheck.comparison import SAFETY, Comparison
from numgpt.gradcheck.cotangents import Cotangents, centred, dense, sparse
from numgpt.gradcheck.numeric import Along, Element, NotAnalytic, Numeric, generator
from numgpt.gradcheck.precision import compare_as_given
from numgpt.gradcheck.report import INCONCLUSIVE, Finding, Report
from numgpt.gradcheck.rules import check_rules
from numgpt.gradcheck.subject import Subject, output_leaves, subject_of
from numgpt.gradcheck.trees import leaves

METHODS = ("auto", "complex", "richardson", "central")
MODES = ("auto", "every", "jacobian", "projection", "sampled")

COST = {"complex": 4, "richardson": 20, "central": 4}  # of a derivative, in evaluations
SECONDS = 10.0   # what auto may spend
DIRECTIONS = 12  # random ones, for an array too large to measure each element
SAMPLES = 64


def check(target, *inputs, backward: Callable | None = None, params: Iterable[str] | dict[str, str] | None = None,
          method: str = "auto", mode: str = "auto", hints: dict[str, float] | None = None, dy=None,
          budget: float | None = None, seed: int = 0, **options) -> Report:
    """Compare a backward pass with derivatives measured from its forward pass.

    target and inputs, one of
        check(layer, x)                   forward(x) -> (y, saved), backward(dy, saved) -> dx: numgpt's contract
        check(layer, x)                   forward(x) -> y, backward(dy) -> dx: a layer that keeps its own state
        check(f, x, w, backward=g)        f(x, w) -> y, g(dy, x, w) -> (dx, dw): a pair of functions
    Inputs and outputs may be tuples or dicts of arrays. Integer inputs are not differentiated. Other
    keyword arguments are handed to forward (and to g, as far as it names them).

    A layer's parameters are checked too. Their gradients are looked for as dW, d_W, W_grad, grad_W, W.grad
    and grads["W"]; params=["W"] insists on some, params={"fc.W": "fc.deltas.W"} says where they are.

    method  complex: complex step, exact to rounding, if f takes complex numbers (validated on the way);
            richardson: extrapolated central differences; central: one step. auto: complex if possible.
    mode    every: each element; jacobian: each element of each output; projection: random directions;
            sampled: some elements. auto: every element if the budget allows, else the last two together.
    budget  seconds to spend. What was left out then is said.
    hints   factors to name in a failure, {"sqrt(D)": 2.8}; a layer may have a method hints(*inputs).
    dy      the output's gradient to check with, instead of random ones.

    There is no tolerance to set: it follows from the error that was estimated and the noise that was
    measured. The report is true where all is right. `wrong` is a gradient outside its tolerance;
    `inconclusive` means that the tolerance came out too wide to tell (a noisy function, or one that is
    nearly broken at this point), and is not a pass.
    """
    _one_of("method", method, METHODS)
    _one_of("mode", mode, MODES)
    began = time.perf_counter()
    subject = subject_of(target, inputs, options, backward, params)
    report = Report(_title(target), [], subject.skipped)
    if not subject.values:
        raise ValueError("there is nothing to differentiate: no input is an array of real numbers, "
                         "and no parameter with a gradient was found")

    try:
        y, _ = subject.forward(subject.values)
        cotangents = Cotangents(y, seed, dy)
        report.findings += check_rules(subject, cotangents.trees[0])
        if not any(f.verdict == INCONCLUSIVE for f in report.findings):
            known = _hints_of(target, inputs) | (hints or {})
            run = _Run(subject, report, method, mode, known, dy, budget, seed)
            report.findings += run.findings()
            report.findings += [Finding(name, INCONCLUSIVE, notes=[why]) for name, why in subject.unchecked().items()]
            if any(value.dtype != np.float64 for value in subject.values.values()):
                report.notes.append("checked in float64, then compared with the gradients in the given precision")
                report.findings += compare_as_given(subject, cotangents, run.natural(), seed)
    finally:
        subject.restore()
    report.seconds = time.perf_counter() - began
    return report


class _Run:
    """One check in float64: the choice of methods and directions for each array."""

    def __init__(self, subject: Subject, report: Report, method, mode, hints, dy, budget, seed):
        self.subject, self.report, self.method, self.mode, self.hints = subject, report, method, mode, hints
        began = time.perf_counter()
        self.values = subject.with_dtype(np.float64)
        y, _ = subject.forward(self.values)
        self.rng = generator(seed, "directions")
        cotangents = Cotangents(y, seed, dy, identity=mode == "jacobian")
        self.analytic = Analytic(subject, self.values, cotangents)
        self.numeric = Numeric(subject.numbers, self.values, cotangents.matrix, seed)
        self.seconds = SECONDS if budget is None else budget
        self.deadline = None if budget is None else began + budget
        self.eps = self._eps(y)

        for name in sorted(self.analytic.missing):
            self._note(f"backward gave no gradient for {name}: taken as zero")
        start = time.perf_counter()
        subject.numbers(self.values)
        self.evaluation = max(time.perf_counter() - start, 1e-6)

    def findings(self) -> list[Finding]:
        found = []
        for name in self.values:
            fault = self.analytic.fault(name)
            if fault:
                found.append(fault)
                continue
            method = self._choose_method(name)
            for mode, directions in self._choose_directions(name, method):
                comparison = Comparison(name, self.analytic, self.numeric, self.eps, method, directions, self.deadline)
                found.append(comparison.finding(mode, self.hints, self._surroundings()))
        return found

    def natural(self) -> dict[str, float]:
        """By array: the slope that would change the outputs as much as moving everything does."""
        return {name: self.numeric.natural.max(initial=0) / self.numeric.scale(name) for name in self.values}

    def _eps(self, y) -> float:
        """Of the least precise among outputs and gradients: given float64, some code computes in float32."""
        dtypes = [leaf.dtype for leaf in output_leaves(y)] + [g.dtype for gs in self.analytic.gradients.values() for g in gs]
        lowest = max((d for d in dtypes if d.kind == "f"), key=lambda d: np.finfo(d).eps)
        if lowest == np.float64 and self.numeric.single:
            lowest = np.dtype(np.float32)  # cast back at the end
        if lowest != np.float64:
            self._note(f"computes in {lowest} whatever it is given: checked as far as that allows")
        return float(np.finfo(lowest).eps)

    def _choose_method(self, name) -> str:
        if self.method not in ("auto", "complex"):
            return self.method
        try:
            self._validate_complex_step(name)
            return "complex"
        except NotAnalytic as why:
            if self.method == "complex":
                raise ValueError(f"the complex step cannot be used on {name}: {why}") from None
            self._note(f"{name}: Richardson, for {why}")
            return "richardson"

    def _validate_complex_step(self, name) -> None:
        """One difference along a random direction must agree; what drops the imaginary part does not."""
        if self.eps > 1e-15:
            raise NotAnalytic("it computes in low precision")
        direction = Along(self.rng.standard_normal(self.values[name].shape))
        with self.numeric.beside(name):  # off the kinks, where the two sides of a function may differ
            exact = self.numeric.complex_step(name, direction)
            measured = self.numeric.richardson(name, direction, abs(exact), careful=True)
        allowed = SAFETY * measured.error + 1e-9 * np.maximum(abs(exact), abs(measured.value))
        if not np.isfinite(allowed).all():
            raise NotAnalytic("no difference could be taken to validate it")
        if (abs(exact - measured.value) > allowed).any():
            raise NotAnalytic("it drops the imaginary part (abs, var, std and linalg.norm do)"
                              if (abs(exact) < 1e-8 * abs(measured.value)).any()
                              else "the complex step disagrees with a difference")

    def _choose_directions(self, name, method) -> list[tuple[str, list]]:
        size = self.values[name].size
        cost = self.evaluation * COST[method]
        share = self.seconds / len(self.values)
        if self.mode in ("every", "jacobian"):
            return [(self.mode, self._elements(name, size))]
        if self.mode == "projection":
            return [("projection", self._projections(name))]
        if self.mode == "sampled":
            return [("sampled", self._elements(name, SAMPLES))]
        if size * cost <= share or size <= DIRECTIONS:
            return [("every", self._elements(name, size))]
        count = int(np.clip((share - DIRECTIONS * cost) / cost, 8, 4 * SAMPLES))
        return [("projection", self._projections(name)), ("sampled", self._elements(name, count))]

    def _elements(self, name, count) -> list[Element]:
        """count elements in random order, those with the largest gradients among them."""
        order = self.rng.permutation(self.values[name].size)
        if count < len(order):
            largest = np.argsort(-abs(self.analytic.gradients[name][0]), axis=None)[:max(1, count // 8)]
            order = np.concatenate([largest, np.setdiff1d(order, largest, assume_unique=True)])[:count]
        return [Element(int(i)) for i in order]

    def _projections(self, name) -> list[Along]:
        shape = self.values[name].shape
        return [Along(np.asarray((dense, centred, sparse)[i % 3](self.rng, shape))) for i in range(DIRECTIONS)]

    def _surroundings(self) -> dict[str, np.ndarray]:
        """What stands beside a gradient and may explain it: inputs by name, integers too."""
        arrays = {name: np.asarray(leaf) for top, tree in zip(self.subject.names, self.subject.inputs)
                  for name, leaf in leaves(tree, top) if isinstance(leaf, (np.ndarray, list))}
        return {name: a for name, a in arrays.items() if a.dtype.kind in "iuf"}

    def _note(self, text) -> None:
        if text not in self.report.notes:
            self.report.notes.append(text)


def _hints_of(target, inputs) -> dict[str, float]:
    own = getattr(target, "hints", {})
    return dict(own(*inputs)) if callable(own) else dict(own)


def _title(target) -> str:
    return getattr(target, "__name__", None) or type(target).__name__


def _one_of(what, given, allowed) -> None:
    if given not in allowed:
        raise ValueError(f"{what} {given!r} is not known: choose one of {', '.join(allowed)}")
