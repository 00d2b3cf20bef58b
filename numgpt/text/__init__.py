"""Text in, text out: tokenizers, and windows of tokens to train on."""

from pathlib import Path

from numgpt.text.bpe import BPETokenizer
from numgpt.text.char import CharTokenizer
from numgpt.text.stream import StreamDecoder
from numgpt.text.tasks import TASKS
from numgpt.text.windows import Epochs, RandomCrops, split

__all__ = ["BPETokenizer", "CharTokenizer", "Epochs", "RandomCrops", "StreamDecoder", "TASKS", "load_tokenizer", "split"]


def load_tokenizer(path) -> BPETokenizer | CharTokenizer:
    """The tokenizer at a path: a folder or file of byte pairs, or a .json of characters."""
    path = Path(path)
    if path.suffix == ".json" and path.is_file():
        return CharTokenizer.load(path)
    return BPETokenizer.load(path)
