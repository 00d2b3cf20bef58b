"""Who looks at whom: the probabilities of each attention head over a text.

    seen = look(model, "the cat sat", tokenizer)   # or look(model, ids)
    print(seen)                                    # how each head looks, and the last layer's heads token by token
    seen.p[1][0]                                   # (T, T): what head 0 of layer 1 gives, from each position to each
    print(seen.view(layer=0, head=2))              # one head; a notebook shows these without print
    print(seen.view(at=6))                         # the text as position 6 sees it
    seen.view(layer=0).picture("layer0.png")       # with matplotlib

These are the numbers by which the model weighs its values, taken from what each layer's forward returns; without dropout.
"""

import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from numgpt.layers import BLOCKS
from numgpt.layers.attention import tiles
from numgpt.model import GPT
from numgpt.teach.look import page
from numgpt.teach.terminal import Ink, coloured, width
from numgpt.verify.adapters import pyplot


@dataclass(frozen=True)
class Habit:
    """How a head looks, as means over the positions that have another before them.

    entropy                    bits: 0 is one token alone, 3 is as much as 8 tokens evenly
    previous, first, itself    shares: the token before, the text's first, its own
    """

    layer: int | None
    head: int | None
    entropy: float
    previous: float
    first: float
    itself: float

    @classmethod
    def of(cls, p: np.ndarray, layer: int | None = None, head: int | None = None) -> "Habit":
        p = np.asarray(p, np.float64)
        rows = p[1:] if len(p) > 1 else p
        bits = -(rows * np.log2(np.where(rows > 0, rows, 1))).sum(-1)
        previous = np.diagonal(p, -1).mean() if len(p) > 1 else 0.0
        itself = np.diagonal(p)[-len(rows):].mean()
        return cls(layer, head, abs(float(bits.mean())), float(previous), float(rows[:, 0].mean()), float(itself))


@dataclass(frozen=True)
class Look:
    """What a model's heads do with a text.

    tokens     as they can be shown: a space as a dot in the middle, a new line as \\n
    p          for each layer (H, T, T): the share of each key (last) for each query; 0 where the mask hides it
    windows    how many positions each layer sees; None: all before
    left_out   tokens of the text that the context had no room for
    """

    tokens: tuple[str, ...]
    p: tuple[np.ndarray, ...] = field(repr=False)
    windows: tuple[int | None, ...]
    left_out: int = 0

    def habits(self) -> list[Habit]:
        """Of every head, layer after layer."""
        return [Habit.of(p, layer, head) for layer, heads in enumerate(self.p) for head, p in enumerate(heads)]

    def even(self) -> dict[int | None, Habit]:
        """For each kind of window, what the figures would be of a head that looks at all that it sees alike."""
        T, found = len(self.tokens), {}
        for window in dict.fromkeys(self.windows):
            ahead = np.arange(T) - np.arange(T)[:, None]
            seen = (ahead <= 0) & (ahead > -(window or T))
            found[window] = Habit.of(seen / seen.sum(-1, keepdims=True))
        return found

    def view(self, *, layer: int | None = None, head: int | None = None, at: int | None = None) -> "View":
        """One head, or all of a layer (None: the last one); at: the text as one position sees it.

        All three count from 0, and -1 is the last.
        """
        layer = _counted(-1 if layer is None else layer, len(self.p), "layer", "the model has", "layers")
        H = len(self.p[layer])
        heads = range(H) if head is None else [_counted(head, H, "head", "a layer has", "heads")]
        if at is not None:
            at = _counted(at, len(self.tokens), "position", "the text has", "tokens")
        return View(self, layer, tuple(heads), at)

    def text(self, columns: int, ink: Ink = Ink(False)) -> str:
        """For a terminal of so many columns: all heads' habits, and the last layer's heads token by token."""
        parts = [page.habits(self, columns, ink), self.view().text(columns, ink)]
        return "\n\n".join([*filter(None, [self.note(columns)]), *parts])

    def note(self, columns: int) -> str:
        """What was left out, in a sentence, if anything was."""
        return "\n".join(textwrap.wrap(page.left_out(self), columns))

    def __str__(self):
        return self.text(width(200), Ink(coloured()))

    __repr__ = __str__  # what a session shows of it

    def _repr_html_(self):
        return page.habits_html(self) + self.view()._repr_html_()


@dataclass(frozen=True)
class View:
    """Some heads of a layer; at: the position whose look is shown, or None for those of all."""

    look: Look
    layer: int
    heads: tuple[int, ...]
    at: int | None

    def text(self, columns: int, ink: Ink = Ink(False)) -> str:
        return (page.matrices if self.at is None else page.from_one)(self, columns, ink)

    def __str__(self):
        return self.text(width(200), Ink(coloured()))

    __repr__ = __str__  # what a session shows of it

    def _repr_html_(self):
        return (page.matrices_html if self.at is None else page.from_one_html)(self)

    def picture(self, path) -> None:
        """A PNG, or what the name ends in; needs matplotlib."""
        page.picture(self, pyplot(), path)


def look(model: GPT, text: str | Sequence[int], tokenizer=None) -> Look:
    """What the model's heads do with a text, or with token ids; of a text longer than the context, with its beginning."""
    if isinstance(text, str):
        if tokenizer is None:
            raise TypeError("a text wants a tokenizer: look(model, text, tokenizer), or look(model, ids)")
        text = tokenizer.encode(text)
    ids = np.asarray(text)
    if ids.ndim != 1 or not ids.size:
        raise ValueError(f"a text of one token or more can be looked at; got ids of shape {ids.shape}")
    n_ctx, windows = model.config.n_ctx, map(model.config.window_of, range(model.config.n_layer))
    shown = ids[:n_ctx]
    tokens = tuple(visible(int(i), tokenizer) for i in shown)
    return Look(tokens, tuple(probabilities(model, shown)), tuple(windows), len(ids) - len(shown))


def probabilities(model: GPT, ids: np.ndarray) -> list[np.ndarray]:
    """Of each layer (H, T, T), for ids (T,)."""
    found, T = [], len(ids)
    x = model.body.positions(model.body.embedding(ids[None]))
    for block in model.body.blocks:
        block = getattr(block, "layer", block)  # what Recompute wraps
        x, saved = block.forward(x)
        _, (*_, parts), _ = saved[1] if isinstance(block, BLOCKS["pre"]) else saved[0]
        attention = block.attention.attention
        whole = np.zeros((block.attention.n_head, T, T), x.dtype)
        for (queries, keys), (p, _, _) in zip(tiles(T, T, attention.window, attention.tile), parts, strict=True):
            whole[:, queries, keys] = p[0]
        found.append(whole)
    return found


def visible(i: int, tokenizer) -> str:
    """A token as it can be shown: nothing in it moves the cursor, and nothing is empty."""
    if tokenizer is None:
        return str(i)
    if hasattr(tokenizer, "decode_bytes"):  # a token may be part of a character
        text = tokenizer.decode_bytes([i]).decode("utf-8", "backslashreplace")
    else:
        text = tokenizer.decode([i])
    return "".join(map(_shown, text)) or f"<{i}>"


def _shown(c: str) -> str:
    if c == " ":
        return page.SPACE
    if c.isprintable() and unicodedata.category(c)[0] != "M":  # a mark would stand on the sign before it
        return c
    return c.encode("unicode_escape").decode()


def _counted(n: int, of: int, what: str, has: str, many: str) -> int:
    if not -of <= n < of:
        raise ValueError(f"there is no {what} {n}: {has} {of} {many}, counted from 0")
    return n % of
