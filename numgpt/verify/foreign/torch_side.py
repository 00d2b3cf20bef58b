"""A torch model's own numbers under the names of a trace, read off while it runs."""

import inspect
from collections import Counter
from collections.abc import Mapping
from functools import partial

import numpy as np

from numgpt.verify.adapters import Missing
from numgpt.verify.foreign import heads_apart, joined, laid_out, trace_of
from numgpt.verify.foreign.torch_names import Named, named_in


def torch_trace(module, ids, targets, names=None, path=None, weights=True, *, train=False,
                n_head=None) -> dict[str, np.ndarray]:
    """What a torch module makes of a batch, and its gradients, as arrays under the names of a trace.

        torch_trace(GPT2LMHeadModel.from_pretrained("gpt2"), ids, targets, path="theirs.safetensors")
        torch_trace(mine, ids, targets, {"tok": "embedding", "layers.*.ln1": "blocks.*.norm1", "pos": "positions.table"})

    module(ids) gives logits (B, T, V), alone, first in a tuple, or as .logits; the loss is made here, as the mean over
    targets that are not -100, in the type of the logits. names: their name of a module or parameter -> ours, with * for a
    layer's number. A module is named as the tensor that it puts out (or "head"), and its weight and bias follow it.
    The models of transformers, nanoGPT and minGPT need no names.

    The inputs of modules give the rest: sums, what goes into blocks, mixed, activation. (A sum that is copied or cast before
    its norm has the norm's part of the gradient alone: name a module that puts it out.)

    nn.Linear's weight is turned to (in, out); another is taken as it is, or turned if its name ends in .T. The module is in
    eval mode, or in train mode with train=True; afterwards it is as it was, its .grad fields too. n_head, where the module
    does not say it: to take q, k and v apart. With path, a file is written as well.
    """
    try:
        import torch
    except ImportError:
        raise Missing("tracing a torch module takes torch: pip install 'numgpt[verify]'") from None
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"torch_trace wants a torch.nn.Module; got {type(module).__name__}")
    module = getattr(module, "_orig_mod", module)  # what torch.compile wraps: compiled code calls no hooks
    named = named_in(module, names or {}, torch.nn.Linear)
    place = next((p.device for p in module.parameters()), "cpu")
    ids, targets = (_whole_numbers(a, what, place, torch) for a, what in ((ids, "ids"), (targets, "targets")))
    if ids.ndim != 2 or ids.shape != targets.shape:
        raise ValueError(f"ids and targets must both be (B, T); got {tuple(ids.shape)} and {tuple(targets.shape)}")

    seen = Seen()
    modes = [(one, one.training) for one in module.modules()]
    try:
        for one, ours in named.layers.items():
            seen.watch(one, ours)
        module.train(train)
        with torch.inference_mode(False), torch.enable_grad():
            logits = _logits(module, module(ids))
            if logits.shape[1] < ids.shape[1] and "targets" in inspect.signature(module.forward).parameters:
                # nanoGPT without targets gives the last position's alone. Its loss is not looked at, so any targets do.
                seen.clear()
                logits = _logits(module, module(ids, targets=ids))
            if logits.shape[:2] != ids.shape:
                raise ValueError(f"logits must be (B, T, V) for ids {tuple(ids.shape)}; they are {tuple(logits.shape)}")
            seen.keep("logits", "output", logits)
            seen.closed = True  # recomputing in the backward pass calls modules a second time
            count = max(int((targets != -100).sum()), 1)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100,
                                                     reduction="sum") / count
            trainable = [p for p in module.parameters() if p.requires_grad]
            if trainable and not loss.requires_grad:
                raise ValueError("the logits have no gradient: somewhere the module cuts its graph (no_grad, detach, NumPy)")
            leaves = [*trainable, *seen.roots]
            slopes = torch.autograd.grad(loss, leaves, materialize_grads=True) if leaves and loss.requires_grad else ()
    finally:
        for hook in seen.hooks:
            hook.remove()
        for one, mode in modes:
            one.training = mode

    seen.settle(named)
    forward, backward = seen.tensors()
    for tensors in (forward, backward):
        heads_apart(tensors, named.heads.get if n_head is None else lambda _: n_head)
    slope_of = {id(p): numpy_of(slope) for p, slope in zip(trainable, slopes)}
    value_of = {id(p): numpy_of(p) for p, _ in named.params.values()} if weights else {}
    grads, values = (joined({name: laid_out(name, found[id(p)], turned)
                             for name, (p, turned) in named.params.items() if id(p) in found})
                     for found in (slope_of, value_of))
    return trace_of(ids.cpu(), targets.cpu(), values, forward, numpy_of(loss), backward, grads, slope_of.values(), path)


