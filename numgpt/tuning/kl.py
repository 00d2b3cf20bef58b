"""How far a policy has gone from the model that it began as: their KL divergence over whole answers, by sampling."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from numgpt.layers.ops import log_softmax
from numgpt.sample import generate

CHUNK = 256  # positions whose scores exist at once


@dataclass(frozen=True)
class Answers:
    """What a policy answers: to each prompt the ids up to <end>, which is one of them, or as many as there may be."""

    prompts: list[np.ndarray]
    ids: list[np.ndarray]

    @classmethod
    def drawn(cls, policy, prompts: Sequence[np.ndarray], n_tokens: int, *, end: int, seed: int) -> "Answers":
        """At temperature 1 and of all tokens: as the policy's own probabilities say, or the divergence were another's."""
        n_ctx, ids = policy.config.n_ctx, [np.zeros(0, np.int64)] * len(prompts)
        for room in sorted({min(n_tokens, n_ctx - len(prompt)) for prompt in prompts}):  # none outgrows the context
            which = [i for i, prompt in enumerate(prompts) if min(n_tokens, n_ctx - len(prompt)) == room]
            if room > 0:
                for i, answer in zip(which, generate(policy, [prompts[i] for i in which], room, stop=[end], seed=seed)):
                    ids[i] = answer
        return cls(list(prompts), ids)

    @property
    def n_tokens(self) -> int:
        return sum(map(len, self.ids))

    def divergence(self, policy, reference, *, batch: int = 32) -> np.ndarray:
        """(n,) nats: an estimate of KL(policy || reference) over answers to each prompt.

        By the chain rule it is the mean, over answers that the policy draws, of the sum over their tokens of the KL between
        the two distributions of each token after what came before it. These are known in full, and are not sampled: so it
        is right on average as log(policy / reference) of the answer would be, never below 0, and varies less.
        """
        totals = np.zeros(len(self.ids))
        for start in range(0, len(self.ids), batch):
            rows = range(start, min(start + batch, len(self.ids)))
            ids, places = self._padded(rows)
            x, theirs = (model.body(ids)[places] for model in (policy, reference))
            for part in range(0, len(x), CHUNK):
                cut = slice(part, part + CHUNK)
                logp, logq = (log_softmax(model.head.logits(h[cut]).astype(np.float64))
                              for model, h in ((policy, x), (reference, theirs)))
                np.add.at(totals, start + places[0][cut], (np.exp(logp) * (logp - logq)).sum(-1))
        return totals

    def _padded(self, rows: range) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """ids of prompts with answers (B, T), and the places from which the answers' tokens were drawn."""
        texts = [np.concatenate([self.prompts[i], self.ids[i]]).astype(np.int64) for i in rows]
        ids = np.zeros((len(texts), max(map(len, texts))), np.int64)
        drawn = np.zeros(ids.shape, bool)
        for row, (i, text) in enumerate(zip(rows, texts)):
            ids[row, :len(text)] = text
            drawn[row, len(self.prompts[i]) - 1:len(text) - 1] = True
        return ids, np.nonzero(drawn)
