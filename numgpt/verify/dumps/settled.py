"""Which of the ways in which a tensor's shape can be read is the right one, for all tensors of a dump together.

A weight is held against the trace's weight; a gradient takes the layout of its own weight, and an activation's
gradient that of the activation. Where there is nothing of the kind, what the other tensors of the file show.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from numgpt.config import GPTConfig
from numgpt.files import short
from numgpt.verify.dumps import layouts, places

NEAR = 0.5   # a weight is another's if they differ by less than this share of it
FITS = 1e-2  # a gradient fits another, also in 16 bits
QKV = ".attention.qkv"


class Unfit(Exception):
    """A tensor that cannot be what its name says; the message is a sentence that names it."""


@dataclass(eq=False)
class Item:
    """A tensor on its way: our name, theirs, and the ways in which its shape can be read."""

    ours: str
    theirs: str
    array: np.ndarray
    kind: str
    axes: tuple[str, ...]
    sizes: dict = field(default_factory=dict)  # of its letters; V with the padding
    ways: list = field(default_factory=list)
    order: tuple | None = None

    @property
    def role(self) -> str:
        """grads of grads.norm.gain, steps.1.m of steps.1.m.norm.gain."""
        return self.ours[:-len(self.name) - 1] if self.name else self.ours

    @property
    def name(self) -> str:
        parts = self.ours.split(".", 3 if self.ours.startswith("steps.") else 1)
        return parts[-1] if len(parts) in (2, 4) else ""

    @property
    def own(self) -> tuple[str, ...]:
        return layouts.letters(self.axes)

    @property
    def turned(self) -> bool:
        return self.order != self.own

    @property
    def matrix(self) -> bool:
        return self.ours.endswith(".weight") and len(self.axes) == 2


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """How far a is from b, as a share of b; infinite where they cannot be compared."""
    if a.shape != b.shape or a.dtype.kind not in "f":
        return math.inf
    with np.errstate(all="ignore"):
        off = float(np.linalg.norm(np.asarray(a, np.float64).ravel() - b.ravel()))
        size = float(np.linalg.norm(np.asarray(b, np.float64).ravel()))
    return math.inf if not math.isfinite(off) or not size else off / size


def bring(items: list[Item], config: GPTConfig, reference: Mapping | None, dump) -> list[Item]:
    """The items that fit, their arrays in our layout; what was done, and what does not fit, is said in the dump."""
    reference = {} if reference is None else reference
    known = places.sizes(config) | _batch(items, config, reference)
    for item in items:
        try:
            _read_shape(item, known)
        except Unfit as error:
            dump.left_out[item.ours] = str(error)
    items = [item for item in items if item.ours not in dump.left_out]
    said: Counter = Counter()
    _settle_matrices([item for item in items if item.matrix], config, reference, said)
    _settle_rest([item for item in items if not item.matrix], reference, said)
    for item in items:
        shape = item.array.shape
        item.array = layouts.brought(item.array, item.order, item.axes, item.sizes)
        if item.turned or layouts.bare(shape) != layouts.bare(item.array.shape):
            said[_sentence(item, shape)] += 1
        item.array = _without_padding(item, item.array, config, said)
    _settle_columns(items, config, reference, said)
    dump.notes += list(said)
    return items


# -- sizes and shapes


def _batch(items: list[Item], config: GPTConfig, reference: Mapping) -> dict[str, int]:
    """B and T, from the trace or from what shows both."""
    if "inputs.ids" in reference and reference["inputs.ids"].ndim == 2:
        return dict(zip("BT", reference["inputs.ids"].shape))
    for item in items:
        if item.axes == ("B", "T") and item.array.ndim == 2:
            return dict(zip("BT", item.array.shape))
    sizes = places.sizes(config)
    for item in items:
        shape = item.array.shape
        if item.axes[:2] == ("B", "T") and len(item.axes) == len(shape) == 3:
            last = layouts.shape_of(item.axes[2:], sizes)[0]
            if shape[2] == last or "V" in item.axes and shape[2] > last:
                return dict(zip("BT", shape))
        elif item.axes == ("B", "H", "T", "D") and len(shape) == 4 and (shape[1], shape[3]) == (sizes["H"], sizes["D"]):
            return {"B": shape[0], "T": shape[2]}
    return {}


def _read_shape(item: Item, known: dict[str, int]) -> None:
    shape, needed = item.array.shape, set(item.own)
    sizes = dict(known)
    if item.ours.startswith("decode.") and shape:
        sizes.setdefault("B", shape[0])
        rest = math.prod(sizes[letter] for letter in "BHD")
        sizes["S"] = max(1, item.array.size // max(1, rest))
    sizes["K"] = sizes.get("T")
    if lacking := sorted(letter for letter in needed if sizes.get(letter) is None):
        raise Unfit(f"{item.theirs!r} is read as {item.ours}, ({', '.join(item.axes)}), and nothing tells "
                    f"{' and '.join({'K': 'T'}.get(letter, letter) for letter in lacking)}: dump inputs.ids as (B, T) too, or name a trace")
    item.sizes, item.ways = sizes, layouts.ways(shape, item.axes, sizes)
    if not item.ways and "V" in needed:
        for n in shape:
            if n > known["V"] and (found := layouts.ways(shape, item.axes, {**sizes, "V": n})):
                item.sizes, item.ways = {**sizes, "V": n}, found
                break
    if not item.ways:
        raise Unfit(f"{item.theirs!r} is read as {item.ours} and has the shape {short(shape)}, where "
                    f"({', '.join(item.axes)}) is {layouts.shape_of(item.axes, sizes)}: dump it so, or say with a map what it is")
    item.order = item.ways[0]


def _without_padding(item: Item, array: np.ndarray, config: GPTConfig, said: Counter) -> np.ndarray:
    V = config.n_vocab
    padded = item.sizes["V"]
    if padded == V or "V" not in item.axes:
        return array
    axis = item.axes.index("V")
    kept, cut = np.split(array, [V], axis)
    sentence = f"{_form(item)} has a vocabulary of {padded}, of which the first {V} are read"
    if item.ours.startswith(("grads.", "backward.")) and cut.any():
        sentence += "; in what is cut the gradient is not zero, as if padding could come as a token"
    said[sentence] += 1
    return kept


# -- matrices


def _settle_matrices(items: list[Item], config: GPTConfig, reference: Mapping, said: Counter) -> None:
    told = [item for item in items if len(item.ways) == 1 and len(layouts.bare(item.array.shape)) > 1]  # an axis of 1 tells nothing
    own = [item for item in items if item.role == "weights"]
    for item in own:
        if len(item.ways) > 1 and (found := _by_reference(item, _weight_of(item, reference))):
            item.order = found
            told.append(item)
    for item in own:
        if len(item.ways) > 1 and item not in told:
            _by_convention(item, told, said)
    weights = {item.name: item.turned for item in own}
    for item in items:
        if item.role == "weights" or len(item.ways) == 1:
            continue
        if item.name not in weights:
            _by_convention(item, [one for one in told if one.role == item.role and one.name != "head.weight"] or told, said)
            continue
        against = [one.turned != weights[one.name] for one in told if one.role == item.role and one.name in weights]
        flipped = bool(against) and all(against)
        item.order = item.ways[weights[item.name] != flipped]


def _weight_of(item: Item, reference: Mapping) -> np.ndarray | None:
    """The trace's weight for an item, or the columns of it that the item is."""
    if item.ours in reference:
        return reference[item.ours]
    for i, piece in enumerate(places.PIECES):
        whole = item.ours.replace(f".attention.{piece}.", f"{QKV}.")
        if whole != item.ours and whole in reference and reference[whole].shape[-1] % 3 == 0:
            return np.split(reference[whole], 3, -1)[i]
    return None


