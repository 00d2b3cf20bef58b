"""PPO's rewards, advantages and losses, and LoRA, once more in a framework's own operators; see tuning_twins.py."""

import numpy as np

from numgpt import layers as L


def filled(f, counts, like, *constants):
    """What is held constant, with 0 where it does not count: a framework would take a nan times 0 for a nan."""
    return [f.constant(np.where(counts, constant, 0), like) for constant in constants]


def mean(f, counts, terms, count):
    return (terms * f.constant(counts.astype(float), terms)).sum() / (max(1, counts.sum().item()) if count is None else count)


def kl_reward(f, p, layer, logp, reference, scores, counts):
    [reference] = filled(f, counts, logp, reference)
    paid = np.zeros(counts.shape)
    for row, places in enumerate(map(np.flatnonzero, counts)):
        if len(places):
            paid[row, places[-1]] = scores[row]
    return -layer.beta * (logp - reference) * f.constant(counts.astype(float), logp) + f.constant(paid, logp)


def gae(f, p, layer, rewards, values, counts):
    """As the sum over all later tokens of the same stretch: a matrix for each row of the batch."""
    B, T = counts.shape
    later, fades = np.zeros((B, T, T)), np.zeros((B, T, T))
    for b in range(B):
        for t in range(T):
            for s in range(t, T):
                fades[b, t, s] = counts[b, t:s + 1].all() * (layer.gamma * layer.lam) ** (s - t)
            if t + 1 < T:
                later[b, t, t + 1] = layer.gamma * (counts[b, t] and counts[b, t + 1])
    deltas = rewards + (f.constant(later, values) @ values[..., None])[..., 0] - values
    return (f.constant(fades, deltas) @ deltas[..., None])[..., 0]


def clipped_policy(f, p, layer, logp, old, advantages, counts, count=None):
    old, advantages = filled(f, counts, logp, old, advantages)
    rho = f.exp((logp - old) * f.constant(counts.astype(float), logp))
    return -mean(f, counts, f.minimum(rho * advantages, f.clip(rho, 1 - layer.eps, 1 + layer.eps) * advantages), count)


def clipped_value(f, p, layer, values, old, returns, counts, count=None):
    old, returns = filled(f, counts, values, old, returns)
    near = old + f.clip(values - old, -layer.eps, layer.eps)
    return mean(f, counts, f.maximum((values - returns) ** 2, (near - returns) ** 2), count) / 2


def token_kl(f, p, layer, logp, reference, counts, count=None):
    [reference] = filled(f, counts, logp, reference)
    return mean(f, counts, (logp - reference) ** 2, count) / 2


def lora(f, p, layer, x):
    update = layer.scale * p[layer.lora_a] @ p[layer.lora_b]
    return f.linear(x, p[layer.weight] + update, p[layer.bias])


TWINS = {L.KLReward: kl_reward, L.GAE: gae, L.ClippedPolicy: clipped_policy, L.ClippedValue: clipped_value, L.TokenKL: token_kl,
         L.LoRA: lora}
