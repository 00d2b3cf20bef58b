"""Pairs of answers, chosen and rejected: what a reward model and a policy learn from, and what is measured of them."""

import hashlib
import math
from collections.abc import Callable

import numpy as np

from numgpt.files import FormatError
from numgpt.flat import Flat
from numgpt.threads import one_blas_thread
from numgpt.tuning import adapters, files, synthetic
from numgpt.tuning.data import ExampleData, best_model
from numgpt.tuning.dpo import DPOModel
from numgpt.tuning.encoding import Rows
from numgpt.tuning.kl import Answers

REFERENCE = "reference.safetensors"  # in a run's folder, the model that the policy began as
SAMPLED = 256  # prompts to which an evaluation has the policy answer
SAMPLING = 0  # the seed of each evaluation, so that they differ by the policy alone


def in_order(margins: np.ndarray) -> float:
    """The share of pairs whose chosen answer is ahead. One with none ahead counts half: whoever says nothing is right by chance."""
    return float((margins > 0).mean() + (margins == 0).mean() / 2)


def kept_as(path, kind: type, template):
    """The model of that kind that was kept in a run's folder."""
    model = files.load(path)
    if not isinstance(model, kind) or model.template != template:
        raise FormatError(f"{path} is not the model that this run began as, so it cannot go on as it was: bring back the file that there was")
    return model


def before_and_after(data, trainer, answered: Callable) -> str:
    """Answers to prompts held out of the model that a run began as, and of its best, which it leaves.

    answered: model -> (prompt, answer) of each
    """
    lines = [f"ended early: {trainer.ended}"] if trainer.ended else []
    before, after = answered(data.reference), None
    model, whose = best_model(trainer)
    if trainer.folder is not None and trainer.best_at == 0:
        lines.append(f"no step was better than the start; the answers of {whose} to prompts held out:")
    else:
        lines.append(f"answers to prompts held out, before and after, of {whose}:")
        after = answered(model)
    for i, (prompt, answer) in enumerate(before[:3]):
        answers = [answer, after[i][1]] if after else [answer]
        lines += ["  " + " ".join(prompt.splitlines()), *("    " + " ".join(said.splitlines()) for said in answers)]
    return "\n".join(lines)


class RewardData(ExampleData):
    """Pairs for a reward model."""

    forms = (("accuracy", "{:.1%} in order"), ("margin", "margin {:.2f}"))

    def taken(self, rows, which):
        batch = rows.at(which)
        return batch.ids, batch.last

    def measure(self, trainer) -> dict[str, float]:
        """The loss on what is held out, the share of pairs in the right order (half of those that have
        none), and by how much the chosen answer scores higher, on average."""
        total, margins = 0.0, []
        for ids, last in self.held_out():
            total += trainer.loss(ids, last) * len(ids)
            r = trainer.model.score(ids, last)
            margins.append(r[:, 0] - r[:, 1])
        margins = np.concatenate(margins)
        return {"val_loss": total / len(self.kept), "accuracy": in_order(margins), "margin": float(margins.mean(dtype=np.float64))}

    def shown(self, trainer):
        """Pairs that are held out, with their rewards."""
        batch, lines = self.kept.at(np.arange(min(3, len(self.kept)))), ["rewards of answers held out, chosen and rejected:"]
        for i, rewards in enumerate(best_model(trainer)[0].score(batch.ids, batch.last)):
            ids, begins = self.kept.ids[i], self.kept.begins[i]
            lines.append(f"  {self.template.text(ids[0][1:begins[0] - 1], self.tokenizer)}")
            lines += [f"    {r:+.2f}  {self.template.text(text[begin:], self.tokenizer)}" for r, text, begin in zip(rewards, ids, begins)]
        return "\n".join(lines)


class PolicyData(ExampleData):
    """What reads the answers of a policy, and watches how far it goes from the model that it began as.

    max_kl   nats for each answer, at which a run ends; None: it has no bound
    """

    max_kl: float | None = None

    def texts(self, answers) -> list[tuple[str, str]]:
        """Each prompt and what was answered."""
        raise NotImplementedError

    def judgement(self, answers) -> dict[str, float]:
        """Of drawn examples, whose answers can be known: the share that is right, and the share that is without a sentence."""
        if self.drawn is None:
            return {}
        texts = self.texts(answers)
        return {"right": float(np.mean([synthetic.right(*text) for text in texts])),
                "short": float(np.mean([not said.startswith(synthetic.LONG) for _, said in texts]))}

    def within(self, metrics) -> bool:
        return self.max_kl is None or metrics["kl"] <= self.max_kl

    def ended(self, metrics):
        if self.within(metrics):
            return None
        return f"KL to the start is {metrics['kl']:.2f} nats an answer, above the {self.max_kl:g} it was given"


