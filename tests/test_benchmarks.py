"""The benchmarks of speed and memory: what they count is what they say, and a comparison that is none is refused."""

import sys
from pathlib import Path

import numpy as np
import pytest

from numgpt import GPT, GPTConfig
from numgpt.plan import _scores

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks are no part of the package
from benchmarks import _contenders, _floor, _shapes, attention, memory, scaling, train_step  # noqa: E402
from benchmarks._shapes import Shape, rows_of_shards  # noqa: E402

T = 2 * _floor.TILE + 3


@pytest.mark.parametrize("batch, threads", [(5, 2), (3, 1), (2, 4)])
@pytest.mark.parametrize("changes", [{}, dict(tied=False, norm="post"), dict(head_size=5), dict(window=70)])
def test_the_floor_multiplies_as_often_as_plan_says_and_as_the_tiles_of_attention_do(monkeypatch, batch, threads, changes):
    config = GPTConfig(n_vocab=50, n_ctx=T, n_layer=2, n_head=3, n_embd=12, **changes)
    monkeypatch.setattr(Shape, "config", lambda shape: config)
    counted = []

    def multiply(a, b, out):
        counted.append(2 * out.size * a.shape[-1])
        return np.matmul(a, b, out=out)

    monkeypatch.setattr(_floor, "matmul", multiply)
    floor = _floor.Floor(Shape("", batch, T), threads)
    for shard in floor.shards:
        shard.run()
    floor.pool.close()

    plan, width = config.plan(n_tokens=T), config.n_head * config.head_dim
    windows = [config.window_of(i) for i in range(config.n_layer)]
    seen = sum(min(t + 1, window or T) for window in windows for t in range(T))
    in_tiles = sum(_scores(T, window) for window in windows)
    # 4 FLOPs for each score and number of a head, and twice as many on the way back
    assert sum(counted) == batch * (plan.flops_training * T + 3 * 4 * width * (in_tiles - seen))


def test_a_shard_of_the_floor_has_the_rows_of_a_shard_of_the_trainer():
    for batch, n in [(7, 3), (4, 4), (2, 4), (8, 1)]:
        with _contenders.Shards(GPT(GPTConfig.preset("nano")), n) as shards:
            ids = np.zeros((batch, 8), int)
            assert rows_of_shards(batch, n) == [len(piece.batch[0]) for (piece,) in shards.split(ids, ids)]


def test_the_profile_adds_up_to_the_step_and_leaves_the_layers_as_they_were():
    one = _contenders.Numgpt(Shape("nano", 2, 8), 1)
    one.begin()
    try:
        opening = one.opening(1)
        seconds = one.profile(2)
    finally:
        one.held.__exit__(None, None, None)
        one.shards.close()
    assert {"Linear qkv", "CausalAttention", "LayerNorm", "HeadLoss", "PreNormBlock", "AdamW"} <= set(seconds)
    assert all(forward >= 0 and backward >= 0 for forward, backward in seconds.values())
    assert not any("forward" in vars(layer) for _, layer in one.model.named_layers())
    assert np.isfinite(opening[0]).all()


def test_the_clock_gives_each_function_its_own_time_without_those_that_it_calls(monkeypatch):
    now = 0.0
    clock = _contenders.Clock()
    monkeypatch.setattr(_contenders.time, "perf_counter", lambda: now)

    def work(seconds, *calls):
        nonlocal now
        now += seconds
        for call in calls:
            call()
        now += seconds

    inner = clock.timed("inner", 1, lambda: work(4))
    middle = clock.timed("middle", 0, lambda: work(2, inner, inner))
    clock.timed("outer", 0, lambda: work(1, middle, inner))()
    assert clock.seconds == {"inner": [0, 24], "middle": [4, 0], "outer": [2, 0]}


def test_openings_that_differ_by_more_than_rounding_are_told_apart():
    ours = [(4.0, 2.0), (3.5, 1.0)]
    assert _contenders.disagreement(ours, [(4.00009, 2.0015), (3.5, 1.0)]) is None
    assert "step 1" in _contenders.disagreement(ours, [(4.0002, 2.0), (3.5, 1.0)])
    assert "step 2" in _contenders.disagreement(ours, [(4.0, 2.0), (3.5, 1.002)])
    assert "step 1" in _contenders.disagreement(ours, [(np.nan, 2.0), (3.5, 1.0)])


