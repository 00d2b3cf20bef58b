"""A layer's derivation with numbers: every line run on a tiny example, every gradient measured.

    print(explain("layernorm"))        # in a notebook, explain("layernorm") alone
    explain("block", seed=1, shape=(1, 3, 4), dtype=np.float32)
"""

import math
import re
from collections.abc import Iterable

import numpy as np

from numgpt.files import nearest
from numgpt.layers import Layer
from numgpt.teach.explain import adam
from numgpt.teach.derivation import Broken, Derivation
from numgpt.teach.explain.examples import EXAMPLES, USUAL, Example, Sizes, make
from numgpt.teach.explain.measured import Measured, differentiated, measure, tolerance
from numgpt.teach.explain.page import Explanation
from numgpt.teach.explain.worked import Worked, shapes_of

ALIASES = {"block": "pre-norm-block", "causal-attention": "attention", "ffn": "feed-forward", "mlp": "feed-forward"}


def names() -> dict[str, str]:
    """What can be explained, each with its docstring's first sentence; block is the block that a GPT-2 has."""
    found = {name: Derivation.of(kind).summary for name, (kind, _, _) in EXAMPLES.items()}
    return found | {"block": f"A pre-norm block: {found['pre-norm-block']}", "adamw": adam.summary()}


def explain(name: str, *, seed: int = 0, shape: tuple[int, int, int] | None = None, dtype=np.float64) -> Explanation:
    """The derivation of that name, with numbers.

    seed draws the numbers, shape is (B, T, C), dtype what the example is computed in. Derivatives are measured in float64.
    """
    name = find(name)
    sizes = Sizes.of(*(shape or (EXAMPLES[name][2] if name in EXAMPLES else USUAL)))
    if name == "adamw":
        return adam.explain(sizes, seed, dtype)
    example, kind = make(name, sizes, seed, dtype), EXAMPLES[name][0]
    derivation = Derivation.of(kind)
    worked = Worked(example, derivation, seed)
    faults = worked.compare()
    try:
        shapes = shapes_of(name, derivation.text)
    except Broken as error:
        shapes = {}
        faults.append(f"at sizes that are all different, {error}")
    gradients = worked.gradients()
    wrong = [f"d{n} has the shape {g.shape}; its array has {x.shape}" for n, x in differentiated(example).items()
             if (g := gradients[n]).shape != x.shape]
    measured = [] if wrong else measure(example, worked.dy, gradients, tolerance(gradients, dtype))
    faults += wrong + [_fault(m) for m in measured if m.wrong]
    verdicts = _verdicts(worked, measured, dtype) if not faults else []
    return Explanation(name, derivation.title, derivation.text, _said(shapes, sizes, seed, dtype, example),
                       worked.chapters(shapes), measured, verdicts, faults)


def find(name: str, also: Iterable[str] = ()) -> str:
    """The name as it is listed: LayerNorm, layer-norm and layernorm are one. also: more that may have been meant."""
    known = {_bare(one): one for one in (*EXAMPLES, "adamw")}
    known |= {_bare(kind.__name__): one for one, (kind, _, _) in EXAMPLES.items()}
    known |= {_bare(alias): one for alias, one in ALIASES.items()}
    if _bare(name) not in known:
        meant = {**known, **{_bare(one): one for one in also}}
        near = nearest(_bare(name), meant)
        hint = f"{meant[near]}?" if near else "numgpt explain lists all names"
        raise ValueError(f"there is no explanation of {name!r}: {hint}")
    return known[_bare(name)]


def _bare(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _said(shapes: dict, sizes: Sizes, seed: int, dtype, example: Example) -> str:
    """What the example is, in a line."""
    letters_used = {letter for shape in shapes.values() for letter in re.findall("[A-Za-z_]+", shape)}
    axes = {letter: getattr(sizes, letter) for letter in vars(sizes)}
    axes |= {letter: math.prod(axes[one] for one in of.split("*")) for letter, of in example.letters if letter != "n_out"}
    parts = [f"{letter} = {n}" for letter, n in axes.items() if letter in letters_used]
    return ", ".join(parts) + f"; seed {seed}, {np.dtype(dtype)}" + (f"; {example.note}" if example.note else "")


def _fault(m: Measured) -> str:
    one = m.farthest
    more = f"; {m.wrong} of its {m.size} entries are wrong" if m.wrong > 1 else ""
    return f"d{m.name}{list(one.index)} is {one.backward:.6g} by backward, and {one.exact:.6g} by complex step{more}"


def _verdicts(worked: Worked, measured: list[Measured], dtype) -> list[str]:
    drift = max(worked.drift.values())
    found = [f"The docstring's lines gave what the layer gave, {', '.join(worked.drift)}: "
             + ("to the bit." if drift == 0 else f"no further apart than {drift:.0e}.")]
    if measured:
        count, apart = sum(m.size for m in measured), max(m.farthest.apart for m in measured)
        off = max(abs(entry.difference - entry.exact) for m in measured for entry in m.shown)
        near = f"no further from a complex step than {apart:.0e}" if apart else "and each is its complex step to the bit"
        text = f"{count} gradient{'s' * (count != 1)} measured, {near}."
        if off:
            where = "here" if count == sum(len(m.shown) for m in measured) else "in those shown"
            text += f" A finite difference subtracts two nearly equal numbers, and is off by up to {off:.0e} {where}."
        if np.dtype(dtype) != np.float64:
            text += " Both are measured in float64."
        found.append(text)
    if parts := _parts(worked.layer):
        found.append(f"Its parts have pages of their own: {', '.join(parts)}.")
    return found


def _parts(layer) -> list[str]:
    """The names of what it is made of, but for dropout that drops nothing."""
    known = {kind: name for name, (kind, _, _) in EXAMPLES.items()}
    inside = [item for item in vars(layer).values() if isinstance(item, Layer) and getattr(item, "p", 1)]
    return list(dict.fromkeys(known[type(item)] for item in inside if type(item) in known))
