"""PPO's losses as InstructGPT has them: of the policy, of the values, and of the distance to a reference.

Each is a mean over the response's tokens, counts (B, T); count is their number in the whole batch, where a caller splits it.
"""

import math

import numpy as np

from numgpt.layers.inputs import divisor, number
from numgpt.layers.param import Layer
from numgpt.layers.reward import held, not_negative, of_tokens


class ClippedPolicy(Layer):
    """Make tokens of positive advantage more likely and others less, but no further than clip from where they were drawn.

    logp (B, T) -> loss, a number
    held constant: old (B, T), logp as it was when the tokens were drawn;  advantages (B, T)
    counts (B, T): the response's tokens;  count: how many they are in the whole batch

    Forward   rho = exp(where(counts, logp - old, 0))
              a = where(counts, advantages, 0)
              loss = -minimum(rho * a, clip(rho, 1 - eps, 1 + eps) * a).sum() / count
    Backward  -- minimum takes the clipped one, which is constant, where the step has gone far enough already:
              -- a good token likelier by more than eps, or a bad one less likely by more than eps
              cut = (a > 0) & (rho > 1 + eps) | (a < 0) & (rho < 1 - eps)
              -- a good token that has become less likely, or a bad one likelier, went the wrong way: there rho * a is
              -- the smaller, and its gradient leads back. drho = rho * dlogp, and old is a constant
              dlogp = -dloss * where(cut, 0, rho * a) / count
    Saved     rho * a where it is not cut, else 0;  count

    In the first step after drawing rho is 1, and the gradient is -advantages / count.
    """

    def __init__(self, clip: float):
        self.eps = clip_range(clip)

    def forward(self, logp, *, old, advantages, counts, count: int | None = None):
        logp, counts = of_tokens(logp, counts, "ClippedPolicy")
        old, a = (held(x, logp, counts, name, "ClippedPolicy") for x, name in ((old, "old"), (advantages, "advantages")))
        count = tokens(counts, count)
        with np.errstate(over="ignore"):
            rho = np.exp(logp - old)
        ratio, low, high = rho.real, 1 - self.eps, 1 + self.eps
        cut = (a >= 0) & (ratio > high) | (a <= 0) & (ratio < low)  # at a = 0 both are 0, but for an infinite rho
        kept = np.where(cut, 0, rho) * a
        loss = -(kept + np.where(cut, np.clip(ratio, low, high) * a, 0)).sum() / count
        return loss, (kept, count)

    def backward(self, dloss, saved):
        kept, count = saved
        return kept * (-number(dloss) / count)

    def _note(self):
        return f"clip {self.eps}"

    def hints(self, logp):
        return {"B": len(logp), "T": logp.shape[1], "N": logp.size}


class ClippedValue(Layer):
    """Half the squared distance of the values from the returns, or that of values held within clip of the old, if larger.

    values (B, T) -> loss, a number
    held constant: old (B, T), the values as they were when the tokens were drawn;  returns (B, T)
    counts (B, T): the response's tokens;  count: how many they are in the whole batch

    Forward   v = where(counts, values, old)
              near = old + clip(v - old, -eps, eps)
              both = maximum((v - returns) ** 2, (near - returns) ** 2)
              loss = where(counts, both, 0).sum() / (2 * count)
    Backward  -- a value beyond clip is held there, a constant; so it gets no gradient if it is nearer to the return
              -- than the held one: it has come far enough. One that went the wrong way is the farther, and is led back
              cut = (abs(v - old) > eps) & (abs(near - returns) > abs(v - returns))
              dvalues = dloss * where(counts & ~cut, v - returns, 0) / count
    Saved     values - returns where it is not cut, else 0;  count

    With clip None the loss is half the mean of the squares.
    """

    def __init__(self, clip: float | None):
        self.eps = math.inf if clip is None else not_negative(clip, "clip")

    def forward(self, values, *, old, returns, counts, count: int | None = None):
        values, counts = of_tokens(values, counts, "ClippedValue")
        old, returns = (held(x, values, counts, name, "ClippedValue") for x, name in ((old, "old"), (returns, "returns")))
        count = tokens(counts, count)
        moved = values.real - old
        held_off = old + np.clip(moved, -self.eps, self.eps) - returns
        off = values - returns
        cut = (np.abs(moved) > self.eps) & (np.abs(held_off) > np.abs(off.real))
        kept = np.where(cut, 0, off)
        loss = (kept ** 2 + np.where(cut, held_off, 0) ** 2).sum() / (2 * count)
        return loss, (kept, count)

    def backward(self, dloss, saved):
        kept, count = saved
        return kept * (number(dloss) / count)

    def _note(self):
        return f"clip {self.eps}" if self.eps < math.inf else None

    def hints(self, values):
        return {"B": len(values), "T": values.shape[1], "N": values.size}


class TokenKL(Layer):
    """Half the squared log-ratio to a reference: a loss whose gradient is that of the KL from the policy to it.

    logp (B, T) -> loss, a number;  held constant: reference (B, T), its log-probabilities
    counts (B, T): the response's tokens;  count: how many they are in the whole batch

    Forward   d = where(counts, logp - reference, 0)
              loss = (d ** 2).sum() / (2 * count)
    Backward  -- KL = sum(p * log(p / ref)) and dKL = sum(dp * log(p / ref)), for sum(dp) is 0; and as dp = p * dlogp,
              -- the mean of d * dlogp over tokens drawn from the policy is the gradient of their KL
              dlogp = dloss * d / count
    Saved     d, count

    The mean of d itself is the KL too, but its gradient is not the KL's: the mean of dlogp over tokens drawn from p is
    sum(dp) = 0. So d belongs into a reward, as KLReward has it, and its square into a loss. The value of this loss is the
    KL only while the two are near; estimated_kl says it at any distance.
    """

    def forward(self, logp, *, reference, counts, count: int | None = None):
        logp, counts = of_tokens(logp, counts, "TokenKL")
        d = logp - held(reference, logp, counts, "reference", "TokenKL")
        count = tokens(counts, count)
        return (d * d).sum() / (2 * count), (d, count)

    def backward(self, dloss, saved):
        d, count = saved
        return d * (number(dloss) / count)

    def _note(self):
        return None

    def hints(self, logp):
        return {"B": len(logp), "T": logp.shape[1], "N": logp.size}


def estimated_kl(logp, reference, counts, *, count: int | None = None):
    """The KL from the policy to the reference, a token, from tokens drawn from the policy: the mean of exp(-d) - 1 + d.

    d = logp - reference has the same mean, for that of exp(-d) is 1: sum(p * ref / p). But this is never negative, and
    strays less while the two are near. It is a number to be told; as a loss its gradient would be that of the KL from the
    reference to the policy.
    """
    logp, counts = of_tokens(logp, counts, "estimated_kl")
    d = logp - held(reference, logp, counts, "reference", "estimated_kl")
    return (np.expm1(-d) + d).sum() / tokens(counts, count)


def tokens(counts, count: int | None) -> int:
    """What the mean divides by: the response's tokens in the whole batch, never 0."""
    return divisor(int(counts.sum()), count, "tokens that count")


def clip_range(clip: float) -> float:
    if not 0 < clip < 1:
        raise ValueError(f"clip says how far a ratio may be from 1, and is between 0 and 1, such as 0.2; got {clip}")
    return float(clip)
