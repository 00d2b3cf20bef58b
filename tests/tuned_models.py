"""What the tests of models that learn from preferences share."""

import json
from contextlib import nullcontext

import numpy as np

from numgpt import GPT, GPTConfig
from numgpt.tuning import synthetic
from numgpt.tuning.template import Template
from numgpt.tuning.tuned import Tuned
from numgpt.verify import mutants


def slope(model, batch, *, planted: str | None = None, seed: int = 0) -> tuple[float, float]:
    """Of the loss, in a random direction: by backward, and by a complex step of the same forward, which has no rounding to speak of."""
    direction = np.random.default_rng(seed).standard_normal(model.values.size)
    with mutants.apply(planted) if planted else nullcontext():
        model.zero_grad()
        model.backward(model.forward(*batch)[1])
        bent = model.astype(complex)
        bent.values = model.values + 1e-30j * direction
        return float(model.grads @ direction), float(bent(*batch).imag / 1e-30 if planted is None else bent.forward(*batch)[0].imag / 1e-30)


def tiny_start(dtype=np.float32) -> tuple[Tuned, object]:
    """A model that has the tokens of turns, and was taught nothing."""
    tokenizer = synthetic.TOKENIZER
    template = Template("instruct", tokenizer.n_vocab)
    config = GPTConfig(n_vocab=template.n_vocab, n_ctx=56, n_layer=1, n_head=2, n_embd=8, std=0.3)
    return Tuned(GPT(config, seed=1, dtype=dtype), template), tokenizer


def write_pairs(path, n: int, *, seed: int = 0) -> str:
    """A file of drawn pairs."""
    items = synthetic.draw("shorter", n, seed).items
    path.write_text("".join(json.dumps({"prompt": item.prompt, "chosen": item.chosen, "rejected": item.rejected}) + "\n" for item in items))
    return str(path)


def moved(trainer, n: int) -> None:
    """So many steps, as run takes them."""
    for _ in range(n):
        trainer.step()