class Seen:
    """What went into modules and came out of them, and the gradients by it.

    A hook on a tensor gets the gradient by what the tensor was then, also if it is changed in place afterwards, as
    nn.ReLU(inplace=True) does; its .grad would be by what it became. A view does not keep that promise, and most Linears
    give one: so a copy of it goes on instead.
    """

    def __init__(self):
        self.hooks, self.roots, self.closed = [], [], False
        self.clear()

    def clear(self):
        self.values, self.slopes, self.order, self.active, self.calls = {}, {}, {}, set(), Counter()
        self.roots.clear()

    def watch(self, module, ours: list[str]) -> None:
        """Look at a module of these names: more than one if it stands in several places, for which it is called in turn."""
        self.hooks.append(module.register_forward_pre_hook(partial(self._before, ours), with_kwargs=True))
        self.hooks.append(module.register_forward_hook(partial(self._after, ours)))

    def keep(self, name: str, side: str, tensor) -> None:
        self.values[name, side] = numpy_of(tensor)
        if tensor.requires_grad:
            self.hooks.append(tensor.register_hook(lambda slope: self.slopes.__setitem__((name, side), numpy_of(slope))))

    def _before(self, ours, module, args, kwargs):
        self.calls[module] += not self.closed
        if self.closed or self.calls[module] > len(ours):
            return
        name = ours[self.calls[module] - 1]
        self.order[name] = len(self.order)
        for tensor in _floating((*args, *kwargs.values()))[:1]:
            self.keep(name, "input", tensor)

    def _after(self, ours, module, args, given):
        if self.closed or self.calls[module] > len(ours):
            return None
        name = ours[self.calls[module] - 1]
        if getattr(module, "p", 0) and module.training:
            self.active.add(name)
        found = _floating(given if isinstance(given, (tuple, list)) else (given,))
        if name.endswith(".attention"):  # transformers gives its probabilities beside the result, if it has them
            found = [tensor for tensor in found if tensor.ndim == 4]
            if getattr(getattr(module, "attn_dropout", None), "p", 0) and module.training:
                self.active.add(name)
        if not found:
            return None
        output = found[0]
        if name == "embedding" and not output.requires_grad and output is given:
            self.roots.append(output.detach().requires_grad_())
            output = self.roots[-1].view_as(output)  # a frozen table: from here on there are gradients all the same
        self.keep(name, "output", output)
        return output.clone() if output._base is not None and not isinstance(given, (tuple, list)) else None

    def settle(self, named: Named) -> None:
        """A module that ran more often than it has names is left out; if somebody asked for it, that is an error."""
        for module, ours in named.layers.items():
            n, theirs = self.calls[module], named.explicit.get(module)
            if theirs and n != len(ours):
                raise ValueError(f"{theirs!r} ran {n} times and has {len(ours)} name{'s' * (len(ours) > 1)} of ours"
                                 + ("" if n else ": if another module uses its parameters, name those and not it"))
            if n > len(ours):
                self.order = {name: place for name, place in self.order.items() if name not in ours}
                for found in (self.values, self.slopes):
                    for key in [key for key in found if key[0] in ours]:
                        del found[key]

    def tensors(self) -> tuple[dict, dict]:
        """Forward and backward by our names: what modules put out under their own, the rest from what they take in."""
        blocks = range(1 + max((int(name.split(".")[1]) for name in self.order if name.startswith("blocks.")), default=-1))
        sources = {}
        entries = [self._entry(i) for i in blocks]
        if entries:
            sources["positions"] = ("dropout" if ("dropout", "input") in self.values else entries[0]), "input"
        for i in blocks:
            P, pre = f"blocks.{i}", entries[i] == f"blocks.{i}.norm1"
            after = entries[i + 1] if i + 1 < len(entries) else "norm"
            sources |= {f"{P}.attention.mixed": (f"{P}.attention.out", "input"),
                        f"{P}.ffn.activation": (f"{P}.ffn.down", "input"),
                        f"{P}.sum1": (f"{P}.{'norm2' if pre else 'norm1'}", "input"),
                        f"{P}.sum2": (after if pre else f"{P}.norm2", "input"),
                        f"{P}.attention.probabilities": (f"{P}.attention.kept", "input")}
            if (f"{P}.attention.kept", "input") not in self.values:
                what = "kept" if f"{P}.attention" in self.active else "probabilities"
                sources[f"{P}.attention.{what}"] = (f"{P}.attention", "output")
        for name, side in self.values:
            last = name.rpartition(".")[2]
            idle = last in ("dropout", "kept", "dropped") and name not in self.active
            rows = name == "positions" and (name, "input") not in self.values  # of a table, which are not the sum
            if side == "output" and last not in ("attention", "head") and not idle and not rows:
                sources[name] = name, side
        return tuple({name: found[source] for name, source in sources.items() if source in found}
                     for found in (self.values, self.slopes))

    def _entry(self, i: int) -> str:
        """The module that block i begins with: norm1 where it comes before attention."""
        parts = [f"blocks.{i}.{part}" for part in ("norm1", "attention.qkv", "attention.q", "attention.k", "attention.v")]
        return min((part for part in parts if part in self.order), key=self.order.get, default=parts[0])


