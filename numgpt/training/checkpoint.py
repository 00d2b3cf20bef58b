"""A checkpoint: one safetensors file from which a run goes on as if it had never stopped.

Its tensors are the weights under their names and the optimizer's arrays, "optimizer.m"; its metadata hold the config,
which layers have adapters and what is frozen, the tokenizer's files, and what is not an array: settings, source, the step,
the best loss, the seconds spent. Batches and dropout depend on the seed and the step, so these two are the state of every
generator and the place in the data.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from numgpt import adapted, safetensors
from numgpt.files import FormatError, names_once
from numgpt.flat import Flat
from numgpt.model import GPT, OPTIMIZER
from numgpt.text import CharTokenizer, load_tokenizer
from numgpt.text.char import CHARACTERS


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs beside its model; state: everything that JSON can say; path: of the file it was read from."""

    model: Flat
    moments: dict[str, np.ndarray]
    state: dict
    tokenizer_files: dict[str, str]
    path: Path | None = None

    def write(self, path) -> None:
        """The file appears when it is whole."""
        tensors = {name: param.value for name, param in self.model.named_params()}
        tensors |= {OPTIMIZER + name: array for name, array in self.moments.items()}
        safetensors.write(path, tensors, {**self.model.metadata(), **adapted.described(self.model), "training": json.dumps(self.state),
                                          "tokenizer": json.dumps(self.tokenizer_files)})

    @classmethod
    def read(cls, path, load: Callable[..., Flat] = GPT.load, *, recompute: bool = False) -> "Checkpoint":
        """load reads the model. The moments are read-only maps of the file."""
        with safetensors.File(path) as file:
            if "training" not in file.metadata:
                raise FormatError(f"{path} is no checkpoint of a run")
            try:
                state, files = (json.loads(file.metadata[name], object_pairs_hook=names_once) for name in ("training", "tokenizer"))
            except (KeyError, ValueError) as error:
                raise FormatError(f"{path} is no checkpoint of a run: {error}") from None
            moments = {name.removeprefix(OPTIMIZER): file[name] for name in file if name.startswith(OPTIMIZER)}
        return cls(load(path, recompute=recompute), moments, state, files, Path(path))


def tokenizer_files(tokenizer) -> dict[str, str]:
    """The files that a tokenizer saves, by name."""
    if tokenizer is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder, CHARACTERS) if isinstance(tokenizer, CharTokenizer) else folder)
        return {path.name: path.read_bytes().decode() for path in sorted(Path(folder).iterdir())}


def tokenizer_of(files: dict[str, str]):
    """The tokenizer that was saved in such files; None if there are none."""
    if not files:
        return None
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            Path(folder, Path(name).name).write_bytes(text.encode())
        return load_tokenizer(folder)
