"""What a port has dumped, brought to the names and layouts of a trace.

    dump = dumps.read("port.npz", config, reference=trace)
    dump.arrays["grads.blocks.0.attention.qkv.weight"]     # (in, out), whatever the port has
    dump.notes                                             # what was read as what

A safetensors file, .npz, a folder of .npy, a .pt of PyTorch, llm.c's debug state; a model's own files give its weights.
Layouts are told from shapes, and where those leave one open, from the dumped weights: never from which one makes a
gradient come out right, which would absolve a wrong one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from numgpt.config import GPTConfig
from numgpt.files import FormatError, short
from numgpt.formats.huggingface import BUFFERS
from numgpt.verify.dumps import forms, places, settled
from numgpt.verify.dumps.settled import Item, Unfit, distance

FLOATS = ("float64", "float32", "bfloat16", "float16")
NEAREST = 50  # so many of the unknown names are looked up


@dataclass
class Dump:
    """Tensors by our names, in our layouts, and how they came to be so."""

    path: str
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)              # as stored: "float32", "bfloat16", ...
    notes: list[str] = field(default_factory=list)                   # what was read as what
    unknown: dict[str, str | None] = field(default_factory=dict)     # their names of nothing that the trace has, and the nearest of ours
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)  # our name: theirs
    left_out: dict[str, str] = field(default_factory=dict)           # our name: why that tensor cannot be it


def read(path, config: GPTConfig, *, reference: Mapping[str, np.ndarray] | None = None, names: Mapping[str, str] | None = None,
         bare: str | None = None) -> Dump:
    """The dump at a path.

    reference: a trace, which settles what shapes leave open. names: from their names to ours, where * in a key stands
    for a layer's number, or whatever is between two dots, and goes where * stands in the value; None leaves a tensor
    out. bare: what a parameter's name with nothing before or after it holds, "weights" or "grads"; None: told from
    the reference or from the names beside it.
    """
    if bare not in (None, "weights", "grads"):
        raise ValueError(f"bare must be 'weights', 'grads' or None; got {bare!r}")
    dump = Dump(str(path))
    theirs, kinds = forms.tensors(path, config)
    ours = _named(theirs, config, reference, dict(names or {}), bare, dump)
    items = []
    for name, source in ours.items():
        try:
            array = _numbers(theirs[source], name, source, config)
        except Unfit as error:
            dump.left_out[name] = str(error)
        else:
            items.append(Item(name, source, array, kinds[source], places.axes_read(name, config)))
    _collect(settled.bring(items, config, reference, dump), config, dump)
    _say_left_out(dump)
    if reference is not None:
        dump.unknown |= {source: None for name in dump.arrays if name not in reference for source in dump.sources[name]}
    return dump


def _say_left_out(dump: Dump) -> None:
    """In notes, one for all layers; an error where nothing is left to compare, or not what all else is computed from."""
    forms: dict[str, list[str]] = {}
    for name, why in dump.left_out.items():
        if name.startswith("inputs."):
            raise FormatError(f"{dump.path}: {why}")
        forms.setdefault(places.BLOCK.sub("*", name), []).append(why)
    if forms and all(name.startswith("inputs.") for name in dump.arrays):
        more = len(dump.left_out) - 1
        raise FormatError(f"{dump.path}: {next(iter(dump.left_out.values()))}" + (f"; {more} more do not fit either" if more else ""))
    for form, whys in forms.items():
        dump.notes.append(f"{whys[0]}; it is left out" + (f", with {len(whys) - 1} more of {form}" if whys[1:] else ""))


def _named(theirs: Mapping, config: GPTConfig, reference, names: dict, bare: str | None, dump: Dump) -> dict[str, str]:
    """Our name to theirs, for all that means something to us."""
    mapping = _Map(names, config)
    found, bares = {}, {}  # theirs: ours
    for name, array in theirs.items():
        if name in mapping:
            target = mapping[name]
            if target is not None and places.known(target, config):
                found[name] = target
            elif target is not None:
                dump.unknown[name] = None
        elif BUFFERS.fullmatch(name.removeprefix("module.")):
            continue
        else:
            kind, ours = places.meant(name, array.ndim, config)
            if kind == "bare":
                bares[name] = ours
            elif kind is not None:
                found[name] = f"{kind}.{ours}"
            else:
                dump.unknown[name] = places.nearest(ours, config) if len(dump.unknown) < NEAREST else None
    dump.notes += mapping.absent.values()
    for key in mapping.unused():
        dump.notes.append(f"the map's {key!r} is the name of nothing in {dump.path}")
    if bares:
        kind, why = _bare_kind(bares, found, theirs, reference, bare)
        found |= {name: f"{kind}.{ours}" for name, ours in bares.items()}
        if why:
            dump.notes.append(why)
    return _once(found, theirs, config, dump)


def _once(found: dict[str, str], theirs: Mapping, config: GPTConfig, dump: Dump) -> dict[str, str]:
    """Turned around; two names for one tensor are refused, but for a tied head that holds what the table holds."""
    ours: dict[str, str] = {}
    for name, target in found.items():
        if target not in ours:
            ours[target] = name
            continue
        other = ours[target]
        tied = config.tied and target.endswith("embedding.table") and "head" in (name + other)
        if tied and _same(theirs[name], theirs[other]):
            dump.notes.append(f"{other} and {name} hold the same, as a tied head does: {target}")
            continue
        raise FormatError(f"{dump.path}: {other!r} and {name!r} both mean {target}" + (
            ": the head is tied to the table, whose gradient is the sum of the two parts: dump the sum" if tied
            else ": leave one out, or say with a map what each is"))
    for target, name in ours.items():
        piece = places.piece_of(target, config)
        if piece and piece[0] in ours:
            raise FormatError(f"{dump.path}: {name!r} is a piece of {piece[0]}, which {ours[piece[0]]!r} already is: leave one out")
    return ours


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return any(a.shape == one.shape and np.array_equal(a, one, equal_nan=True) for one in (b, b.T))


def _bare_kind(bares: dict[str, str], found: dict[str, str], theirs: Mapping, reference, wanted: str | None) -> tuple[str, str]:
    """Whether names of parameters alone are weights or gradients, and how that is known."""
    if wanted:
        return wanted, ""
    taken = set(found.values())
    for kind, other in (("grads", "weights"), ("weights", "grads")):
        if any(f"{kind}.{ours}" in taken for ours in bares.values()):
            return other, f"names of parameters alone are {other}: {kind} are beside them"
    if reference is None:
        return "weights", "names of parameters alone are read as weights, for want of a trace to tell"
    held = [min(distance(a, reference[f"weights.{ours}"]) for a in (theirs[name], theirs[name].T)) < 0.5
            for name, ours in bares.items() if f"weights.{ours}" in reference and reference[f"weights.{ours}"].any()]
    kind = "weights" if 2 * sum(held) > len(held) else "grads"
    return kind, f"names of parameters alone are {kind}: {sum(held)} of {len(held)} come near the weights of the trace"


class _Map:
    """Somebody's own names: exact ones, and forms with *."""

    def __init__(self, names: dict, config: GPTConfig):
        for key, target in names.items():
            if not isinstance(key, str) or not isinstance(target, (str, type(None))):
                raise FormatError(f"a map goes from names to names; it has {short(key)}: {short(target)}")
            if target is not None and target.count("*") > key.count("*"):
                raise FormatError(f"the map's {key!r} has {key.count('*')} stars to fill the {target.count('*')} of {target!r} with")
        self.config = config
        self.forms = {key: re.compile("([^./]+)".join(map(re.escape, key.split("*")))) for key in names if "*" in key}
        self.names, self.used = names, set()
        self.absent: dict[str, str] = {}  # key: that this model has nothing of the kind, for one map may serve several
        for key, target in names.items():
            if target is not None:
                self._checked(key, target)

    def _matches(self, name: str) -> tuple[str, ...]:
        if name in self.names:
            return (name,)
        return tuple(key for key, form in self.forms.items() if form.fullmatch(name))

    def __contains__(self, name: str) -> bool:
        return bool(self._matches(name))

    def __getitem__(self, name: str) -> str | None:
        keys = self._matches(name)
        self.used |= set(keys)
        targets = {key: self._filled(key, name) for key in keys}
        if len(set(targets.values())) > 1:
            raise FormatError(f"the map gives {name!r} two meanings, by {' and by '.join(map(repr, keys))}")
        return targets[keys[0]]

    def _filled(self, key: str, name: str) -> str | None:
        target = self.names[key]
        if target is None or "*" not in key:
            return target
        for part in self.forms[key].fullmatch(name).groups():
            target = target.replace("*", part, 1)
        return self._checked(key, target)

    def _checked(self, key: str, target: str) -> str:
        if places.elsewhere(target, self.config):
            self.absent.setdefault(key, f"the map's {key!r} goes to {target!r}, and this model has none")
        elif not places.known(target, self.config):
            near = places.nearest(target.replace("*", "0"), self.config)
            if near and "*" in target:
                near = near.replace("blocks.0.", "blocks.*.")
            raise FormatError(f"the map's {key!r} goes to {target!r}, which is no name of a trace" + (f": {near}?" if near else ""))
        return target

    def unused(self) -> list[str]:
        return [key for key in self.names if key not in self.used and key not in self.absent]


