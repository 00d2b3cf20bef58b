"""What a fine-tuning reads: examples to train on, and examples held out."""

import hashlib
from collections.abc import Iterator

import numpy as np

from numgpt.flat import Flat
from numgpt.formats import BEST
from numgpt.threads import one_blas_thread
from numgpt.training.data import Data
from numgpt.tuning.confusion import Confusion
from numgpt.tuning.encoding import Rows
from numgpt.tuning.examples import BadLines
from numgpt.tuning.lines import shown
from numgpt.tuning.packing import deal
from numgpt.tuning.template import Template


def best_model(trainer) -> tuple[Flat, str]:
    """The run's best model, which is the one that it leaves, and what to call it; without a folder, the last."""
    path = trainer.folder and trainer.folder.path / BEST
    if not (path and path.exists()):
        return trainer.model, f"the model of step {trainer.n_done:,}"
    return trainer.load(path), str(path) + ("" if trainer.best_at is None else f" (step {trainer.best_at:,})")


class ExampleData(Data):
    """What all kinds share: encoded examples, dealt to batches an epoch at a time.

    labels   of the classes, in their order; None, where there are none
    bad      lines that were left out
    drawn    what synthetic.py drew; None, where examples are somebody's
    head     a line on whether the model's head goes on or begins anew; None, where it had none
    """

    drawn: str | None = None
    head: str | None = None

    def __init__(self, train: Rows, kept: Rows, template: Template, tokenizer, *, labels=None, bad: BadLines | None = None):
        self.train, self.kept, self.template, self.tokenizer = train, kept, template, tokenizer
        self.labels, self.bad = labels, bad or BadLines()
        self.n_vocab = template.n_vocab

    def prepare(self, settings, n_ctx: int) -> None:
        if settings.tokens is not None:
            raise ValueError("an example has as many tokens as it has: --tokens is for texts")
        self.B, self.T = settings.batch, self.train.T
        self.dealt = deal(len(self.train), self.B, seed=settings.seed)

    @property
    def steps_per_epoch(self) -> float:
        return len(self.train) / self.B

    def batch(self, step: int) -> tuple[np.ndarray, ...]:
        return self.taken(self.train, self.dealt(step))

    def held_out(self) -> Iterator[tuple[np.ndarray, ...]]:
        for start in range(0, len(self.kept), self.B):
            yield self.taken(self.kept, np.arange(start, min(start + self.B, len(self.kept))))

    def taken(self, rows: Rows, which: np.ndarray) -> tuple[np.ndarray, ...]:
        """A batch of those examples."""
        raise NotImplementedError

    def begins_with(self, model, *, taught: bool = False) -> None:
        """The model that a run begins with, before its first step; whoever needs it later keeps a copy. taught: its task is too."""

    def restore(self, folder) -> None:
        """What it kept of that model, from the folder of a run that goes on."""

    def shown(self, trainer) -> str:
        """What stands below the last line of a run."""
        return ""

    def remarks(self) -> list[str]:
        """What somebody should know before these examples are learned from."""
        notes, n_cut = [self.head] if self.head else [], self.train.n_cut + self.kept.n_cut
        if n_cut:
            end = "the beginning of the prompt" if "user" in self.template.special else "the end"
            notes.append(f"{n_cut} example{'s' * (n_cut > 1)} had no room, and {end} was cut")
        if self.drawn is not None:
            return notes
        known = {_key(sequences) for sequences in self.train.ids}
        n = sum(_key(sequences) in known for sequences in self.kept.ids)
        if n:
            notes.append(f"{n:,} of {len(self.kept):,} held-out examples are also trained on, and measure what is known by heart")
        return notes

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for rows in (self.train, self.kept):
            for sequences in rows.ids:
                for ids in sequences:
                    digest.update(ids.tobytes() + b";")
            digest.update(b"" if rows.classes is None else rows.classes.tobytes())
        return digest.hexdigest()

    def highest(self) -> int:
        return self.template.n_vocab - 1


def _key(sequences) -> tuple[bytes, ...]:
    return tuple(ids.tobytes() for ids in sequences)


class ClassifyData(ExampleData):
    """Texts, pairs or choices, and the class of each."""

    forms = (("accuracy", "{:.1%} right"), ("lm_loss", "language {:.3f}"))

    def taken(self, rows, which):
        batch = rows.at(which)
        return batch.ids, batch.last, batch.classes, batch.targets

    def measure(self, trainer) -> dict[str, float]:
        """Of what is held out: the task's loss, the mean over examples; the language model's, the mean over tokens, where it has a
        weight; and the share of examples whose highest score is the right one's. The best model is the best at the task."""
        total = right = language = n_tokens = 0
        for ids, last, classes, targets in self.held_out():
            scores, loss, lm_loss = trainer.model.apart(ids, last, classes, targets)
            trainer.checked(float(loss + lm_loss), (ids, last, classes, targets))
            _, n = trainer.model.count(ids, last, classes, targets)
            total, right = total + float(loss) * len(ids), right + int((scores.argmax(-1) == classes).sum())
            language, n_tokens = language + float(lm_loss) * n, n_tokens + n
        metrics = {"val_loss": total / len(self.kept), "accuracy": right / len(self.kept)}
        return metrics | ({"lm_loss": language / n_tokens} if trainer.model.lm_weight else {})

    def best_said(self, best):
        return f"lowest loss of the task on what is held out {best:.4f}"

    def remarks(self):
        notes = super().remarks()
        if self.labels is None:
            return notes
        n_train, n_kept = (np.bincount(rows.classes, minlength=len(self.labels)) for rows in (self.train, self.kept))
        for label, n, held in zip(self.labels, n_train, n_kept):
            if not n:
                notes.append(f"nothing teaches the label {shown(label)}: it has no example to train on, and {held} held out")
            elif not held:
                notes.append(f"nothing measures the label {shown(label)}: none of its examples ({n} to train on) is held out")
        return notes

    def shown(self, trainer):
        model, whose = best_model(trainer)
        return f"{whose}, on the {len(self.kept)} examples held out:\n{self.confusion(model)}"

    def confusion(self, model) -> Confusion:
        """How often each class is taken for each, of what is held out."""
        with one_blas_thread():
            predicted = [model.scores(ids, last).argmax(-1) for ids, last, _, _ in self.held_out()]
        labels = model.labels or range(max(self.kept.classes.max(), max(map(np.max, predicted))) + 1)
        return Confusion.of(self.kept.classes, np.concatenate(predicted), labels)
