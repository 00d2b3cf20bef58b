"""Make the golden vectors: small GPTs by torch in float64, with their logits, loss and every gradient.

    python tests/golden/make.py [folder]

A file holds, by numgpt's names, "values.<name>" for each weight and "grads.<name>" for the loss's gradient by it;
"ids", "targets" (-100 does not count), "logits" and "loss". Its metadata has one entry, since the official library
writes several in a random order: "golden", a JSON object with the form, the config, the seed and torch's version.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]  # numgpt, and frameworks.py

import numpy as np  # noqa: E402
from frameworks import gpt_and_gradients  # noqa: E402

from numgpt import GPT, GPTConfig  # noqa: E402
from numgpt.verify import cases  # noqa: E402

# All different: a transpose by accident changes a shape.
SIZES = dict(n_vocab=13, n_ctx=11, n_layer=2, n_head=3, n_embd=6)
B, T = 5, 7
FORMS = {
    "gpt2": GPTConfig(**SIZES),
    "gpt1": GPTConfig(**SIZES, norm="post"),
    "gpt3-banded": GPTConfig.preset("gpt3-1.3b", **SIZES, head_size=4, window=3),
    "classic": GPTConfig.preset("classic", **SIZES, n_hidden=17),
    "sinusoidal-silu-no-bias": GPTConfig(**SIZES, positions="sinusoidal", activation="silu", bias=False),
    "untied-gelu-scaled-by-layer": GPTConfig(**SIZES, tied=False, activation="gelu", scale_attn_by_layer=True),
    "quick-gelu-unscaled": GPTConfig(**SIZES, activation="quick_gelu", scale_attn=False, norm_eps=1e-3, n_hidden=17),
}
SEED = 1


def golden(config: GPTConfig) -> dict[str, np.ndarray]:
    """The tensors of a file: NumPy draws them, torch computes."""
    rng, sizes = np.random.default_rng(SEED), cases.Sizes(B=B, T=T, V=config.n_vocab)
    model = cases.order_one(GPT(config, dtype=np.float64), rng)
    values = {name: param.value for name, param in model.named_params()}
    ids, targets = cases.ids_of(rng, sizes), cases.targets_of(rng, sizes)
    found = gpt_and_gradients("torch", config, values, ids, targets)
    return {"ids": ids, "targets": targets, "logits": found.pop("logits"), "loss": found.pop("loss"),
            **{f"values.{name}": value for name, value in values.items()},
            **{f"grads.{name}": grad for name, grad in found.items()}}


def main(folder: Path) -> None:
    import torch
    from safetensors.numpy import save_file
    torch.set_num_threads(1)  # so that the number of cores does not show in the last bits
    for form, config in FORMS.items():
        about = {"form": form, "config": config.to_dict(), "seed": SEED, "torch": torch.__version__}
        tensors = {name: np.asarray(array, order="C") for name, array in golden(config).items()}
        save_file(tensors, folder / f"{form}.safetensors", {"golden": json.dumps(about)})


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else HERE)
