"""What is checked every time beside the numbers: that forward and backward keep to their contract."""

import numpy as np

from numgpt.gradcheck.report import INCONCLUSIVE, OK, WRONG, Finding
from numgpt.gradcheck.subject import Subject, like_output, output_leaves
from numgpt.gradcheck.trees import is_real

EXACT = 8  # ulp of the largest entry: doubling and negating round nothing, short of an underflow
TINY = 1e-270


def check_rules(subject: Subject, dy) -> list[Finding]:
    """dy: a cotangent in the dtype of the outputs. Stops early where nothing further can be said."""
    findings: list[Finding] = []

    def rule(name: str, kept: bool, complaint: str, verdict: str = WRONG) -> bool:
        findings.append(Finding(f"rule: {name}", OK if kept else verdict, notes=[] if kept else [complaint]))
        return kept

    values = subject.values
    before = _copies(values)
    y, memory = subject.forward(values)
    if not rule("forward changes nothing that it was given", _same(values, before),
                f"forward wrote to {_changed(values, before)}"):
        return findings
    first = [leaf.copy() for leaf in output_leaves(y)]
    again = output_leaves(subject.forward(values)[0])
    if not rule("forward twice gives the same bits", all(map(_equal, first, again)),
                "two calls on the same inputs differ, so nothing can be measured: fix the seed, or pass a "
                "np.random.Generator by keyword (it is copied for every call)", INCONCLUSIVE):
        return findings
    if not rule("outputs are finite", all(np.isfinite(leaf).all() for leaf in first),
                "there are nan or inf among the outputs: nothing can be measured at this point", INCONCLUSIVE):
        return findings

    if subject.kind == "contract":
        saved_before = _copies(dict(_arrays(memory)))
        other = {name: value * value.dtype.type(0.5) for name, value in values.items()}
        reference = subject.gradient(values, dy)
        _, memory = subject.forward(values)
        subject.forward(other)  # a buffer kept on the layer would overwrite what the first call saved
        subject.place(values)
        subject.clear()
        gradient = subject.backward(dy, memory)
        rule("saved outlives another forward", _same(gradient, reference),
             "a forward on other inputs changed the gradients of the first: return saved, keep no buffer on the layer")
        rule("backward only reads saved", _same(dict(_arrays(memory)), saved_before), "backward wrote to saved")
        subject.backward(dy, memory)
        sums = subject.param_grads()
        rule("gradients of parameters are added, not set",
             not any(_apart(sums[name], gradient[name], 2) for name in sums),  # parts may round otherwise in the sum
             "a second backward did not double the gradient: write grad += ..., not grad = ...")
    dy_before = _copies(dict(_arrays(dy)))
    gradient = subject.gradient(values, dy)
    rule("backward changes nothing that it was given",
         _same(values, before) and _same(dict(_arrays(dy)), dy_before),
         f"backward wrote to {_changed(values, before) or 'dy'}")
    rule("backward twice gives the same bits", _same(subject.gradient(values, dy), gradient),
         "two calls on the same inputs differ")
    nothing = subject.gradient(values, like_output(y, np.zeros_like))
    nonzero = [name for name, g in nothing.items() if g is not None and np.any(g != 0)]
    rule("backward of zero is zero", not nonzero, f"dy = 0 gives a gradient in {', '.join(nonzero)}")
    for factor in (2, -1):
        multiple = subject.gradient(values, scaled(dy, factor))
        bent = [name for name in gradient if _apart(multiple[name], gradient[name], factor)]
        rule(f"backward of {factor} dy is {factor} times backward of dy", not bent,
             f"backward is not linear in dy: see {', '.join(bent)}")
    rule("dtype is kept", *_dtypes(subject, first, gradient))
    return findings


def _dtypes(subject, outputs, gradient) -> tuple[bool, str]:
    if not subject.values:
        return True, ""
    wanted = np.result_type(*subject.values.values()).newbyteorder("=")
    complaints = [f"the output is {y.dtype} where the inputs are {wanted}" for y in outputs
                  if y.dtype.kind == "f" and y.dtype != wanted and y.size > 1]
    complaints += [f"the gradient of {name} is {g.dtype}, {name} itself {subject.values[name].dtype}"
                   for name, g in gradient.items()
                   if g is not None and g.dtype not in (subject.values[name].dtype.newbyteorder("="), wanted)]
    return not complaints, "; ".join(complaints) + (
        " (a NumPy scalar such as np.sqrt(2) among the constants turns float32 into float64: use math.sqrt(2))"
        if complaints else "")


def _apart(multiple, gradient, factor) -> bool:
    if multiple is None or gradient is None or multiple.shape != gradient.shape:
        return multiple is not gradient
    allowed = EXACT * np.finfo(gradient.dtype).eps * abs(gradient).max(initial=0) + TINY
    return bool((abs(multiple - factor * gradient) > allowed).any())


def scaled(dy, factor: float):
    return like_output(dy, lambda leaf: leaf * factor)


def _arrays(tree, path="", depth=0):
    """Every array inside of tuples, lists, dicts and objects."""
    if isinstance(tree, np.ndarray):
        yield path, tree
    elif isinstance(tree, dict) and depth < 20:
        for key, item in tree.items():
            yield from _arrays(item, f"{path}.{key}", depth + 1)
    elif isinstance(tree, (list, tuple)) and depth < 20:
        for i, item in enumerate(tree):
            yield from _arrays(item, f"{path}.{i}", depth + 1)
    elif is_real(tree):
        yield path, np.asarray(tree)


def _copies(arrays: dict) -> dict:
    return {name: None if a is None else np.array(a) for name, a in arrays.items()}


def _equal(a, b) -> bool:
    if a is None or b is None:
        return a is b
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")


def _same(now: dict, before: dict) -> bool:
    return all(_equal(now.get(name), before[name]) for name in before)


def _changed(now: dict, before: dict) -> str:
    return ", ".join(name for name in before if not _equal(now.get(name), before[name]))
