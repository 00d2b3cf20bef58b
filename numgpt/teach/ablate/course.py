"""One model of an ablation, from its beginning to its end, and what is measured on the way."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from numgpt.config import GPTConfig
from numgpt.layers import PostNormBlock
from numgpt.model import GPT
from numgpt.teach.ablate.reversal import Reversal
from numgpt.teach.ablate.without import REMOVERS, remove
from numgpt.training.data import TextData
from numgpt.training.faults import NotFinite
from numgpt.training.settings import Settings
from numgpt.training.trainer import Trainer

WHOLE = "whole"
PARTS = {  # how the model without it is called, and what it is
    "residual": ("no residual", "the paths past the branches are gone: each block is ffn(norm2(attention(norm1(x))))"),
    "scale": ("no 1/sqrt(D)", "scores are q k^T as they are"),
    "norm": ("no LayerNorm", "none in the blocks, none before the head"),
    "post-norm": ("post-norm", "each norm stands on the stream, after the sum, as in GPT-1; none is inside the branches"),
    "warm-up": ("no warm-up", "the first step has the full learning rate"),
    "positions": ("no positions", "nothing says where in the window a token stands"),
    "mask": ("no mask", "attention sees the tokens after its own, and so the answer"),
}
EVALUATED = (0, 0.1, 0.25, 0.5, 1)  # shares of the steps
LAST = 10  # steps whose gradients are "at the end"
REVERSED = dict(steps=100, batch=32)  # training of the task that shows what positions are for


@dataclass
class Run:
    """One model's course.

    losses     on text that is held out, by step
    hidden     of a model without a mask, by step: with what comes after each position hidden from it
    trained    of each step's batch, before the step
    first      length of each block's gradient in the first step,
    last       and on the average of the last ten
    looks      what its attention and its stream were like, at the start and at the end; see look
    reversed   how many of the rows of digits it turns round, if it was trained to; see reversal.py
    broke      what was not finite, and when; None: nothing
    """

    name: str
    title: str
    what: str
    n_params: int
    losses: dict[int, float] = field(default_factory=dict)
    hidden: dict[int, float] = field(default_factory=dict)
    trained: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    looks: list[dict[str, float]] = field(default_factory=list)
    reversed: float | None = None
    broke: str | None = None
    seconds: float = 0.0

    @property
    def loss(self) -> float:
        """The last one, of what it is trained for."""
        return math.nan if self.broke else list(self.losses.values())[-1]

    def to_dict(self) -> dict:
        """What is not finite is None: JSON has no word for it."""
        return {name: _finite(getattr(self, name)) for name in (
            "name", "n_params", "losses", "hidden", "trained", "first", "last", "looks", "reversed", "broke")}


def _finite(item):
    if isinstance(item, dict):
        return {name: _finite(inside) for name, inside in item.items()}
    if isinstance(item, list):
        return [_finite(inside) for inside in item]
    return None if isinstance(item, float) and not math.isfinite(item) else item


def made(name: str, config: GPTConfig, seed: int) -> GPT:
    """The model without these parts, with the weights that the whole one has."""
    missing = [] if name == WHOLE else name.split("+")
    config = config.change(scale_attn="scale" not in missing, norm="post" if "post-norm" in missing else "pre")
    model = GPT(config, seed=seed)
    for part in missing:
        if part in REMOVERS:
            remove(model, part)
    return model


def on_text(name: str, config: GPTConfig, settings: Settings, data: TextData, stop: threading.Event,
            report: Callable[[Run], None]) -> Run | None:
    """The model without these parts, trained; None: it was told to stop."""
    start, parts, n = time.perf_counter(), name.split("+"), settings.steps
    if "warm-up" in parts:
        settings = Settings.from_dict(settings.to_dict() | {"warmup": 0})
    model = made(name, config, settings.seed)
    masked = None
    if "mask" in parts:  # the same weights in a model that cannot look ahead
        masked = made("+".join(part for part in parts if part != "mask") or WHOLE, config, settings.seed)
    run, norms, marks = Run(name, *titled(name), model.n_params), [], {round(share * n) for share in EVALUATED}
    with Trainer(model, data, settings) as trainer:
        ids = next(data.held_out())[0]
        try:
            while True:
                if trainer.n_done in marks:
                    run.losses[trainer.n_done] = trainer.evaluate()["val_loss"]
                    if masked is not None:
                        masked.values[...] = model.values
                        run.hidden[trainer.n_done] = _mean_loss(masked, data)
                if trainer.n_done in (0, n):
                    run.looks.append(look(model, ids))
                if trainer.done:
                    break
                if stop.is_set():
                    return None
                run.trained.append(trainer.step()["loss"])
                norms.append(lengths(model))
        except NotFinite:
            run.broke = f"not finite after step {trainer.n_done}"
    if norms:
        run.first, run.last = norms[0], np.mean(norms[-LAST:], 0).tolist()
    run.seconds = time.perf_counter() - start
    report(run)
    return run


def on_digits(name: str, config: GPTConfig, settings: Settings, stop: threading.Event) -> float | None:
    """The share of rows that the model turns round, once it has been trained to."""
    settings = Settings.from_dict(settings.to_dict() | REVERSED | {"steps": min(REVERSED["steps"], settings.steps)})
    data = Reversal(min(8, config.n_ctx // 2))
    with Trainer(made(name, config.change(n_vocab=data.n_vocab), settings.seed), data, settings) as trainer:
        try:
            while not trainer.done and not stop.is_set():
                trainer.step()
            return trainer.evaluate()["exact"]
        except NotFinite:
            return 0.0


def _mean_loss(model: GPT, data: TextData) -> float:
    losses, sizes = zip(*((float(model(ids, targets)), targets.size) for ids, targets in data.held_out()))
    return float(np.average(losses, weights=sizes))


def titled(name: str) -> tuple[str, str]:
    """What the model without these parts is called, and what it is."""
    if name == WHOLE:
        return WHOLE, "nothing is missing"
    titles, whats = zip(*(PARTS[part] for part in name.split("+")))
    return ", ".join(titles), "; ".join(whats)


def lengths(model: GPT) -> list[float]:
    """Of each block's gradient."""
    return [math.sqrt(sum(float(np.vdot(param.grad, param.grad)) for param in block.params()))
            for block in model.body.blocks]


