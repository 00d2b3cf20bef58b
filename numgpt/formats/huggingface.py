"""Hugging Face's folders for GPT-2 and GPT-1: config.json beside model.safetensors or its shards.

    model = huggingface.load("folder")
    huggingface.save(model, "folder")

Their Conv1D weights are (in, out), as ours are; a head that is not tied is (out, in), and turned here. GPT-1's mask
there is a score of -10000, and here -inf: they differ where a score that counts comes near -10000 itself.
"""

import json
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from numgpt import adapted, safetensors
from numgpt.bfloat16 import file_type, rounded
from numgpt.config import GPTConfig
from numgpt.files import FormatError, read_json, replacing, replacing_files
from numgpt.formats.huggingface_config import read_config, write_config
from numgpt.layers.inputs import positive
from numgpt.model import GPT
from numgpt.stored import Stored, stored_in

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")

# The names of our parameters, and theirs.
INSIDE = {"norm1.gain": "ln_1.weight", "norm1.bias": "ln_1.bias",
          "attention.qkv.weight": "attn.c_attn.weight", "attention.qkv.bias": "attn.c_attn.bias",
          "attention.out.weight": "attn.c_proj.weight", "attention.out.bias": "attn.c_proj.bias",
          "norm2.gain": "ln_2.weight", "norm2.bias": "ln_2.bias",
          "ffn.up.weight": "mlp.c_fc.weight", "ffn.up.bias": "mlp.c_fc.bias",
          "ffn.down.weight": "mlp.c_proj.weight", "ffn.down.bias": "mlp.c_proj.bias"}
OUTSIDE = {"gpt2": {"embedding.table": "wte.weight", "positions.table": "wpe.weight",
                    "norm.gain": "ln_f.weight", "norm.bias": "ln_f.bias"},
           "openai-gpt": {"embedding.table": "tokens_embed.weight", "positions.table": "positions_embed.weight"}}
HEAD = "lm_head.weight"
# In older files: the causal mask and the numbers of the positions, no weights.
BUFFERS = re.compile(r"(transformer\.)?(position_ids|h\.\d+\.attn\.(bias|masked_bias))")


def load(folder, *, dtype=None, recompute: bool = False) -> GPT:
    """The model in a folder; dtype None: as it is stored, 16-bit numbers in float32."""
    folder = Path(folder)
    kind, config = _described(folder)
    with ExitStack() as files:
        return build(config, kind, _stored(folder, files), str(folder), dtype=dtype, recompute=recompute)


def config_of(folder) -> GPTConfig:
    return _described(Path(folder))[1]


def build(config: GPTConfig, kind: str, tensors: Mapping[str, Stored], source: str, *, dtype=None,
          recompute: bool = False) -> GPT:
    """The model of that config with tensors by their names."""
    tensors = {name: stored for name, stored in tensors.items() if not BUFFERS.fullmatch(name)}
    prefix = "transformer." if any(name.startswith("transformer.") for name in tensors) else ""
    table = their_name("embedding.table", kind, prefix)
    head = tensors.pop(HEAD, None)
    if head is not None and config.tied and table in tensors:
        _refuse_another_head(head, tensors[table], source)
    elif head is not None and config.tied:  # of two names for one matrix, this one was kept
        tensors[table] = replace(head, name=table)
    elif head is not None:
        tensors[HEAD] = replace(head, turned=True)
    return GPT.filled(config, tensors, source, dtype=dtype, theirs=lambda name: their_name(name, kind, prefix), recompute=recompute)


def save(model: GPT, folder, *, dtype=None, shard_bytes: int | None = None) -> None:
    """Write a folder that transformers loads: GPT-2 if the model is pre-norm, GPT-1 if it is post-norm.

    dtype: "float32", "float16", "bfloat16", ...; None: the model's. With shard_bytes, the weights go into several
    files of at most so many bytes of tensors (or of one tensor) and an index. What the format cannot say is refused by
    name, but for the spread of the first weights of positions and residuals, which a model that has weights no longer
    needs. Tokenizer and generation files are neither written nor removed.
    """
    shard_bytes = None if shard_bytes is None else positive(shard_bytes, "shard_bytes")
    name = file_type(model.values.dtype, dtype, ("float64", "float32", "float16", "bfloat16"))
    adapted.refuse(model, "a folder of Hugging Face")
    description = write_config(model.config) | {"dtype": name}
    kind = description["model_type"]
    tensors = {}
    for ours, param in model.named_params():
        value = param.value.T if ours == "head.weight" else param.value
        tensors[their_name(ours, kind)] = rounded(value, name)
    with replacing_files(folder, _holds_weights, last=CONFIG) as staging:
        if shard_bytes:
            _write_shards(tensors, staging, shard_bytes)
        else:
            safetensors.write(staging / WEIGHTS, tensors, {"format": "pt"})
        _write_json(staging / CONFIG, description)


