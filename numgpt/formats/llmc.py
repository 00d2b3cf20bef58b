"""llm.c's files: gpt2_*.bin with the weights, and *_debug_state.bin with a step to hold a port against.

    model = llmc.load("gpt2_124M.bin")
    llmc.save(model, "gpt2_124M.bin")
    state = llmc.read_state("gpt2_124M_debug_state.bin", model.config)
    llmc.write_state(llmc.state_of(model, ids, targets), "debug_state.bin", model.config)

A header of 256 int32, then the arrays without names, each for all layers at once. Weights of linear layers are
(out, in) and turned here; the token table has rows of padding, up to a multiple of 128.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from numgpt import adapted
from numgpt.bfloat16 import BFloat16, file_type, rounded
from numgpt.config import GPTConfig
from numgpt.files import FormatError, mapped, replacing
from numgpt.formats.limits import beyond_gpt2, refuse
from numgpt.layers.inputs import IGNORE
from numgpt.model import GPT
from numgpt.plan import shapes
from numgpt.stored import Stored

HEADER = 256  # int32s
MODEL, STATE = 20240326, 20240327
VERSIONS = {3: "float32", 5: "bfloat16"}
STATE_VERSION = 2
PADDING = 128

# In the order of the file: our name (of one layer), and whether it lies there as (out, in).
ORDER = [("embedding.table", False), ("positions.table", False),
         *((f"blocks.{{}}.{name}", name.endswith("weight")) for name in (
             "norm1.gain", "norm1.bias", "attention.qkv.weight", "attention.qkv.bias", "attention.out.weight",
             "attention.out.bias", "norm2.gain", "norm2.bias", "ffn.up.weight", "ffn.up.bias", "ffn.down.weight",
             "ffn.down.bias")),
         ("norm.gain", False), ("norm.bias", False)]


def load(path, *, dtype=None, recompute: bool = False) -> GPT:
    """The model of a file; dtype None: float32, in which bfloat16 is exact."""
    with open(path, "rb") as file:
        config, number, n_padded = _read_model_header(file, path)
        tensors = {}
        for name, shape, turned, begin in _layout(config, n_padded, 4 * HEADER, number.itemsize):
            tensors[name] = Stored(name, shape, np.dtype("f4"), partial(_fetch, file, begin, shape, number), turned)
        return GPT.filled(config, tensors, str(path), dtype=dtype, recompute=recompute)


def config_of(path) -> GPTConfig:
    with open(path, "rb") as file:
        return _read_model_header(file, path)[0]


def save(model: GPT, path, *, dtype="float32") -> None:
    """Write the weights in "float32" or "bfloat16". What llm.c cannot say is refused by name.

    Dropout and the spread of the first weights are settings of training, which its files do not hold.
    """
    versions = {name: number for number, name in VERSIONS.items()}
    name = file_type(model.values.dtype, dtype, tuple(versions))
    c = model.config
    _refuse(c)
    adapted.refuse(model, "a file of llm.c")
    with replacing(path) as file:
        file.write(_header_bytes(MODEL, versions[name], c.n_ctx, c.n_vocab, c.n_layer, c.n_head, c.n_embd, _padded(c.n_vocab)))
        _write_arrays(file, c, {name: param.value for name, param in model.named_params()}, name)


@dataclass(frozen=True)
class State:
    """One batch, what a model makes of it, and the gradients by our names of the parameters; all floats are float32."""

    ids: np.ndarray             # (B, T)
    targets: np.ndarray         # (B, T)
    logits: np.ndarray          # (B, T, V)
    loss: np.float32
    grads: dict[str, np.ndarray]


def state_of(model: GPT, ids, targets) -> State:
    """The state of a model at a batch. The model's own gradients are left as they are."""
    if model.values.dtype.kind == "c":
        raise TypeError("the model is complex; a debug state, whose numbers are float32, would lose half of it")
    adapted.refuse(model, "a debug state of llm.c")
    if model.grads.size < model.values.size:
        raise ValueError("a debug state has the gradients of all parameters, and some of the model's are frozen: "
                         "model.thaw() and model.lay_out() first")
    replica = model.replica()
    loss, saved = replica.forward(ids, targets)
    replica.backward(saved)
    return State(np.asarray(ids, np.int32), np.asarray(targets, np.int32), model.logits(ids).astype(np.float32),
                 np.float32(loss), {name: param.grad.astype(np.float32) for name, param in replica.named_params()})


