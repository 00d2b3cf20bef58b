"""PPO: the model's gradient, what its loss is of, a bandit whose optimum is known, and runs: their bound and their going on."""

import itertools
import json
import math

import numpy as np
import pytest

from numgpt import GPT, GPTConfig
from numgpt.files import FormatError
from numgpt.gradcheck import check
from numgpt.layers import HeadLogProbs
from numgpt.layers.ops import log_softmax
from numgpt.text import CharTokenizer
from numgpt.training.folder import read_metrics
from numgpt.training.settings import Settings
from numgpt.training.shards import Shards
from numgpt.tuning.data import best_model
from numgpt.tuning import adapters, files, synthetic
from numgpt.tuning.encoding import Rows
from numgpt.tuning.ppo import ActorCritic
from numgpt.tuning.prompts import REWARD, PromptData
from numgpt.tuning.reward import RewardModel
from numgpt.tuning.rollouts import Answered, log_probs
from numgpt.tuning.start import Tuner, prepare
from numgpt.tuning.template import Template
from numgpt.tuning.tuned import Tuned
from numgpt.verify import cases, mutants
from stages import later
from tuned_models import moved, tiny_start

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
    model, data = bandit(kl_weight=0.5, rollout=64, lam=1.0, ppo_epochs=2)
    settings = Settings(steps=40, batch=32, lr=2e-2, min_lr=2e-3, warmup=0, betas=(0.9, 0.99), weight_decay=0.0, shards=1)
    every, start = of_answers(model)
    with Tuner(model, data, settings) as trainer:
        scores = np.array([(WORTH_OF.get(one, 0.0) - data.mean) / data.std if one[-1] == END else -2.0 for one in every])
        best = 0.5 * np.log(np.exp(start + scores / 0.5).sum())
        gained = []
        for step in range(41):
            if step in (0, 40):
                _, logp = of_answers(model)
                gained.append((np.exp(logp) * (scores - 0.5 * (logp - start))).sum())
            if step < 40:
                trainer.step()
    assert math.exp(logp[every.index((1, END))]) > 3 * math.exp(start[every.index((1, END))])
    assert gained[0] < gained[1] <= best + 1e-6
    assert best - gained[1] < 0.01 * (best - gained[0]), (gained, best)


# -- runs


def reward_model(seed=4):
    base, _ = tiny_start()
    return RewardModel(GPT(base.config, seed=seed), Template("preference", base.template.n_base), rng=np.random.default_rng(seed))


def written(path, n, seed=0):
    items = synthetic.draw("instruct", n, seed).items
    path.write_text("".join(json.dumps({"prompt": item.prompt}) + "\n" for item in items))
    return str(path)


def begun(tmp_path, base=None, **more):
    start, tokenizer = tiny_start()
    reward_model().save(tmp_path / "reward")
    how = dict(validation=written(tmp_path / "v.jsonl", 12, seed=1), steps=4, batch=4, lr=1e-2, eval_every=2, rollout=10, response=6, ppo_epochs=2)
    return prepare("ppo", base or start, written(tmp_path / "d.jsonl", 20), tokenizer=tokenizer,
                   **{**how, "max_kl": 100.0, "reward": tmp_path / "reward", **more})


def numbers_of(line):
    return {name: value for name, value in line.items() if name not in ("seconds", "tokens_per_s")}


def test_a_run_goes_on_bit_for_bit_with_the_two_models_that_lie_in_its_folder(tmp_path):
    with begun(tmp_path, folder=tmp_path / "whole") as whole:
        whole.run()
        assert whole.optimizer.n_steps == 4 * whole.data.n_updates == 4 * 2 * 3  # of 10 answers, three minibatches an epoch
    with begun(tmp_path, folder=tmp_path / "parts", steps=2) as first:
        first.settings = Settings.from_dict({**first.settings.to_dict(), "steps": 4})
        moved(first, 2)
        first.save()
    (tmp_path / "reward").unlink()
    with Tuner.resume(tmp_path / "parts") as rest:
        assert rest.optimizer.n_steps == 2 * 2 * 3
        rest.run()
        assert np.array_equal(rest.model.values, whole.model.values) and np.array_equal(rest.optimizer.m, whole.optimizer.m)
        for name, model in (("reference", rest.data.reference), ("score", rest.data.score)):
            assert np.array_equal(model.values, getattr(whole.data, name).values)  # no step moved them
    final = [numbers_of(read_metrics(tmp_path / name)[-1]) for name in ("whole", "parts")]
    assert final[0] == final[1] and final[0]["kl"] > 0
    reward_model(seed=5).save(tmp_path / "parts" / REWARD)
    with pytest.raises(FormatError, match="the run cannot go on as it was"):
        Tuner.resume(tmp_path / "parts", steps=9)


