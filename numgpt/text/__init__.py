"""Text in, text out: tokenizers, and windows of tokens to train on."""

from numgpt.text.bpe import BPETokenizer
from numgpt.text.char import CharTokenizer
from numgpt.text.stream import StreamDecoder
from numgpt.text.tasks import TASKS
from numgpt.text.windows import Epochs, RandomCrops, split

__all__ = ["BPETokenizer", "CharTokenizer", "Epochs", "RandomCrops", "StreamDecoder", "TASKS", "split"]
