"""Rows in which several examples are packed: what tells them apart, forward and backward."""

from collections.abc import Callable

import numpy as np

from numgpt import layers as L
from numgpt.verify.cases.frame import Case, Sizes, activations_of, order_one


def segments_of(rng, s: Sizes) -> np.ndarray:
    """The example that each position belongs to; examples of two or three positions, and where there is one, a border."""
    begins = rng.random((s.B, s.T)) < 0.4
    begins[..., s.T // 2:s.T // 2 + 1] = True
    return begins.cumsum(-1)


def _packed(build: Callable, *, dropped: bool = False) -> Callable:
    """A case of one layer over x (B, T, C); build(s) makes the layer."""
    def case(rng, s: Sizes) -> Case:
        options = {"segments": segments_of(rng, s)}
        if dropped:
            options["rng"] = np.random.default_rng(int(rng.integers(1 << 30)))
        return Case("", order_one(build(s), rng), (activations_of(rng, s),), options)
    return case


def _attention(rng, s: Sizes) -> Case:
    q, k, v = (activations_of(rng, s, s.B, s.H, s.T, s.D) for _ in range(3))
    attention = L.CausalAttention(scale=1 / np.sqrt(s.D).item(), tile=1 + s.T // 3)
    return Case("", attention, (q, k, v), {"segments": segments_of(rng, s)})


def _self_attention(s: Sizes) -> L.SelfAttention:
    return L.SelfAttention(s.C, s.H, head_size=s.D, window=1 + s.T // 3, dropout=0.3, tile=1 + s.T // 3, dtype=s.dtype)


def _block(s: Sizes) -> L.Recompute:
    return L.Recompute(L.PreNormBlock(s.C, s.H, head_size=s.D, n_hidden=s.F, tile=1 + s.T // 3, dropout_attn=0.2,
                                      dropout_resid=0.3, dtype=s.dtype))


BUILDERS: dict[str, Callable] = {
    "packed-learned-positions": _packed(lambda s: L.LearnedPositions(s.T + 2, s.C, dtype=s.dtype)),
    "packed-sinusoidal-positions": _packed(lambda s: L.SinusoidalPositions(s.T + 2, s.C)),
    "packed-attention": _attention,
    "packed-self-attention-window-dropout": _packed(_self_attention, dropped=True),
    "packed-block-recompute": _packed(_block, dropped=True),
}