def test_what_is_measured_is_what_the_policy_s_own_answers_say(tmp_path):
    with begun(tmp_path) as trainer:
        start = trainer.evaluate()
        assert start["kl"] == start["kl_per_token"] == 0
        moved(trainer, 2)
        metrics, data = trainer.evaluate(), trainer.data
        assert metrics == trainer.evaluate()  # the same answers are drawn
        assert metrics["kl"] > 0 and trainer.data.judged(metrics) == -metrics["reward"]
        answers = data.answered(trainer.model, data.kept, (0, 6))
        raw = data.score.score(answers.ids, answers.last).astype(np.float64)
        scores = [(one - data.mean) / data.std if ended else -2 for one, ended in zip(raw, answers.ended)]
        assert metrics["reward"] == pytest.approx(np.mean(scores), rel=1e-6) and metrics["ended"] == answers.ended.mean()
        assert metrics["kl"] / metrics["kl_per_token"] == pytest.approx(metrics["answer_tokens"])


def test_scores_are_in_the_unit_of_the_start_model_s_answers_and_one_that_did_not_end_has_minus_2(tmp_path):
    with begun(tmp_path) as trainer:
        data, end = trainer.data, trainer.data.end
        raw = data._raw(data.answered(data.reference, data.train, (0, 5)))
        assert (data.mean, data.std) == (raw.mean(), raw.std())
        answers = Answered.of([np.array([3, 4])] * 2, [np.array([5, end]), np.array([5, 6])], [None] * 2, end)
        ended, cut = data.scores(answers)
        assert cut == -2 and ended == pytest.approx((data._raw(answers)[0] - data.mean) / data.std)


def test_the_critic_begins_as_the_reward_model(tmp_path):
    with begun(tmp_path) as trainer:
        data, answers = trainer.data, trainer.data.answered(trainer.model, trainer.data.kept, (0, 1))
        values = trainer.model.task(answers.ids)[np.arange(len(answers)), answers.last]
        expected = (data.score.score(answers.ids, answers.last) - data.mean) / data.std
        assert np.abs(values - expected).max() <= 1e-4 * np.abs(expected).max()  # float32, through a mean that is taken off


def test_a_policy_that_was_trained_so_goes_on_with_its_critic(tmp_path):
    with begun(tmp_path, folder=tmp_path / "one", steps=1, lr=3e-2) as trainer:
        trainer.run()
        first, _ = best_model(trainer)
    with begun(tmp_path, base=tmp_path / "one") as trainer:
        assert all(np.array_equal(now.value, then.value) for now, then in zip(trainer.model.task.params(), first.task.params(), strict=True))
        assert not np.array_equal(trainer.model.task.body.embedding.table.value, trainer.data.score.body.embedding.table.value)


def test_a_reward_model_in_memory_with_adapters_and_frozen_parameters_lies_merged_in_the_folder_and_stays_as_it_was(tmp_path):
    reward = reward_model()
    adapters.add(reward, 2, layers="ffn")
    for layer in adapters.adapters(reward).values():
        layer.lora_b.value[...] = 0.3
    with begun(tmp_path, reward=reward, folder=tmp_path / "run", steps=1) as trainer:
        answers = trainer.data.answered(trainer.model, trainer.data.kept, (0, 1))
        scores = trainer.data._raw(answers)
        assert np.abs(scores - reward.score(answers.ids, answers.last)).max() <= 1e-5 * np.abs(scores).max() and adapters.adapters(reward)
        assert np.abs(scores - reward_model().score(answers.ids, answers.last)).max() > 1e-2 * np.abs(scores).max()
        trainer.run()
    with Tuner.resume(tmp_path / "run", steps=2) as again:
        assert np.array_equal(again.data._raw(answers), scores) and again.source["reads"]["reward"] == REWARD


