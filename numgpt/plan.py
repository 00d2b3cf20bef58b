"""What a model costs, from its config alone: parameters, FLOPs and bytes, with nothing built."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from numgpt.layers.attention import TILE
from numgpt.layers.inputs import float_type, positive


def shapes(config) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every parameter's name and shape, in the model's order."""
    c, C, F, HD = config, config.n_embd, config.hidden_dim, config.n_head * config.head_dim

    def norm(name):
        yield f"{name}.gain", (C,)
        if c.bias:
            yield f"{name}.bias", (C,)

    def linear(name, n_in, n_out):
        yield f"{name}.weight", (n_in, n_out)
        if c.bias:
            yield f"{name}.bias", (n_out,)

    yield "embedding.table", (c.n_vocab, C)
    if c.positions == "learned":
        yield "positions.table", (c.n_ctx, C)
    for i in range(c.n_layer):
        yield from norm(f"blocks.{i}.norm1")
        yield from linear(f"blocks.{i}.attention.qkv", C, 3 * HD)
        yield from linear(f"blocks.{i}.attention.out", HD, C)
        yield from norm(f"blocks.{i}.norm2")
        yield from linear(f"blocks.{i}.ffn.up", C, F)
        yield from linear(f"blocks.{i}.ffn.down", F, C)
    if c.norm == "pre":
        yield from norm("norm")
    if not c.tied:
        yield "head.weight", (C, c.n_vocab)
    if c.head_bias:
        yield "head.bias", (c.n_vocab,)


def n_params(config) -> int:
    # Those of one layer and of two: the difference is a block, and all blocks are alike.
    one, two = (sum(math.prod(shape) for _, shape in shapes(config.change(n_layer=n))) for n in (1, 2))
    return one + (config.n_layer - 1) * (two - one)


@dataclass(frozen=True)
class Plan:
    """Numbers and bytes of one training step on batch sequences of n_tokens.

    n_params                   parameters
    weights, gradients         bytes of each: one number a parameter
    moments                    bytes of AdamW's two numbers a parameter
    saved                      bytes of what forward keeps for backward
    saved_recompute            with every block in Recompute: bytes of each block's input, and of what one block keeps
                               while it runs again
    flops_forward              FLOPs a token that the matrix products need (a multiplication and an addition are two);
                               in attention those of the keys that a query sees, of which tiles compute a few more
    flops_training             with the backward, whose products are twice as many
    flops_training_recompute   with the blocks' forward once more

    A step holds weights, gradients, moments and saved values at least; what comes and goes inside a layer is not counted.
    """

    batch: int
    n_tokens: int
    dtype: str
    n_params: int
    weights: int
    gradients: int
    moments: int
    saved: int
    saved_recompute: int
    flops_forward: float
    flops_training: float
    flops_training_recompute: float

    @classmethod
    def of(cls, config, batch: int = 1, n_tokens: int | None = None, dtype="float32") -> "Plan":
        batch = positive(batch, "batch")
        T = config.n_ctx if n_tokens is None else positive(n_tokens, "n_tokens")
        if T > config.n_ctx:
            raise ValueError(f"a sequence of {T} tokens does not fit into a context of {config.n_ctx}")
        dtype = float_type(dtype)
        parameters = n_params(config)
        blocks, block, rest = _saved(config, batch, T, dtype.itemsize)
        flops_blocks, flops_head = _flops(config, T)
        forward = flops_blocks + flops_head
        inputs = config.n_layer * batch * T * config.n_embd * dtype.itemsize
        return cls(batch, T, dtype.name, parameters,
                   weights=parameters * dtype.itemsize,
                   gradients=parameters * dtype.itemsize,
                   moments=2 * parameters * dtype.itemsize,
                   saved=blocks + rest,
                   saved_recompute=inputs + block + rest,
                   flops_forward=forward,
                   flops_training=3 * forward,
                   flops_training_recompute=3 * forward + flops_blocks)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def __str__(self):
        held = self.weights + self.gradients + self.moments
        lines = [("parameters", f"{self.n_params:,}", ""),
                 ("weights", human(self.weights, "B"), self.dtype),
                 ("gradients", human(self.gradients, "B"), ""),
                 ("moments", human(self.moments, "B"), "AdamW's two"),
                 ("saved values", human(self.saved, "B"), f"for backward, at {self.batch} x {self.n_tokens} tokens"),
                 ("  Recompute", human(self.saved_recompute, "B"), "with every block in Recompute"),
                 ("a step holds", human(held + self.saved, "B"), f"at least; with Recompute {human(held + self.saved_recompute, 'B')}"),
                 ("forward", human(self.flops_forward, "FLOP"), "a token"),
                 ("training", human(self.flops_training, "FLOP"),
                  f"a token; with Recompute {human(self.flops_training_recompute, 'FLOP')}")]
        widths = [max(len(line[i]) for line in lines) for i in (0, 1)]
        return "\n".join(f"{name:{widths[0]}}  {value:>{widths[1]}}  {note}".rstrip() for name, value, note in lines)


