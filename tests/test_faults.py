"""What stops a run: numbers that are not finite, found where they arise; and signals."""

import os
import re
import shutil
import signal
import threading

import numpy as np
import pytest

from numgpt import GPT, GPTConfig
from numgpt.layers import GELUTanh, LayerNorm, Linear
from numgpt.layers.attention import SelfAttention
from numgpt.training import NotFinite, Trainer, prepare
from numgpt.training.faults import Signals, culprit
from numgpt.training.folder import checkpoints
from numgpt.training.shards import Shards
from runs import PROSE
from stages import later


def broken(kind: type, way: str, number: float):
    """A class of layer whose forward or backward, from the moment that .on is set, has such a number in what it gives."""
    class Broken(kind):
        on = False

        def forward(self, *inputs, **options):
            y, saved = super().forward(*inputs, **options)
            if Broken.on and way == "forward":
                y = y.copy()
                y.flat[y.size // 2] = number
            return y, saved

        def backward(self, dy, saved):
            dx = super().backward(dy, saved)
            if Broken.on and way == "backward":
                dx = dx.copy()
                dx.flat[dx.size // 2] = number
            if Broken.on and way == "gradient":
                self.weight.grad[0, 0] = number
            return dx

    Broken.__name__ = kind.__name__
    return Broken


PLACES = [  # where it is planted, as what, and what is said
    ("blocks.1.ffn.activation", GELUTanh, "forward", "the output of blocks.1.ffn.activation (GELUTanh)"),
    ("blocks.0.attention.qkv", Linear, "forward", "the output of blocks.0.attention.qkv (Linear)"),
    ("blocks.1.attention", SelfAttention, "forward", "the output of blocks.1.attention (SelfAttention)"),
    ("norm", LayerNorm, "forward", "the output of norm (LayerNorm)"),
    ("blocks.1.norm2", LayerNorm, "backward", "the gradient that blocks.1.norm2 (LayerNorm) passes on"),
    ("blocks.0.ffn.up", Linear, "backward", "the gradient that blocks.0.ffn.up (Linear) passes on"),
    ("blocks.0.attention.out", Linear, "gradient", "the gradient of blocks.0.attention.out.weight"),
]


BOTH = [(*place, (i + turn) % 2 == 0) for turn in (0, 1) for i, place in enumerate(PLACES)]  # each place first one way, then the other


@pytest.mark.parametrize("place, kind, way, said, recompute", [*BOTH[:len(PLACES)], *(later(*case) for case in BOTH[len(PLACES):])])
def test_the_step_and_the_first_layer_that_is_not_finite_are_named(tmp_path, place, kind, way, said, recompute):
    (tmp_path / "text").write_text(PROSE * 8)
    Broken = broken(kind, way, [np.nan, np.inf, -np.inf][len(place) % 3])

    def report(event, trainer, metrics):
        Broken.on = trainer.n_done == 6

    options = dict(preset="nano", batch=4, steps=20, eval_every=4, save_every=5, changes=dict(dropout_resid=0.1), recompute=recompute)
    trainer = prepare(tmp_path / "text", folder=tmp_path / "run", report=report, **options)
    for model in trainer.shards.models:
        layer = dict(model.named_layers())[place]
        assert type(layer) is kind
        layer.__class__ = Broken
    last = tmp_path / "run" / "checkpoint-00000005.safetensors"
    what = "loss" if way == "forward" else "gradient"
    sentence = f"in step 7 the {what} is not finite, and first of all {said}. "
    with trainer, pytest.raises(NotFinite, match=re.escape(sentence) + f".*: {re.escape(str(last))} is from before it"):
        trainer.run()
    assert checkpoints(tmp_path / "run")[-1] == last
    with Trainer.resume(tmp_path / "run") as again:  # with layers that are whole
        again.run()
    assert np.isfinite(again.model.values).all() and again.n_done == 20


def test_a_parameter_that_is_not_finite_is_never_saved(tmp_path):
    (tmp_path / "text").write_text(PROSE * 8)

    def report(event, trainer, metrics):
        if trainer.n_done == 7:
            dict(trainer.model.named_params())["blocks.1.norm1.gain"].value[3] = np.inf

    trainer = prepare(tmp_path / "text", folder=tmp_path / "run", report=report, preset="nano", batch=4, steps=7, eval_every=5)
    with trainer, pytest.raises(NotFinite, match="after step 7 .* the parameter blocks.1.norm1.gain\\."):
        trainer.run()
        trainer.save()
    assert all(np.isfinite(GPT.load(path).values).all() for path in checkpoints(tmp_path / "run"))


def test_a_held_out_loss_that_is_not_finite_stops_the_run_and_is_not_logged(tmp_path):
    (tmp_path / "text").write_text(PROSE * 8)
    trainer = prepare(tmp_path / "text", folder=tmp_path / "run", preset="nano", batch=4, steps=8, eval_every=4)
    evaluate = trainer.evaluate

    def spoiled():
        if trainer.n_done == 8:
            dict(trainer.model.named_params())["blocks.0.ffn.up.weight"].value[...] = 3e38
        return evaluate()

    trainer.evaluate = spoiled
    with trainer, pytest.raises(NotFinite, match="after step 8 the loss on what is held out is not finite, .* the output of blocks.0.ffn.up"):
        trainer.run()
    assert checkpoints(tmp_path / "run")[-1].name == "checkpoint-00000004.safetensors"
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_the_first_of_the_parameters_that_are_not_finite_is_named_and_the_layers_are_left_as_they_were():
    model = GPT(GPTConfig.preset("nano"))
    ids = np.zeros((2, 4), int)
    shards = Shards(model, 2)
    pieces = [piece for shard in shards.split(ids, ids) for piece in shard]
    assert culprit(model, pieces) == "the sum of the gradients, each of which is finite"
    assert not any({"forward", "backward"} & set(vars(layer)) for _, layer in model.named_layers())
    params = dict(model.named_params())
    params["blocks.1.ffn.up.bias"].value[2] = np.nan
    params["blocks.0.norm2.bias"].value[2] = -np.inf
    assert culprit(model, pieces) == "the parameter blocks.0.norm2.bias"
    shards.close()


# -- signals


@pytest.fixture
def heard():
    """Signals have their handlers, also where the shell has this process ignore them, as in the background."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_signals_are_noted_while_one_listens_and_handlers_come_back(heard):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    signals = Signals()
    with signals.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.caught is signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]


def test_in_another_thread_there_is_nothing_to_listen_to():
    caught = []
    def listen():
        with Signals().listening() as signals:
            caught.append(signals.caught)
    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert caught == [None]


def test_a_fault_in_a_run_whose_folder_was_removed_is_still_said(tmp_path):
    (tmp_path / "text").write_text(PROSE * 8)
    with prepare(tmp_path / "text", folder=tmp_path / "run", preset="nano", batch=4, steps=7) as trainer:
        shutil.rmtree(tmp_path / "run")
        dict(trainer.model.named_params())["blocks.1.norm1.gain"].value[3] = np.inf
        with pytest.raises(NotFinite, match="the parameter blocks.1.norm1.gain.* may help$"):
            trainer.save()


@pytest.mark.parametrize("number, said", [(np.nan, "a NaN"), (-np.inf, "an infinite number")])
def test_weights_that_are_not_finite_are_refused_before_there_is_a_folder(tmp_path, number, said):
    (tmp_path / "text").write_text(PROSE * 8)
    model = GPT(GPTConfig.preset("nano"))
    dict(model.named_params())["embedding.table"].value[3, 2] = number
    model.save(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=f"these weights hold {said} in embedding.table"):
        prepare(tmp_path / "text", init=tmp_path / "m.safetensors", tokenizer="char", preset="nano", folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
