"""A model whose tensors pass by: each forward and backward under its name, to be kept, or exchanged on the way.

    tape = Tape()
    model = watched(model, tape)
    loss, saved = model.forward(ids, targets)
    model.backward(saved)
    tape.tensors["backward.blocks.0.norm1"]        # the loss's gradient by the first norm's output

What a tape's change returns for a tensor goes on in its place. A tensor rounded on the way shows what a shorter number type
does to all that comes after it; one exchanged for somebody else's makes each operation work on their numbers, so that it
fails alone.
"""

from collections.abc import Callable, Mapping
from itertools import cycle

import numpy as np

from numgpt.layers import Layer
from numgpt.model import GPT


class Tape:
    """Keeps what passes, by name; change(name, tensor) says what goes on in its place."""

    def __init__(self, change: Callable[[str, np.ndarray], np.ndarray] | None = None, masks: Mapping[str, np.ndarray] | None = None):
        self.tensors: dict[str, np.ndarray] = {}
        self.masks = masks  # what dropout keeps, by name; None: its generator decides, and this is told
        self.masks_back: Mapping[str, np.ndarray] = {}  # where somebody keeps something else in backward
        self.change = change

    def see(self, name: str, tensor: np.ndarray) -> np.ndarray:
        self.tensors[name] = tensor
        return tensor if self.change is None else self.change(name, tensor)

    def see_in_place(self, name: str, tensor: np.ndarray) -> None:
        """For a sum that whoever made it also goes on with."""
        if self.change is None:
            self.tensors[name] = tensor
        else:
            self.tensors[name] = tensor.copy()
            tensor[...] = self.change(name, tensor)


def watched(model: GPT, tape: Tape) -> GPT:
    """A twin of the model, with gradients of its own, whose tensors pass by the tape."""
    twin = GPT.blank(model.config, dtype=model.values.dtype)
    twin.values = model.values
    body, config = twin.body, model.config
    _output(body.embedding, "embedding", tape)
    _output(body.positions, "positions", tape)
    if body.dropout.p:
        _dropout(body.dropout, ["dropout"], tape)
    for i, block in enumerate(body.blocks):
        _block(block, f"blocks.{i}", config.norm, tape)
    if body.norm is not None:
        _output(body.norm, "norm", tape)
    _head(twin.head, tape)
    return twin


def _output(layer: Layer, name: str, tape: Tape, into: str | None = None) -> None:
    """Shadow the layer's methods with ones that show its output, and the gradient of that; into: its input as well."""
    forward, backward = layer.forward, layer.backward

    def seen_forward(x, **options):
        if into:
            x = tape.see(f"forward.{into}", x)
        y, saved = forward(x, **options)
        return tape.see(f"forward.{name}", y), saved

    def seen_backward(dy, saved):
        dx = backward(tape.see(f"backward.{name}", dy), saved)
        return tape.see(f"backward.{into}", dx) if into else dx

    layer.forward, layer.backward = seen_forward, seen_backward


def _block(block: Layer, name: str, norm: str, tape: Tape) -> None:
    _output(block.attention.qkv, f"{name}.attention.qkv", tape)
    _attention(block.attention.attention, f"{name}.attention", tape)
    _output(block.attention.out, f"{name}.attention.out", tape, into=f"{name}.attention.mixed")
    _output(block.ffn.up, f"{name}.ffn.up", tape)
    _output(block.ffn.activation, f"{name}.ffn.activation", tape)
    _output(block.ffn.down, f"{name}.ffn.down", tape)
    if norm == "post":
        _output(block.norm1, f"{name}.norm1", tape, into=f"{name}.sum1")
        _output(block.norm2, f"{name}.norm2", tape, into=f"{name}.sum2")
        _dropout(block.dropout, [f"{name}.attention.dropped", f"{name}.ffn.dropped"], tape)
        return
    _output(block.norm1, f"{name}.norm1", tape)
    _output(block.norm2, f"{name}.norm2", tape)
    # The sum inside the block is read by norm2, and its gradient by the dropout of the attention's output.
    forward = block.norm2.forward

    def seen_norm2(n):
        tape.see_in_place(f"forward.{name}.sum1", n)
        return forward(n)

    block.norm2.forward = seen_norm2
    _dropout(block.dropout, [f"{name}.attention.dropped", f"{name}.ffn.dropped"], tape, sums=[f"backward.{name}.sum1", None])
    _output(block, f"{name}.sum2", tape)


