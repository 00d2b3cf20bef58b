"""Proximal policy optimization, as InstructGPT is trained by it: a policy learns from answers that it drew itself."""

import copy

import numpy as np

from numgpt import adapted
from numgpt.body import Body
from numgpt.layers import ClippedPolicy, ClippedValue, HeadLogProbs, Layer, ValueHead
from numgpt.layers.inputs import IGNORE
from numgpt.layers.reward import not_negative
from numgpt.model import GPT
from numgpt.tuning.template import Template
from numgpt.tuning.tuned import Tuned, nobody


class Critic(Layer):
    """Say at each place what is expected to be gained from there on, by a body of its own.

    ids (B, T) -> y (B, T)

    Forward   y = head(body(ids))
    Backward  body.backward(head.backward(dy))
    Saved     what body and head saved
    """

    def __init__(self, body: Body, n_embd: int, **options):
        self.body, self.head = copy.deepcopy(body), ValueHead(n_embd, **options)
        for name, layer in adapted.adapters(self).items():  # a policy's that comes from a checkpoint; all of a critic is trained
            adapted.put(self, name, layer.merge())
        self.thaw()

    def forward(self, ids, *, rng: np.random.Generator | None = None):
        x, saved_body = self.body.forward(ids, rng=rng)
        y, saved_head = self.head.forward(x)
        return y, (saved_body, saved_head)

    def backward(self, dy, saved):
        saved_body, saved_head = saved
        self.body.backward(self.head.backward(dy, saved_head), saved_body)

    def begins_as(self, reward, mean: float, std: float) -> None:
        """What a reward model knows: of a whole answer, its score, of which mean and std make what the critic is to say."""
        for param, theirs in zip(self.body.params(), reward.body.params(), strict=True):
            param.value[...] = theirs.value
        self.head.linear.weight.value[...] = reward.task.linear.weight.value / std
        self.head.linear.bias.value[...] = -mean / std


class ActorCritic(Tuned):
    """The policy, and beside it a critic: what each token of an answer is expected to bring.

    ids, targets (B, T) -> loss, a number; the targets are the answers' tokens, <end> among them, and -100 elsewhere
    held constant, of the rollout that drew them: old (B, T), the log-probabilities of the targets; advantages, old_values
    and returns (B, T). What they are where the target is -100 does not matter

    Forward   counts = targets != -100
              logp = log_p(body(ids), targets)
              policy_loss = policy(logp, old, advantages, counts)
              -- at place t stands what the answer is worth before its token targets[t] is drawn
              v = task(ids)
              value_loss = value(v, old_values, returns, counts)
              loss = policy_loss + value_weight * value_loss
    Backward  dlogp = policy.backward(dloss)
              body.backward(log_p.backward(dlogp))
              -- advantages and returns were made of values too, but of the rollout's: nothing flows back through them
              dv = value.backward(value_weight * dloss)
              task.backward(dv)
    Saved     what body, log_p, policy, task and value saved

    The critic is a model of its own, as InstructGPT's, which begins as the reward model; on one body with the policy, its
    loss would move the policy as well. InstructGPT's third loss, of texts as in pre-training, is left out.
    """

    def __init__(self, gpt: GPT, template: Template, *, clip: float = 0.2, value_clip: float | None = 0.2,
                 value_weight: float = 0.5, rng=None):
        self.value_weight = not_negative(value_weight, "value_weight")
        self.log_p, self.policy, self.value = HeadLogProbs(gpt.head), ClippedPolicy(clip), ClippedValue(value_clip)
        super().__init__(gpt, template, Critic(gpt.body, gpt.config.n_embd, std=gpt.config.std, rng=rng, dtype=gpt.values.dtype))

    def about(self):
        eps = self.value.eps
        return {**super().about(), "kind": "ppo", "clip": self.policy.eps, "value_clip": eps if eps < float("inf") else None,
                "value_weight": self.value_weight}

    def forward(self, ids, targets, old, advantages, old_values, returns, *, rng: np.random.Generator | None = None,
                count: int | None = None):
        x, saved_body = self.body.forward(ids, rng=rng)
        counts, count = np.asarray(targets) != IGNORE, self.count(ids, targets) if count is None else count
        logp, saved_log_p = self.log_p.forward(x, targets)
        policy_loss, saved_policy = self.policy.forward(logp, old=old, advantages=advantages, counts=counts, count=count)
        v, saved_task = self.task.forward(ids, rng=rng)
        value_loss, saved_value = self.value.forward(v, old=old_values, returns=returns, counts=counts, count=count)
        loss = policy_loss + self.value_weight * value_loss
        return loss, (saved_body, saved_log_p, saved_policy, saved_task, saved_value)

    def backward(self, saved, dloss: float = 1.0, *, finished=None):
        finished = finished or nobody
        saved_body, saved_log_p, saved_policy, saved_task, saved_value = saved
        dv = self.value.backward(self.value_weight * dloss, saved_value)
        self.task.backward(dv, saved_task)
        finished(self.task)
        dx = self.log_p.backward(self.policy.backward(dloss, saved_policy), saved_log_p)
        finished(self.head)
        self.body.backward(dx, saved_body, finished=finished)

    def __call__(self, ids, targets, old, advantages, old_values, returns, *, rng: np.random.Generator | None = None,
                 count: int | None = None):
        """The loss alone, nothing kept."""
        x = self.body(ids, rng=rng)
        counts, count = np.asarray(targets) != IGNORE, self.count(ids, targets) if count is None else count
        logp = self.log_p(x, targets)
        return (self.policy(logp, old=old, advantages=advantages, counts=counts, count=count)
                + self.value_weight * self.value(self.task(ids), old=old_values, returns=returns, counts=counts, count=count))

    def judge(self, ids, targets) -> tuple[np.ndarray, np.ndarray]:
        """ids, targets (B, T) -> the log-probability of each target, and the value before it; both (B, T)."""
        return self.log_p(self.body(ids), targets), self.task(ids)

    def count(self, ids, targets, *rollout) -> int:
        """How many tokens of the answers count."""
        if np.ndim(ids) != 2 or any(np.shape(array) != np.shape(ids) for array in (targets, *rollout)):
            raise ValueError("a batch is ids, targets, old log-probabilities, advantages, old values and returns of one shape (B, T); "
                             f"got {', '.join(str(np.shape(array)) for array in (ids, targets, *rollout))}")
        return int((np.asarray(targets) != IGNORE).sum())
