"""A forward and a backward pass, steps of AdamW and decode steps, with every tensor on the way under its name."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from numgpt.files import short
from numgpt.model import GPT
from numgpt.threads import one_blas_thread
from numgpt.training.optim import AdamW, Optimizer, clip
from numgpt.training.shards import Shards
from numgpt.verify.tape import Tape, watched


@dataclass(frozen=True)
class Steps:
    """The optimizer's steps of a trace: AdamW on the same batch again and again.

    n             how many
    pieces        in how many pieces the batch's gradient is added up
    clip          the gradient's largest length
    """

    n: int = 2
    pieces: int = 1
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0

    def __post_init__(self):
        if not isinstance(self.betas, list | tuple) or len(self.betas) != 2:
            raise ValueError(f"betas must be two numbers; got {short(self.betas)}")
        object.__setattr__(self, "betas", tuple(self.betas))
        for name, least in (("n", 0), ("pieces", 1)):
            number = getattr(self, name)
            if type(number) is not int or number < least:
                raise ValueError(f"the steps' {name} must be a whole number from {least} on; got {short(number)}")
        finite = "a finite number from 0 on", lambda number: 0 <= number <= sys.float_info.max
        for name, (wanted, fits) in {"lr": finite, "weight_decay": finite, "clip": finite,
                                     "eps": ("a finite number above 0", lambda number: 0 < number <= sys.float_info.max),
                                     "betas": ("numbers from 0 on, below 1", lambda number: 0 <= number < 1)}.items():
            for number in self.betas if name == "betas" else (getattr(self, name),):
                if isinstance(number, bool) or not isinstance(number, int | float) or not fits(number):
                    raise ValueError(f"the steps' {name} must be {wanted}; got {short(number)}")


def compute(model: GPT, ids, targets, *, rng=None, masks=None, change=None, steps: Steps = Steps(0), n_decode: int = 0) -> dict[str, np.ndarray]:
    """Every tensor by name, in the model's type; change and masks are a Tape's."""
    tape = Tape(change, masks)
    return observe(watched(model, tape), tape, ids, targets, rng=rng, steps=steps, n_decode=n_decode)


def observe(model: GPT, tape: Tape, ids, targets, *, rng=None, steps: Steps = Steps(0), n_decode: int = 0) -> dict[str, np.ndarray]:
    """Every tensor by name of a model that the tape watches; the tape's change sees weights, gradients and moments too."""
    see = tape.change or (lambda name, array: array)
    for name, param in model.named_params():
        param.value[...] = see(f"weights.{name}", param.value)
    found = {"inputs.ids": ids, "inputs.targets": targets, **{f"weights.{name}": param.value for name, param in model.named_params()}}
    tape.tensors = {}
    with one_blas_thread():
        loss, saved = model.forward(ids, targets, rng=rng)
        model.backward(saved)
        found |= tape.tensors
        for name, param in model.named_params():
            param.grad[...] = see(f"grads.{name}", param.grad)
            found[f"grads.{name}"] = param.grad
        found["clip.norm"] = np.asarray(Optimizer(model).norm(), model.values.dtype)
        within = tape.change and (lambda name, array: see(f"within.{name}", array))  # other tensors than those of these names above
        if steps.n:
            masks = {name: array for name, array in found.items() if name.startswith("masks.")} or None
            found |= _stepped(watched(model, Tape(within, masks)), ids, targets, steps, see)
        if n_decode:
            found |= _decoded(watched(model, Tape(within)), ids, n_decode)
    return found


def _stepped(model: GPT, ids, targets, steps: Steps, see) -> dict[str, np.ndarray]:
    """The steps of the optimizer; the model is moved."""
    found = {}
    optimizer = AdamW(model, betas=steps.betas, eps=steps.eps, weight_decay=steps.weight_decay)
    with Shards(model, 1, pieces=steps.pieces) as shards:
        for t in range(1, steps.n + 1):
            loss = shards.backward(ids, targets)
            for name, param in model.named_params():
                param.grad[...] = see(f"steps.{t}.grads.{name}", param.grad)
                found[f"steps.{t}.grads.{name}"] = param.grad.copy()
            norm = optimizer.norm()
            optimizer.step(steps.lr, scale=clip(norm, steps.clip))
            found |= {f"steps.{t}.{name}": np.asarray(number, model.values.dtype) for name, number in (("loss", loss), ("norm", norm))}
            for kind, array in (("m", optimizer.m), ("v", optimizer.v), ("weights", model.values)):
                for name, part in named(model, array):
                    part[...] = see(f"steps.{t}.{kind}.{name}", part)
                    found[f"steps.{t}.{kind}.{name}"] = part.copy()
    return found


def _decoded(model: GPT, ids, n_decode: int) -> dict[str, np.ndarray]:
    """The logits of the last tokens, each from a decode store of those before it; without dropout."""
    found = {}
    store = model.decode_store(*ids.shape)
    for j in range(n_decode + 1):
        new = ids[:, :ids.shape[1] - n_decode] if j == 0 else ids[:, ids.shape[1] - n_decode + j - 1, None]
        found[f"decode.{j}.logits"] = model.head.logits(model.body(new, kv=store)[:, -1])
        for i, kv in enumerate(store):
            found |= {f"decode.{j}.blocks.{i}.{part}": getattr(kv, part)[:, :, :kv.length].copy() for part in "kv"}
    return found


def named(model: GPT, flat: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """A flat array's parts by the names of the parameters."""
    start = 0
    for name, param in model.named_params():
        yield name, flat[start:start + param.size].reshape(param.shape)
        start += param.size