def read_state(path, config: GPTConfig) -> State:
    """A debug state. Its file does not say of what model, so the config must."""
    _refuse(config)
    with open(path, "rb") as file:
        _, version, B, T = _header(file, path, STATE)[:4]
        if version != STATE_VERSION:
            raise FormatError(f"{path} has version {version} of llm.c's debug state; numgpt reads {STATE_VERSION}")
        if B < 1 or not 1 <= T <= config.n_ctx:
            raise FormatError(f"{path} has a batch of {B} x {T} tokens; the config has a context of {config.n_ctx}")
        n_padded, V = _padded(config.n_vocab), config.n_vocab
        sizes = [B * T, B * T, B * T * V, 1, _numbers(config, n_padded)]
        _hold_to_size(file, path, 4 * (HEADER + sum(sizes)), "a state of that config")
        begins = [4 * (HEADER + sum(sizes[:i])) for i in range(len(sizes))]
        ids, targets = (mapped(file, begin, (B, T), "<i4").copy() for begin in begins[:2])
        if ids.min() < 0 or ids.max() >= V or not ((targets == IGNORE) | (targets >= 0) & (targets < V)).all():
            raise FormatError(f"{path} has token ids that are not in a vocabulary of {V}")
        grads = {}
        for name, shape, turned, begin in _layout(config, n_padded, begins[4], 4):
            grad = mapped(file, begin, shape, "<f4")
            grads[name] = np.array(grad.T if turned else grad, order="C")
        return State(ids, targets, mapped(file, begins[2], (B, T, V), "<f4").copy(),
                     mapped(file, begins[3], (), "<f4")[()], grads)


def write_state(state: State, path, config: GPTConfig) -> None:
    """Write a state, which must be of a model of that config."""
    _refuse(config)
    B, T = state.ids.shape
    found = {name: grad.shape for name, grad in state.grads.items()} | {"logits": state.logits.shape, "targets": state.targets.shape}
    for name, shape in {**dict(shapes(config)), "logits": (B, T, config.n_vocab), "targets": (B, T)}.items():
        if found.get(name) != shape:
            raise ValueError(f"the config calls for {shape} as the shape of {name}; the state has {found.get(name)}")
    if T > config.n_ctx:
        raise ValueError(f"the state has sequences of {T} tokens; the config has a context of {config.n_ctx}")
    with replacing(path) as file:
        file.write(_header_bytes(STATE, STATE_VERSION, B, T))
        for ids in (state.ids, state.targets):
            file.write(np.ascontiguousarray(ids, "<i4"))
        file.write(np.ascontiguousarray(state.logits, "<f4"))
        file.write(np.asarray(state.loss, "<f4").tobytes())
        _write_arrays(file, config, state.grads, "float32")


# -- the arrays, all layers of one kind after each other


def _layout(config: GPTConfig, n_padded: int, begin: int, itemsize: int) -> Iterator[tuple[str, tuple[int, ...], bool, int]]:
    """Our name, the shape in the file without padding, whether that is ours turned, and the first byte of each tensor."""
    ours = dict(shapes(config))
    for form, turned in ORDER:
        for i in range(config.n_layer if "{}" in form else 1):
            name = form.format(i)
            shape = ours[name][::-1] if turned else ours[name]
            yield name, shape, turned, begin
            padding = (n_padded - config.n_vocab) * config.n_embd if name == "embedding.table" else 0
            begin += itemsize * (math.prod(shape) + padding)


