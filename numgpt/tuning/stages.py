"""The stages of fine-tuning: of each the model, the data, and how it is trained where nothing is said."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from numgpt.model import GPT
from numgpt.training.data import Data
from numgpt.tuning.classifier import Classifier
from numgpt.tuning.data import ClassifyData
from numgpt.tuning.dpo import DPOModel
from numgpt.tuning.instruct import Instructed, InstructData
from numgpt.tuning.pairs import DPOData, RewardData
from numgpt.tuning.ppo import ActorCritic
from numgpt.tuning.prompts import How, PromptData
from numgpt.tuning.reward import RewardModel
from numgpt.tuning.tuned import Tuned


GPT1 = dict(epochs=3, batch=32, lr=6.25e-5, min_lr=0.0, warmup=10**9, warmup_share=0.002, schedule="linear", betas=(0.9, 0.999),
            weight_decay=0.01, eval_every=100)
# InstructGPT's reward model, and the policy of DPO's paper with AdamW: once through the pairs, and hardly more than a touch.
INSTRUCT_GPT = dict(epochs=1, batch=64, lr=9e-6, min_lr=9e-7, warmup=0, betas=(0.9, 0.95), weight_decay=0.0, eval_every=50)
DPO_PAPER = dict(epochs=1, batch=64, lr=1e-6, min_lr=1e-6, warmup=150, warmup_share=0.1, schedule="constant", betas=(0.9, 0.999),
                 weight_decay=0.0, eval_every=50)
# InstructGPT's policy, whose minibatches are of 64 answers; here a step has as many.
INSTRUCT_PPO = dict(epochs=1, batch=64, lr=9e-6, min_lr=9e-6, warmup=10, warmup_share=0.1, schedule="constant", betas=(0.9, 0.95),
                    weight_decay=0.0, eval_every=10)
SMALL = dict(batch=64, lr=2e-3, min_lr=2e-4, warmup=100, betas=(0.9, 0.99), eval_every=250)  # for models from nothing


@dataclass(frozen=True)
class Drawn:
    """Examples that synthetic.py draws, and a model from nothing that learns from them."""

    name: str
    n: int
    n_held_out: int
    config: dict
    settings: dict  # of the run, and the stage's own options
    distinct: bool = True  # no question twice


@dataclass(frozen=True)
class Stage:
    """One stage.

    command    of numgpt, that runs it
    kind       of its examples
    model      (gpt, data, **options) -> what is trained; options are those that the stage has
    data       (train, kept, template, tokenizer, labels=, bad=) -> what it reads
    options    the names of its model's own options, and their defaults
    reads      the same for its data
    drawn      what is drawn for it where there are no files
    settings   of a run on somebody's examples: what GPT-1's paper found to do for most tasks
    fresh      how those of a run of a model from nothing differ
    room       for how many of the longest example the context of a model from nothing has room
    """

    command: str
    kind: str
    model: Callable[..., Tuned]
    data: Callable[..., Data]
    options: dict
    drawn: Drawn | None = None
    settings: dict = field(default_factory=lambda: GPT1)
    reads: dict = field(default_factory=dict)
    fresh: dict = field(default_factory=dict)
    room: int = 1

    @property
    def own(self) -> tuple[str, ...]:
        """The names of all options that it has beside those of any training."""
        return (*self.options, *self.reads)


def _classifier(gpt: GPT, data: ClassifyData, *, lm_weight: float, rng) -> Classifier:
    return Classifier(gpt, data.template, data.labels, lm_weight=lm_weight, dropout=gpt.config.dropout_resid, rng=rng)


def _classifying(kind: str, **more) -> Stage:
    return Stage("finetune", kind, _classifier, ClassifyData, {"lm_weight": 0.5}, **more)


def _instructed(gpt: GPT, data: InstructData, *, rng) -> Instructed:
    return Instructed(gpt, data.template)


def _reward_model(gpt: GPT, data: RewardData, *, rng) -> RewardModel:
    return RewardModel(gpt, data.template, dropout=gpt.config.dropout_resid, rng=rng)


def _policy(gpt: GPT, data: DPOData, *, rng, **options) -> DPOModel:
    return DPOModel(gpt, data.template, **options)


def _actor(gpt: GPT, data: PromptData, *, rng, clip_ratio: float, value_weight: float) -> ActorCritic:
    return ActorCritic(gpt, data.template, clip=clip_ratio, value_clip=clip_ratio, value_weight=value_weight, rng=rng)


BRACKETS = Drawn("brackets", 20_000, 2000, dict(n_layer=4, n_head=4, n_embd=64, std=0.1), {**SMALL, "steps": 4000, "eval_every": 500})
WORDS = Drawn("instruct", 20_000, 1000, dict(n_layer=4, n_head=4, n_embd=64, std=0.1),
              {**SMALL, "batch": 48, "lr": 4e-3, "min_lr": 4e-4, "steps": 1500, "turns": 0.5}, distinct=False)
SHORTER_REWARD = Drawn("shorter", 4000, 500, WORDS.config, {**SMALL, "lr": 1e-4, "min_lr": 1e-5, "steps": 60, "warmup": 10, "eval_every": 20})
# Of two answers with even chances, to be sure of one takes log 2 = 0.7 nats; at a price of 1 a nat, little more is worth it. Pairs
# that all agree have no best margin; with smoothing it is log(0.98 / 0.02) = 3.9, and the run comes to rest there.
SHORTER_DPO = Drawn("shorter", 4000, 500, WORDS.config, {**SMALL, "lr": 1e-4, "min_lr": 1e-5, "steps": 60, "warmup": 10, "weight_decay": 0.0,
                                                         "eval_every": 10, "beta": 1.0, "smoothing": 0.02, "max_kl": 1.5})
PROMPTS = Drawn("instruct-mixed", 4000, 500, WORDS.config, {**SMALL, "batch": 32, "lr": 1e-4, "min_lr": 1e-5, "steps": 30, "warmup": 3,
                                                            "weight_decay": 0.0, "eval_every": 5, "max_kl": 2.0, "response": 24})

STAGES = {
    "classify": _classifying("classify", drawn=BRACKETS),
    **{kind: _classifying(kind) for kind in ("pairs", "similarity", "choice")},
    "instruct": Stage("finetune", "instruct", _instructed, InstructData, {}, drawn=WORDS, reads={"turns": 0.0},
                      settings={**GPT1, "batch": 8}, fresh={"batch": 16}, room=3),  # of rows, each of several examples
    "reward": Stage("align", "preference", _reward_model, RewardData, {}, drawn=SHORTER_REWARD, settings=INSTRUCT_GPT),
    "dpo": Stage("align", "preference", _policy, DPOData, {"beta": 0.1, "smoothing": 0.0}, drawn=SHORTER_DPO, reads={"max_kl": None},
                 settings=DPO_PAPER),
    "ppo": Stage("align", "prompts", _actor, PromptData, {"clip_ratio": 0.2, "value_weight": 0.5}, drawn=PROMPTS, settings=INSTRUCT_PPO,
                 reads={"reward": None, **asdict(How())}),
}
