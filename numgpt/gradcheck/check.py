"""The check itself: what is measured, how exactly, and what follows from it."""

import time
from collections.abc import Callable, Iterable

import numpy as np

from numgpt.gradcheck.numeric import Along, Element, Measured, NotAnalytic, Numeric, generator
from numgpt.gradcheck.patterns import looks_like
from numgpt.gradcheck.report import INCONCLUSIVE, OK, WRONG, Finding, Report, Worst
from numgpt.gradcheck.rules import check_rules, scaled
from numgpt.gradcheck.subject import Subject, like_output, output_leaves, subject_of

METHODS = ("auto", "complex", "richardson", "central")
MODES = ("auto", "every", "jacobian", "projection", "sampled")

LIMIT = 1e-5          # an answer known to less than this share of the largest derivative is no answer
ROUNDING = 64         # eps of the largest derivative, or of the whole output: what another order of sums may cost
SAFETY = 10           # on every estimate of an error
FINE = 1e-8           # of the natural scale: known to this share of what f does when all moves is known well enough
FLOOR = 1e-270        # where double precision itself begins to lose digits
FACTORS = (0.7, 1.1, 1.9)  # of dy, to see what rounding does: no powers of two, which round nothing
TRUST = 1e3           # how many times the numeric derivative's noise, or eps, the analytic one's own may be
DIRECTIONS = 12
SAMPLES = 64
SECONDS = 10.0        # what auto may spend
CONFIRMED = 64        # suspects of one array that are measured again before they are called wrong,
ENOUGH = 4            # and how many must then be wrong to believe it of the rest


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

    y, _ = subject.forward(subject.values)
    given = Cotangents(y, seed, dy)
    report.findings += check_rules(subject, given.trees[0])
    if any(f.verdict == INCONCLUSIVE for f in report.findings):
        report.seconds = time.perf_counter() - began
        return report

    known = dict(getattr(target, "hints", lambda *inputs: {})(*inputs)) | (hints or {})
    double = subject.with_dtype(np.float64)
    run = _Run(subject, double, seed, dy, method, mode, known, budget, began, report)
    report.findings += run.findings()
    if any(value.dtype != np.float64 for value in subject.values.values()):
        report.notes.append("checked in float64, then compared with the gradients in the given precision")
        report.findings += _as_given(subject, double, seed, dy, run)
    report.seconds = time.perf_counter() - began
    return report


class Cotangents:
    """Random gradients of the outputs: of mixed sign, sparse, and without a mean.

    A single one with a mean would lie for the most part along the all-ones vector, which softmax and
    LayerNorm send to zero, and mistakes with it.
    """

    def __init__(self, y, seed: int, dy=None, identity: bool = False):
        leaves = output_leaves(y)
        n = sum(leaf.size for leaf in leaves)
        self.identity = identity
        if identity:
            self.trees = [self._tree(y, row) for row in np.eye(n)]
        elif dy is not None:
            self.trees = [_given_cotangent(y, dy)]
        else:
            rng = generator(seed, "cotangents")
            kinds = (_dense,) if n == 1 else (_dense, _sparse, _centred)
            self.trees = [like_output(y, lambda leaf: np.asarray(kind(rng, np.shape(leaf)), np.asarray(leaf).dtype))
                          for kind in kinds]
        self.matrix = np.array([np.concatenate([leaf.ravel() for leaf in output_leaves(tree)]) for tree in self.trees],
                               np.float64)

    @staticmethod
    def _tree(y, row):
        row = iter(row)
        return like_output(y, lambda leaf: np.array([next(row) for _ in range(np.size(leaf))],
                                                    np.asarray(leaf).dtype).reshape(np.shape(leaf)))


def _dense(rng, shape):
    return rng.standard_normal(shape) if shape else rng.choice([-1, 1]) * rng.uniform(0.5, 2)


def _sparse(rng, shape):
    return _dense(rng, shape) * (rng.random(shape) < 0.1)


