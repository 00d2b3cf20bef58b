"""A tiny example of every layer, drawn so that the numbers are short: halves and whole ones, no row like itself."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from numgpt import layers as L
from numgpt.layers.inputs import IGNORE
from numgpt.teach.explain.tying import WeightTying

MOST, LONGEST = 1024, 32  # numbers in one input, and on one of its axes: more are not to be read
INPUTS = np.array([-2, -1.5, -1, -0.5, 0.5, 1, 1.5, 2])
WEIGHTS = np.array([-2, -1, 1, 2, 3])
SMALL = np.array([-1, -0.5, 0.5, 1])  # of layers in layers, whose products would grow
SMALLER = SMALL / 2                   # so that a softmax is not all but 0 and 1
GAINS = np.array([0.5, 1, 1.5, 2])


@dataclass(frozen=True)
class Sizes:
    """How long each axis is, by its letter."""

    B: int
    T: int
    C: int
    H: int
    D: int
    F: int
    V: int
    n_ctx: int

    @classmethod
    def of(cls, B: int, T: int, C: int) -> "Sizes":
        """Two heads where the channels split into them, else one."""
        for name, n in (("B", B), ("T", T), ("C", C)):
            if n < 1:
                raise ValueError(f"a shape B,T,C has a size of at least 1 on each axis; got {name} = {n}")
        if max(T, C) > LONGEST or B * T * C > MOST:
            raise ValueError(f"an example is there to be read: choose at most {LONGEST} tokens, {LONGEST} channels, and "
                             f"{MOST} numbers in all; got {B} x {T} x {C}")
        H = 2 if C % 2 == 0 and C > 2 else 1
        return cls(B, T, C, H, C // H, C + 1, 4, T + 1)


PRIMES = Sizes(5, 7, 13, 11, 17, 19, 23, 29)  # no two alike: what is run at these sizes shows which axis is which


@dataclass
class Example:
    """A layer with all that its forward and its derivation want."""

    layer: L.Layer
    inputs: dict[str, np.ndarray]
    options: dict = field(default_factory=dict)  # of forward
    names: dict = field(default_factory=dict)    # more that the derivation speaks of
    letters: tuple[tuple[str, str], ...] = ()    # what the docstring calls an axis, and which size that is
    note: str = ""

    def fresh_options(self) -> dict:
        """A generator is copied, so that every call draws the same numbers."""
        return copy.deepcopy(self.options)


class Draw:
    """Numbers for an example from a seed, in a dtype."""

    def __init__(self, seed: int | list[int], dtype):
        self.rng, self.dtype = np.random.default_rng(seed), dtype

    def rows(self, *shape: int, among: np.ndarray = INPUTS) -> np.ndarray:
        """No two numbers of a row alike, as far as there are so many: LayerNorm would make zeros of a row that is."""
        n = shape[-1]
        lines = [self.rng.choice(among, n, replace=n > len(among)) for _ in range(math.prod(shape[:-1]))]
        return np.array(lines).reshape(shape).astype(self.dtype)

    def params(self, layer: L.Layer, among: np.ndarray) -> L.Layer:
        for name, param in layer.named_params():
            of = GAINS if name.endswith("gain") else SMALL if name.endswith("bias") else among
            param.value[...] = self.rows(*param.shape, among=of)
        return layer

    def ids(self, s: Sizes) -> np.ndarray:
        """The last of every sequence is the first token of all: one that comes twice in a sequence, and in each of them."""
        ids = self.rng.integers(0, s.V, (s.B, s.T))
        ids[:, -1] = ids[0, 0]
        return ids

    def mask_seed(self, shape: tuple[int, ...], p: float) -> int:
        """The seed of a generator that drops some and keeps some."""
        seeds = [int(seed) for seed in self.rng.integers(0, 1 << 30, 20)]
        mixed = (seed for seed in seeds if 0 < (np.random.default_rng(seed).random(shape, np.float32) >= p).mean() < 1)
        return next(mixed, seeds[0])


def _one(build: Callable, among: np.ndarray = WEIGHTS, more: Callable = lambda s: {}, **options) -> Callable:
    """An example of one layer over x (B, T, C)."""
    def make(draw: Draw, s: Sizes) -> Example:
        return Example(draw.params(build(s, draw.dtype), among), {"x": draw.rows(s.B, s.T, s.C)}, names=more(s), **options)
    return make


def _linear(draw: Draw, s: Sizes) -> Example:
    layer = draw.params(L.Linear(s.C, s.V if s == PRIMES else 2, dtype=draw.dtype), WEIGHTS)
    return Example(layer, {"x": draw.rows(s.B * s.T, s.C)}, letters=(("N", "B*T"), ("n_in", "C"), ("n_out", "V")))


def _lora(draw: Draw, s: Sizes) -> Example:
    layer = draw.params(L.LoRA(L.Linear(s.C, s.V if s == PRIMES else 2, dtype=draw.dtype), s.H, 2 * s.H), WEIGHTS)
    return Example(layer, {"x": draw.rows(s.B * s.T, s.C)}, letters=(("N", "B*T"), ("n_in", "C"), ("n_out", "V"), ("rank", "H")))


def _embedding(draw: Draw, s: Sizes) -> Example:
    return Example(draw.params(L.Embedding(s.V, s.C, dtype=draw.dtype), INPUTS), {"ids": draw.ids(s)})


def _dropout(draw: Draw, s: Sizes) -> Example:
    x = draw.rows(s.B, s.T, s.C)
    rng = np.random.default_rng(draw.mask_seed(x.shape, 0.5))
    return Example(L.Dropout(0.5), {"x": x}, {"rng": rng}, {"rng": copy.deepcopy(rng)})


def _attention(draw: Draw, s: Sizes) -> Example:
    layer = L.CausalAttention(scale=1 / math.sqrt(s.D))
    inputs = {name: draw.rows(s.B, s.H, s.T, s.D) for name in "qkv"}
    return Example(layer, inputs, note="S = T: every position has its own query")


def _heads(s: Sizes) -> dict:
    return {"B": s.B, "T": s.T, "H": s.H, "D": s.D}


def _block(kind: str) -> Callable:
    return lambda s, dtype: L.BLOCKS[kind](s.C, s.H, head_size=s.D, n_hidden=s.F, dtype=dtype)


def _softmax_cross_entropy(draw: Draw, s: Sizes) -> Example:
    """One target does not count, where there are more."""
    targets = draw.rng.integers(0, s.C, (s.B, s.T))
    if targets.size > 2:
        targets.flat[1] = IGNORE
    counted = int((targets != IGNORE).sum())
    return Example(L.SoftmaxCrossEntropy(), {"logits": draw.rows(s.B, s.T, s.C), "targets": targets},
                   names={"count": counted}, letters=(("V", "C"),))


def _head_loss(draw: Draw, s: Sizes) -> Example:
    targets = draw.rng.integers(0, s.V, s.B * s.T)
    layer = draw.params(L.HeadLoss(s.C, s.V, bias=True, dtype=draw.dtype), SMALL)
    more = {"onehot": targets[:, None] == np.arange(s.V), "count": targets.size,
            "softmax_cross_entropy": L.SoftmaxCrossEntropy()}
    return Example(layer, {"x": draw.rows(s.B * s.T, s.C), "targets": targets}, names=more, letters=(("N", "B*T"),),
                   note="N = B T: the rows of all sequences, one below the other")


def _last(draw: Draw, *shape: int, T: int) -> np.ndarray:
    """Where sequences end: the first before its row does, where it is longer than one token."""
    last = draw.rng.integers(0, T, shape)
    last.flat[0] = max(T - 2, 0)
    return last


def _on_last(build: Callable, shape: Callable = lambda s: (s.B,), **options) -> Callable:
    """An example of a head over x (..., T, C) and last (...)."""
    def make(draw: Draw, s: Sizes) -> Example:
        inputs = {"x": draw.rows(*shape(s), s.T, s.C), "last": _last(draw, *shape(s), T=s.T)}
        return Example(draw.params(build(s, draw.dtype), WEIGHTS), inputs, **options)
    return make


def _value_head(draw: Draw, s: Sizes) -> Example:
    return Example(draw.params(L.ValueHead(s.C, dtype=draw.dtype), WEIGHTS), {"x": draw.rows(s.B, s.T, s.C)})


def _head_log_probs(draw: Draw, s: Sizes) -> Example:
    """One target does not count, where there are more."""
    targets = draw.rng.integers(0, s.V, (s.B, s.T))
    if targets.size > 1:
        targets.flat[0] = IGNORE
    layer = draw.params(L.HeadLogProbs(L.HeadLoss(s.C, s.V, bias=True, dtype=draw.dtype)), SMALL)
    return Example(layer, {"x": draw.rows(s.B, s.T, s.C), "targets": targets})


def _pairs(draw: Draw, s: Sizes) -> Example:
    inputs = {name: draw.rows(1, s.B)[0] for name in ("chosen", "rejected")}
    return Example(L.LogisticPairs(), inputs, names={"count": s.B})


def _dpo(draw: Draw, s: Sizes) -> Example:
    """Each answer is about as probable as the reference has it."""
    reference = draw.rows(s.B, 2) - 8
    return Example(L.DPO(0.5), {"logp": reference + draw.rows(s.B, 2)}, {"reference": reference},
                   {"reference": reference, "count": s.B})


def _tokens(layer: L.Layer, *inputs: str, **constants: Callable) -> Callable:
    """An example of a layer over the tokens of responses, which begin behind a prompt where there is room for one."""
    def make(draw: Draw, s: Sizes) -> Example:
        counts = np.ones((s.B, s.T), bool)
        counts[:, 0] = s.T == 1
        given = {name: draw.rows(s.B, s.T) - 3 * (name == "logp") for name in inputs}
        held = {"counts": counts} | {name: constant(draw, s, given) for name, constant in constants.items()}
        loss = not isinstance(layer, (L.GAE, L.KLReward))
        return Example(layer, given, held, held | ({"count": int(counts.sum())} if loss else {}))
    return make


def _near(draw: Draw, s: Sizes, given: dict) -> np.ndarray:
    """A half or one away from the first input, or where that is: no border of a clip lies there."""
    return next(iter(given.values())) - draw.rows(s.B, s.T, among=np.array([-1, -0.5, 0, 0.5, 1]))


def _any(draw: Draw, s: Sizes, given: dict) -> np.ndarray:
    return draw.rows(s.B, s.T)


def _scores(draw: Draw, s: Sizes, given: dict) -> np.ndarray:
    return draw.rows(s.B)


def _returns(draw: Draw, s: Sizes, given: dict) -> np.ndarray:
    """A quarter off, so that no value and no held one are equally far from them."""
    return draw.rows(s.B, s.T) + draw.dtype(0.25)


def _tying(draw: Draw, s: Sizes) -> Example:
    layer = draw.params(WeightTying(s.V, s.C, dtype=draw.dtype), INPUTS / 2)
    tokens = draw.rng.permutation(np.resize(np.arange(s.V), 2 * max(s.B * s.T, s.V)))  # no two alike where there are enough
    ids, targets = tokens[:2 * s.B * s.T].reshape(2, s.B, s.T)
    return Example(layer, {"ids": ids, "targets": targets}, names={"table": layer.table.value})


USUAL = 1, 2, 3
SEQUENCES = 2, 2, 3  # where one alone would not show it: what is summed over them, or looked up in them
TOKENS = 2, 4, 1     # of responses, that have no channels
HEADS = 1, 3, 4      # where one alone would not show it: two, of two channels, which are not as many as the tokens

# name: the class whose docstring it is, how its example is made, and its usual shape (B, T, C)
EXAMPLES: dict[str, tuple[type, Callable, tuple[int, int, int]]] = {
    "linear": (L.Linear, _linear, USUAL),
    "embedding": (L.Embedding, _embedding, SEQUENCES),
    "learned-positions": (L.LearnedPositions, _one(lambda s, d: L.LearnedPositions(s.n_ctx, s.C, dtype=d)), SEQUENCES),
    "sinusoidal-positions": (L.SinusoidalPositions, _one(lambda s, d: L.SinusoidalPositions(s.n_ctx, s.C)), USUAL),
    "layernorm": (L.LayerNorm, _one(lambda s, d: L.LayerNorm(s.C, dtype=d)), SEQUENCES),
    "gelu": (L.GELU, _one(lambda s, d: L.GELU()), USUAL),
    "gelu-tanh": (L.GELUTanh, _one(lambda s, d: L.GELUTanh()), USUAL),
    "relu": (L.ReLU, _one(lambda s, d: L.ReLU()), USUAL),
    "silu": (L.SiLU, _one(lambda s, d: L.SiLU()), USUAL),
    "quick-gelu": (L.QuickGELU, _one(lambda s, d: L.QuickGELU()), USUAL),
    "dropout": (L.Dropout, _dropout, USUAL),
    "softmax": (L.Softmax, _one(lambda s, d: L.Softmax(), letters=(("S", "C"),)), USUAL),
    "attention": (L.CausalAttention, _attention, HEADS),
    "self-attention": (L.SelfAttention, _one(lambda s, d: L.SelfAttention(s.C, s.H, head_size=s.D, dtype=d),
                                             SMALLER, _heads), HEADS),
    "feed-forward": (L.FeedForward, _one(lambda s, d: L.FeedForward(s.C, s.F, dtype=d), SMALL), USUAL),
    "pre-norm-block": (L.PreNormBlock, _one(_block("pre"), SMALL), HEADS),
    "post-norm-block": (L.PostNormBlock, _one(_block("post"), SMALL), HEADS),
    "recompute": (L.Recompute, _one(lambda s, d: L.Recompute(L.FeedForward(s.C, s.F, dtype=d)), SMALL,
                                    note="layer is a FeedForward here"), USUAL),
    "softmax-cross-entropy": (L.SoftmaxCrossEntropy, _softmax_cross_entropy, SEQUENCES),
    "head-loss": (L.HeadLoss, _head_loss, USUAL),
    "last-token": (L.LastToken, _on_last(lambda s, d: L.LastToken()), SEQUENCES),
    "class-head": (L.ClassHead, _on_last(lambda s, d: L.ClassHead(s.C, s.V, dtype=d), letters=(("K", "V"),)), SEQUENCES),
    "similarity-head": (L.SimilarityHead, _on_last(lambda s, d: L.SimilarityHead(s.C, s.V, dtype=d), lambda s: (s.B, 2),
                                                   letters=(("K", "V"),)), USUAL),
    "score-head": (L.ScoreHead, _on_last(lambda s, d: L.ScoreHead(s.C, dtype=d)), SEQUENCES),
    "value-head": (L.ValueHead, _value_head, SEQUENCES),
    "head-log-probs": (L.HeadLogProbs, _head_log_probs, USUAL),
    "logistic-pairs": (L.LogisticPairs, _pairs, SEQUENCES),
    "dpo": (L.DPO, _dpo, SEQUENCES),
    "kl-reward": (L.KLReward, _tokens(L.KLReward(0.5), "logp", reference=_near, scores=_scores), TOKENS),
    "gae": (L.GAE, _tokens(L.GAE(0.5, 0.5), "rewards", "values"), TOKENS),
    "clipped-policy": (L.ClippedPolicy, _tokens(L.ClippedPolicy(0.2), "logp", old=_near, advantages=_any), TOKENS),
    "clipped-value": (L.ClippedValue, _tokens(L.ClippedValue(0.25), "values", old=_near, returns=_returns), TOKENS),
    "token-kl": (L.TokenKL, _tokens(L.TokenKL(), "logp", reference=_near), TOKENS),
    "lora": (L.LoRA, _lora, USUAL),
    "weight-tying": (WeightTying, _tying, USUAL),
}


def make(name: str, sizes: Sizes, seed: int = 0, dtype=np.float64) -> Example:
    """The example of that name; targets and ids, which are not differentiated, come from the seed too."""
    return EXAMPLES[name][1](Draw(seed, dtype), sizes)
