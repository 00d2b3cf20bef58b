"""The derivations in the docstrings are executed: what stands there is what the layer computes."""

import inspect
import re
import textwrap

import numpy as np
import pytest

from numgpt import GPT, GPTConfig
from numgpt import layers as L
from numgpt.layers import ops

B, T, H, D, C, F, V = 2, 5, 3, 4, 7, 11, 13


def section(layer, title: str) -> str:
    """The Python of one section; prose stands on lines that begin with --."""
    text = inspect.getdoc(type(layer))
    head = re.search(rf"^{title} +", text, re.M)
    assert head, f"{type(layer).__name__} has no {title}"
    body = text[head.start():]
    end = re.search(r"\n(?=\S)|\n\n", body)
    body = " " * len(head[0]) + body[len(head[0]):end.start() if end else None]
    lines = textwrap.dedent(body).splitlines()
    code, prose = [], False
    for line in lines:
        prose = line.startswith("--") or (prose and line.startswith("  ") and not code[-1:] == ["("])
        if not line.lstrip().startswith("--"):
            code.append(line)
    return "\n".join(code)


def names(layer) -> dict:
    """NumPy's functions without prefix, the layer's plain numbers, its parameters and its parts."""
    scope = {name: getattr(np, name) for name in np.__all__ if not name.startswith("_")}
    scope |= {"rows": ops.rows, "softmax": ops.softmax, "normal_cdf": ops.normal_cdf, "sum": sum}
    for name, item in vars(layer).items():
        scope[name] = item.value if isinstance(item, L.Param) else item
    return scope


def rng():
    return np.random.default_rng(5)


def drawn(layer):
    for _, param in layer.named_params():
        param.value[...] = rng().standard_normal(param.shape)
    return layer


def x(*shape):
    return rng().standard_normal(shape)


TARGETS = rng().integers(0, V, (B, T))
TARGETS[0, 1] = TARGETS[1, 3] = -100
PLAIN = [  # layers whose lines stand for themselves: names of inputs, inputs, more names, options
    (drawn(L.Linear(C, F)), {"x": x(B * T, C)}, {}, {}),
    (drawn(L.Embedding(V, C)), {"ids": rng().integers(0, V, (B, T))}, {}, {}),
    (drawn(L.LearnedPositions(T + 2, C)), {"x": x(B, T, C)}, {}, {}),
    (L.SinusoidalPositions(T + 2, C), {"x": x(B, T, C)}, {}, {}),
    (drawn(L.LayerNorm(C)), {"x": x(B, T, C)}, {}, {}),
    (L.GELU(), {"x": x(B, T, C)}, {}, {}),
    (L.GELUTanh(), {"x": x(B, T, C)}, {}, {}),
    (L.ReLU(), {"x": x(B, T, C)}, {}, {}),
    (L.SiLU(), {"x": x(B, T, C)}, {}, {}),
    (L.QuickGELU(), {"x": x(B, T, C)}, {}, {}),
    (L.Dropout(0.3), {"x": x(B, T, C)}, {}, {"rng": np.random.default_rng(9)}),
    (L.CausalAttention(scale=0.4, tile=2), {n: x(B, H, T, D) * (1 + i) for i, n in enumerate("qkv")}, {}, {}),
    (L.CausalAttention(scale=0.4, window=3, tile=2), {n: x(B, H, T, D) * (1 + i) for i, n in enumerate("qkv")}, {}, {}),
    (L.Softmax(), {"x": x(B, T, C)}, {}, {}),
    (L.SoftmaxCrossEntropy(), {"logits": x(B, T, V), "targets": TARGETS}, {"count": 17}, {"count": 17}),
]


@pytest.mark.parametrize("layer, inputs, more, options", PLAIN, ids=lambda item: type(item).__name__)
def test_the_derivation_computes_what_the_layer_computes(layer, inputs, more, options):
    scope = names(layer) | {name: np.array(value) for name, value in inputs.items()} | more
    if "rng" in options:
        scope["rng"] = np.random.default_rng(9)
    y, saved = layer.forward(*inputs.values(), **options)
    dy = rng().standard_normal(np.shape(y)) if np.ndim(y) else 0.7
    layer.zero_grad()
    result = layer.backward(dy, saved)

    exec(section(layer, "Forward"), scope)
    output = "loss" if "loss" in section(layer, "Forward") else "y"
    assert near(scope[output], y)
    scope[f"d{output}"] = dy
    exec(section(layer, "Backward"), scope)
    results = result if isinstance(result, tuple) else (result,)
    for name, d in zip(inputs, results):
        if d is not None:
            assert near(scope[f"d{name}"], d), name
    for name, param in layer.named_params():
        assert near(scope[f"d{name}"], param.grad), name


class Part:
    """A part of a composite layer as its docstring writes it: part(x), and part.backward(dy) with what it saved."""

    def __init__(self, layer, **options):
        self.layer, self.options = layer, options

    def __call__(self, *inputs):
        y, self.saved = self.layer.forward(*inputs, **self.options)
        return y

    def backward(self, dy, *_):
        return self.layer.backward(dy, self.saved)


