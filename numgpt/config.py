"""GPTConfig: everything that says what a GPT computes; and the presets, the sizes that papers and lessons use."""

import json
import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields

import numpy as np

from numgpt.files import nearest, short
from numgpt.layers import ACTIVATIONS, BLOCKS
from numgpt.plan import Plan, n_params

POSITIONS = ("learned", "sinusoidal")
BAND = 256  # GPT-3's paper says "locally banded" and names no width


@dataclass(frozen=True)
class GPTConfig:
    """What a GPT computes, and how its weights start.

    n_vocab              tokens in the vocabulary
    n_ctx                tokens in the longest sequence
    n_layer, n_head      blocks, and heads in each
    n_embd               C, the width of the stream that runs past the blocks
    n_hidden             F, the width inside the feed-forward layers; None: 4 C; hidden_dim is what it comes to
    head_size            D; None: C / H; head_dim is what it comes to
    norm                 "pre": inside each branch and once more at the end; "post": on the stream, as in GPT-1
    norm_eps             what the norms add to the variance
    activation           "gelu_tanh", "gelu", "relu", "quick_gelu" or "silu"
    positions            "learned" or "sinusoidal"
    tied                 the head multiplies by the token table
    head_bias            the head adds a bias
    bias                 Linears and LayerNorms have biases
    dropout_embd         the chance of a zero in the embeddings,
    dropout_attn         in the attention's probabilities,
    dropout_resid        and in what each branch adds to the stream
    scale_attn           divide scores by sqrt(D)
    scale_attn_by_layer  divide scores by 1, 2, 3, ... too, layer by layer
    window               layers 1, 3, 5, ..., counted from 0, see only so many positions, their own included; None: all
    std                  of matrices and tables at the start,
    std_positions        of the position table (None: std),
    std_residual         and of the two projections in each block that add to the stream (None: std / sqrt(2 L))
    """

    n_vocab: int
    n_ctx: int
    n_layer: int
    n_head: int
    n_embd: int
    n_hidden: int | None = None
    head_size: int | None = None
    norm: str = "pre"
    norm_eps: float = 1e-5
    activation: str = "gelu_tanh"
    positions: str = "learned"
    tied: bool = True
    head_bias: bool = False
    bias: bool = True
    dropout_embd: float = 0.0
    dropout_attn: float = 0.0
    dropout_resid: float = 0.0
    scale_attn: bool = True
    scale_attn_by_layer: bool = False
    window: int | None = None
    std: float = 0.02
    std_positions: float | None = None
    std_residual: float | None = None

    def __post_init__(self):
        for field in fields(self):
            check = _CHECKS[field.name]
            value = getattr(self, field.name)
            if value is not None or field.name not in _MAY_BE_NONE:
                object.__setattr__(self, field.name, check(field.name, value))
        if self.head_size is None and self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} does not split into n_head {self.n_head}: "
                             f"choose a divisor of {self.n_embd}, or say head_size")

    @classmethod
    def preset(cls, name: str, **changes) -> "GPTConfig":
        """The config of that name, with changes: preset("gpt2", n_ctx=256)."""
        check_name(name, PRESETS)
        return cls.from_dict({**PRESETS[name], **changes})

    @classmethod
    def from_dict(cls, values: Mapping) -> "GPTConfig":
        """The config of which to_dict gave the values. What has no default must be there; unknown names are refused."""
        if not isinstance(values, Mapping):
            raise TypeError(f"a config is made from names and values; got {type(values).__name__}")
        known = {field.name for field in fields(cls)}
        for name in values:
            if name not in known:
                near = nearest(str(name), known)
                raise ValueError(f"a config has no field {name!r}" + (f"; {near!r}?" if near else ""))
        missing = [name for name in ("n_vocab", "n_ctx", "n_layer", "n_head", "n_embd") if name not in values]
        if missing:
            raise ValueError(f"a config must say {', '.join(missing)}")
        return cls(**values)

    def to_dict(self) -> dict:
        return asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    def change(self, **changes) -> "GPTConfig":
        """The same config but for these fields."""
        return self.from_dict({**self.to_dict(), **changes})

    # -- what follows from the fields

    @property
    def hidden_dim(self) -> int:
        """F, whether n_hidden says it or not."""
        return 4 * self.n_embd if self.n_hidden is None else self.n_hidden

    @property
    def head_dim(self) -> int:
        """D, whether head_size says it or not."""
        return self.n_embd // self.n_head if self.head_size is None else self.head_size

    def scale(self, layer: int) -> float:
        """What the scores of that layer, counted from 0, are multiplied by."""
        scale = 1 / math.sqrt(self.head_dim) if self.scale_attn else 1.0
        return scale / (layer + 1) if self.scale_attn_by_layer else scale

    def window_of(self, layer: int) -> int | None:
        """How many positions that layer sees, its own included; None: all before it."""
        return self.window if layer % 2 else None

    @property
    def n_params(self) -> int:
        return n_params(self)

    def flops_per_token(self, n_tokens: int | None = None, *, training: bool = False) -> float:
        """FLOPs of the matrix products for each token of a sequence of n_tokens (None: n_ctx)."""
        plan = self.plan(n_tokens=n_tokens)
        return plan.flops_training if training else plan.flops_forward

    def plan(self, *, batch: int = 1, n_tokens: int | None = None, dtype="float32") -> Plan:
        """What a model of this config costs, without building it; see Plan."""
        return Plan.of(self, batch, n_tokens, dtype)


