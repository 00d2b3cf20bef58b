"""The mistakes people make in PPO: in what tokens are worth, in what is clipped, in the KL.

Where forward and backward are wrong together, the gradient is right, for another function, and no gradient check can see
it: its story says so, and the values beside those of a loop over the tokens show it.
"""

from numgpt.verify.mutants.catalogue import add, other

POLICY, VALUE = "layers.policy.ClippedPolicy", "layers.policy.ClippedValue"
KL, REWARD, GAE = "layers.policy.TokenKL", "layers.reward.KLReward", "layers.reward.GAE"
SAVED = "return loss, (kept, count)"

# -- the policy

CUT = "cut = (a >= 0) & (ratio > high) | (a <= 0) & (ratio < low)"
add("ppo-clip-side", POLICY + ".forward", SAVED, "return loss, (np.where(ratio > high, 0, rho) * a, count)",
    "cut above for negative advantages too, which are clipped below", "clipped-policy",
    breaks="(a < 0) & (rho < 1 - eps)")
other("ppo-clip-side", "the loss too: the gradient is right, for another function",
      (POLICY + ".forward", CUT, "cut = ratio > high"))
add("ppo-cut-always", POLICY + ".forward", SAVED,
    "return loss, (np.where((ratio > high) | (ratio < low), 0, rho) * a, count)",
    "cut wherever the ratio is clipped, though the minimum may have taken the other", "clipped-policy",
    breaks="cut = (a > 0) & (rho > 1 + eps) | (a < 0) & (rho < 1 - eps)")
other("ppo-cut-always", "no minimum in the loss either: the gradient is right, for another function",
      (POLICY + ".forward", CUT, "cut = (ratio > high) | (ratio < low)"))
add("ppo-cut-never", POLICY + ".forward", SAVED, "return loss, (rho * a, count)",
    "the gradient of the ratio where it is clipped", "clipped-policy", "clipped-policy-count",
    breaks="dlogp = -dloss * where(cut, 0, rho * a) / count")
add("ppo-max", POLICY + ".forward", CUT, "cut = (a >= 0) & (ratio < low) | (a <= 0) & (ratio > high)",
    "the larger of the two where the smaller belongs: the gradient is right, for another function",
    breaks="loss = -minimum(")
add("ppo-no-exp", POLICY + ".forward", "rho = np.exp(logp - old)", "rho = logp - old",
    "the log-ratio for the ratio", "clipped-policy", breaks="rho = exp(where(counts, logp - old, 0))")
add("ppo-no-rho", POLICY + ".forward", SAVED, "return loss, (np.where(cut, 0, a), count)",
    "the ratio left out of the gradient, as if it were 1", "clipped-policy",
    breaks="drho = rho * dlogp, and old is a constant")
add("ppo-old-moves", POLICY + ".forward", SAVED, "return loss, (0 * kept, count)",
    "the old log-probabilities are not held constant: they move as logp does, and nothing is left", "clipped-policy",
    breaks="drho = rho * dlogp, and old is a constant")
add("ppo-count", POLICY + ".forward", SAVED, "return loss, (kept, counts.size)",
    "mean over all tokens although the prompt's do not count", "clipped-policy",
    breaks="dlogp = -dloss * where(cut, 0, rho * a) / count")
OF_ROWS = "np.maximum(counts.sum(1, keepdims=True), 1) * max(int(counts.any(1).sum()), 1)"  # the mean of the rows' means
add("ppo-mean-of-rows", POLICY + ".forward", SAVED, f"return loss, (kept, {OF_ROWS})",
    "mean over the responses of each one's own mean, in place of the mean over the tokens", "clipped-policy",
    breaks="dlogp = -dloss * where(cut, 0, rho * a) / count")
other("ppo-mean-of-rows", "the loss too: the gradient is right, for another function",
      (POLICY + ".forward", "count = tokens(counts, count)", f"count = {OF_ROWS}"),
      (POLICY + ".forward", "loss = -(kept + np.where(cut, np.clip(ratio, low, high) * a, 0)).sum() / count",
       "loss = -((kept + np.where(cut, np.clip(ratio, low, high) * a, 0)) / count).sum()"))

# -- the values

add("value-cut-never", VALUE + ".forward", SAVED, "return loss, (off, count)",
    "a gradient where the value is held", "clipped-value",
    breaks="dvalues = dloss * where(counts & ~cut, v - returns, 0) / count")
add("value-cut-always", VALUE + ".forward", SAVED, "return loss, (np.where(np.abs(moved) > self.eps, 0, off), count)",
    "no gradient beyond the clip, though the maximum may have taken the value itself", "clipped-value",
    breaks="cut = (abs(v - old) > eps) & (abs(near - returns) > abs(v - returns))")
add("value-half", VALUE + ".backward", "number(dloss) / count", "2 * number(dloss) / count",
    "the half is forgotten", "clipped-value", "clipped-value-none", breaks="/ (2 * count)")
add("value-min", VALUE + ".forward", "np.abs(held_off) > np.abs(off.real)", "np.abs(held_off) < np.abs(off.real)",
    "the smaller of the two squares where the larger belongs: the gradient is right, for another function",
    breaks="both = maximum(")
add("value-clip-returns", VALUE + ".forward", "moved = values.real - old", "moved = values.real - returns; old = returns",
    "clipped around the returns in place of the old values: the gradient is right, for another function",
    breaks="near = old + clip(v - old, -eps, eps)")

# -- the KL

