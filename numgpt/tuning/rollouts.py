"""What PPO learns from: answers that the policy drew, what they were paid, and what each of their tokens was worth."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from numgpt.layers import GAE, HeadLogProbs, KLReward, whitened
from numgpt.layers.inputs import IGNORE
from numgpt.sample import generate
from numgpt.tuning.encoding import Rows

END = 4  # sets the generators of answers apart from others


@dataclass(frozen=True)
class Answered:
    """What a policy answered to each of some prompts.

    prompts, responses   ids of each; a response ends with the id end, or was cut where it was as long as it may be
    logp                 of each response's tokens, as the decoder found them
    ids, targets (B, T)  prompt and response side by side, and the tokens to come, -100 but for those of the response
    last (B,)            where each ends
    """

    prompts: list[np.ndarray]
    responses: list[np.ndarray]
    logp: list[np.ndarray]
    end: int
    ids: np.ndarray
    targets: np.ndarray
    last: np.ndarray

    @classmethod
    def of(cls, prompts: Sequence, responses: Sequence, logp: Sequence, end: int) -> "Answered":
        sequences = [(np.concatenate(pair),) for pair in zip(prompts, responses, strict=True)]
        rows = Rows("instruct", sequences, [(len(prompt),) for prompt in prompts], None, [])
        ids, last, targets, _ = rows.at(range(len(sequences)))
        return cls([*map(np.asarray, prompts)], [*responses], [*logp], end, ids, targets, last)

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def counts(self) -> np.ndarray:
        """(B, T): where a target is a token of a response."""
        return self.targets != IGNORE

    @property
    def ended(self) -> np.ndarray:
        """(B,): whether the policy ended the response itself."""
        return np.array([len(response) > 0 and response[-1] == self.end for response in self.responses])


def answer(model, prompts: Sequence[np.ndarray], n_tokens: int, end: int, key: tuple[int, ...]) -> Answered:
    """Draw a response to each prompt, of n_tokens at most, from all of the model's tokens as likely as it finds them.

    key: whole numbers on which they depend, beside the model and the prompts
    """
    seed = int(np.random.SeedSequence((*key, END)).generate_state(1, np.uint64)[0])
    responses, logp = generate(model, prompts, n_tokens, stop=[end], seed=seed, logprobs=True)
    return Answered.of(prompts, responses, logp, end)


def log_probs(model, ids, targets) -> np.ndarray:
    """ids, targets (B, T) -> (B, T): what any GPT says of each target, 0 where it is -100."""
    return HeadLogProbs(model.head)(model.body(ids), targets)


@dataclass(frozen=True)
class Worth:
    """What tokens are worth: how answers are paid, and how the pay is shared out among their tokens.

    beta        of the KL's part in the reward
    gamma, lam  of the advantages
    leash       from 0 to 1: how far rewards are of the KL alone

    Of an answer, d being its log-ratio to the reference, they are (1 - leash) * (score - beta * d) - leash * d in all.
    """

    beta: float
    gamma: float = 1.0
    lam: float = 0.95
    leash: float = 0.0

    @property
    def share(self) -> float:
        """What a score weighs."""
        return 1 - self.leash

    @property
    def price(self) -> float:
        """What a nat costs."""
        return self.share * self.beta + self.leash


@dataclass(frozen=True)
class Rollout:
    """Answers of the policy as it is before an update, and what the update holds constant; all (B, T) but scores (B,).

        old, values = judge(ids, targets)
        -- KLReward(price)
        rewards = kl_reward(old, reference=reference, scores=share * scores, counts=counts)
        gained = gae(rewards, values, counts=counts)
        -- the values shall foretell what was gained in truth: returns are not whitened
        returns = gained + values
        advantages = whitened(gained, counts)
    """

    answers: Answered
    scores: np.ndarray
    old: np.ndarray
    reference: np.ndarray
    values: np.ndarray
    returns: np.ndarray
    advantages: np.ndarray

    @classmethod
    def of(cls, answers: Answered, scores, judge: Callable, reference: Callable, worth: Worth) -> "Rollout":
        """judge: the policy's, (ids, targets) -> log-probabilities, values; reference: (ids, targets) -> log-probabilities"""
        ids, targets, counts = answers.ids, answers.targets, answers.counts
        old, values = judge(ids, targets)
        far = reference(ids, targets)
        rewards = KLReward(worth.price)(old, reference=far, scores=worth.share * scores, counts=counts)
        gained = GAE(worth.gamma, worth.lam)(rewards, values, counts=counts)
        returns = gained + np.where(counts, values, 0)
        return cls(answers, np.asarray(scores), old, far, values, returns, whitened(gained, counts))

    def batch(self, rows) -> tuple[np.ndarray, ...]:
        """What ActorCritic.forward takes, of those rows; cut on the right where all of them have ended."""
        T = int(self.answers.last[rows].max()) + 1
        arrays = (self.answers.ids, self.answers.targets, self.old, self.advantages, self.values, self.returns)
        return tuple(array[rows, :T] for array in arrays)

    def minibatches(self, size: int, epochs: int, key: tuple[int, ...]) -> Iterator[tuple[np.ndarray, ...]]:
        """Each answer once an epoch, in an order that the key says."""
        for epoch in range(epochs):
            order = np.random.default_rng((*key, epoch, END)).permutation(len(self.answers))
            for start in range(0, len(order), size):
                yield self.batch(order[start:start + size])
