"""Every layer beside torch and jax: outputs, input gradients and parameter gradients.

The mathematics of a layer is written once more below, as a twin: a function in a framework's own operators
(frameworks.py), whose gradients the framework takes by itself. The operators are the only thing that differs between
torch and jax.
"""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import policy_twins
import tuning_twins
from frameworks import beyond, errors, jax_vjp, torch_vjp, waves

from numgpt import layers as L
from numgpt.verify import cases, mutants

pytestmark = pytest.mark.verify


# -- the twins: f holds the operators, p[param] is the framework's array of a Param, and p[None], no bias, is None


def twin(f, p, layer, *inputs, **options):
    return TWINS[type(layer)](f, p, layer, *inputs, **options)


def standing(x, segments):
    """Which rows x (B, T, C) stands at; in a segment, at as many as there are of its number before, which no other has."""
    T = x.shape[1]
    return np.arange(T) if segments is None else np.tril(segments[:, :, None] == segments[:, None], -1).sum(-1)


def learned_positions(f, p, layer, x, segments=None):
    return x + p[layer.table][standing(x, segments)]


def sinusoidal_positions(f, p, layer, x, segments=None):
    return x + f.constant(waves(*x.shape[1:])[standing(x, segments)], x)


def dropout(f, p, layer, x, rng=None):
    if rng is None or layer.p == 0:
        return x
    kept = rng.random(tuple(x.shape), np.float32) >= layer.p
    return x * f.constant(kept / (1 - layer.p), x)


def attention(f, p, layer, q, k, v, rng=None, segments=None):
    (B, H, T, _), S = q.shape, k.shape[2]
    ahead = np.arange(S) - np.arange(S - T, S)[:, None]
    seen, reach = (ahead <= 0) & (ahead > -layer.window), None
    if segments is not None:
        seen, reach = seen & (segments[:, None, :, None] == segments[:, None, None]), layer._reach(segments, B, T, S)
    if rng is None or layer.dropout.p == 0:
        return f.attend(q, k, v, seen, layer.scale)
    kept = np.zeros((B, H, T, S))
    for queries, keys, _ in layer._tiles(T, S, reach):  # the layer's own mask: the same generator, drawn tile by tile
        tile = kept[:, :, queries, keys]
        tile[...] = (rng.random(tile.shape, np.float32) >= layer.dropout.p) / (1 - layer.dropout.p)
    return f.attend(q, k, v, seen, layer.scale, kept)


def self_attention(f, p, layer, x, rng=None, segments=None):
    B, T, _ = x.shape
    H, D = layer.n_head, layer.head_size
    qkv = twin(f, p, layer.qkv, x).reshape(B, T, 3, H, D)
    z = attention(f, p, layer.attention, *(qkv[:, :, i].swapaxes(1, 2) for i in range(3)), rng=rng, segments=segments)
    return twin(f, p, layer.out, z.swapaxes(1, 2).reshape(B, T, H * D))


def feed_forward(f, p, layer, x):
    return twin(f, p, layer.down, twin(f, p, layer.activation, twin(f, p, layer.up, x)))


def pre_norm_block(f, p, layer, x, rng=None, **packed):
    x = x + dropout(f, p, layer.dropout, twin(f, p, layer.attention, twin(f, p, layer.norm1, x), rng=rng, **packed), rng)
    return x + dropout(f, p, layer.dropout, twin(f, p, layer.ffn, twin(f, p, layer.norm2, x)), rng)


def post_norm_block(f, p, layer, x, rng=None):
    x = twin(f, p, layer.norm1, x + dropout(f, p, layer.dropout, twin(f, p, layer.attention, x, rng=rng), rng))
    return twin(f, p, layer.norm2, x + dropout(f, p, layer.dropout, twin(f, p, layer.ffn, x), rng))


def cross_entropy(f, p, layer, logits, targets, count=None):
    return f.cross_entropy(logits, targets) / (max(1, (targets != -100).sum().item()) if count is None else count)


def head_loss(f, p, layer, x, targets, count=None):
    matrix = p[layer.weight].T if layer.tied else p[layer.weight]
    return cross_entropy(f, p, layer, f.linear(x, matrix, p[layer.bias]), targets, count)


def tied_model(f, p, layer, ids, targets):
    x = twin(f, p, layer.embedding, ids)
    for part in layer.parts:
        x = twin(f, p, part, x)
    return head_loss(f, p, layer.head, x, targets)


class Function(L.Layer):
    """One of numgpt.layers.ops and its backward, dressed as a layer."""

    def __init__(self, f, f_backward):
        self.f, self.f_backward = f, f_backward

    def forward(self, x):
        return self.f(x), x

    def backward(self, dy, saved):
        return self.f_backward(dy, saved)


