"""AdamW's equations with numbers: two steps of a small matrix and a bias, beside the optimizer's own."""

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
MATRICES = "matrices and tables only"  # what the docstring says beside a line that is not for a bias


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


class Model(Layer):
    """A matrix and a bias, laid out as a model's parameters are."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray):
        self.values = np.concatenate([weight.reshape(-1), bias])
        self.grads = np.zeros_like(self.values)
        n = weight.size
        self.weight = Param(self.values[:n].reshape(weight.shape), self.grads[:n].reshape(weight.shape))
        self.bias = Param(self.values[n:], self.grads[n:])


def explain(sizes: Sizes, seed: int, dtype) -> Explanation:
    """B has no part in it: the matrix is (T, C), and the bias (C,)."""
    draw = Draw(seed, dtype)
    drawn = {"weight": draw.rows(sizes.T, sizes.C), "bias": draw.rows(sizes.C)}
    model = Model(**drawn)
    b1, b2, eps, weight_decay = SETTINGS.values()
    optimizer = AdamW(model, betas=(b1, b2), eps=eps, weight_decay=weight_decay)
    lines = {"weight": equations(), "bias": [line for line in equations() if MATRICES not in line.prose]}
    shapes = {"weight": "(T, C)", "bias": "(C,)"}
    n = drawn["weight"].size
    places = {"weight": slice(0, n), "bias": slice(n, None)}
    shrink = np.ones_like(model.values)
    shrink[places["weight"]] = 1 - LR * weight_decay
    names = {which: {**SETTINGS, "lr": LR, "sqrt": np.sqrt, "w": w, "m": np.zeros_like(w), "v": np.zeros_like(w)}
             for which, w in drawn.items()}
    given = [Shown(name, shapes["weight"] if np.ndim(names["weight"][name]) else "", names["weight"][name])
             for name in ("w", "lr", *SETTINGS, "m", "v")]
    chapters = [Chapter("Given", given)]
    apart = {}
    for t in range(1, STEPS + 1):
        for which, w in drawn.items():
            names[which] |= {"t": t, "g": draw.rows(*w.shape)}
            getattr(model, which).grad[...] = names[which]["g"]
        before = shrink * model.values
        optimizer.step(LR)
        if t == 1:
            off = float(np.abs(np.abs(model.values - before) - LR).max())
        for which, w in drawn.items():
            own = {"m": optimizer.m, "v": optimizer.v, "w": optimizer.values}
            own = {name: value[places[which]].reshape(w.shape).copy() for name, value in own.items()}
            chapters.append(_chapter(t, which, shapes[which], lines[which], names[which], own))
            for name, value in own.items():
                name_of = name if which == "weight" else f"{name} of a bias"
                apart[name_of] = max(apart.get(name_of, 0.0), float(np.abs(value - names[which][name]).max()))
    limit = 100 * float(np.finfo(dtype).eps) * max(1.0, *(float(np.abs(w).max()) for w in drawn.values()))
    faults = [f"the docstring's equations give another {name} than AdamW does: they are {far:.2g} apart"
              for name, far in apart.items() if not far <= limit]
    farthest = max(apart.values())
    verdicts = [f"The equations gave what the optimizer gave, m, v and w, after each of {STEPS} steps: "
                + (f"no further apart than {farthest:.0e}." if farthest else "to the bit."),
                "In the first step mhat is g and vhat is g * g: whatever the size of a gradient, the optimizer moved each "
                f"number by lr, to within {off:.0e}; the matrix it had shrunk before, the bias not."]
    example = (f"T = {sizes.T}, C = {sizes.C}; seed {seed}, {np.dtype(dtype)}; a matrix and a bias of a model, and "
               "gradients as backward might leave them")
    return Explanation("adamw", "AdamW", _docstring(), example, chapters, [], verdicts if not faults else [], faults)


def _chapter(t: int, which: str, shape: str, lines: list[Statement], names: dict, own: dict) -> Chapter:
    """A step of one parameter: the equations, then what the optimizer itself made of it."""
    opening = [Shown("t", "", t)] if which == "weight" else [Shown("w", shape, names["w"])]
    opening.append(Shown("g", shape, names["g"], "gradient"))
    steps = [Step(line.code, line.prose, (), [Shown(name, shape, value) for name, value in made.items()])
             for line, made in run(lines, names)]
    beside = [Shown(name, shape, value, "beside") for name, value in own.items()]
    steps.append(Step("optimizer.step(lr)", ("AdamW itself, in place",), (), beside))
    of = "" if which == "weight" else " of a bias, from m = v = 0" if t == 1 else " of the bias"
    return Chapter(f"Step {t}{of}", opening, steps)


def _docstring() -> str:
    return inspect.getdoc(AdamW) or ""


def _is_assignment(code: str) -> bool:
    try:
        return bool((body := ast.parse(code).body) and isinstance(body[0], ast.Assign))
    except SyntaxError:
        return False
