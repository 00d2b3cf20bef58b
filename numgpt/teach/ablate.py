"""What each part of a GPT is for: the same model trained without it, beside the whole.

    print(ablate())                            # all of them, in about a minute and a half on two cores
    print(ablate("residual", "mask"))
    print(ablate("post-norm+warm-up"))         # two at once

All models begin with the same weights, so far as they have them, and see the same batches. Each is one thread's work, so
that the figures depend on the seed and not on how many cores there are.
"""

import html
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from numgpt.config import GPTConfig
from numgpt.files import nearest
from numgpt.layers import PostNormBlock
from numgpt.model import GPT
from numgpt.teach import remarks
from numgpt.teach.reversal import Reversal
from numgpt.teach.terminal import Ink, width
from numgpt.teach.without import REMOVERS, remove
from numgpt.text import CharTokenizer, corpus, split
from numgpt.threads import Pool, cores, one_blas_thread
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
STEPS = 300
# Weights and learning rate are larger than one would choose, though not too large for the whole model: where all is gentle,
# most parts can be missed for a few hundred steps.
MODEL = dict(n_ctx=64, n_layer=6, n_head=2, n_embd=64, std=0.15, std_residual=0.13)
TRAINING = dict(batch=12, shards=1, lr=0.012, betas=(0.9, 0.99), weight_decay=0.1, clip=1.0, eval_tokens=8192)
WARMUP, EVALUATED = 0.1, (0, 0.1, 0.25, 0.5, 1)  # shares of the steps
LAST = 10  # steps whose gradients are "at the end"
REVERSED = dict(steps=100, batch=32)  # training of the task that shows what positions are for


