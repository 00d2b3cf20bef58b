"""Who takes a training step: numgpt as its trainer does, and torch. Each is made in a process of its own.

A contender is made, begins, and takes turns: turn(n) gives the seconds of forward and backward, and those of clipping and
AdamW, each the mean of n steps. All have the same weights, batch and settings.
"""

import time

import numpy as np

from benchmarks._shapes import Shape
from numgpt import GPT
from numgpt.threads import Pool, keep_memory, one_blas_thread
from numgpt.training.optim import AdamW, clip
from numgpt.training.shards import Shards

LR, BETAS, DECAY, LONGEST = 1e-4, (0.9, 0.95), 0.1, 1.0


class Contender:
    """What both share; a subclass says gradient() -> loss, and update() -> the gradient's norm."""

    def opening(self, n: int = 2) -> list[tuple[float, float]]:
        """Loss and norm of n first steps: whether it is the same computation, and a warm-up."""
        return [(self.gradient(), self.update()) for _ in range(n)]

    def turn(self, n: int) -> tuple[float, float]:
        first = second = 0.0
        for _ in range(n):
            began = time.perf_counter()
            self.gradient()
            between = time.perf_counter()
            self.update()
            first, second = first + between - began, second + time.perf_counter() - between
        return first / n, second / n


class Numgpt(Contender):
    def __init__(self, shape: Shape, threads: int, recompute: bool = False):
        self.batch, self.threads = shape.drawn(), threads
        self.model = GPT(shape.config(), seed=0, recompute=recompute)

    def begin(self) -> None:
        self.shards = Shards(self.model, self.threads)
        self.optimizer = AdamW(self.model, betas=BETAS, weight_decay=DECAY, pool=self.shards.pool)
        keep_memory()
        self.held = one_blas_thread()  # as the trainer does around all of its steps
        self.held.__enter__()

    def gradient(self) -> float:
        return self.shards.backward(*self.batch)

    def update(self) -> float:
        norm = self.optimizer.norm()
        self.optimizer.step(LR, scale=clip(norm, LONGEST))
        return norm

    def profile(self, n: int) -> dict[str, list[float]]:
        """Seconds of one shard's step on one thread: kind of layer -> forward, backward, without the layers inside it."""
        (piece,), *_ = self.shards.split(*self.batch)
        clock = Clock()
        layers = [("", self.model), *self.model.named_layers()]
        for name, layer in layers:
            clock.watch(layer, kind_of(name, layer))
        optimizer = AdamW(self.model, betas=BETAS, weight_decay=DECAY, pool=Pool(1))
        params = self.model.params()
        for i in range(n + 1):
            if i == 1:
                clock.seconds.clear()  # of the warm-up
            for param in params:
                param.begin_anew()
            _, saved = self.model.forward(*piece.batch, count=piece.count)
            self.model.backward(saved)
            norm = clock.timed("norm", 1, optimizer.norm)()
            clock.timed("AdamW", 1, optimizer.step)(LR, scale=clip(norm, LONGEST))
        for _, layer in layers:
            del layer.forward, layer.backward
        return {kind: [seconds / n for seconds in both] for kind, both in clock.seconds.items()}


def kind_of(name: str, layer) -> str:
    """Its class, and of a Linear also what it is for."""
    kind = type(layer).__name__
    return f"{kind} {name.rpartition('.')[2]}" if kind == "Linear" else kind


class Clock:
    """Exclusive times: what is spent in a watched function, but not in others that it calls."""

    def __init__(self):
        self.seconds: dict[str, list[float]] = {}
        self.inside: list[float] = []  # for each function under way, what those that it called have taken

    def watch(self, layer, kind: str) -> None:
        layer.forward, layer.backward = self.timed(kind, 0, layer.forward), self.timed(kind, 1, layer.backward)

    def timed(self, kind: str, side: int, function):
        def watched(*arguments, **options):
            self.inside.append(0.0)
            began = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                taken = time.perf_counter() - began
                self.seconds.setdefault(kind, [0.0, 0.0])[side] += taken - self.inside.pop()
                if self.inside:
                    self.inside[-1] += taken
        return watched


class Torch(Contender):
    """Eager, or compiled, with the fused AdamW, whose decay leaves gains and biases alone as ours does.

    kept: with what numgpt asks of the C library, not to give memory back, which torch's users do not know of
    """

    def __init__(self, shape: Shape, threads: int, *, compiled: bool = False, kept: bool = False):
        import torch

        from benchmarks._torch_gpt import TorchGPT

        torch.set_num_threads(threads)
        if kept:
            keep_memory()
        self.torch, self.shape, self.compiled = torch, shape, compiled
        self.module = TorchGPT(shape.config())

    def begin(self, weights: bool = False) -> None:
        """weights: those of Numgpt in place of torch's own."""
        torch = self.torch
        if weights:
            self.module.load(GPT(self.shape.config(), seed=0))
        self.batch = [torch.from_numpy(array) for array in self.shape.drawn()]
        self.params = list(self.module.parameters())
        groups = [{"params": [p for p in self.params if p.ndim > 1], "weight_decay": DECAY},
                  {"params": [p for p in self.params if p.ndim < 2], "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, fused=True)
        self.run = torch.compile(self.module) if self.compiled else self.module

    def gradient(self) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.run(*self.batch)
        loss.backward()
        return loss.item()

    def update(self) -> float:
        norm = self.torch.nn.utils.clip_grad_norm_(self.params, LONGEST)
        self.optimizer.step()
        return norm.item()


def disagreement(ours, theirs) -> str | None:
    """What differs between two openings, if anything does that rounding cannot explain."""
    for step, ((loss, norm), (their_loss, their_norm)) in enumerate(zip(ours, theirs), 1):
        if not abs(loss - their_loss) <= 1e-4 or not np.isclose(norm, their_norm, rtol=1e-3, atol=0):
            return (f"in step {step} the loss is {loss:.6f} and the gradient's norm {norm:.6f}, and theirs are "
                    f"{their_loss:.6f} and {their_norm:.6f}")
    return None
