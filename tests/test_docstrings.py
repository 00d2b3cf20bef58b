"""The derivations in the docstrings are executed: what stands there is what the layer computes."""

import numpy as np
import pytest

from numgpt import GPT, GPTConfig
from numgpt import layers as L
from numgpt.layers import ops
from numgpt.teach.derivation import Derivation, Part, Statement, execute, run, scope, undone
from numgpt.verify import cases

B, T, H, D, C, F, V = 2, 5, 3, 4, 7, 11, 13


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
LAST = np.array([[4, 0, 2], [1, -1, 3]])
PLAIN = [  # layers whose lines stand for themselves: names of inputs, inputs, more names, options
    (drawn(L.Linear(C, F)), {"x": x(B * T, C)}, {}, {}),
    (drawn(L.LoRA(L.Linear(C, F), 3, 2.0)), {"x": x(B * T, C)}, {}, {}),
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
    (L.LastToken(), {"x": x(B, 3, T, C), "last": LAST}, {}, {}),
    (drawn(L.HeadLogProbs(L.HeadLoss(C, V, bias=True, chunk=3))), {"x": x(B, T, C), "targets": TARGETS}, {}, {}),
    (L.LogisticPairs(), {"chosen": x(V), "rejected": x(2, V)[1]}, {"count": 17}, {"count": 17}),
    (L.DPO(0.3, smoothing=0.1), {"logp": 9 * x(V, 2)}, {"reference": x(V, 2), "count": 17}, {"reference": x(V, 2), "count": 17}),
]
for name in ("kl-reward", "gae", "clipped-policy", "clipped-value", "clipped-value-none", "token-kl"):
    case = cases.make(name)  # with nan among the constants of tokens that do not count
    inputs = dict(zip({"gae": ("rewards", "values")}.get(name, ("values" if "value" in name else "logp",)), case.inputs))
    count = {} if name in ("kl-reward", "gae") else {"count": 17}
    PLAIN.append((case.target, inputs, case.options | count, case.options | count))


@pytest.mark.parametrize("layer, inputs, more, options", PLAIN, ids=lambda item: type(item).__name__)
def test_the_derivation_computes_what_the_layer_computes(layer, inputs, more, options):
    names = scope(layer) | {name: np.array(value) for name, value in inputs.items()} | more
    if "rng" in options:
        names["rng"] = np.random.default_rng(9)
    y, saved = layer.forward(*inputs.values(), **options)
    dy = rng().standard_normal(np.shape(y)) if np.ndim(y) else 0.7
    layer.zero_grad()
    result = layer.backward(dy, saved)

    derivation = Derivation.of(layer)
    execute(derivation.forward, names)
    assert near(names[derivation.output], y)
    names[f"d{derivation.output}"] = dy
    execute(derivation.backward, names)
    results = result if isinstance(result, tuple) else (result,)
    for name, d in zip(inputs, results):
        if d is not None:
            assert near(names[f"d{name}"], d), name
    for name, param in layer.named_params():
        assert near(names[f"d{name}"], param.grad) if not param.frozen else f"d{name}" not in names, name


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

    names, derivation = scope(layer) | {"x": x_}, Derivation.of(layer)
    if isinstance(layer, L.SelfAttention):
        names |= {"B": B, "T": T, "H": H, "D": D}
    execute(derivation.forward, names)
    assert near(names["y"], y)
    layer.zero_grad()
    names["dy"] = dy
    execute(derivation.backward, names)
    assert near(names["dx"], dx)
    if not isinstance(layer, L.FeedForward):
        for name, param in layer.named_params():
            assert near(param.grad, grads[name]), name


