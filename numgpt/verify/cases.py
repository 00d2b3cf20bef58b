"""Every layer, and every preset's form made small, as a case to be checked: at weights of order one, in sizes that
are coprime or drawn.

A mistake hides where weights are small and sizes alike: a gradient transposed by accident still has
the right shape if T = D, and still is small enough if weights are.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from numgpt import layers as L
from numgpt.config import PRESETS, GPTConfig
from numgpt.layers import ops
from numgpt.model import GPT


@dataclass(frozen=True)
class Sizes:
    B: int = 2
    T: int = 7
    H: int = 3
    D: int = 5
    C: int = 11
    F: int = 17
    V: int = 13
    scale: float = 1.0
    offset: float = 0.0
    dtype: type = np.float64

    @classmethod
    def drawn(cls, rng: np.random.Generator, **fixed) -> "Sizes":
        """Sizes from 1 to 40, input scales from 1e-3 to 1e3, offsets up to 100."""
        sizes = {name: int(rng.integers(1, 41)) for name in "BTHDCFV"}
        return cls(**{**sizes, "scale": float(10 ** rng.uniform(-3, 3)),
                      "offset": float(rng.uniform(-100, 100)) if rng.random() < 0.5 else 0.0, **fixed})


@dataclass
class Case:
    """What gradcheck.check takes: check(target, *inputs, backward=backward, **options)."""

    name: str
    target: Callable
    inputs: tuple
    options: dict = field(default_factory=dict)
    backward: Callable | None = None

    def arguments(self) -> tuple[tuple, dict]:
        more = {} if self.backward is None else {"backward": self.backward}
        return (self.target, *self.inputs), {**self.options, **more}


def names() -> list[str]:
    """The layers."""
    return list(_BUILDERS)


def models() -> dict[str, GPTConfig]:
    """The whole models: nano as it is, and the forms of the other presets in small, each once."""
    forms = {name if name.startswith("gpt") else f"gpt-{name}": small(name) for name in PRESETS if name != "nano"}
    first = {config: name for name, config in reversed(forms.items())}
    return {"gpt-nano": GPTConfig.preset("nano"), **{name: config for name, config in forms.items() if first[config] == name}}


def make(name: str, seed: int = 0, sizes: Sizes = Sizes()) -> Case:
    """The case of that name, with weights and inputs drawn from the seed."""
    build = _BUILDERS[name] if name in _BUILDERS else _model(models()[name])
    case = build(np.random.default_rng(seed), sizes)
    case.name = name
    return case


def order_one(layer: L.Layer, rng: np.random.Generator) -> L.Layer:
    """Matrices normal with std 1/sqrt(fan in), everything else normal(0, 1)."""
    for name, param in layer.named_params():
        fan_in = param.shape[0] if name.endswith("weight") else 1
        param.value[...] = rng.standard_normal(param.shape) / np.sqrt(fan_in)
    return layer


class Scaled(L.Layer):
    """A layer whose output is multiplied by a number: a check must see as much at 1e-5 as at 1."""

    def __init__(self, layer: L.Layer, factor: float):
        self.layer, self.factor = layer, factor

    def forward(self, *inputs, **options):
        y, saved = self.layer.forward(*inputs, **options)
        return y * self.factor, saved

    def backward(self, dy, saved):
        return self.layer.backward(dy * self.factor, saved)

    def hints(self, *inputs):
        return self.layer.hints(*inputs)


def small(preset: str) -> GPTConfig:
    """The preset's form with two layers and coprime sizes: what it turns on stays on."""
    c = GPTConfig.preset(preset)
    return c.change(n_layer=2, n_head=3, n_embd=15, n_vocab=13, n_ctx=8, n_hidden=c.n_hidden and 17,
                    head_size=c.head_size and 7, window=c.window and 3)


def activations_of(rng, s: Sizes, *shape: int) -> np.ndarray:
    return (s.offset + s.scale * rng.standard_normal(shape or (s.B, s.T, s.C))).astype(s.dtype)


def ids_of(rng, s: Sizes) -> np.ndarray:
    """Token ids; with more tokens than words some repeat by themselves, else the first is made to."""
    ids = rng.integers(0, s.V, (s.B, s.T))
    ids.flat[-1] = ids.flat[0]
    return ids


def targets_of(rng, s: Sizes) -> np.ndarray:
    """Targets, about a quarter of which do not count."""
    targets = rng.integers(0, s.V, (s.B, s.T))
    targets[rng.random((s.B, s.T)) < 0.25] = -100
    return targets


def _one(build: Callable) -> Callable:
    """A case of one layer over x (B, T, C); build(s, rng) makes the layer."""
    return lambda rng, s: Case("", order_one(build(s, rng), rng), (activations_of(rng, s),))


def _dropped(build: Callable) -> Callable:
    """The same with a generator, so that dropout is at work."""
    return lambda rng, s: Case("", order_one(build(s, rng), rng), (activations_of(rng, s),),
                               {"rng": np.random.default_rng(int(rng.integers(1 << 30)))})


