"""What a trace's manifest says beside its numbers: all tensors in order, the rules, and what makes a file one of ours.

formulas.py has the forward and the backward pass; here is what stands around them: inputs, weights, steps, decoding.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields

import numpy as np

from numgpt.config import GPTConfig
from numgpt.files import FormatError, short
from numgpt.layers.inputs import IGNORE
from numgpt.plan import shapes
from numgpt.verify.formulas import Tensor, tensors
from numgpt.verify.noise import KINDS
from numgpt.verify.passes import Steps

# The letters of the formulas, beside what `of` says.
SYMBOLS = {
    "B, T, C, H, D, V": "sequences, tokens in each, width, heads, size of a head, tokens in the vocabulary",
    "eps": "the norms': norm_eps of the config", "adam_eps": "AdamW's: eps of steps",
    "lr, betas, weight_decay, clip": "of steps",
    "pi, inf, sqrt, tanh, where, ...": "NumPy's; and @ is its product of matrices, over the last two axes",
}
RULES = {
    "tensors": "in the order in which they are computed. formula is Python over the names in of, the symbols and the words; a name with * in of "
               "stands for the list of all tensors that fit. Where there is no formula, says says what it is.",
    "numbers": "computed in float64; weights are exact in float32, and stored so. norm is the length of the tensor; noise how far, as a length, "
               "runs in these types came from it.",
    "steps": "AdamW on the same batch in each step, as in torch; m and v are 0 before the first, and t counts from 1. The gradient is multiplied by "
             "min(1, clip / (norm + 1e-6)), norm being the length of all gradients together. Decay shrinks tensors of two axes alone.",
    "pieces": "the batch's gradient is the sum of those of K pieces, piece i being the rows B * i // K to B * (i + 1) // K, the last not among them. "
              "The loss of each is a sum over its targets, divided by the count of the whole batch.",
    "decode": "N is n_decode. decode.0 is the prompt, the first T - N tokens of each row; then each of decode.1 to decode.N takes one token more, and "
              "keys and values of those before from the store. There is no dropout in it.",
    "dropout": "masks.X is true where forward.X keeps a number. Steps have the same masks each time.",
}


def listed(config: GPTConfig, B: int, T: int, *, dropout: bool = False, steps: Steps = Steps(0), n_decode: int = 0,
           origin: str = "of the model that was traced") -> Iterator[Tensor]:
    """Every tensor of a trace, in order."""
    yield Tensor("inputs.ids", (B, T), "", {}, "token ids")
    yield Tensor("inputs.targets", (B, T), "", {}, f"the tokens to come; {IGNORE} does not count")
    for name, shape in shapes(config):
        yield Tensor(f"weights.{name}", shape, "", {}, f"the parameter before the first step, {origin}")
    for tensor in tensors(config, B, T, dropout=dropout):
        mask = tensor.of.get("kept")
        if mask and tensor.name.startswith("forward."):
            yield Tensor(mask, tensor.shape, "", {"x": tensor.of["x"]}, f"which numbers of x dropout keeps: {tensor.name} is {tensor.formula}")
        yield tensor
    yield _length("clip.norm", "grads.*")
    for t in range(1, steps.n + 1):
        yield from _step(config, t)
    for j in range(n_decode + 1) if n_decode else ():
        yield from _decoded(config, B, T, n_decode, j, dropout)


def _length(name: str, of: str) -> Tensor:
    return Tensor(name, (), "sqrt(sum([(g * g).sum() for g in grads]))", {"grads": of})


def _step(config: GPTConfig, t: int) -> Iterator[Tensor]:
    S, before = f"steps.{t}", f"steps.{t - 1}"
    moved = {"weights": f"{before}.weights.*", "ids": "inputs.ids", "targets": "inputs.targets"}
    for name, shape in shapes(config):
        yield (Tensor(f"{S}.grads.{name}", shape, "g", {"g": f"grads.{name}"}) if t == 1 else
               Tensor(f"{S}.grads.{name}", shape, "", moved, f"grads.{name} at these weights, before clipping"))
    yield (Tensor(f"{S}.loss", (), "loss", {"loss": "forward.loss"}) if t == 1 else
           Tensor(f"{S}.loss", (), "", moved, "forward.loss at these weights, before the step"))
    yield _length(f"{S}.norm", f"{S}.grads.*")
    for kind, i, square in (("m", 0, ""), ("v", 1, " ** 2")):
        for name, shape in shapes(config):
            grown = f"(1 - betas[{i}]) * (minimum(1, clip / (norm + 1e-6)) * g){square}"
            of = {"g": f"{S}.grads.{name}", "norm": f"{S}.norm"}
            yield (Tensor(f"{S}.{kind}.{name}", shape, grown, of) if t == 1 else
                   Tensor(f"{S}.{kind}.{name}", shape, f"betas[{i}] * {kind} + {grown}", {kind: f"{before}.{kind}.{name}", **of}))
    for name, shape in shapes(config):
        w = "(1 - lr * weight_decay) * w" if len(shape) > 1 else "w"
        yield Tensor(f"{S}.weights.{name}", shape, f"{w} - lr * m / (1 - betas[0] ** {t}) / (sqrt(v / (1 - betas[1] ** {t})) + adam_eps)",
                     {"w": f"weights.{name}" if t == 1 else f"{before}.weights.{name}", "m": f"{S}.m.{name}", "v": f"{S}.v.{name}"})


def _decoded(config: GPTConfig, B: int, T: int, n_decode: int, j: int, dropout: bool) -> Iterator[Tensor]:
    seen = T - n_decode + j
    new = f"ids[:, :{seen}]" if j == 0 else f"ids[:, {seen - 1}:{seen}], the keys and values of the tokens before it from decode.{j - 1}"
    everything = {"ids": "inputs.ids", "weights": "weights.*"}

    def one(name, shape, cut, whole, said):
        if dropout:  # of which the forward pass is another
            return Tensor(f"decode.{j}.{name}", shape, "", everything, f"{said} after {new}, without dropout")
        return Tensor(f"decode.{j}.{name}", shape, cut, {"a": whole}, f"{said} after {new}")

    yield one("logits", (B, config.n_vocab), f"a[:, {seen - 1}]", "forward.logits", "the scores of the next token")
    for i in range(config.n_layer):
        for part, what in (("k", "keys"), ("v", "values")):
            yield one(f"blocks.{i}.{part}", (B, config.n_head, seen, config.head_dim), f"a[:, :, :{seen}]", f"forward.blocks.{i}.attention.{part}",
                      f"the {what} in the store")


def count(config: GPTConfig, B: int, T: int, *, dropout: bool = False, steps: Steps = Steps(0), n_decode: int = 0) -> int:
    """How many tensors listed() would list."""
    one, two = ((sum(1 for _ in listed(small, B, T, dropout=dropout)), sum(1 for _ in shapes(small)))
                for small in (config.change(n_layer=1), config.change(n_layer=2)))
    once, params = (a + (config.n_layer - 1) * (b - a) for a, b in zip(one, two))
    return once + steps.n * (4 * params + 2) + (n_decode + 1) * (1 + 2 * config.n_layer) * bool(n_decode)


# -- reading


def check(manifest: Mapping, config: GPTConfig, stored: Mapping) -> None:
    """Refuse a manifest that is not that of a trace of this config; stored: what the file says of each tensor's dtype and shape.

    Counts first: a config of a hundred million layers is not to be listed.
    """
    dropout, n_decode, batch, entries = (manifest[name] for name in ("dropout", "n_decode", "batch", "tensors"))
    if not isinstance(manifest["steps"], dict) or {field.name for field in fields(Steps)} != set(manifest["steps"]):
        raise FormatError(f"its steps say {short(manifest['steps'])}, and not {', '.join(field.name for field in fields(Steps))}")
    steps = Steps(**manifest["steps"])
    for name, right in (("dropout", isinstance(dropout, bool)), ("adversarial", isinstance(manifest["adversarial"], bool)),
                        ("n_decode", _whole(n_decode)), ("seed", _whole(manifest["seed"])), ("batch", isinstance(batch, dict)),
                        ("tensors", isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries))):
        if not right:
            raise FormatError(f"its {name} cannot be {short(manifest[name])}")
    B, T, counted = batch["B"], batch["T"], batch["counted"]
    if not (_whole(B) and _whole(T) and _whole(counted) and 1 <= B and 1 <= T <= config.n_ctx and counted <= B * T):
        raise FormatError(f"its batch cannot be {short(batch)} in a context of {config.n_ctx}")
    if steps.pieces > B or dropout and steps.pieces > 1 or n_decode >= T:
        raise FormatError(f"a batch of {B} sequences of {T} tokens has no {steps.pieces} pieces{' with dropout' * dropout} and {n_decode} decode steps")
    options = dict(dropout=dropout, steps=steps, n_decode=n_decode)
    wanted = count(config, B, T, **options)
    if len(entries) != wanted:
        raise FormatError(f"its config, batch, steps and decoding call for {wanted} tensors, and it lists {len(entries)}")
    for tensor, entry in zip(listed(config, B, T, **options), entries):
        _check_entry(tensor, entry, stored)


def _check_entry(tensor: Tensor, entry: Mapping, stored: Mapping) -> None:
    name, shape = entry["name"], entry["shape"]
    if name != tensor.name:
        raise FormatError(f"it lists {short(name)} where {tensor.name} comes")
    if name not in stored:
        raise FormatError(f"it lacks {name}, which its manifest names")
    if shape != list(tensor.shape):
        raise FormatError(f"its config calls for {name} of shape {short(tensor.shape)}, and its manifest says {short(shape)}")
    if stored[name].shape != tensor.shape:
        raise FormatError(f"{name} is {stored[name].shape}, and not {short(shape)}")
    dtypes = {"inputs": ("I32",), "masks": ("BOOL",)}.get(name.split(".")[0], ("F64", "F32"))
    if stored[name].dtype not in dtypes:
        raise FormatError(f"{name} is {stored[name].dtype}, and not {' or '.join(dtypes)}")
    noise = entry["noise"]
    if not isinstance(noise, dict):
        raise FormatError(f"the noise of {name} cannot be {short(noise)}")
    sizes = {"length": entry["norm"], **{f"noise in {kind}": noise[kind] for kind in KINDS}}
    for what, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int | float) or not 0 <= size < math.inf:
            raise FormatError(f"the {what} of {name} cannot be {short(size)}")


def check_batch(ids: np.ndarray, targets: np.ndarray, config: GPTConfig, counted: int) -> None:
    """Refuse tokens that the vocabulary has not."""
    for name, array, fits in (("inputs.ids", ids, ids >= 0), ("inputs.targets", targets, (targets >= 0) | (targets == IGNORE))):
        wrong = array[~fits | (array >= config.n_vocab)]
        if wrong.size:
            raise FormatError(f"{name} has {wrong[0]} in it, where the vocabulary has {config.n_vocab} tokens")
    if int((targets != IGNORE).sum()) != counted:
        raise FormatError(f"{int((targets != IGNORE).sum())} of its targets count, and its batch says {counted}")


def _whole(number) -> bool:
    return type(number) is int and number >= 0
