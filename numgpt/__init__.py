"""A GPT in NumPy alone, with every gradient derived by hand and proved."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what __getattr__ does, for those that read code without running it
    from numgpt import gradcheck, layers, verify
    from numgpt.config import GPTConfig
    from numgpt.formats import huggingface, llmc
    from numgpt.model import GPT
    from numgpt.sample import generate, score
    from numgpt.text import BPETokenizer, CharTokenizer
    from numgpt.training import train
    from numgpt.tuning.start import finetune

__version__ = "0.1.0"
__all__ = ["BPETokenizer", "CharTokenizer", "GPT", "GPTConfig", "finetune", "generate", "gradcheck", "huggingface", "layers",
           "llmc", "score", "train", "verify"]

# Everything is loaded where it is first used: numgpt.GPT loads a model's layers, but no tokenizer and no trainer.
_FROM = {"BPETokenizer": "text", "CharTokenizer": "text", "GPT": "model", "GPTConfig": "config", "finetune": "tuning.start",
         "generate": "sample", "huggingface": "formats", "llmc": "formats", "score": "sample", "train": "training"}
_ROOMS = ("adapted", "bfloat16", "body", "config", "files", "flat", "formats", "gradcheck", "layers", "model", "plan", "safetensors", "sample",
          "stored", "teach", "text", "threads", "training", "tuning", "verify")


def __getattr__(name: str):
    if name in _ROOMS:
        return import_module(f"numgpt.{name}")  # which makes it an attribute
    if name not in _FROM:
        raise AttributeError(f"module 'numgpt' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"numgpt.{_FROM[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_ROOMS, *(name for name in globals() if name.startswith("__"))})