def _attention(rng, s: Sizes, **options) -> Case:
    q, k, v = (activations_of(rng, s, s.B, s.H, s.T, s.D) for _ in range(3))
    return Case("", L.CausalAttention(scale=1 / np.sqrt(s.D).item(), tile=1 + s.T // 3, **options), (q, k, v))


def _self_attention(s: Sizes, rng, **options) -> L.SelfAttention:
    return L.SelfAttention(s.C, s.H, head_size=s.D, tile=1 + s.T // 3, dtype=s.dtype, **options)


def _block(kind: str, **options) -> Callable:
    return lambda s, rng: L.BLOCKS[kind](s.C, s.H, head_size=s.D, n_hidden=s.F, tile=1 + s.T // 3, dtype=s.dtype, **options)


def _loss(rng, s: Sizes, count: int | None = None) -> Case:
    return Case("", L.SoftmaxCrossEntropy(), (activations_of(rng, s, s.B, s.T, s.V), targets_of(rng, s)),
                {} if count is None else {"count": count})


def _head(rng, s: Sizes, **options) -> Case:
    head = L.HeadLoss(s.C, s.V, chunk=1 + s.B * s.T // 4, dtype=s.dtype, **options)
    return Case("", order_one(head, rng), (activations_of(rng, s), targets_of(rng, s)))


def _tied(rng, s: Sizes) -> Case:
    table = L.Param(np.zeros((s.V, s.C), s.dtype))
    return _head(rng, s, tied=table, bias=True)


def _embedding(rng, s: Sizes) -> Case:
    return Case("", order_one(L.Embedding(s.V, s.C, dtype=s.dtype), rng), (ids_of(rng, s),))


def _function(f: Callable, backward: Callable) -> Callable:
    return lambda rng, s: Case("", f, (activations_of(rng, s, s.B, s.T, s.V),), backward=backward)


def _model(config: GPTConfig) -> Callable:
    def build(rng, s: Sizes) -> Case:
        model = order_one(GPT(config, dtype=s.dtype), rng)
        s = replace(s, V=config.n_vocab, T=config.n_ctx - 1)
        dropped = config.dropout_embd or config.dropout_attn or config.dropout_resid
        options = {"rng": np.random.default_rng(int(rng.integers(1 << 30)))} if dropped else {}
        return Case("", model, (ids_of(rng, s), targets_of(rng, s)), options)
    return build


_BUILDERS: dict[str, Callable] = {
    "linear": _one(lambda s, rng: L.Linear(s.C, s.F, dtype=s.dtype)),
    "linear-no-bias": _one(lambda s, rng: L.Linear(s.C, s.F, bias=False, dtype=s.dtype)),
    "embedding": _embedding,
    "learned-positions": _one(lambda s, rng: L.LearnedPositions(s.T + 2, s.C, dtype=s.dtype)),
    "sinusoidal-positions": _one(lambda s, rng: L.SinusoidalPositions(s.T + 2, s.C)),
    "layernorm": _one(lambda s, rng: L.LayerNorm(s.C, dtype=s.dtype)),
    "layernorm-no-bias": _one(lambda s, rng: L.LayerNorm(s.C, bias=False, dtype=s.dtype)),
    "gelu": _one(lambda s, rng: L.GELU()),
    "gelu-tanh": _one(lambda s, rng: L.GELUTanh()),
    "relu": _one(lambda s, rng: L.ReLU()),
    "quick-gelu": _one(lambda s, rng: L.QuickGELU()),
    "silu": _one(lambda s, rng: L.SiLU()),
    "dropout": _dropped(lambda s, rng: L.Dropout(0.3)),
    "attention": _attention,
    "attention-window": lambda rng, s: _attention(rng, s, window=1 + s.T // 2),
    "self-attention": _one(_self_attention),
    "self-attention-no-bias": _one(lambda s, rng: _self_attention(s, rng, bias=False)),
    "self-attention-window": _one(lambda s, rng: _self_attention(s, rng, window=1 + s.T // 2)),
    "self-attention-unscaled": _one(lambda s, rng: _self_attention(s, rng, scale=1.0)),
    "self-attention-dropout": _dropped(lambda s, rng: _self_attention(s, rng, dropout=0.3)),
    "feed-forward": _one(lambda s, rng: L.FeedForward(s.C, s.F, dtype=s.dtype)),
    "feed-forward-gelu": _one(lambda s, rng: L.FeedForward(s.C, s.F, activation="gelu", dtype=s.dtype)),
    "feed-forward-relu": _one(lambda s, rng: L.FeedForward(s.C, s.F, activation="relu", bias=False, dtype=s.dtype)),
    "pre-norm-block": _one(_block("pre")),
    "pre-norm-block-no-bias": _one(_block("pre", bias=False, activation="silu")),
    "pre-norm-block-dropout": _dropped(_block("pre", dropout_attn=0.2, dropout_resid=0.3)),
    "post-norm-block": _one(_block("post")),
    "post-norm-block-dropout": _dropped(_block("post", dropout_attn=0.2, dropout_resid=0.3, activation="relu")),
    "recompute": _dropped(lambda s, rng: L.Recompute(_block("pre", dropout_attn=0.2, dropout_resid=0.3)(s, rng))),
    "softmax-cross-entropy": _loss,
    "softmax-cross-entropy-count": lambda rng, s: _loss(rng, s, count=s.B * s.T + 3),
    "head-loss": _head,
    "head-loss-bias": lambda rng, s: _head(rng, s, bias=True),
    "head-loss-tied": _tied,
    "softmax": _one(lambda s, rng: L.Softmax()),
    "log-softmax": _function(ops.log_softmax, lambda dy, x: ops.log_softmax_backward(dy, ops.log_softmax(x))),
    "logsumexp": _function(ops.logsumexp, ops.logsumexp_backward),
    "erf": _function(ops.erf, ops.erf_backward),
    "erfc": _function(ops.erfc, ops.erfc_backward),
}