@dataclass
class Run:
    """One model's course.

    losses     on text that is held out, by step;  hidden: with the tokens after each position hidden, of a model that sees them
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


@dataclass(repr=False)
class Ablation:
    """What was trained, and how each came out."""

    whole: Run
    runs: list[Run]
    config: GPTConfig
    settings: Settings
    counting: dict[str, float]  # losses that need no model: how frequent characters are, and pairs of them
    seconds: float = 0.0

    def __getitem__(self, name: str) -> Run:
        return next(run for run in (self.whole, *self.runs) if run.name == name)

    def remarks(self) -> dict[str, str]:
        """What one sees of each, and why, so far as these figures show it."""
        return {run.name: remarks.remark(run, self) for run in self.runs}

    def to_dict(self) -> dict:
        return {"config": self.config.to_dict(), "settings": self.settings.to_dict(), "counting": self.counting,
                "whole": self.whole.to_dict(), "runs": [run.to_dict() | {"remark": self.remarks()[run.name]} for run in self.runs],
                "seconds": round(self.seconds, 1)}

    def __str__(self):
        return self.text(width(), Ink(False))

    __repr__ = __str__

    def text(self, columns: int, ink: Ink) -> str:
        return remarks.text(self, columns, ink)

    def _repr_html_(self):
        said = self.remarks()
        tables = "".join(_html(head, rows) for head, rows in remarks.tables(self))
        return tables + "".join(f"<p><b>{html.escape(run.title)}</b>: {html.escape(said[run.name])}</p>" for run in self.runs)


def _finite(item):
    if isinstance(item, dict):
        return {name: _finite(inside) for name, inside in item.items()}
    if isinstance(item, list):
        return [_finite(inside) for inside in item]
    return None if isinstance(item, float) and not math.isfinite(item) else item


def _html(head: list[str], rows: list[list[str]]) -> str:
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(item)}</td>" for item in row) + "</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{html.escape(item)}</th>' for item in head)}</tr>{lines}</table>"


def ablate(*parts: str, steps: int = STEPS, seed: int = 0, lr: float = TRAINING["lr"], text: str | None = None,
           changes: dict | None = None, report: Callable[[Run], None] = lambda run: None) -> Ablation:
    """Train the whole model, and one without each of the parts (none named: all).

    lr: the highest learning rate; it falls to a tenth. text: to learn characters from; None: the text that ships inside Python. changes: of the config's fields.
    report: is told of each that has come to its end.
    """
    parts = list(dict.fromkeys(parts or PARTS))
    for part in parts:
        _check(part)
    start = time.perf_counter()
    text = corpus.default() if text is None else text
    tokenizer = CharTokenizer.train(text)
    tokens = np.array(tokenizer.encode(text), np.uint16)
    config = GPTConfig(n_vocab=tokenizer.n_vocab, **{**MODEL, **(changes or {})})
    if not 0 < lr < math.inf:
        raise ValueError(f"a learning rate is a finite number above 0; got {lr}")
    settings = Settings(**TRAINING | dict(steps=steps, seed=seed, lr=lr, min_lr=lr / 10, warmup=round(WARMUP * steps)))
    stop = threading.Event()  # after Ctrl-C the other threads need not come to their ends
    names = [WHOLE, *parts]
    turned = [WHOLE, *(name for name in parts if "positions" in name.split("+"))]  # those that turn digits round

    def read():
        return TextData(*split(tokens, 0.1), tokenizer)

    def trained(name: str, of_text: bool) -> Run | None:
        try:
            return _on_text(name, config, settings, read(), stop, report) if of_text else _on_digits(name, config, settings, stop)
        except BaseException:
            stop.set()
            raise

    jobs = [(name, True) for name in names] + [(name, False) for name in turned if len(turned) > 1]
    pool = Pool(min(cores(), len(jobs)))
    try:
        with one_blas_thread():
            found = pool.map(trained, *zip(*jobs))
    except BaseException:
        stop.set()
        raise
    finally:
        pool.close()
    runs = dict(zip(names, found))
    for name, share in zip(turned, found[len(names):]):
        runs[name].reversed = share
    data = read()
    data.prepare(settings, config.n_ctx)
    return Ablation(*(runs.pop(WHOLE), list(runs.values())), config, settings, counting(data, tokenizer.n_vocab), time.perf_counter() - start)


def _check(name: str) -> None:
    for part in name.split("+"):
        if part not in PARTS:
            near = nearest(part, PARTS)
            raise ValueError(f"there is no part {part!r}" + (f"; {near!r}?" if near else f": choose of {', '.join(PARTS)}"))
    if "post-norm" in name.split("+") and {"residual", "norm"} & set(name.split("+")):
        raise ValueError("post-norm norms the sum of the two paths: without the residual, or without the norm, there is no such thing")


def made(name: str, config: GPTConfig, seed: int) -> GPT:
    """The model without these parts, with the weights that the whole one has."""
    missing = [] if name == WHOLE else name.split("+")
    config = config.change(scale_attn="scale" not in missing, norm="post" if "post-norm" in missing else "pre")
    model = GPT(config, seed=seed)
    for part in missing:
        if part in REMOVERS:
            remove(model, part)
    return model


def _on_text(name: str, config: GPTConfig, settings: Settings, data: TextData, stop: threading.Event, report) -> Run | None:
    """One model, from its beginning to its end."""
    start, parts, n = time.perf_counter(), name.split("+"), settings.steps
    if "warm-up" in parts:
        settings = Settings.from_dict(settings.to_dict() | {"warmup": 0})
    model = made(name, config, settings.seed)
    # the same weights in a model that cannot look ahead
    masked = made("+".join(part for part in parts if part != "mask") or WHOLE, config, settings.seed) if "mask" in parts else None
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


def _on_digits(name: str, config: GPTConfig, settings: Settings, stop: threading.Event) -> float | None:
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
    batches = list(data.held_out())
    return sum(float(model(ids, targets)) * targets.size for ids, targets in batches) / sum(targets.size for _, targets in batches)


def titled(name: str) -> tuple[str, str]:
    """What the model without these parts is called, and what it is."""
    if name == WHOLE:
        return WHOLE, "nothing is missing"
    titles, whats = zip(*(PARTS[part] for part in name.split("+")))
    return ", ".join(titles), "; ".join(whats)


def lengths(model: GPT) -> list[float]:
    """Of each block's gradient."""
    return [math.sqrt(sum(float((param.grad * param.grad).sum()) for param in block.params())) for block in model.body.blocks]


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
    """Losses on what is held out, of guesses that need no model: all alike; by how often a character comes; by the one before it."""
    tokens = np.asarray(data.train, np.int64)
    single = np.bincount(tokens, minlength=n_vocab) + 1.0
    pairs = np.bincount(tokens[:-1] * n_vocab + tokens[1:], minlength=n_vocab ** 2).reshape(n_vocab, n_vocab) + single / single.sum()
    log_single, log_pairs = np.log(single / single.sum()), np.log(pairs / pairs.sum(-1, keepdims=True))
    ids, targets = (np.concatenate([batch[i].reshape(-1) for batch in data.held_out()]) for i in (0, 1))
    return {"uniform": math.log(n_vocab), "single": float(-log_single[targets].mean()), "pairs": float(-log_pairs[ids, targets].mean())}
