"""Derivatives by evaluation alone, each with an estimate of its own error.

Everything here measures the derivative of cotangents . f(x) along one direction, for several
cotangents at once, as they share the evaluations of f. The difference f(x + h) - f(x - h) is taken
first and contracted after: the other order loses two to five times as much.
"""

import warnings
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

STEP = 1e-30      # of the complex step: its square vanishes beside 1
LEVELS = 8        # steps of a Richardson table, each half the one before
START = 0.1       # the largest of them, as a share of scale()
RUNGS = 6         # tables tried, each from where the one before ended, if the first does not satisfy
PROBES = 6        # disturbances by one ulp from which noise is measured
CENTRAL = 6e-6    # about the cube root of eps
NEAR = 1e-4, 1e-6  # of the first step: where differences are taken that a table must agree with


def generator(seed: int, purpose: str) -> np.random.Generator:
    """One for each purpose. With default_rng(seed) alone, dy would equal an x drawn from it, which LayerNorm sends to 0."""
    return np.random.default_rng([seed, *purpose.encode()])


def disturbed(values: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Every number one ulp up or down."""
    return {name: np.nextafter(x, np.where(rng.random(x.shape) < 0.5, -np.inf, np.inf).astype(x.dtype))
            for name, x in values.items()}


class NotAnalytic(Exception):
    """The complex step is not possible here, and why."""


@dataclass
class Measured:
    value: np.ndarray  # (cotangents,)
    error: np.ndarray  # (cotangents,) what the value may be off by


class Element:
    """Direction: one element of an array."""

    def __init__(self, index: int):
        self.index = index

    def move(self, x: np.ndarray, step) -> tuple[np.ndarray, float]:
        """x moved, and the step that was really taken."""
        moved = np.array(x, complex if isinstance(step, complex) else None, order="C")
        moved.reshape(-1)[self.index] += step
        if isinstance(step, complex):
            return moved, step.imag
        return moved, float(moved.reshape(-1)[self.index] - np.reshape(x, -1)[self.index])

    def dot(self, gradient: np.ndarray) -> float:
        return gradient.reshape(-1)[self.index]

    def size(self, gradient: np.ndarray) -> float:
        """How large a derivative along such a direction may be."""
        return float(abs(gradient).max(initial=0))

    def noise(self, change: np.ndarray) -> float:
        """What such changes of a gradient's elements amount to."""
        return abs(self.dot(change))


class Along:
    """Direction: all elements of an array at once, by the numbers of v."""

    def __init__(self, v: np.ndarray):
        self.v = v

    def move(self, x, step):
        return x + step * self.v, step.imag if isinstance(step, complex) else step

    def dot(self, gradient) -> float:
        return float((gradient * self.v).sum())

    def size(self, gradient) -> float:
        return float(np.sqrt(((gradient * self.v) ** 2).sum()))

    def noise(self, change) -> float:
        return max(abs(self.dot(change)), self.size(change))


class Numeric:
    """Numeric derivatives of numbers(values) -> y (outputs,), contracted with cotangents (K, outputs).

    cotangents None stands for the identity: a full Jacobian.
    """

    def __init__(self, numbers, values: dict[str, np.ndarray], cotangents: np.ndarray | None, seed: int):
        self._numbers = numbers
        self.values = values
        self.cotangents = cotangents
        self.all_complex = False
        self.single = True  # whether outputs are never more than float32
        self.rng = generator(seed, "disturbances")
        self.y = self.numbers({})
        self.natural = self._natural()
        self.jitter = self._jitter()

    def numbers(self, changed: dict) -> np.ndarray:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            try:
                return self._numbers({**self.values, **changed})
            except Exception:
                if not changed:
                    raise
                return np.full(len(self.y), np.nan)  # somebody's forward insists on a range: not a place to measure

    def contract(self, difference: np.ndarray) -> np.ndarray:
        return difference if self.cotangents is None else self.cotangents @ difference

    def scale(self, name: str) -> float:
        """The size of a natural move of this array: its spread, but no more than a usual element (not an outlier)."""
        x = self.values[name]
        size = abs(x[x != 0])
        if not size.size:
            return 1.0
        spread, usual = float(x.std()), float(np.median(size))
        return min(spread, usual) if spread > 1e-6 * usual else usual

    @contextmanager
    def beside(self, name: str):
        """For a while, every element of this array a little elsewhere."""
        values, y = self.values, self.y
        x = values[name]
        step = 1e-3 * self.scale(name) * generator(0, "beside").uniform(-1.0, 1.0, x.shape)
        self.values = {**values, name: np.asarray(x + step)}
        self.y = self.numbers({})
        try:
            yield
        finally:
            self.values, self.y = values, y

    # -- the three methods

    def complex_step(self, name: str, direction, step: float = STEP) -> np.ndarray:
        """Im f(x + ih) / h: nothing is subtracted, so nothing is lost."""
        x, taken = direction.move(self.values[name], 1j * step)
        y = self._complex_numbers(name, x)
        if not np.iscomplexobj(y):
            return np.zeros(len(self.contract(self.y)))
        slope = y.imag / taken
        if not np.isfinite(slope).all():
            raise NotAnalytic("the complex step gives numbers that are not finite")
        return self.contract(slope)

    def richardson(self, name: str, direction, size=0.0, start: float = START, careful: bool = False) -> Measured:
        """Central differences at halved steps, extrapolated; other steps are tried while the estimate is poor.

        size (cotangents,) is what the derivatives of this array may amount to: an effort is made until the
        error is a millionth of it. careful: reckon with the rounding of outputs, too, that did not move.
        """
        h = start * self.scale(name)
        near = [self._difference(name, direction, share * h) for share in NEAR]
        best, noise = self._table(name, direction, h, careful, near)
        # Where noise makes the error, larger steps drown it; else the function bends too much: smaller ones.
        factor = 16 if (noise > 0.05 * best.error).mean() > 0.5 else 2.0 ** -LEVELS
        for _ in range(RUNGS - 1):
            if (best.error <= 1e-7 * np.maximum(size, abs(best.value))).all():
                break
            h *= factor
            tried, _ = self._table(name, direction, h, careful, near)
            better = tried.error < best.error
            if factor > 1:
                # Far away a bounded function looks flat, with an error to match: only a slope that is
                # clearly seen, and where it was expected, may replace the nearer one.
                better &= tried.error < 1e-3 * abs(tried.value)
                better &= abs(tried.value - best.value) <= 10 * best.error
                if not better.any():
                    break
            best = Measured(np.where(better, tried.value, best.value), np.where(better, tried.error, best.error))
        return best

    def central(self, name: str, direction) -> Measured:
        """One central difference, and a second at twice the step for its error."""
        h = CENTRAL * self.scale(name)
        near, taken, changed = self._difference(name, direction, h)
        far, _, _ = self._difference(name, direction, 2 * h)
        return Measured(near, abs(near - far) + self.noise(changed) / taken)

    def one_sided(self, name: str, direction, h: float) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """The slopes to the left and to the right of x, and their noise; None where x + h is x."""
        x = self.values[name]
        right, step_right = direction.move(x, h)
        left, step_left = direction.move(x, -h)
        if not step_right or not step_left:
            return None
        up, down = self.numbers({name: right}) - self.y, self.numbers({name: left}) - self.y
        noise = self.noise((up != 0) | (down != 0)) / step_right
        return self.contract(down) / step_left, self.contract(up) / step_right, noise

    def kink(self, name: str, direction, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whether the slopes to the left and to the right keep a gap however near, and whether a lies between them."""
        sides, gaps, noises = [], [], []
        for level in range(7):
            measured = self.one_sided(name, direction, 1e-3 * self.scale(name) / 16 ** level)
            if measured is None:
                break
            left, right, noise = measured
            sides.append((left, right))
            gaps.append(abs(right - left))
            noises.append(noise)
        if not gaps:
            return np.zeros(a.shape, bool), np.zeros(a.shape, bool)
        gaps, noises = np.array(gaps), np.array(noises)
        # down to the last step at which a gap would still stand out of the noise
        last = np.maximum((gaps > 100 * noises).cumprod(0).sum(0) - 1, 0)
        k = np.arange(len(last))
        gap, noise = gaps[last, k], noises[last, k]
        left, right = (np.array([side[i] for side in sides])[last, k] for i in (0, 1))
        bent = (last >= 2) & (gap > 0.5 * gaps[0])
        slack = 1e-3 * gap + noise
        return bent, (a >= np.minimum(left, right) - slack) & (a <= np.maximum(left, right) + slack)

    def complex_step_noise(self, name: str, direction, value: np.ndarray) -> np.ndarray:
        """What rounding does to it: seen from points one ulp away in every number, with steps that are no
        powers of two times the first, so that everything imaginary is rounded anew."""
        values, spread = self.values, np.zeros_like(value)
        try:
            for factor in (0.7, 1.1, 1.3, 1.9):
                self.values = self.disturbed(values)
                spread = np.maximum(spread, abs(self.complex_step(name, direction, factor * STEP) - value))
        except NotAnalytic:
            pass
        finally:
            self.values = values
        return spread

    # -- parts

    def _complex_numbers(self, name, x):
        """f with one complex array; if that fails (y += bias cannot make a real y complex), with all of them."""
        for everything in (self.all_complex, True):
            values = {n: v.astype(complex) for n, v in self.values.items()} if everything else self.values
            try:
                with np.errstate(all="ignore"), warnings.catch_warnings():
                    warnings.simplefilter("ignore", RuntimeWarning)
                    warnings.simplefilter("error", np.exceptions.ComplexWarning)
                    y = self._numbers({**values, name: x})
                self.all_complex = everything
                return y
            except Exception as e:  # whatever somebody's code raises when it meets complex numbers
                fault = f"{type(e).__name__}: {(str(e).splitlines() or [''])[0]}"
        raise NotAnalytic(f"complex numbers do not pass ({fault})")

    def _table(self, name, direction, h, careful, near) -> tuple[Measured, np.ndarray]:
        """A Richardson table from step h down: its best entry, judged by the largest difference to its
        neighbours, and the part that noise has in that error.

        Far from x a function may be flat, and look exact. So the answer must agree with differences taken near x,
        which are rough but cannot miss what is there; if it does not, the distance is its error.
        """
        rows, taken, moved = [], [], np.full(len(self.y), careful)
        for level in range(LEVELS):
            difference, step, changed = self._difference(name, direction, h / 2 ** level)
            moved |= changed
            if not step or not np.isfinite(difference).all():
                rows.clear(), taken.clear()  # outside of what f allows: begin below
                continue
            row = [difference]
            for j, above in enumerate(rows[-1] if rows else []):
                row.append(row[j] + (row[j] - above) / (4 ** (j + 1) - 1))
            rows.append(row)
            taken.append(step)
        jitter = self.noise(moved)
        error = np.full(len(jitter), np.inf)
        value, noise = np.zeros_like(error), np.zeros_like(error)
        for i in range(1, len(rows)):
            for j in range(1, len(rows[i])):
                here = rows[i][j]
                estimate = np.maximum(abs(here - rows[i][j - 1]), abs(here - rows[i - 1][j - 1])) + jitter / taken[i]
                better = estimate < error
                value, error = np.where(better, here, value), np.where(better, estimate, error)
                noise = np.where(better, jitter / taken[i], noise)
        (coarse, _, _), (slope, step, changed) = near
        rough = 100 * self.noise(changed | moved) / (step or 1.0) + 2 * abs(coarse - slope) + 1e-6 * abs(slope)
        distance = abs(value - slope)
        error = np.where(np.isfinite(distance) & (distance > rough + 10 * error), np.maximum(error, distance), error)
        return Measured(value, error), noise

    def _difference(self, name, direction, h):
        x = self.values[name]
        right, step_right = direction.move(x, h)
        left, step_left = direction.move(x, -h)
        step = step_right - step_left
        difference = self.numbers({name: right}) - self.numbers({name: left})
        return self.contract(difference) / (step or 1.0), step / 2, difference != 0

    def disturbed(self, values: dict) -> dict:
        return disturbed(values, self.rng)

    def noise(self, moved) -> np.ndarray:
        """What rounding does to a contracted difference: to the outputs that moved, for the others cancel to the
        bit; but to all of them where none was seen to move."""
        jitter = self.jitter * moved if np.any(moved) else self.jitter
        return jitter if self.cotangents is None else np.sqrt((self.cotangents ** 2) @ (jitter * jitter))

    def _jitter(self) -> np.ndarray:
        """The largest change of each output when every number moves by one ulp, but no less than the output's own
        rounding (a number may stand still six times by luck)."""
        changes = [abs(self.numbers(self.disturbed(self.values)) - self.y) for _ in range(PROBES)]
        return np.max([np.finfo(np.float32 if self.single else self.y.dtype).eps * abs(self.y), *changes], axis=0)

    def _natural(self) -> np.ndarray:
        """How much the contracted output changes when every array moves by its own scale: a yardstick for zero."""
        largest = np.zeros(len(self.contract(self.y)))
        for _ in range(2):
            moved = {name: x + (0.5 * self.scale(name) * self.rng.standard_normal(x.shape)).astype(x.dtype)
                     for name, x in self.values.items()}
            y = self.numbers(moved)
            self.single &= bool((y != self.y).any() and (y.astype(np.float32) == y).all())
            change = abs(self.contract(y - self.y))
            largest = np.maximum(largest, np.where(np.isfinite(change), change, 0))
        # no more than a few times the outputs themselves, for some functions explode when they are moved
        outputs = abs(self.y) if self.cotangents is None else np.sqrt((self.cotangents ** 2) @ (self.y * self.y))
        return np.minimum(largest, 10 * outputs)
