"""The mistakes people make in heads for other tasks and in the losses of preferences: of the kind "tuning".

They leave no trace in a GPT's own gradient, so diagnose does not look for them. Where forward has the mistake too, no
gradient check can see it, for the gradient is right, for another function: its story says so, and a test of values finds it.
"""

from numgpt.verify.mutants.catalogue import add, other, plain

LAST, HEADS = "layers.heads.LastToken", "layers.heads"
LOGPROBS, PAIRS, DPO = "layers.logprobs.HeadLogProbs", "layers.preference.LogisticPairs", "layers.preference.DPO"

# -- heads

_PLACE = "place = (arange(x.shape[-2]) == last[..., None])[..., None]"
_PUT, _TAKEN = "dx[there, place] = ", "x.reshape(last.size, T, C)[there, place]"

add("last-token-padding", LAST + ".backward", _PUT, "dx[there, -1] = ",
    "the gradient at the end of the row, where the padding is", "last-token", "class-head", breaks=_PLACE)
other("last-token-padding", "read there too: the gradient is right, for another function",
      (LAST + ".forward", _TAKEN, "x.reshape(last.size, T, C)[there, -1]"), *plain("last-token-padding"))
add("last-token-off-by-one", LAST + ".backward", _PUT, "dx[there, np.minimum(place + 1, shape[-2] - 1)] = ",
    "one place too far to the right", "last-token", "score-head", breaks="dx = place * dy[..., None, :]")
other("last-token-off-by-one", "one too far to the left",
      (LAST + ".backward", _PUT, "dx[there, np.maximum(place - 1, 0)] = "))
add("last-token-everywhere", LAST + ".backward", _PUT + "dy.reshape(last.size, shape[-1])[there]",
    "dx[there] = dy.reshape(last.size, 1, shape[-1])[there]", "every row of the sequence gets the last one's gradient",
    "last-token", "class-head", breaks="dx = place * dy[..., None, :]")
add("similarity-one-order", HEADS + ".SimilarityHead.backward", "np.stack([dboth, dboth], 1)",
    "np.stack([dboth, 0 * dboth], 1)", "only one of the two orders gets a gradient", "similarity-head",
    breaks="dh = stack([dboth, dboth], 1)")
other("similarity-one-order", "each gets half of it",
      (HEADS + ".SimilarityHead.backward", "np.stack([dboth, dboth], 1)", "np.stack([dboth, dboth], 1) / 2"))
add("choice-missing-scores", HEADS + ".ScoreHead.forward", "np.where(last < 0, -math.inf, z[..., 0])",
    "np.where(last < 0, 0, z[..., 0])",
    "a missing choice scores 0, and is given a chance: the gradient is right, for another function",
    breaks="y = where(last < 0, -inf, z)")

# -- log-probabilities

_ROW = "surprise_backward(-dy[part, None], softmaxed, targets_, 1)"
add("logprobs-sign", LOGPROBS + ".backward", "-dy[part, None]", "dy[part, None]",
    "the gradient of the loss for that of the log-probability", "head-log-probs", "head-log-probs-tied",
    breaks="(onehot - p)")
add("logprobs-mean", LOGPROBS + ".backward", _ROW, _ROW.replace(", 1)", ", (targets != IGNORE).sum())"),
    "divided by the number of tokens, where a sum is wanted", "head-log-probs",
    breaks="dlogits = (counts * dy)[..., None] * (onehot - p)")
other("logprobs-mean", "divided by the length of a row",
      (LOGPROBS + ".backward", _ROW, _ROW.replace(", 1)", ", targets.shape[-1])")))
add("logprobs-one-weight", LOGPROBS + ".backward", '"HeadLogProbs").reshape(-1)',
    '"HeadLogProbs").mean(-1, keepdims=True).repeat(targets.shape[-1], -1).reshape(-1)',
    "all tokens of a row get the mean of their gradients", "head-log-probs",
    breaks="dlogits = (counts * dy)[..., None] * (onehot - p)")
add("logprobs-no-softmax", LOGPROBS + ".backward", _ROW,
    "dy[part, None] * (targets_[:, None] == np.arange(self.matrix.shape[1]))",
    "the one-hot alone, as if the logit were the log-probability", "head-log-probs", breaks="(onehot - p)")
add("logprobs-last-chunk", LOGPROBS + ".backward", "self.weight.add_product(",
    "self.weight.grad[...] = 0; self.weight.add_product(",
    "the weight's gradient from the last chunk alone", "head-log-probs", "head-log-probs-tied",
    breaks='dweight = einsum("btc,btv->cv", x, dlogits)')

# -- pairs

_CHANCE = "number(dloss) / count * -ops.sigmoid(-margin)"
add("pairs-sign", PAIRS + ".backward", "return dmargin, -dmargin", "return -dmargin, dmargin",
    "what was rejected is raised", "logistic-pairs", breaks="dmargin = -dloss / (1 + exp(margin)) / count")
add("pairs-turned", PAIRS + ".forward", "margin = chosen - rejected", "margin = rejected - chosen",
    "chosen and rejected exchanged, in the loss too: the gradient is right, for another function",
    breaks="margin = chosen - rejected",
    more=((PAIRS + ".backward", "return dmargin, -dmargin", "return -dmargin, dmargin"),))
