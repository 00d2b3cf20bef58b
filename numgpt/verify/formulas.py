"""What each tensor of a trace is: its name, its shape and its formula, in the order in which a GPT computes them.

A formula is Python over the tensors that it names, the sizes of the config and the functions below, so a trace can be
recomputed from its own manifest. It is written from the mathematics, without the layers: one of the two would have to
be wrong in the same way as the other for a mistake to hide.
"""

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from numgpt.config import GPTConfig
from numgpt.plan import shapes

# The words of the formulas, beside those of NumPy.
WORDS = {
    "flat(a)": "a.reshape(-1, a.shape[-1])",
    "rows(a)": "flat(a).sum(0)",
    "mean(a)": "a.mean(-1, keepdims=True)",
    "rstd(x)": "1 / sqrt(mean((x - mean(x)) ** 2) + eps)",
    "xhat(x)": "(x - mean(x)) * rstd(x)",
    "dnorm(dxhat, x)": "rstd(x) * (dxhat - mean(dxhat) - xhat(x) * mean(dxhat * xhat(x)))",
    "softmax(a)": "exp(a - a.max(-1, keepdims=True)) / exp(a - a.max(-1, keepdims=True)).sum(-1, keepdims=True)",
    "dsoftmax(dp, p)": "p * (dp - (dp * p).sum(-1, keepdims=True))",
    "heads(a)": "a.reshape(B, T, H, D).swapaxes(1, 2)",
    "merged(a)": "a.swapaxes(1, 2).reshape(B, T, H * D)",
    "seen(window)": "(arange(T) <= arange(T)[:, None]) & (arange(T) > arange(T)[:, None] - window)",
    "erf(a)": "vectorize(math.erf)(a)",
}
ACTIVATIONS = {
    "gelu_tanh": ("0.5 * h * (1 + tanh(sqrt(2 / pi) * (h + 0.044715 * h ** 3)))",
                  "da * (0.5 * (1 + tanh(sqrt(2 / pi) * (h + 0.044715 * h ** 3))) + 0.5 * h / cosh(sqrt(2 / pi) * (h + 0.044715 * h ** 3)) ** 2"
                  " * sqrt(2 / pi) * (1 + 3 * 0.044715 * h * h))"),
    "gelu": ("0.5 * h * (1 + erf(h / sqrt(2)))", "da * (0.5 * (1 + erf(h / sqrt(2))) + h * exp(-h * h / 2) / sqrt(2 * pi))"),
    "relu": ("maximum(h, 0)", "da * (h > 0)"),
    "quick_gelu": ("h / (1 + exp(-1.702 * h))", "da * (1 + exp(-1.702 * h) * (1 + 1.702 * h)) / (1 + exp(-1.702 * h)) ** 2"),
    "silu": ("h / (1 + exp(-h))", "da * (1 + exp(-h) * (1 + h)) / (1 + exp(-h)) ** 2"),
}


@dataclass(frozen=True)
class Tensor:
    name: str
    shape: tuple[int, ...]
    formula: str           # "" where there is none
    of: Mapping[str, str]  # the formula's names, and the tensors that they stand for; with a * all that fit, as a list
    says: str = ""         # what it is, where no formula can say it


def tensors(config: GPTConfig, B: int, T: int, *, dropout: bool = False) -> list[Tensor]:
    """Every tensor of a forward and a backward pass, in order; dropout: the config's is at work."""
    return list(_Pass(config, B, T, dropout).tensors())


def evaluate(tensor: Tensor, found: Mapping[str, np.ndarray], config: GPTConfig, steps: Mapping | None = None) -> np.ndarray:
    """The formula over the tensors of a trace; steps: what its manifest says of them."""
    B, T = found["inputs.ids"].shape
    scope = _numpy() | {"math": math, "B": B, "T": T, "C": config.n_embd, "H": config.n_head, "D": config.head_dim, "V": config.n_vocab,
                       "eps": config.norm_eps, "inf": np.inf}
    scope |= {"adam_eps" if name == "eps" else name: number for name, number in (steps or {}).items()}
    for signature, body in WORDS.items():
        scope[signature.partition("(")[0]] = eval(_word(signature, body), scope)
    for name, full in tensor.of.items():
        start, star, end = full.partition("*")
        scope[name] = [_wide(found[one]) for one in found if one.startswith(start) and one.endswith(end)] if star else _wide(found[full])
    with np.errstate(over="ignore"):
        return np.asarray(eval(tensor.formula, scope))


