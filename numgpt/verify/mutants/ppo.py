"""The mistakes people make in PPO as a whole, beyond those in its layers: in its model, and in the rollouts that it learns from.

A rollout is constant, and no gradient check can see what is wrong in it.
"""

from numgpt.verify.mutants.catalogue import add, other

MODEL, ROLLOUT, ANSWERED, ANSWER = ("tuning.ppo.ActorCritic", "tuning.rollouts.Rollout", "tuning.rollouts.Answered",
                                    "tuning.rollouts.answer")
_OTHERWISE = "the gradient is right, for another rollout"

# -- the model

add("ppo-model-old", MODEL + ".forward", "old=old, advantages", "old=logp, advantages",
    "the old log-probabilities are those of after the update: the ratio is 1, nothing is ever clipped, and the loss never moves",
    "ppo-model", breaks="policy_loss = policy(logp, old, advantages, counts)")
_DV = "dv = self.value.backward(self.value_weight * dloss, saved_value)"
add("ppo-model-advantages", MODEL + ".backward", _DV, _DV + "; dv = dv + dloss * (saved_policy[0] != 0) / saved_policy[1]",
    "the advantages, returns less values, are not held constant: the policy's loss has a gradient for the values", "ppo-model",
    breaks="nothing flows back through them")
add("ppo-model-weight", MODEL + ".backward", "self.value_weight * dloss", "dloss", "the values' weight missing in their gradient",
    "ppo-model", breaks="dv = value.backward(value_weight * dloss)")
add("ppo-model-critic", "tuning.ppo.Critic.backward", "self.body.backward(self.head.backward(dy, saved_head), saved_body)",
    "self.head.backward(dy, saved_head)", "the critic's body does not hear of the values", "ppo-model",
    breaks="body.backward(head.backward(dy))")
add("ppo-model-count", MODEL + ".count", "int((np.asarray(targets) != IGNORE).sum())", "int(np.size(targets))",
    "the mean over all tokens, prompts and padding among them: the gradient is right, for another function",
    breaks="counts = targets != -100")

# -- the rollout

_REWARDED = "KLReward(worth.price)(old, reference=far, scores=worth.share * scores, counts=counts)"
add("rollout-reference", ROLLOUT + ".of", "far = reference(ids, targets)", "far = old",
    f"the reference is the policy, so that no KL is charged: {_OTHERWISE}",
    breaks="rewards = kl_reward(old, reference=reference, scores=share * scores, counts=counts)")
add("rollout-kl-sign", ROLLOUT + ".of", "(old, reference=far,", "(far, reference=old,",
    f"policy and reference exchanged, so that the KL is paid for: {_OTHERWISE}",
    breaks="rewards = kl_reward(old, reference=reference, scores=share * scores, counts=counts)")
add("rollout-score-place", ROLLOUT + ".of", _REWARDED,
    _REWARDED.replace("worth.share", "0") + " + np.where(counts & (np.cumsum(counts, 1) == 1), worth.share * scores[:, None], 0)",
    f"the score at an answer's first token: {_OTHERWISE}",
    breaks="rewards = kl_reward(old, reference=reference, scores=share * scores, counts=counts)")
other("rollout-score-place", f"the score at the token before <end>: {_OTHERWISE}",
      (ROLLOUT + ".of", _REWARDED, _REWARDED.replace("worth.share", "0")
       + " + np.where(counts & (np.cumsum(counts, 1) == np.maximum(counts.sum(1, keepdims=True) - 1, 1)), worth.share * scores[:, None], 0)"))
add("rollout-returns", ROLLOUT + ".of", "returns = gained +", "returns = whitened(gained, counts) +",
    f"the values learn to foretell whitened advantages: {_OTHERWISE}", breaks="returns = gained + values")
add("rollout-whitened", ROLLOUT + ".of", "whitened(gained, counts))", "(gained - gained.mean()) / gained.std())",
    f"mean and spread over prompts and padding too: {_OTHERWISE}", breaks="advantages = whitened(gained, counts)")
other("rollout-whitened", f"not at all: {_OTHERWISE}", (ROLLOUT + ".of", "whitened(gained, counts))", "gained)"))
add("rollout-prompt", ANSWERED + ".of", "[(len(prompt),) for prompt in prompts]", "[(1,) for prompt in prompts]",
    f"the prompt's tokens count as if the policy had drawn them: {_OTHERWISE}", breaks="-100 but for those of the response")
add("rollout-no-end", ANSWERED + ".of", "ids, targets, last)", "ids, np.where(targets == end, IGNORE, targets), last)",
    f"<end> does not count, so that nobody learns to end: {_OTHERWISE}", breaks="-100 but for those of the response")
add("rollout-temperature", ANSWER, "logprobs=True", "logprobs=True, temperature=0.5",
    f"drawn from other probabilities than the policy's: {_OTHERWISE}", breaks=(ANSWER, "as likely as it finds them"))
