"""The files in which a port may dump its tensors, each read into arrays by its own names. Nothing is unpickled."""

import lzma
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from numgpt import formats, safetensors
from numgpt.config import GPTConfig
from numgpt.files import FormatError, mapped, short
from numgpt.formats import llmc
from numgpt.verify.adapters import torch_checkpoint

DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError, ValueError)


def tensors(path, config: GPTConfig) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """What is dumped there by its names, and for each the type in which it is stored."""
    path = Path(path)
    if path.is_dir() and not (path / formats.BEST).is_file() and any(path.rglob("*.npy")):
        return _typed(_folder(path))
    if path.is_dir():
        return _model(path)
    with open(path, "rb") as file:
        start = file.read(9)
    if path.suffix == ".npz":
        return _typed(_npz(path))
    if start.startswith(npy.MAGIC_PREFIX):
        return _typed({path.stem: _npy(path)})
    if start[:4] == llmc.STATE.to_bytes(4, "little"):
        return _typed(_state(path, config))
    if start[:4] == llmc.MODEL.to_bytes(4, "little"):
        return _model(path)
    if start.startswith(formats.TORCH):
        arrays, kinds = _typed(_flat(torch_checkpoint(path), str(path)))
        if _were_bfloat16(arrays):
            kinds = {name: "bfloat16" if kind == "float32" else kind for name, kind in kinds.items()}
        return arrays, kinds
    if path.suffix != ".safetensors" and start[8:] != b"{":
        raise FormatError(f"{path} is nothing that numgpt reads as a dump: no safetensors, .npz, folder of .npy, .pt of PyTorch or "
                          "state of llm.c")
    with safetensors.File(path) as file:
        file.map_whole()
        stored = {"BF16": "bfloat16"}
        kinds = {name: stored.get(entry.dtype, safetensors.DTYPES[entry.dtype].name) for name, entry in file.entries.items()}
        return dict(file), kinds


def _typed(arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    return arrays, {name: array.dtype.name for name, array in arrays.items()}


def _model(path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """A model's weights, by our names for a dump of them."""
    model = formats.load(path)
    return _typed({f"weights.{name}": param.value for name, param in model.named_params()})


def _state(path, config: GPTConfig) -> dict[str, np.ndarray]:
    state = llmc.read_state(path, config)
    return {"inputs.ids": state.ids, "inputs.targets": state.targets, "forward.logits": state.logits,
            "forward.loss": np.asarray(state.loss), **{f"grads.{name}": grad for name, grad in state.grads.items()}}


def _folder(path: Path) -> dict[str, np.ndarray]:
    found: dict[str, Path] = {}
    for file in sorted(path.rglob("*.npy")):
        name = ".".join(file.relative_to(path).with_suffix("").parts)
        if name in found:
            raise FormatError(f"{found[name]} and {file} are both called {name!r}: a slash counts as a dot")
        found[name] = file
    return {name: _npy(file) for name, file in found.items()}


def _npy(path: Path) -> np.ndarray:
    with open(path, "rb") as file:
        size = path.stat().st_size
        shape, turned, dtype, begin = _header(file, size, str(path))
        array = mapped(file, begin, shape[::-1] if turned else shape, dtype)
        return array.T if turned else array


def _npz(path: Path) -> dict[str, np.ndarray]:
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                where = f"{path}: {short(name)}"
                if name in arrays:
                    raise FormatError(f"{where} is there twice")
                with archive.open(info) as file:
                    shape, turned, dtype, begin = _header(file, info.file_size, where)
                    data = file.read(info.file_size - begin)
                if len(data) != math.prod(shape) * dtype.itemsize:
                    raise FormatError(f"{where} was cut short")
                arrays[name] = np.frombuffer(data, dtype).reshape(shape, order="F" if turned else "C")
    except FormatError:
        raise
    except DAMAGED as error:
        raise FormatError(f"{path} is not a whole .npz: {error}") from None
    return arrays


def _header(file, size: int, where: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether in Fortran's order, type and first byte, held against the size before any memory is taken."""
    try:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise FormatError(f"{where} has version {version[0]}.{version[1]} of NumPy's format; numbers come in 1.0 and 2.0")
        shape, turned, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
    except FormatError:
        raise
    except Exception as error:  # NumPy parses the header as Python, which may fail in as many ways as Python has errors
        raise FormatError(f"{where} is not NumPy's array: {str(error).splitlines()[0] if str(error) else type(error).__name__}") from None
    if dtype.hasobject or dtype.kind not in "biufc":
        raise FormatError(f"{where} holds {'Python objects' if dtype.hasobject else dtype}, which are not numbers and are not read")
    if any(n < 0 for n in shape) or len(shape) > safetensors.MOST_AXES:
        raise FormatError(f"{where} claims the shape {short(shape)}")
    begin = file.tell()
    if math.prod(shape) * dtype.itemsize != size - begin:
        raise FormatError(f"{where} claims the shape {short(shape)} of {dtype}, {math.prod(shape) * dtype.itemsize} bytes; "
                          f"{size - begin} are there")
    return shape, turned, dtype, begin


def _flat(content: Mapping, source: str) -> dict[str, np.ndarray]:
    """Nested dictionaries and lists with dots between their names; texts and settings are passed over."""
    arrays: dict[str, np.ndarray] = {}
    todo = [("", content, 0)]
    while todo:
        name, item, depth = todo.pop()
        if depth > 32:
            raise FormatError(f"{source} is nested too deeply, at {short(name)}")
        inside = item.items() if isinstance(item, Mapping) else enumerate(item) if isinstance(item, (list, tuple)) else None
        if inside is not None:
            todo += [(f"{name}.{key}" if name else str(key), one, depth + 1) for key, one in inside]
        elif isinstance(item, np.ndarray) or type(item) in (int, float):
            if name in arrays:
                raise FormatError(f"{source}: {short(name)} is there twice: a dictionary in it counts as a dot")
            arrays[name] = np.asarray(item) if abs(item if type(item) is int else 0) < 1 << 63 else np.asarray(float("nan"))
    return arrays


def _were_bfloat16(arrays: Mapping[str, np.ndarray]) -> bool:
    """All float32, and the lower half of every number empty: so bfloat16 comes out of torch.

    One tensor tells nothing: gains of 1, masks and rounded weights look so in float32 as well.
    """
    floats = [array for array in arrays.values() if array.dtype.kind == "f" and array.size >= 8]
    return any(array.any() for array in floats) and all(
        array.dtype == np.float32 and not (np.ascontiguousarray(array).view(np.uint32) & 0xFFFF).any() for array in floats)