def test_a_slope_is_that_of_the_upper_half():
    assert scaling.slope([1, 2, 4, 8, 16, 32], [100, 100, 100, 8 ** 2, 16 ** 2, 32 ** 2]) == pytest.approx(2)
    assert scaling.slope([1, 2], [10, 5]) == pytest.approx(-1)


def test_the_prediction_of_memory_is_one_gradient_two_moments_and_what_shards_keep_hold_and_use_for_a_moment():
    shape = Shape("nano", 5, 8)
    config, n = shape.config(), shape.config().n_params
    kept = config.plan(batch=2, n_tokens=8).saved + config.plan(batch=3, n_tokens=8).saved
    block = sum(p.size for p in GPT(config).body.blocks[0].params())
    held = config.tied * config.n_vocab * config.n_embd + block  # by the second shard
    passing = 40 * max(4 * config.n_vocab, 3 * config.hidden_dim + 2 * config.n_embd)  # 16 and 24 positions
    assert memory.predicted(shape, 2) == 4 * (n + 2 * n + held + passing) + kept
    assert memory.predicted(shape, 2, True) < memory.predicted(shape, 2)


def test_a_shape_that_is_none_is_refused():
    assert _shapes.shape_of("nano:3x7") == ("nano", 3, 7)
    for text in "char2", "nano", "nano:4", "nano:4x9", "nano:4xx8":
        with pytest.raises(_shapes.argparse.ArgumentTypeError, match="PRESET:BxT"):
            _shapes.shape_of(text)


# -- the whole programs, in processes of their own


@pytest.mark.verify
def test_numgpt_and_torch_take_the_same_steps_and_take_turns(monkeypatch, tmp_path, capsys):
    pytest.importorskip("torch")
    monkeypatch.setattr(train_step, "TURN", 0)  # one step
    path = tmp_path / "figures.json"
    assert train_step.main(["nano:4x8", "--rounds", "1", "--no-compile", "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "step, numgpt / torch" in printed and "products' share" in printed and path.exists()


@pytest.mark.verify
@pytest.mark.parametrize("preset, changes", [("nano", {}), ("classic", {}),
                                             ("nano", dict(bias=False, activation="gelu", tied=False))])
def test_the_torch_module_has_our_loss_and_our_gradient_after_two_steps_too(monkeypatch, preset, changes):
    pytest.importorskip("torch")
    config = GPTConfig.preset(preset, n_vocab=31, n_ctx=8, n_layer=2, n_embd=24, n_head=3, std=0.5, **changes)
    monkeypatch.setattr(Shape, "config", lambda shape: config)
    ours, theirs = (kind(Shape("", 3, 7), 1) for kind in (_contenders.Numgpt, _contenders.Torch))
    ours.begin()
    theirs.begin(True)
    try:
        # Measured: losses agree to 2.3e-7 of them, norms to 1.7e-6. With one GELU for the other losses differ by 1.1e-5.
        for (loss, norm), (their_loss, their_norm) in zip(ours.opening(3), theirs.opening(3), strict=True):
            assert loss == pytest.approx(their_loss, rel=3e-6) and norm == pytest.approx(their_norm, rel=2e-5)
    finally:
        ours.held.__exit__(None, None, None)
        ours.shards.close()


@pytest.mark.verify
def test_a_torch_module_with_other_weights_makes_the_comparison_void(monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.setattr(train_step, "Torch", Stranger)
    assert train_step.main(["nano:4x8", "--rounds", "1", "--no-compile"]) == 1
    assert "is void: in step 1" in capsys.readouterr().err


class Stranger(_contenders.Torch):
    def begin(self, weights=False):
        super().begin(False)


@pytest.mark.verify
def test_attention_is_compared_and_memory_weighed(monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.setattr(attention, "TURN", 0)
    assert attention.main(["2x2x70x16", "--rounds", "1"]) == 0
    assert "ratio" in capsys.readouterr().out
    if Path("/proc/self/clear_refs").exists():
        assert memory.main(["nano:4x8", "--processes", "1"]) == 0
        assert "import numpy, numgpt  " in capsys.readouterr().out
