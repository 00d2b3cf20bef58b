"""PPO: the model's gradient, what its loss is of, a bandit whose optimum is known, and runs: their bound and their going on."""

import itertools
import json
import math
import shutil

import numpy as np
import pytest

from numgpt import GPT, GPTConfig
from numgpt.files import FormatError
from numgpt.gradcheck import check
from numgpt.layers import HeadLogProbs
from numgpt.layers.ops import log_softmax
from numgpt.training.folder import read_metrics
from numgpt.training.settings import Settings
from numgpt.training.shards import Shards
from numgpt.tuning import files, synthetic
from numgpt.tuning.encoding import Rows
from numgpt.tuning.pairs import REFERENCE
from numgpt.tuning.ppo import ActorCritic
from numgpt.tuning.prompts import REWARD, PromptData
from numgpt.tuning.reward import RewardModel
from numgpt.tuning.rollouts import log_probs
from numgpt.tuning.start import Tuner, prepare
from numgpt.tuning.template import Template
from numgpt.tuning.tuned import Tuned
from numgpt.verify import cases, mutants
from stages import later

CONSTANT = ("old", "advantages", "old_values", "returns")


def model_and_batch(seed=0):
    case = cases.make("ppo-model", seed)
    return case.target, (*case.inputs, *(case.options[name] for name in CONSTANT))


def gradient(model, batch):
    model.zero_grad()
    loss, saved = model.forward(*batch)
    model.backward(saved)
    return loss, model.grads.copy()


# -- the model


@pytest.mark.parametrize("name", [later("ppo-model")])
def test_complex_step_agrees_within_1e_12_in_all_parameters(name):
    inputs, options = cases.make(name, seed=1).arguments()
    report = check(*inputs, method="complex", mode="every", **options)
    assert report.ok, report
    assert all(f.checked == f.total for f in report.gradients)
    assert max(f.error for f in report.gradients) <= 1e-12


WRONG = ["ppo-model-advantages", "ppo-model-weight", "ppo-model-critic"]  # ppo-model-old has no derivative by a complex step


@pytest.mark.parametrize("planted", [None, *WRONG])
def test_a_complex_step_in_a_random_direction_sees_the_mistakes_of_its_backward(planted):
    model, batch = model_and_batch()
    direction = np.random.default_rng(1).standard_normal(model.values.size)
    with mutants.apply(*([planted] if planted else [])):
        _, grads = gradient(model, batch)
    bent = model.astype(complex)
    bent.values = model.values + 1e-30j * direction
    by_step = bent(*batch).imag / 1e-30
    # Sums of 400 products: rounding is some 1e-15 of them. The smallest mistake is of order 0.01.
    assert (abs(grads @ direction - by_step) <= 1e-12 * np.abs(grads * direction).sum()) == (planted is None)


def written_out(model, ids, targets, old, advantages, old_values, returns):
    """The loss by loops over rows and tokens, of the whole table of probabilities."""
    total, n = 0.0, 0
    for row, (sequence, answer) in enumerate(zip(ids, targets)):
        x = model.body(sequence[None])
        logp, values = log_softmax(model.head.logits(x))[0], model.task(sequence[None])[0]
        for t, token in enumerate(answer):
            if token == -100:
                continue
            ratio, a = math.exp(logp[t, token] - old[row, t]), advantages[row, t]
            total -= min(ratio * a, min(max(ratio, 1 - model.policy.eps), 1 + model.policy.eps) * a)
            near = old_values[row, t] + min(max(values[t] - old_values[row, t], -model.value.eps), model.value.eps)
            total += model.value_weight / 2 * max((values[t] - returns[row, t]) ** 2, (near - returns[row, t]) ** 2)
            n += 1
    return total / n


@pytest.mark.parametrize("planted", [None, "ppo-model-old", "ppo-model-count"])
def test_the_loss_is_a_mean_over_the_answers_tokens_of_what_loops_say(planted):
    model, batch = model_and_batch()
    with mutants.apply(*([planted] if planted else [])):
        loss = model.forward(*batch)[0]
    assert (loss == pytest.approx(written_out(model, *batch), rel=1e-13)) == (planted is None)
    assert planted or model(*batch) == pytest.approx(loss, rel=1e-15)


