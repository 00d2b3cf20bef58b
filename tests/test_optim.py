"""Optimizers beside their equations, written plainly, array by array; and what blocks and threads must not change."""

import math
import tracemalloc

import numpy as np
import pytest

from numgpt import GPT, GPTConfig
from numgpt.layers.blocks import NUMBERS
from numgpt.threads import Pool, blas_threads
from numgpt.training.optim import SGD, AdamW, clip
from numgpt.training.schedule import Schedule
from numgpt.verify import cases

SMALL = dict(n_vocab=13, n_ctx=11, n_layer=2, n_head=3, n_embd=15, n_hidden=17, tied=False, head_bias=True)
LARGE = dict(SMALL, n_vocab=9973, n_layer=1)  # the two matrices of the vocabulary end within the second and third block
STEPS = 10

# Of an array's largest number. At most 4e-16 was measured; ten steps of ten roundings, half an eps each and all to one
# side, would come to 1e-14.
TOLERANCE = 1e-14


def model_of(sizes=SMALL, seed=0, dtype=np.float64) -> GPT:
    return cases.order_one(GPT(GPTConfig(**sizes), dtype=dtype), np.random.default_rng(seed))


def draw_gradients(model, step: int) -> None:
    """Of order one on every parameter, and another length at each step."""
    rng = np.random.default_rng((step, 7))
    model.grads[...] = rng.uniform(0.01, 0.3) * rng.standard_normal(model.grads.size)


def arrays(model, field="value") -> dict[str, np.ndarray]:
    return {name: getattr(param, field).copy() for name, param in model.named_params()}


def assert_near(found: dict, truth: dict):
    assert found.keys() == truth.keys()
    worst = {name: np.abs(found[name] - truth[name]).max() / np.abs(truth[name]).max() for name in truth}
    assert max(worst.values()) <= TOLERANCE, worst


# -- the equations of the docstrings; all arrays of the model in a dict, one decay for those of two axes


def decayed(w: dict, lr: float, weight_decay: float) -> dict:
    return {name: (1 - lr * weight_decay) * a if a.ndim == 2 else a for name, a in w.items()}


def clipped(g: dict, longest: float) -> tuple[dict, bool]:
    norm = math.sqrt(sum((a ** 2).sum() for a in g.values()))
    factor = min(1.0, longest / (norm + 1e-6))
    return {name: a * factor for name, a in g.items()}, factor < 1


