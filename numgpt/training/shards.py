"""One batch, several threads, one gradient.

The rows of a batch are dealt out to shards, each a thread's work: it runs forward and backward on a replica of the
model, which has the same weights and gradients of its own, and the gradients are added in the order of the shards.
The bits of the sum depend on the number of shards, which is a setting of the run, and not on how many cores there are:
where there are fewer, the same shards run in turn.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import numpy as np

from numgpt.flat import AsBuilt
from numgpt.layers import Layer
from numgpt.layers.inputs import positive
from numgpt.threads import Pool, cores, one_blas_thread

DROPOUT = 1  # sets the generators of dropout apart from those that draw batches


@dataclass(frozen=True)
class Piece:
    """The rows that go through the model at once, and what its loss and dropout depend on beside them."""

    batch: tuple[np.ndarray, ...]  # ids, targets and whatever else the model's loss takes
    count: int  # of targets that count in the whole batch, or whatever the model's count() says
    key: tuple[int, ...] | None

    def rng(self) -> np.random.Generator | None:
        return None if self.key is None else np.random.default_rng(self.key)


class Shards:
    """Computes the loss of a batch, and its gradient, on several threads.

        with Shards(model, 4) as shards:
            loss = shards.backward(ids, targets)   # the gradient is in model.grads

        loss = sum(loss of piece)                  each of them a sum over its targets, divided by the whole batch's count
        grads = sum(gradient of piece)

    n         into how many shards a batch is split
    pieces    in how many pieces each shard takes its rows, one after the other, where memory is short; their losses and
              gradients add up to the whole batch's, however unequal their counts of targets
    """

    def __init__(self, model, n: int = 2, *, pieces: int = 1, pool: Pool | None = None):
        self.model, self.n, self.pieces = model, positive(n, "shards"), positive(pieces, "pieces")
        model.zero_grad()  # which says so if its layers are not those that it laid out
        with one_blas_thread() as held:  # a BLAS of many threads under each of ours would do more harm than good
            self.pool = pool or Pool(min(self.n, cores()) if held else 1)
        self._as_built = AsBuilt(model, "Shards")
        self.models = [model] + [model.replica(fleeting=True) for _ in range(self.n - 1)]
        self.sum = Sum(self.models)

    def backward(self, *batch, key: tuple[int, ...] | None = None) -> float:
        """The loss of a batch; its gradient takes the place of what was in model.grads.

        key: whole numbers that, with the number of the piece, give a piece its dropout; None: there is none
        """
        self._as_built.check()
        shards = self.split(*batch, key=key)
        with one_blas_thread(), self.sum.under_way(len(shards)):
            losses = self.pool.map(_gradient, self.models, shards, self.sum.told)
        return sum(loss for shard in losses for loss in shard)

    def loss(self, *batch) -> float:
        """The loss alone."""
        self._as_built.check()
        with one_blas_thread():
            losses = self.pool.map(_losses, self.models, self.split(*batch))
        return sum(loss for shard in losses for loss in shard)

    def split(self, *batch, key: tuple[int, ...] | None = None) -> list[list[Piece]]:
        """For each shard its pieces. There are fewer where there are fewer rows."""
        batch = tuple(np.asarray(array) for array in batch)
        count = self.model.count(*batch)
        if not all(len(array) == len(batch[0]) for array in batch) or not len(batch[0]):
            raise ValueError("a batch is ids, targets and the like, with as many rows each, and one at least; "
                             f"got {', '.join(str(array.shape) for array in batch)}")
        shards = []
        for rows in _parts(range(len(batch[0])), self.n):
            shard = []
            for part in _parts(rows, self.pieces):
                cut = slice(part.start, part.stop)
                shard.append(Piece(tuple(array[cut] for array in batch), count, None if key is None else (*key, cut.start, DROPOUT)))
            shards.append(shard)
        return shards

    def close(self) -> None:
        self.pool.close()

    def __enter__(self) -> "Shards":
        return self

    def __exit__(self, *_) -> None:
        self.close()


class Sum:
    """Adds the shards' gradients into the first's, one part of the model after the other, while the shards run.

        grads = grads of shard 0 + grads of shard 1 + ...

    A shard's gradient of a part, a block say, is added as soon as those of all shards before it are, and its memory given
    back: so no second array of all gradients is needed. Where shards come in another order, the last adds for the others.
    """

    def __init__(self, models):
        parts = [[(layer, [param for param in params if not param.frozen]) for layer, params in model.parts()] for model in models]
        # Of each shard its parts; of a layer that comes twice the first, which has the Params.
        self.parts = [list({id(layer): (layer, params) for layer, params in reversed(of)}.values()) for of in parts]
        self.told = [self._told(shard) for shard in range(len(models))]  # what a shard calls when it is through with a layer
        if sum(len(params) for _, params in parts[0]) < len(models[0].trained()):
            raise ValueError("the model has parameters that none of its parts has, so their gradients would be lost")
        if len(models) > 1 and len(self.parts[0]) < len(parts[0]):
            raise ValueError("a layer stands at two places of the model, so a shard is through with it twice: take one shard")

    @contextmanager
    def under_way(self, n: int) -> Iterator[None]:
        """While n shards run. All gradients begin anew; in the end, also after an error, model.grads says what they are."""
        self.locks = [threading.Lock() for _ in self.parts[0]]
        self.n_added = [0 for _ in self.parts[0]]  # for each part, how many shards are in the sum
        self.through = [set() for _ in self.parts[0]]  # for each part, the shards whose backward is done
        own, *others = [[param for _, params in parts for param in params] for parts in self.parts]
        for param in chain(own, *others):
            param.begin_anew()
        try:
            yield
            assert set(self.n_added) == {n}, "a part of the gradient was not added"
        finally:
            for param in own:
                param.settle()
            for param in chain(*others):  # after an error they may hold some
                param.begin_anew()

    def _told(self, shard: int) -> Callable[[Layer], None]:
        places = {id(layer): i for i, (layer, _) in enumerate(self.parts[shard])}

        def told(layer: Layer) -> None:
            i = places[id(layer)]
            self.through[i].add(shard)
            # Who does not get the lock may go: who has it looks again when it is free.
            while self.n_added[i] in self.through[i] and self.locks[i].acquire(blocking=False):
                try:
                    if self.n_added[i] in self.through[i]:
                        self._add(self.n_added[i], i)
                finally:
                    self.locks[i].release()

        return told

    def _add(self, shard: int, i: int) -> None:
        for total, param in zip(self.parts[0][i][1], self.parts[shard][i][1]):
            if shard > 0:
                total.grad += param.grad
                param.begin_anew()
        self.n_added[i] = shard + 1  # only now may the next shard's be added


def _gradient(model, pieces: list[Piece], told: Callable[[Layer], None]) -> list[float]:
    losses = []
    for piece in pieces:
        loss, saved = model.forward(*piece.batch, rng=piece.rng(), count=piece.count)
        model.backward(saved, finished=told if piece is pieces[-1] else None)
        del saved  # or it would stay until the next piece has saved its own
        losses.append(float(loss))
    return losses


def _losses(model, pieces: list[Piece]) -> list[float]:
    return [float(model(*piece.batch, count=piece.count)) for piece in pieces]


def _parts(rows: range, n: int) -> Iterator[range]:
    """n parts of almost equal size, or as many as there are rows."""
    n = min(n, len(rows))
    for i in range(n):
        yield rows[len(rows) * i // n:len(rows) * (i + 1) // n]