def test_a_reward_that_is_a_function_and_a_folder_do_not_go_together(tmp_path):
    with pytest.raises(ValueError, match="a reward that is a function is in no file, so a run with a folder could not go on"):
        begun(tmp_path, reward=lambda answers: answers.last.astype(float), folder=tmp_path / "run")


def test_an_answer_of_no_token_has_not_ended():
    answers = Answered.of([np.array([3, 4])] * 2, [np.array([], int), np.array([5])], [None] * 2, 5)
    assert answers.ended.tolist() == [False, True] and answers.last.tolist() == [1, 2]


def test_rewards_are_of_the_kl_alone_at_the_bound_and_of_the_fixed_price_up_to_half_of_it():
    _, data = bandit(max_kl=2.0)
    assert [data.leash(kl) for kl in (0.0, 1.0, 1.25, 1.5, 2.0, 9.0)] == [0, 0, 0.25, 0.5, 1, 1]


@pytest.mark.parametrize("max_kl", [0.05, later(0.1)])
def test_a_leash_keeps_the_policy_near_where_nothing_else_does(tmp_path, max_kl):
    found = []
    for bound in (max_kl, 1000.0):
        model, data = bandit(kl_weight=0.0, rollout=64, max_kl=bound)
        with Tuner(model, data, Settings(steps=10, batch=32, lr=3e-3, min_lr=3e-4, warmup=0, weight_decay=0.0, shards=1)) as trainer:
            found.append([trainer.step()["step_kl"] for _ in range(10)])
    # A first step, of eight updates, goes as far as its learning rate says; no later one knows less than it did.
    assert max(found[0]) <= 3 * max_kl and np.mean(found[0][4:]) <= max_kl < 10 * max_kl < found[1][-1]


def test_a_bound_that_is_exceeded_ends_the_run_and_the_best_model_is_from_within_it(tmp_path):
    with begun(tmp_path, folder=tmp_path / "run", max_kl=0.02, steps=20, eval_every=1, lr=3e-2) as trainer:
        trainer.run()
    evaluated = [line for line in read_metrics(tmp_path / "run") if "kl" in line]
    assert trainer.n_done < 20 and evaluated[-1]["kl"] > 0.02 and all(line["kl"] <= 0.02 for line in evaluated[:-1])
    assert "nats an answer, above the 0.02" in trainer.ended
    best = files.load(tmp_path / "run" / "best.safetensors")
    within = max(evaluated[:-1], key=lambda line: line["reward"])
    answers = trainer.data.answered(best, trainer.data.kept, (0, 6))
    assert trainer.data.scores(answers).mean() == pytest.approx(within["reward"], rel=1e-12)
    with Tuner.resume(tmp_path / "run", steps=60) as again:
        assert again.done and again.ended == trainer.ended


def test_dropout_is_not_at_work_neither_in_answers_nor_in_updates(tmp_path):
    base, _ = tiny_start()
    found = []
    for p in (0.0, 0.5):
        gpt = GPT(base.config.change(dropout_resid=p, dropout_attn=p), seed=1)
        (tmp_path / str(p)).mkdir()
        with begun(tmp_path / str(p), base=Tuned(gpt, base.template), reward=lambda answers: answers.last.astype(float)) as trainer:
            found.append(numbers_of(trainer.step()))
    assert found[0] == found[1]


def test_a_reward_model_that_is_none_or_another_model_s_is_told(tmp_path):
    base, _ = tiny_start()
    base.save(tmp_path / "start")
    with pytest.raises(FormatError, match="start is no reward model: numgpt align MODEL --by reward makes one"):
        begun(tmp_path, reward=tmp_path / "start")
    with pytest.raises(ValueError, match="PPO wants a score for answers: name a reward model's run"):
        begun(tmp_path, reward=None)
    RewardModel(GPT(base.config.change(n_vocab=60), seed=0), Template("preference", 55)).save(tmp_path / "other")
    with pytest.raises(FormatError, match="'user': 55.*it was made from another model"):
        begun(tmp_path, reward=tmp_path / "other")
    with pytest.raises(ValueError, match="where 6 have room beside an answer of 50: say a lower --response"):
        begun(tmp_path, response=50)
    with pytest.raises(ValueError, match="answers of 9999 tokens leave no room for a prompt in the model's context of 56: say a lower --response"):
        begun(tmp_path, response=9999)


