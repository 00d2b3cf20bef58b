"""The stages of fine-tuning: of each the model, the data, and how it is trained where nothing is said."""

from collections.abc import Callable
from dataclasses import dataclass, field

from numgpt.model import GPT
from numgpt.training.data import Data
from numgpt.tuning.classifier import Classifier
from numgpt.tuning.data import ClassifyData
from numgpt.tuning.tuned import Tuned


GPT1 = dict(epochs=3, batch=32, lr=6.25e-5, min_lr=0.0, warmup=10**9, warmup_share=0.002, schedule="linear", betas=(0.9, 0.999),
            weight_decay=0.01, eval_every=100)
SMALL = dict(batch=64, lr=2e-3, min_lr=2e-4, warmup=100, betas=(0.9, 0.99), eval_every=250)  # for models from nothing


@dataclass(frozen=True)
class Drawn:
    """Examples that synthetic.py draws, and a model from nothing that learns from them."""

    name: str
    n: int
    n_held_out: int
    config: dict
    settings: dict


@dataclass(frozen=True)
class Stage:
    """One stage.

    command    of numgpt, that runs it
    kind       of its examples
    model      (gpt, data, **options) -> what is trained; options are those that the stage has
    data       (train, kept, template, tokenizer, labels=, bad=) -> what it reads
    options    the names of its own options, and their defaults
    drawn      what is drawn for it where there are no files
    settings   of a run on somebody's examples: what GPT-1's paper found to do for most tasks
    """

    command: str
    kind: str
    model: Callable[..., Tuned]
    data: Callable[..., Data]
    options: dict
    drawn: Drawn | None = None
    settings: dict = field(default_factory=lambda: GPT1)


def _classifier(gpt: GPT, data: ClassifyData, *, lm_weight: float, rng) -> Classifier:
    return Classifier(gpt, data.template, data.labels, lm_weight=lm_weight, dropout=gpt.config.dropout_resid, rng=rng)


def _classifying(kind: str, **more) -> Stage:
    return Stage("finetune", kind, _classifier, ClassifyData, {"lm_weight": 0.5}, **more)


BRACKETS = Drawn("brackets", 20_000, 2000, dict(n_layer=4, n_head=4, n_embd=64, std=0.1), {**SMALL, "steps": 2500})

STAGES = {
    "classify": _classifying("classify", drawn=BRACKETS),
    **{kind: _classifying(kind) for kind in ("pairs", "similarity", "choice")},
}