def _by_reference(item: Item, wanted: np.ndarray | None) -> tuple[str, ...] | None:
    """The way that comes near what the trace has, if one does and the others do not do so as well."""
    if wanted is None or wanted.ndim != len(item.axes):
        return None
    kept = tuple(map(slice, wanted.shape))  # without padding
    off = [distance(layouts.brought(item.array, way, item.axes, item.sizes)[kept], wanted) for way in item.ways]
    best = min(range(len(off)), key=off.__getitem__)
    return item.ways[best] if off[best] < NEAR and off.count(off[best]) == 1 else None


def _by_convention(item: Item, told: list[Item], said: Counter) -> None:
    """As the other matrices of the file are; a head of Hugging Face's is (out, in) among others that are not."""
    if item.name == "head.weight" and "lm_head" in item.theirs:
        item.order = item.ways[1]
        return
    votes = [one.turned for one in told if one.name != "head.weight"] or [one.turned for one in told]
    item.order = item.ways[2 * sum(votes) > len(votes)]
    if 2 * sum(votes) == len(votes):
        said[f"{_form(item)} is square and nothing in the file tells which of its axes is first: it is read as (in, out)"] += 1


# -- everything else


def _settle_rest(items: list[Item], reference: Mapping, said: Counter) -> None:
    shown = {}  # axes: the order in which the file has them, where a shape told
    for item in items:
        if len(item.ways) == 1 and len(item.axes) > 1:
            shown.setdefault(item.axes, item.order)
    forward = {}
    for item in items:
        if item.ours.startswith("forward.") and len(item.ways) > 1:
            wanted = reference[item.ours] if item.ours in reference else None
            if found := _by_reference(item, wanted):
                item.order = found
                shown.setdefault(item.axes, found)
    for item in items:
        if item.ours.startswith("forward."):
            if len(item.ways) > 1 and item.order == item.ways[0] and shown.get(item.axes) in item.ways:
                item.order = shown[item.axes]
            forward[item.name] = item.order
    for item in items:
        if len(item.ways) > 1 and item.ours.startswith(("backward.", "masks.", "inputs.", "decode.")):
            order = forward.get(item.name, shown.get(item.axes))
            if order in item.ways:
                item.order = order
            elif len(item.axes) > 2:
                said[f"{_form(item)} of shape {item.array.shape} may be read in {len(item.ways)} ways, and nothing in the file tells "
                     f"which: it is read as ({', '.join(item.axes)})"] += 1