def their_name(name: str, kind: str, prefix: str = "transformer.") -> str:
    """Their name of our parameter: "blocks.3.norm1.gain" is "transformer.h.3.ln_1.weight"."""
    if name == "head.weight":
        return HEAD
    if name.startswith("blocks."):
        _, i, inside = name.split(".", 2)
        return f"{prefix}h.{i}.{INSIDE[inside]}"
    return prefix + OUTSIDE[kind][name]


# -- files


def _described(folder: Path) -> tuple[str, GPTConfig]:
    if folder.exists() and not (folder / CONFIG).is_file():
        raise FormatError(f"{folder} is not one of Hugging Face's folders: it has no {CONFIG}")
    return read_config(read_json(folder / CONFIG), str(folder))


def _stored(folder: Path, files: ExitStack) -> dict[str, Stored]:
    """The tensors of model.safetensors, or of the shards that the index names."""
    if (folder / WEIGHTS).exists():
        return stored_in(files.enter_context(safetensors.File(folder / WEIGHTS)))
    if not (folder / INDEX).exists():
        others = [name for name in ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack")
                  if (folder / name).exists()]
        raise FormatError(f"{folder} has neither {WEIGHTS} nor {INDEX}"
                          + (f", only {others[0]}: load it with transformers and save it as safetensors" if others else ""))
    where = read_json(folder / INDEX).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(shard, str) for shard in where.values()):
        raise FormatError(f"{folder / INDEX}: weight_map must name the file of each tensor")
    tensors, beside = {}, {path.name for path in folder.iterdir() if path.is_file()}
    for shard in sorted(set(where.values())):
        if Path(shard).name != shard or shard not in beside:
            raise FormatError(f"{folder / INDEX} names {shard!r}, which is no file beside it")
        file = files.enter_context(safetensors.File(folder / shard))
        for name, stored in stored_in(file).items():
            if where.get(name) != shard:
                raise FormatError(f"{folder / shard} has a tensor {name!r}, which the index "
                                  + (f"places in {where[name]}" if name in where else "does not know"))
            tensors[name] = stored
    lost = set(where) - set(tensors) - {HEAD}  # which is missing only if the config does not tie it
    if lost:
        raise FormatError(f"{folder / where[min(lost)]} has no tensor {min(lost)!r}, which the index places there")
    return tensors


def _write_shards(tensors: Mapping, folder: Path, shard_bytes: int) -> None:
    """Fill one file after the other, and say in an index what lies where."""
    shards, room = [], 0
    sizes = {name: tensor.nbytes for name, tensor in tensors.items()}
    for name, size in sizes.items():
        if size > room or not shards:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= size
    files = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    for file, names in zip(files, shards):
        safetensors.write(folder / file, {name: tensors[name] for name in names}, {"format": "pt"})
    index = {"metadata": {"total_size": sum(sizes.values())},
             "weight_map": {name: file for file, names in zip(files, shards) for name in names}}
    _write_json(folder / INDEX, index)


def _write_json(path: Path, content: Mapping) -> None:
    with replacing(path) as file:
        file.write(json.dumps(content, indent=2).encode() + b"\n")


def _holds_weights(name: str) -> bool:
    """What an earlier model left would be read in place of a later one's."""
    return name in (WEIGHTS, INDEX) or bool(SHARD.fullmatch(name))


def _refuse_another_head(head: Stored, table: Stored, source: str) -> None:
    """A tied head may be stored a second time; another one under that name would be lost."""
    if head.shape != table.shape or not np.array_equal(head.fetch(), table.fetch(), equal_nan=True):
        raise FormatError(f"{source}: the config ties the head to {table.name!r}, but {HEAD!r} holds other numbers: "
                          "say tie_word_embeddings false if it is a head of its own")
