"""How a run is trained: every number that its course depends on, and what they are for each preset."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real

from numgpt.config import check_name
from numgpt.files import nearest, short
from numgpt.layers.inputs import positive, whole
from numgpt.training.optim import SGD, AdamW, Optimizer
from numgpt.training.schedule import Schedule

OPTIMIZERS = ("adamw", "sgd")
LENGTHS = ("steps", "minutes", "epochs")
MOST = 2 ** 53  # of steps, tokens, minutes: up to there Python's floats count one by one
FREE = (*LENGTHS, "eval_every", "save_every")  # what may change when a run goes on


@dataclass(frozen=True)
class Settings:
    """How long, on what batches, and with which steps a model is trained.

    steps          so many,
    minutes        or so many minutes (the learning rate then falls with time, so no two runs are alike to the bit),
    epochs         or so often through the whole text, whose windows come in a new order each time
    batch          sequences in a batch
    tokens         in a sequence; None: the model's whole context
    shards         threads that share a batch, each with a gradient of its own
    pieces         in which a shard takes its sequences one after the other, where memory is short
    optimizer      "adamw" or "sgd"
    lr, min_lr     the highest learning rate, and the one it falls to
    warmup         steps in which it rises,
    warmup_share   but at most this share of the run; None: however short it is
    schedule       how it falls: "cosine", "linear", "constant"
    betas, eps     AdamW's
    momentum       SGD's
    weight_decay   of matrices and tables
    clip           the longest gradient; inf: any length
    seed           of weights, batches and dropout
    eval_every     steps from one evaluation on held-out text to the next,
    eval_tokens    which takes at most so many tokens
    save_every     steps from one checkpoint to the next; None: one with each evaluation
    """

    steps: int | None = None
    minutes: float | None = None
    epochs: float | None = None
    batch: int = 12
    tokens: int | None = None
    shards: int = 2
    pieces: int = 1
    optimizer: str = "adamw"
    lr: float = 1e-3
    min_lr: float = 1e-4
    warmup: int = 100
    warmup_share: float | None = None
    schedule: str = "cosine"
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    momentum: float = 0.9
    weight_decay: float = 0.1
    clip: float = 1.0
    seed: int = 0
    eval_every: int = 250
    eval_tokens: int = 100_000
    save_every: int | None = None

    def __post_init__(self):
        if [getattr(self, name) for name in LENGTHS].count(None) != 2:
            raise ValueError("a run ends after so many steps, minutes or epochs: say one of the three")
        for name in ("steps", "batch", "tokens", "shards", "pieces", "eval_every", "eval_tokens", "save_every"):
            if getattr(self, name) is not None:
                self._set(name, _countable(positive(getattr(self, name), name), name))
        for name in ("minutes", "epochs", "clip", "lr", "min_lr", "eps", "momentum", "weight_decay"):
            if getattr(self, name) is not None or name not in LENGTHS:
                self._set(name, _number(getattr(self, name), name))
        for name in ("minutes", "epochs", "clip"):
            number = getattr(self, name)
            if number is not None and not (0 < number < math.inf or name == "clip" and number == math.inf):
                raise ValueError(f"{name} must be a finite number above 0; got {number}")
            if name in LENGTHS and number is not None:
                _countable(number, name)
        for name in ("seed", "warmup"):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, Integral) or number < 0:
                raise ValueError(f"{name} must be a whole number from 0 on; got {short(number)}")
            self._set(name, int(number))
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"an optimizer is one of {', '.join(OPTIMIZERS)}; got {self.optimizer!r}")
        self._set("betas", tuple(_number(beta, "a beta") for beta in self.betas))
        self.rate()

    def _set(self, name: str, value) -> None:
        """A field in Python's own numbers, which JSON can say; NumPy's would leave no checkpoint."""
        object.__setattr__(self, name, value)

    @classmethod
    def of(cls, preset: str | Mapping | None = None, **changes) -> "Settings":
        """The settings of a preset, or of a table of some, with changes.

        Another length than the preset's, or another learning rate, takes along what follows from it and is not said:
        the warm-up is a tenth of the steps, epochs or minutes at most, and the rate falls by the same factor.
        """
        known = [field.name for field in fields(cls)]
        for name in changes:
            if name not in known:
                near = nearest(name, known)
                raise TypeError(f"there is no setting {name!r}" + (f"; {near!r}?" if near else ""))
        if isinstance(preset, str):
            check_name(preset, TRAINING)
        own = dict(preset if isinstance(preset, Mapping) else TRAINING[preset or "char-cpu"])
        if any(changes.get(name) is not None for name in LENGTHS):
            own = {name: value for name, value in own.items() if name not in LENGTHS}
            if changes.get("steps") is None and changes.get("warmup") is None:  # how many steps there will be is not yet known
                own.setdefault("warmup_share", 0.1)
        if changes.get("steps") is not None:
            own["warmup"] = min(own["warmup"], max(0, whole(changes["steps"], "steps")) // 10)
        if changes.get("lr") is not None:
            own["min_lr"] *= _number(changes["lr"], "lr") / own["lr"]
        return cls(**{**own, **changes})

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping) -> "Settings":
        return cls(**values)

    def prolonged(self, **changes) -> "Settings":
        """The same run with another end, or evaluated and saved at other steps: what has been done stays as it is."""
        wrong = set(changes) - set(FREE)
        if wrong:
            raise ValueError(f"{min(wrong)} cannot change on the way, or the run would not be the one it was; "
                             f"{', '.join(FREE)} can")
        own = self.to_dict()
        if any(changes.get(name) is not None for name in LENGTHS):
            own |= dict.fromkeys(LENGTHS)
        return Settings(**{**own, **changes})

    def rate(self) -> Schedule:
        return Schedule(self.lr, self.schedule, self.warmup, self.min_lr, self.warmup_share)

    def make_optimizer(self, model, pool=None) -> Optimizer:
        if self.optimizer == "sgd":
            return SGD(model, momentum=self.momentum, weight_decay=self.weight_decay, pool=pool)
        return AdamW(model, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay, pool=pool)


def _countable(number, name: str):
    if number > MOST:
        raise ValueError(f"{name} must be at most 2**53; got {short(number)}")
    return number


def _number(value, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number; got {short(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is too large for a floating-point number; got {short(value)}") from None


def _paper(lr: float, batch: int, steps: int, **more) -> dict:
    return dict(lr=lr, min_lr=lr / 10, batch=batch, steps=steps, warmup=steps // 100, betas=(0.9, 0.95), **more)


# The papers' batches are those of clusters: on one machine, choose --batch by its memory, and --steps by your patience.
TRAINING = {
    "nano": dict(steps=300, batch=16, lr=1e-2, min_lr=1e-3, warmup=20, eval_every=100),
    "char-cpu": dict(steps=2000, batch=12, lr=1e-3, min_lr=1e-4, warmup=100, betas=(0.9, 0.99), eval_every=250),
    "char": dict(steps=5000, batch=64, lr=1e-3, min_lr=1e-4, warmup=100, betas=(0.9, 0.99), eval_every=250),
    "sort": dict(steps=1500, batch=128, lr=3e-3, min_lr=3e-4, warmup=100, betas=(0.9, 0.99), eval_every=250),
    "add": dict(steps=1500, batch=256, lr=3e-3, min_lr=3e-4, warmup=100, betas=(0.9, 0.99), eval_every=250),
    "classic": dict(steps=10_000, batch=32, lr=3e-4, min_lr=3e-5, warmup=1000, betas=(0.9, 0.98), eval_every=500),
    "gpt1": dict(steps=100_000, batch=64, lr=2.5e-4, min_lr=0.0, warmup=2000, betas=(0.9, 0.999), weight_decay=0.01, eval_every=500),
    **{name: _paper(lr, 512, 600_000, eval_every=1000) for name, lr in (
        ("gpt2", 6e-4), ("gpt2-medium", 3e-4), ("gpt2-large", 2.5e-4), ("gpt2-xl", 2e-4))},
    # GPT-3's table: batches of 0.5 to 3.2 million tokens of 2048 a sequence, 300 billion tokens in all
    **{name: _paper(lr, batch, 300_000_000_000 // (batch * 2048), eval_every=1000) for name, lr, batch in (
        ("gpt3-125m", 6e-4, 256), ("gpt3-350m", 3e-4, 256), ("gpt3-760m", 2.5e-4, 256), ("gpt3-1.3b", 2e-4, 512),
        ("gpt3-2.7b", 1.6e-4, 512), ("gpt3-6.7b", 1.2e-4, 1024), ("gpt3-13b", 1e-4, 1024), ("gpt3-175b", 0.6e-4, 1600))},
}
