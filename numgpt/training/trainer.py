"""The trainer: the loop of steps, and around it evaluation, checkpoints and everything that may go wrong."""

import math
import time
from pathlib import Path

import numpy as np

from numgpt.files import FormatError
from numgpt.flat import Flat
from numgpt.model import GPT
from numgpt.threads import keep_memory, one_blas_thread
from numgpt.training.checkpoint import Checkpoint, tokenizer_files, tokenizer_of
from numgpt.training.data import Data, TaskData, restored
from numgpt.training.faults import NotFinite, Signals, culprit, finite
from numgpt.training.folder import RunFolder, checkpoints
from numgpt.training.optim import clip
from numgpt.training.settings import Settings
from numgpt.training.shards import Shards


class Trainer:
    """A model, what it reads, and how it is trained.

        trainer = Trainer(model, data, Settings.of("char-cpu", steps=500), folder="run")
        trainer.run()                      # evaluates, saves, and stops at the end or when asked to
        trainer = Trainer.resume("run")    # and so on, bit for bit

    model     a GPT, or another model with a loss, which is trained in place
    data      see Data
    folder    where checkpoints and metrics go, or an iterator of names, of which the first that is free is taken; None: nowhere
    source    what data were read from, if a checkpoint shall be enough to read them again
    report    told of everything: report(event, trainer, metrics)

    The step that a batch, its dropout and its learning rate belong to says all about them, together with the seed. So
    a run that was interrupted repeats what came after its last checkpoint, and arrives at the same bits.
    """

    load = staticmethod(GPT.load)  # the model in a checkpoint
    changed, begins = "the text is no longer that", "--init {}"  # what is said of other data; how a new run begins with a checkpoint

    def __init__(self, model: Flat, data: Data, settings: Settings, *, folder=None, source: dict | None = None, report=None):
        for name, param in model.named_params():
            if not finite(param.value):
                what = "a NaN" if np.isnan(param.value).any() else "an infinite number"
                raise ValueError(f"these weights hold {what} in {name}, and every step would spread it: begin with others")
        self._set_up(model, data, settings, source, report)
        self.tokenizer_files = tokenizer_files(data.tokenizer)
        self.folder = None if folder is None else RunFolder.create(folder, self._checkpoint(), data.models())

    def _set_up(self, model, data, settings, source, report):
        self.model, self.data, self.settings, self.source = model, data, settings, source
        self.report = report or (lambda event, trainer, metrics: None)
        if data.n_vocab is not None and data.n_vocab > model.config.n_vocab:
            raise ValueError(f"the tokenizer has {data.n_vocab} tokens, the model {model.config.n_vocab}: the one belongs to another model")
        if data.highest() >= model.config.n_vocab:
            raise ValueError(f"the text has a token {data.highest()}, the model a vocabulary of {model.config.n_vocab}: the tokens "
                             "are of another tokenizer, or --set n_vocab is too small")
        data.prepare(settings, model.config.n_ctx)
        self.fingerprint = data.fingerprint()
        self.shards = Shards(model, settings.shards, pieces=settings.pieces)
        self.optimizer = settings.make_optimizer(model, self.shards.pool)
        self.rate = settings.rate()
        self.n_done = self.saved_at = 0  # steps
        self.best: float | None = None  # loss on held-out text
        self.best_at: int | None = None  # the step after which it was measured
        self.seconds = 0.0  # of training, in all
        self.before = 0.0  # of them before the first step, which say nothing of how long a step takes; not known of a run that goes on
        self.stopped_by = None  # a signal
        self.ended: str | None = None  # why before its last step
        keep_memory()

    @classmethod
    def resume(cls, folder, data=None, *, report=None, recompute: bool = False, **changes) -> "Trainer":
        """A run as its last checkpoint left it.

        data: as the run began with, unless it has a source that says how to read them. changes: of the settings, such
        as steps=4000, for a run that goes on further than it was meant to.
        """
        run = RunFolder.open(folder)
        try:
            *older, path = checkpoints(folder)
            saved = cls._read(path, older, recompute)
            state = saved.state
            settings = Settings.from_dict(state["settings"]).prolonged(**changes)
            trainer = object.__new__(cls)
            try:
                data = data or cls._restored(saved)
                trainer._set_up(saved.model, data, settings, state["source"], report)
                changed = "" if trainer.fingerprint == state["fingerprint"] else "other tokens"
            except FormatError:
                raise
            except ValueError as error:  # too short now, or in characters that are new
                if isinstance(data, TaskData):  # which cannot change: it is the new length that is wrong
                    raise
                changed = str(error)
            if changed:
                raise FormatError(f"{cls.changed} on which {folder} was trained, so the run cannot go on as it was "
                                  f"({changed}): bring back what there was, or begin a new run with {cls.begins.format(path)}")
            for name in trainer.optimizer.moments:
                getattr(trainer.optimizer, name)[...] = saved.moments[name]
            trainer.n_done = trainer.saved_at = state["step"]
            trainer.optimizer.n_steps = state.get("updates", trainer.n_done)
            trainer.best, trainer.seconds, trainer.tokenizer_files = state["best"], state["seconds"], saved.tokenizer_files
            trainer.ended, trainer.best_at = state.get("ended"), state.get("best_at")
            run.cut_metrics(trainer.n_done or -1)  # a run at its beginning evaluates before its first step
        except KeyError as error:
            run.close()
            raise FormatError(f"{path} lacks {error}: it was not written by this version of numgpt") from None
        except BaseException:
            run.close()
            raise
        trainer.folder = run
        return trainer

    @classmethod
    def _read(cls, path: Path, older: list[Path], recompute: bool) -> Checkpoint:
        """The last checkpoint. If it is damaged, the one before it would do, but its steps may be of worth to somebody."""
        try:
            return Checkpoint.read(path, cls.load, recompute=recompute)
        except FormatError as error:
            hope = f". {older[-1]} is the one before it: remove {path.name}, and the run goes on from there" if older else ""
            raise FormatError(f"{error}{hope}") from None

    @classmethod
    def _restored(cls, saved: Checkpoint):
        """The data that a checkpoint names."""
        return restored(saved.state["source"], tokenizer_of(saved.tokenizer_files))

    def _checkpoint(self) -> Checkpoint:
        state = {"step": self.n_done, "settings": self.settings.to_dict(), "source": self.source, "best": self.best,
                 "best_at": self.best_at, "seconds": self.seconds, "fingerprint": self.fingerprint, "ended": self.ended,
                 "updates": self.optimizer.n_steps}
        return Checkpoint(self.model, self._moments(), state, self.tokenizer_files)

    def _moments(self) -> dict[str, np.ndarray]:
        return {name: getattr(self.optimizer, name) for name in self.optimizer.moments}

    # -- the loop

    def run(self) -> "Trainer":
        """Train until the end, or until a signal asks to stop; then save. Ask .stopped_by which it was."""
        signals = Signals()
        with signals.listening(), one_blas_thread():
            self.report("start", self, {})
            if self.n_done == 0:
                self._log({"step": 0, **self.evaluate()})
            while not self.done and signals.caught is None:
                metrics = self.step()
                if self.n_done % self.settings.eval_every == 0 or self.done:
                    metrics |= self.evaluate()
                self._log(metrics)
                if self.n_done % (self.settings.save_every or self.settings.eval_every) == 0 or self.done:
                    self.save()
            if self.saved_at != self.n_done:  # a signal came, at whatever moment
                self.save()
        self.stopped_by = signals.caught
        self.report("stop" if self.stopped_by else "end", self, {})
        return self

    def step(self) -> dict:
        """One step: a batch's gradient moves the parameters, or several do it one after the other. What there is to say of it."""
        start = time.perf_counter()
        s, step = self.settings, self.n_done
        if step == 0:
            self.before = self.seconds
        lr, key = self.rate(step, self.n_steps), (s.seed, step) if self.data.dropout else None
        losses, norms, n_tokens = [], [], 0
        for batch in self.data.updates(self):
            losses.append(self.shards.backward(*batch, key=key))
            norms.append(self.optimizer.norm())
            if not math.isfinite(losses[-1]) or not math.isfinite(norms[-1]):
                what = "gradient" if math.isfinite(losses[-1]) else "loss"
                self._stop_at_fault(f"in step {step + 1} the {what}", batch, key)
            self.optimizer.step(lr, scale=clip(norms[-1], s.clip))
            n_tokens += batch[0].size
        loss, norm = sum(losses) / len(losses), sum(norms) / len(norms)
        self.n_done += 1
        seconds = time.perf_counter() - start
        self.seconds += seconds
        return {"step": self.n_done, "loss": loss, "lr": lr, "grad_norm": norm, "tokens_per_s": round(n_tokens / seconds, 1),
                "seconds": round(self.seconds, 4), **self.data.notes}

    @property
    def n_steps(self) -> float:
        """How many there will be; where time is the limit, a guess from what there was."""
        s = self.settings
        if s.steps is not None:
            return s.steps
        if s.epochs is not None:
            return math.ceil(s.epochs * self.data.steps_per_epoch)
        if not self.n_done:
            return math.inf
        return self.n_done * max(1.0, (60 * s.minutes - self.before) / (self.seconds - self.before))

    @property
    def done(self) -> bool:
        if self.ended is not None:
            return True
        if self.settings.minutes is not None:
            return self.seconds >= 60 * self.settings.minutes
        return self.n_done >= self.n_steps

    def _stop_at_fault(self, what: str, batch: tuple, key) -> None:
        pieces = (piece for shard in self.shards.split(*batch, key=key) for piece in shard)
        raise self._fault(f"{what} is not finite, and first of all {culprit(self.model, pieces)}")

    def _fault(self, what: str) -> NotFinite:
        kept = None if self.folder is None else self.folder.last()
        way = "" if kept is None else (f": {kept} is from before it, so begin a new run with {self.begins.format(kept)} and "
                                       f"--lr {self.settings.lr / 10:.2g}")
        return NotFinite(f"{what}. A lower learning rate, a longer warm-up or a shorter clip may help{way}")

    # -- evaluation

    def evaluate(self) -> dict:
        """What the data measure on what is held out. The model is kept as the best if they judge it so."""
        start = time.perf_counter()
        with one_blas_thread(), np.errstate(all="ignore"):  # what is not finite is looked for
            metrics = self.data.measure(self)
        self.seconds += time.perf_counter() - start
        judged = self.data.judged(metrics)
        if self.best is None or judged < self.best:
            self.best, self.best_at = judged, self.n_done
            if self.folder is not None and not self.folder.closed:
                self.keep_best()
        self.ended = self.data.ended(metrics)
        return metrics

    def keep_best(self) -> None:
        """Write the model as the best so far."""
        self.folder.save_best(self.model)

    def loss(self, *batch) -> float:
        """Of a batch that is held out."""
        return self.checked(self.shards.loss(*batch), batch)

    def checked(self, loss: float, batch: tuple) -> float:
        """A loss on a batch that is held out, if it is finite."""
        if not math.isfinite(loss):
            self._stop_at_fault(f"after step {self.n_done} the loss on what is held out", batch, None)
        return loss

    # -- what is written

    def _log(self, metrics: dict) -> None:
        if self.folder is not None:
            self.folder.log(metrics)
        self.report("step", self, metrics)

    def save(self) -> Path | None:
        """Write a checkpoint, if the run has a folder; its path."""
        if not finite(self.model.values):
            self._stop_at_fault(f"after step {self.n_done} a parameter", self.data.batch(self.n_done), None)
        for name, array in self._moments().items():
            if not finite(array):
                raise self._fault(f"after step {self.n_done} the optimizer's {name} is not finite, of gradients that were")
        self.saved_at = self.n_done
        if self.folder is None:
            return None
        path = self.folder.save(self._checkpoint())
        self.report("saved", self, {"path": path})
        return path

    def close(self) -> None:
        """Let go of the folder and the threads. step and evaluate still work, on one thread and to the same bits; save does not."""
        self.shards.close()
        if self.folder is not None:
            self.folder.close()

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *_) -> None:
        self.close()
