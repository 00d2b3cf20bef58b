"""Two runs of one model, tensor by tensor, in the order in which they were computed: the first that differs.

    comparison = compare(Trace.read("ref.safetensors"), dumps.read("mine.safetensors", ...))
    print(comparison);  comparison.ok;  comparison.first_forward;  comparison.first_backward

A tolerance is not chosen, it is measured: when the trace was made, the same model ran in float32 and in bfloat16 too, and
how far each tensor came from float64 is in the manifest. A port in one of these types may be off by a few times as much.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

from numgpt.verify.noise import distance, length
from numgpt.verify.trace import Trace

# How many times the measured noise another implementation may be off. Over six seeds of twenty-four models in torch, correct
# ports came to 3.3 at most in float32, to 3.6 in float64, and to 2.5 in bfloat16; but to 10 there with a ReLU, and to 100 in
# weights after a step, where a number near 0 falls on the other side. At an initialisation of 0.02 the smallest mistake,
# GELU's other form in backward, came to 16, the next to 440.
ALLOWED = 8.0
EPS = {"float64": 2.0 ** -52, "float32": 2.0 ** -23, "bfloat16": 2.0 ** -7, "float16": 2.0 ** -10}
# float16 has no numbers between multiples of this, however small they are.
STEP = {"float16": 2.0 ** -24}
LOOKS_SINGLE = ("the numbers are stored in float64, but look computed in float32, and are judged as such: "
                "--precision float64 insists")
# What was measured stands for what was not, in the ratio of their last digits.
MEASURED = {"float64": "float32", "float32": "float32", "bfloat16": "bfloat16", "float16": "float32"}


@dataclass(frozen=True)
class Row:
    """One tensor beside the reference's.

    error       length of the difference, and relative, as a share of the reference's length
    cosine      of the angle between the two; 1: the same direction
    scale       the number that the reference is best multiplied by
    tolerance   of the relative error
    """

    name: str
    max_error: float
    error: float
    relative: float
    cosine: float
    scale: float
    tolerance: float
    ok: bool
    note: str = ""


@dataclass
class Comparison:
    rows: list[Row]
    kind: str
    missing: list[str]
    notes: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)  # what could not be read as the tensor that it is called

    @property
    def wrong(self) -> list[Row]:
        return [row for row in self.rows if not row.ok]

    @property
    def ok(self) -> bool:
        return not self.wrong and not self.left_out

    @property
    def first_forward(self) -> Row | None:
        """The first of what is given, or goes forward, that differs."""
        return self._first("inputs.", "weights.", "masks.", "forward.", "decode.")

    @property
    def first_backward(self) -> Row | None:
        return self._first("backward.", "grads.", "clip.")

    @property
    def first_step(self) -> Row | None:
        return self._first("steps.")

    def _first(self, *kinds: str) -> Row | None:
        return next((row for row in self.wrong if row.name.startswith(kinds)), None)

    def to_json(self) -> str:
        firsts = {name: getattr(self, name) for name in ("first_forward", "first_backward", "first_step")}
        said = {"ok": self.ok, "precision": self.kind, **{name: row and row.name for name, row in firsts.items()},
                "tensors": [asdict(row) for row in self.rows], "missing": self.missing, "unknown": self.unknown,
                "left_out": self.left_out, "notes": self.notes}
        return json.dumps(_plain(said), indent=1, allow_nan=False)

    def table(self, rows: list[Row] | None = None) -> str:
        rows = self.rows if rows is None else rows
        firsts = {self.first_forward: "first forward", self.first_backward: "first backward",
                  self.first_step: "first of the steps"}
        width = max([len(row.name) for row in rows] + [6])
        lines = [f"{'tensor':{width}}  max error  relative  tolerance  cosine      scale"]
        for row in rows:
            mark = "" if row.ok else "  DIFFERS" + (f" <- {firsts[row]}" if row in firsts else "")
            lines.append(f"{row.name:{width}}  {row.max_error:9.1e}  {row.relative:8.1e}  {row.tolerance:9.1e}  "
                         f"{row.cosine:9.6f}  {row.scale:8.5g}{mark}" + f"  {row.note}" * bool(row.note))
        return "\n".join(lines)

    def summary(self) -> str:
        lines = [f"note: {note}" for note in self.notes]
        if self.unknown:
            lines.append(f"not compared, being nothing that the trace has: {some(self.unknown)}")
        lines.append(f"{len(self.rows)} of {len(self.rows) + len(self.missing)} tensors compared, as {self.kind}")
        if self.left_out:
            lines.append(f"not as they should be, and left out: {some(self.left_out)}")
        if self.ok:
            lines.append("all agree, as far as the type's rounding lets them")
        for said, row in (("forward", self.first_forward), ("backward", self.first_backward), ("in the steps", self.first_step)):
            if row is not None:
                lines.append(f"first difference {said}: {row.name}: {looks_like(row)}")
        return "\n".join(lines)

    def __str__(self):
        return f"{self.table()}\n{self.summary()}"


def compare(trace: Trace, dump, *, kind: str | None = None) -> Comparison:
    """A port's tensors (a dumps.Dump) beside the reference's.

    kind: as which type they are judged; None: as that in which they are stored
    """
    if not any(name in dump.arrays for name in trace):
        raise ValueError("nothing in the dump is a tensor of the trace" + unknown_names(dump))
    kinds = judged_as(dump, kind)
    rows, notes = _rows(trace, dump, kinds), []
    if kind is None and set(kinds.values()) == {"float64"} and not all(row.ok for row in rows):
        single = _rows(trace, dump, dict.fromkeys(kinds, "float32"))
        if 2 * sum(not row.ok for row in single) < sum(not row.ok for row in rows):
            rows, kinds = single, dict.fromkeys(kinds, "float32")
            notes.append(LOOKS_SINGLE)
    said = " and ".join(sorted({kinds[row.name] for row in rows if row.name in kinds}, key=EPS.get)) or "whole numbers"
    missing = [name for name in trace if name not in dump.arrays]
    return Comparison(rows, said, missing, [*dump.notes, *notes], list(dump.unknown), list(dump.left_out))


def judged_as(dump, kind: str | None = None) -> dict[str, str]:
    """For each tensor of floating-point numbers the type whose rounding it is allowed: the one it is stored in, or kind.

    A single number often comes as Python's, in float64, from a program that computes in something shorter.
    """
    stored = {name: dump.kinds[name] for name, array in dump.arrays.items() if array.dtype.kind == "f"}
    others = [stored[name] for name in stored if dump.arrays[name].ndim]
    shortest = max(others, key=EPS.get, default=None)
    return {name: kind or (shortest if shortest and not dump.arrays[name].ndim else own) for name, own in stored.items()}


def _rows(trace: Trace, dump, kinds: Mapping[str, str]) -> list[Row]:
    return [_row(trace, name, dump.arrays[name], kinds.get(name, "float32")) for name in trace if name in dump.arrays]


def tolerance(trace: Trace, name: str, kind: str) -> float:
    """How far a run in that type may be from the trace, as a length."""
    entry = trace.entries[name]
    measured = entry["noise"][MEASURED[kind]] * EPS[kind] / EPS[MEASURED[kind]]
    stored = EPS[kind] + (EPS["float32"] if trace[name].dtype == np.float32 and not name.startswith("weights.") else 0)
    # A single number may be right by luck in every run that was measured, as many together cannot.
    return ALLOWED * measured + (2 if entry["shape"] else 4) * stored * entry["norm"] + smallest(kind, math.prod(entry["shape"]))


def smallest(kind: str, n: int) -> float:
    """The length of n errors of half the smallest step between numbers of a type."""
    return STEP.get(kind, 0.0) / 2 * math.sqrt(n)


def measures(mine: np.ndarray, truth: np.ndarray) -> tuple[float, float, float, float]:
    """The largest difference, its length, the cosine and the best scale; where the truth is not finite, nothing is compared."""
    finite = np.isfinite(truth)
    a, b = (np.where(finite, array, 0).astype(np.float64) for array in (mine, truth))
    size_a, size_b = (max(float(np.abs(array).max(initial=0)), 1e-300) for array in (a, b))  # so that squares do not overflow
    with np.errstate(all="ignore"):
        dot = float((a / size_a * (b / size_b)).sum())
        norms = float(np.linalg.norm(a / size_a)), float(np.linalg.norm(b / size_b))
        cosine = dot / (norms[0] * norms[1]) if norms[0] * norms[1] else float(norms[0] == norms[1])
        scale = dot / norms[1] ** 2 * (size_a / size_b) if norms[1] else math.nan
        return float(np.abs(a - b).max(initial=0)), distance(a, b) if np.isfinite(a).all() else math.inf, cosine, scale


def _row(trace: Trace, name: str, mine: np.ndarray, kind: str) -> Row:
    truth = np.asarray(trace[name])
    if name.startswith(("inputs.", "masks.")):
        different = int(np.count_nonzero(np.asarray(mine) != truth))
        share = different / max(truth.size, 1)
        return Row(name, float(different > 0), float(different), share, 1 - share, 1.0, 0.0, not different,
                   f"{different} of {truth.size} are others: this is another batch" if different else "")
    max_error, error, cosine, scale = measures(mine, truth)
    norm = length(truth)
    allowed = tolerance(trace, name, kind)
    return Row(name, max_error, error, error / norm if norm else error, cosine, scale, allowed / norm if norm else allowed,
               bool(error <= allowed), not_finite(mine, truth))


def not_finite(mine: np.ndarray, truth: np.ndarray) -> str:
    bad = int(np.count_nonzero(~np.isfinite(mine) & np.isfinite(truth)))
    return f"{bad} numbers are not finite" if bad else ""


def looks_like(row: Row) -> str:
    """What an error looks like, in words."""
    if row.note:
        return row.note
    said = f"off by {row.relative:.1e} of its length, where {row.tolerance:.1e} is rounding"
    if row.scale == 0 or math.isnan(row.scale):
        return said + ("; all of it is 0" if row.scale == 0 and row.cosine == 0 else "")
    if 1 - abs(row.cosine) < max(1e-6, 10 * row.tolerance ** 2) and abs(row.scale - 1) > 10 * row.tolerance:
        return said + f"; it is {row.scale:.6g} times the right one"
    return said + f"; cosine {row.cosine:.4f}"


def unknown_names(dump) -> str:
    """The end of a sentence: what was not understood, and what to do about it."""
    return f": it has {some(list(dump.unknown))}; a map says which is which (--map)" if dump.unknown else ""


def some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f", and {len(names) - 4} more" if len(names) > 4 else "")


def _plain(said):
    """Without numbers that JSON does not have."""
    if isinstance(said, Mapping):
        return {key: _plain(item) for key, item in said.items()}
    if isinstance(said, list):
        return [_plain(item) for item in said]
    return None if isinstance(said, float) and not math.isfinite(said) else said
