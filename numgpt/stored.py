"""The tensors of a file before they are fetched: what a config calls for, held against what is there."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from numgpt.files import FormatError
from numgpt.plan import shapes
from numgpt.safetensors import DTYPES, File


@dataclass(frozen=True)
class Stored:
    """A tensor of a file: what is known of it, how to fetch it, and whether it is turned, a matrix for y = W x."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    fetch: Callable[[], np.ndarray]
    turned: bool = False

    def array(self) -> np.ndarray:
        """As our parameters are."""
        return self.fetch().T if self.turned else self.fetch()


def stored_in(file: File) -> dict[str, Stored]:
    dtypes = {**DTYPES, "BF16": np.dtype("f4")}  # as which it is read
    return {name: Stored(name, entry.shape, dtypes[entry.dtype], partial(file.__getitem__, name))
            for name, entry in file.entries.items()}


def matched(config, tensors: Mapping[str, Stored], source: str, theirs: Callable[[str], str]) -> dict[str, Stored]:
    """For each parameter of a config its tensor, of the right shape, and none left over; theirs: from our name to the file's."""
    chosen = {}
    for name, shape in shapes(config):
        stored = tensors.get(theirs(name))
        if stored is None:
            raise FormatError(f"{source} has no tensor {theirs(name)!r}, which its config calls for")
        wanted = shape[::-1] if stored.turned else shape
        if stored.shape != wanted:
            raise FormatError(f"{source}: the config calls for {wanted} as the shape of {stored.name!r}; it is {stored.shape}")
        chosen[name] = stored
    surplus = set(tensors) - {stored.name for stored in chosen.values()}
    if surplus:
        raise FormatError(f"{source} has a tensor {min(surplus)!r}, for which its config has no place")
    return chosen


def common_dtype(tensors: Collection[Stored]) -> np.dtype:
    """The type of a model that holds them all; 16-bit numbers go into float32, to compute with."""
    for stored in tensors:
        if stored.dtype.kind not in "fc":
            raise FormatError(f"tensor {stored.name!r} has the type {stored.dtype}; weights are floating-point numbers")
    return np.result_type(np.float32, *(stored.dtype for stored in tensors))