class TiedModel(L.Layer):
    """The smallest GPT: one table is both the embedding and the head, so that its gradient is a sum of two."""

    def __init__(self, s: cases.Sizes, positions: L.Layer):
        self.embedding = L.Embedding(s.V, s.C, dtype=s.dtype)
        block = L.PreNormBlock(s.C, s.H, head_size=s.D, n_hidden=s.F, dtype=s.dtype)
        self.parts = [positions, block, L.LayerNorm(s.C, dtype=s.dtype)]
        self.head = L.HeadLoss(s.C, s.V, tied=self.embedding.table, chunk=5, dtype=s.dtype)

    def forward(self, ids, targets):
        x, *saved = self.embedding.forward(ids)
        for part in self.parts:
            x, saved_part = part.forward(x)
            saved.append(saved_part)
        loss, saved_head = self.head.forward(x, targets)
        return loss, (*saved, saved_head)

    def backward(self, dloss, saved):
        dx = self.head.backward(dloss, saved[-1])
        for part, saved_part in zip(self.parts[::-1], saved[-2:0:-1]):
            dx = part.backward(dx, saved_part)
        return self.embedding.backward(dx, saved[0])


TWINS = {
    L.Linear: lambda f, p, layer, x: f.linear(x, p[layer.weight], p[layer.bias]),
    L.Embedding: lambda f, p, layer, ids: f.embedding(ids, p[layer.table]),
    L.LearnedPositions: learned_positions,
    L.SinusoidalPositions: sinusoidal_positions,
    L.LayerNorm: lambda f, p, layer, x: f.layer_norm(x, p[layer.gain], p[layer.bias], layer.eps),
    L.GELU: lambda f, p, layer, x: f.gelu(x),
    L.GELUTanh: lambda f, p, layer, x: f.gelu_tanh(x),
    L.ReLU: lambda f, p, layer, x: f.relu(x),
    L.QuickGELU: lambda f, p, layer, x: f.quick_gelu(x),
    L.SiLU: lambda f, p, layer, x: f.silu(x),
    L.Softmax: lambda f, p, layer, x: f.softmax(x),
    L.Dropout: dropout,
    L.CausalAttention: attention,
    L.SelfAttention: self_attention,
    L.FeedForward: feed_forward,
    L.PreNormBlock: pre_norm_block,
    L.PostNormBlock: post_norm_block,
    L.Recompute: lambda f, p, layer, *inputs, **options: twin(f, p, layer.layer, *inputs, **options),
    L.SoftmaxCrossEntropy: cross_entropy,
    L.HeadLoss: head_loss,
    TiedModel: tied_model,
    **tuning_twins.TWINS, **policy_twins.TWINS,
    Function: lambda f, p, layer, x: getattr(f, layer.f.__name__)(x),
}


# -- the cases: those of numgpt.verify, and more


def of_x(build):
    """A case of one layer over x (B, T, C)."""
    return lambda rng, s: cases.Case("", cases.order_one(build(s), rng), (cases.activations_of(rng, s),))


def block(kind, **options):
    return of_x(lambda s: L.BLOCKS[kind](s.C, s.H, head_size=s.D, n_hidden=s.F, tile=3, dtype=s.dtype, **options))


def heads_that_fill_c(rng, s):
    layer = cases.order_one(L.SelfAttention(s.H * s.D, s.H, tile=3, dtype=s.dtype), rng)
    return cases.Case("", layer, (cases.activations_of(rng, s, s.B, s.T, s.H * s.D),))


def more_keys_than_queries(rng, s):
    q = cases.activations_of(rng, s, s.B, s.H, s.T, s.D)
    k, v = (cases.activations_of(rng, s, s.B, s.H, s.T + 4, s.D) for _ in "kv")
    return cases.Case("", L.CausalAttention(scale=0.7, tile=3, window=5), (q, k, v))


def layernorm_far_from_zero(rng, s):
    return cases.make("layernorm", int(rng.integers(1 << 30)), replace(s, offset=100.0))


def head_with_count(rng, s):
    case = cases.make("head-loss-bias", int(rng.integers(1 << 30)), s)
    return cases.Case("", case.target, case.inputs, {"count": 2 * s.B * s.T + 1})


def tied(positions):
    return lambda rng, s: cases.Case("", cases.order_one(TiedModel(s, positions(s)), rng),
                                     (cases.ids_of(rng, s), cases.targets_of(rng, s)))


MORE = {
    **{f"{kind}-norm-block-{name}": block(kind, activation=name) for kind in L.BLOCKS for name in L.ACTIVATIONS},
    "post-norm-block-no-bias": block("post", bias=False),
    "pre-norm-block-window-unscaled": block("pre", window=3, scale=1.0),
    "self-attention-heads-that-fill-c": heads_that_fill_c,
    "attention-more-keys-than-queries": more_keys_than_queries,
    "layernorm-mean-100": layernorm_far_from_zero,
    "head-loss-count": head_with_count,
    "tied-model": tied(lambda s: L.LearnedPositions(s.T + 2, s.C, dtype=s.dtype)),
    "tied-model-sinusoidal": tied(lambda s: L.SinusoidalPositions(s.T + 2, s.C)),
}
NAMES = [*cases.names(), *MORE]


