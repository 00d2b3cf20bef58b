"""Names of a trace's tensors, and how somebody else's names become ours.

    names = {"h.*.attn.c_attn": "blocks.*.attention.qkv", "wte.weight": "embedding.table"}
    renamed("h.3.attn.c_attn", names)           # "blocks.3.attention.qkv"
    targets_of(["wte.weight", "h.0.attn.c_attn", "h.0.ln"], names)
    # {"wte.weight": "embedding.table", "h.0.attn.c_attn": "blocks.0.attention.qkv"}
"""

import re
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches

# Of the forward pass, and of the parameters; * is the layer's number.
TENSORS = ("embedding", "positions", "dropout",
           *(f"blocks.*.{part}" for part in (
               "norm1", "attention.qkv", "attention.q", "attention.k", "attention.v", "attention.scores",
               "attention.probabilities", "attention.kept", "attention.mixed", "attention.out", "attention.dropped",
               "sum1", "norm2", "ffn.up", "ffn.activation", "ffn.down", "ffn.dropped", "sum2")),
           "norm", "logits", "probabilities", "loss")
PARAMETERS = ("embedding.table", "positions.table",
              *(f"blocks.*.{norm}.{part}" for norm in ("norm1", "norm2") for part in ("gain", "bias")),
              *(f"blocks.*.{linear}.{part}" for linear in ("attention.qkv", "attention.out", "ffn.up", "ffn.down")
                for part in ("weight", "bias")),
              "norm.gain", "norm.bias", "head.weight", "head.bias")


def renamed(name: str, names: Mapping[str, str]) -> str | None:
    """Our name for one of theirs, or None if the map has none for it.

    A `*` in a key stands for a number, the layer's, which goes where `*` stands in the value. A key that is the whole
    name comes before those with `*`, and of those the first one that fits.
    """
    for theirs, ours in ((name, names.get(name)), *names.items()):
        found = ours is not None and re.fullmatch(re.escape(theirs).replace(r"\*", r"(\d+)"), name)
        if found:
            if ours.count("*") != theirs.count("*"):
                raise ValueError(f"{theirs!r} becomes {ours!r}: each * of one must have its * in the other")
            numbers = iter(found.groups())
            return re.sub(r"\*", lambda _: next(numbers), ours)
    return None


def targets_of(theirs: Iterable[str], names: Mapping[str, str], what: str = "a name") -> dict[str, str]:
    """Of all their names those that the map has a name of ours for, with it; what: what theirs are, for the error.

    A key that fits none of them is a mistake, and ValueError says which are near it.
    """
    theirs = list(theirs)
    for key in names:
        if not any(renamed(name, {key: names[key]}) for name in theirs):
            raise ValueError(f"{key!r} is not {what}" + near(key, theirs))
    found = {name: renamed(name, names) for name in theirs}
    return {name: ours for name, ours in found.items() if ours is not None}


def is_ours(name: str, forms: Collection[str]) -> bool:
    """Whether a name is of one of these forms: TENSORS, PARAMETERS."""
    return "*" not in name and re.sub(r"^blocks\.\d+\.", "blocks.*.", name) in forms


def listed(names: Iterable[str]) -> str:
    """Names for a sentence, the first few of many."""
    names = list(names)
    return ", ".join(map(repr, names[:8])) + ", ..." * (len(names) > 8)


def near(name: str, known: Iterable[str]) -> str:
    """For the end of a sentence: what name may have been meant to be."""
    close = get_close_matches(name, list(known), n=3)
    return f"; near it: {', '.join(map(repr, close))}" if close else ""
