"""What nanoGPT and minGPT save with torch.save, as NumPy arrays (numgpt.verify.adapters makes them so).

Neither records everything. nanoGPT does not say which GELU it used: the exact one today, the tanh form in its first
months. minGPT saves the weights alone and does not say how many heads there are.
"""

import re
from collections.abc import Mapping

from numgpt.config import GPTConfig
from numgpt.files import FormatError
from numgpt.formats import huggingface
from numgpt.model import GPT, Stored

LINEAR = re.compile(r".*\.(c_attn|c_proj|c_fc)\.weight")  # of nn.Linear, (out, in)
NANOGPT = {"vocab_size": "n_vocab", "block_size": "n_ctx", "n_layer": "n_layer", "n_head": "n_head", "n_embd": "n_embd"}


def build(checkpoint: Mapping, source: str, *, n_head: int | None = None, activation: str | None = None,
          dtype=None) -> GPT:
    """The model of a checkpoint: nanoGPT's dictionary with "model" and "model_args", or minGPT's state_dict."""
    if "model" in checkpoint and "model_args" in checkpoint:
        tensors, config = checkpoint["model"], _nanogpt(checkpoint["model_args"], source, activation or "gelu")
    elif "transformer.wte.weight" in checkpoint and "lm_head.weight" in checkpoint:
        tensors, config = checkpoint, _mingpt(checkpoint, source, n_head, activation or "gelu_tanh")
    else:
        raise FormatError(f"{source} is neither nanoGPT's checkpoint, which has 'model' and 'model_args', nor minGPT's, "
                          "which has 'transformer.wte.weight' and 'lm_head.weight'")
    stored = {}
    for name, array in tensors.items():
        name = name.removeprefix("_orig_mod.")  # which torch.compile puts before
        if getattr(array, "shape", None) is None:
            raise FormatError(f"{source}: {name!r} is no array, but {type(array).__name__}")
        one = Stored(name, array.shape, array.dtype, lambda array=array: array)
        stored[name] = one.turned() if LINEAR.fullmatch(name) else one
    return huggingface.build(config, "gpt2", stored, source, dtype=dtype)


def _nanogpt(arguments: Mapping, source: str, activation: str) -> GPTConfig:
    lacking = [name for name in NANOGPT if name not in arguments]
    if lacking:
        raise FormatError(f"{source}: model_args does not say {', '.join(lacking)}")
    dropout = arguments.get("dropout", 0.0)
    try:
        return GPTConfig(**{ours: arguments[theirs] for theirs, ours in NANOGPT.items()}, bias=arguments.get("bias", True),
                         activation=activation, dropout_embd=dropout, dropout_attn=dropout, dropout_resid=dropout)
    except (ValueError, TypeError) as error:
        raise FormatError(f"{source}: its model_args are not ones that numgpt can follow: {error}") from None


def _mingpt(tensors: Mapping, source: str, n_head: int | None, activation: str) -> GPTConfig:
    if n_head is None:
        raise FormatError(f"{source} is minGPT's, which saves no config: say how many heads it has (n_head=, --n-head)")
    (n_vocab, n_embd), n_ctx = tensors["transformer.wte.weight"].shape, len(tensors["transformer.wpe.weight"])
    n_layer = len({name.split(".")[2] for name in tensors if name.startswith("transformer.h.")})
    return GPTConfig(n_vocab=n_vocab, n_ctx=n_ctx, n_layer=n_layer, n_head=n_head, n_embd=n_embd, tied=False,
                     activation=activation, dropout_embd=0.1, dropout_attn=0.1, dropout_resid=0.1)
