"""Text in, text out: tokenizers."""

from numgpt.text.bpe import BPETokenizer

__all__ = ["BPETokenizer"]
