"""What a check found, to be read by people, by assert and by programs."""

import json
from dataclasses import asdict, dataclass, field

OK, WRONG, INCONCLUSIVE = "ok", "wrong", "inconclusive"


@dataclass
class Worst:
    """The element (or direction) that is furthest out of its tolerance."""

    where: str
    analytic: float
    numeric: float
    tolerance: float

    @property
    def error(self) -> float:
        return abs(self.analytic - self.numeric)

    def __str__(self):
        text = f"{self.where}: analytic {self.analytic:.6g}, numeric {self.numeric:.6g} +- {self.tolerance:.1g}"
        if self.numeric and abs(self.numeric) > self.tolerance:
            text += f" (ratio {self.analytic / self.numeric:.6g})"
        return text


@dataclass
class Finding:
    """One array's gradient, or one rule of the contract."""

    name: str
    verdict: str
    shape: tuple[int, ...] = ()
    method: str = ""
    mode: str = ""
    checked: int = 0
    total: int = 0
    error: float = 0.0      # the largest |analytic - numeric|, as a share of scale
    tolerance: float = 0.0  # what was allowed there, as a share of scale
    scale: float = 0.0      # the largest numeric derivative
    worst: Worst | None = None
    differing: int = 0
    looks_like: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self):
        if self.verdict == OK or self.worst is None:
            return f"{self.name}: {'; '.join(self.notes)}"
        parts = [str(self.worst)]
        if self.verdict == WRONG:
            what = "entries" if self.mode != "projection" else "directions"
            parts.append(f"{self.differing} of {self.checked} {what} differ")
            if self.looks_like:
                parts.append("looks like: " + ", or ".join(self.looks_like))
        else:
            parts.append(f"inconclusive: what could be measured leaves {self.tolerance:.1g} of the largest open")
        return "; ".join(parts + self.notes)


@dataclass
class Report:
    """True where every gradient is right and every rule of the contract was kept."""

    target: str
    findings: list[Finding]
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        verdicts = {f.verdict for f in self.findings}
        return WRONG if WRONG in verdicts else INCONCLUSIVE if INCONCLUSIVE in verdicts or not verdicts else OK

    @property
    def ok(self) -> bool:
        return self.verdict == OK

    @property
    def gradients(self) -> list[Finding]:
        """The findings that compare a gradient; the others are rules of the contract."""
        return [f for f in self.findings if f.method]

    @property
    def worst(self) -> Finding | None:
        """The finding that is furthest out of its tolerance; a broken rule comes first."""
        order = {WRONG: 0, INCONCLUSIVE: 1, OK: 2}
        return min(self.findings, default=None, key=lambda f: (
            order[f.verdict], bool(f.method), -f.error / f.tolerance if f.tolerance else 0.0))

    def __bool__(self):
        return self.ok

    def __str__(self):
        bad = [f for f in self.findings if f.verdict != OK]
        lines = [f"gradcheck of {self.target}: {self.verdict} ({self._counts()}, {self.seconds:.2g} s)"]
        lines += [f"  {f}" for f in bad or self.gradients if f.verdict != OK or f.notes]
        right = [f.name for f in self.gradients if f.verdict == OK]
        if bad and right:
            lines.append(f"  right: {', '.join(dict.fromkeys(right))}")
        lines += [f"  note: {note}" for note in self.skipped + self.notes]
        return "\n".join(lines)

    __repr__ = __str__

    def table(self) -> str:
        """A line an array: method, numbers checked, worst error and tolerance as shares of the largest derivative."""
        head = ("name", "shape", "method", "mode", "checked", "error", "tolerance", "verdict")
        body = [(f.name, str(f.shape), f.method, f.mode,
                 str(f.checked) if f.mode == "projection" else f"{f.checked} of {f.total}",
                 f"{f.error:.1e}", f"{f.tolerance:.1e}", f.verdict) for f in self.gradients]
        rules = [f for f in self.findings if not f.method]
        broken = [f for f in rules if f.verdict != OK]
        body += [(f.name, "", "", "", "", "", "", f.verdict) for f in broken]
        body += [("rules of the contract", "", "", "", f"{len(rules) - len(broken)} of {len(rules)}", "", "", OK)]
        widths = [max(len(row[i]) for row in [head, *body]) for i in range(len(head))]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in [head, *body])

    def to_json(self) -> str:
        return json.dumps({"target": self.target, "verdict": self.verdict, "ok": self.ok, "seconds": self.seconds,
                           "findings": [asdict(f) for f in self.findings], "skipped": self.skipped, "notes": self.notes},
                          allow_nan=False, default=float)

    def assert_ok(self) -> None:
        if not self.ok:
            raise AssertionError(str(self))

    def _counts(self):
        n = sum(f.checked for f in self.gradients)
        return f"{len({f.name for f in self.gradients})} arrays, {n} derivatives"