def _wide(a) -> np.ndarray:
    """What a trace computes with: weights are in float32 in its file, which has them exactly."""
    a = np.asarray(a)
    return a.astype(np.float64) if a.dtype == np.float32 else a


@functools.cache
def _numpy() -> dict:
    return {name: getattr(np, name) for name in dir(np) if not name.startswith("_")}


@functools.cache
def _word(signature: str, body: str):
    return compile(f"lambda {signature.partition('(')[2][:-1]}: {body}", signature, "eval")


class _Pass:
    def __init__(self, config: GPTConfig, B: int, T: int, dropout: bool):
        self.c, self.B, self.T = config, B, T
        self.stream = (B, T, config.n_embd)
        self.shapes = dict(shapes(config))
        self.p_embd, self.p_attn, self.p_resid = ((config.dropout_embd, config.dropout_attn, config.dropout_resid) if dropout
                                                  else (0.0, 0.0, 0.0))

    def tensors(self) -> Iterator[Tensor]:
        c, B, T = self.c, self.B, self.T
        whole = (B, T, c.n_vocab)
        yield from self.embeddings()
        x = "dropout" if self.p_embd else "positions"
        inputs = []
        for i in range(c.n_layer):
            inputs.append(x)
            yield from self.block(i, x)
            x = f"blocks.{i}.{'sum2' if c.norm == 'pre' else 'norm2'}"
        if c.norm == "pre":
            yield self.norm("norm", x)
        last = "norm" if c.norm == "pre" else x
        table = {"table": "weights.embedding.table"} if c.tied else {"weight": "weights.head.weight"}
        bias = {"bias": "weights.head.bias"} if c.head_bias else {}
        yield Tensor("forward.logits", whole, ("x @ table.T" if c.tied else "x @ weight") + (" + bias" if bias else ""),
                     {"x": f"forward.{last}", **table, **bias})
        yield Tensor("forward.probabilities", whole, "softmax(logits)", {"logits": "forward.logits"})
        targets = {"targets": "inputs.targets"}
        yield Tensor("forward.loss", (), "-where(targets == -100, 0, log(take_along_axis(p, maximum(targets, 0)[..., None], -1)[..., 0])).sum()"
                     " / maximum((targets != -100).sum(), 1)", {"p": "forward.probabilities", **targets})

        yield Tensor("backward.logits", whole, "(p - (targets[..., None] == arange(V))) * (targets != -100)[..., None]"
                     " / maximum((targets != -100).sum(), 1)", {"p": "forward.probabilities", **targets})
        dlogits = {"dlogits": "backward.logits"}
        if not c.tied:
            yield self.gradient("head.weight", "flat(x).T @ flat(dlogits)", {"x": f"forward.{last}", **dlogits})
        if bias:
            yield self.gradient("head.bias", "rows(dlogits)", dlogits)
        flows = "dlogits @ table" if c.tied else "dlogits @ weight.T", {**dlogits, **table}
        if c.norm == "pre":
            yield Tensor("backward.norm", self.stream, *flows)
            yield from self.norm_gradients("norm", x)
            flows = self.through_norm("norm", x)
        for i in reversed(range(c.n_layer)):
            yield from self.block_backward(i, inputs[i], flows)
            flows = self.into_block(i, inputs[i])
        yield from self.embeddings_backward(flows, last)

    def embeddings(self) -> Iterator[Tensor]:
        yield Tensor("forward.embedding", self.stream, "table[ids]", {"table": "weights.embedding.table", "ids": "inputs.ids"})
        x = {"x": "forward.embedding"}
        if self.c.positions == "learned":
            yield Tensor("forward.positions", self.stream, "x + table[:T]", {**x, "table": "weights.positions.table"})
        else:
            angle = "arange(T)[:, None] / 10000 ** (arange(C) // 2 * 2 / C)"
            yield Tensor("forward.positions", self.stream, f"x + where(arange(C) % 2 == 0, sin({angle}), cos({angle}))", x)
        if self.p_embd:
            yield self.dropped("dropout", "positions", self.p_embd, self.stream)

    def embeddings_backward(self, flows, last: str) -> Iterator[Tensor]:
        if self.p_embd:
            yield Tensor("backward.dropout", self.stream, *flows)
            flows = self.undropped("dropout", self.p_embd)
        yield Tensor("backward.positions", self.stream, *flows)
        dy = {"dy": "backward.positions"}
        if self.c.positions == "learned":
            yield self.gradient("positions.table", "concatenate([dy.sum(0), zeros((len(table) - T, C))])",
                                {**dy, "table": "weights.positions.table"})
        yield Tensor("backward.embedding", self.stream, "dy", dy)
        onehot, of = "flat((ids[..., None] == arange(V)) + 0.0).T @ flat(dy)", {"dy": "backward.embedding", "ids": "inputs.ids"}
        if self.c.tied:
            onehot, of = f"{onehot} + flat(dlogits).T @ flat(x)", {**of, "dlogits": "backward.logits", "x": f"forward.{last}"}
        yield self.gradient("embedding.table", onehot, of)

    def block(self, i: int, x: str) -> Iterator[Tensor]:
        P, pre = f"blocks.{i}", self.c.norm == "pre"
        if pre:
            yield self.norm(f"{P}.norm1", x)
        yield from self.attention(i, f"{P}.norm1" if pre else x)
        a = f"{P}.attention.out"
        if self.p_resid:
            yield self.dropped(f"{P}.attention.dropped", a, self.p_resid, self.stream)
            a = f"{P}.attention.dropped"
        yield Tensor(f"forward.{P}.sum1", self.stream, "x + a", {"x": f"forward.{x}", "a": f"forward.{a}"})
        yield self.norm(f"{P}.norm2" if pre else f"{P}.norm1", f"{P}.sum1")
        h = f"{P}.norm2" if pre else f"{P}.norm1"
        wide = (self.B, self.T, self.c.hidden_dim)
        yield self.linear(f"{P}.ffn.up", h, wide)
        yield Tensor(f"forward.{P}.ffn.activation", wide, ACTIVATIONS[self.c.activation][0], {"h": f"forward.{P}.ffn.up"})
        yield self.linear(f"{P}.ffn.down", f"{P}.ffn.activation", self.stream)
        f = f"{P}.ffn.down"
        if self.p_resid:
            yield self.dropped(f"{P}.ffn.dropped", f, self.p_resid, self.stream)
            f = f"{P}.ffn.dropped"
        n = f"{P}.sum1" if pre else f"{P}.norm1"
        yield Tensor(f"forward.{P}.sum2", self.stream, "n + f", {"n": f"forward.{n}", "f": f"forward.{f}"})
        if not pre:
            yield self.norm(f"{P}.norm2", f"{P}.sum2")

    def attention(self, i: int, x: str) -> Iterator[Tensor]:
        c, A = self.c, f"blocks.{i}.attention"
        B, T, H, D = self.B, self.T, c.n_head, c.head_dim
        yield self.linear(f"{A}.qkv", x, (B, T, 3 * H * D))
        for j, part in enumerate("qkv"):
            yield Tensor(f"forward.{A}.{part}", (B, H, T, D), f"heads(qkv[..., {j} * H * D:{j + 1} * H * D])", {"qkv": f"forward.{A}.qkv"})
        yield Tensor(f"forward.{A}.scores", (B, H, T, T), f"where(seen({c.window_of(i) or T}), {c.scale(i)!r} * q @ k.swapaxes(-1, -2), -inf)",
                     {"q": f"forward.{A}.q", "k": f"forward.{A}.k"})
        yield Tensor(f"forward.{A}.probabilities", (B, H, T, T), "softmax(scores)", {"scores": f"forward.{A}.scores"})
        if self.p_attn:
            yield self.dropped(f"{A}.kept", f"{A}.probabilities", self.p_attn, (B, H, T, T))
        yield Tensor(f"forward.{A}.mixed", (B, T, H * D), "merged(p @ v)",
                     {"p": f"forward.{A}.{'kept' if self.p_attn else 'probabilities'}", "v": f"forward.{A}.v"})
        yield self.linear(f"{A}.out", f"{A}.mixed", self.stream)

    def block_backward(self, i: int, x: str, flows) -> Iterator[Tensor]:
        P, pre, stream = f"blocks.{i}", self.c.norm == "pre", self.stream
        if not pre:
            yield Tensor(f"backward.{P}.norm2", stream, *flows)
            yield from self.norm_gradients(f"{P}.norm2", f"{P}.sum2")
            flows = self.through_norm(f"{P}.norm2", f"{P}.sum2")
        yield Tensor(f"backward.{P}.sum2", stream, *flows)
        flows = "ds", {"ds": f"backward.{P}.sum2"}
        if self.p_resid:
            yield Tensor(f"backward.{P}.ffn.dropped", stream, *flows)
            flows = self.undropped(f"{P}.ffn.dropped", self.p_resid)
        yield Tensor(f"backward.{P}.ffn.down", stream, *flows)
        yield from self.linear_gradients(f"{P}.ffn.down", f"{P}.ffn.activation")
        wide = (self.B, self.T, self.c.hidden_dim)
        yield Tensor(f"backward.{P}.ffn.activation", wide, *self.through_linear(f"{P}.ffn.down"))
        yield Tensor(f"backward.{P}.ffn.up", wide, ACTIVATIONS[self.c.activation][1],
                     {"da": f"backward.{P}.ffn.activation", "h": f"forward.{P}.ffn.up"})
        h = f"{P}.norm2" if pre else f"{P}.norm1"
        yield from self.linear_gradients(f"{P}.ffn.up", h)
        flows, of = self.through_linear(f"{P}.ffn.up")
        if pre:
            yield Tensor(f"backward.{h}", stream, flows, of)
        else:
            yield Tensor(f"backward.{h}", stream, f"ds + {flows}", {"ds": f"backward.{P}.sum2", **of})
        yield from self.norm_gradients(h, f"{P}.sum1")
        flows, of = self.through_norm(h, f"{P}.sum1")
        yield Tensor(f"backward.{P}.sum1", stream, f"ds + {flows}" if pre else flows, {"ds": f"backward.{P}.sum2", **of} if pre else of)
        flows = "ds", {"ds": f"backward.{P}.sum1"}
        if self.p_resid:
            yield Tensor(f"backward.{P}.attention.dropped", stream, *flows)
            flows = self.undropped(f"{P}.attention.dropped", self.p_resid)
        yield Tensor(f"backward.{P}.attention.out", stream, *flows)
        yield from self.attention_backward(i, f"{P}.norm1" if pre else x)
        if pre:
            yield Tensor(f"backward.{P}.norm1", stream, *self.through_linear(f"{P}.attention.qkv"))
            yield from self.norm_gradients(f"{P}.norm1", x)

    def attention_backward(self, i: int, x: str) -> Iterator[Tensor]:
        c, A = self.c, f"blocks.{i}.attention"
        B, T, H, D = self.B, self.T, c.n_head, c.head_dim
        square, heads = (B, H, T, T), (B, H, T, D)
        p = {"p": f"forward.{A}.probabilities"}
        yield from self.linear_gradients(f"{A}.out", f"{A}.mixed")
        yield Tensor(f"backward.{A}.mixed", (B, T, H * D), *self.through_linear(f"{A}.out"))
        dz = {"dz": f"backward.{A}.mixed"}
        kept = {"p": f"forward.{A}.kept"} if self.p_attn else p
        flows = "heads(dz) @ v.swapaxes(-1, -2)", {**dz, "v": f"forward.{A}.v"}
        if self.p_attn:
            yield Tensor(f"backward.{A}.kept", square, *flows)
            flows = self.undropped(f"{A}.kept", self.p_attn)
        yield Tensor(f"backward.{A}.probabilities", square, *flows)
        yield Tensor(f"backward.{A}.scores", square, "dsoftmax(dp, p)", {"dp": f"backward.{A}.probabilities", **p})
        ds = {"dscores": f"backward.{A}.scores"}
        yield Tensor(f"backward.{A}.q", heads, f"{c.scale(i)!r} * dscores @ k", {**ds, "k": f"forward.{A}.k"})
        yield Tensor(f"backward.{A}.k", heads, f"{c.scale(i)!r} * dscores.swapaxes(-1, -2) @ q", {**ds, "q": f"forward.{A}.q"})
        yield Tensor(f"backward.{A}.v", heads, "p.swapaxes(-1, -2) @ heads(dz)", {**kept, **dz})
        yield Tensor(f"backward.{A}.qkv", (B, T, 3 * H * D), "concatenate([merged(dq), merged(dk), merged(dv)], -1)",
                     {f"d{part}": f"backward.{A}.{part}" for part in "qkv"})
        yield from self.linear_gradients(f"{A}.qkv", x)

    def into_block(self, i: int, x: str):
        """The gradient of what comes into a block, from those inside it."""
        P = f"blocks.{i}"
        ds = {"ds": f"backward.{P}.sum1"}
        flows, of = self.through_norm(f"{P}.norm1", x) if self.c.norm == "pre" else self.through_linear(f"{P}.attention.qkv")
        return f"ds + {flows}", {**ds, **of}

    # -- the layers

    def linear(self, name: str, x: str, shape) -> Tensor:
        bias = {"bias": f"weights.{name}.bias"} if self.c.bias else {}
        return Tensor(f"forward.{name}", shape, "x @ weight" + " + bias" * bool(bias),
                      {"x": f"forward.{x}", "weight": f"weights.{name}.weight", **bias})

    def through_linear(self, name: str):
        return "dy @ weight.T", {"dy": f"backward.{name}", "weight": f"weights.{name}.weight"}

    def linear_gradients(self, name: str, x: str) -> Iterator[Tensor]:
        dy = {"dy": f"backward.{name}"}
        yield self.gradient(f"{name}.weight", "flat(x).T @ flat(dy)", {"x": f"forward.{x}", **dy})
        if self.c.bias:
            yield self.gradient(f"{name}.bias", "rows(dy)", dy)

    def norm(self, name: str, x: str) -> Tensor:
        bias = {"bias": f"weights.{name}.bias"} if self.c.bias else {}
        return Tensor(f"forward.{name}", self.stream, "gain * xhat(x)" + " + bias" * bool(bias),
                      {"x": f"forward.{x}", "gain": f"weights.{name}.gain", **bias})

    def through_norm(self, name: str, x: str):
        return "dnorm(dy * gain, x)", {"dy": f"backward.{name}", "gain": f"weights.{name}.gain", "x": f"forward.{x}"}

    def norm_gradients(self, name: str, x: str) -> Iterator[Tensor]:
        dy = {"dy": f"backward.{name}"}
        yield self.gradient(f"{name}.gain", "rows(dy * xhat(x))", {**dy, "x": f"forward.{x}"})
        if self.c.bias:
            yield self.gradient(f"{name}.bias", "rows(dy)", dy)

    def dropped(self, name: str, x: str, p: float, shape) -> Tensor:
        return Tensor(f"forward.{name}", shape, f"x * kept / (1 - {p!r})", {"x": f"forward.{x}", "kept": f"masks.{name}"})

    def undropped(self, name: str, p: float):
        return f"dy * kept / (1 - {p!r})", {"dy": f"backward.{name}", "kept": f"masks.{name}"}

    def gradient(self, name: str, formula: str, of: Mapping[str, str]) -> Tensor:
        return Tensor(f"grads.{name}", self.shapes[name], formula, of)
