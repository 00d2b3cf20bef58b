"""What PPO reads: prompts alone. The answers are the policy's, a reward model scores them, and the start model holds it back."""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from numgpt.files import FormatError
from numgpt.flat import Flat
from numgpt.formats import BEST, tokenizer_of
from numgpt.layers.inputs import positive
from numgpt.layers.reward import not_negative, share
from numgpt.threads import one_blas_thread
from numgpt.training.checkpoint import tokenizer_files
from numgpt.tuning import adapters, files
from numgpt.tuning.encoding import Rows
from numgpt.tuning.kl import Answers
from numgpt.tuning.packing import deal
from numgpt.tuning.pairs import REFERENCE, SAMPLED, PolicyData, before_and_after, kept_as
from numgpt.tuning.reward import RewardModel
from numgpt.tuning.rollouts import Answered, Rollout, Worth, answer, log_probs
from numgpt.tuning.tuned import Tuned

REWARD = "reward.safetensors"  # in a run's folder, the model that scores the answers
UNIT, HELD_OUT = 5, 6  # set apart the generators of answers to measure the scores by, and of those of an evaluation
CUT = -2.0  # the score of an answer that did not end: where two standard deviations below the mean would be
ROWS = 64  # answers that go through a model at once, where no gradient is wanted
FREE = 0.5  # the share of the bound on KL up to which scores have their whole weight


@dataclass(frozen=True)
class How:
    """How a policy is rewarded, and how much it answers in a step.

    kl_weight   beta of KLReward: the price of a nat, in standard deviations of the scores. It rises near max_kl, see PromptData.leash
    max_kl      nats for each answer; above, a run ends
    response    tokens that an answer may have; None: as many as there is room for behind the longest prompt
    rollout     prompts in a step, each of which is answered once
    ppo_epochs  how often a step goes through its answers
    gamma, lam  of the advantages
    """

    kl_weight: float = 0.2
    max_kl: float = 10.0
    response: int | None = None
    rollout: int = 64
    ppo_epochs: int = 4
    gamma: float = 1.0
    lam: float = 0.95

    def __post_init__(self):
        not_negative(self.kl_weight, "kl_weight")
        share(self.gamma, "gamma")
        share(self.lam, "lam")
        if not 0 < self.max_kl < math.inf:
            raise ValueError(f"max_kl, the nats of KL that an answer may have, must be above 0 and finite; got {self.max_kl}")
        for name in ("rollout", "ppo_epochs", *(["response"] if self.response is not None else [])):
            positive(getattr(self, name), name)


