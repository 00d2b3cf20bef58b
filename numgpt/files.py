"""Files that are written whole or not at all, and the error for those that are not what they claim to be."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


class FormatError(ValueError):
    """A file or folder breaks a rule of its format, or holds what numgpt cannot represent."""


@contextmanager
def replacing(path) -> Iterator[BinaryIO]:
    """A new file under another name, which takes the place of path when all of it is on the disk.

    Whatever happens on the way, path is the old file or the new one, never half of it.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; a file's name is wanted")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
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
