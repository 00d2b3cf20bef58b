"""The test that was green: why a gradient check is not just finite differences.

A GPT in NumPy once had a test suite of 98, all passing, and wrong gradients in 22 of its 38 tensors: the keys' gradient
was transposed and then reshaped, which has the right shape. Its test measured derivatives as anybody would. But its weights
were drawn with a standard deviation of 0.02, where attention hardly matters, and what it allowed was an absolute 1e-4.

That model is built here of numgpt's layers, with q, k and v apart as it had them, and its test as it was.
"""

import numpy as np

from numgpt.config import GPTConfig
from numgpt.layers import Layer, Linear
from numgpt.model import GPT
from numgpt.verify.dumps import Dump
from numgpt.verify.passes import compute
from numgpt.verify.trace import Trace

CONFIG = GPTConfig(n_vocab=7, n_ctx=5, n_layer=2, n_head=2, n_embd=4, n_hidden=5, tied=False, head_bias=True)
B, T = 3, 5
H = 1e-5  # the step of the test


class Apart(Layer):
    """Three Linears side by side, as SelfAttention has one for queries, keys and values.

    x (B, T, C) -> y (B, T, 3 C)

    Forward   y = concatenate([query(x), key(x), value(x)], -1)
    Backward  dq, dk, dv = split(dy, 3, -1)
              -- x went three ways, and what comes back adds up
              dx = query.backward(dq) + key.backward(dk) + value.backward(dv)
    Saved     x
    """

    def __init__(self, n_embd: int, *, std: float = 0.02, rng=None):
        rng = np.random.default_rng(rng)
        self.query, self.key, self.value = (Linear(n_embd, n_embd, std=std, rng=rng) for _ in range(3))

    @property
    def weight(self) -> np.ndarray:
        """As one matrix (C, 3 C)."""
        return np.concatenate([linear.weight.value for linear in self._three()], -1)

    def forward(self, x):
        return np.concatenate([linear(x) for linear in self._three()], -1), x

    def backward(self, dy, saved):
        return sum(linear.backward(d, saved) for linear, d in zip(self._three(), np.split(dy, 3, -1)))

    def _three(self):
        return self.query, self.key, self.value


def two_layers(std: float, *, seed: int = 0) -> tuple[GPT, np.ndarray, np.ndarray]:
    """The model, in float64, with token ids and targets: matrices and tables are normal(0, std), biases 0 and gains 1."""
    c, rng = CONFIG.change(std=std, std_residual=std), np.random.default_rng(seed)
    model = GPT(c, seed=rng, dtype=np.float64)
    for block in model.body.blocks:
        block.attention.qkv = Apart(c.n_embd, std=std, rng=rng)
    model.lay_out()
    ids, targets = rng.integers(0, c.n_vocab, (2, B, T))
    return model, ids, targets


def usual_test(model: GPT, ids, targets, *, atol: float = 1e-4) -> dict[str, bool]:
    """The test such projects have: by parameter, whether (f(w + h) - f(w - h)) / 2h comes within atol of its gradient."""
    model.zero_grad()
    _, saved = model.forward(ids, targets)
    model.backward(saved)
    passed = {}
    for name, param in model.named_params():
        w, measured = param.value.reshape(-1), np.empty(param.size)
        for i, own in enumerate(w.tolist()):
            w[i] = own + H
            above = model(ids, targets)
            w[i] = own - H
            measured[i] = (above - model(ids, targets)) / (2 * H)
            w[i] = own
        passed[name] = np.allclose(measured, param.grad.reshape(-1), rtol=0, atol=atol)
    return passed


def gradients(reference: Trace) -> Dump:
    """What a port that is written as numgpt is dumps for a trace, in float32: the loss and the parameters' gradients."""
    found = compute(reference.model(np.float32), reference["inputs.ids"], reference["inputs.targets"])
    kept = {name: array for name, array in found.items() if name == "forward.loss" or name.startswith("grads.")}
    return Dump("port", kept, {name: array.dtype.name for name, array in kept.items()})
