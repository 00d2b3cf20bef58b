"""AdamW's equations with numbers: two steps of one small matrix, beside the optimizer's own."""

import ast
import inspect
import re

import numpy as np

from numgpt.layers import Layer, Param
from numgpt.teach.derivation import Broken, Statement, run
from numgpt.teach.explain.examples import Draw, Sizes
from numgpt.teach.explain.page import Chapter, Explanation, Shown, Step
from numgpt.training.optim import AdamW

SETTINGS = {"b1": 0.9, "b2": 0.99, "eps": 1e-8, "weight_decay": 0.1}
LR = 0.1
STEPS = 2


def summary() -> str:
    return _docstring().split("\n\n")[0]


def equations() -> list[Statement]:
    """The lines of AdamW's docstring; what stands to the right of one is its prose."""
    found = []
    for line in _docstring().splitlines()[1:]:
        code, *prose = re.split(r" {2,}", line.strip())
        if _is_assignment(code):
            found.append(Statement(code, tuple(word.rstrip(",:") for word in prose)))
    if not found:
        raise Broken("the docstring of AdamW has no equations: an explanation is made of them")
    return found


class Weight(Layer):
    """One matrix, laid out as a model's parameters are."""

    def __init__(self, value: np.ndarray):
        self.values, self.grads = value.reshape(-1).copy(), np.zeros(value.size, value.dtype)
        self.weight = Param(self.values.reshape(value.shape), self.grads.reshape(value.shape))


def explain(sizes: Sizes, seed: int, dtype) -> Explanation:
    """B has no part in it: the matrix is (T, C)."""
    draw = Draw(seed, dtype)
    w, shape = draw.rows(sizes.T, sizes.C), "(T, C)"
    model = Weight(w)
    b1, b2, eps, weight_decay = SETTINGS.values()
    optimizer = AdamW(model, betas=(b1, b2), eps=eps, weight_decay=weight_decay)
    names = {**SETTINGS, "lr": LR, "sqrt": np.sqrt, "w": w, "m": np.zeros_like(w), "v": np.zeros_like(w)}
    chapters = [Chapter("Given", [Shown(name, shape if np.ndim(names[name]) else "", names[name])
                                  for name in ("w", "lr", *SETTINGS, "m", "v")])]
    apart = {}
    for t in range(1, STEPS + 1):
        names |= {"t": t, "g": draw.rows(sizes.T, sizes.C)}
        steps = [Step(line.code, line.prose, (), [Shown(name, shape, value) for name, value in made.items()])
                 for line, made in run(equations(), names)]
        model.weight.grad[...] = names["g"]
        optimizer.step(LR)
        own = {"m": optimizer.m, "v": optimizer.v, "w": optimizer.values}
        own = {name: value.reshape(w.shape).copy() for name, value in own.items()}
        for name, value in own.items():
            apart[name] = max(apart.get(name, 0.0), float(np.abs(value - names[name]).max()))
        beside = [Shown(name, shape, value, "beside") for name, value in own.items()]
        steps.append(Step("optimizer.step(lr)", ("AdamW itself, in place",), (), beside))
        chapters.append(Chapter(f"Step {t}", [Shown("t", "", t), Shown("g", shape, names["g"], "gradient")], steps))
    limit = 100 * float(np.finfo(dtype).eps) * max(1.0, float(np.abs(w).max()))
    faults = [f"the docstring's equations give another {name} than AdamW does: they are {far:.2g} apart"
              for name, far in apart.items() if not far <= limit]
    farthest = max(apart.values())
    verdicts = [f"The equations gave what the optimizer gave, m, v and w, after each of {STEPS} steps: "
                + (f"no further apart than {farthest:.0e}." if farthest else "to the bit."),
                "In the first step mhat is g and vhat is g * g: whatever the size of a gradient, w moves by lr, and "
                "shrinks. A gain or a bias would move the same way, but does not shrink."]
    example = (f"T = {sizes.T}, C = {sizes.C}; seed {seed}, {np.dtype(dtype)}; a matrix of a model, and gradients as "
               "backward might leave them")
    return Explanation("adamw", "AdamW", _docstring(), example, chapters, [], verdicts if not faults else [], faults)


def _docstring() -> str:
    return inspect.getdoc(AdamW) or ""


def _is_assignment(code: str) -> bool:
    try:
        return bool((body := ast.parse(code).body) and isinstance(body[0], ast.Assign))
    except SyntaxError:
        return False
