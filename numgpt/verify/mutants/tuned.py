"""The mistakes people make in whole models that learn from preferences, beyond those in their layers: of the kind "tuning"."""

from numgpt.verify.mutants.catalogue import add, other

REWARD, DPO = "tuning.reward.RewardModel", "tuning.dpo.DPOModel"
_SUM, _SPREAD = "logp = logp.reshape(np.shape(targets)).sum(-1)", "dlogp[..., None]"
_LOG_P = "self.log_p.forward(x, in_rows(targets))"

add("reward-sides", REWARD + ".backward", "np.stack(self.pairs.backward(dloss, saved_pairs), 1)",
    "np.stack(self.pairs.backward(dloss, saved_pairs)).reshape(-1, 2)",
    "the gradients of all chosen answers, then of all rejected ones, to scores that stand side by side", "reward-model",
    breaks="dr = stack(pairs.backward(dloss), 1)")
add("reward-count", REWARD + ".count", "return pairs(", "return 2 * pairs(",
    "the mean over sequences, of which a pair has two: the gradient is right, for another function", breaks="loss = pairs(r[:, 0], r[:, 1])")
add("dpo-model-reference", DPO + ".forward", "reference=reference", "reference=logp",
    "the reference is computed from the policy itself, as a constant: the loss never moves, and has a gradient all the same",
    "dpo-model", breaks="loss = dpo(logp, reference)")
add("dpo-model-sides", DPO + ".forward", _SUM, "logp = logp.sum(-1).reshape(2, -1).T",
    "all chosen answers, then all rejected ones, where they stand side by side", "dpo-model",
    breaks="logp = log_p(x, targets).sum(-1)")
add("dpo-model-mean", DPO + ".backward", _SPREAD, _SPREAD + " / (saved_log_p[1].reshape(shape) != -100).sum(-1, keepdims=True)",
    "the gradient of an answer's mean over its tokens, where the loss has their sum", "dpo-model",
    breaks="dx = log_p.backward(where(targets == -100, 0, dlogp[..., None]))")
other("dpo-model-mean", "in the loss too: the gradient is right, for another function",
      (DPO + ".forward", _SUM, "logp = logp.reshape(np.shape(targets)).sum(-1) / (np.asarray(targets) != -100).sum(-1)"),
      (DPO + ".backward", _SPREAD, _SPREAD + " / (saved_log_p[1].reshape(shape) != -100).sum(-1, keepdims=True)"))
other("dpo-model-mean", "of the mean over the row, padding and prompt included",
      (DPO + ".backward", _SPREAD, _SPREAD + " / shape[-1]"))
add("dpo-model-prompt", DPO + ".forward", _LOG_P,
    "self.log_p.forward(x, in_rows(np.concatenate([np.asarray(ids)[..., 1:], np.asarray(targets)[..., -1:]], -1)))",
    "all tokens of a row, its prompt's and its padding's too: the gradient is right, for another function",
    breaks="logp = log_p(x, targets).sum(-1)")
add("dpo-model-count", DPO + ".count", "return pairs(", "return 2 * pairs(",
    "the mean over sequences, of which a pair has two: the gradient is right, for another function", breaks="loss = dpo(logp, reference)")
