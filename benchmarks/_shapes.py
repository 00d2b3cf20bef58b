"""The shapes at which training is timed and weighed, processes that take turns, and what rounds of turns come to."""

import argparse
import multiprocessing
import os
import statistics
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

from numgpt import GPTConfig
from numgpt.threads import blas_kernels, cores


class Shape(NamedTuple):
    """A preset and its batch. There is no dropout: generators differ, and so would the losses."""

    preset: str
    batch: int
    n_tokens: int

    def config(self) -> GPTConfig:
        return GPTConfig.preset(self.preset, dropout_embd=0, dropout_attn=0, dropout_resid=0)

    def drawn(self) -> tuple[np.ndarray, np.ndarray]:
        """Random ids and targets, the same in every process."""
        ids, targets = np.random.default_rng(1).integers(0, self.config().n_vocab, (2, self.batch, self.n_tokens))
        return ids, targets


SHAPES = {shape.preset: shape for shape in (Shape("char-cpu", 12, 64), Shape("char", 8, 256), Shape("classic", 8, 100),
                                            Shape("gpt2", 4, 64))}


def shape_of(text: str) -> Shape:
    """One of SHAPES by name, or any preset as PRESET:BxT."""
    name, _, sizes = text.partition(":")
    try:
        shape = Shape(name, *map(int, sizes.split("x"))) if sizes else SHAPES[name]
        if shape.n_tokens > shape.config().n_ctx:
            raise ValueError
        return shape
    except (KeyError, ValueError, TypeError):
        raise argparse.ArgumentTypeError(f"{text!r} is neither one of {', '.join(SHAPES)} nor PRESET:BxT, such as nano:4x8, "
                                         "with T within the preset's context") from None


REST = 0.05  # seconds between turns, for another framework's threads spin a while before they sleep


def rows_of_shards(batch: int, shards: int) -> list[int]:
    """How many of the batch's rows each shard takes."""
    n = min(batch, shards)
    return [batch * (i + 1) // n - batch * i // n for i in range(n)]


def installed(package: str) -> bool:
    if find_spec(package) is None:
        print(f"{package} is not installed, so there is nothing to compare with: pip install 'numgpt[bench]'\n")
        return False
    return True


def say_kernels() -> str | None:
    """What NumPy multiplies with: OpenBLAS's kernels for one processor may take twice as long as those for the next."""
    kernels = blas_kernels()
    if kernels:
        print(f"NumPy multiplies with OpenBLAS's kernels for {kernels}"
              + (", as OPENBLAS_CORETYPE says" if os.environ.get("OPENBLAS_CORETYPE") else "") + "\n")
    return kernels


def warn_of_load() -> list[float] | None:
    """What else runs on this machine: torch's threads wait for one another in a loop, and suffer from it more than ours."""
    if not hasattr(os, "getloadavg"):
        return None
    load = list(os.getloadavg())
    if load[0] > 0.5:
        print(f"the machine is busy, with a load of {load[0]:.1f} on {cores()} cores: these figures will say little\n")
    return load


# -- processes that take turns


class Failed(RuntimeError):
    """What was raised in the other process: a line, and the traceback."""


class Remote:
    """make(*arguments, **options) in a process of its own, whose methods are called from here: remote.call("turn", 3).

    One framework's threads, memory and settings of the C library then are not the other's.
    """

    def __init__(self, make: Callable, *arguments, **options):
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        # no daemon: torch.compile has children of its own
        self.process = context.Process(target=_serve, args=(other, make, arguments, options), daemon=False)
        self.process.start()
        other.close()
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def call(self, method: str, *arguments):
        self.connection.send((method, arguments))
        return self._answer()

    def _answer(self):
        try:
            failure, answer = self.connection.recv()
        except EOFError:
            self.process.join()
            raise Failed(f"the process ended with code {self.process.exitcode}, for want of memory perhaps") from None
        if failure:
            raise Failed(*failure)
        return answer

    def close(self) -> None:
        self.connection.close()
        self.process.join()

    def __enter__(self) -> "Remote":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _serve(connection, make, arguments, options) -> None:
    served = None

    def call(function, *arguments):
        try:
            answer = function(*arguments)
        except Exception as error:
            connection.send(((f"{type(error).__name__}: {error}".splitlines()[0], traceback.format_exc()), None))
        else:
            connection.send((None, answer))
            return answer

    def begin():
        nonlocal served
        served = make(*arguments, **options)

    call(begin)
    while True:
        try:
            method, given = connection.recv()
        except EOFError:
            return
        call(getattr(served, method), *given)


# -- what rounds come to


def quartiles(numbers) -> dict[str, float]:
    low, middle, high = np.quantile(numbers, (0.25, 0.5, 0.75))
    return {"median": float(middle), "low": float(low), "high": float(high)}


def ratio(ours, theirs) -> dict[str, float]:
    """The ratio of the medians, with the quartiles of the rounds' own ratios: what a round does to both cancels in them."""
    each = quartiles(np.divide(ours, theirs))
    return {"of medians": statistics.median(ours) / statistics.median(theirs), "low": each["low"], "high": each["high"]}
