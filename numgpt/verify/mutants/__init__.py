"""The mistakes people make in a hand-written GPT, planted in ours: to try a check by, or to make somebody's wrong numbers.

catalogue.py lists those of a GPT itself, variants.py and attention.py the other ways to make each; preference.py,
policy.py and lora.py those of what a GPT is tuned with, tuned.py and ppo.py those of whole models that learn from preferences, packing.py
those of several examples in a row.

    with mutants.apply("ln-no-xhat"):
        assert not check(LayerNorm(5), x)
    with mutants.apply("ce-count", "adam-l2"):         # several at once
    with mutants.apply("softmax-axis", variant=1):     # another of its forms; variant 0 is the one without a number
    for form in mutants.forms("softmax-axis"):
        with mutants.apply(form):
"""

import functools
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType

from numgpt.verify.mutants import (  # noqa: F401  (they add to the catalogue)
    attention, classifier, instruct, lora, packing, policy, ppo, preference, tuned, variants)
from numgpt.verify.mutants.catalogue import CATALOGUE, Edit, Form, Mutant  # noqa: F401


def names(kind: str | None = None) -> list[str]:
    """Those of the "gradient", of the "step" or of "tuning"; without a kind the first two: all that a GPT's own training may show."""
    kinds = ("gradient", "step") if kind is None else (kind,)
    return [slug for slug, mutant in CATALOGUE.items() if mutant.kind in kinds]


def forms(slug: str) -> tuple[Form, ...]:
    """The ways to make a mistake; the first is the plainest."""
    return CATALOGUE[slug].forms


@contextmanager
def apply(*mistakes: str | Form, variant: int = 0) -> Iterator[None]:
    """The mistakes, for the time of a with block; each is made in the code that the others before it left."""
    chosen = [forms(mistake)[variant] if isinstance(mistake, str) else mistake for mistake in mistakes]
    planted = []
    try:
        for edit in (edit for form in chosen for edit in form.edits):
            _plant(edit)
            planted.append(edit)
        yield
    finally:
        for edit in reversed(planted):
            _pull(edit)


def named(path: str):
    """What a dotted path below numgpt names: a module, a class, or a function in either."""
    above, _, name = path.rpartition(".")
    item = inspect.getattr_static(_owner(above), name)
    return getattr(item, "__func__", item)  # a static method holds its function


@functools.cache
def _owner(path: str):
    try:
        return importlib.import_module(f"numgpt.{path}")
    except ModuleNotFoundError:
        return named(path)


# -- functions with mistakes in them: their own code, and the edits that stand in for it, in order

_edited: dict[FunctionType, tuple[CodeType, list[Edit]]] = {}


def _plant(edit: Edit) -> None:
    function = named(edit.where)
    own, edits = _edited.get(function, (function.__code__, []))
    _set(function, own, [*edits, edit])


def _pull(edit: Edit) -> None:
    function = named(edit.where)
    own, edits = _edited[function]
    _set(function, own, [other for other in edits if other is not edit])


def _set(function: FunctionType, own: CodeType, edits: list[Edit]) -> None:
    function.__code__ = _changed(function, own, tuple(edits)) if edits else own
    _edited[function] = own, edits
    if not edits:
        del _edited[function]


@functools.cache  # a diagnosis plants thousands
def _changed(function: FunctionType, own: CodeType, edits: tuple[Edit, ...]) -> CodeType:
    source = textwrap.dedent(inspect.getsource(own))
    for edit in edits:
        if source.count(edit.line) != 1:
            raise ValueError(f"{edit.line!r} occurs {source.count(edit.line)} times in numgpt.{edit.where}, not once: "
                             "the code has changed, so must the mistake; or two mistakes are of the same line")
        source = source.replace(edit.line, edit.becomes)
    scope: dict = {}
    try:
        code = compile(source, f"<{function.__qualname__} with a mistake>", "exec")
    except SyntaxError:
        raise ValueError(f"the mistakes in numgpt.{edits[-1].where} do not go together: the line is no longer Python") from None
    exec(code, function.__globals__, scope)
    made = scope[function.__name__]
    return getattr(made, "__func__", made).__code__
