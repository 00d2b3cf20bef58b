"""What each part of a GPT is for: the same model trained without it, beside the whole.

    print(ablate())                            # all of them, in about a minute on two cores
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
from dataclasses import dataclass

import numpy as np

from numgpt.config import GPTConfig
from numgpt.files import nearest
from numgpt.teach.ablate import remarks
from numgpt.teach.ablate.course import PARTS, WHOLE, Run, counting, on_digits, on_text
from numgpt.teach.terminal import Ink, width
from numgpt.text import CharTokenizer, corpus, split
from numgpt.threads import Pool, cores, one_blas_thread
from numgpt.training.data import TextData
from numgpt.training.settings import Settings

STEPS = 300
# Weights and learning rate are larger than one would choose, though not too large for the whole model: where all is gentle,
# most parts can be missed for a few hundred steps.
MODEL = dict(n_ctx=64, n_layer=6, n_head=2, n_embd=64, std=0.15, std_residual=0.13)
TRAINING = dict(batch=12, shards=1, lr=0.012, betas=(0.9, 0.99), weight_decay=0.1, clip=1.0, eval_tokens=8192)
WARMUP = 0.1  # of the steps


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
        said = self.remarks()
        return {"config": self.config.to_dict(), "settings": self.settings.to_dict(), "counting": self.counting,
                "whole": self.whole.to_dict(), "runs": [run.to_dict() | {"remark": said[run.name]} for run in self.runs],
                "seconds": round(self.seconds, 1)}

    def __str__(self):
        return self.text(width(), Ink(False))

    __repr__ = __str__

    def text(self, columns: int, ink: Ink) -> str:
        return remarks.text(self, columns, ink)

    def _repr_html_(self):
        said = self.remarks()
        parts = [_html(head, rows) for head, rows in remarks.tables(self)]
        parts += [f"<p><b>{html.escape(run.title)}</b>: {html.escape(said[run.name])}</p>" for run in self.runs]
        return "".join(parts)


def _html(head: list[str], rows: list[list[str]]) -> str:
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(item)}</td>" for item in row) + "</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{html.escape(item)}</th>' for item in head)}</tr>{lines}</table>"


def ablate(*parts: str, steps: int = STEPS, seed: int = 0, lr: float = TRAINING["lr"], text: str | None = None,
           changes: dict | None = None, report: Callable[[Run], None] = lambda run: None) -> Ablation:
    """Train the whole model, and one without each of the parts (none named: all).

    lr         the highest learning rate; it falls to a tenth
    text       to learn the characters of; None: the text that ships inside Python
    changes    of the config's fields
    report     is told of each that has come to its end
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

    def trained(name: str, of_text: bool) -> Run | float | None:
        try:
            if of_text:
                return on_text(name, config, settings, read(), stop, report)
            return on_digits(name, config, settings, stop)
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
    whole = runs.pop(WHOLE)
    seconds = time.perf_counter() - start
    return Ablation(whole, list(runs.values()), config, settings, counting(data, tokenizer.n_vocab), seconds)


def _check(name: str) -> None:
    for part in name.split("+"):
        if part not in PARTS:
            near = nearest(part, PARTS)
            raise ValueError(f"there is no part {part!r}" + (f"; {near!r}?" if near else f": choose of {', '.join(PARTS)}"))
    if "post-norm" in name.split("+") and {"residual", "norm"} & set(name.split("+")):
        raise ValueError("post-norm norms the sum of the two paths: without the residual, or without the norm, there is "
                         "no such thing")
