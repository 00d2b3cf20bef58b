"""LoRA on a whole model: adapters put on, saved alone, loaded and merged.

    add(model, 8, layers="attention")       # the base is frozen; model.values[:model.grads.size] are the adapters
    ... train ...
    save(model, "adapters.safetensors")     # some kilobytes
    load(base, "adapters.safetensors")      # refuses a base that is not the one they were trained on
    merge(base)                             # a GPT like any other; of fine-tuning, files.with_adapters gives back the task too
    merged(model).save("whole.safetensors")
"""

import copy
import hashlib
import json
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase

import numpy as np

from numgpt import plan, safetensors
from numgpt.adapted import OWN, adapters, described, linears, put, put_on, restore, trained, trained_in
from numgpt.bfloat16 import file_type, rounded
from numgpt.files import FormatError, short
from numgpt.flat import Flat
from numgpt.layers.inputs import positive
from numgpt.model import GPT, TASK
from numgpt.stored import stored_in
from numgpt.tuning.growth import TOKENS, apart, grown

FORMAT = "numgpt-lora"
LAYERS = ("attention.qkv",)
NEW = "new."  # what the names of tensors begin with that have the rows of tokens that the base does not have
__all__ = ["add", "adapters", "fingerprint", "load", "merge", "merged", "plain", "save", "trained"]


def add(model: Flat, rank: int, *, alpha: float | None = None, layers: str | Iterable[str] = LAYERS,
        also: str | Iterable[str] = (), seed=0) -> list[str]:
    """LoRA on the Linears that layers names, in place; everything else is frozen. Their names.

    layers    "attention.qkv", "attention", "ffn", "blocks.1", or with stars, "blocks.*.ffn.up": what Linears' names have in
              them; "all": every Linear of the blocks
    also      parameters that are trained as they are, such as a new head: "head", "norm.gain"
    alpha     the update is scaled by alpha / rank; None: by 1
    """
    if adapters(model):
        raise ValueError("the model has adapters already: merge(model) makes them part of its weights, and others may follow")
    rank = positive(rank, "rank")
    own = {name: layer for name, layer in linears(model).items() if not name.startswith(TASK)}  # a task's is new, and trained whole
    names = _matching(layers, list(own), "Linear")
    shapes = {name: own[name].weight.shape for name in names}
    small = next((name for name in names if rank > min(shapes[name])), None)
    if small:
        raise ValueError(f"rank {rank} is more than {small} has, whose shape is {shapes[small]}: choose one up to "
                         f"{min(shapes[small])}")
    others = _matching(also, [name for name, _ in model.named_params() if name.rpartition(".")[0] not in names], "parameter")
    put_on(model, {name: (rank, alpha) for name in names}, others, np.random.default_rng(seed))
    return names


def merge(model: Flat, *, frozen: bool = False) -> None:
    """Each LoRA gives way to its Linear, whose weight becomes weight + scale * lora_a @ lora_b.

    frozen: what was frozen stays so; else everything is trained again.
    """
    found = adapters(model)
    if not found:
        raise ValueError("the model has no adapters to merge")
    for name, layer in found.items():
        put(model, name, layer.merge())
    if not frozen:
        model.thaw()
    model.lay_out()


def merged(model: Flat) -> Flat:
    """A copy with the adapters in its weights."""
    twin = copy.deepcopy(model)
    merge(twin)
    return twin


def plain(model: Flat) -> Flat:
    """A copy like the one that its file would be read as: adapters in its weights, nothing frozen, all in the usual order."""
    twin = model.astype(model.values.dtype)
    if adapters(twin):
        merge(twin)
    twin.thaw()
    twin.lay_out()
    return twin


def save(model: Flat, path, *, dtype=None, n_vocab: int | None = None, base: str | None = None) -> None:
    """Write what is trained, and by what one knows its base: a safetensors file.

    dtype     "float32", "float16", "bfloat16", ...; None: the model's
    n_vocab   how many tokens the base had, if the model was given more: the file has theirs
    base      its fingerprint, if it is known; None: computed, which reads all of the model
    """
    if not adapters(model):
        raise ValueError("the model has no adapters to save")
    kind = file_type(model.values.dtype, dtype, ("float64", "float32", "float16", "bfloat16", "complex64"))
    tensors = {name: rounded(param.value, kind) for name, param in model.named_params() if not param.frozen}
    base = base or fingerprint(model, tensors, n_vocab)
    metadata, config = model.metadata(), model.config
    about = {"format": FORMAT, **described(model), "config": config.to_json(), "fingerprint": base}
    about |= {name: metadata[name] for name in ("tuned",) if name in metadata}
    if n_vocab is not None and n_vocab < config.n_vocab:
        about |= {"config": config.change(n_vocab=n_vocab).to_json(), "n_vocab": json.dumps(config.n_vocab)}
        tensors |= {NEW + name: rounded(np.ascontiguousarray(apart(name, param.value, n_vocab)[1]), kind)
                    for name, param in model.named_params() if name in TOKENS and name not in tensors}
    safetensors.write(path, tensors, about)


