"""The page on how random numbers are drawn: what stands there draws NumPy's numbers, and numgpt draws what it says."""

import math

import numpy as np
import pytest

from numgpt import GPT, GPTConfig
from numgpt.layers import CausalAttention, Dropout
from numgpt.text.windows import RandomCrops
from numgpt.verify.draws import MULTIPLIER, Draws, probes, seeded, tables
from stages import later

SEEDS = [0, 1, 42, 2 ** 40 + 3, (1, 2, 3)]
F32 = np.float32
R, V = 3.6541528853610088, 0.0049286732339746519  # where the tail begins, the area of a layer
RANGES = [(0, 1), (0, 2), (0, 97), (-5, 1000), (0, 2 ** 31 + 1), (0, 2 ** 32 - 1), (0, 2 ** 32), (0, 2 ** 32 + 1),
          (-2 ** 62, 2 ** 62 + 12345), (-2 ** 63, 2 ** 63)]  # 2**31 + 1: every second word is passed over


def same(ours, numpys) -> bool:
    """Bit for bit, the sign of zero too."""
    numpys = np.asarray(numpys)
    return np.array(ours, numpys.dtype).tobytes() == numpys.tobytes()


@pytest.mark.parametrize("seed", [*SEEDS, (0, 0), (2 ** 40 + 3, 5), [2 ** 200 + 7, 2 ** 32, 1]], ids=str)
def test_a_seed_becomes_the_words_that_numpy_makes_of_it(seed):
    assert same(seeded(seed), np.random.SeedSequence(seed).generate_state(4, np.uint64))
    state = np.random.default_rng(seed).bit_generator.state["state"]
    assert (Draws(seed).state, Draws(seed).increment) == (state["state"], state["inc"])


@pytest.mark.parametrize("seed", SEEDS, ids=str)
def test_words_and_uniform_numbers_are_numpys(seed):
    def ours(name, *arguments):
        method = getattr(Draws(seed), name)
        return [method(*arguments) for _ in range(2000)]

    rng = np.random.default_rng
    assert same(ours("next64"), rng(seed).bit_generator.random_raw(2000))
    assert same(ours("next32"), rng(seed).integers(0, 2 ** 32, 2000, np.uint32))
    assert same(ours("random"), rng(seed).random(2000))
    assert same(ours("random", F32), rng(seed).random(2000, F32))


@pytest.mark.parametrize("low, high", RANGES)
def test_whole_numbers_are_numpys(low, high):
    for seed in SEEDS:
        draws = Draws(seed)
        assert same([draws.integers(low, high) for _ in range(400)], np.random.default_rng(seed).integers(low, high, 400))


@pytest.mark.parametrize("seed, n", [(0, 20_000), ((1, 2, 3), 20_000), *(later(seed, 1_000_000) for seed in SEEDS)], ids=str)
def test_normal_numbers_are_numpys(seed, n):
    draws = Draws(seed)
    numpys = np.random.default_rng(seed).standard_normal(n)
    assert same([draws.normal() for _ in range(n)], numpys)
    assert (np.abs(numpys) > 3.66).any()  # the tail came by


@pytest.mark.parametrize("seed", SEEDS, ids=str)
def test_calls_of_all_kinds_in_any_order_draw_what_numpy_draws(seed):
    """Small whole numbers and float32 share the half of a word that waits; whatever is drawn between leaves it alone."""
    draws, rng = Draws(seed), np.random.default_rng(seed)
    for kind in np.random.default_rng(7).integers(0, 6, 2000):
        if kind < 3:
            bounds = [(0, 97), (3, 4), (0, 2 ** 40)][kind]
            assert draws.integers(*bounds) == rng.integers(*bounds)
        elif kind == 3:
            assert draws.normal() == rng.standard_normal()
        else:
            dtype = (np.float64, F32)[kind - 4]
            assert draws.random(dtype) == rng.random(dtype=dtype)


def test_a_whole_number_and_a_float32_are_the_two_halves_of_one_word():
    word, draws = Draws(42).next64(), Draws(42)
    assert draws.integers(0, 2 ** 32) == word % 2 ** 32
    draws.normal()
    assert draws.random(F32) == (word >> 40) / 2 ** 24


def with_words(first: int, second: int | None = None) -> tuple[np.random.Generator, Draws]:
    """NumPy's generator and ours, set so that these words come next; of second all but the last bit.

    A state whose upper half is 0 gives its lower half, and any state comes after any other under some increment, which
    has to be odd.
    """
    increment = 1 if second is None else (second - first * MULTIPLIER | 1) % 2 ** 128
    before = (first - increment) * pow(MULTIPLIER, -1, 2 ** 128) % 2 ** 128
    rng, draws = np.random.default_rng(0), Draws(0)
    rng.bit_generator.state = {**rng.bit_generator.state, "state": {"state": before, "inc": increment}}
    draws.state, draws.increment = before, increment
    return rng, draws


@pytest.mark.parametrize("i", [*range(0, 256, 15), 37, 38, *(later(i) for i in range(256) if i % 15 and i not in (37, 38))])
def test_the_widths_and_bounds_of_the_layers_are_numpys(i):
    """Not by drawing at random, where an entry that is off by one might never be met: by the words that tell."""
    W, K, _ = tables()
    for m in (1, 2 ** 51):  # where a height is asked for, it is the lowest there is
        for sign in (0, 1):
            rng, draws = with_words(m << 9 | sign << 8 | i, 0)
            assert draws.normal() == rng.standard_normal() == (-m if sign else m) * W[i]
    for m in (K[i] - 1, K[i]) if K[i] else (0,):
        rng, draws = with_words(m << 9 | i)
        assert draws.normal() == rng.standard_normal()
        after = rng.bit_generator.state["state"]["state"]
        assert draws.state == after and (after == m << 9 | i) == (m < K[i])  # one word was enough


