"""Somebody's gradients held against themselves: no reference, no data, only parameters and their gradients.

    report = audit(config, weights, grads)     # arrays by the names of model.named_params()
    print(report)                              # a line for each identity, its worst place, and what a failure means

What it finds is wrong. What it passes may still be: a factor on all gradients, or a mistake upstream of an identity, breaks
none of them. identities.py has the equations and why they hold.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

from numgpt.config import GPTConfig
from numgpt.plan import shapes
from numgpt.verify.identities import IDENTITIES

# Correct gradients hold to 2e-14 in float64 and 7e-6 in float32, whoever made them. 16 bits are given what their rounding
# makes: each number is off by half an eps at most.
BOUNDS = {"float64": 1e-8, "float32": 1e-4, "float16": 8 * 2.0**-10, "bfloat16": 8 * 2.0**-7}
HOLDS, BROKEN, NOT = "holds", "broken", "does not apply"


@dataclass(frozen=True)
class Line:
    """One identity at one place."""

    identity: str
    place: str
    says: str
    number: float | None     # how far the sides differ, as a share of the terms they are added up from
    bound: float | None
    verdict: str             # "holds", "broken" or "does not apply"
    why: str = ""            # what a failure means, or why it does not apply


@dataclass
class Audit:
    """All lines, and what else there is to say; it is true if nothing is wrong."""

    lines: list[Line] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)   # gradients that are no numbers, or nothing but 0
    notes: list[str] = field(default_factory=list)

    @property
    def broken(self) -> list[Line]:
        return [line for line in self.lines if line.verdict == BROKEN]

    @property
    def ok(self) -> bool:
        """No fault, nothing broken, and something that held."""
        return not self.faults and not self.broken and any(line.verdict == HOLDS for line in self.lines)

    def __bool__(self) -> bool:
        return self.ok

    def to_dict(self) -> dict:
        lines = [asdict(line) | ({} if line.number is None or math.isfinite(line.number) else {"number": None}) for line in self.lines]
        return {"ok": self.ok, "faults": self.faults, "notes": self.notes, "lines": lines}

    def __str__(self):
        width = max((len(line.identity) for line in self.lines), default=0)
        told = []
        for slug in dict.fromkeys(line.identity for line in self.lines):
            own = [line for line in self.lines if line.identity == slug]
            tried = [line for line in own if line.verdict != NOT]
            if not tried:
                told.append(f"{slug:{width}}  does not apply: {own[0].why}")
                continue
            worst = max(tried, key=lambda line: math.inf if math.isnan(line.number) else line.number / line.bound)
            broken = [line for line in tried if line.verdict == BROKEN]
            told.append(f"{slug:{width}}  {worst.number:7.1e} of {worst.bound:7.1e}  {worst.verdict}  "
                        + (f"in {len(broken)} of {len(tried)} places, most at {worst.place}" if broken else f"in {_places(len(tried))}"))
            if broken:
                told += [f"{'':{width}}  {worst.says}", f"{'':{width}}  so {worst.why}"]
            told += [f"{'':{width}}  not at {line.place}: {line.why}" for line in own if line.verdict == NOT]
        return "\n".join([*told, *self.faults, *self.notes, self._sum()])

    def _sum(self) -> str:
        tried = {line.identity for line in self.lines if line.verdict != NOT}
        broken = {line.identity for line in self.broken}
        if self.faults or broken:
            return f"wrong: {len(broken)} of {len(tried)} identities are broken" + (f"; {len(self.faults)} faults" if self.faults else "")
        if not tried:
            return "nothing could be told: no identity applies to what is there"
        return f"all {len(tried)} identities hold, which wrong gradients may too: a trace tells more"


class _Lacking(KeyError):
    """A tensor that an identity needs is not there."""


def audit(config: GPTConfig, weights: Mapping[str, np.ndarray], grads: Mapping[str, np.ndarray], *,
          kinds: Mapping[str, str] | None = None, notes: tuple[str, ...] = ()) -> Audit:
    """All identities, on parameters and gradients by the names of model.named_params().

    kinds: how the gradients were stored ("bfloat16", ...) where their arrays do not show it. Dropout that the config has
    is taken to have been at work; config.change(dropout_resid=0.0) says that it was not.
    """
    report = Audit(notes=list(notes))
    wanted = dict(shapes(config))
    for what, arrays in (("weight", weights), ("gradient", grads)):
        for name, array in arrays.items():
            if name not in wanted or np.shape(array) != wanted[name]:
                raise ValueError(f"the {what} {name!r} has the shape {np.shape(array)}; " + (
                    f"the config calls for {wanted[name]}" if name in wanted else "the config has no such parameter"))
    precision = {name: _precision(array, (kinds or {}).get(name)) for name, array in grads.items()}
    _look_over(report, config, weights, grads)
    for identity in IDENTITIES:
        if why := identity.never(config):
            report.lines.append(Line(identity.slug, "", identity.says, None, None, NOT, why))
        else:
            report.lines += _measured(identity, config, weights, grads, precision)
    return report


def _measured(identity, config: GPTConfig, weights: Mapping, grads: Mapping, precision: Mapping[str, str]) -> list[Line]:
    used: set[str] = set()

    def W(name):
        if name not in weights:
            raise _Lacking(f"weights.{name}")
        return np.asarray(weights[name], np.float64)

    def G(name):
        if name not in grads:
            raise _Lacking(f"grads.{name}")
        used.add(name)
        return np.asarray(grads[name], np.float64)

    lines = []
    try:
        with np.errstate(all="ignore"):  # what is not finite shows in the number
            for place, off, terms in identity.sides(config, W, G):
                bound = max((BOUNDS[precision[name]] for name in used), default=BOUNDS["float64"])
                off = float(np.linalg.norm(off))
                number = 0.0 if off == 0 else float(off / terms) if terms else math.inf
                fine = number <= bound  # false for what is no number
                lines.append(Line(identity.slug, place, identity.says, number, bound, HOLDS if fine else BROKEN, "" if fine else identity.means))
    except _Lacking as lacking:
        lines.append(Line(identity.slug, "what follows" if lines else "", identity.says, None, None, NOT, f"{lacking.args[0]} is not there"))
    if not lines:
        lines.append(Line(identity.slug, "", identity.says, None, None, NOT, "the model has no place for it"))
    return lines


def _look_over(report: Audit, config: GPTConfig, weights: Mapping, grads: Mapping) -> None:
    for kind, arrays in (("weights", weights), ("grads", grads)):
        for name, array in arrays.items():
            bad = np.size(array) - int(np.isfinite(array).sum())
            if bad:
                report.faults.append(f"{kind}.{name} has {bad} of {np.size(array)} entries that are nan or infinite")
    empty = [name for name, array in grads.items() if not np.any(array)]
    if grads and len(empty) == len(grads):
        if why := _none(config, weights):
            report.notes.append(f"all gradients are 0, as they are where {why}")
            return
        report.faults.append("all gradients are 0: they were cleared before they were written, or never reached")
    elif empty:
        report.notes.append(f"nothing but 0 in {_listed(empty)}, as it may be where a weight behind them is 0 throughout, and is where "
                            "a gradient never arrives")


def _none(config: GPTConfig, weights: Mapping) -> str:
    """Why correct gradients may be 0, all of them; "" if they may not."""
    if config.n_vocab == 1:
        return "one token is all there is to say"
    if config.head_bias or "embedding.table" not in weights or any(np.any(array) for name, array in weights.items() if not name.endswith("gain")):
        return ""
    return "all weights but gains are 0"


def _precision(array: np.ndarray, stored: str | None) -> str:
    """The type in which a gradient's numbers are exact: float64 may hold what was made in float32."""
    array = np.asarray(array)
    kind = stored or array.dtype.name
    if kind == "float64" and np.any(array):
        with np.errstate(over="ignore"):
            if np.array_equal(array, array.astype(np.float32), equal_nan=True):
                kind = "float32"
    if kind not in BOUNDS:
        raise ValueError(f"gradients are read in {', '.join(BOUNDS)}; got {kind}")
    return kind


def _places(n: int) -> str:
    return "1 place" if n == 1 else f"{n} places"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
