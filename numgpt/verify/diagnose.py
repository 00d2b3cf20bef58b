"""The name of a mistake, from somebody's numbers.

    diagnosis = diagnose(Trace.read("ref.safetensors"), dumps.read("mine.safetensors", ...))
    print(diagnosis);  diagnosis.verdict;  [one.slug for one in diagnosis.found]

Each operation is run again on the port's own numbers, as far as it dumped them, so that the one that is wrong fails alone and
what follows from it does not. Then numgpt itself is run with each known mistake in it, and with each convention that a port
may have otherwise, and with two of them: what reproduces the port's numbers, to rounding, is the name.
"""

import math
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import combinations

from numgpt.threads import one_blas_thread
from numgpt.training.optim import clip
from numgpt.verify.compare import EPS, LOOKS_SINGLE, Row, compare, looks_like, measures, not_finite, some, unknown_names
from numgpt.verify.noise import length
from numgpt.verify.replay import Hypothesis, Replay, error, hypotheses
from numgpt.verify.trace import Trace

# A mistake reproduces a tensor if it comes within so many times what an operation is allowed: its numbers may be larger than
# the right ones, and round more.
REPRODUCED = 4.0
BETTER = 3.0  # but what is wrong without it, it must bring so many times nearer
DIGITS = 1.5  # fewer than these are no reproduction
MOST = 4  # if more mistakes than these would do, the numbers are too few to tell
ALIKE = 0.7  # digits by which two explanations of the same numbers may differ, and neither is the better one
STEPS = ("steps.", "clip.")  # the names of what comes after the gradient


@dataclass
class Diagnosis:
    """What was found.

    verdict   "correct", "known" or "unknown"
    found     the mistakes, one or more, that together reproduce the port's numbers
    others    sets of mistakes that do so as well
    digits    how many digits of what was wrong are reproduced
    wrong     what is wrong where it is computed from the port's own numbers, in order
    judged    how many tensors were computed again
    """

    verdict: str
    found: list[Hypothesis] = field(default_factory=list)
    others: list[list[Hypothesis]] = field(default_factory=list)
    digits: float = 0.0
    wrong: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    judged: int = 0
    tried: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.verdict == "correct"

    def to_dict(self) -> dict:
        def said(hypotheses):
            return [{"slug": one.slug, "story": one.story, "breaks": one.breaks} for one in hypotheses]
        return {"verdict": self.verdict, "found": said(self.found), "others": [said(other) for other in self.others],
                "digits": round(self.digits, 2) if self.found else None, "judged": self.judged,
                "wrong": [row.name for row in self.wrong],
                "notes": self.notes, "tried": self.tried}

    def __str__(self):
        lines = [f"note: {note}" for note in self.notes]
        if self.verdict == "correct":
            one = self.judged == 1
            said = "the 1 tensor that was computed again is" if one else f"all {self.judged} tensors that were computed again are"
            lines.append(f"correct: {said} what the ones before make of {'it' if one else 'them'}, to rounding")
            return "\n".join(lines)
        wrong = [row for row in self.wrong if not row.name.startswith(STEPS)] or self.wrong
        lines.append(("1 tensor is not what its inputs make of it" if len(wrong) == 1 else
                      f"{len(wrong)} tensors are not what their inputs make of them")
                     + (", and the steps accordingly" if len(wrong) < len(self.wrong) else "")
                     + f"; the first is {wrong[0].name}: {looks_like(wrong[0])}")
        if self.verdict == "unknown":
            if self.others:
                lines.append(f"too little is known to tell: {len(self.others)} mistakes would do, "
                             f"{', '.join(_named(one) for one in self.others[:MOST])}, ...: dump more")
            else:
                lines.append(f"no known mistake reproduces these numbers, alone or with another ({self.tried} were tried)")
            lines.append("where to look: " + ", ".join(row.name for row in wrong[:6]) + (", ..." if len(wrong) > 6 else ""))
            return "\n".join(lines)
        lines += [str(one) for one in self.found]
        lines.append("reproduces all of them " + (f"to {self.digits:.1f} digits" if self.digits < 15 else "to the last digit")
                     + ("" if len(self.found) == 1 else ", both together"))
        for other in self.others:
            lines.append(f"here no different: {_named(other)} ({'; '.join(one.story for one in other)})")
        return "\n".join(lines)


def diagnose(trace: Trace, dump, *, kind: str | None = None, report: Callable[[str], None] = lambda said: None) -> Diagnosis:
    """Name the mistake in a port's numbers (a dumps.Dump).

    kind: as which type they are judged; None: as that in which they are stored. report: is told what is being tried
    """
    start = time.perf_counter()
    with one_blas_thread():
        diagnosis = _diagnosed(trace, dump, kind, report)
    diagnosis.seconds = time.perf_counter() - start
    return diagnosis