def load(model: Flat, path) -> list[str]:
    """The adapters of a file put on the base that they were trained on, in place; the names of their layers.

    A base is given the tokens that came with its tuning. What the file has for a task, a GPT has no place for: see
    files.with_adapters.
    """
    if adapters(model):
        raise ValueError("the model has adapters already: merge(model) makes them part of its weights, and others may follow")
    with safetensors.File(path) as file:
        about = file.metadata
        if about.get("format") != FORMAT or not {"adapters", "config", "fingerprint"} <= set(about):
            raise FormatError(f"{path} has no adapters of numgpt: its metadata call it {short(about.get('format'))}, and "
                              f"{FORMAT!r} is wanted")
        _of_this_base(model, about, path)
        whole, tensors = _grown(model, about, stored_in(file), path), stored_in(file)
        restore(whole, about, tensors, path, beyond=() if any(name.startswith(TASK) for name, _ in model.named_params()) else (TASK,))
    if whole is not model:
        model.config, model.body, model.head = whole.config, whole.body, whole.head
        model.lay_out()
    return list(adapters(model))


def fingerprint(model: Flat, trained: Collection[str] = (), n_vocab: int | None = None) -> str:
    """Of the parameters that are not trained, as float32: the same whatever type a base is loaded in.

    n_vocab: of so many tokens; None: of all
    """
    digest = hashlib.sha256()
    for name, param in sorted(model.named_params()):
        if name not in trained and not name.endswith(OWN):
            value = param.value if n_vocab is None else apart(name, param.value, n_vocab)[0]
            dtype = "<c8" if value.dtype.kind == "c" else "<f4"
            digest.update(f"{name} {value.shape};".encode())
            digest.update(np.ascontiguousarray(value, dtype).reshape(-1).view("u1"))
    return digest.hexdigest()


def _of_this_base(model: Flat, about: dict[str, str], path) -> None:
    try:
        theirs = json.loads(about["config"])
        ours = json.loads(model.config.to_json())
        other = [f"{name} {theirs.get(name)} and not {ours[name]}" for name in ours if theirs.get(name) != ours[name]]
    except (ValueError, AttributeError, RecursionError):
        raise FormatError(f"{path}: the config of its base is not one") from None
    if other:
        raise FormatError(f"{path} has adapters for another base, one with {', '.join(other)}: load the base they were "
                          "trained on")
    if fingerprint(model, trained_in(about, path)) != about["fingerprint"]:
        raise FormatError(f"{path} has adapters for another base, one of this form with other weights: load the base they "
                          "were trained on")


def _grown(model: Flat, about: dict[str, str], tensors, path) -> Flat:
    """The model, or one like it with the tokens that the file has beyond its own."""
    if "n_vocab" not in about:
        return model
    n_base, n_vocab = model.config.n_vocab, about["n_vocab"]
    if not (n_vocab.isascii() and n_vocab.isdecimal() and len(n_vocab) < 19 and int(n_vocab) > n_base):
        raise FormatError(f"{path}: how many tokens there are with the new ones is wanted, a number above {n_base}; got {short(n_vocab)}")
    if type(model) is not GPT:
        raise FormatError(f"{path} has tokens that its base did not have: put it on that, a GPT; this is a {type(model).__name__}")
    shapes = {name: apart(name, np.broadcast_to(np.float32(), shape), n_base)[1].shape
              for name, shape in plan.shapes(model.config.change(n_vocab=int(n_vocab))) if name in TOKENS}
    trained = trained_in(about, path)
    for name, shape in shapes.items():
        stored = tensors.get(NEW + name)
        if name not in trained and (stored is None or stored.shape != shape or stored.dtype.kind not in ("f", model.values.dtype.kind)):
            raise FormatError(f"{path}: {shape} is wanted as the shape of {NEW + name!r}, the new tokens'; "
                              + ("there is none" if stored is None else f"it is {stored.shape}, in {stored.dtype}"))
    new = grown(model, int(n_vocab))
    for name, param in new.named_params():
        if name in TOKENS and NEW + name in tensors:
            apart(name, param.value, n_base)[1][...] = tensors[NEW + name].array()
    return new


def _matching(patterns: str | Iterable[str], names: list[str], what: str) -> list[str]:
    """The names that any of the patterns matches; each must match one."""
    found = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if pattern == "all" and what == "Linear":
            hits = {name for name in names if ".blocks." in f".{name}"}
        else:
            hits = {name for name in names if f".{pattern}." in f".{name}." or fnmatchcase(name, pattern)}
        if not hits:
            raise ValueError(f"{pattern!r} is part of no {what}'s name: choose among {', '.join(_endings(names))}")
        found |= hits
    return [name for name in names if name in found]


def _endings(names: list[str]) -> list[str]:
    """The names, those of all blocks as one: blocks.*.attention.qkv."""
    return list(dict.fromkeys(".".join("*" if step.isdigit() else step for step in name.split(".")) for name in names))
