"""A port's numbers for a trace, as a dump: those of torch_port.py, with a mistake planted or with none."""

import functools

import numpy as np

from numgpt import GPTConfig
from numgpt.verify.compare import tolerance
from numgpt.verify.dumps import Dump
from numgpt.verify.noise import distance
from numgpt.verify.passes import Steps
from numgpt.verify.trace import Trace, example

SMALL = GPTConfig(n_layer=2, n_head=3, n_embd=15, n_vocab=31, n_ctx=9)
# A correct port's rounding came to 2.5 of compare's 8 at most, and of the traces below, over ten seeds, to 1.7: so far from
# its tolerance either answer is right.
EITHER_WAY = 2.5 / 8


def dump(tensors) -> Dump:
    return Dump("port", dict(tensors), {name: array.dtype.name for name, array in tensors.items()})


@functools.cache
def trace_for(dropout: bool, hard: bool = True) -> Trace:
    """The hard case, or weights as they are before training: 0.02 of standard deviation, gains 1, biases 0."""
    steps = Steps(2) if dropout else Steps(2, pieces=2)
    config = SMALL.change(dropout_embd=0.1, dropout_attn=0.2, dropout_resid=0.3) if dropout else SMALL
    size = dict(adversarial=True) if hard else dict(batch=4, n_tokens=7)
    return example(config, dropout=dropout, steps=steps, **size)


def trace_of(mistake: str | None, hard: bool = True) -> Trace:
    """One in which it can show."""
    return trace_for((mistake or "").startswith("dropout"), hard)


def in_torch(trace: Trace, mistake: str | None = None, *, dtype="float32", only=""):
    """What the port in torch computes from the weights of the trace; only: names that begin so."""
    import torch
    import torch_port

    torch.set_num_threads(1)  # of sums so small, threads make only waiting
    c, s = trace.config, trace.steps
    masks = {name.partition(".")[2]: kept for name, kept in (trace.masks() or {}).items()}
    settings = {name: getattr(c, name) for name in ("n_layer", "n_head", "norm", "norm_eps", "activation", "tied")}
    settings |= {name: getattr(c, name) if masks else 0 for name in ("dropout_embd", "dropout_attn", "dropout_resid")}
    optimizer = dict(steps=s.n, lr=s.lr, betas=s.betas, eps=s.eps, weight_decay=s.weight_decay, clip=s.clip,
                     accumulate=s.pieces)
    weights = {name.partition(".")[2]: np.asarray(trace[name]) for name in trace if name.startswith("weights.")}
    ids, targets = (trace[f"inputs.{name}"].astype(np.int64) for name in ("ids", "targets"))
    found = torch_port.run(weights, ids, targets, settings | {"masks": masks}, optimizer=optimizer if s.n else None,
                           dtype=dtype, mistake=mistake)
    return dump({name: array for name, array in found.items() if name in trace and name.startswith(only)})


def planted(trace: Trace, mistake: str) -> dict[str, float]:
    """How far the mistake moves each tensor in float64, where rounding hides nothing, in tolerances of compare's for float32."""
    wrong, right = (in_torch(trace, one, dtype="float64").arrays for one in (mistake, None))
    return {name: distance(wrong[name], right[name]) / tolerance(trace, name, "float32") for name in trace
            if name in wrong and wrong[name].dtype.kind == "f" and not name.startswith("weights.")}