def test_a_reward_model_of_another_tokenizer_of_the_same_size_is_refused(tmp_path):
    own, letters = synthetic.TOKENIZER, synthetic.ALPHABET
    for name, alphabet in (("same", letters), ("other", letters[1:] + chr(233))):
        (tmp_path / name / "tokenizer").mkdir(parents=True)
        reward_model().save(tmp_path / name / "best.safetensors")
        tokenizer = CharTokenizer(alphabet)
        assert tokenizer.n_vocab == own.n_vocab
        tokenizer.save(tmp_path / name / "tokenizer" / "characters.json")
    begun(tmp_path, reward=tmp_path / "same").close()
    with pytest.raises(FormatError, match="other has another tokenizer than the policy, and would take an answer's tokens for others"):
        begun(tmp_path, reward=tmp_path / "other")


def test_what_is_shown_is_of_the_best_model_with_its_step_or_says_that_no_step_was_better(tmp_path):
    with begun(tmp_path, folder=tmp_path / "run") as trainer:
        trainer.run()
        for best in (2, 0):
            trainer.best_at = best
            model = files.load(tmp_path / "run" / "best.safetensors") if best else trainer.data.reference
            model.values *= 1.5 if best else 1  # the last model, or that of another step, would answer otherwise
            model.save(tmp_path / "run" / "best.safetensors")
            said = trainer.data.shown(trainer).split("\n")
            expected = [(prompt, " ".join(answer.splitlines())) for prompt, answer in trainer.data.texts(trainer.data.answered(model, trainer.data.kept, (0, 6)))[:3]]
            if best:
                assert said[0] == f"answers to prompts held out, before and after, of {tmp_path}/run/best.safetensors (step 2):"
                assert said[3::3] == [f"    {answer}" for _, answer in expected]
            else:
                assert said[0] == f"no step was better than the start; the answers of {tmp_path}/run/best.safetensors (step 0) to prompts held out:"
                assert said[2::2] == [f"    {answer}" for _, answer in expected]


def test_the_share_of_answers_that_did_not_end_is_measured_where_there_are_any(tmp_path):
    with begun(tmp_path) as trainer:
        metrics = trainer.evaluate()
        assert metrics["unended"] == 1 - metrics["ended"] > 0 and "unended" in dict(trainer.data.forms)
        trainer.data.answered = lambda *_: Answered.of([np.array([3, 4])], [np.array([5, trainer.data.end])], [np.zeros(2)], trainer.data.end)
        assert trainer.evaluate()["ended"] == 1 and "unended" not in trainer.evaluate()


def test_a_batch_is_no_larger_than_a_rollout(tmp_path):
    start, tokenizer = tiny_start()
    more = dict(tokenizer=tokenizer, reward=lambda answers: np.zeros(len(answers)), response=6, steps=1)
    with prepare("ppo", start, written(tmp_path / "d.jsonl", 20), rollout=7, **more) as trainer:
        assert trainer.settings.batch == 7
    with pytest.raises(ValueError, match=r"of the 7 answers of a step \(--rollout\), 8 are to move .* \(--batch\): say --batch 7 or less"):
        begun(tmp_path, batch=8, rollout=7)


def test_a_run_with_another_model_in_the_place_of_its_reference_is_told(tmp_path):
    begun(tmp_path, folder=tmp_path / "run", steps=1).run().close()
    GPT(tiny_start()[0].config).save(tmp_path / "run" / "reference.safetensors")
    with pytest.raises(FormatError, match="reference.safetensors is not the model that this run began as"):
        Tuner.resume(tmp_path / "run", steps=2)


@pytest.mark.parametrize("option, value, sentence", [
    ("max_kl", math.nan, "max_kl, the nats of KL"), ("kl_weight", -1, "kl_weight must be"), ("gamma", 1.5, "gamma must be"),
    ("rollout", 0, "rollout"), ("clip_ratio", 1.0, "between 0 and 1"), ("tokens", 8, "--response says how many")])
def test_options_that_make_no_sense_are_told(tmp_path, option, value, sentence):
    with pytest.raises(ValueError, match=sentence):
        begun(tmp_path, **{option: value})
