"""Hints, a step at a time: what kind of error, from the check's findings; then where, and which term, from the exercise."""

from numgpt.gradcheck.report import OK, Finding, Report

STEP = "the direction is right and the length is not. One factor is off"
MOVED = "the numbers are right, and each stands in another's place: a transpose, or a reshape instead of one."
# How what a finding looks like begins, and what kind of error that is.
KINDS = (
    ("zero", "nothing arrives at it: no line makes it yet, or what one made is lost."),
    ("not zero", "something arrives at it that does not belong there."),
    ("the sign", "the numbers are right, and their sign is turned."),
    ("scaled by", STEP + ": one of forward's that backward forgot, a sum that became a mean or the other way round, or a "
                         "division by the wrong count."),
    ("transposed", MOVED),
    ("its axes", MOVED),
    ("only row", "some of its rows are right and others are not. What do the wrong ones have in common?"),
    ("only column", "some of its columns are right and others are not. What do the wrong ones have in common?"),
    ("per head", "each block of its columns has a factor of its own."),
    ("a constant", "one and the same number is missing everywhere."),
    ("in each row a constant and", "in each row two terms are missing or added."),
    ("in each row a constant", "in each row one number is missing or added: a term of the formula that is a mean or a sum."),
    ("in each row a multiple", "in each row one direction is wrong and all others are right: one term of the formula is "
                               "missing or added."),
    ("a rank-one", "a product of one column and one row is missing or added: one term of the formula."),
)
NEARLY = 0.1  # of the largest number
SHOWN = 5     # names in a list
TELLING = ("scaled", "only", "in each row", "per head")  # of which the details help
OTHER = ("no factor and no exchange of places would make it right: the numbers themselves are others. A term of the "
         "formula is missing, or something else stands where it belongs.")


def kind(finding: Finding) -> str:
    """The first hint: what is wrong with it, in kind."""
    if finding.name.startswith("rule: ") or not (finding.looks_like or finding.worst):
        return f"{finding.name.removeprefix('rule: ')}: {'; '.join(finding.notes)}."
    for seen in finding.looks_like:
        for begins, sentence in KINDS:
            if seen.startswith(begins):
                exactly = f" ({seen})" if begins.startswith(TELLING) else ""
                factor = begins == "scaled by" and finding.method == "reference"
                return f"{finding.name}{exactly}: {STEP + '.' if factor else sentence}"
        if "blocks of" in seen:
            return f"{finding.name} ({seen}): {MOVED}"
    return f"{finding.name}: {OTHER}"


def first_wrong(report: Report, hints: dict[str, tuple[str, ...]]) -> Finding:
    """A broken rule before a gradient, which it may have spoilt, and of rules those on what must not be written to;
    of gradients the one that the exercise speaks of first."""
    def rank(finding: Finding) -> tuple:
        order = [*hints, finding.name].index(finding.name)
        return bool(finding.method), not any("wrote to" in note for note in finding.notes), order

    return min((f for f in report.findings if f.verdict != OK), key=rank)


def steps(report: Report, hints: dict[str, tuple[str, ...]]) -> list[str]:
    """All hints on a report that is not right, the vaguest first."""
    finding = first_wrong(report, hints)
    wrong = list(dict.fromkeys(f.name for f in report.findings if f.method and f.verdict != OK and f.name != finding.name))
    right = [f.name for f in report.gradients if f.verdict == OK and f.name not in wrong and f.name != finding.name]
    first = kind(finding) + (_nearly(finding) if finding.method else "")
    if wrong:
        first += f" Wrong too: {_listed(wrong)}."
    if right:
        first += f" Right: {_listed(list(dict.fromkeys(right)))}."
    return [first, *hints.get(finding.name, ())]


def _nearly(finding: Finding) -> str:
    """A small error says that most terms are there, and some wrong numbers which."""
    if finding.error < NEARLY and not finding.looks_like:
        return (f" It is nearly right, off by {_percent(finding.error)} of the largest number: a small term, or a constant "
                "in one.")
    return ""


def _percent(share: float) -> str:
    """To one digit, and without an exponent."""
    return "less than 0.001 %" if share < 1e-5 else f"{float(f'{100 * share:.1g}'):g} %"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
