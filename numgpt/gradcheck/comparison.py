"""The two sides of one array's gradient beside each other, and what follows."""

import time

import numpy as np

from numgpt.gradcheck.analytic import Analytic
from numgpt.gradcheck.numeric import Along, Element, Measured, Numeric
from numgpt.gradcheck.patterns import looks_like
from numgpt.gradcheck.report import INCONCLUSIVE, OK, WRONG, Finding, Worst

SAFETY = 10       # on every estimate of an error
ROUNDING = 64     # eps of the largest derivative, or of the whole output: what another order of sums may cost
LIMIT = 1e-5      # an answer known to less than this share of the largest derivative is no answer,
FINE = 1e-8       # unless it is known to this share of what f does when everything moves
TRUST = 1e5       # how many times the numeric derivative's noise, or eps, the analytic one's own may be
FLOOR = 1e-270    # where double precision itself begins to lose digits
CONFIRMED = 64    # suspects of one array that are measured again before they are called wrong,
ENOUGH = 4        # and how many must then be wrong to believe it of the rest


class Comparison:
    """Analytic and numeric derivatives of one array: a row a direction, a column a cotangent.

    An entry outside of its tolerance is a suspect, and is measured again in other ways before it is called wrong.
    """

    def __init__(self, name: str, analytic: Analytic, numeric: Numeric, eps: float, method: str, directions: list,
                 deadline: float | None):
        self.name, self.analytic, self.numeric, self.eps, self.method = name, analytic, numeric, eps, method
        self.scale_of_x = numeric.scale(name)
        self.natural = numeric.natural / self.scale_of_x
        largest = np.array([abs(g).max(initial=0) for g in analytic.gradients[name]])
        measured = []
        for direction in directions:
            if deadline is not None and measured and time.perf_counter() > deadline:
                break
            measured.append(self._measure(direction, largest))
        self.directions, self.asked, self.deadline = directions[:len(measured)], len(directions), deadline
        if not measured:
            return
        self.a = np.array([analytic.along(name, d) for d in self.directions])
        self.n = np.array([m.value for m in measured])
        expected = np.max([analytic.size(name, d) for d in self.directions], axis=0)
        self.scale = np.maximum(abs(self.n).max(0), expected)  # (cotangents,)
        self.tolerance = SAFETY * np.array([m.error for m in measured]) + ROUNDING * eps * self.scale + FLOOR
        self.at_kink = np.zeros(self.a.shape, bool)
        self.doubtful = np.zeros(self.a.shape, bool)  # at a kink, but not between its slopes
        self._beside = None
        self._confirm()

    def _measure(self, direction, largest) -> Measured:
        if self.method == "complex":
            value = self.numeric.complex_step(self.name, direction)
            return Measured(value, np.zeros_like(value))
        if self.method == "central":
            return self.numeric.central(self.name, direction)
        return self.numeric.richardson(self.name, direction, largest)

    def _outside(self, i) -> np.ndarray:
        return abs(self.a[i] - self.n[i]) > self.tolerance[i]

    def _confirm(self) -> None:
        """Measure suspects again, the worst first, until enough of them are wrong or none is left."""
        suspects = np.argsort(-(abs(self.a - self.n) / self.tolerance).max(1))
        suspects = [i for i in suspects if self._outside(i).any()]
        widest, wrong, noisy = 0, 0, 0
        for rank, i in enumerate(suspects):
            if wrong == ENOUGH:
                break
            late = rank and self.deadline is not None and time.perf_counter() > self.deadline
            if noisy == CONFIRMED or late:  # the rest were nearer to their tolerances than all that has now been explained
                self.tolerance[suspects[rank:]] += widest
                break
            before = self.tolerance[i].copy()
            self._measure_again(i)
            widest = np.maximum(widest, self.tolerance[i] - before)
            wrong += (self._outside(i) & ~self.at_kink[i] & ~self.doubtful[i]).any()
            noisy += not (self.at_kink[i] | self.doubtful[i]).any()

    def _measure_again(self, i) -> None:
        """Kink, noise, or another answer from other steps: what may excuse suspect i."""
        direction = self.directions[i]
        bent, between = self.numeric.kink(self.name, direction, self.a[i])
        self.at_kink[i] = bent & between & self._outside(i)
        beyond = bent & ~between & self._outside(i)
        if beyond.any() and self._right_beside(direction)[beyond].all():
            # Through several kinks at once, as with a row of zeros before a ReLU: no two slopes bound what is right.
            (self.doubtful if isinstance(direction, Element) else self.at_kink)[i] |= beyond
        if not (self._outside(i) & ~self.at_kink[i] & ~self.doubtful[i]).any():
            return
        if self.method == "complex":
            noise = self.numeric.complex_step_noise(self.name, direction, self.n[i])
            self.tolerance[i] += np.where(bent, 0, SAFETY * self._noise(direction, noise))
        outside = self._outside(i) & ~bent
        if outside.any():
            # A second opinion replaces a difference. Beside a complex step it counts only where it is sharp
            # enough to contradict it.
            second = self.numeric.richardson(self.name, direction, abs(self.a[i]), start=0.061, careful=True)
            allowed = np.maximum(self.tolerance[i], SAFETY * second.error)
            if self.method == "complex":
                outside &= abs(second.value - self.n[i]) > allowed
            else:
                allowed += SAFETY * self._noise(direction, second.error)
            self.n[i] = np.where(outside, second.value, self.n[i])
            self.tolerance[i] = np.where(outside, allowed, self.tolerance[i])

    def _right_beside(self, direction) -> np.ndarray:
        """Whether the two sides agree a little way off, where there are no kinks."""
        with self.numeric.beside(self.name):
            if self._beside is None:
                self._beside = Analytic(self.analytic.subject, self.numeric.values, self.analytic.cotangents)
            measured = self.numeric.richardson(self.name, direction, abs(self.scale), careful=True)
            apart = abs(self._beside.along(self.name, direction) - measured.value)
            return apart <= SAFETY * measured.error + 1e-6 * self.scale

    def _over_claimed(self) -> bool:
        """At the kink of max, two equal numbers may each claim the whole gradient, and each claim lies between the slopes.
        But when all numbers move alike, there is no kink, and the claims must add up."""
        if not self.at_kink.any() and self.method != "complex":
            return False
        alike = Along(np.ones(self.numeric.values[self.name].shape))
        claims, size = self.analytic.along(self.name, alike), self.analytic.size(self.name, alike)
        if self.method == "complex" and (abs(self.numeric.complex_step(self.name, alike) - claims) <= 1e-6 * size).all():
            return False
        measured = self.numeric.richardson(self.name, alike, size, careful=True)
        bent, _ = self.numeric.kink(self.name, alike, claims)
        allowed = SAFETY * self._noise(alike, measured.error) + 1e-6 * size + ROUNDING * self.eps * self.natural
        return bool((~bent & (abs(claims - measured.value) > allowed)).any())

    def _noise(self, direction, measured) -> np.ndarray:
        """The noise measured in the numeric derivative, and the analytic one's own as far as that bears it out.

        A wrong gradient is as linear and as steady as a right one, so its own noise gains it nothing. But one that
        loses digits on its way, say in float32, may not call its own noise a measure.
        """
        own = self.analytic.own_noise(self.name, direction, self.numeric.disturbed)
        return measured + np.minimum(own, TRUST * np.maximum(measured, self.eps * np.maximum(self.scale, self.natural)))

    def finding(self, mode: str, hints: dict[str, float], inputs: dict[str, np.ndarray]) -> Finding:
        shape = self.numeric.values[self.name].shape
        size = self.numeric.values[self.name].size
        finding = Finding(self.name, OK, shape, self.method, mode, len(self.directions), size)
        if not self.directions:
            finding.notes.append("empty: nothing to check")
            return finding
        error = abs(self.a - self.n)
        # What is smaller than the last digits of the whole output is dust, however well it was measured.
        dust = ROUNDING * self.eps * self.natural
        wrong = (error > self.tolerance + dust) & ~self.at_kink & ~self.doubtful
        unknown = self._unknown()
        if wrong.any():
            finding.verdict = WRONG
            finding.looks_like = looks_like(shape, self.directions, self.a, self.n, self.tolerance, hints, inputs)
        elif self._over_claimed():
            finding.verdict = WRONG
            finding.notes.append("when all of it moves alike, these gradients do not add up to what the output does: "
                                 "at a tie, one number may have the gradient, or several may share it, not each have all")
        elif unknown is not None and unknown.any():
            finding.verdict = INCONCLUSIVE
        elif self.doubtful.any():
            finding.verdict = INCONCLUSIVE
            finding.notes.append(f"{int(self.doubtful.any(1).sum())} lie at a kink, outside of its slopes: "
                                 "move the input off the kink")
        elif unknown is not None or ((error > self.tolerance) & ~self.at_kink).any():
            finding.notes.append("next to nothing beside the whole; right as far as rounding lets see")
        if self.at_kink.any():
            finding.notes.append(f"{int(self.at_kink.any(1).sum())} lie at a kink: "
                                 "a value between the one-sided slopes is accepted")
        tiny = (abs(self.n) > FLOOR) & (abs(self.n) < self.tolerance) & (self.tolerance < LIMIT * self.scale)
        if finding.verdict == OK and (tiny & (abs(self.a) < 0.5 * abs(self.n))).any():
            finding.notes.append(f"{int(tiny.any(1).sum())} are too small beside the largest to be told from 0")
        if len(self.directions) < self.asked:
            finding.notes.append(f"{len(self.directions)} of {self.asked} derivatives in the time allowed")

        out = np.where(self.at_kink, 0, self.tolerance / (self.scale + FLOOR) if finding.verdict == INCONCLUSIVE
                       else error / self.tolerance)
        i, k = (int(j) for j in np.unravel_index(out.argmax(), out.shape))
        tolerance = float(min(self.tolerance[i, k], 1e300))
        finding.scale = float(max(self.scale[k], dust[k])) + FLOOR
        if not self.at_kink[i, k]:
            finding.error, finding.tolerance = float(error[i, k]) / finding.scale, tolerance / finding.scale
        finding.worst = Worst(self._place(i, k, shape), float(self.a[i, k]), float(self.n[i, k]), tolerance)
        finding.differing = int(wrong.any(1).sum())
        return finding

    def _unknown(self) -> np.ndarray | None:
        """Where the tolerance is too wide to tell; None where it is narrow throughout.

        A gradient next to nothing, as where a softmax is saturated, need only be known beside the whole. And where
        outputs stand still, it must not promise a change that would have been seen.
        """
        limit = LIMIT if self.eps < 1e-15 else 1e-2  # of a function that computes in less than double
        wide = (self.tolerance > limit * self.scale + FLOOR) & ~self.at_kink
        if not wide.any():
            return None
        rounding = self.numeric.noise(np.True_) / self.scale_of_x
        still = (abs(self.a) <= 1e-3 * rounding) & (abs(self.n) <= self.tolerance) & (self.tolerance <= 1e6 * rounding)
        return wide & ~still & (self.tolerance > FINE * limit / LIMIT * self.natural)

    def _place(self, i, k, shape) -> str:
        direction = self.directions[i]
        if not isinstance(direction, Element):
            return f"{self.name} along a random direction"
        where = self.name + element(direction.index, shape)
        return where if self.numeric.cotangents is not None else f"{where} -> output {k}"


def element(index: int, shape: tuple[int, ...]) -> str:
    """[2, 3], or nothing for a plain number."""
    return str([int(i) for i in np.unravel_index(index, shape)]) if shape else ""