class PromptData(PolicyData):
    """Prompts, a score for answers to them, and the reference that the policy began as.

    reward      a file or a run's folder of the reward model, or a RewardModel, of which it keeps a copy, or any callable:
                Answered -> scores (B,)
    how         see How

    Scores are taken less their mean over the reference's answers, and in their standard deviations: what a model of
    preferences says is known up to a constant, and a price in nats wants a unit. An answer without <end> scores CUT.
    """

    forms = (("reward", "reward {:.3f}"), ("unended", "{:.1%} of answers without end"), ("kl", "KL {:.3f} nats an answer"),
             ("right", "{:.1%} right"), ("short", "{:.1%} short"))
    dropout = False  # answers are drawn without, and their log-probabilities are to be the same in the first minibatch

    def __init__(self, *parts, reward: str | Path | Callable | None = None, labels=None, bad=None, **how):
        super().__init__(*parts, labels=labels, bad=bad)
        self.how, self.reward = How(**how), reward
        self.reference = self.score = self.begun = None
        self.end = self.template.special["end"]
        self.notes = {}

    # -- the two models beside the policy

    def begins_with(self, model, *, taught: bool = False) -> None:
        self.reference, self.begun = Tuned(adapters.plain(model), self.template), None if taught else model
        self._scored_by(self.reward)

    def restore(self, folder) -> None:
        self.reference = kept_as(folder / REFERENCE, Tuned, self.template)
        self._scored_by(folder / REWARD)

    def models(self) -> dict[str, Flat]:
        return {REFERENCE: self.reference} | ({REWARD: self.score} if isinstance(self.score, Flat) else {})

    def _scored_by(self, reward) -> None:
        if reward is None:
            raise ValueError("PPO wants a score for answers: name a reward model's run, such as numgpt align MODEL --by reward makes")
        self.score = reward if callable(reward) and not isinstance(reward, Flat) else self._reward_model(reward)

    def _reward_model(self, reward):
        path = None if isinstance(reward, Flat) else Path(reward)
        if path is not None:
            reward = files.load(path / BEST if path.is_dir() else path)
        if not isinstance(reward, RewardModel):
            raise FormatError(f"{self.reward} is no reward model: numgpt align MODEL --by reward makes one")
        tokenizer = path and tokenizer_of(path)  # of one in memory it is not known
        if tokenizer and tokenizer_files(tokenizer) != tokenizer_files(self.tokenizer):
            raise FormatError(f"{path} has another tokenizer than the policy, and would take an answer's tokens for others: make the "
                              "reward model from the same MODEL, with numgpt align MODEL --by reward")
        own, theirs = self.template, reward.template
        if own.special != theirs.special:
            raise FormatError(f"the reward model has the special tokens {theirs.special}, the policy {own.special}: "
                              "it was made from another model")
        return adapters.plain(reward)  # as it will be in the run's folder

    def prepare(self, settings, n_ctx: int) -> None:
        if settings.tokens is not None:
            raise ValueError("an answer has as many tokens as it has: --response says how many it may have")
        longest = max(begin for rows in (self.train, self.kept) for begin, in rows.begins)
        self.n_tokens = max(1, n_ctx - longest) if self.how.response is None else self.how.response
        self.B, self.T, self.seed = settings.batch, longest + self.n_tokens, settings.seed
        if self.T > n_ctx:
            raise ValueError(f"a prompt of {longest} tokens and an answer of {self.n_tokens} do not fit into a context of {n_ctx}: "
                             + (f"say --response {n_ctx - longest} or less" if longest < n_ctx else "shorten the prompt"))
        if self.B > self.how.rollout:
            raise ValueError(f"of the {self.how.rollout} answers of a step (--rollout), {self.B} are to move the policy at once (--batch): "
                             f"say --batch {self.how.rollout} or less")
        self.dealt = deal(len(self.train), self.how.rollout, seed=settings.seed)
        if isinstance(self.score, Flat) and self.T > self.score.config.n_ctx:
            raise ValueError(f"a prompt with its answer, {self.T} tokens, does not fit into the reward model's context of "
                             f"{self.score.config.n_ctx}")
        with one_blas_thread():
            self.mean, self.std = 0.0, 1.0
            raw = self._raw(self.answered(self.reference, self.train, (self.seed, UNIT)))
        self.mean, spread = float(raw.mean()), float(raw.std())
        self.std = spread if spread > 1e-6 * max(1.0, np.abs(raw).max()) else 1.0
        if self.begun is not None and isinstance(self.score, RewardModel) and self.score.config == self.begun.config:
            self.begun.task.begins_as(self.score, self.mean, self.std)

    @property
    def n_updates(self) -> int:
        return self.how.ppo_epochs * -(-self.how.rollout // self.B)

    @property
    def steps_per_epoch(self) -> float:
        return len(self.train) / self.how.rollout

    # -- a step

    def updates(self, trainer) -> Iterator[tuple[np.ndarray, ...]]:
        """Answers to the step's prompts, and minibatches of them until each has been seen ppo_epochs times."""
        step, model = trainer.n_done, trainer.model
        with one_blas_thread():
            rollout, kl = self.play(model, step)
        yield from rollout.minibatches(self.B, self.how.ppo_epochs, (self.seed, step))
        counts = rollout.answers.counts
        with one_blas_thread():
            logp, _ = _by_rows(model.judge, rollout.answers)
        moved = np.abs(np.expm1(np.where(counts, logp - rollout.old, 0)))[counts]
        off = (rollout.returns - rollout.values)[counts]
        self.notes = {"step_reward": float(rollout.scores.mean()), "step_kl": kl, "leash": self.leash(kl),
                      "clipped": float((moved > model.policy.eps).mean()),
                      "explained": float(1 - off.var() / max(float(rollout.returns[counts].var()), 1e-12))}

    def play(self, model, step: int) -> tuple[Rollout, float]:
        """One answer to each of a step's prompts, by the policy as it is; and their KL, which says how they are rewarded."""
        answers = answer(model, self._prompts(self.train, self.dealt(step)), self.n_tokens, self.end, (self.seed, step))
        kl = float(self._kl(model, answers).mean())
        rollout = Rollout.of(answers, self.scores(answers), lambda *_: _by_rows(model.judge, answers),
                             lambda *_: _by_rows(lambda *rows: (log_probs(self.reference, *rows),), answers)[0],
                             Worth(self.how.kl_weight, self.how.gamma, self.how.lam, self.leash(kl)))
        return rollout, kl

    def scores(self, answers: Answered) -> np.ndarray:
        """(B,), in the unit that the reference's answers gave."""
        return np.where(answers.ended, (self._raw(answers) - self.mean) / self.std, CUT)

    def _raw(self, answers: Answered) -> np.ndarray:
        if not isinstance(self.score, Flat):
            return np.asarray(self.score(answers), np.float64)
        found = [self.score.score(answers.ids[rows], answers.last[rows]) for rows in _rows(answers)]
        return np.concatenate(found).astype(np.float64)

    def leash(self, kl: float) -> float:
        """How far rewards are of the KL alone, see Worth, in a step whose answers have a KL of so many nats each.

        InstructGPT's price of a nat is fixed, and so is this one up to half of the bound. From there a nat costs ever more
        of the score, and at the bound the score has no say: the policy goes back towards the reference.
        """
        return min(max((kl / self.max_kl - FREE) / (1 - FREE), 0.0), 1.0)

    # -- what is held out

    def answered(self, model, rows: Rows, key: tuple[int, ...]) -> Answered:
        """A model's answers to prompts spread over these rows."""
        n = min(SAMPLED, len(rows))
        return answer(model, self._prompts(rows, np.arange(n) * len(rows) // n), self.n_tokens, self.end, key)

    def measure(self, trainer) -> dict[str, float]:
        """Of answers to prompts held out: the reward, the KL from the policy to the reference, and what they are like."""
        answers = self.answered(trainer.model, self.kept, (self.seed, HELD_OUT))
        scores = self.scores(answers)
        kl = self._kl(trainer.model, answers)
        n = sum(map(len, answers.responses))
        metrics = {"reward": float(scores.mean()), "kl": float(kl.mean()), "kl_error": float(kl.std() / math.sqrt(len(kl))),
                   "kl_per_token": float(kl.sum() / n), "answer_tokens": n / len(answers), "ended": float(answers.ended.mean()),
                   "entropy": float(-np.concatenate(answers.logp).mean())}
        if not answers.ended.all():  # what a reward near CUT comes from
            metrics["unended"] = 1 - metrics["ended"]
        return metrics | self.judgement(answers)

    def _kl(self, model, answers: Answered) -> np.ndarray:
        """(B,): of each answer, from its policy to the reference; see Answers.divergence for what it estimates and how."""
        return Answers(answers.prompts, answers.responses).divergence(model, self.reference, batch=ROWS)

    def texts(self, answers: Answered) -> list[tuple[str, str]]:
        """Each prompt and what was answered."""
        text = self.template.text
        return [(text(prompt, self.tokenizer), text(ids, self.tokenizer)) for prompt, ids in zip(answers.prompts, answers.responses)]

    @property
    def max_kl(self) -> float:
        return self.how.max_kl

    def judged(self, metrics) -> float:
        return -metrics["reward"] if self.within(metrics) else math.inf

    def best_said(self, best: float) -> str:
        return f"highest reward on what is held out, KL within {self.max_kl:g}, {-best:.3f}"

    def shown(self, trainer) -> str:
        return before_and_after(self, trainer, lambda model: self.texts(self.answered(model, self.kept, (self.seed, HELD_OUT))))

    # -- the rest of a trainer's data

    def batch(self, step: int) -> tuple[np.ndarray, ...]:
        """The prompts of a step, as if they had been answers: something to run a model on that is looked through for a fault."""
        ids, _, _, _ = self.train.at(self.dealt(step))
        return ids, ids, *np.zeros((4, *ids.shape))

    def fingerprint(self) -> str:
        digest = hashlib.sha256(super().fingerprint().encode())
        for model in self.models().values():  # plain ones, whose values are in the order of their files
            digest.update(model.values.tobytes())
        return digest.hexdigest()

    def _prompts(self, rows: Rows, which: np.ndarray) -> list[np.ndarray]:
        return [rows.ids[i][0][:rows.begins[i][0]] for i in np.asarray(which).tolist()]


def _rows(answers: Answered) -> Iterator[slice]:
    return (slice(start, start + ROWS) for start in range(0, len(answers), ROWS))


def _by_rows(function: Callable, answers: Answered) -> tuple[np.ndarray, ...]:
    """What function (ids, targets) -> arrays says, a piece of the rows at a time."""
    found = [function(answers.ids[rows], answers.targets[rows]) for rows in _rows(answers)]
    return tuple(np.concatenate(arrays) for arrays in zip(*found))