def make(name, seed, dtype):
    sizes = cases.Sizes(dtype=dtype)
    case = MORE[name](np.random.default_rng(seed), sizes) if name in MORE else cases.make(name, seed, sizes)
    if case.backward is not None:
        case.target = Function(case.target, case.backward)
    return case


# -- output and gradients: ours, torch's and jax's


def leaves(case):
    """What is differentiated: the floating-point inputs and the parameters that are not frozen."""
    inputs = {f"input {i}": a for i, a in enumerate(case.inputs) if a.dtype.kind == "f"}
    return inputs | {name: param.value for name, param in case.target.named_params() if not param.frozen}


def twin_of(case):
    """The case as a function of a framework's operators and of its leaves."""
    def function(f, values):
        like = next(iter(values.values()))
        p = {None: None, **{param: f.constant(param.value, like) if param.frozen else values[name]
                            for name, param in case.target.named_params()}}
        inputs = [values.get(f"input {i}", a) for i, a in enumerate(case.inputs)]
        return twin(f, p, case.target, *inputs, **deepcopy(case.options)),  # a copy: a generator is used up
    return function


def with_numgpt(case, seed):
    """The gradient by the output, drawn here with both signs, and the output and all gradients by name."""
    y, saved = case.target.forward(*case.inputs, **deepcopy(case.options))
    dy = np.asarray(np.random.default_rng((seed, 1)).standard_normal(np.shape(y)), y.dtype)
    dx = case.target.backward(dy, saved)
    dx = dx if isinstance(dx, tuple) else (dx,)
    inputs = {f"input {i}": d for i, d in enumerate(dx) if d is not None}  # None: ids have no gradient
    return dy, {"output": y, **inputs, **{name: param.grad for name, param in case.target.named_params() if not param.frozen}}


def with_torch(case, dy, dtype):
    (y,), gradients = torch_vjp(twin_of(case), leaves(case), [dy], dtype)
    return {"output": y, **gradients}


def with_jax(case, dy):
    (y,), gradients = jax_vjp(twin_of(case), leaves(case), [dy])
    return {"output": y, **gradients}


# -- the claims


@pytest.mark.parametrize("name", NAMES)
def test_float64_is_torchs_within_1e_12(name):
    case = make(name, 1, np.float64)
    dy, found = with_numgpt(case, 1)
    assert not beyond(1e-12, errors(found, with_torch(case, dy, np.float64)))


@pytest.mark.parametrize("name", NAMES)
def test_float64_is_jaxs_within_1e_12(name):
    case = make(name, 1, np.float64)
    dy, found = with_numgpt(case, 1)
    assert not beyond(1e-12, errors(found, with_jax(case, dy)))


@pytest.mark.parametrize("name", NAMES)
def test_float32_is_no_further_from_float64_than_four_times_torchs_own_float32(name):
    # The truth is torch's float64 at the same inputs and weights, rounded to float32 beforehand. One draw says little:
    # torch may be exact by luck, most of all in a loss, which is a single number. So root mean squares are compared.
    draws = []
    for seed in range(10):
        case = make(name, seed, np.float32)
        dy, found = with_numgpt(case, seed)
        assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
        truth = with_torch(case, dy, np.float64)
        draws.append((errors(found, truth), errors(with_torch(case, dy, np.float32), truth)))
    for tensor in truth:
        ours, torchs = np.sqrt(np.mean([[mine[tensor] ** 2, theirs[tensor] ** 2] for mine, theirs in draws], axis=0))
        assert ours <= 4 * torchs, f"{tensor}: {ours:.2g}, torch {torchs:.2g}"


@pytest.mark.parametrize("slug", sorted(set(mutants.names("gradient")) - {"mask-finite"}))  # which wants large scores
def test_every_planted_mistake_shows_beside_torch(slug):
    # Those that name no case are wrong forward and backward alike, which a gradient check cannot see.
    for name in mutants.CATALOGUE[slug].shows or ["attention"]:
        case = make(name, 1, np.float64)
        with mutants.apply(slug):
            dy, found = with_numgpt(case, 1)
        assert beyond(1e-6, errors(found, with_torch(case, dy, np.float64)))


def test_every_layer_has_a_case_of_its_own():
    classes = {item for item in vars(L).values() if isinstance(item, type) and issubclass(item, L.Layer)} - {L.Layer}
    assert classes <= {type(make(name, 1, np.float64).target) for name in NAMES}
    assert classes <= TWINS.keys()