def check_name(name, known: Iterable[str]) -> None:
    """Refuse what is no preset's name, with the one that was perhaps meant."""
    if not isinstance(name, str) or name not in known:
        near = nearest(str(name).lower(), known)
        raise ValueError(f"there is no preset {name!r}" + (f", but there is {near!r}" if near else "")
                         + f": choose one of {', '.join(known)}")


# -- what a field may be


def _whole(name, value):
    try:
        whole = operator.index(value)
    except TypeError:
        whole = None
    if whole is None or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number; got {value!r}")
    if not 1 <= whole < 1 << 31:
        raise ValueError(f"{name} must be from 1 to 2**31 - 1; got {short(whole)}")
    return whole


def _number(name, value):
    try:
        number = None if isinstance(value, (bool, np.bool_, str, bytes, bytearray)) else float(value)
    except (TypeError, OverflowError):
        number = None
    if number is None:
        raise TypeError(f"{name} must be a number; got {value!r}")
    return number


def _chance(name, value):
    p = _number(name, value)
    if not 0 <= p < 1:
        raise ValueError(f"{name} must be at least 0 and below 1; got {value}")
    return p


def _spread(name, value):
    std = _number(name, value)
    if not 0 <= std < math.inf:
        raise ValueError(f"{name} must be a finite number, 0 or above; got {value}")
    return std


def _eps(name, value):
    eps = _number(name, value)
    if not 0 < eps < math.inf:
        raise ValueError(f"{name} must be above 0, or a constant row would be divided by 0; got {value}")
    return eps


def _switch(name, value):
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False; got {value!r}")
    return bool(value)


def _one_of(choices):
    def check(name, value):
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")
        return value
    return check


_MAY_BE_NONE = {"n_hidden", "head_size", "window", "std_positions", "std_residual"}
_CHECKS = {
    **dict.fromkeys(("n_vocab", "n_ctx", "n_layer", "n_head", "n_embd", "n_hidden", "head_size", "window"), _whole),
    **dict.fromkeys(("dropout_embd", "dropout_attn", "dropout_resid"), _chance),
    **dict.fromkeys(("std", "std_positions", "std_residual"), _spread),
    **dict.fromkeys(("tied", "head_bias", "bias", "scale_attn", "scale_attn_by_layer"), _switch),
    "norm": _one_of(BLOCKS), "norm_eps": _eps, "activation": _one_of(ACTIVATIONS), "positions": _one_of(POSITIONS),
}


# -- presets


def _sizes(n_layer, n_embd, n_head, **more):
    return dict(n_layer=n_layer, n_embd=n_embd, n_head=n_head, **more)


_GPT1 = dict(n_vocab=40478, n_ctx=512, norm="post", std_residual=0.02,
             dropout_embd=0.1, dropout_attn=0.1, dropout_resid=0.1)
_GPT2 = dict(n_vocab=50257, n_ctx=1024, dropout_embd=0.1, dropout_attn=0.1, dropout_resid=0.1)
_GPT3 = dict(n_vocab=50257, n_ctx=2048, window=BAND)

PRESETS = {
    # for learning
    "nano": dict(n_vocab=29, n_ctx=8, **_sizes(2, 12, 3)),
    "char-cpu": dict(n_vocab=65, n_ctx=64, **_sizes(4, 128, 4)),
    "char": dict(n_vocab=65, n_ctx=256, **_sizes(6, 384, 6)),
    # the original decoder of the first write-ups
    "classic": dict(n_vocab=10000, n_ctx=100, norm="post", activation="relu", tied=False, head_bias=True,
                    std_positions=0.0, **_sizes(6, 512, 8, n_hidden=2048)),
    # the papers
    "gpt1": {**_GPT1, **_sizes(12, 768, 12)},
    "gpt2": {**_GPT2, **_sizes(12, 768, 12)},
    "gpt2-medium": {**_GPT2, **_sizes(24, 1024, 16)},
    "gpt2-large": {**_GPT2, **_sizes(36, 1280, 20)},
    "gpt2-xl": {**_GPT2, **_sizes(48, 1600, 25)},
    "gpt3-125m": {**_GPT3, **_sizes(12, 768, 12)},
    "gpt3-350m": {**_GPT3, **_sizes(24, 1024, 16)},
    "gpt3-760m": {**_GPT3, **_sizes(24, 1536, 16)},
    "gpt3-1.3b": {**_GPT3, **_sizes(24, 2048, 24, head_size=128)},
    "gpt3-2.7b": {**_GPT3, **_sizes(32, 2560, 32)},
    "gpt3-6.7b": {**_GPT3, **_sizes(32, 4096, 32)},
    "gpt3-13b": {**_GPT3, **_sizes(40, 5140, 40, head_size=128)},
    "gpt3-175b": {**_GPT3, **_sizes(96, 12288, 96)},
}