def _diagnosed(trace: Trace, dump, kind: str | None, report: Callable[[str], None]) -> Diagnosis:
    replay, notes = Replay(trace, dump, kind), list(dump.notes)
    if dump.unknown:
        notes.append(f"nothing of the trace, and left out: {some(list(dump.unknown))}")
    if not replay.theirs:
        raise ValueError("nothing in the dump can be run again: gradients, activations and steps can, by the names of the trace"
                         + unknown_names(dump))
    if kind is None and replay.kind == "float64" and replay.failing(replay.clean_errors):
        single = Replay(trace, dump, "float32")
        if 2 * len(single.failing(single.clean_errors)) < len(replay.failing(replay.clean_errors)):
            replay = single
            notes.append(LOOKS_SINGLE)
    search = _Search(replay, report)
    diagnosis = search.diagnosis()
    if diagnosis.verdict == "correct":
        wrong = compare(trace, dump, kind=replay.kind).wrong
        if wrong:
            notes.append(f"{wrong[0].name} differs from the reference ({looks_like(wrong[0])}), and what follows from it is right")
    if diagnosis.verdict == "unknown":
        diagnosis.notes += _common_factor(trace, [row for row in diagnosis.wrong if row.name.startswith("grads.")])
    diagnosis.notes = notes + replay.notes + diagnosis.notes
    diagnosis.judged = len(replay.clean)
    diagnosis.tried = search.tried
    return diagnosis


def _common_factor(trace: Trace, rows: list[Row]) -> list[str]:
    """A sentence, if these gradients are all one number times the right ones."""
    scales = [row.scale for row in rows]
    if len(rows) < 2 or min(row.cosine for row in rows) < 1 - 1e-6 or not math.isclose(min(scales), max(scales), rel_tol=1e-4):
        return []
    clipped = clip(float(trace["clip.norm"]), trace.steps.clip)
    return [f"{len(rows)} gradients are {scales[0]:.6g} times the right ones" + (
        ", which is what clipping makes of them: dump them before it" if math.isclose(scales[0], clipped, rel_tol=1e-3) else "")]