add("kl-sign", REWARD + ".backward", "-self.beta", "self.beta", "the sign turned", "kl-reward",
    breaks="dlogp = where(counts, -beta * dy, 0)")
other("kl-sign", "the policy is paid for leaving the reference: the gradient is right, for another function",
      (REWARD + ".backward", "-self.beta", "self.beta"), (REWARD + ".forward", "-self.beta", "self.beta"))
add("kl-score-each", REWARD + ".forward", "last = counts & (np.cumsum(counts, 1) == counts.sum(1, keepdims=True))",
    "last = counts", "the score at each token, not at the last alone: the gradient is right, for another function",
    breaks="last = counts & (cumsum(counts, 1) == counts.sum(1, keepdims=True))")
other("kl-score-each", "at the end of the row, wherever the response ended: the gradient is right, for another function",
      (REWARD + ".forward", "last = counts & (np.cumsum(counts, 1) == counts.sum(1, keepdims=True))",
       "last = counts & (np.arange(counts.shape[1]) == counts.shape[1] - 1)"))
add("kl-loss-sign", KL + ".forward", "(d, count)", "(-d, count)", "the sign turned", "token-kl",
    breaks="dlogp = dloss * d / count")
add("kl-log-ratio", KL + ".forward", "(d, count)", "(counts + 0 * d, count)",
    "the gradient of the log-ratio itself, which is nothing in the mean", "token-kl", breaks="dlogp = dloss * d / count")
other("kl-log-ratio", "the log-ratio for a loss: the gradient is right, for another function",
      (KL + ".forward", "(d * d).sum() / (2 * count), (d, count)", "d.sum() / count, (counts + 0 * d, count)"))
other("kl-log-ratio", "exp(-d) - 1 + d: the gradient is right, for another function",
      (KL + ".forward", "(d * d).sum() / (2 * count), (d, count)",
       "(np.expm1(-d) + d).sum() / count, (-np.expm1(-d), count)"))

# -- the advantages

LATER = GAE + ".forward", "self.gamma * counts[:, :-1] * values[:, 1:]"
DLATER = GAE + ".backward", "self.gamma * counts[:, 1:] * ddelta[:, :-1]"
add("gae-off-by-one", *DLATER, "self.gamma * counts[:, 1:] * ddelta[:, 1:]",
    "a value's part in the delta of the token before it, taken from its own", "gae",
    breaks="dvalues[:, 1:] += counts[:, 1:] * gamma * ddelta[:, :-1]")
other("gae-off-by-one", "the token's own value for the next one's: the gradient is right, for another function",
      (*LATER, "self.gamma * values[:, :-1]"),
      (GAE + ".backward", "dvalues[:, 1:] += self.gamma * counts[:, 1:] * ddelta[:, :-1]",
       "dvalues[:, :-1] += self.gamma * ddelta[:, :-1]"))
other("gae-off-by-one", "the next token's reward: the gradient is right, for another function",
      (GAE + ".forward", "y = rewards - values", "y = np.where(counts, np.roll(rewards, -1, 1), 0) - values"),
      (GAE + ".backward", "return ddelta, dvalues", "return np.where(counts, np.roll(ddelta, 1, 1), 0), dvalues"))
other("gae-off-by-one", "the next token's delta before its weight: the gradient is right, for another function",
      (GAE + ".forward", "fade = self.gamma * self.lam * counts",
       "y = np.where(counts, np.concatenate([y[:, 1:], 0 * y[:, :1]], 1), 0); fade = self.gamma * self.lam * counts"),
      (GAE + ".backward", "dvalues = -ddelta",
       "ddelta = np.where(counts, np.concatenate([0 * ddelta[:, :1], ddelta[:, :-1]], 1), 0); dvalues = -ddelta"))
add("gae-bootstrap", *DLATER, "self.gamma * ddelta[:, :-1]",
    "a gradient for the value behind the end of the response", "gae", breaks="dvalues[:, 1:] += counts[:, 1:]")
other("gae-bootstrap", "that value counted as if more were to come: the gradient is right, for another function",
      (GAE + ".forward", 'values, _ = of_tokens(values, counts, "GAE")', "values = np.asarray(values)"),
      (GAE + ".forward", "y = rewards - values", "y = np.where(counts, rewards - values, 0)"),
      (*DLATER, "self.gamma * ddelta[:, :-1]"))
FADE = "fade = self.gamma * self.lam * counts"
add("gae-no-lambda", GAE + ".backward", FADE, "fade = self.gamma * counts", "lambda is forgotten in the backward", "gae",
    breaks="ddelta[:, t] += counts[:, t] * gamma * lam * ddelta[:, t - 1]")
other("gae-no-lambda", "in the forward as well: the gradient is right, for another function",
      (GAE + ".forward", FADE, "fade = self.gamma * counts"), (GAE + ".backward", FADE, "fade = self.gamma * counts"))
add("gae-no-end", GAE + ".backward", FADE, "fade = self.gamma * self.lam * np.ones(counts.shape)",
    "the sum runs on behind the end of the response", "gae",
    breaks="ddelta[:, t] += counts[:, t] * gamma * lam * ddelta[:, t - 1]")
add("gae-not-transposed", GAE + ".backward",
    "for t in range(1, ddelta.shape[1])", "for t in reversed(range(ddelta.shape[1] - 1))",
    "the backward's sum runs back from the last token, as the forward's does", "gae",
    breaks="for t in range(1, ddelta.shape[1]):",
    more=((GAE + ".backward", "ddelta[:, t - 1]", "ddelta[:, t + 1]"),))
