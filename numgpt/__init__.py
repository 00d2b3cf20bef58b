"""A GPT in NumPy alone, with every gradient derived by hand and proved."""

from numgpt import gradcheck, layers

__version__ = "0.1.0"
__all__ = ["gradcheck", "layers"]
