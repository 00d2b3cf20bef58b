"""Rollouts: what is drawn, what counts of it, and what each token was worth, beside loops over the tokens."""

from contextlib import nullcontext

import numpy as np
import pytest

from numgpt import GPT, GPTConfig
from numgpt.sample import generate
from numgpt.tuning.ppo import ActorCritic
from numgpt.tuning.rollouts import Answered, Rollout, Worth, answer, log_probs
from numgpt.tuning.template import Template
from numgpt.verify import cases, mutants

TEMPLATE = Template("prompts", 6)
END = TEMPLATE.special["end"]
WORTH = Worth(0.3, 0.9, 0.7, leash=0.25)


def policy(seed=0, dtype=np.float64):
    config = GPTConfig(n_vocab=TEMPLATE.n_vocab, n_ctx=10, n_layer=2, n_head=2, n_embd=8, n_hidden=11)
    model = cases.order_one(ActorCritic(GPT(config, dtype=dtype), TEMPLATE), np.random.default_rng(seed))
    return model


def prompts(n=7):
    rng = np.random.default_rng(3)
    return [rng.integers(0, TEMPLATE.n_vocab, 1 + i % 4) for i in range(n)]


def played(planted=None, variant=0):
    """A rollout, and by what it came to be."""
    model, reference = policy(7), policy(1)  # which ends some of its answers, and not all
    with mutants.apply(planted, variant=variant) if planted else nullcontext():
        answers = answer(model, prompts(), 5, END, (0, 2))
        scores = np.random.default_rng(5).standard_normal(len(answers))
        return Rollout.of(answers, scores, model.judge, lambda *rows: log_probs(reference, *rows), WORTH), model, reference


# -- answers


@pytest.mark.parametrize("dtype, bound", [(np.float64, 1e-13), (np.float32, 2e-5)])
def test_the_decoder_s_log_probabilities_are_those_of_a_forward_pass(dtype, bound):
    # Both add up the same products, the decoder a token at a time and so in another order: some 50 roundings of numbers up to 10.
    model = policy(dtype=dtype)
    answers = answer(model, prompts(40), 5, END, (0,))
    logp, _ = model.judge(answers.ids, answers.targets)
    for row, decoded in zip(range(40), answers.logp):
        assert np.abs(logp[row][answers.counts[row]] - decoded).max() <= bound
    assert np.abs(logp - log_probs(model, answers.ids, answers.targets)).max() <= bound


@pytest.mark.parametrize("planted", [None, "rollout-prompt", "rollout-no-end"])
def test_an_answer_s_own_tokens_count_and_its_end_is_one_of_them(planted):
    with mutants.apply(planted) if planted else nullcontext():
        answers = Answered.of([np.array([7, 1, 8]), np.array([7, 8])], [np.array([4, END]), np.array([5, 5, 5, 5])], [None] * 2, END)
    assert answers.ids.tolist() == [[7, 1, 8, 4, END, 0], [7, 8, 5, 5, 5, 5]]
    assert answers.last.tolist() == [4, 5] and answers.ended.tolist() == [True, False]
    expected = [[-100, -100, 4, END, -100, -100], [-100, 5, 5, 5, 5, -100]]
    assert (answers.targets.tolist() == expected) == (planted is None)


@pytest.mark.parametrize("planted", [None, "rollout-temperature"])
def test_tokens_come_as_often_as_the_policy_finds_them_likely(planted):
    model, n = policy(), 600
    with mutants.apply(planted) if planted else nullcontext():
        answers = answer(model, [np.array([7, 2, 8])] * n, 1, END, (0,))
    p = np.exp(generate(model, [[7, 2, 8]], 1, temperature=0, logprobs=True)[1][0])  # of the likeliest
    share = np.mean([response[0] == np.argmax(model.logits(np.array([[7, 2, 8]]))[0, -1]) for response in answers.responses])
    # Four standard deviations of a share: one seed in 16,000 would miss. At half the temperature it is off by more.
    assert (abs(share - p[0]) <= 4 * np.sqrt(p[0] * (1 - p[0]) / n)) == (planted is None)