def _numbers(array: np.ndarray, ours: str, theirs: str, config: GPTConfig) -> np.ndarray:
    """Of the type that the name calls for, in this machine's order of bytes."""
    where, kind = f"{theirs!r} is read as {ours} and", ours.split(".", 1)[0]
    if kind == "inputs":
        if array.dtype.kind not in "iu":
            raise Unfit(f"{where} holds {array.dtype}; ids are whole numbers")
        ignored = array == -100 if ours == "inputs.targets" else np.False_
        outside = array[~ignored & ((array < 0) | (array >= config.n_vocab))]
        if outside.size:
            raise Unfit(f"{where} holds {outside[0]}, where ids are 0 to {config.n_vocab - 1}"
                        + (", or -100 for a target that is ignored" if ours == "inputs.targets" else "") + ": dump the ids that the model was given")
    elif kind == "masks":
        if array.dtype.kind != "b" and (array.dtype.kind not in "iuf" or len(set(np.unique(array[array != 0])[:2])) > 1):
            raise Unfit(f"{where} must say for each number whether it was kept, as True or False, 1 or 0")
        return array != 0
    elif array.dtype.name not in FLOATS:
        raise Unfit(f"{where} holds {array.dtype}; it is read from {', '.join(FLOATS)}: dump it in one of these")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _collect(items: list[Item], config: GPTConfig, dump: Dump) -> None:
    """Into the dump, with q, k and v side by side."""
    pieces: dict[str, dict[str, Item]] = {}
    for item in items:
        piece = places.piece_of(item.ours, config)
        if piece:
            pieces.setdefault(piece[0], {})[piece[1]] = item
        else:
            dump.arrays[item.ours], dump.kinds[item.ours], dump.sources[item.ours] = item.array, item.kind, (item.theirs,)
    for ours, found in pieces.items():
        lacking = [piece for piece in places.PIECES if piece not in found]
        if lacking:
            dump.notes.append(f"{', '.join(item.theirs for item in found.values())} alone cannot be {ours}: {', '.join(lacking)} "
                              + ("is" if len(lacking) == 1 else "are") + " missing")
            continue
        three = [found[piece] for piece in places.PIECES]
        dump.arrays[ours] = np.concatenate([item.array for item in three], -1)
        dump.kinds[ours] = max((item.kind for item in three), key=FLOATS.index)
        dump.sources[ours] = tuple(item.theirs for item in three)
    if any(len(found) == len(places.PIECES) for found in pieces.values()):
        dump.notes.append("attention's q, k and v are joined to qkv")
