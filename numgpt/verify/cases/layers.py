"""The cases of a GPT's own layers."""

from collections.abc import Callable

import numpy as np

from numgpt import layers as L
from numgpt.layers import ops
from numgpt.verify.cases.frame import Case, Sizes, activations_of, dropped, ids_of, one, order_one, targets_of


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


BUILDERS: dict[str, Callable] = {
    "linear": one(lambda s, rng: L.Linear(s.C, s.F, dtype=s.dtype)),
    "linear-no-bias": one(lambda s, rng: L.Linear(s.C, s.F, bias=False, dtype=s.dtype)),
    "embedding": _embedding,
    "learned-positions": one(lambda s, rng: L.LearnedPositions(s.T + 2, s.C, dtype=s.dtype)),
    "sinusoidal-positions": one(lambda s, rng: L.SinusoidalPositions(s.T + 2, s.C)),
    "layernorm": one(lambda s, rng: L.LayerNorm(s.C, dtype=s.dtype)),
    "layernorm-no-bias": one(lambda s, rng: L.LayerNorm(s.C, bias=False, dtype=s.dtype)),
    "gelu": one(lambda s, rng: L.GELU()),
    "gelu-tanh": one(lambda s, rng: L.GELUTanh()),
    "relu": one(lambda s, rng: L.ReLU()),
    "quick-gelu": one(lambda s, rng: L.QuickGELU()),
    "silu": one(lambda s, rng: L.SiLU()),
    "dropout": dropped(lambda s, rng: L.Dropout(0.3)),
    "attention": _attention,
    "attention-window": lambda rng, s: _attention(rng, s, window=1 + s.T // 2),
    "self-attention": one(_self_attention),
    "self-attention-no-bias": one(lambda s, rng: _self_attention(s, rng, bias=False)),
    "self-attention-window": one(lambda s, rng: _self_attention(s, rng, window=1 + s.T // 2)),
    "self-attention-unscaled": one(lambda s, rng: _self_attention(s, rng, scale=1.0)),
    "self-attention-dropout": dropped(lambda s, rng: _self_attention(s, rng, dropout=0.3)),
    "feed-forward": one(lambda s, rng: L.FeedForward(s.C, s.F, dtype=s.dtype)),
    "feed-forward-gelu": one(lambda s, rng: L.FeedForward(s.C, s.F, activation="gelu", dtype=s.dtype)),
    "feed-forward-relu": one(lambda s, rng: L.FeedForward(s.C, s.F, activation="relu", bias=False, dtype=s.dtype)),
    "pre-norm-block": one(_block("pre")),
    "pre-norm-block-no-bias": one(_block("pre", bias=False, activation="silu")),
    "pre-norm-block-dropout": dropped(_block("pre", dropout_attn=0.2, dropout_resid=0.3)),
    "post-norm-block": one(_block("post")),
    "post-norm-block-dropout": dropped(_block("post", dropout_attn=0.2, dropout_resid=0.3, activation="relu")),
    "recompute": dropped(lambda s, rng: L.Recompute(_block("pre", dropout_attn=0.2, dropout_resid=0.3)(s, rng))),
    "softmax-cross-entropy": _loss,
    "softmax-cross-entropy-count": lambda rng, s: _loss(rng, s, count=s.B * s.T + 3),
    "head-loss": _head,
    "head-loss-bias": lambda rng, s: _head(rng, s, bias=True),
    "head-loss-tied": _tied,
    "softmax": one(lambda s, rng: L.Softmax()),
    "log-softmax": _function(ops.log_softmax, lambda dy, x: ops.log_softmax_backward(dy, ops.log_softmax(x))),
    "logsumexp": _function(ops.logsumexp, ops.logsumexp_backward),
    "erf": _function(ops.erf, ops.erf_backward),
    "erfc": _function(ops.erfc, ops.erfc_backward),
}
