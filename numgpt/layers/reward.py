"""What a policy is rewarded with, token by token, and what each token is then worth."""

import numpy as np

from numgpt.layers.inputs import floats, gradient
from numgpt.layers.param import Layer


class KLReward(Layer):
    """Charge each token of a response for leaving the reference model, and pay the score at its last token.

    logp (B, T) -> y (B, T), the rewards
    held constant: reference (B, T), its log-probabilities;  scores (B,), one for each response
    counts (B, T): the response's tokens; the others get 0, and a row that has none gets no score

    Forward   last = counts & (cumsum(counts, 1) == counts.sum(1, keepdims=True))
              -- drawn from the policy, logp - reference is the KL from it to the reference, in the mean
              y = where(counts, -beta * (logp - reference), 0) + where(last, scores[:, None], 0)
    Backward  dlogp = where(counts, -beta * dy, 0)
    Saved     counts
    """

    def __init__(self, beta: float):
        self.beta = not_negative(beta, "beta")

    def forward(self, logp, *, reference, scores, counts):
        logp, counts = of_tokens(logp, counts, "KLReward")
        reference = held(reference, logp, counts, "reference", "KLReward")
        last = counts & (np.cumsum(counts, 1) == counts.sum(1, keepdims=True))
        scores = np.asarray(scores)
        if scores.shape != logp.shape[:1]:
            raise ValueError(f"KLReward wants a score for each of {len(logp)} rows; got an array of shape {scores.shape}")
        scores = held(np.broadcast_to(scores[:, None], logp.shape), logp, last, "scores", "KLReward")
        return -self.beta * (logp - reference) + scores, counts

    def backward(self, dy, saved):
        counts = saved
        return np.where(counts, -self.beta * gradient(dy, counts.shape, "KLReward"), 0)

    def _note(self):
        return f"beta {self.beta}"

    def hints(self, logp):
        return {"B": len(logp), "N": logp.size, "beta": self.beta}


class GAE(Layer):
    """How much better a token did than its value promised: temporal differences, added up with less and less weight.

    rewards, values (B, T) -> y (B, T), the advantages;  y + values are the returns, which values are to foretell
    counts (B, T): the response's tokens; the others get 0

    Forward   v = where(counts, values, 0)
              -- a response has ended where the next token does not count: nothing comes, so its value is 0
              later = concatenate([v[:, 1:], zeros_like(v[:, :1])], 1)
              delta = where(counts, rewards, 0) + counts * (gamma * later - v)
              y = delta.copy()
              for t in reversed(range(y.shape[1] - 1)):
                  y[:, t] += counts[:, t] * gamma * lam * y[:, t + 1]
    Backward  -- the sum ran back from the last token: its transpose runs forwards, from the first
              ddelta = where(counts, dy, 0)
              for t in range(1, ddelta.shape[1]):
                  ddelta[:, t] += counts[:, t] * gamma * lam * ddelta[:, t - 1]
              drewards = ddelta
              -- a value stands in its own delta, and in that of the token before it
              dvalues = -ddelta
              dvalues[:, 1:] += counts[:, 1:] * gamma * ddelta[:, :-1]
    Saved     counts

    lam = 0 leaves the temporal differences delta, lam = 1 the discounted rewards to come minus the values.
    Two stretches of a row with others between them are two responses.
    """

    def __init__(self, gamma: float, lam: float):
        self.gamma, self.lam = share(gamma, "gamma"), share(lam, "lam")

    def forward(self, rewards, values, *, counts):
        rewards, counts = of_tokens(rewards, counts, "GAE")
        values, _ = of_tokens(values, counts, "GAE")
        y = rewards - values
        y[:, :-1] += self.gamma * counts[:, :-1] * values[:, 1:]  # 0 where the next does not count
        fade = self.gamma * self.lam * counts
        for t in reversed(range(y.shape[1] - 1)):
            y[:, t] += fade[:, t] * y[:, t + 1]
        return y, counts

    def backward(self, dy, saved):
        counts = saved
        ddelta = np.where(counts, gradient(dy, counts.shape, "GAE"), 0)
        fade = self.gamma * self.lam * counts
        for t in range(1, ddelta.shape[1]):
            ddelta[:, t] += fade[:, t] * ddelta[:, t - 1]
        dvalues = -ddelta
        dvalues[:, 1:] += self.gamma * counts[:, 1:] * ddelta[:, :-1]
        return ddelta, dvalues

    def _note(self):
        return f"gamma {self.gamma}, lam {self.lam}"

    def hints(self, rewards, values):
        return {"B": len(rewards), "gamma": self.gamma, "lam": self.lam, "gamma * lam": self.gamma * self.lam}


def whitened(advantages, counts):
    """The advantages (B, T) with mean 0 and std 1 over the tokens that count, and 0 at the others.

    For the whole batch at once, before it is split; constants, with no backward. The std divides by the number of tokens.
    Where all are alike, as far as rounding can tell, all are 0: there is no spread to divide by.
    """
    advantages, counts = of_tokens(advantages, counts, "whitened")
    if advantages.dtype.kind == "c":
        raise TypeError("advantages are held constant: give whitened their real parts")
    n = max(int(counts.sum()), 1)
    centred = np.where(counts, advantages - advantages.sum() / n, 0)
    std = np.sqrt((centred ** 2).sum() / n)
    roundings = n ** 0.5 * float(np.finfo(advantages.dtype).eps) * np.abs(advantages).max(initial=0)
    return centred / std if std > roundings else np.zeros_like(centred)


# -- what the layers over tokens accept


def of_tokens(x, counts, layer: str) -> tuple[np.ndarray, np.ndarray]:
    """x (B, T), with 0 in place of whatever stands where a token does not count, and counts as booleans."""
    x, counts = floats(x, layer), np.asarray(counts)
    if x.ndim != 2:
        raise ValueError(f"{layer} wants a number for each token, (B, T); got an array of shape {x.shape}")
    if counts.dtype != bool or counts.shape != x.shape:
        raise ValueError(f"counts says of each token whether it is the response's: booleans of shape {x.shape}; got "
                         f"{counts.dtype} of shape {counts.shape}")
    return np.where(counts, x, 0), counts


def held(constant, x, counts, name: str, layer: str) -> np.ndarray:
    """What is held constant, in the real dtype of x, with 0 where it does not count."""
    constant = floats(constant, f"the {name} of {layer}")
    if constant.shape != x.shape:
        raise ValueError(f"{layer} wants its {name} of shape {x.shape}, one for each token; got {constant.shape}")
    if constant.dtype.kind == "c":
        raise TypeError(f"{name} are held constant by {layer}: give their real parts")
    return np.where(counts, constant, 0).astype(x.real.dtype, copy=False)


def not_negative(n: float, name: str) -> float:
    if not 0 <= n < float("inf"):
        raise ValueError(f"{name} must be a number of at least 0; got {n}")
    return float(n)


def share(n: float, name: str) -> float:
    if not 0 <= n <= 1:
        raise ValueError(f"{name} must be from 0 to 1; got {n}")
    return float(n)