def test_answers_depend_on_the_key_and_on_nothing_else():
    model, found = policy(), []
    for key in ((0, 1), (0, 1), (0, 2), (1, 1)):
        found.append([response.tolist() for response in answer(model, prompts(), 5, END, key).responses])
    assert found[0] == found[1] and found[0] != found[2] and found[0] != found[3] and found[2] != found[3]


# -- their worth


def written_out(rollout, model, reference):
    """Returns and advantages, by loops over the tokens of each answer."""
    answers = rollout.answers
    returns, gained = np.zeros(answers.ids.shape), np.zeros(answers.ids.shape)
    for row, (prompt, response) in enumerate(zip(answers.prompts, answers.responses)):
        ids = np.concatenate([prompt, response])[None]
        scores = [one.logits(ids)[0] for one in (model, reference)]
        logp, far = (one - np.log(np.exp(one).sum(-1, keepdims=True)) for one in scores)
        values = model.task(ids)[0]
        places = [len(prompt) - 1 + t for t in range(len(response))]  # where each token was drawn
        rewards = [-(0.75 * 0.3 + 0.25) * (logp[place, token] - far[place, token]) for place, token in zip(places, response)]
        rewards[-1] += 0.75 * rollout.scores[row]
        behind = 0.0
        for t in reversed(range(len(response))):
            later = values[places[t + 1]] if t + 1 < len(response) else 0.0
            behind = rewards[t] + WORTH.gamma * later - values[places[t]] + WORTH.gamma * WORTH.lam * behind
            gained[row, places[t]], returns[row, places[t]] = behind, behind + values[places[t]]
    counted = gained[answers.counts]
    return returns, np.where(answers.counts, (gained - counted.mean()) / counted.std(), 0)


WRONG = [(slug, i) for slug in mutants.names("tuning") if mutants.CATALOGUE[slug].where == "tuning.rollouts.Rollout.of"
         for i in range(len(mutants.forms(slug)))]


@pytest.mark.parametrize("planted, variant", [(None, 0), *WRONG])
def test_returns_and_advantages_are_those_of_loops_over_the_tokens(planted, variant):
    rollout, model, reference = played(planted, variant)
    returns, advantages = written_out(rollout, model, reference)
    counts, ended = rollout.answers.counts, rollout.answers.ended
    assert ended.any() and not ended.all()
    off = max(np.abs(rollout.returns - returns)[counts].max(), np.abs(rollout.advantages - advantages)[counts].max())
    assert (off <= 1e-12) == (planted is None)  # sums of some 10 terms of order one; what is wrong is wrong by 1e-2
    assert planted or not rollout.advantages[~counts].any()


def numbers():
    """All of a rollout, for mistakes to be told apart by."""
    rollout, *_ = played()
    many = answer(policy(), [np.array([7, 2, 8])] * 20, 2, END, (0,))
    return np.concatenate([np.ravel(one) for one in (rollout.answers.targets, rollout.returns, rollout.advantages, *many.responses)])


# -- minibatches


def test_each_answer_comes_once_an_epoch_in_orders_of_which_the_key_decides():
    rollout, *_ = played()
    found = [[batch for batch in rollout.minibatches(3, 2, key)] for key in ((0, 1), (0, 1), (0, 2))]
    sizes = [len(batch[0]) for batch in found[0]]
    assert sizes == [3, 3, 1] * 2
    told = [[round(float(old.sum()), 9) for batch in minibatches for old in batch[2]] for minibatches in found]
    for orders in told:
        assert sorted(orders[:7]) == sorted(orders[7:]) == sorted(round(float(old.sum()), 9) for old in rollout.old)
        assert orders[:7] != orders[7:]
    assert told[0] == told[1] != told[2]


def test_a_minibatch_is_cut_behind_its_longest_answer_and_nothing_of_it_is_lost():
    rollout, *_ = played()
    short = np.argsort(rollout.answers.last)[:2]
    ids, targets, old, advantages, values, returns = rollout.batch(short)
    T = ids.shape[1]
    assert T == rollout.answers.last[short].max() + 1 < rollout.answers.ids.shape[1]
    assert not rollout.answers.counts[short, T:].any()
    for cut, whole in ((ids, rollout.answers.ids), (targets, rollout.answers.targets), (old, rollout.old), (advantages, rollout.advantages),
                       (values, rollout.values), (returns, rollout.returns)):
        assert np.array_equal(cut, whole[short, :T])