def _write_arrays(file, config: GPTConfig, arrays: dict[str, np.ndarray], kind: str) -> None:
    n_padded = _padded(config.n_vocab)
    for name, shape, turned, _ in _layout(config, n_padded, 0, 0):
        array = rounded(arrays[name].T if turned else arrays[name], kind)
        file.write(array.bits.astype("<u2") if kind == "bfloat16" else np.ascontiguousarray(array, "<f4"))
        if name == "embedding.table":
            file.write(bytes((2 if kind == "bfloat16" else 4) * (n_padded - config.n_vocab) * config.n_embd))


def _fetch(file, begin: int, shape: tuple[int, ...], number: np.dtype) -> np.ndarray:
    array = mapped(file, begin, shape, number)
    return array if number.kind == "f" else BFloat16(array).floats()


def _numbers(config: GPTConfig, n_padded: int) -> int:
    return config.n_params + (n_padded - config.n_vocab) * config.n_embd


def _padded(n_vocab: int) -> int:
    return -(-n_vocab // PADDING) * PADDING


# -- headers and limits


def _read_model_header(file, path) -> tuple[GPTConfig, np.dtype, int]:
    """The config, the type of the numbers (bfloat16 as the uint16 of its bits), and the vocabulary with its padding."""
    _, version, n_ctx, n_vocab, n_layer, n_head, n_embd, n_padded = _header(file, path, MODEL)[:8]
    if version not in VERSIONS:
        raise FormatError(f"{path} has version {version} of llm.c's weights; numgpt reads "
                          + " and ".join(f"{number} ({name})" for number, name in VERSIONS.items()))
    try:
        config = GPTConfig(n_vocab=n_vocab, n_ctx=n_ctx, n_layer=n_layer, n_head=n_head, n_embd=n_embd)
    except ValueError as error:
        raise FormatError(f"{path}: its header is not one: {error}") from None
    if n_padded < n_vocab:
        raise FormatError(f"{path}: its header pads a vocabulary of {n_vocab} to {n_padded}")
    number = np.dtype("<u2" if VERSIONS[version] == "bfloat16" else "<f4")
    _hold_to_size(file, path, 4 * HEADER + number.itemsize * _numbers(config, n_padded), "its header")
    return config, number, n_padded


def _header(file, path, magic: int) -> list[int]:
    header = np.frombuffer(file.read(4 * HEADER), "u1")
    if len(header) < 4 * HEADER:
        raise FormatError(f"{path} has {len(header)} bytes; the header of an llm.c file alone has {4 * HEADER}")
    header = header.view("<i4").tolist()
    if header[0] != magic:
        raise FormatError(f"{path} begins with {header[0]}; llm.c's {'weights' if magic == MODEL else 'debug states'} begin with {magic}")
    return header


def _header_bytes(*fields: int) -> bytes:
    header = np.zeros(HEADER, "<i4")
    header[:len(fields)] = fields
    return header.tobytes()


def _hold_to_size(file, path, wanted: int, by: str) -> None:
    size = os.fstat(file.fileno()).st_size
    if size != wanted:
        raise FormatError(f"{path} has {size} bytes; {by} calls for {wanted}")


def _refuse(config: GPTConfig) -> None:
    c = config
    refuse("llm.c", beyond_gpt2(c) | {
        f"norm={c.norm!r}": c.norm != "pre", f"norm_eps={c.norm_eps}": c.norm_eps != 1e-5,
        f"activation={c.activation!r}": c.activation != "gelu_tanh", "tied=False": not c.tied,
        f"n_hidden={c.n_hidden}": c.hidden_dim != 4 * c.n_embd,
        "scale_attn=False": not c.scale_attn, "scale_attn_by_layer=True": c.scale_attn_by_layer})
