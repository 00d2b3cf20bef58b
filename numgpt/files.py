"""Files that are written whole or not at all, and the error for those that are not what they claim to be."""

import errno
import json
import math
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np


class FormatError(ValueError):
    """A file or folder breaks a rule of its format, or holds what numgpt cannot represent."""


@contextmanager
def replacing(path) -> Iterator[BinaryIO]:
    """A new file under another name, which takes the place of path when all of it is on the disk.

    Whatever happens on the way, path is the old file or the new one, never half of it.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder; a file's name is wanted", str(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder to write into", str(path.parent))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            file = open(temporary, "wb")
        except OSError as error:  # whose name nobody asked for
            raise type(error)(error.errno, error.strerror, str(path)) from None
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the new name is an entry of the folder, which has to reach the disk as well
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def mapped(file: BinaryIO, begin: int, shape: tuple[int, ...], dtype) -> np.ndarray:
    """The array that lies at that byte of an open file: read-only, in memory only where it is looked at.

    It is a mapping of its own, so that its pages go when it goes, and it lives on when the file is closed.
    """
    length = math.prod(shape) * np.dtype(dtype).itemsize
    if length == 0:
        return np.empty(shape, dtype)
    skip = begin % mmap.ALLOCATIONGRANULARITY
    pages = mmap.mmap(file.fileno(), length + skip, offset=begin - skip, access=mmap.ACCESS_READ)
    return np.frombuffer(pages, dtype, offset=skip).reshape(shape)


def read_json(path) -> dict:
    """The object in a JSON file, strictly: no name twice, no NaN."""
    try:
        content = json.loads(Path(path).read_bytes().decode(), object_pairs_hook=_names_once, parse_constant=_refused)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, nested too deeply
        raise FormatError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise FormatError(f"{path} must hold a JSON object; it holds {type(content).__name__}")
    return content


def _names_once(pairs: list) -> dict:
    content = {}
    for name, item in pairs:
        if name in content:
            raise ValueError(f"{name!r} is there twice")
        content[name] = item
    return content


def _refused(constant: str):
    raise ValueError(f"{constant} is no number in JSON")