@pytest.mark.parametrize("layer", [
    L.SelfAttention(C, H, head_size=D, rng=1), L.FeedForward(C, F, rng=1),
    L.PreNormBlock(C, H, head_size=D, n_hidden=F, rng=1), L.PostNormBlock(C, H, head_size=D, n_hidden=F, rng=1),
    L.Recompute(L.FeedForward(C, F, rng=1)),
], ids=lambda layer: type(layer).__name__)
def test_the_derivation_of_a_composite_layer(layer):
    drawn(layer)
    x_, dy = x(B, T, C), rng().standard_normal((B, T, C))
    y, saved = layer.forward(x_)
    layer.zero_grad()
    dx = layer.backward(dy, saved)
    grads = {name: param.grad.copy() for name, param in layer.named_params()}

    scope = names(layer) | {"x": x_}
    for name, item in vars(layer).items():
        if isinstance(item, L.Layer) and not isinstance(layer, L.Recompute):
            scope[name] = Part(item)
    if isinstance(layer, L.FeedForward):
        scope |= {"up": layer.up, "down": layer.down}
        for linear in (layer.up, layer.down):  # its lines speak of up.weight, an array
            scope["up" if linear is layer.up else "down"] = type("Arrays", (), {
                "weight": linear.weight.value, "bias": linear.bias.value})
    if isinstance(layer, L.SelfAttention):
        scope |= {"B": B, "T": T, "H": H, "D": D}
    exec(section(layer, "Forward"), scope)
    assert near(scope["y"], y)
    layer.zero_grad()
    scope["dy"] = dy
    exec(section(layer, "Backward"), scope)
    assert near(scope["dx"], dx)
    if not isinstance(layer, L.FeedForward):
        for name, param in layer.named_params():
            assert near(param.grad, grads[name]), name


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_the_derivation_of_a_whole_model(norm):
    model = drawn(GPT(GPTConfig(n_vocab=V, n_ctx=T, n_layer=3, n_head=H, n_embd=6, norm=norm), dtype=np.float64))
    ids = rng().integers(0, V, (B, T))
    loss, saved = model.forward(ids, TARGETS)
    model.zero_grad()
    model.backward(saved, 0.7)
    grads = model.grads.copy()

    body, head = names(model.body), Part(model.head)
    parts = {name: Part(item) for name, item in vars(model.body).items() if isinstance(item, L.Layer)}
    parts |= {"blocks": [Part(block) for block in model.body.blocks], "ids": ids}
    if norm == "post":
        parts["norm"] = Same()
    scope = body | parts
    exec(section(model.body, "Forward"), scope)
    assert near(head(scope["x"], TARGETS), loss) and near(scope["x"], model.body(ids))
    model.zero_grad()
    scope["dx"] = head.backward(0.7)
    exec(section(model.body, "Backward"), scope)
    assert near(model.grads, grads)

    scope = {"body": Part(model.body), "head": Part(model.head), "ids": ids, "targets": TARGETS, "dloss": 0.7}
    exec(section(model, "Forward"), scope)
    model.zero_grad()
    exec(section(model, "Backward"), scope)
    assert near(scope["loss"], loss) and near(model.grads, grads)


class Same:
    """The last norm of a model that has none."""

    def __call__(self, x):
        return x

    def backward(self, dx):
        return dx


def test_the_derivation_of_the_head():
    head = drawn(L.HeadLoss(C, V, bias=True, chunk=3))
    x_, dloss = x(B * T, C), 0.7
    targets = TARGETS.reshape(-1)
    loss, saved = head.forward(x_, targets)
    dx = head.backward(dloss, saved)
    counts = (targets != -100)[:, None]
    scope = names(head) | {"x": x_, "targets": targets, "dloss": dloss, "count": counts.sum(),
                           "softmax": lambda a: counts * ops.softmax(a), "onehot": targets[:, None] == np.arange(V),
                           "softmax_cross_entropy": L.SoftmaxCrossEntropy()}
    exec(section(head, "Forward"), scope)
    exec(section(head, "Backward"), scope)
    assert near(scope["loss"], loss) and near(scope["dx"], dx)
    assert near(scope["dweight"], head.weight.grad) and near(scope["dbias"], head.bias.grad)


def near(a, b) -> bool:
    """Two ways to write one formula in double precision: a few hundred roundings apart at most."""
    assert np.shape(a) == np.shape(b)
    return np.abs(a - b).max() <= 1e-13 * max(np.abs(b).max(), 1e-3)


def test_every_layer_has_a_derivation():
    for name in L.__all__:
        item = getattr(L, name)
        if isinstance(item, type) and issubclass(item, L.Layer) and item is not L.Layer:
            doc = inspect.getdoc(item)
            assert re.search("^Forward ", doc, re.M) and re.search("^Backward ", doc, re.M), name
            assert re.search("^Saved ", doc, re.M), name