add("pairs-sure", PAIRS + ".backward", _CHANCE, _CHANCE.replace("-ops.sigmoid(-", "-ops.sigmoid("),
    "the chance of the right choice for that of the wrong one: what is learnt already is learnt most", "logistic-pairs",
    breaks="dmargin = -dloss / (1 + exp(margin)) / count")
add("pairs-one-side", PAIRS + ".backward", "return dmargin, -dmargin", "return dmargin, 0 * dmargin",
    "what was rejected is left where it is", "logistic-pairs", breaks="drejected = -dmargin")
other("pairs-one-side", "it is moved as what was chosen is",
      (PAIRS + ".backward", "return dmargin, -dmargin", "return dmargin, dmargin"))
add("pairs-count", PAIRS + ".backward", _CHANCE, _CHANCE.replace(" / count", ""),
    "sum where the mean is promised", "logistic-pairs", breaks="dmargin = -dloss / (1 + exp(margin)) / count")
other("pairs-count", "the mean over sequences, of which a pair has two",
      (PAIRS + ".backward", _CHANCE, _CHANCE.replace("/ count", "/ (2 * count)")))

# -- DPO

_MARGIN, _REWARD = "margin = reward[:, 0] - reward[:, 1]", "self.beta * (logp - constants(reference, logp, \"reference\"))"
_STACK, _SLOPE = "np.stack([dmargin, -dmargin], -1)", "number(dloss) / count * slope"
_TURNED = DPO + ".backward", _STACK, "np.stack([-dmargin, dmargin], -1)"
add("dpo-reference-follows", DPO + ".backward", "return self.beta * dreward", "return self.beta * (dreward - dreward)",
    "the reference is the policy, not its copy: what the one gains the other gains, and no gradient is left",
    "dpo", breaks="dlogp = beta * dreward")
other("dpo-reference-follows", "in the loss too, which stays log 2: the gradient is right, for that function",
      (DPO + ".rewards", _REWARD, "self.beta * (logp - logp)"), *plain("dpo-reference-follows"))
other("dpo-reference-follows", "halfway, as a moving average that has a gradient",
      (DPO + ".backward", "return self.beta * dreward", "return self.beta * (dreward - 0.5 * dreward)"))
add("dpo-no-reference", DPO + ".forward", "return losses.sum() / count, (margin, count)",
    "return losses.sum() / count, (self.beta * (logp[:, 0] - logp[:, 1]), count)",
    "the slope at the policy's own margin, without the reference", "dpo", breaks="reward = beta * (logp - reference)")
other("dpo-no-reference", "in the loss too: the gradient is right, for another function",
      (DPO + ".rewards", _REWARD, "self.beta * logp"))
add("dpo-sign", *_TURNED, "what was rejected is raised", "dpo", "dpo-smoothing", breaks="array([1.0, -1.0])")
other("dpo-sign", "in the loss too: the gradient is right, for another function",
      (DPO + ".forward", _MARGIN, "margin = reward[:, 1] - reward[:, 0]"), _TURNED)
add("dpo-no-beta", DPO + ".backward", "return self.beta * dreward", "return dreward",
    "beta in the margin, and not in the gradient", "dpo", breaks="dlogp = beta * dreward")
other("dpo-no-beta", "twice in the gradient",
      (DPO + ".backward", "return self.beta * dreward", "return self.beta ** 2 * dreward"))
other("dpo-no-beta", "in the gradient, and not in the margin",
      (DPO + ".rewards", _REWARD, _REWARD.replace("self.beta * ", "")))
add("dpo-chosen-alone", DPO + ".backward", _STACK, "np.stack([dmargin, 0 * dmargin], -1)",
    "what was rejected is left where it is", "dpo", breaks="array([1.0, -1.0])")
other("dpo-chosen-alone", "in the loss too: the gradient is right, for another function",
      (DPO + ".forward", _MARGIN, "margin = reward[:, 0]"), *plain("dpo-chosen-alone"))
add("dpo-no-smoothing", DPO + ".backward",
    "self.smoothing * ops.sigmoid(margin) - (1 - self.smoothing) * ops.sigmoid(-margin)",
    "-ops.sigmoid(-margin)", "smoothing in the loss, and not in the gradient", "dpo-smoothing", "dpo-count",
    breaks="(smoothing / (1 + exp(-margin)) - (1 - smoothing) / (1 + exp(margin)))")
other("dpo-no-smoothing", "its part with the sign turned",
      (DPO + ".backward", "self.smoothing * ops.sigmoid(margin) - ", "-self.smoothing * ops.sigmoid(margin) - "))
add("dpo-sure", DPO + ".backward", "(1 - self.smoothing) * ops.sigmoid(-margin)",
    "(1 - self.smoothing) * ops.sigmoid(margin)",
    "the chance of the right choice for that of the wrong one", "dpo", breaks="(1 - smoothing) / (1 + exp(margin))")
add("dpo-count", DPO + ".backward", _SLOPE, "number(dloss) * slope", "sum where the mean is promised", "dpo",
    breaks="loss = ((1 - smoothing) * log1p(exp(-margin)) + smoothing * log1p(exp(margin))).sum() / count")
other("dpo-count",
      "the mean over sequences, of which a pair has two, in the loss too: the gradient is right, for another function",
      (DPO + ".forward", "losses.sum() / count", "losses.sum() / (2 * count)"),
      (DPO + ".backward", _SLOPE, "number(dloss) / (2 * count) * slope"))