def look(model: GPT, ids) -> dict[str, float]:
    """What goes on inside, for these ids.

    focus    the largest of a query's probabilities, on the average of queries, heads and blocks
    alike    the mean cosine between two positions of one text, after the last block, before the last norm
    size     the root of the mean square of the numbers there
    """
    body, peaks = model.body, []
    x = body.positions(body.embedding(ids))
    for block in body.blocks:
        h = x if isinstance(block, PostNormBlock) else block.norm1(x)
        _, (_, (*_, tiles), _) = block.attention.forward(h)
        peaks += [float(p.max(-1).mean()) for p, _, _ in tiles]
        x = block(x)
    unit = x / (np.sqrt((x * x).sum(-1, keepdims=True)) + 1e-30)
    T = x.shape[1]
    cosines = float((unit @ unit.swapaxes(-1, -2)).sum((-2, -1)).mean())
    return {"focus": float(np.mean(peaks)), "alike": (cosines - T) / (T * (T - 1)), "size": float(np.sqrt((x * x).mean()))}


def counting(data: TextData, n_vocab: int) -> dict[str, float]:
    """Losses on what is held out, of guesses that need no model.

    uniform    all characters alike
    single     by how often each comes
    pairs      by how often each comes after the one before it
    """
    tokens = np.asarray(data.train, np.int64)
    single = np.bincount(tokens, minlength=n_vocab) + 1.0
    single /= single.sum()
    pairs = np.bincount(tokens[:-1] * n_vocab + tokens[1:], minlength=n_vocab ** 2).reshape(n_vocab, n_vocab) + single
    pairs /= pairs.sum(-1, keepdims=True)
    ids, targets = (np.concatenate([batch[i].reshape(-1) for batch in data.held_out()]) for i in (0, 1))
    return {"uniform": math.log(n_vocab), "single": float(-np.log(single[targets]).mean()),
            "pairs": float(-np.log(pairs[ids, targets]).mean())}
