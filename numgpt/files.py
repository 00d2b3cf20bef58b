"""Files that are written whole or not at all, and the error for those that are not what they claim to be."""

import errno
import json
import math
import mmap
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None
    import msvcrt

UNFINISHED = ".numgpt-"  # what the names of files and folders begin with that are not whole


class FormatError(ValueError):
    """A file or folder breaks a rule of its format, or holds what numgpt cannot represent."""


def replaceable(path) -> Path:
    """Where a new file for path would stand; an error, if none can: what is long to compute asks before it begins."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder; a file's name is wanted", str(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder to write into", str(target.parent))
    if target.exists() and not target.is_file():
        raise FileExistsError(errno.EEXIST, "it is no file, but a pipe or device, and would not be one any more", str(path))
    return target


@contextmanager
def replacing(path) -> Iterator[BinaryIO]:
    """A new file under another name, which takes the place of path when all of it is on the disk.

    Whatever happens on the way, path is the old file or the new one, never half of it. A link stays a link, to a new
    file; the permissions of a file that is replaced stay.
    """
    target = replaceable(path)
    temporary = target.with_name(f"{UNFINISHED}{os.urandom(6).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:
            if target.exists():
                os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            raise type(error)(error.errno, error.strerror, str(path)) from None  # the other name is nobody's concern
        raise
    _settle(target.parent)


def _settle(folder: Path) -> None:
    """A new name is an entry of its folder, which has to reach the disk as well, where the system can say so."""
    try:
        entry = os.open(folder, os.O_RDONLY)
    except OSError:  # a folder that may be written and not read, or a system that does not open folders
        return
    try:
        os.fsync(entry)
    finally:
        os.close(entry)


@contextmanager
def replacing_files(folder, stale: Callable[[str], bool], last: str) -> Iterator[Path]:
    """An empty folder whose files take their places in folder together; those for which stale(name) holds are removed.

    last is the file without which the folder says nothing: it goes first and comes last, so that what is interrupted
    is the old folder, the new one, or none, but never a mixture.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "it is a file; a folder's name is wanted", str(folder))
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / f"{UNFINISHED}{os.urandom(6).hex()}.tmp"
    try:
        staging.mkdir()
        yield staging
        with locked(folder):
            (folder / last).unlink(missing_ok=True)
            for path in folder.iterdir():
                if stale(path.name):
                    path.unlink()
            for path in sorted(staging.iterdir(), key=lambda path: path.name == last):
                os.replace(path, folder / path.name)
            _settle(folder)
    finally:
        import shutil  # not above: it brings along every way to pack an archive
        shutil.rmtree(staging, ignore_errors=True)
        if made and not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until no other process holds the folder's lock; a process that dies lets go of it."""
    if fcntl is None:
        yield
        return
    entry = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(entry, fcntl.LOCK_EX)
        yield
    finally:
        os.close(entry)


def hold(path) -> BinaryIO:
    """An open file that no other process holds: it is let go of when it is closed or its process dies, however it dies."""
    file = open(path, "ab")
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as error:
        file.close()
        if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            raise
        raise FormatError(f"{Path(path).parent} is in use by another process, which is still alive") from None
    return file


def mapped(file: BinaryIO, begin: int, shape: tuple[int, ...], dtype) -> np.ndarray:
    """The array that lies at that byte of an open file: read-only, in memory only where it is looked at.

    It is a mapping of its own, so that its pages go when it goes, and it lives on when the file is closed.
    """
    length = math.prod(shape) * np.dtype(dtype).itemsize
    if length == 0:
        return np.empty(shape, dtype)
    skip = begin % mmap.ALLOCATIONGRANULARITY
    try:
        pages = mmap.mmap(file.fileno(), length + skip, offset=begin - skip, access=mmap.ACCESS_READ)
    except ValueError:
        raise FormatError(f"{file.name} was cut short while it was read") from None
    return np.frombuffer(pages, dtype, offset=skip).reshape(shape)


def read_json(path) -> dict:
    """The object in a JSON file, strictly: no name twice, no NaN."""
    try:
        content = unicode(json.loads(Path(path).read_bytes().decode(), object_pairs_hook=names_once, parse_constant=_refused))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, nested too deeply
        raise FormatError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise FormatError(f"{path} must hold a JSON object; it holds {type(content).__name__}")
    return content


def names_once(pairs: list) -> dict:
    """An object of JSON in which no name occurs twice."""
    content = {}
    for name, item in pairs:
        if name in content:
            raise FormatError(f"{short(name)} is there twice")
        content[name] = item
    return content


def unicode(content):
    """What was read from JSON, if each text in it is one: JSON can spell half of a surrogate pair, UTF-8 cannot."""
    todo = [content]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            todo += (*item, *item.values())
        elif isinstance(item, list):
            todo += item
        elif isinstance(item, str) and any("\ud800" <= letter <= "\udfff" for letter in ("" if item.isascii() else item)):
            raise FormatError(f"{short(item)} holds half of a surrogate pair")
    return content


def short(item) -> str:
    """What came, for a sentence."""
    text = repr(item)
    return text if len(text) < 60 else text[:57] + "..."


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The one that was perhaps meant."""
    from difflib import get_close_matches  # not above: only a fault needs it
    return next(iter(get_close_matches(name, known, n=1)), None)


def _refused(constant: str):
    raise ValueError(f"{constant} is no number in JSON")