def adamw_by_hand(w, g, state, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
    (b1, b2), t = betas, state.setdefault("t", 0) + 1
    state["t"] = t
    w = decayed(w, lr, weight_decay)
    for name in w:
        m = state["m", name] = b1 * state.get(("m", name), 0) + (1 - b1) * g[name]
        v = state["v", name] = b2 * state.get(("v", name), 0) + (1 - b2) * g[name] * g[name]
        mhat, vhat = m / (1 - b1 ** t), v / (1 - b2 ** t)
        w[name] = w[name] - lr * mhat / (np.sqrt(vhat) + eps)
    return w


def sgd_by_hand(w, g, state, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
    w = decayed(w, lr, weight_decay)
    for name in w:
        velocity = state[name] = momentum * state.get(name, 0) + g[name]
        w[name] = w[name] - lr * (g[name] + momentum * velocity if nesterov else velocity)
    return w


OPTIMIZERS = [
    (AdamW, adamw_by_hand, dict(betas=(0.8, 0.97), eps=0.01, weight_decay=0.3)),  # an eps that would not go unnoticed
    (AdamW, adamw_by_hand, dict(betas=(0.0, 0.9), weight_decay=0.0)),
    (AdamW, adamw_by_hand, dict(weight_decay=0.01)),
    (SGD, sgd_by_hand, dict(momentum=0.8, weight_decay=0.3)),
    (SGD, sgd_by_hand, dict(momentum=0.8, nesterov=True, weight_decay=0.3)),
    (SGD, sgd_by_hand, dict(momentum=0.0, weight_decay=0.3)),
]
each_optimizer = pytest.mark.parametrize("kind, by_hand, options", OPTIMIZERS,
                                         ids=lambda x: str(x) if isinstance(x, dict) else x.__name__)


@pytest.mark.parametrize("sizes", [SMALL, LARGE], ids=["small", "large"])
@each_optimizer
def test_ten_steps_with_schedule_clipping_and_decay_follow_the_equations(kind, by_hand, options, sizes):
    model, rate, cut = model_of(sizes), Schedule(0.05, "cosine", 3, 0.002), []
    optimizer, longest = kind(model, **options), 0.15 * math.sqrt(model.grads.size)
    w, state = arrays(model), {}
    for step in range(STEPS):
        draw_gradients(model, step)
        g, is_cut = clipped(arrays(model, "grad"), longest)
        w = by_hand(w, g, state, rate(step, STEPS), **options)
        optimizer.step(rate(step, STEPS), scale=clip(optimizer.norm(), longest))
        cut.append(is_cut)
        assert_near(arrays(model), w)
    assert 3 <= sum(cut) <= 7 and optimizer.n_steps == STEPS  # some gradients are too long, and some are not


@each_optimizer
def test_a_step_leaves_the_gradient_as_it_was(kind, by_hand, options):
    model = model_of()
    optimizer = kind(model, **options)
    draw_gradients(model, 0)
    before = model.grads.copy()
    optimizer.norm()
    optimizer.step(0.1, scale=0.5)
    assert np.array_equal(model.grads, before)


# -- decay


@pytest.mark.parametrize("sizes", [SMALL, LARGE, dict(SMALL, tied=True)], ids=["small", "large", "tied"])
@pytest.mark.parametrize("kind", [AdamW, SGD])
def test_decay_shrinks_matrices_and_both_tables_once_and_leaves_gains_and_biases_alone(kind, sizes):
    model = model_of(sizes)
    before = arrays(model)
    model.zero_grad()
    kind(model, weight_decay=0.5).step(0.25)
    shrunk = {name for name, a in arrays(model).items() if np.array_equal(a, before[name] * (1 - 0.125))}
    alone = {name for name, a in arrays(model).items() if np.array_equal(a, before[name])}
    assert shrunk | alone == before.keys()
    assert alone == {name for name in before if name.endswith((".gain", ".bias"))}
    assert {"embedding.table", "positions.table", "blocks.0.ffn.up.weight"} < shrunk


@pytest.mark.parametrize("kind", [AdamW, SGD])
def test_decay_is_beside_the_gradient_and_not_in_the_moments(kind):
    model = model_of()
    optimizer = kind(model, weight_decay=0.5)
    model.zero_grad()
    optimizer.step(0.25)
    assert not any(getattr(optimizer, name).any() for name in optimizer.moments)


# -- blocks and threads


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@each_optimizer
def test_pools_of_one_and_of_three_threads_leave_the_same_bits(kind, by_hand, options, dtype):
    results = []
    for n in (1, 3):
        model, pool = model_of(LARGE, dtype=dtype), Pool(n)
        assert 2 * NUMBERS < model.values.size < 3 * NUMBERS
        optimizer = kind(model, **options, pool=pool)
        for step in range(3):
            draw_gradients(model, step)
            optimizer.step(0.05, scale=clip(optimizer.norm(), 20.0))
        results.append([optimizer.norm(), model.values, *(getattr(optimizer, name) for name in optimizer.moments)])
        pool.close()
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@each_optimizer
def test_values_and_moments_have_the_model_s_type(kind, by_hand, options, dtype):
    model = model_of(dtype=dtype)
    optimizer = kind(model, **options)
    draw_gradients(model, 0)
    optimizer.step(0.05, scale=0.5)
    assert all(getattr(optimizer, name).dtype == dtype and getattr(optimizer, name).any() for name in optimizer.moments)
    assert optimizer.values.base is model.values and optimizer.values.shape == model.values.shape and model.values.dtype == dtype


@each_optimizer
def test_a_step_takes_the_memory_of_some_blocks_and_never_of_an_array_like_the_parameters(kind, by_hand, options):
    model = model_of(dict(SMALL, n_vocab=99_991), dtype=np.float32)
    pool = Pool(2)
    optimizer = kind(model, **options, pool=pool)
    draw_gradients(model, 0)
    tracemalloc.start()
    optimizer.step(0.05, scale=clip(optimizer.norm(), 1.0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    pool.close()
    # On each of two threads AdamW has one block at hand; SGD at most three: the scaled gradient, what nesterov makes of it,
    # and lr times that. One array like the parameters would be 23.
    most = 1 if kind is AdamW else 3
    assert peak < 2 * (most + 0.5) * NUMBERS * 4 < model.values.nbytes / 2


# -- the length of a gradient


@pytest.mark.parametrize("sizes", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_norm_is_numpy_s(sizes, dtype):
    model = model_of(sizes, dtype=dtype)
    draw_gradients(model, 0)
    norm = AdamW(model).norm()
    # A random walk of roundings over the squares of a block, halved by the root: 181 eps. Measured: 2 eps and less.
    tolerance = math.sqrt(NUMBERS) / 2 * float(np.finfo(dtype).eps)
    assert type(norm) is float and norm == pytest.approx(np.linalg.norm(model.grads.astype(np.float64)), rel=tolerance)


def test_the_norm_of_numbers_whose_squares_float32_has_not_is_finite():
    model = model_of(dtype=np.float32)
    draw_gradients(model, 0)
    model.grads *= 1e25
    truth = np.linalg.norm(model.grads.astype(np.float64))
    assert 1e25 < truth < math.inf and AdamW(model).norm() == pytest.approx(truth, rel=1e-12)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, -1])
def test_the_norm_of_one_number_that_is_not_finite_is_not_finite(wrong, place):
    model = model_of(LARGE, dtype=np.float32)
    draw_gradients(model, 0)
    model.grads[place] = wrong
    assert not math.isfinite(AdamW(model).norm())


@pytest.mark.skipif(blas_threads() is None, reason="the threads of this BLAS cannot be set")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_norm_has_the_same_bits_however_many_threads_the_blas_has(dtype):
    model = model_of(LARGE, dtype=dtype)
    optimizer, (ask, tell) = AdamW(model), blas_threads()
    before = ask()
    try:
        for step in range(20):  # the last bit is not always another
            draw_gradients(model, step)
            found = set()
            for n in (1, 2, 3, 4):
                tell(n)
                found.add(optimizer.norm())
            assert len(found) == 1, step
    finally:
        tell(before)


@pytest.mark.parametrize("norm, longest, factor", [
    (2.0, 0.5, 0.5 / 2.000001), (0.5, 0.5, 0.5 / 0.500001), (0.25, 0.5, 1.0), (0.0, 0.5, 1.0), (1e30, math.inf, 1.0)])
def test_clip_shortens_what_is_too_long_and_nothing_else(norm, longest, factor):
    assert clip(norm, longest) == factor


# -- sentences


@pytest.mark.parametrize("kind, options, sentence", [
    (AdamW, dict(weight_decay=-0.1), "weight_decay must be a finite number, 0 or above; got -0.1"),
    (SGD, dict(weight_decay=math.nan), "weight_decay must be a finite number, 0 or above; got nan"),
    (SGD, dict(weight_decay=math.inf), "weight_decay must be a finite number, 0 or above; got inf"),
    (SGD, dict(momentum=1.0), "momentum must be at least 0 and below 1; got 1.0"),
    (SGD, dict(momentum=-0.5), "momentum must be at least 0 and below 1; got -0.5"),
    (SGD, dict(momentum=0.0, nesterov=True), "nesterov looks ahead along the momentum, which is 0: choose a momentum"),
    (AdamW, dict(betas=(0.9, 1.0)), "a beta must be at least 0 and below 1; got 1.0"),
    (AdamW, dict(betas=(math.nan, 0.9)), "a beta must be at least 0 and below 1; got nan"),
    (AdamW, dict(betas=(0.9,)), r"AdamW wants two betas, .* got \(0.9,\) and 1e-08"),
    (AdamW, dict(betas=(0.7, 0.8, 0.9)), "AdamW wants two betas"),
    (AdamW, dict(eps=0.0), r"an eps above 0 to divide by; got \(0.9, 0.999\) and 0.0"),
    (AdamW, dict(eps=math.nan), "an eps above 0 to divide by; got .* and nan")])
def test_what_no_optimizer_could_follow_is_refused_with_a_sentence(kind, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        kind(model_of(), **options)
