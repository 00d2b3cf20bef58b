"""What stops a run: a number that is not finite, and where it came from; and a signal that asks it to stop."""

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np

from numgpt.layers import Layer


class NotFinite(ArithmeticError):
    """A loss, a gradient or a parameter is infinite or not a number."""


def culprit(model, pieces: Iterable) -> str:
    """Where the first number arises that is not finite, when these pieces of a batch go through the model again.

    That is a parameter, or the first layer, in the order of computation, whose output is not finite, or, on the way
    back, the gradient it passes on or that of one of its parameters. The model's gradients are overwritten.
    """
    for name, param in model.named_params():
        if not finite(param.value):
            return f"the parameter {name}"
    layers = list(model.named_layers())
    try:
        for name, layer in layers:
            _watch(name, layer)
        with np.errstate(all="ignore"):
            for piece in pieces:
                model.zero_grad()
                loss, saved = model.forward(*piece.batch, rng=piece.rng(), count=piece.count)
                model.backward(saved)
    except _Found as found:
        return found.args[0]
    finally:
        for _, layer in layers:
            vars(layer).pop("forward", None), vars(layer).pop("backward", None)
    return "the sum of the gradients, each of which is finite"


class _Found(Exception):
    pass


def _watch(name: str, layer: Layer) -> None:
    """Shadow the layer's methods with ones that look at what comes out. An inner layer is done before the outer one."""
    forward, backward = layer.forward, layer.backward

    def watched_forward(*inputs, **options):
        y, saved = forward(*inputs, **options)
        if not finite(y):
            raise _Found(f"the output of {name} ({type(layer).__name__})")
        return y, saved

    def watched_backward(dy, saved):
        dx = backward(dy, saved)
        for own, param in layer.named_params():
            if not finite(param.grad):
                raise _Found(f"the gradient of {name}.{own}")
        if any(not finite(d) for d in (dx if isinstance(dx, tuple) else (dx,)) if d is not None):
            raise _Found(f"the gradient that {name} ({type(layer).__name__}) passes on")
        return dx

    layer.forward, layer.backward = watched_forward, watched_backward


def finite(array) -> bool:
    return bool(np.isfinite(array).all())


class Signals:
    """Signals that ask a program to end are noted, not obeyed, while a step is under way: the last is in .caught."""

    def __init__(self):
        self.caught: signal.Signals | None = None

    @contextmanager
    def listening(self) -> Iterator["Signals"]:
        """A second SIGINT is not waited with. In a thread other than the main one there is nothing to listen to."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return

        def note(number, frame):
            if number == signal.SIGINT and self.caught == signal.SIGINT:
                raise KeyboardInterrupt
            self.caught = signal.Signals(number)

        before = {}
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # the last, where there is one: the terminal was closed
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) not in (None, signal.SIG_IGN):  # as nohup has it
                before[number] = signal.signal(number, note)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