# -- the columns of qkv


def _settle_columns(items: list[Item], config: GPTConfig, reference: Mapping, said: Counter) -> None:
    """q, k and v head by head, (H, 3, D), where all layers' weights say so."""
    concerned = [item for item in items if QKV in item.ours and item.axes[-1] == "3 H D"]
    if config.n_head == 1 or not concerned:
        return
    matrices = [item for item in concerned if item.matrix and item.role == "weights"]
    dumped, near = bool(matrices), NEAR
    if not dumped:
        matrices, near = [item for item in concerned if item.matrix and item.role == "grads"], FITS
    pairs = [(item, reference[item.ours]) for item in matrices if item.ours in reference]
    if not pairs:
        return
    ours = [distance(item.array, wanted) for item, wanted in pairs]
    other = [distance(_columns(item.array, config), wanted) for item, wanted in pairs]
    if dumped:
        interleaved = all(b < near and b < a for a, b in zip(ours, other))
    else:
        interleaved = any(a >= near for a in ours) and all(b < near for b in other)
    if interleaved:
        for item in concerned:
            item.array = _columns(item.array, config)
        said["qkv's columns come head by head, (H, 3, D), " + (
            "as its weights show" if dumped else "which fits the gradients of all layers, where ours does not; no weights are there to tell")] += 1


def _columns(array: np.ndarray, config: GPTConfig) -> np.ndarray:
    """(..., H 3 D) as (..., 3 H D)."""
    whole = array.reshape(*array.shape[:-1], config.n_head, 3, config.head_dim)
    return whole.swapaxes(-3, -2).reshape(array.shape)


# -- words


def _form(item: Item) -> str:
    return places.BLOCK.sub("*", item.ours)


def _sentence(item: Item, shape: tuple[int, ...]) -> str:
    if item.matrix:
        return f"{_form(item)} is read as ({'out, in' if item.turned else 'in, out'})"
    if item.turned:
        return f"{_form(item)} is read as ({', '.join(item.order)})"
    return f"{_form(item)} is read as {tuple(item.array.shape)} from {tuple(shape)}"
