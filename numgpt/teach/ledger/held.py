"""What a forward pass keeps for backward, array by array, under the name of the tensor that it belongs to."""

from collections.abc import Iterator

import numpy as np

from numgpt.config import GPTConfig

ITSELF = "itself"


def held(config: GPTConfig, saved) -> Iterator[tuple[str, str, np.ndarray]]:
    """(tensor's name, what of it, the array) of all that GPT.forward returns beside the loss.

    An array that several layers keep comes once, under the tensor that it is. A view comes as the whole array, for that is
    what it keeps alive: so q, k and v are the qkv that they are cut from.
    """
    seen = set()
    for name, what, array in _kept(config, *saved):
        array = owner(array)
        if id(array) not in seen:
            seen.add(id(array))
            yield name, what, array


def owner(array: np.ndarray) -> np.ndarray:
    """The array whose memory a view looks at."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _kept(config: GPTConfig, body, head) -> Iterator[tuple[str, str, np.ndarray]]:
    _, _, mask, blocks, norm = body  # the ids are the caller's, and of positions a shape is kept
    x = "positions"
    if mask is not None:
        x = "dropout"
        yield x, "mask", mask
    for i, block in enumerate(blocks):
        yield from (_pre if config.norm == "pre" else _post)(f"blocks.{i}.", x, block)
        x = f"blocks.{i}.{'sum2' if config.norm == 'pre' else 'norm2'}"
    x = x if norm is None else "norm"
    dx, dweight, products, dbias = head  # a loss finishes its gradients in forward
    for x_, dlogits in products:
        yield x, ITSELF, x_
        yield "logits", "gradient", dlogits
    yield x, "gradient", dx
    if norm is not None:
        yield from _norm(x, norm)
    if dweight is not None:
        yield "logits", "weight's gradient", dweight
    if dbias is not None:
        yield "logits", "bias's gradient", dbias


def _pre(P: str, x: str, saved):  # what comes in, x, is not kept
    norm1, attention, mask, norm2, ffn, mask2 = saved
    yield from _attention(P, f"{P}norm1", attention, mask)
    yield from _norm(f"{P}norm1", norm1)
    yield from _ffn(P, f"{P}norm2", ffn, mask2)
    yield from _norm(f"{P}norm2", norm2)


def _post(P: str, x: str, saved):
    attention, mask, norm1, ffn, mask2, norm2 = saved
    yield from _attention(P, x, attention, mask)
    yield from _ffn(P, f"{P}norm1", ffn, mask2)
    yield from _norm(f"{P}norm1", norm1)
    yield from _norm(f"{P}norm2", norm2)


def _norm(name: str, saved):
    xhat, rstd = saved
    yield name, "xhat", xhat
    yield name, "rstd", rstd


def _attention(P: str, x: str, saved, mask):
    into, (q, k, v, _, tiles), mixed = saved
    yield x, ITSELF, into
    for part in (q, k, v):
        yield f"{P}attention.qkv", ITSELF, part
    for p, p_kept, kept in tiles:
        yield f"{P}attention.probabilities", ITSELF, p
        if kept is not None:
            yield f"{P}attention.kept", ITSELF, p_kept
            yield f"{P}attention.kept", "mask", kept
    yield f"{P}attention.mixed", ITSELF, mixed
    if mask is not None:
        yield f"{P}attention.dropped", "mask", mask


def _ffn(P: str, x: str, saved, mask):
    into, h = saved
    yield x, ITSELF, into
    yield f"{P}ffn.up", ITSELF, h  # the activation itself is computed again
    if mask is not None:
        yield f"{P}ffn.dropped", "mask", mask
