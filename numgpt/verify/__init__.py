"""Holding an implementation against ours: traces, dumps, the first tensor that differs, and the name of the mistake."""

from numgpt.verify.foreign.jax_side import jax_trace
from numgpt.verify.foreign.torch_side import torch_trace

__all__ = ["jax_trace", "torch_trace"]
