"""Which Linears of a model have LoRA, and what is trained beside: put on, found, and described for a file.

A description is JSON: {"layers": {"blocks.0.attention.qkv": {"rank": 8, "alpha": 16.0}}, "trained": ["head.bias"]}. The
second are the parameters that are trained although they belong to no adapter; all others are frozen.
"""

import json
import math
from collections.abc import Collection, Mapping

from numgpt.files import FormatError, names_once
from numgpt.layers import Layer, Linear, LoRA

ADAPTERS = "adapters"  # the metadata's name for a description
OWN = (".lora_a", ".lora_b")  # what the names of an adapter's parameters end with


def adapters(model: Layer) -> dict[str, LoRA]:
    """Those of a model, by the names of the Linears that they stand for."""
    return {name: layer for name, layer in model.named_layers() if isinstance(layer, LoRA)}


def refuse(model: Layer, what: str) -> None:
    """For formats of other programs, which have no place for adapters."""
    found = next(iter(adapters(model)), None)
    if found:
        raise ValueError(f"the model has adapters, as on {found}, and {what} has no place for them: merge them into its weights "
                         "first, with numgpt.tuning.adapters.merge(model)")


def linears(model: Layer) -> dict[str, Linear]:
    return {name: layer for name, layer in model.named_layers() if isinstance(layer, Linear)}


def put(model: Layer, name: str, layer: Layer) -> None:
    """A layer in the place of the one of that name, inside a Recompute too."""
    item = model
    *above, last = name.split(".")
    for step in above:
        item = item._parts()[step] if isinstance(item, Layer) else item[int(step)]
    (item._parts() if isinstance(item, Layer) else item)[last if isinstance(item, Layer) else int(last)] = layer
    if dict(model.named_layers()).get(name) is not layer:
        raise ValueError(f"{type(model).__name__} does not let its {name} be exchanged")


def put_on(model, sizes: Mapping[str, tuple[int, float | None]], trained: Collection[str], rng=None) -> None:
    """LoRA of (rank, alpha) on the Linears of these names. They and the parameters called trained are, and nothing else."""
    layers = linears(model)
    made = {name: LoRA(layers[name], *size, rng=rng) for name, size in sizes.items()}
    for name, layer in made.items():
        put(model, name, layer)
    keep(model, trained)


def keep(model, trained: Collection[str]) -> None:
    """Train the adapters and the parameters of these names, and nothing else."""
    def is_trained(name: str) -> bool:
        return name.endswith(OWN) or name in trained

    model.freeze(lambda name: not is_trained(name))
    model.thaw(is_trained)
    model.lay_out()


def described(model) -> dict[str, str]:
    """What a checkpoint's metadata say of it; nothing, of a model without adapters in which nothing is frozen."""
    layers = {name: {"rank": layer.rank, "alpha": layer.alpha} for name, layer in adapters(model).items()}
    params = list(model.named_params())
    if not layers and not any(param.frozen for _, param in params):
        return {}
    trained = [name for name, param in params if not param.frozen and not name.endswith(OWN)]
    return {ADAPTERS: json.dumps({"layers": layers, "trained": trained})}


def trained(model) -> str:
    return f"parameters trained: {model.grads.size:,} of {model.values.size:,}"


def restore(model, metadata: Mapping[str, str], tensors: Mapping, source, *, beyond: tuple[str, ...] = ()) -> None:
    """What a file describes put on a model, with the file's tensors (see stored.py) for all that is trained.

    Everything is looked at before anything is done: a file that does not fit leaves the model as it was. beyond: what the
    names of parameters begin with that the file has for a larger model, of which this is a part.
    """
    if ADAPTERS not in metadata:
        return
    sizes, others = _read(metadata[ADAPTERS], source)
    others = [name for name in others if not name.startswith(beyond)]
    layers, params = linears(model), dict(model.named_params())
    shapes = {}
    for name, (rank, _) in sizes.items():
        if name not in layers or isinstance(layers[name], LoRA):
            raise FormatError(f"{source} has an adapter for {name!r}, and the model no Linear of that name that has none "
                              "yet")
        n_in, n_out = layers[name].weight.shape
        if rank > min(n_in, n_out):
            raise FormatError(f"{source} has an adapter of rank {rank} for {name!r}, whose shape is {(n_in, n_out)}")
        shapes |= {f"{name}.lora_a": (n_in, rank), f"{name}.lora_b": (rank, n_out)}
    for name in others:
        if name not in params:
            raise FormatError(f"{source} has the parameter {name!r}, and the model none of that name")
        shapes[name] = params[name].shape
    for name, shape in shapes.items():
        if name not in tensors:
            raise FormatError(f"{source} has no tensor {name!r}, which it says is trained")
        if tensors[name].shape != shape:
            raise FormatError(f"{source}: {shape} is wanted as the shape of {name!r}; it is {tensors[name].shape}")
        kind = tensors[name].dtype.kind
        if kind not in "fc" or kind == "c" and model.values.dtype.kind != "c":
            raise FormatError(f"{source}: tensor {name!r} has the type {tensors[name].dtype}, and the model {model.values.dtype}")
    put_on(model, sizes, others)
    params = dict(model.named_params())
    for name in shapes:
        params[name].value[...] = tensors[name].array()


def trained_in(metadata: Mapping[str, str], source) -> list[str]:
    """The parameters that are trained although they belong to no adapter."""
    return _read(metadata[ADAPTERS], source)[1]


def _read(text: str, source) -> tuple[dict[str, tuple[int, float]], list[str]]:
    try:
        content = json.loads(text, object_pairs_hook=names_once)
        layers, trained = content["layers"], content["trained"]
        sizes = {name: (size["rank"], size["alpha"]) for name, size in layers.items()}
        good = all(type(rank) is int and rank > 0 and isinstance(alpha, (int, float)) and 0 < alpha < math.inf
                   for rank, alpha in sizes.values())
        good = good and isinstance(trained, list) and all(isinstance(name, str) for name in trained)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        good = False
    if not good:
        raise FormatError(f"{source}: its metadata do not say which layers have adapters, of which rank and alpha, and what "
                          "is trained")
    return sizes, trained