def test_before_the_first_update_the_ratio_is_1_and_the_gradient_is_the_plain_one_of_the_policy():
    model, (ids, targets, _, advantages, _, _) = model_and_batch()
    model.value_weight, counts = 0.0, targets != -100
    logp, values = model.judge(ids, targets)
    loss, grads = gradient(model, (ids, targets, logp, advantages, values, values))
    # -sum(a * log p) / n: that of the log-probabilities of good tokens, and against it that of bad ones
    a = np.where(counts, advantages, 0) / counts.sum()
    assert loss == pytest.approx(-a.sum(), rel=1e-14)
    model.zero_grad()
    x, saved_body = model.body.forward(ids)
    _, saved = HeadLogProbs(model.head).forward(x, targets)
    model.body.backward(HeadLogProbs(model.head).backward(-a, saved), saved_body)
    assert np.abs(grads - model.grads).max() <= 1e-14 * np.abs(grads).max()


@pytest.mark.parametrize("n, pieces", [(2, 1), (1, 3), (3, 2)])
def test_pieces_and_shards_add_up_to_the_whole_batch(n, pieces):
    model, batch = model_and_batch()
    batch = tuple(array[::-1] for array in batch)  # a row that counts comes last
    loss, whole = gradient(model, batch)
    with Shards(model, n, pieces=pieces) as shards:
        assert shards.backward(*batch) == pytest.approx(loss, rel=1e-13)
    assert np.abs(model.grads - whole).max() <= 1e-13 * np.abs(whole).max()


def test_a_batch_without_its_rollout_s_numbers_is_told():
    model, (ids, targets, *rest) = model_and_batch()
    with pytest.raises(ValueError, match=r"returns of one shape \(B, T\); got \(5, 7\), \(5, 7\), \(7,\)"):
        model.count(ids, targets, rest[0][0])


def test_it_comes_back_from_its_file_with_its_values(tmp_path):
    model, batch = model_and_batch()
    model.save(tmp_path / "m.safetensors")
    back = files.load(tmp_path / "m.safetensors")
    assert isinstance(back, ActorCritic) and (back.policy.eps, back.value.eps, back.value_weight) == (0.2, 0.5, 0.3)
    assert back(*batch) == model(*batch)


# -- a bandit

ARMS = Template("prompts", 3)  # tokens 0, 1, 2, and those of a turn
END = ARMS.special["end"]
WORTH_OF = {(END,): -1.0, (0, END): 0.5, (1, END): 1.5, (2, END): 0.0}  # what else there is has not ended


def bandit(**more) -> tuple[ActorCritic, PromptData]:
    config = GPTConfig(n_vocab=ARMS.n_vocab, n_ctx=4, n_layer=1, n_head=1, n_embd=8, std=0.3)
    model = ActorCritic(GPT(config, seed=2), ARMS, rng=np.random.default_rng(2))
    prompt = (np.array([ARMS.special["user"], ARMS.special["assistant"]]),)
    rows = Rows("prompts", [prompt] * 64, [(2,)] * 64, None, [])
    score = lambda answers: np.array([WORTH_OF.get(tuple(response.tolist()), 0.0) for response in answers.responses])
    data = PromptData(rows, rows, ARMS, None, reward=score, response=2, **{"max_kl": 1000.0, **more})
    data.begins_with(model)
    return model, data


def of_answers(model):
    """The log-probability of every answer there is."""
    prompt = [ARMS.special["user"], ARMS.special["assistant"]]
    every = [(END,), *itertools.product((token for token in range(ARMS.n_vocab) if token != END), range(ARMS.n_vocab))]
    found = []
    for answer in every:
        ids, targets = np.array([[*prompt, *answer]]), np.full((1, 2 + len(answer)), -100)
        targets[0, 1:-1] = answer
        found.append(float(log_probs(model, ids, targets).sum()))
    return every, np.array(found)


def test_ppo_comes_to_the_optimum_of_a_bandit():
    """The best that score - beta * KL can be is known: answers as likely as reference * exp(score / beta), normalized."""
    model, data = bandit(kl_weight=0.5, rollout=128, lam=1.0)
    settings = Settings(steps=60, batch=64, lr=1e-2, min_lr=1e-3, warmup=0, betas=(0.9, 0.99), weight_decay=0.0, shards=1)
    every, start = of_answers(model)
    with Tuner(model, data, settings) as trainer:
        scores = np.array([(WORTH_OF.get(one, 0.0) - data.mean) / data.std if one[-1] == END else -2.0 for one in every])
        best = 0.5 * np.log(np.exp(start + scores / 0.5).sum())
        gained = []
        for step in range(61):
            if step in (0, 60):
                _, logp = of_answers(model)
                gained.append((np.exp(logp) * (scores - 0.5 * (logp - start))).sum())
            if step < 60:
                trainer.step()
    assert math.exp(logp[every.index((1, END))]) > 3 * math.exp(start[every.index((1, END))])
    assert gained[0] < gained[1] <= best + 1e-6
    assert best - gained[1] < 0.05 * (best - gained[0]), (gained, best)
