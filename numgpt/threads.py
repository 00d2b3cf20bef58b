"""Threads: how many the BLAS takes, a pool of our own, and memory that is not given back between two steps.

Elementwise NumPy runs on one core, and a BLAS with many threads is poor at a GPT's small matrices. So a batch is split
over threads of ours, and within them the BLAS is held to one.
"""

import contextlib
import ctypes
import functools
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import numpy as np

# What the BLAS libraries call "how many threads" and "so many threads".
CONTROLS = [(f"{prefix}openblas_get_num_threads{suffix}", f"{prefix}openblas_set_num_threads{suffix}")
            for prefix in ("scipy_", "") for suffix in ("64_", "")] + [
            ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads"), ("bli_thread_get_num_threads", "bli_thread_set_num_threads")]
ARENA_MAX, TRIM_THRESHOLD, MMAP_THRESHOLD = -8, -1, -3  # the names that glibc's mallopt gives to numbers
MOST = (1 << 31) - 1


def cores() -> int:
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# -- the BLAS


@functools.cache
def blas_threads() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """How to ask and to set the number of threads of NumPy's BLAS; None where it cannot be set."""
    for path in _libraries():
        try:
            library = ctypes.CDLL(str(path))
        except OSError:
            continue
        for get, set_ in CONTROLS:
            if hasattr(library, get) and hasattr(library, set_):
                ask, tell = getattr(library, get), getattr(library, set_)
                ask.restype, tell.argtypes, tell.restype = ctypes.c_int, [ctypes.c_int], None
                return ask, tell
    return None


def blas_kernels() -> str | None:
    """For which processor the kernels are that OpenBLAS has chosen, "SkylakeX" say; None where it is another BLAS.

    It is OPENBLAS_CORETYPE that says so, if it is set, and else what the library makes of the processor.
    """
    for path in _libraries():
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(str(path))
            for name in (f"{prefix}openblas_get_corename{suffix}" for prefix in ("scipy_", "") for suffix in ("64_", "")):
                if hasattr(library, name):
                    ask = getattr(library, name)
                    ask.restype = ctypes.c_char_p
                    return ask().decode()
    return None


def _libraries() -> Iterator[Path]:
    """Where NumPy's BLAS may be: beside the package, as in its own wheels, or among what this process has loaded."""
    package = Path(np.__file__).parent
    for folder in (package.with_name("numpy.libs"), package / ".dylibs"):
        yield from sorted(folder.glob("*blas*"))
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:  # not on Linux
        return
    loaded = {line[line.index("/"):] for line in maps.splitlines() if "/" in line}
    yield from sorted(Path(name) for name in loaded if any(blas in Path(name).name for blas in ("openblas", "mkl_rt", "blis")))


class _Held:
    """How many ask at this moment for a BLAS of one thread, and how many threads it had before."""

    lock, by, before = threading.Lock(), 0, 0


@contextmanager
def one_blas_thread() -> Iterator[bool]:
    """The BLAS held to one thread, and given back after; whether that could be done. It may be nested, and in threads."""
    controls = blas_threads()
    if controls is None:
        yield False
        return
    ask, tell = controls
    with _Held.lock:
        if _Held.by == 0:
            _Held.before = ask()
            tell(1)
        _Held.by += 1
    try:
        yield True
    finally:
        with _Held.lock:
            _Held.by -= 1
            if _Held.by == 0:
                tell(_Held.before)


# -- threads of ours


class Pool:
    """Applies a function to many things side by side, on so many threads, the caller's own among them; closed, on that alone."""

    def __init__(self, n: int):
        self.n = n
        self._threads = ThreadPoolExecutor(n - 1, thread_name_prefix="numgpt") if n > 1 else None

    def map(self, function: Callable, *arguments: Iterable) -> list:
        """The results, in the order of the arguments. All calls have been made before an error is raised: that of the
        first which failed, in the same order, so that it is one error on any number of threads.
        """
        calls = list(zip(*arguments))
        results, errors = [None] * len(calls), {}

        def in_turn(lot: range) -> None:
            # a thread begins with NumPy's own settings; what is not finite is looked for afterwards
            with np.errstate(all="ignore"):
                for i in lot:
                    try:
                        results[i] = function(*calls[i])
                    except Exception as error:
                        errors[i] = error

        lots = [range(i, len(calls), self.n) for i in range(min(self.n, len(calls)))]
        waiting = [self._threads.submit(in_turn, lot) for lot in lots[1:]]
        try:
            for lot in lots[:1]:
                in_turn(lot)
        finally:
            wait(waiting)
        for future in waiting:
            future.result()
        if errors:
            raise errors[min(errors)]
        return results

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown()
        self.n, self._threads = 1, None


def matmul_speed(pool: Pool, dtype=np.float32, n: int = 512) -> float:
    """FLOPs a second of matrix products alone, one to a thread: what the machine can do. It takes a tenth of a second."""
    a = np.ones((n, n), dtype)
    outs = [np.empty_like(a) for _ in range(pool.n)]
    best = math.inf
    with one_blas_thread():
        for _ in range(8):
            start = time.perf_counter()
            pool.map(lambda out: [np.matmul(a, a, out) for _ in range(4)], outs)
            best = min(best, time.perf_counter() - start)
    return 4 * pool.n * 2 * n ** 3 / best


# -- memory


def keep_memory() -> bool:
    """Ask the C library not to give freed memory back to the system; whether it can be asked (it must be glibc).

    A fresh array then lies where one has been before, and costs no page faults: 0.5 ms in place of 1.9 for 12.6 MB.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    return all([libc.mallopt(MMAP_THRESHOLD, 1 << 30), libc.mallopt(TRIM_THRESHOLD, MOST), libc.mallopt(ARENA_MAX, 1)])
