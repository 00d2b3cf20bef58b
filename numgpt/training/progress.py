"""What a run says while it goes on: a line that is written anew on a terminal, or plain lines in a file."""

import math
import shutil
import sys
import time

from numgpt import adapted
from numgpt.threads import blas_threads, cores, matmul_speed

SMOOTH = 0.95  # of the loss and the speed that are shown, the share of what was shown before
PLAIN_EVERY, LIVE_EVERY = 30.0, 0.1  # seconds


class Progress:
    """A trainer's report: Trainer(..., report=Progress()). Where nobody listens any more, it says no more; the run goes on."""

    def __init__(self, out=None):
        self.out = sys.stdout if out is None else out
        self.live = self.out is not None and self.out.isatty()
        self.shown, self.width = -math.inf, 0  # when the last line was shown, and how wide it was
        self.loss = self.speed = self.val_loss = None

    def __call__(self, event: str, trainer, metrics: dict) -> None:
        if self.out is not None:
            getattr(self, f"_{event}")(trainer, metrics)

    def close(self) -> None:
        """What is said next, by whomever, begins on a line of its own."""
        if self.live and self.width:
            self._write("\n")
            self.width = 0

    def _start(self, trainer, metrics) -> None:
        config, shards = trainer.model.config, trainer.shards
        self._say(f"{trainer.model.n_params:,} parameters, {config.n_layer} layers of width {config.n_embd}; "
                  f"{trainer.settings.batch} sequences of {trainer.data.T} tokens a step, in {_counted(shards.n, 'shard')} on {_counted(shards.pool.n, 'thread')}")
        if shards.n > 1 and blas_threads() is None:
            self._say("the threads of this BLAS cannot be set from here: the shards run in turn")
        elif shards.n < min(cores(), trainer.settings.batch):
            self._say(f"this machine has {cores()} cores: a run with --shards {min(cores(), trainer.settings.batch)} would use them")
        if trainer.model.grads.size < trainer.model.n_params:
            self._say(adapted.trained(trainer.model))
        if trainer.n_done:
            self._say(f"going on from step {trainer.n_done}")
        self.flops = trainer.model.flops_per_token(trainer.data.T, training=True)
        self.peak = matmul_speed(shards.pool, trainer.model.values.dtype)

    def _step(self, trainer, metrics) -> None:
        self.val_loss = metrics.get("val_loss", self.val_loss)
        if "loss" in metrics:
            self.loss = self._mean(self.loss, metrics["loss"])
            self.speed = self._mean(self.speed, metrics["tokens_per_s"])
        now = time.monotonic()
        evaluated = "val_loss" in metrics or any(name in metrics for name, _ in trainer.data.forms)
        if self.live and (evaluated or now - self.shown >= LIVE_EVERY):
            self.shown = now
            self._rewrite(self._line(trainer))
        if evaluated or not self.live and now - self.shown >= PLAIN_EVERY:
            self.shown = now
            self._say(self._line(trainer, metrics))

    def _mean(self, before: float | None, new: float) -> float:
        return new if before is None else SMOOTH * before + (1 - SMOOTH) * new

    def _line(self, trainer, metrics: dict | None = None) -> str:
        n_steps = trainer.n_steps
        parts = [f"step {trainer.n_done:,}" + (f" of {n_steps:,.0f}" if math.isfinite(n_steps) else "")]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.3f}")
        if self.val_loss is not None:
            parts.append(f"held out {self.val_loss:.4f}")
        for name, form in trainer.data.forms:
            if metrics and name in metrics:
                parts.append(form.format(metrics[name]))
        if self.speed:
            parts += [f"{self.speed:,.0f} tokens/s", f"{self.speed * self.flops / self.peak:.0%} of matmul speed"]
            if not trainer.done:
                parts.append(f"{_clock(self._left(trainer))} left")
        return "  ".join(parts)

    def _left(self, trainer) -> float:
        if trainer.settings.minutes is not None:
            return 60 * trainer.settings.minutes - trainer.seconds
        return (trainer.n_steps - trainer.n_done) * trainer.data.n_updates * trainer.settings.batch * trainer.data.T / self.speed

    def _saved(self, trainer, metrics) -> None:
        pass  # at every evaluation; what matters is where the run lies, which stands at its end

    def _end(self, trainer, metrics) -> None:
        self._say(f"done: {trainer.n_done:,} steps in {_clock(trainer.seconds)}; {trainer.data.best_said(trainer.best)}{_when(trainer)}"
                  + (f"; {trainer.folder.path}" if trainer.folder else ""))

    def _stop(self, trainer, metrics) -> None:
        where = trainer.folder.path if trainer.folder else None
        self._say(f"stopped by {trainer.stopped_by.name} after step {trainer.n_done:,}"
                  + (f"; saved in {where}: go on with --resume {where}" if where else ""))

    def _say(self, text: str) -> None:
        if self.live and self.width:
            self._rewrite("")
            self._write("\r")
        self._write(text + "\n")

    def _rewrite(self, text: str) -> None:
        room = shutil.get_terminal_size().columns - 1
        self._write("\r" + text[:room].ljust(min(self.width, room)))
        self.width = len(text[:room])

    def _write(self, text: str) -> None:
        if self.out is None:
            return
        try:
            self.out.write(text)
            self.out.flush()
        except (OSError, ValueError):  # the reader, say `head`, has gone, the terminal or the stream is closed, the disk is full
            self.out, self.live = None, False


def _when(trainer) -> str:
    """At which step the best model was found, if that is known."""
    if trainer.best_at is None:
        return ""
    worse = ": no evaluation was better than the start" if trainer.best_at == 0 < trainer.n_done else ""
    return f" at step {trainer.best_at:,}{worse}"


def _counted(n: int, thing: str) -> str:
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"
