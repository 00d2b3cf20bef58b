"""Every layer, and every preset's form made small, as a case to be checked: at weights of order one, in sizes that
are coprime or drawn.

A mistake hides where weights are small and sizes alike: a gradient transposed by accident still has
the right shape if T = D, and still is small enough if weights are.

frame.py says what a case is; each other file holds some, as BUILDERS with their names: build(rng, sizes).
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from numgpt.config import PRESETS, GPTConfig
from numgpt.model import GPT
from numgpt.verify.cases import classifier, layers, lora, packing, policy, ppo, preference, tuned
from numgpt.verify.cases.frame import Case, Scaled, Sizes, activations_of, ids_of, order_one, targets_of  # noqa: F401

BUILDERS: dict[str, Callable] = {**layers.BUILDERS, **preference.BUILDERS, **policy.BUILDERS, **packing.BUILDERS, **lora.BUILDERS}
TUNED: dict[str, Callable] = {**classifier.BUILDERS, **tuned.BUILDERS, **ppo.BUILDERS}


def names() -> list[str]:
    """The layers."""
    return list(BUILDERS)


def tuned_models() -> list[str]:
    """What fine-tuning makes of a GPT: whole models, with their losses."""
    return list(TUNED)


def models() -> dict[str, GPTConfig]:
    """The whole models: nano as it is, and the forms of the other presets in small, each once."""
    forms = {name if name.startswith("gpt") else f"gpt-{name}": small(name) for name in PRESETS if name != "nano"}
    first = {config: name for name, config in reversed(forms.items())}
    return {"gpt-nano": GPTConfig.preset("nano"), **{name: config for name, config in forms.items() if first[config] == name}}


def make(name: str, seed: int = 0, sizes: Sizes = Sizes()) -> Case:
    """The case of that name, with weights and inputs drawn from the seed."""
    build = {**BUILDERS, **TUNED}.get(name) or _model(models()[name])
    case = build(np.random.default_rng(seed), sizes)
    case.name = name
    return case


def small(preset: str) -> GPTConfig:
    """The preset's form with two layers and coprime sizes: what it turns on stays on."""
    c = GPTConfig.preset(preset)
    return c.change(n_layer=2, n_head=3, n_embd=15, n_vocab=13, n_ctx=8, n_hidden=c.n_hidden and 17,
                    head_size=c.head_size and 7, window=c.window and 3)


def _model(config: GPTConfig) -> Callable:
    def build(rng, s: Sizes) -> Case:
        model = order_one(GPT(config, dtype=s.dtype), rng)
        s = replace(s, V=config.n_vocab, T=config.n_ctx - 1)
        dropped = config.dropout_embd or config.dropout_attn or config.dropout_resid
        options = {"rng": np.random.default_rng(int(rng.integers(1 << 30)))} if dropped else {}
        return Case("", model, (ids_of(rng, s), targets_of(rng, s)), options)
    return build
