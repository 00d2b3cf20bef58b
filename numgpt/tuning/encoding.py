"""Examples as rows of ids, and batches of them: padded on the right, with what a loss needs to know of each row."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from numgpt.files import FormatError
from numgpt.layers.inputs import IGNORE
from numgpt.tuning.examples import LABELLED, BadLines, Examples, Origin
from numgpt.tuning.lines import Bad
from numgpt.tuning.template import Template, TooLong

PAD = 0  # any id would do: no row looks to its right, and no loss looks at what is padded


class Batch(NamedTuple):
    """Rows of one length T. The shapes are (B, ...) with one sequence an example, (B, 2, ...) for both orders of similarity
    and for chosen and rejected, (B, n, ...) for n choices."""
    ids: np.ndarray      # (..., T), PAD after the last
    last: np.ndarray     # (...), the place of the last real token; -1 where there is no such choice
    targets: np.ndarray  # (..., T), the token after each, IGNORE where it does not count
    classes: np.ndarray | None  # (B,), the number of the label or of the right choice, -1 where it is not said


@dataclass(frozen=True)
class Rows:
    """Encoded examples: of each its sequences, and in each of these the place of the first token that is a target.

    n_cut: how many had to be cut
    """
    kind: str
    ids: list[tuple[np.ndarray, ...]]
    begins: list[tuple[int, ...]]
    classes: np.ndarray | None
    origins: list[Origin]
    n_cut: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def T(self) -> int:
        """The length of the longest."""
        return max(len(ids) for sequences in self.ids for ids in sequences)

    @property
    def width(self) -> int | None:
        """The sequences of an example, None for one alone."""
        return None if self.kind in ("classify", "pairs", "instruct", "prompts") else max(map(len, self.ids))

    def at(self, which, T: int | None = None) -> Batch:
        """The examples of those numbers (B,), padded to the longest of them, or to T."""
        which = np.asarray(which, np.int64).tolist()
        width = self.width or 1
        if T is None:
            T = max(len(ids) for i in which for ids in self.ids[i])
        ids, targets = np.full((len(which), width, T), PAD), np.full((len(which), width, T), IGNORE)
        last = np.full((len(which), width), -1)
        for row, i in enumerate(which):
            for column, (sequence, begin) in enumerate(zip(self.ids[i], self.begins[i], strict=True)):
                n = len(sequence)
                ids[row, column, :n], last[row, column] = sequence, n - 1
                targets[row, column, begin - 1:n - 1] = sequence[begin:]
        classes = None if self.classes is None else self.classes[which]
        if self.width is None:
            ids, last, targets = ids[:, 0], last[:, 0], targets[:, 0]
        return Batch(ids, last, targets, classes)


def encode(examples: Examples, template: Template, tokenizer, n_ctx: int, *, truncate: bool = False,
           bad: BadLines | None = None, answer: int = 0) -> Rows:
    """The examples in tokens, none longer than n_ctx.

    What cannot be encoded or is too long goes to bad (that of the examples, if None): an error, or counted and left out.
    truncate: too long a text is cut, see Template.sequences
    answer: tokens that prompts leave room for
    """
    if not template.fits(examples.kind):
        raise ValueError(f"examples of {examples.kind} cannot be written with the tokens of {template.kind}: "
                         f"{', '.join(template.special)}")
    if tokenizer.n_vocab > template.n_base:
        raise ValueError(f"the tokenizer has {tokenizer.n_vocab} tokens, and the template's special ones begin at "
                         f"{template.n_base}: they would be taken for text")
    bad = examples.bad if bad is None else bad
    ids, begins, kept, here, n_cut = [], [], [], BadLines(bad.skip), 0
    for i, (item, origin) in enumerate(zip(examples.items, examples.origins, strict=True)):
        try:
            try:
                sequences = template.sequences(item, examples.kind, tokenizer, n_ctx, answer=answer)
            except TooLong:
                sequences = template.sequences(item, examples.kind, tokenizer, n_ctx, answer=answer, truncate=truncate)
                n_cut += 1
        except Bad as error:
            here.add(origin, error)
            continue
        ids.append(tuple(np.array(sequence, np.int32) for sequence, _ in sequences))
        begins.append(tuple(begin for _, begin in sequences))
        kept.append(i)
    bad.join(here)
    if not kept:
        raise FormatError(f"none of the {len(examples)} examples can be used; left out: {here}" if len(here) else
                          "there are no examples to encode")
    classes = examples.classes()
    return Rows(examples.kind, ids, begins, None if classes is None else classes[kept], [examples.origins[i] for i in kept], n_cut)


def parted(rows: Rows, held_out: float, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Examples to train on, and a share of them that is held out, whatever order they come in.

    They are encoded already: all of both can be used. Of each label as large a share, and one example at least, where it
    has two: what none is held out of is not measured. n_cut stays with the first.
    """
    n = len(rows)
    if not 0 < held_out < 1:
        raise ValueError(f"held_out is a share between 0 and 1; got {held_out}")
    n_kept = round(n * held_out)
    if n_kept == 0:
        raise ValueError(f"{n} examples are too few to hold out {held_out:g} of them: " + (
            f"say --held-out {math.ceil(100 / n) / 100:g}, or " if 1 < n < 100 else "") + "give others by --validation FILE")
    if n_kept == n:
        raise ValueError(f"to hold out {held_out:g} of {n} examples leaves none to train on: say a smaller --held-out")
    order = rng.permutation(n)
    kept = order[:n_kept]
    if rows.kind in LABELLED:
        classes = rows.classes[order]
        quotas = _quotas(np.bincount(classes), n_kept)
        if quotas.any():
            kept = np.concatenate([order[classes == k][:quota] for k, quota in enumerate(quotas)])
    return _those(rows, np.setdiff1d(order, kept), rows.n_cut), _those(rows, np.sort(kept), 0)


def _quotas(sizes: np.ndarray, n: int) -> np.ndarray:
    """n among groups of those sizes, in proportion (by largest remainders); of each one at least, and one at least left."""
    shares = sizes * (n / sizes.sum())
    quotas = np.floor(shares).astype(int)
    quotas[np.argsort(quotas - shares, kind="stable")[:n - quotas.sum()]] += 1
    return np.clip(quotas, np.minimum(1, np.maximum(0, sizes - 1)), np.maximum(0, sizes - 1))


def _those(rows: Rows, which: np.ndarray, n_cut: int) -> Rows:
    ids, begins, origins = ([of[i] for i in which.tolist()] for of in (rows.ids, rows.begins, rows.origins))
    return Rows(rows.kind, ids, begins, None if rows.classes is None else rows.classes[which], origins, n_cut)