def human(number: float, unit: str) -> str:
    """A number with three digits and a prefix: 497759232 B is 498 MB."""
    for prefix in ("", "k", "M", "G", "T", "P", "E", "Z"):
        if float(f"{number:.3g}") < 1000:
            return f"{number:.3g} {prefix}{unit}"
        number /= 1000
    return f"{number:.3g} Y{unit}"


def _saved(config, B: int, T: int, size: int) -> tuple[int, int, int]:
    """Bytes kept by all blocks, by the largest of them, and by the rest: the sums of what the layers' Saved lines say."""
    c, N, C, F, HD = config, B * T, config.n_embd, config.hidden_dim, config.n_head * config.head_dim
    norm = N * C + N                       # xhat and rstd
    attention = N * C + 3 * N * HD + N * HD  # the inputs of qkv, of the attention itself and of out
    ffn = N * C + N * F                    # the inputs of up and of the activation
    total, largest = 0, 0
    for n, window in _kinds(c):
        p = B * c.n_head * _scores(T, window)  # probabilities, kept a second time after dropout
        numbers = 2 * norm + attention + ffn + (2 * p if c.dropout_attn else p)
        masks = (p if c.dropout_attn else 0) + (2 * N * C if c.dropout_resid else 0)  # a byte each
        block = numbers * size + masks
        total, largest = total + n * block, max(largest, block)
    # A loss finishes its gradients in forward; that of the weight, or what it is the product of, if that is smaller.
    head = N * C + min(c.n_vocab * C, N * (C + c.n_vocab)) + (c.n_vocab if c.head_bias else 0)
    rest = (head + (norm if c.norm == "pre" else 0)) * size + (N * C if c.dropout_embd else 0)
    return total, largest, rest


def _flops(config, T: int) -> tuple[float, int]:
    """FLOPs a token of all blocks, and of the head, forward."""
    c, C, HD = config, config.n_embd, config.n_head * config.head_dim
    products = 2 * c.n_layer * (C * 3 * HD + HD * C + 2 * C * c.hidden_dim)
    keys = sum(n * _keys(T, window) for n, window in _kinds(c))
    return products + 2 * 2 * HD * keys / T, 2 * C * c.n_vocab  # q with each key, p with each value


def _kinds(config) -> list[tuple[int, int | None]]:
    """(number of layers, their window): the dense ones, and the banded."""
    banded = config.n_layer // 2
    return [(config.n_layer - banded, config.window_of(0)), (banded, config.window_of(1))][:config.n_layer]


def _keys(T: int, window: int | None) -> int:
    """Keys that T queries see in all: 1, 2, 3, ... up to the window."""
    w = min(window or T, T)
    return w * (w + 1) // 2 + (T - w) * w


def _scores(T: int, window: int | None) -> int:
    """Scores that attention computes a head: tiles of queries, each with all keys that some query of it sees."""
    w = min(window or T, T)
    tiles, rest = divmod(T, TILE)
    growing = min(tiles, (w - 1) // TILE + 1)  # each sees one tile more, until the window shuts
    whole = TILE * growing * (growing + 1) // 2 + (tiles - growing) * (TILE - 1 + w)
    return TILE * whole + rest * (T - max(0, tiles * TILE + 1 - w))
