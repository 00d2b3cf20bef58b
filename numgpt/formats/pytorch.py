"""What nanoGPT and minGPT save with torch.save, as NumPy arrays (numgpt.verify.adapters makes them so).

Neither records everything. nanoGPT does not say which GELU it used: the exact one today, the tanh form in its first
months. minGPT saves the weights alone and does not say how many heads there are.
"""

import re
from collections.abc import Mapping

import numpy as np

from numgpt.config import GPTConfig
from numgpt.files import FormatError
from numgpt.formats import huggingface
from numgpt.model import GPT
from numgpt.stored import Stored

PREFIXES = re.compile(r"^(module\.|_orig_mod\.)+")  # of torch's data parallel models, and of compiled ones
LINEAR = re.compile(r".*\.(c_attn|c_proj|c_fc)\.weight")  # of nn.Linear, (out, in)
TABLES = {"transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight"}
NANOGPT = {"vocab_size": "n_vocab", "block_size": "n_ctx", "n_layer": "n_layer", "n_head": "n_head", "n_embd": "n_embd"}


def build(checkpoint: Mapping, source: str, *, n_head: int | None = None, activation: str | None = None,
          dtype=None) -> GPT:
    """The model of a checkpoint: nanoGPT's dictionary with "model" and "model_args", or minGPT's state_dict."""
    tensors = checkpoint.get("model", checkpoint)
    if not isinstance(tensors, Mapping):
        raise FormatError(f"{source}: 'model' must hold tensors by name; it is {type(tensors).__name__}")
    tensors = {PREFIXES.sub("", str(name)): array for name, array in tensors.items()}
    if "model_args" not in checkpoint and not TABLES <= set(tensors):
        raise FormatError(f"{source} is neither nanoGPT's checkpoint, which has 'model' and 'model_args', nor minGPT's, "
                          "which has 'transformer.wte.weight', 'transformer.wpe.weight' and 'lm_head.weight'")
    for name, array in tensors.items():
        if not isinstance(array, np.ndarray):
            raise FormatError(f"{source}: {name!r} is no array, but {type(array).__name__}")
    config = (_nanogpt(checkpoint["model_args"], source, activation or "gelu") if "model_args" in checkpoint
              else _weights_alone(tensors, source, n_head, activation))
    stored = {name: Stored(name, array.shape, array.dtype, lambda array=array: array, turned=bool(LINEAR.fullmatch(name)))
              for name, array in tensors.items()}
    return huggingface.build(config, "gpt2", stored, source, dtype=dtype)


def _nanogpt(arguments: Mapping, source: str, activation: str) -> GPTConfig:
    if not isinstance(arguments, Mapping):
        raise FormatError(f"{source}: 'model_args' must hold sizes by name; it is {type(arguments).__name__}")
    lacking = [name for name in NANOGPT if name not in arguments]
    if lacking:
        raise FormatError(f"{source}: model_args does not say {', '.join(lacking)}")
    dropout = arguments.get("dropout", 0.0)
    return _config(source, **{ours: arguments[theirs] for theirs, ours in NANOGPT.items()}, bias=arguments.get("bias", True),
                   activation=activation, dropout_embd=dropout, dropout_attn=dropout, dropout_resid=dropout)


def _weights_alone(tensors: Mapping[str, np.ndarray], source: str, n_head: int | None, activation: str | None) -> GPTConfig:
    """minGPT's config, from the shapes; or nanoGPT's, whose head is tied, where only its weights were saved."""
    if n_head is None:
        raise FormatError(f"{source} holds weights without a config: say how many heads there are (n_head=, --n-head)")
    table, positions = tensors["transformer.wte.weight"], tensors["transformer.wpe.weight"]
    tied = np.array_equal(table, tensors["lm_head.weight"])
    if tied and activation is None:
        raise FormatError(f"{source} holds weights without a config, and the head is tied as in nanoGPT, not as in minGPT: "
                          "say the activation (activation=, --activation), which nanoGPT has changed")
    if table.ndim != 2 or positions.ndim != 2:
        raise FormatError(f"{source}: the tables of tokens and positions must be matrices; their shapes are "
                          f"{table.shape} and {positions.shape}")
    n_layer = len({name.split(".")[2] for name in tensors if name.startswith("transformer.h.")})
    return _config(source, n_vocab=len(table), n_ctx=len(positions), n_layer=n_layer, n_head=n_head, n_embd=table.shape[1],
                   tied=tied, bias="transformer.ln_f.bias" in tensors, activation=activation or "gelu_tanh",
                   dropout_embd=0.1, dropout_attn=0.1, dropout_resid=0.1)


def _config(source: str, **fields) -> GPTConfig:
    try:
        return GPTConfig(**fields)
    except (ValueError, TypeError) as error:
        raise FormatError(f"{source} is not a model that numgpt can follow: {error}") from None
