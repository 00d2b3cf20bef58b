"""What the two tracers of other people's models share: our parameters from theirs, and a trace from its parts."""

import math
import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from numgpt import safetensors
from numgpt.verify.names import PARAMETERS, TENSORS, is_ours, near

# Three projections side by side in place of one, as many write it: joined to attention.qkv.
SPLIT = tuple(f"blocks.*.attention.{part}.{kind}" for part in "qkv" for kind in ("weight", "bias"))
THEIR_PARAMETERS = PARAMETERS + SPLIT


def checked(name: str, forms: Iterable[str]) -> str:
    """A name of ours of one of these forms; .T after a weight says that theirs is (out, in)."""
    forms = tuple(forms)
    if not is_ours(name.removesuffix(".T") if name.endswith(".weight.T") else name, forms):
        i = (re.findall(r"\d+", name) or ["0"])[0]
        raise ValueError(f"{name!r} is no name of ours" + near(name, [form.replace("*", i) for form in forms]))
    return name


def laid_out(name: str, array: np.ndarray, turned: bool) -> np.ndarray:
    """Their parameter as ours is: a weight (in, out), a table (n, C), and a bias or gain with one axis."""
    if name.endswith(".table"):  # positions (1, n, C), as some keep them
        return array.reshape(array.shape[-2:]) if math.prod(array.shape[:-2]) == 1 else array
    return np.ascontiguousarray(array.T) if turned else array


def joined(params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Parameters of q, k and v side by side, as ours are; where one of the three is missing, none is left."""
    out = {}
    for name, array in params.items():
        split = re.fullmatch(r"(blocks\.\d+\.attention)\.[qkv]\.(weight|bias)", name)
        if not split:
            out[name] = array
            continue
        three = [params.get(f"{split[1]}.{part}.{split[2]}") for part in "qkv"]
        if all(one is not None for one in three):
            out[f"{split[1]}.qkv.{split[2]}"] = np.concatenate(three, axis=-1)
    return out


def heads_apart(tensors: dict[str, np.ndarray], heads: Callable[[str], int | None]) -> None:
    """Add q, k and v (B, H, T, D) where qkv is there, and qkv where q, k and v are there heads side by side.

    tensors: by our names without forward. or backward., changed in place; heads: from "blocks.i.attention" to H, or
    None, which leaves it to the shape of the probabilities.
    """
    for P in sorted({name.rpartition(".")[0] for name in tensors if re.search(r"attention\.(qkv|q|k|v)$", name)}):
        three, seen = [f"{P}.{part}" for part in "qkv"], tensors.get(f"{P}.probabilities")
        H = heads(P) or (None if seen is None else seen.shape[1])
        flat = [name for name in three if name in tensors and tensors[name].ndim == 3]
        if len(flat) == 3 and f"{P}.qkv" not in tensors:
            tensors[f"{P}.qkv"] = np.concatenate([tensors[name] for name in three], axis=-1)
        for name in flat:  # (B, T, H D) is not what the name says
            del tensors[name]
        qkv = tensors.get(f"{P}.qkv")
        if qkv is not None and H and qkv.shape[-1] % (3 * H) == 0:
            B, T, width = qkv.shape
            for name, one in zip(three, qkv.reshape(B, T, 3, H, width // (3 * H)).transpose(2, 0, 3, 1, 4)):
                tensors.setdefault(name, np.ascontiguousarray(one))


def in_order(names: Iterable[str]) -> list[str]:
    """Names of the forward pass as they come; without a last norm, those of the blocks stand after the sums."""
    names, parts = list(names), {form.removeprefix("blocks.*."): place for place, form in enumerate(TENSORS)}
    late = {} if "norm" in names else {"norm1": parts["sum1"] + 0.5, "norm2": parts["sum2"] + 0.5}

    def place(name):
        if not name.startswith("blocks."):
            return (0 if parts[name] < parts["norm1"] else 2), 0, parts[name]
        _, i, part = name.split(".", 2)
        return 1, int(i), late.get(part, parts[part])
    return sorted(names, key=place)


def trace_of(ids, targets, weights, forward, loss, backward, grads, norm_of: Iterable[np.ndarray],
             path=None) -> dict[str, np.ndarray]:
    """All of it by the names of a trace and in its order; norm_of: the gradients that clipping would measure."""
    length = math.sqrt(sum(float(np.sum(np.square(grad, dtype=np.float64))) for grad in norm_of))
    tensors = {"inputs.ids": np.asarray(ids, np.int32), "inputs.targets": np.asarray(targets, np.int32),
               **{f"weights.{name}": array for name, array in weights.items()},
               **{f"forward.{name}": forward[name] for name in in_order(forward)}, "forward.loss": np.asarray(loss)}
    for name in reversed(in_order(forward)):
        if name in backward:
            tensors[f"backward.{name}"] = backward[name]
        layer = "head" if name == "logits" else name
        tensors |= {f"grads.{of}": grad for of, grad in grads.items() if of.rpartition(".")[0] == layer}
    tensors |= {f"grads.{of}": grad for of, grad in grads.items()}  # of layers whose outputs nobody saw
    tensors["clip.norm"] = np.asarray(length, np.asarray(loss).dtype)
    if path is not None:
        safetensors.write(path, tensors)
    return tensors