@pytest.mark.parametrize("layer, inputs", [
    (L.ClassHead(C, F, dropout=0.3), (x(B, T, C), LAST[:, 0])),
    (L.SimilarityHead(C, F, dropout=0.3), (x(B, 2, T, C), LAST[:, ::2])),
    (L.ScoreHead(C), (x(B, 3, T, C), LAST)), (L.ValueHead(C), (x(B, T, C),)),
], ids=lambda item: type(item).__name__ if isinstance(item, L.Layer) else "")
def test_the_derivation_of_a_head_for_another_task(layer, inputs):
    drawn(layer)
    y, saved = layer.forward(*inputs)
    dy = rng().standard_normal(y.shape)
    layer.zero_grad()
    dx = layer.backward(dy, saved)
    grads = {name: param.grad.copy() for name, param in layer.named_params()}

    names, derivation = scope(layer) | dict(zip(("x", "last"), inputs)), Derivation.of(layer)
    execute(derivation.forward, names)
    assert np.array_equal(np.isinf(y), np.isinf(names["y"])) and near(names["y"][np.isfinite(y)], y[np.isfinite(y)])
    layer.zero_grad()
    names["dy"] = dy
    execute(derivation.backward, names)
    assert near(names["dx"], dx)
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

    head, names = Part(model.head), scope(model.body) | {"ids": ids}
    if norm == "post":
        names["norm"] = Same()
    execute(Derivation.of(model.body).forward, names)
    assert near(head(names["x"], TARGETS), loss) and near(names["x"], model.body(ids))
    model.zero_grad()
    names["dx"] = head.backward(0.7)
    execute(Derivation.of(model.body).backward, names)
    assert near(model.grads, grads)

    names = scope(model) | {"ids": ids, "targets": TARGETS, "dloss": 0.7}
    execute(Derivation.of(model).forward, names)
    model.zero_grad()
    execute(Derivation.of(model).backward, names)
    assert near(names["loss"], loss) and near(model.grads, grads)


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
    names = scope(head) | {"x": x_, "targets": targets, "dloss": dloss, "count": counts.sum(),
                           "softmax": lambda a: counts * ops.softmax(a), "onehot": targets[:, None] == np.arange(V),
                           "softmax_cross_entropy": L.SoftmaxCrossEntropy()}
    execute(Derivation.of(head).forward, names)
    execute(Derivation.of(head).backward, names)
    assert near(names["loss"], loss) and near(names["dx"], dx)
    assert near(names["dweight"], head.weight.grad) and near(names["dbias"], head.bias.grad)


def near(a, b) -> bool:
    """Two ways to write one formula in double precision: a few hundred roundings apart at most."""
    assert np.shape(a) == np.shape(b)
    return np.abs(a - b).max() <= 1e-13 * max(np.abs(b).max(), 1e-3)


def test_every_layer_has_a_derivation():
    for name in L.__all__:
        item = getattr(L, name)
        if isinstance(item, type) and issubclass(item, L.Layer) and item is not L.Layer:
            derivation = Derivation.of(item)
            assert derivation.summary and derivation.forward and derivation.backward and derivation.saved, name


def test_each_line_gives_what_it_assigns_and_keeps_the_prose_above_it():
    derivation = Derivation.of(L.LearnedPositions)
    zeros, rows = derivation.backward[:2]
    assert rows == Statement("dtable[:x.shape[-2]] = dy.sum(0)", ("every sequence of the batch uses the same rows",))
    names = scope(L.LearnedPositions(3, 2)) | {"x": np.zeros((2, 1, 2)), "dy": np.ones((2, 1, 2))}
    (_, before), (_, after), _ = run(derivation.backward, names)
    assert before["dtable"].tolist() == [[0, 0]] * 3 and after["dtable"].tolist() == [[2, 2], [0, 0], [0, 0]]
    assert derivation.shapes == ("x (B, T, C) -> y (B, T, C);  table (n_ctx, C), of which the first T rows are used",)


@pytest.mark.parametrize("layer, known, line, lines", [
    (L.LayerNorm, {"dy"}, "dgain", ["y"]), (L.LayerNorm, {"dy"}, "dxhat", ["y"]),
    (L.LayerNorm, {"dy", "dxhat"}, "dx", ["mean", "rstd", "xhat"]), (L.GELUTanh, {"dy"}, "dx", ["u", "t", "y"]),
    (L.CausalAttention, {"dy"}, "dv", ["y"]), (L.CausalAttention, {"dy", "dp"}, "dscores", ["p"]),
    (L.CausalAttention, {"dy", "dp", "dscores"}, "dk", ["scores"]),
    (L.SoftmaxCrossEntropy, {"dloss"}, "dlogits", ["p", "loss"]),
    (L.PreNormBlock, {"dy", "dn"}, "dx", ["n"]), (L.FeedForward, {"dy"}, "a", []), (L.Embedding, {"dy"}, "onehot", []),
    (L.LearnedPositions, {"dy"}, "dx", ["y"])])
def test_a_line_of_backward_undoes_those_between_its_name_and_the_gradients_that_are_known(layer, known, line, lines):
    derivation = Derivation.of(layer)
    statement = next(s for s in derivation.backward if line in s.names)
    assert [s.names[0] for s in undone(statement, derivation.forward, known)] == lines


def test_a_docstring_without_a_section_or_with_a_line_that_is_no_python_is_refused():
    class Bare(L.Linear):
        """y = x."""

    class Bent(L.Linear):
        """y = x.

        Forward   y = = x
        Backward  dx = dy
        Saved     nothing
        """

    with pytest.raises(ValueError, match="docstring of Bare has no Forward"):
        Derivation.of(Bare)
    with pytest.raises(ValueError, match="docstring of Bent has a line that is no Python: y = = x"):
        Derivation.of(Bent)