def _logits(module, output):
    """The logits in whatever a module gives back."""
    found = output
    if not hasattr(output, "ndim"):
        items = output if isinstance(output, (tuple, list)) else (getattr(output, "logits", None),)
        if isinstance(output, Mapping) and "logits" in output:
            items = (output["logits"],)
        found = next((item for item in _floating(items) if item.ndim == 3), None)
    if found is None or found.ndim != 3 or not found.is_floating_point():
        hidden = hasattr(output, "last_hidden_state")
        what = ("hidden states and no logits" if hidden else type(output).__name__ if found is None
                else f"a tensor of shape {tuple(found.shape)}")
        raise TypeError(f"logits (B, T, V) are wanted, alone, in a tuple or as .logits; {type(module).__name__} gives {what}"
                        + (": take the model with its head, such as GPT2LMHeadModel" if hidden else ""))
    return found


def _whole_numbers(a, what: str, device, torch):
    a = a if isinstance(a, torch.Tensor) else torch.from_numpy(np.array(a))
    if a.is_floating_point() or a.is_complex() or a.dtype == torch.bool:
        raise TypeError(f"{what} must be whole numbers; they are {a.dtype}")
    return a.to(device, torch.long)


def _floating(items) -> list:
    return [item for item in items if hasattr(item, "is_floating_point") and item.is_floating_point()]


def numpy_of(tensor) -> np.ndarray:
    """A copy in its own type; NumPy has no bfloat16, but float32 has all of its numbers."""
    tensor = tensor.detach()
    if str(tensor.dtype) not in ("torch.float16", "torch.float32", "torch.float64"):
        tensor = tensor.float()
    return np.array(tensor.cpu().numpy())
