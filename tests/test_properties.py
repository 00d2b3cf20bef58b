"""Properties that bite, over random sizes and weights of order one."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numgpt import layers as L
from numgpt.layers import ops
from numgpt.verify import cases
from families import each
from stages import later
from test_cases import SISTERS

EPS = np.finfo(np.float64).eps
# With two channels LayerNorm leaves +-1, and next to no gradient: from four on it is a fair case.
sizes = st.builds(cases.Sizes, B=st.integers(1, 3), T=st.integers(1, 9), H=st.integers(1, 3), D=st.integers(1, 5),
                  C=st.integers(4, 9), F=st.integers(1, 9), V=st.integers(2, 11))
seeds = st.integers(0, 1000)
LAYERS = [name for name in cases.names() if cases.make(name).backward is None]
SEQUENCE = [name for name in LAYERS if any(part in name for part in ("attention", "block", "recompute"))]
OVER_X = [name for name in LAYERS if cases.make(name).inputs[0].ndim == 3 and cases.make(name).inputs[0].dtype.kind == "f"
          and len(cases.make(name).inputs) == 1]
# Of what is drawn often, one of each kind: its sisters, and most whole blocks, wait for the second stage.
WAITING = SISTERS - {"pre-norm-block", "post-norm-block-dropout"}


def firsts(names):
    return [later(name) if name in WAITING else name for name in names]


def like(y, seed=1):
    return np.random.default_rng([seed, 7]).standard_normal(np.shape(y))


def forward(case, *inputs, options=None):
    """Forward from the same generator every time."""
    return case.target.forward(*(inputs or case.inputs), **copy.deepcopy(case.options if options is None else options))


def near(a, b, bound=1e-13):
    """Norm-wise, for two orders of the same sums."""
    return np.abs(a - b).max(initial=0) <= bound * max(np.abs(b).max(initial=0), 1e-300)


@pytest.mark.parametrize("name", firsts(LAYERS))
@given(sizes, seeds)
def test_backward_is_linear_and_exactly_so_for_powers_of_two(name, sizes, seed):
    case = cases.make(name, seed, sizes)
    y, saved = forward(case)
    dy, dz = like(y), like(y, 2)
    twice, once, other, both = ([*each] for each in (
        gradients(case, 2 * dy, saved), gradients(case, dy, saved), gradients(case, dz, saved),
        gradients(case, dy + dz, saved)))
    for a, b, c, d in zip(twice, once, other, both):
        assert np.array_equal(a, 2 * b)
        assert np.abs(d - b - c).max(initial=0) <= 1e-12 * max(np.abs(b).max(initial=0), np.abs(c).max(initial=0), 1e-2)


def gradients(case, dy, saved):
    """Of inputs and parameters, from cleared ones."""
    case.target.zero_grad()
    result = case.target.backward(dy, saved)
    yield from (np.array(d) for d in (result if isinstance(result, tuple) else (result,)) if d is not None)
    yield from (param.grad.copy() for param in case.target.params())


@pytest.mark.parametrize("name", firsts(OVER_X))
@given(sizes, seeds)
def test_adjoint(name, sizes, seed):
    """<dy, J v> = <J^T dy, v>, with J v by complex step: as exact as the arithmetic."""
    case = cases.make(name, seed, sizes)
    v = like(case.inputs[0], 3)
    y, saved = forward(case)
    dy = like(y)
    twin = copy.copy(case)
    twin.target = case.target.astype(complex)
    Jv = forward(twin, case.inputs[0] + 1e-30j * v)[0].imag / 1e-30
    JTdy = case.target.backward(dy, saved)
    bound = 1e-12 * max(np.linalg.norm(dy) * np.linalg.norm(Jv), np.linalg.norm(JTdy) * np.linalg.norm(v), 1e-9)
    assert abs((dy * Jv).sum() - (JTdy * v).sum()) <= bound


@pytest.mark.parametrize("name", firsts(SEQUENCE))
@given(sizes, seeds, st.data())
def test_the_future_does_not_reach_the_past(name, sizes, seed, data):
    case = cases.make(name, seed, sizes)
    t = data.draw(st.integers(0, sizes.T - 1))
    axis = case.inputs[0].ndim - 2
    future = [np.array(x) for x in case.inputs]
    for x in future:
        x[(slice(None),) * axis + (slice(t + 1, None),)] += 1.5
    y, saved = forward(case)
    past = (slice(None),) * axis + (slice(0, t + 1),)
    assert np.array_equal(forward(case, *future)[0][past], y[past])
    dy = np.zeros_like(y)
    dy[(slice(None),) * axis + (t,)] = like(dy[(slice(None),) * axis + (t,)])
    results = case.target.backward(dy, saved)
    for dx in results if isinstance(results, tuple) else (results,):
        assert not dx[(slice(None),) * axis + (slice(t + 1, None),)].any()


@pytest.mark.parametrize("score", [-1e3, -1e5, -1e12, -1e30])
def test_however_low_the_scores_that_are_seen_none_that_is_hidden_shows_through(score):
    # All scores alike: a position's output is the mean of what it sees, however low they are. A mask of -1e4 or -1e9
    # is above them then, and what is added to 1e30 is lost.
    rng = np.random.default_rng(0)
    v = rng.standard_normal((2, 3, 7, 5))
    q, k = np.ones_like(v), np.full_like(v, score / 5)
    truth = np.cumsum(v, 2) / np.arange(1, 8)[:, None]
    attention = L.CausalAttention(scale=1.0, tile=3)
    assert np.allclose(attention(q, k, v), truth, rtol=0, atol=8 * EPS)
    assert np.allclose(L.CausalAttention(scale=1.0)(q, k, v), truth, rtol=0, atol=8 * EPS)
    positions = np.tile(np.arange(7), (2, 1))
    assert np.allclose(attention.look(q, k, v, positions), truth, rtol=0, atol=8 * EPS)


@pytest.mark.parametrize("window", [1, 2, 4])
def test_a_window_of_w_keys_sees_w_keys(window):
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 2, 3, 9, 5))
    attention = L.CausalAttention(scale=0.4, window=window, tile=3)
    y = attention(q, k, v)
    for s in range(9):
        changed = v.copy()
        changed[:, :, s] += 1
        seen = (attention(q, k, changed) != y).any(axis=(0, 1, 3))
        assert list(np.flatnonzero(seen)) == list(range(s, min(s + window, 9)))


def test_tiles_do_not_show():
    rng = np.random.default_rng(0)
    q, k, v, dy = rng.standard_normal((4, 2, 3, 70, 5))
    for window in (None, 1, 7, 69, 70, 200):
        whole, tiled = (L.CausalAttention(scale=0.4, window=window, tile=tile) for tile in (1000, 13))
        (y, saved), (z, saved_tiled) = whole.forward(q, k, v), tiled.forward(q, k, v)
        assert near(z, y)
        for a, b in zip(tiled.backward(dy, saved_tiled), whole.backward(dy, saved)):
            assert near(a, b)


@pytest.mark.parametrize("name", firsts(SEQUENCE))
@given(sizes, seeds)
def test_batch_rows_do_not_see_each_other(name, sizes, seed):
    case = cases.make(name, seed, sizes)
    order = np.random.default_rng(seed).permutation(sizes.B)
    y = case.target(*case.inputs)
    permuted = case.target(*(x[order] for x in case.inputs))
    assert near(permuted, y[order])


@given(sizes, seeds, st.floats(-30, 30))
def test_softmax_and_its_loss_do_not_see_a_shift(sizes, seed, shift):
    x = like(np.empty((sizes.B, sizes.T, sizes.V)), seed)
    # the sum x + shift rounds to eps * |shift|, and so does the answer
    bound = 16 * EPS * (1 + abs(shift))
    assert np.abs(ops.softmax(x + shift) - ops.softmax(x)).max() <= bound
    assert np.abs(ops.log_softmax(x + shift) - ops.log_softmax(x)).max() <= 4 * bound
    targets = np.zeros((sizes.B, sizes.T), int)
    loss = L.SoftmaxCrossEntropy()
    assert abs(loss(x + shift, targets) - loss(x, targets)) <= 4 * bound
    assert np.abs(loss.backward(1.0, loss.forward(x, targets)[1]).sum(-1)).max() <= 16 * EPS


@given(sizes, seeds, st.floats(0.5, 2), st.floats(-10, 10))
def test_layernorm_does_not_see_shift_and_scale(sizes, seed, factor, shift):
    x = like(np.empty((sizes.B, sizes.T, sizes.C)), seed)
    norm = L.LayerNorm(sizes.C, eps=1e-5)
    assert np.abs(norm(x + shift) - norm(x)).max() <= 1e-11  # x + shift is rounded, and the std may be small
    scaled = L.LayerNorm(sizes.C, eps=1e-5 * factor ** 2)  # eps scales with the variance
    assert near(scaled(factor * x), norm(x))


@given(seeds)
def test_dropout(seed):
    x = like(np.empty((3, 5, 7)), seed)
    dropout = L.Dropout(0.4)
    assert np.array_equal(dropout(x), x) and np.array_equal(L.Dropout(0.0)(x, rng=np.random.default_rng(seed)), x)
    same = [dropout(x, rng=np.random.default_rng(seed)) for _ in range(2)]
    assert np.array_equal(*same)
    single = dropout(x.astype(np.float32), rng=np.random.default_rng(seed))
    assert single.dtype == np.float32 and np.array_equal(single == 0, same[0] == 0)


def test_dropout_keeps_the_mean():
    n, p = 100_000, 0.3
    y = L.Dropout(p)(np.ones(n), rng=np.random.default_rng(0))
    assert set(np.unique(y)) == {0.0, 1 / (1 - p)}
    assert abs((y == 0).mean() - p) < 5 * np.sqrt(p * (1 - p) / n)  # fails once in two million seeds


@pytest.mark.parametrize("kind", ["pre", "post"])
@given(sizes, seeds, st.data())
def test_decoding_with_a_store_equals_the_full_forward(kind, sizes, seed, data):
    block = cases.make(f"{kind}-norm-block", seed, sizes).target
    x = like(np.empty((sizes.B, sizes.T, sizes.C)), seed)
    kv = L.KV(sizes.B, sizes.H, sizes.T, sizes.D, np.float64)
    splits = sorted({0, sizes.T, *data.draw(st.lists(st.integers(0, sizes.T), max_size=4))})
    pieces = [block.forward(x[:, a:b], kv=kv)[0] for a, b in zip(splits, splits[1:])]
    assert kv.length == sizes.T
    assert near(np.concatenate(pieces, 1), block(x), 1e-12)


def test_a_full_store_says_so():
    block = cases.make("pre-norm-block").target
    kv = L.KV(2, 3, 6, 5, np.float64)
    with pytest.raises(ValueError, match="holds 6 positions, 0 of them used; 7 more do not fit"):
        block.forward(np.zeros((2, 7, 11)), kv=kv)


@pytest.mark.parametrize("name", ["softmax-cross-entropy", "head-loss-tied", "head-loss-bias"])
@given(sizes, seeds, st.integers(1, 5))
def test_pieces_of_a_batch_add_up_to_the_whole(name, sizes, seed, pieces):
    case = cases.make(name, seed, sizes)
    x, targets = case.inputs
    x, targets = x.reshape(-1, x.shape[-1]), targets.reshape(-1)
    count = int((targets != -100).sum())
    loss, saved = case.target.forward(x, targets)
    whole = list(gradients(case, 1.0, saved))
    total, dx, grads = 0.0, [], None
    for x_, targets_ in zip(np.array_split(x, pieces), np.array_split(targets, pieces)):
        part, saved = case.target.forward(x_, targets_, count=count)
        total += part
        d, *params = gradients(case, 1.0, saved)
        dx.append(d)
        grads = params if grads is None else [a + b for a, b in zip(grads, params)]
    assert abs(total - loss) <= 1e-14 * max(abs(loss), 1)
    for a, b in zip([np.concatenate(dx), *grads], whole):
        assert near(a, b)


@given(sizes, seeds)
def test_chunks_do_not_show_and_the_fused_head_is_head_then_loss(sizes, seed):
    case = cases.make("head-loss-bias", seed, sizes)
    head, (x, targets) = case.target, case.inputs
    loss, saved = head.forward(x, targets)
    fused = list(gradients(case, 0.7, saved))
    assert loss == head(x, targets)
    linear, cross_entropy = L.Linear(sizes.C, sizes.V), L.SoftmaxCrossEntropy()
    linear.weight, linear.bias = L.Param(head.weight.value), L.Param(head.bias.value)
    logits, saved_linear = linear.forward(x)
    plain, saved_loss = cross_entropy.forward(logits, targets)
    dx = linear.backward(cross_entropy.backward(0.7, saved_loss), saved_linear)
    assert near(loss, plain)
    for a, b in zip(fused, [dx, linear.weight.grad, linear.bias.grad]):
        assert near(a, b)


@given(sizes, seeds)
def test_a_tied_gradient_is_the_sum_of_the_two_untied_ones(sizes, seed):
    ids, targets = cases.ids_of(np.random.default_rng(seed), sizes), cases.targets_of(np.random.default_rng(seed), sizes)
    embedding = cases.order_one(L.Embedding(sizes.V, sizes.C), np.random.default_rng(seed))
    untied = L.HeadLoss(sizes.C, sizes.V, tied=L.Param(embedding.table.value))
    tied = L.HeadLoss(sizes.C, sizes.V, tied=embedding.table)

    def run(head):
        embedding.zero_grad(), head.zero_grad()
        x, saved = embedding.forward(ids)
        _, saved_head = head.forward(x, targets)
        embedding.backward(head.backward(1.0, saved_head), saved)

    run(untied)
    parts = embedding.table.grad + untied.weight.grad
    run(tied)
    assert near(tied.weight.grad, parts)


@pytest.mark.parametrize("name", ["pre-norm-block-dropout", "post-norm-block-dropout"])
@given(sizes, seeds)
def test_recompute_gives_the_same_bits(name, sizes, seed):
    case = cases.make(name, seed, sizes)
    y, saved = forward(case)
    kept = list(gradients(case, like(y), saved))
    case.target = L.Recompute(case.target)
    z, saved = forward(case)
    again = list(gradients(case, like(y), saved))
    assert np.array_equal(y, z) and all(map(np.array_equal, kept, again))
    assert not any(isinstance(item, np.ndarray) and item.size > case.inputs[0].size for item in saved[0])


@pytest.mark.parametrize("name", LAYERS)
def test_any_layout_of_memory_gives_the_same_numbers(name):
    case = cases.make(name, 4)
    y, saved = forward(case)
    expected = list(gradients(case, like(y), saved))
    for change in (np.asfortranarray, strided, read_only, byte_swapped):
        inputs = [change(x) for x in case.inputs]
        z, saved = forward(case, *inputs)
        assert near(z, y) and np.asarray(z).dtype.isnative
        dy = change(like(y)) if np.ndim(y) else like(y)
        for a, b in zip(gradients(case, dy, saved), expected):
            assert near(a, b)
        assert all(np.array_equal(a, b) for a, b in zip(inputs, case.inputs))


def strided(x):
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def byte_swapped(x):
    return x.astype(x.dtype.newbyteorder())


@pytest.mark.parametrize("name", LAYERS)
def test_the_dtype_that_goes_in_comes_out(name):
    case = cases.make(name, 4)

    def comes_out(dtype):
        layer = case.target.astype(dtype)
        inputs = [x.astype(dtype) if x.dtype.kind == "f" else x for x in case.inputs]
        y, saved = layer.forward(*inputs, **copy.deepcopy(case.options))
        assert np.asarray(y).dtype == dtype
        if np.dtype(dtype).kind == "f":
            dx = layer.backward(like(y).astype(dtype) if np.ndim(y) else dtype(0.7), saved)
            for d in dx if isinstance(dx, tuple) else (dx,):
                assert d is None or d.dtype == dtype
            assert all(param.grad.dtype == dtype for param in layer.params())

    each([np.float16, np.float32, np.float64, np.longdouble, np.complex64, np.complex128], comes_out)


@pytest.mark.parametrize("name", LAYERS)
def test_empty_batches_give_empty_outputs_and_zero_gradients(name):
    case = cases.make(name, 4)
    inputs = [x[:0] for x in case.inputs]
    case.options = {name: x[:0] if isinstance(x, np.ndarray) else x for name, x in case.options.items()}
    y, saved = forward(case, *inputs)
    assert np.size(y) == 0 or y == 0
    for g in gradients(case, np.zeros_like(y) if np.ndim(y) else 1.0, saved):
        assert not g.any()


def test_parameters_are_found_in_lists_and_dicts_and_once():
    class Model(L.Layer):
        def __init__(self):
            self.parts = {"a": L.Linear(2, 3), "b": [[L.LayerNorm(3)]]}
            self.again = self.parts["a"]
            self.itself = self

    assert [name for name, _ in Model().named_params()] == ["parts.a.weight", "parts.a.bias", "parts.b.0.0.gain", "parts.b.0.0.bias"]


def test_forward_is_safe_on_any_number_of_threads():
    layer = cases.make("pre-norm-block").target
    inputs = [like(np.empty((2, 7, 11)), seed) for seed in range(16)]
    with ThreadPoolExecutor(8) as pool:
        assert all(map(np.array_equal, pool.map(layer, inputs), map(layer, inputs)))
