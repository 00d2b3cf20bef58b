"""numgpt on somebody's numbers: each operation computed from what they say goes into it, with mistakes of our choice.

    replay = Replay(trace, dump)
    predicted = replay.run()                       # what each of their tensors should be, by those before it
    predicted = replay.run([hypothesis])           # and what it would be if this mistake were made
    errors = replay.errors(predicted)              # of each, as a share of its length
"""

import math
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np

from numgpt.model import GPT
from numgpt.verify import mutants
from numgpt.verify.compare import EPS, MEASURED, judged_as, smallest
from numgpt.verify.conventions import Convention, conventions
from numgpt.verify.mutants.catalogue import Edit, Form
from numgpt.verify.noise import distance, length, rounded_runs
from numgpt.verify.passes import Steps, compute, observe
from numgpt.verify.tape import Tape, watched
from numgpt.verify.trace import Trace

# An operation is wrong if it is off by so many times the rounding that was measured for it.
ALLOWED = 10.0


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A way in which numgpt may be made to do what somebody else did: a form of a mistake, or a convention."""

    slug: str
    story: str
    kind: str  # of the "gradient" or of the "step"
    form: Form | None = None
    convention: Convention | None = None
    places: tuple[str, ...] = ()  # where it was made, if not everywhere

    @property
    def edits(self) -> tuple[Edit, ...]:
        if self.redrawn:
            return ()
        return self.form.edits if self.form else self.convention.edits

    @property
    def lacks(self) -> tuple[str, ...]:
        """The names that a program with it has no such tensor for begin with one of these."""
        return self.convention.lacks if self.convention else ()

    @property
    def plain(self) -> bool:
        """The first form of its mistake, or a convention."""
        return self.form is None or self.form == mutants.forms(self.slug)[0]

    @property
    def redrawn(self) -> bool:
        """Another mask in backward, which nobody could draw again: it is read from their gradients."""
        return self.form is not None and self.form == mutants.forms("dropout-new-mask")[0]

    @property
    def breaks(self) -> tuple[str, str] | None:
        """The class whose derivation it breaks, and the line."""
        return mutants.CATALOGUE[self.slug].breaks if self.form else None

    def __str__(self):
        said = f"{self.slug}: {self.story}" + (f" -- at {', '.join(self.places)} alone" if self.places else "")
        if self.breaks:
            said += f"\n  it breaks, in the derivation of {self.breaks[0].rpartition('.')[2]}: {self.breaks[1]}"
        return said


def hypotheses(trace: Trace) -> list[Hypothesis]:
    """Every form of every mistake, and every convention."""
    found = [Hypothesis(slug, form.story, mutants.CATALOGUE[slug].kind, form=form) for slug in mutants.names()
             for form in mutants.forms(slug)]
    return found + [Hypothesis(one.slug, one.story, one.kind, convention=one) for one in conventions(trace.config, trace.steps)]


class Replay:
    """Somebody's tensors, how exactly each can be known, and numgpt run on them again and again."""

    def __init__(self, trace: Trace, dump, kind: str | None = None):
        self.trace = trace
        arrays = {name: np.asarray(array, np.float64) for name, array in dump.arrays.items() if array.dtype.kind == "f"}
        self.kind = max((one for name, one in judged_as(dump, kind).items() if name in arrays), key=EPS.get, default="float64")
        self.weights = {name: array for name, array in arrays.items() if name.startswith("weights.")}
        self.theirs = {name: arrays[name] for name in trace
                       if name in arrays and not name.startswith(("weights.", "masks.", "decode."))}
        self.ids, self.targets = (dump.arrays.get(f"inputs.{name}", trace[f"inputs.{name}"]).astype(np.int32)
                                  for name in ("ids", "targets"))
        self.masks = {name: dump.arrays.get(name, mask) for name, mask in (trace.masks() or {}).items()}
        self.notes = self._others()
        self.fresh = self._fresh_masks()
        self._values = trace.model().values
        self._watched = None
        self.allowed = self._noise()
        self.clean = self.run()
        self.clean_errors = {name: error(self.theirs[name], array) for name, array in self.clean.items()}

    def run(self, made: Iterable[Hypothesis] = (), *, steps: bool = True) -> dict[str, np.ndarray]:
        """What each of their tensors should be, computed from those before it, if these mistakes are made."""
        return self._run(tuple(made), self.theirs, self.weights, steps)

    def _run(self, made: tuple[Hypothesis, ...], theirs: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray], steps: bool):
        changes = [one.convention for one in made if one.convention]
        config, settings, targets = self.trace.config, self.trace.steps, self.targets
        for change in changes:
            config, settings = config.change(**change.config), replace(settings, **change.steps)
            targets = change.targets(self.ids, targets) if change.targets else targets
        predicted = {}

        def exchange(name, array):
            kind, _, own = name.partition(".")
            if kind == "weights":
                array = weights.get(name, array)
            for change in changes:
                turn = {"weights": change.weights, "grads": change.grads}.get(kind)
                array = turn(own, array) if turn else array
            if name not in theirs:
                return array
            predicted[name] = np.array(array)
            return np.where(np.isfinite(theirs[name]), theirs[name], array)  # its own array: what comes after may write to it

        planted = Form("", "", tuple(edit for one in made for edit in one.edits))
        with ExitStack() as stack:
            stack.enter_context(np.errstate(all="ignore"))
            stack.enter_context(mutants.apply(planted))
            built_anew = config != self.trace.config or any(
                edit.where.startswith(("config.", "body.")) for edit in planted.edits)
            twin, tape = self._build(config) if built_anew or not self._watched else self._watched
            self._watched = None  # should this fail, who knows in what state it is
            tape.change, tape.masks = exchange, self.masks or None
            tape.masks_back = self.fresh if any(one.redrawn for one in made) else {}
            twin.values = self._values
            twin.zero_grad()
            found = observe(twin, tape, self.ids, targets, steps=settings if steps else Steps(0))
            if not built_anew:
                self._watched = twin, tape
        return {name: predicted.get(name, found.get(name)) for name in theirs if name in predicted or name in found}

    def _build(self, config) -> tuple[GPT, Tape]:
        tape = Tape()
        return watched(GPT.blank(config, dtype=np.float64), tape), tape

    def _noise(self) -> dict[str, float]:
        """How far a run in their type and its replay may be from each other, as a share of the tensor's length."""
        worst = dict.fromkeys(self.theirs, 0.0)
        model = self.trace.model(np.float32)
        for kind, change in rounded_runs():
            if kind != MEASURED[self.kind]:
                continue
            run = compute(model, self.ids, self.targets, masks=self.masks or None, change=change, steps=self.trace.steps)
            weights = {name: array for name, array in run.items() if name.startswith("weights.")}
            for name, array in self._run((), {name: run[name] for name in self.theirs}, weights, True).items():
                worst[name] = max(worst[name], distance(run[name], array) / (length(array) or 1.0))
        ratio = EPS[self.kind] / EPS[MEASURED[self.kind]]
        return {name: ALLOWED * share * ratio + 4 * EPS[self.kind]
                + smallest(self.kind, self.theirs[name].size) / (length(self.theirs[name]) or 1.0) for name, share in worst.items()}

    def _fresh_masks(self) -> dict[str, np.ndarray]:
        """What was dropped in backward, where their gradients show that it was something else than in forward."""
        before = {"dropout": "positions", "kept": "probabilities", "attention.dropped": "attention.out", "ffn.dropped": "ffn.down"}
        fresh = {}
        for name, kept in self.masks.items():
            own = name.partition(".")[2]
            ending = max((end for end in before if own.endswith(end)), key=len)
            dy, dx = (self.theirs.get(f"backward.{place}") for place in (own, own[:-len(ending)] + before[ending]))
            if dy is not None and dx is not None and ((dx != 0) & ~kept.astype(bool)).any():
                fresh[name] = (dx != 0) | (dy == 0)
        return fresh

    def _others(self) -> list[str]:
        """What they were given, or began with, that is not the trace's."""
        notes = [f"the {said} are not those of the trace: what follows is about yours" for name, said in (("ids", "token ids"), ("targets", "targets"))
                 if not np.array_equal(getattr(self, name), self.trace[f"inputs.{name}"])]
        moved = [name for name, array in self.weights.items()
                 if error(array, np.asarray(self.trace[name], np.float64)) > 4 * EPS[self.kind]]
        if moved:
            notes.append(f"weights are not those of the trace ({', '.join(moved[:3])}{', ...' if len(moved) > 3 else ''}): what follows is about yours")
        return notes

    # -- judging

    def errors(self, predicted: Mapping[str, np.ndarray]) -> dict[str, float]:
        """For each tensor the error of the prediction, as a share of the tensor's length; what a mistake goes past is as it was."""
        return {name: self.clean_errors[name] if _same(predicted.get(name, clean), clean)
                else error(self.theirs[name], predicted[name]) for name, clean in self.clean.items()}

    def moved(self, predicted: Mapping[str, np.ndarray], beside: Mapping[str, np.ndarray]) -> set[str]:
        """What is predicted to be something else than beside."""
        return {name for name, array in predicted.items() if name in beside and not _same(array, beside[name])
                and error(beside[name], array) > self.allowed[name]}

    def failing(self, errors: Mapping[str, float], times: float = 1.0) -> list[str]:
        return [name for name, found in errors.items() if not found <= times * self.allowed[name]]


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a is b or a.shape == b.shape and np.array_equal(a, b)


def error(theirs: np.ndarray, predicted: np.ndarray) -> float:
    """The distance as a share of the longer one; what is predicted to be infinite, as hidden scores are, may be anything."""
    if predicted.shape != theirs.shape:
        return math.inf
    finite = np.isfinite(predicted)
    if not finite.all():
        theirs, predicted = np.where(finite, theirs, 0), np.where(np.isnan(predicted), np.nan, np.where(finite, predicted, 0))
    if not np.isfinite(theirs).all() or not np.isfinite(predicted).all():
        return math.inf
    size = max(length(theirs), length(predicted))
    return distance(theirs, predicted) / size if size else 0.0
