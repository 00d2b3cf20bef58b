"""PPO beside torch, written here, in float64: a rollout's advantages and returns, and the loss and all gradients of an update."""

import numpy as np
import pytest

from numgpt.tuning.rollouts import Answered, Rollout, Worth, log_probs
from numgpt.verify import cases, mutants

pytestmark = pytest.mark.verify
torch = pytest.importorskip("torch")

from test_preference_models_against_torch import agree, hidden, weights_of  # noqa: E402

WORTH, END = Worth(0.3, 0.9, 0.7, leash=0.25), 10


def played(seed):
    """A rollout of a policy that has moved since, and by what it came to be."""
    rng = np.random.default_rng(seed)
    model = cases.make("ppo-model", seed).target
    reference, before = (model.astype(np.float64) for _ in range(2))
    reference.values += 0.1 * rng.standard_normal(reference.values.size)
    prompts = [rng.integers(0, 11, n) for n in (1, 3, 2, 4, 2)]
    responses = [np.append(rng.integers(0, 10, n), END)[:4] for n in (3, 0, 4, 1, 2)]
    answers, scores = Answered.of(prompts, responses, [None] * 5, END), rng.standard_normal(5)
    rollout = Rollout.of(answers, scores, before.judge, lambda *rows: log_probs(reference, *rows), WORTH)
    model.values += 0.1 * rng.standard_normal(model.values.size)
    return model, before, reference, rollout


def token_log_probs(w, config, ids, answer):
    """Of one row, the log-probability of each token of its answer, and the places where they were drawn."""
    logits = hidden(w, config, ids[None])[0] @ w["embedding.table"].T
    places = torch.arange(len(ids) - len(answer) - 1, len(ids) - 1)
    return logits[places].log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)], places


def values_of(w, config, ids):
    critic = {name.removeprefix("task.body."): one for name, one in w.items() if name.startswith("task.body.")}
    return (hidden(critic, config, ids[None])[0] @ w["task.head.linear.weight"])[:, 0] + w["task.head.linear.bias"]


def by_torch(model, before, reference, rollout):
    """The loss, and for each answer its returns and advantages."""
    w, w_before, w_reference = map(weights_of, (model, before, reference))
    config, rows = model.config, []
    with torch.no_grad():
        for prompt, answer, score in zip(rollout.answers.prompts, rollout.answers.responses, rollout.scores):
            ids = torch.tensor(np.concatenate([prompt, answer]))
            old, places = token_log_probs(w_before, config, ids, answer)
            far, _ = token_log_probs(w_reference, config, ids, answer)
            values = values_of(w_before, config, ids)[places]
            rewards = -(0.75 * 0.3 + 0.25) * (old - far)
            rewards[-1] += 0.75 * score
            later = torch.cat([values[1:], torch.zeros(1, dtype=values.dtype)])
            delta = rewards + 0.9 * later - values
            # all powers of gamma * lambda at once, where ours runs back over the tokens
            ahead = torch.arange(len(delta))[None] - torch.arange(len(delta))[:, None]
            gained = torch.where(ahead >= 0, torch.tensor(0.9 * 0.7, dtype=torch.float64) ** ahead.clamp(min=0), 0) @ delta
            rows.append((ids, answer, old, values, gained))
        every = torch.cat([row[-1] for row in rows])
    policy, value = [], []
    for ids, answer, old, values, gained in rows:
        logp, places = token_log_probs(w, config, ids, answer)
        ratio, a = (logp - old).exp(), (gained - every.mean()) / every.std(correction=0)
        policy.append(-torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a))
        now, returns = values_of(w, config, ids)[places], gained + values
        near = values + (now - values).clamp(-model.value.eps, model.value.eps)
        value.append(torch.maximum((now - returns) ** 2, (near - returns) ** 2) / 2)
    loss = torch.cat(policy).mean() + model.value_weight * torch.cat(value).mean()
    return w, loss, [(row[-1] + row[-2]).numpy() for row in rows], [((row[-1] - every.mean()) / every.std(correction=0)).numpy() for row in rows]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_rollout_and_the_update_after_it_are_torch_s(seed):
    model, before, reference, rollout = played(seed)
    batch = rollout.batch(np.arange(5))
    loss, saved = model.forward(*batch)
    model.zero_grad()
    model.backward(saved)
    w, theirs, returns, advantages = by_torch(model, before, reference, rollout)
    for row, counts in enumerate(rollout.answers.counts):
        assert np.abs(rollout.returns[row][counts] - returns[row]).max() <= 1e-11
        assert np.abs(rollout.advantages[row][counts] - advantages[row]).max() <= 1e-11
    kept = saved[2][0][rollout.answers.counts]
    assert (kept == 0).any() and (kept != 0).any()  # some tokens are clipped, some are not
    agree(model, w, loss, theirs)


@pytest.mark.parametrize("slug", ["ppo-model-advantages", "ppo-model-old", "rollout-returns", "rollout-kl-sign", "gae-off-by-one"])
def test_a_mistake_would_be_seen(slug):
    with pytest.raises(AssertionError), mutants.apply(slug, variant=1 if slug.startswith("gae") else 0):
        test_a_rollout_and_the_update_after_it_are_torch_s(0)
