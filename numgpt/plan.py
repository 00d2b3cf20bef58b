"""What a model costs, from its config alone: parameters, FLOPs and bytes, with nothing built."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from numgpt.layers.attention import tiles
from numgpt.layers.inputs import float_type, positive


def shapes(config) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every parameter's name and shape, in the model's order."""
    c, C, F, width = config, config.n_embd, config.hidden_dim, config.n_head * config.head_dim

    def norm(name):
        yield f"{name}.gain", (C,)
        if c.bias:
            yield f"{name}.bias", (C,)

    def linear(name, n_in, n_out, bias=c.bias):
        yield f"{name}.weight", (n_in, n_out)
        if bias:
            yield f"{name}.bias", (n_out,)

    yield "embedding.table", (c.n_vocab, C)
    if c.positions == "learned":
        yield "positions.table", (c.n_ctx, C)
    for i in range(c.n_layer):
        yield from norm(f"blocks.{i}.norm1")
        yield from linear(f"blocks.{i}.attention.qkv", C, 3 * width)
        yield from linear(f"blocks.{i}.attention.out", width, C)
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
    one, two = (sum(math.prod(shape) for _, shape in shapes(config.change(n_layer=n))) for n in (1, 2))
    return one + (config.n_layer - 1) * (two - one)  # all blocks are alike


@dataclass(frozen=True)
class Plan:
    """Numbers and bytes of one training step on batch sequences of n_tokens.

    n_params                   parameters
    weights, gradients         bytes of each: one number a parameter
    moments                    bytes of AdamW's two numbers a parameter
    saved, saved_recompute     bytes of what forward keeps for backward; and with every block in Recompute, which keeps
                               each block's input and, while it runs again, all of one block
    flops_forward              FLOPs a token of the matrix products (a multiplication and an addition are two), where
                               attention counts the keys that a query sees, on average
    flops_training             with the backward, whose products are twice as many
    flops_training_recompute   with the blocks' forward once more
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
                 ("a step holds", human(held + self.saved, "B"), f"with Recompute {human(held + self.saved_recompute, 'B')}"),
                 ("forward", human(self.flops_forward, "FLOP"), "a token"),
                 ("training", human(self.flops_training, "FLOP"),
                  f"a token; with Recompute {human(self.flops_training_recompute, 'FLOP')}")]
        widths = [max(len(line[i]) for line in lines) for i in (0, 1)]
        return "\n".join(f"{name:{widths[0]}}  {value:>{widths[1]}}  {note}".rstrip() for name, value, note in lines)


def human(number: float, unit: str) -> str:
    """A number with three digits and a prefix: 497759232 B is 498 MB."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if float(f"{number:.3g}") < 1000:
            break
        number /= 1000
    return f"{number:.3g} {prefix}{unit}"


def _saved(config, B: int, T: int, size: int) -> tuple[int, int, int]:
    """Bytes kept by all blocks, by the largest of them, and by the rest: the sums of what the layers' Saved lines say."""
    c, N, C, F, width = config, B * T, config.n_embd, config.hidden_dim, config.n_head * config.head_dim
    norm = N * C + N                                         # xhat, rstd
    attention = N * C + 3 * N * width + N * width            # the inputs of qkv, of attention and of out
    ffn = N * C + 2 * N * F                                  # the inputs of up, of the activation and of down
    blocks = []
    for layers, window in _kinds(c):
        seen = [(q.stop - q.start) * (k.stop - k.start) for q, k in tiles(T, T, window or math.inf)]
        p = B * c.n_head * sum(seen)                         # the probabilities,
        masks = 2 * N * C if c.dropout_resid else 0          # a byte for each number that dropout may take
        if c.dropout_attn:
            masks += p
            p *= 2                                           # and once more after dropout
        blocks.append((layers, (2 * norm + attention + ffn + p) * size + masks))
    last = norm if c.norm == "pre" else 0
    head = N * C + c.n_vocab * C + (c.n_vocab if c.head_bias else 0)  # the loss's gradients, finished in forward
    rest = (last + head) * size + (N * C if c.dropout_embd else 0)
    return sum(layers * each for layers, each in blocks), max(each for _, each in blocks), rest


def _flops(config, T: int) -> tuple[float, int]:
    """FLOPs a token of all blocks, and of the head, forward."""
    c, C, width = config, config.n_embd, config.n_head * config.head_dim
    products = 2 * c.n_layer * (C * 3 * width + width * C + 2 * C * c.hidden_dim)
    keys = sum(layers * _keys(T, window or T) for layers, window in _kinds(c))
    return products + 2 * 2 * width * keys / T, 2 * C * c.n_vocab  # attention: q with k, and p with v


def _kinds(config) -> list[tuple[int, int | None]]:
    """How many layers there are of each window."""
    banded = config.n_layer // 2
    return [(config.n_layer - banded, config.window_of(0))] + ([(banded, config.window_of(1))] if banded else [])


def _keys(T: int, window: int) -> int:
    """Keys that T queries see in all: 1, 2, 3, ... up to the window."""
    w = min(window, T)
    return w * (w + 1) // 2 + (T - w) * w
