"""The cases of LoRA."""

from collections.abc import Callable

from numgpt import layers as L
from numgpt.verify.cases.frame import Case, Sizes, activations_of, order_one

ALPHA = 5.0  # no multiple of the rank, so that the scale is not 1


def _lora(rng, s: Sizes, **options) -> Case:
    """What it starts with, moved: both matrices are of order one, and how they were drawn still shows."""
    linear = order_one(L.Linear(s.C, s.F, dtype=s.dtype, **options), rng)
    layer = L.LoRA(linear, min(3, s.C, s.F), ALPHA, rng=rng)
    for param in (layer.lora_a, layer.lora_b):
        param.value += rng.standard_normal(param.shape).astype(s.dtype)
    return Case("", layer, (activations_of(rng, s),))


BUILDERS: dict[str, Callable] = {
    "lora": _lora,
    "lora-no-bias": lambda rng, s: _lora(rng, s, bias=False),
}