def _centred(rng, shape):
    d = np.asarray(_dense(rng, shape))
    return d - d.mean(-1, keepdims=True) if d.ndim and d.shape[-1] > 1 else d


def _given_cotangent(y, dy):
    wanted, got = output_leaves(y), output_leaves(dy)
    if [w.shape for w in wanted] != [g.shape for g in got]:
        raise ValueError(f"dy must have the shapes of the outputs, {[w.shape for w in wanted]}; got {[g.shape for g in got]}")
    flat = np.concatenate([g.ravel() for g in got])
    if flat.size > 1 and (flat == flat[0]).all():
        raise ValueError(f"dy is {flat[0]:g} everywhere: softmax and LayerNorm send a constant to zero, so a mistake "
                         "in them would pass. Use random numbers of both signs, or leave dy out")
    rest = iter(got)
    return like_output(y, lambda leaf: next(rest).astype(np.asarray(leaf).dtype))


class _Run:
    """The numbers of one check in float64: analytic gradients, and numeric ones beside them."""

    def __init__(self, subject: Subject, values, seed, dy, method, mode, hints, budget, began, report):
        self.subject, self.values, self.hints, self.report = subject, values, hints, report
        self.method, self.mode = method, mode
        self.rng = generator(seed, "directions")
        y, _ = subject.forward(values)
        self.cotangents = Cotangents(y, seed, dy, identity=mode == "jacobian")
        gradients = [self._gradient(values, tree) for tree in self.cotangents.trees]
        self.analytic = {name: [g[name] for g in gradients] for name in values}
        self.variants: list[list[dict]] = []
        self.numeric = Numeric(subject.numbers, values, None if mode == "jacobian" else self.cotangents.matrix, seed)
        dtypes = [leaf.dtype for leaf in output_leaves(y)] + [g.dtype for gs in self.analytic.values() for g in gs if g is not None]
        self.eps = max(float(np.finfo(d).eps) for d in dtypes if d.kind == "f")
        if self.eps > 1e-15:
            report.notes.append(f"computes in {max(dtypes, key=lambda d: np.finfo(d).eps)} inside whatever it is given: "
                                "checked as far as that allows")
        self.limit = LIMIT if self.eps < 1e-15 else 1e-2
        self.seconds = SECONDS if budget is None else budget
        self.deadline = None if budget is None else began + budget
        start = time.perf_counter()
        subject.numbers(values)
        self.one = max(time.perf_counter() - start, 1e-6)

    def findings(self) -> list[Finding]:
        found = []
        for i, name in enumerate(self.values):
            fault = self._fault(name)
            if fault is not None:
                found.append(fault)
                continue
            method = self._choose_method(name)
            for mode, directions in self._choose_directions(name, method):
                found.append(self._compare(name, method, mode, directions))
        return found

    def _fault(self, name) -> Finding | None:
        """A gradient that cannot be compared: of another shape, not finite."""
        shape, gradients = self.values[name].shape, self.analytic[name]
        if any(g.shape != shape for g in gradients):
            return Finding(name, WRONG, shape, notes=[f"the gradient has shape {gradients[0].shape}, the array {shape}"])
        if not all(np.isfinite(g).all() for g in gradients):
            return Finding(name, WRONG, shape, notes=["there are nan or inf in the gradient"])
        return None

    def _gradient(self, values, dy) -> dict[str, np.ndarray]:
        """Where backward gives nothing, zeros: that is what is said of it, and it is checked."""
        gradient = self.subject.gradient(values, dy)
        for name in [name for name, g in gradient.items() if g is None]:
            gradient[name] = np.zeros(values[name].shape)
            note = f"backward gave no gradient for {name}: taken as zero"
            if note not in self.report.notes:
                self.report.notes.append(note)
        return gradient

    # -- choices

    def _choose_method(self, name) -> str:
        if self.method not in ("auto", "complex"):
            return self.method
        try:
            self._validate_complex_step(name)
            return "complex"
        except NotAnalytic as why:
            if self.method == "complex":
                raise ValueError(f"the complex step cannot be used on {name}: {why}") from None
            note = f"{name}: Richardson, for {why}"
            if note not in self.report.notes:
                self.report.notes.append(note)
            return "richardson"

    def _validate_complex_step(self, name) -> None:
        """One difference along a random direction must agree; what drops the imaginary part does not."""
        if self.eps > 1e-15:
            raise NotAnalytic("it computes in low precision")
        direction = Along(self.rng.standard_normal(self.values[name].shape))
        exact = self.numeric.complex_step(name, direction)
        measured = self.numeric.richardson(name, direction, abs(exact), careful=True)
        allowed = SAFETY * measured.error + 1e-4 * np.maximum(abs(exact), abs(measured.value)).max(initial=0)
        apart = abs(exact - measured.value) > allowed
        if apart.any() and not np.logical_and(*self._kink(name, direction, exact))[apart].all():
            raise NotAnalytic("it drops the imaginary part (abs, var, std and linalg.norm do)"
                              if (abs(exact) < 1e-8 * abs(measured.value)).any()
                              else "the complex step disagrees with a difference")

    def _choose_directions(self, name, method) -> list[tuple[str, list]]:
        size = self.values[name].size
        cost = self.one * {"complex": 4, "richardson": 20, "central": 4}[method]
        if self.mode in ("every", "jacobian"):
            return [(self.mode, self._elements(name, size))]
        if self.mode == "projection":
            return [("projection", self._projections(name))]
        if self.mode == "sampled":
            return [("sampled", self._elements(name, SAMPLES))]
        share = self.seconds / len(self.values)
        if size * cost <= share or size <= DIRECTIONS:
            return [("every", self._elements(name, size))]
        count = int(np.clip((share - DIRECTIONS * cost) / cost, 8, 4 * SAMPLES))
        return [("projection", self._projections(name)), ("sampled", self._elements(name, count))]

    def _elements(self, name, count) -> list[Element]:
        """count elements in random order, those with the largest gradients among them."""
        size = self.values[name].size
        order = self.rng.permutation(size)
        if count < size:
            largest = np.argsort(-abs(self.analytic[name][0]), axis=None)[:max(1, count // 8)]
            order = np.concatenate([largest, np.setdiff1d(order, largest, assume_unique=True)])[:count]
        return [Element(int(i)) for i in order]

    def _projections(self, name) -> list[Along]:
        shape = self.values[name].shape
        kinds = (_dense, _centred, _sparse)
        return [Along(np.asarray(kinds[i % 3](self.rng, shape))) for i in range(DIRECTIONS)]

    # -- comparing

    def _compare(self, name, method, mode, directions) -> Finding:
        analytic, measured = [], []
        expected = []
        size = np.array([abs(g).max(initial=0) for g in self.analytic[name]])
        for direction in directions:
            if self.deadline is not None and measured and time.perf_counter() > self.deadline:
                break
            measured.append(self._measure(name, direction, method, size))
            analytic.append([direction.dot(g) for g in self.analytic[name]])
            expected.append([direction.size(g) for g in self.analytic[name]])
        directions = directions[:len(measured)]
        finding = Finding(name, OK, self.values[name].shape, method, mode, len(measured), self.values[name].size)
        if not measured:
            finding.notes.append("empty: nothing to check")
            return finding
        a = np.array(analytic)                    # (n, K)
        n = np.array([m.value for m in measured])
        error = np.array([m.error for m in measured])
        scale = np.maximum(abs(n).max(0), np.max(expected, axis=0))  # (K,)
        tolerance = SAFETY * error + ROUNDING * self.eps * scale + FLOOR
        at_kink = self._confirm(name, method, directions, a, n, tolerance, scale)
        # What is smaller than the last digits of the whole function is dust to it, however well it was measured.
        dust = ROUNDING * self.eps * self.numeric.natural / self.numeric.scale(name)
        wrong = (abs(a - n) > tolerance + dust) & ~at_kink
        if (abs(a - n) > tolerance)[~at_kink & ~wrong].any():
            finding.notes.append("differs by less than the last digits of the output")
        if at_kink.any():
            finding.notes.append(f"{int(at_kink.any(1).sum())} lie at a kink: a value between the one-sided slopes is accepted")
        self._judge(finding, a, n, np.where(at_kink, 0, tolerance), wrong, at_kink, scale, name)
        self._describe(finding, directions, a, n, tolerance, wrong, scale, at_kink, dust)
        if len(measured) < len(directions) or mode == "every" and len(measured) < finding.total:
            finding.notes.append(f"{len(measured)} of {finding.total} elements in the time allowed")
        return finding

    def _measure(self, name, direction, method, size) -> Measured:
        if method == "complex":
            value = self.numeric.complex_step(name, direction)
            return Measured(value, np.zeros_like(value))
        if method == "central":
            return self.numeric.central(name, direction)
        return self.numeric.richardson(name, direction, size)

    def _confirm(self, name, method, directions, a, n, tolerance, scale) -> np.ndarray:
        """Measure again, in other ways, whatever lies outside of its tolerance; the worst first.

        Widens tolerance (in place) by the noise that shows, takes a better value (into n) where there is
        one, and returns which are right because they lie at a kink.
        """
        at_kink = np.zeros(a.shape, bool)
        suspects = np.argsort(-(abs(a - n) / tolerance).max(1))
        suspects = [i for i in suspects if (abs(a[i] - n[i]) > tolerance[i]).any()]
        widest, wrong = 0, 0
        for rank, i in enumerate(suspects):
            if wrong == ENOUGH:
                break
            if rank == CONFIRMED:  # the rest were nearer to their tolerances than all that has now been explained
                tolerance[suspects[rank:]] += widest
                break
            before = tolerance[i].copy()
            bent, between = self._kink(name, directions[i], a[i])
            at_kink[i] = bent & between & (abs(a[i] - n[i]) > tolerance[i])
            if method == "complex":
                noise = self.numeric.complex_step_noise(name, directions[i], n[i])
                tolerance[i] += np.where(bent, 0, SAFETY * self._noise_allowed(name, directions[i], noise, scale))
            outside = (abs(a[i] - n[i]) > tolerance[i]) & ~bent
            if outside.any():
                # A second opinion, from other steps. It counts beside a complex step only where it is sharp
                # enough to contradict it; a difference it replaces.
                second = self.numeric.richardson(name, directions[i], abs(a[i]), start=0.061, careful=True)
                allowed = np.maximum(tolerance[i], SAFETY * second.error)
                if method == "complex":
                    replaced = outside & (abs(second.value - n[i]) > allowed)
                else:
                    replaced = outside
                    allowed += SAFETY * self._noise_allowed(name, directions[i], second.error, scale)
                n[i], tolerance[i] = np.where(replaced, second.value, n[i]), np.where(replaced, allowed, tolerance[i])
            widest = np.maximum(widest, tolerance[i] - before)
            wrong += ((abs(a[i] - n[i]) > tolerance[i]) & ~at_kink[i]).any()
        return at_kink

    def _noise_allowed(self, name, direction, measured, scale) -> np.ndarray:
        """Noise that was measured in the numeric derivative, and that of the analytic one as far as that bears it out.

        The analytic gradient's own noise is how it moves with the last digits of every number, and how far
        backward of c dy is from c times backward of dy, for c that are no powers of two: there, everything is
        rounded anew. A wrong gradient is as linear and as steady as a right one and gains nothing by it.
        But one that loses digits on its way, say in float32, may not call its own noise a measure.
        """
        if not self.variants:
            for k, tree in enumerate(self.cotangents.trees):
                around = [(c, values) for c in FACTORS for values in (self.values, self.numeric.disturbed(self.values))]
                self.variants.append([{name: g / c for name, g in self._gradient(values, scaled(tree, c)).items()}
                                      for c, values in around])
        own = []
        for gradient, variants in zip(self.analytic[name], self.variants):
            changes = [variant[name] - gradient for variant in variants]
            usual = np.quantile(np.max(np.abs(changes), axis=0), 0.75)  # not the largest: it may sit at a kink
            own.append(max(usual, *(abs(direction.dot(change)) for change in changes)))
        size = np.maximum(scale, self.numeric.natural / self.numeric.scale(name))
        return measured + np.minimum(own, TRUST * np.maximum(measured, self.eps * size))

    def _kink(self, name, direction, a) -> tuple[np.ndarray, np.ndarray]:
        """Whether the slopes to the left and to the right keep a gap however near; and whether a lies between them."""
        gaps = []
        h = 1e-3 * self.numeric.scale(name)
        for _ in range(4):
            left, right, noise = self.numeric.one_sided(name, direction, h)
            gaps.append(abs(right - left))
            h /= 16
        slack = 1e-3 * gaps[-1] + noise
        bent = (gaps[-1] > 0.5 * gaps[0]) & (gaps[-1] > 100 * noise)
        return bent, (a >= np.minimum(left, right) - slack) & (a <= np.maximum(left, right) + slack)

    def _judge(self, finding, a, n, tolerance, wrong, at_kink, scale, name) -> None:
        if wrong.any():
            finding.verdict = WRONG
            return
        natural = self.numeric.natural / self.numeric.scale(name)
        unknown = (tolerance > self.limit * scale + FLOOR) & ~at_kink
        # A gradient next to nothing, as where a softmax is saturated, need only be known beside the whole. And
        # where outputs stand still, it must not promise a change that would have been seen.
        unseen = 1e-3 * self.numeric.noise(np.True_) / self.numeric.scale(name)
        dust = (tolerance <= FINE * self.limit / LIMIT * natural) | (abs(a) <= unseen) & (abs(n) <= tolerance)
        if (unknown & ~dust).any():
            finding.verdict = INCONCLUSIVE
        elif unknown.any():
            finding.notes.append("next to nothing beside the whole; right as far as rounding lets see")

    def _describe(self, finding, directions, a, n, tolerance, wrong, scale, at_kink, dust) -> None:
        """Fill in the worst case and, where it is wrong, what it looks like."""
        out = np.where(at_kink, 0, abs(a - n) / tolerance)
        if finding.verdict == INCONCLUSIVE:
            out = tolerance / (scale + FLOOR)
        i, k = (int(j) for j in np.unravel_index(out.argmax(), out.shape))
        finding.scale = float(max(scale[k], dust[k])) + FLOOR
        if not at_kink[i, k]:
            finding.error = float(abs(a[i, k] - n[i, k])) / finding.scale
            finding.tolerance = float(min(tolerance[i, k] / finding.scale, 1e300))
        finding.worst = Worst(self._place(finding, directions[i], k), float(a[i, k]), float(n[i, k]), float(min(tolerance[i, k], 1e300)))
        finding.differing = int(wrong.any(1).sum())
        if finding.verdict == WRONG:
            finding.looks_like = looks_like(finding.shape, directions, a, n, tolerance, self.hints, self._inputs())

    def _inputs(self) -> dict[str, np.ndarray]:
        """What stands beside the gradient and may explain it: inputs by name, integers too."""
        return {name: np.asarray(leaf) for name, leaf in self.subject._input_leaves()
                if isinstance(leaf, (np.ndarray, list)) and np.asarray(leaf).dtype.kind in "iuf"}

    def _place(self, finding, direction, k) -> str:
        if not isinstance(direction, Element):
            return f"{finding.name} along a random direction"
        index = [int(i) for i in np.unravel_index(direction.index, finding.shape)] if finding.shape else []
        where = finding.name + (str(index) if index else "")
        return f"{where} -> output {k}" if self.cotangents.identity else where


def _as_given(subject, double, seed, dy, run) -> list[Finding]:
    """Gradients in the given precision against those in float64, which have been checked by now.

    What the given precision may cost is seen from the float64 gradient when every number moves by one
    ulp of the given precision; a gradient that is zero but for rounding is measured against its surroundings.
    """
    y, _ = subject.forward(subject.values)
    cotangents = Cotangents(y, seed, dy)
    exact_trees = [like_output(tree, lambda leaf: np.asarray(leaf, np.float64)) for tree in cotangents.trees]
    exact = [subject.gradient(double, tree) for tree in exact_trees]
    rng = generator(seed, "disturbances")
    disturbed = []
    for _ in range(4):
        nearby = {name: np.nextafter(x, np.where(rng.random(x.shape) < 0.5, -np.inf, np.inf).astype(x.dtype)).astype(np.float64)
                  for name, x in subject.values.items()}
        disturbed.append([subject.gradient(nearby, tree) for tree in exact_trees])
    given = [subject.gradient(subject.values, tree) for tree in cotangents.trees]
    again = [[subject.gradient(subject.values, scaled(tree, c)) for tree in cotangents.trees] for c in FACTORS]

    findings = []
    for name, x in subject.values.items():
        eps = max(float(np.finfo(v.dtype).eps) for v in subject.values.values())
        finding = Finding(name, OK, x.shape, str(x.dtype), "every", x.size, x.size)
        if run._fault(name) is not None or any(g[name] is None for g in given + exact):
            continue  # said already
        e = np.array([g[name] for g in exact]).reshape(len(exact), -1)
        g = np.array([g[name] for g in given], np.float64).reshape(len(exact), -1)
        noise = np.max([[abs(d[name].reshape(-1) - e_).max(initial=0) for d, e_ in zip(ds, e)] for ds in disturbed], axis=0)
        scale = abs(e).max(1, initial=0)
        own = np.max([[abs(a[name] / c - g_[name]).max(initial=0) for a, g_ in zip(as_, given)] for c, as_ in zip(FACTORS, again)], axis=0)
        noise += np.minimum(own, ROUNDING * (eps * scale + noise))
        tolerance = ROUNDING * eps * scale + SAFETY * noise + float(np.finfo(x.dtype).tiny)
        natural = run.numeric.natural / run.numeric.scale(name) if run.mode != "jacobian" else 0.0
        vanishing = scale <= 1e-9 * natural
        tolerance = np.where(vanishing, np.maximum(tolerance, ROUNDING * eps * natural), tolerance)
        if e.size:
            error = abs(g - e)
            k, i = np.unravel_index((error / tolerance[:, None]).argmax(), error.shape)
            finding.scale, finding.error = float(scale[k]), float(error[k, i] / (scale[k] + FLOOR))
            finding.tolerance = float(tolerance[k] / (scale[k] + FLOOR))
            index = [int(j) for j in np.unravel_index(i, x.shape)] if x.shape else []
            finding.worst = Worst(name + (str(index) if index else ""), float(g[k, i]), float(e[k, i]), float(tolerance[k]))
            finding.differing = int((error > tolerance[:, None]).any(0).sum())
            if finding.differing or not np.isfinite(g).all():
                finding.verdict = WRONG
                finding.looks_like = [f"right in float64, not in {x.dtype}"]
            elif (~vanishing & (tolerance > 0.1 * scale)).any():
                finding.verdict = INCONCLUSIVE
        findings.append(finding)
    return findings


def _title(target) -> str:
    return getattr(target, "__name__", None) or type(target).__name__


def _one_of(what, given, allowed) -> None:
    if given not in allowed:
        raise ValueError(f"{what} {given!r} is not known: choose one of {', '.join(allowed)}")
