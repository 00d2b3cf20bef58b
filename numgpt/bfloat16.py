"""bfloat16, the upper half of a float32: NumPy has no such numbers, files do."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class BFloat16:
    """An array of bfloat16 as the uint16 of its bits."""

    bits: np.ndarray

    @classmethod
    def of(cls, x) -> "BFloat16":
        """x rounded to the nearest bfloat16, ties to even."""
        x = _odd_float32(x) if np.asarray(x).dtype == np.float64 else np.asarray(x, np.float32, order="C")
        bits = x.view(np.uint32)
        # Half of the last kept bit, or a hair less where that bit is even, carries into the upper half just when due.
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
        quiet = (bits >> 16) | 0x40  # a nan's bits must not carry into infinity's
        return cls(np.where(np.isnan(x), quiet, rounded).astype(np.uint16))

    def floats(self) -> np.ndarray:
        """The same numbers as float32, which has them all."""
        return np.asarray(self.bits.astype(np.uint32) << 16).view(np.float32)

    @property
    def nbytes(self) -> int:
        return self.bits.nbytes

    @property
    def shape(self) -> tuple[int, ...]:
        return self.bits.shape


def _odd_float32(x) -> np.ndarray:
    """float64 as the float32 beside it whose last bit is 1, unless it is one: so the next rounding sees no false tie."""
    y = np.asarray(x, np.float32, order="C")
    with np.errstate(invalid="ignore"):  # inf - inf, which is no error of rounding
        off = x - y
    even = y.view(np.uint32) & 1 == 0
    return np.where((off != 0) & even & np.isfinite(x), np.nextafter(y, np.copysign(np.inf, off).astype(np.float32)), y)


def file_type(own: np.dtype, wanted, choices: tuple[str, ...]) -> str:
    """The name of the type in which a file shall hold a model of type own: wanted, or own where that is None."""
    try:
        name = "bfloat16" if isinstance(wanted, str) and wanted == "bfloat16" else np.dtype(own if wanted is None else wanted).name
    except TypeError:
        name = repr(wanted)
    if name not in choices:
        raise TypeError(f"this file holds numbers in {', '.join(choices)}; got {name}: choose one of them with dtype=")
    if own.kind == "c" and not name.startswith("complex"):
        raise TypeError(f"the model is complex; {name} would lose half of it")
    return name


def rounded(array: np.ndarray, name: str) -> np.ndarray | BFloat16:
    """The array in the type of that name, as a file takes it; numbers that are too large for it are refused."""
    with np.errstate(over="ignore"):
        result = BFloat16.of(array) if name == "bfloat16" else array.astype(name, order="C", copy=False)
        numbers = result.floats() if name == "bfloat16" else result
    if result is not array and np.isinf(numbers).any() and not np.isinf(array).any():
        raise ValueError(f"numbers up to {np.abs(array[np.isfinite(array)]).max():.3g} do not fit into {name}: choose a wider type")
    return result