class _Search:
    """The mistakes that explain a replay."""

    def __init__(self, replay: Replay, report: Callable[[str], None]):
        self.replay, self.report, self.tried = replay, report, 0
        self.as_given = frozenset()  # what is not judged

    def diagnosis(self) -> Diagnosis:
        wrong = self.replay.failing(self.replay.clean_errors)
        if not wrong:
            return Diagnosis("correct")
        rows = [self._row(name) for name in wrong]
        if any(row.note for row in rows):  # no mistake of the catalogue makes such numbers
            return Diagnosis("unknown", wrong=rows)
        of_gradient = [name for name in wrong if not name.startswith(STEPS)]
        found, others, digits, notes = (), [], math.inf, []
        if of_gradient:
            found, others, digits = self.explained("gradient", (), of_gradient)
            if found is None:
                return Diagnosis("unknown", others=others, wrong=rows)
        if found and self._steps_begin_with_the_gradient():  # which is explained, however its pieces were added up
            self.as_given = self._gradients_of_steps()
        in_steps = self._left_in_steps(found)
        if in_steps:
            more, others_of_step, digits_of_step = self.explained("step", found, in_steps)
            if more is None and found and not self.as_given:
                self.as_given = self._gradients_of_steps()
                notes.append("the gradients of the steps are not reproduced, those of the whole batch are")
                in_steps = self._left_in_steps(found)
                more, others_of_step, digits_of_step = (
                    self.explained("step", found, in_steps) if in_steps else (found, [], digits))
            if more is None:
                return Diagnosis("unknown", others=others_of_step, wrong=rows,
                                 notes=[f"{_named(found)} explains the gradients, but not the steps"] if found else [])
            found, others, digits = more, others + others_of_step, min(digits, digits_of_step)
        if not found:  # a little beyond what is allowed, and less than what a mistake would be
            return Diagnosis("correct", notes=[f"{rows[0].name} is {looks_like(rows[0])}"])
        return Diagnosis("known", list(found), [list(other) for other in others], digits, rows, notes)

    def explained(self, kind: str, base: tuple, wrong: list[str]):
        """The mistakes that, with those of base, reproduce all that is wrong; others that do as well; and to how many digits."""
        steps = kind == "step"
        judged = {name for name in self.replay.clean if name.startswith(STEPS) == steps and name not in self.as_given}
        kinds = (kind,)
        if not base and any(".grads." in name for name in wrong):  # one of the gradient may show when the weights have moved
            kinds = dict.fromkeys((kind, "gradient"))
        clean = self.replay.run(base, steps=steps)
        tries = {}
        for kind in kinds:
            candidates = [one for one in hypotheses(self.replay.trace) if one.kind == kind]
            self.report(f"trying {len(candidates)} mistakes and conventions")
            for one in candidates:
                predicted = self._try((*base, one), steps)
                if predicted is not None:
                    moved = self.replay.moved(predicted, clean) & judged
                    if moved:
                        tries[one] = self._outcome(predicted, judged, one.lacks), moved
            exact = [((*base, one), errors) for one, ((errors, left), _) in tries.items() if not left]
            if exact:
                return self._best(exact, wrong)
        return self._best(self._in_places(base, tries, wrong) or self._pairs(base, tries, wrong, judged, steps), wrong)

    def _in_places(self, base, tries, wrong: list[str]):
        """A mistake made at some places and not at others: it reproduces what is wrong, and without it the rest is right."""
        return [((*base, replace(one, places=_places(wrong))), errors) for one, ((errors, left), _) in tries.items()
                if not left & set(wrong) and not one.lacks]

    def _pairs(self, base, tries, wrong: list[str], judged: set[str], steps: bool):
        """Two mistakes together."""
        pairs = [pair for pair in combinations(tries, 2) if self._may_explain(*pair, tries, wrong)]
        self.report(f"none alone: trying {len(pairs)} pairs")
        exact = []
        for pair in pairs:
            predicted = self._try((*base, *pair), steps)
            if predicted is not None:
                errors, still = self._outcome(predicted, judged, pair[0].lacks + pair[1].lacks)
                if not still:
                    exact.append(((*base, *pair), errors))
        return exact

    def _may_explain(self, one: Hypothesis, two: Hypothesis, tries, wrong: list[str]) -> bool:
        """What neither moves stays as it was, and what one moves alone comes out as with that one alone."""
        ((_, left), moved), ((_, left_by_two), moved_by_two) = tries[one], tries[two]
        if one.slug == two.slug or not moved | moved_by_two >= set(wrong):
            return False
        if left & (moved - moved_by_two) or left_by_two & (moved_by_two - moved):
            return False
        return moved.isdisjoint(moved_by_two) or one.plain and two.plain or wrong[0] not in moved & moved_by_two

    def _try(self, made: tuple[Hypothesis, ...], steps: bool):
        """The prediction; None where the mistakes do not go together, or not with these shapes."""
        self.tried += 1
        try:
            return self.replay.run(made, steps=steps)
        except Exception:  # code with a mistake in it may fail in any way
            return None

    def _outcome(self, predicted, judged: set[str], lacks: tuple[str, ...]) -> tuple[dict[str, float], set[str]]:
        """The errors, and what is still wrong."""
        errors, clean = self.replay.errors(predicted), self.replay.clean_errors
        errors |= {name: 0.0 for name in errors if lacks and name.startswith(lacks)}
        beyond = set(self.replay.failing(errors, REPRODUCED))
        no_better = {name for name in self.replay.failing(errors)
                     if BETTER * errors[name] > clean[name] > self.replay.allowed[name]}
        return errors, judged & (beyond | no_better)

    def _steps_begin_with_the_gradient(self) -> bool:
        """Whether the first step's gradient is that of the whole batch."""
        theirs, start = self.replay.theirs, "steps.1."
        pairs = [(array, theirs.get(name[len(start):])) for name, array in theirs.items() if name.startswith(f"{start}grads.")]
        return all(whole is not None and error(array, whole) < REPRODUCED * EPS[self.replay.kind] * 10 for array, whole in pairs)

    def _gradients_of_steps(self) -> set[str]:
        return {name for name in self.replay.theirs if name.startswith("steps.") and name.split(".")[2] in ("grads", "loss")}

    def _left_in_steps(self, found: tuple[Hypothesis, ...]) -> list[str]:
        """What is still wrong in the steps with these mistakes made."""
        failing = self.replay.failing(self.replay.errors(self.replay.run(found)), REPRODUCED)
        return [name for name in failing if name.startswith(STEPS) and name not in self.as_given]

    def _best(self, exact, wrong: list[str]):
        """The explanation with the most digits, and those that are as good; None, and all of them, if too many are."""
        digits = {found: -math.log10(max(max(errors[name] for name in wrong), 1e-17)) for found, errors in exact}
        most = max(digits.values(), default=0.0)
        if most < DIGITS:
            return None, [], 0.0
        alike = sorted((found for found in digits if digits[found] > most - ALIKE),
                       key=lambda found: self._rank(found, most - digits[found]))
        first = {}
        for found in alike:
            first.setdefault(frozenset(one.slug for one in found), found)
        alike = list(first.values())
        if len(alike) > MOST:
            return None, alike, 0.0
        return alike[0], alike[1:], digits[alike[0]]

    @staticmethod
    def _rank(found: tuple[Hypothesis, ...], behind: float) -> tuple:
        """What is said first: what is made everywhere; what has more digits; mistakes, and of each the plain form."""
        return (any(one.places for one in found), round(behind / ALIKE), sum(one.convention is not None for one in found),
                not all(one.plain for one in found))

    def _row(self, name: str) -> Row:
        theirs, should = self.replay.theirs[name], self.replay.clean[name]
        max_error, off, cosine, scale = measures(theirs, should)
        return Row(name, max_error, off, off / (length(should) or 1.0), cosine, scale, self.replay.allowed[name], False,
                   not_finite(theirs, should))


def _places(names: list[str]) -> tuple[str, ...]:
    """Where these tensors are, without the layers' numbers."""
    layers = (re.sub(r"blocks\.\d+", "blocks.*", name) for name in names)
    return tuple(dict.fromkeys(re.sub(r"^[a-z]+\.|\.(weight|bias|gain|table)$", "", name) for name in layers))


def _named(found: Iterable[Hypothesis]) -> str:
    return " with ".join(one.slug for one in found)