def _dropout(dropout: Layer, names: list[str], tape: Tape, sums: list[str | None] | None = None) -> None:
    """A dropout that is called for each of the names in turn, and in backward the other way round.

    With p = 0 it passes everything, and shows the sums alone, which are what it is given in backward.
    """
    forward, backward = dropout.forward, dropout.backward
    places, places_back = cycle(range(len(names))), cycle(reversed(range(len(names))))

    def seen_forward(x, *, rng=None):
        name = names[next(places)]
        if not dropout.p or rng is None and tape.masks is None:
            return forward(x, rng=rng)
        if tape.masks is None:
            y, kept = forward(x, rng=rng)
        else:
            kept = np.asarray(tape.masks[f"masks.{name}"], bool)
            y = dropout._apply(x, kept)
        tape.tensors[f"masks.{name}"] = kept
        return tape.see(f"forward.{name}", y), kept

    def seen_backward(dy, kept):
        place = next(places_back)
        if sums and sums[place]:
            tape.see_in_place(sums[place], dy)
        if kept is not None:
            dy = tape.see(f"backward.{names[place]}", dy)
            kept = tape.masks_back.get(f"masks.{names[place]}", kept)
        return backward(dy, kept)

    dropout.forward, dropout.backward = seen_forward, seen_backward


def _attention(attention: Layer, name: str, tape: Tape) -> None:
    """The queries in one tile, so that scores and probabilities pass whole."""
    forward, backward = attention.forward, attention.backward
    shown = [f"{name}.{part}" for part in "qkv"]
    _dropout(attention.dropout, [f"{name}.kept"], tape)
    _softmax(attention.softmax, name, tape)

    def seen_forward(q, k, v, **options):
        attention.tile = q.shape[2]
        return forward(*(tape.see(f"forward.{part}", a) for part, a in zip(shown, (q, k, v))), **options)

    def seen_backward(dy, saved):
        return tuple(tape.see(f"backward.{part}", a) for part, a in zip(shown, backward(dy, saved)))

    attention.forward, attention.backward = seen_forward, seen_backward


def _softmax(softmax: Layer, name: str, tape: Tape) -> None:
    forward, backward = softmax.forward, softmax.backward

    def seen_forward(scores):
        hidden = scores == -np.inf  # in whatever way somebody else's scores say so
        scores = np.where(hidden, -np.inf, tape.see(f"forward.{name}.scores", scores))
        p, saved = forward(scores)
        seen = tape.see(f"forward.{name}.probabilities", p)
        return seen, seen if saved is p else saved

    def seen_backward(dp, saved):
        dscores = backward(tape.see(f"backward.{name}.probabilities", dp), saved)
        return tape.see(f"backward.{name}.scores", dscores).copy()  # attention goes on to scale it in place

    softmax.forward, softmax.backward = seen_forward, seen_backward


def _head(head: Layer, tape: Tape) -> None:
    """All rows in one chunk, so that logits pass whole."""
    forward, loss_forward, loss_backward = head.forward, head.loss.forward, head.loss.backward
    lead = ()

    def seen_forward(x, targets, **options):
        nonlocal lead
        lead = x.shape[:-1]
        head.chunk = max(1, targets.size)
        loss, saved = forward(x, targets, **options)
        return tape.see("forward.loss", np.asarray(loss)), saved

    def seen_loss_forward(logits, targets, **options):
        logits = tape.see("forward.logits", logits.reshape(*lead, -1))
        loss, saved = loss_forward(logits.reshape(-1, logits.shape[-1]), targets, **options)
        (e, total, _), *_ = saved
        tape.see("forward.probabilities", (e / total).reshape(logits.shape))
        return loss, saved

    def seen_loss_backward(dloss, saved):
        dlogits = loss_backward(dloss, saved)
        return tape.see("backward.logits", dlogits.reshape(*lead, -1)).reshape(dlogits.shape)

    head.forward, head.loss.forward, head.loss.backward = seen_forward, seen_loss_forward, seen_loss_backward