class DPOData(PolicyData):
    """Pairs for a policy, with their log-probabilities by the reference, which stays at hand to measure KL by."""

    forms = (("accuracy", "{:.1%} in order"), ("margin", "margin {:.2f}"), ("kl", "KL {:.2f} nats an answer"),
             ("right", "{:.1%} right"), ("short", "{:.1%} short"))

    def __init__(self, *parts, max_kl: float | None = None, **more):
        super().__init__(*parts, **more)
        if max_kl is not None and not 0 < max_kl < math.inf:
            raise ValueError(f"max_kl, the nats of KL that an answer may have, must be above 0 and finite; got {max_kl}")
        self.max_kl, self.reference, self.known = max_kl, None, None
        if max_kl is not None:
            self.forms = tuple((name, f"KL {{:.2f}} of {max_kl:g} nats an answer" if name == "kl" else form) for name, form in self.forms)

    def begins_with(self, model, *, taught=False):
        self.reference = adapters.plain(model)  # as it will be in the run's folder, in the order of its values too

    def restore(self, folder):
        self.reference = kept_as(folder / REFERENCE, DPOModel, self.template)

    def models(self) -> dict[str, Flat]:
        return {REFERENCE: self.reference}

    def prepare(self, settings, n_ctx):
        super().prepare(settings, n_ctx)
        if self.reference is None:
            raise ValueError("DPO holds a policy against the model that it began as: say data.begins_with(model)")
        with one_blas_thread():
            self.known = {id(rows): self._log_probs(rows) for rows in (self.train, self.kept)}

    def _log_probs(self, rows: Rows) -> np.ndarray:
        """(n, 2), by the reference. The same bits at any time, batches being these, and of held-out ones the evaluation's."""
        found = []
        for start in range(0, len(rows), self.B):
            batch = rows.at(np.arange(start, min(start + self.B, len(rows))))
            found.append(self.reference.log_probs(batch.ids, batch.targets))
        return np.concatenate(found)

    def taken(self, rows, which):
        batch = rows.at(which)
        return batch.ids, batch.targets, self.known[id(rows)][which]

    def measure(self, trainer) -> dict[str, float]:
        """Of the pairs held out, by the reward that the policy implies, beta * log(policy / reference): the loss, the share in
        the right order (half of those that have none), the margin; the log-probabilities of chosen and rejected; and of
        sampled answers their KL."""
        model, total, logps, rewards = trainer.model, 0.0, [], []
        for ids, targets, reference in self.held_out():
            total += trainer.loss(ids, targets, reference) * len(ids)
            logp = model.log_probs(ids, targets)
            logps.append(logp)
            rewards.append(model.dpo.rewards(logp, reference))
        logp, reward = (np.concatenate(arrays).astype(np.float64) for arrays in (logps, rewards))
        margin = reward[:, 0] - reward[:, 1]
        answers = self.answers(model)
        kl = float(answers.divergence(model, self.reference).sum())
        metrics = {"val_loss": total / len(self.kept), "accuracy": in_order(margin),
                   "margin": float(margin.mean()), "chosen": float(logp[:, 0].mean()), "rejected": float(logp[:, 1].mean()),
                   "kl": kl / len(answers.ids), "kl_per_token": kl / max(1, answers.n_tokens),
                   "answer_tokens": answers.n_tokens / len(answers.ids)}
        return metrics | self.judgement(answers)

    def prompts(self) -> list[np.ndarray]:
        """Of held-out examples, as many as an evaluation samples answers to, spread over them."""
        n = min(SAMPLED, len(self.kept))
        return [self.kept.ids[i][0][:self.kept.begins[i][0]] for i in (np.arange(n) * len(self.kept) // n).tolist()]

    def answers(self, policy) -> Answers:
        """The policy's own, as long as the longest in the examples at most."""
        longest = max(len(ids) - begin for rows in (self.train, self.kept)
                      for sequences, begins in zip(rows.ids, rows.begins) for ids, begin in zip(sequences, begins))
        return Answers.drawn(policy, self.prompts(), longest, end=self.template.special["end"], seed=SAMPLING)

    def texts(self, answers: Answers) -> list[tuple[str, str]]:
        """Each prompt and what was answered."""
        text = self.template.text
        return [(text(prompt, self.tokenizer), text(ids, self.tokenizer)) for prompt, ids in zip(answers.prompts, answers.ids)]

    def judged(self, metrics):
        return metrics["val_loss"] if self.within(metrics) else math.inf

    def shown(self, trainer):
        return before_and_after(self, trainer, lambda model: self.texts(self.answers(model)))

    def fingerprint(self):
        digest = hashlib.sha256(super().fingerprint().encode())
        digest.update(self.reference.values.tobytes())
        return digest.hexdigest()
