"""safetensors: a JSON header that says where each array lies, and the arrays.

    8 bytes   N, the length of the header, little-endian
    N bytes   {"__metadata__": {...}, "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}
    the rest  the arrays, one after the other, without a hole

A file is believed in nothing: every claim of the header is held against the size of the file before any memory is
taken for it.
"""

import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from numgpt.bfloat16 import BFloat16
from numgpt.files import FormatError, mapped, names_once, replacing, short, unicode

# The types in the order in which they lie in a file, widest first, so that every array is aligned.
DTYPES = {code: np.dtype(name) for code, name in (
    ("U64", "<u8"), ("I64", "<i8"), ("F64", "<f8"), ("C64", "<c8"), ("F32", "<f4"), ("U32", "<u4"), ("I32", "<i4"),
    ("BF16", "<u2"), ("F16", "<f2"), ("U16", "<u2"), ("I16", "<i2"), ("I8", "i1"), ("U8", "u1"), ("BOOL", "?"))}
CODES = {dtype: code for code, dtype in DTYPES.items() if code != "BF16"}
LONGEST_HEADER = 100_000_000
MOST_AXES = 64  # NumPy's own limit


@dataclass(frozen=True)
class Entry:
    """What the header says of one tensor; begin and end are places in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class File(Mapping):
    """The tensors of a file by name. Only the header is read; a tensor is mapped into memory when it is asked for.

    file["name"] is a read-only array, which lives on after the file is closed; BF16 comes as float32, in an array of its
    own. As long as arrays are in use, the file must not be shortened: that is how memory maps are.
    """

    def __init__(self, path):
        self.path = path
        self._whole = None
        self._file = open(path, "rb")
        try:
            self.metadata, self.entries = _read_header(self._file)
        except FormatError as error:
            self.close()
            raise FormatError(f"{path} is not a safetensors file: {error}") from None
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self.entries[name]
        array = self._mapped(entry, np.dtype("u1") if entry.dtype == "BOOL" else DTYPES[entry.dtype])
        if entry.dtype == "BF16":
            return BFloat16(array).floats()
        if entry.dtype == "BOOL":
            if array.max(initial=0) > 1:
                raise FormatError(f"{self.path}: tensor {name!r} is BOOL and holds a byte that is neither 0 nor 1")
            return array.view(bool)
        return array

    def _mapped(self, entry: Entry, dtype: np.dtype) -> np.ndarray:
        if self._whole is None:
            return mapped(self._file, entry.begin, entry.shape, dtype)
        return self._whole[entry.begin:entry.end].view(dtype).reshape(entry.shape)

    def map_whole(self) -> None:
        """One map for all tensors from now on, since a system gives a process a thousand or so."""
        self._whole = mapped(self._file, 0, (os.fstat(self._file.fileno()).st_size,), "u1")

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name) -> bool:
        return name in self.entries

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "File":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def read(path) -> dict[str, np.ndarray]:
    """All tensors of a file, read-only and mapped: what is not looked at costs nothing."""
    with File(path) as file:
        file.map_whole()
        return dict(file)


def write(path, tensors: Mapping[str, np.ndarray | BFloat16], metadata: Mapping[str, str] | None = None) -> None:
    """Write arrays by name, and a text by name for what they are. The file appears when it is whole."""
    arrays, header = {}, {}
    if metadata:
        header["__metadata__"] = {_text(k, "a name in the metadata"): _text(v, f"the metadata's {k!r}")
                                  for k, v in metadata.items()}
    for name, array in tensors.items():
        if _text(name, "a tensor's name") == "__metadata__":
            raise ValueError("'__metadata__' is the header's own; name the tensor otherwise")
        arrays[name] = _code(name, array), array
    order = sorted(arrays, key=lambda name: (list(DTYPES).index(arrays[name][0]), name))
    end = 0
    for name in order:
        code, array = arrays[name]
        begin, end = end, end + math.prod(array.shape) * DTYPES[code].itemsize
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > LONGEST_HEADER:
        raise ValueError(f"the header of {len(arrays)} tensors would be {len(text)} bytes long; the format allows {LONGEST_HEADER}")
    with replacing(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            code, array = arrays[name]
            bits = array.bits if isinstance(array, BFloat16) else array
            file.write(np.ascontiguousarray(bits, DTYPES[code]).reshape(-1).view("u1"))


def _code(name: str, array) -> str:
    if isinstance(array, BFloat16):
        return "BF16"
    if not isinstance(array, (np.ndarray, np.generic)):
        raise TypeError(f"tensor {name!r} must be a NumPy array; got {type(array).__name__}")
    code = CODES.get(array.dtype.newbyteorder("<"))
    if code is None:
        raise TypeError(f"safetensors has no type for tensor {name!r} of {array.dtype}: convert it with astype first, "
                        f"to one of {', '.join(str(dtype) for dtype in CODES)}")
    return code


def _text(text, what: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{what} must be text; got {text!r}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} holds half of a surrogate pair, which UTF-8 cannot say: {text!r}") from None
    return text


# -- reading a header, rule by rule


def _read_header(file) -> tuple[dict[str, str], dict[str, Entry]]:
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    if len(start) < 8:
        raise FormatError("it is empty" if not start else f"it has {len(start)} bytes; the length of the header alone takes 8")
    n = int.from_bytes(start, "little")
    if n > LONGEST_HEADER:
        raise FormatError(f"it claims a header of {n} bytes; {LONGEST_HEADER} are allowed")
    if n > size - 8:
        raise FormatError(f"it claims a header of {n} bytes; {size - 8} are there")
    return parse_header(file.read(n), size)


def parse_header(header: bytes, size: int) -> tuple[dict[str, str], dict[str, Entry]]:
    """The metadata and the tensors that a header describes, in a file of that size; FormatError where it breaks a rule."""
    start = 8 + len(header)
    content = parse_json(header)
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError("__metadata__ must map text to text")
    entries = {name: _entry(name, described, start) for name, described in content.items()}
    place = start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != place:
            raise FormatError(f"tensor {name!r} begins at byte {entry.begin - start} of the data, where "
                              f"the one before it ends at {place - start}: tensors follow each other without holes or overlaps")
        place = entry.end
    if place != size:
        raise FormatError(f"the tensors end at byte {place - start} of the data; the data ends at {size - start}")
    return metadata, entries


def _entry(name: str, described, start: int) -> Entry:
    where = f"tensor {name!r}"
    if not isinstance(described, dict):
        raise FormatError(f"{where} must be described by an object; it is {_kind(described)}")
    for field in ("dtype", "shape", "data_offsets"):
        if field not in described:
            raise FormatError(f"{where} has no {field}")
    dtype, shape, offsets = described["dtype"], described["shape"], described["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FormatError(f"{where} has the dtype {short(dtype)}; known are {', '.join(DTYPES)}")
    for field, numbers in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(numbers, list) or not all(type(n) is int for n in numbers):
            raise FormatError(f"{where}: {field} must be a list of whole numbers; it is {short(numbers)}")
    if len(offsets) != 2 or offsets[1] < offsets[0]:
        raise FormatError(f"{where}: data_offsets must be where it begins and where it ends; they are {short(offsets)}")
    if len(shape) > MOST_AXES:
        raise FormatError(f"{where} has {len(shape)} axes; NumPy has at most {MOST_AXES}")
    itemsize = DTYPES[dtype].itemsize
    span = max(itemsize, 4)  # with 1 in place of 0, for NumPy counts the bytes of an empty array, too; 4 as BF16 becomes
    for n in shape:
        span *= max(n, 1)
        if span >= 1 << 63:
            raise FormatError(f"{where}: the shape {short(shape)} has more bytes than can be counted")
    needs, has = math.prod(shape) * itemsize, offsets[1] - offsets[0]
    if needs != has:
        raise FormatError(f"{where}: {dtype} of shape {short(shape)} takes {needs} bytes; data_offsets {short(offsets)} leave {has}")
    return Entry(dtype, tuple(shape), start + offsets[0], start + offsets[1])


def parse_json(data: bytes) -> dict:
    """An object of JSON, read strictly: whole numbers from 0 up to 2**64 - 1, no name twice, no text that is not Unicode."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"the header is not UTF-8 at byte {error.start}") from None
    if not text.startswith("{"):
        raise FormatError("the header does not begin with {" + (", but with a byte order mark" if text[:1] == "\ufeff" else ""))
    try:
        return unicode(json.loads(text, object_pairs_hook=names_once, parse_int=_whole, parse_float=_refused, parse_constant=_refused))
    except json.JSONDecodeError as error:
        raise FormatError(f"the header is not JSON: {error.msg} at byte {len(text[:error.pos].encode())}") from None
    except RecursionError:
        raise FormatError("the header is nested too deeply") from None


def _whole(digits: str) -> int:
    if digits.startswith("-") or len(digits) > 20 or int(digits) >= 1 << 64:
        raise FormatError(f"the number {short(digits)} is not a whole number from 0 to 2**64 - 1")
    return int(digits)


def _refused(number: str):
    raise FormatError(f"the number {short(number)} is not a whole number")


def _kind(item) -> str:
    return {list: "a list", str: "a text", int: "a number", bool: "a boolean", type(None): "null"}.get(type(item), "an object")