@pytest.mark.verify
@pytest.mark.parametrize("i", range(1, 256))
def test_the_heights_of_the_layers_are_numpys(i):
    """The highest height that is still under the curve, found for NumPy by bisection, is ours: it tells the last bit of F.

    A build of NumPy whose compiler fuses products and sums may have another.
    """
    W, K, _ = tables()
    m = (K[i] + 2 ** 52) // 2
    low, high = 0, 2 ** 53  # u = low / 2 ** 53 is taken, high is not
    while high - low > 1:
        middle = (low + high) // 2
        taken = with_words(m << 9 | i, middle << 11)[0].standard_normal() == m * W[i]
        low, high = (middle, high) if taken else (low, middle)
    assert 0 < low
    for u in (low - 1, low, high, high + 1):
        assert (with_words(m << 9 | i, u << 11)[1].normal() == m * W[i]) == (u <= low)


def test_the_area_of_a_layer_is_what_the_tail_asks_for():
    W, _, F = tables()
    assert F[255] * R + math.sqrt(math.pi / 2) * math.erfc(R / math.sqrt(2)) == pytest.approx(V, rel=1e-15)
    assert F[1] + V / (W[1] * 2 ** 52) == pytest.approx(1, abs=1e-14)  # the layers close at the top


@pytest.mark.parametrize("seed", SEEDS, ids=str)
def test_probes_are_what_is_drawn_first(seed):
    def three(name, *arguments):
        method = getattr(Draws(seed), name)
        return [method(*arguments) for _ in range(3)]

    assert probes(seed) == {
        "words": [f"0x{word:016x}" for word in three("next64")], "random": three("random"),
        "random_float32": three("random", F32), "integers_below_97": three("integers", 0, 97), "normal": three("normal")}


def test_the_probes_of_seed_42_stay_what_they_are():
    assert probes(42) == {
        "words": ["0xc621fbcd16d92688", "0x705a5661a791ffc1", "0xdbcd12c26eda1624"],
        "random": [0.7739560485559633, 0.4388784397520523, 0.8585979199113825],
        "random_float32": [0.08925092220306396, 0.7739560008049011, 0.6545714735984802],
        "integers_below_97": [8, 75, 63],
        "normal": [0.30471707975443135, -1.0399841062404955, 0.7504511958064572]}


@pytest.mark.parametrize("tied, positions", [(True, "learned"), (False, "sinusoidal")])
def test_the_weights_of_a_model_are_drawn_as_the_page_says(tied, positions):
    config = GPTConfig(n_vocab=7, n_ctx=5, n_layer=2, n_head=2, n_embd=4, tied=tied, positions=positions, head_bias=not tied,
                       std=0.3, std_positions=0.2, std_residual=0.1)
    draws, matrices = Draws((5, 6)), 0
    for name, param in GPT(config, seed=(5, 6)).named_params():
        if param.value.ndim == 2:
            std = 0.2 if name == "positions.table" else 0.1 if ".out." in name or ".down." in name else 0.3
            assert same([std * draws.normal() for _ in range(param.size)], param.value.reshape(-1)), name
            matrices += 1
        else:
            assert (param.value == (1 if "gain" in name else 0)).all()
    assert matrices == 10


def test_the_masks_of_dropout_and_the_starts_of_crops_are_drawn_as_the_page_says():
    _, kept = Dropout(0.3).forward(np.ones((3, 4, 5)), rng=np.random.default_rng((8, 9, 0, 1)))
    draws = Draws((8, 9, 0, 1))
    assert same([draws.random(F32) >= F32(0.3) for _ in range(60)], kept.reshape(-1))
    crops = RandomCrops(np.arange(1000), 10, batch=16, seed=8)
    draws = Draws((8, 9))
    assert same([draws.integers(0, crops.last + 1) for _ in range(16)], crops.starts(9))


@pytest.mark.parametrize("window", [None, 20])
def test_the_masks_of_attention_are_drawn_as_the_page_says(window):
    """64 queries at a time, whose keys end with the last of them and begin, with a window, with the first that is seen."""
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 2, 70, 3))
    attention = CausalAttention(scale=1.0, dropout=0.3, window=window)
    _, (*_, tiles) = attention.forward(q, k, v, rng=np.random.default_rng(5))
    draws = Draws(5)
    for (*_, kept), (n_queries, n_keys) in zip(tiles, [(64, 64), (6, 70 if window is None else 70 - 45)], strict=True):
        assert kept.shape == (1, 2, n_queries, n_keys)
        assert same([draws.random(F32) >= F32(0.3) for _ in range(kept.size)], kept.reshape(-1))


@pytest.mark.parametrize("call, error, says", [
    (lambda: Draws(-1), ValueError, "whole number from 0 on"),
    (lambda: Draws((1, -2)), ValueError, "whole number from 0 on"),
    (lambda: Draws(1.5), TypeError, "a seed must be a whole number"),
    (lambda: Draws(0).integers(3, 3), ValueError, "low being below high"),
    (lambda: Draws(0).integers(0, 2 ** 64 + 1), ValueError, "low being below high"),
    (lambda: Draws(0).random(np.int64), TypeError, "float32"),
])
def test_what_cannot_be_drawn_is_said(call, error, says):
    with pytest.raises(error, match=says):
        call()
