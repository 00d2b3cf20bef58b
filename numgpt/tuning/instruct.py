"""Instruction tuning: a GPT learns to answer, and only the answers are its lesson."""

import math
from collections.abc import Iterator

import numpy as np

from numgpt.layers.inputs import IGNORE
from numgpt.tuning.data import ExampleData, best_model
from numgpt.tuning.encoding import PAD
from numgpt.tuning.packing import Packed, deal, packed
from numgpt.tuning.talk import answer
from numgpt.tuning.tuned import Tuned

ROW = 256  # tokens of a row, if the longest example has no more and nothing else is said
SHOWN = 5  # answers below the last line of a run
TURNS = 4  # sets the generator of what is a conversation apart from others
NUMBERS = 1 << 24  # scores that an evaluation holds at once


class Instructed(Tuned):
    """A GPT whose loss is of responses alone, over rows in which several examples are packed.

    ids, targets, segments (B, T) -> loss, a number

        ids        <user> a d d ... <assistant> 4     2     <end>  <user> s o ...
        targets    -      - - - ... 4           2     <end> -      -      - - ...      - does not count
        segments   0      0 0 0 ... 0           0     0     0      1      1 1 ...

    Forward   loss = head(body(ids, segments), targets)
    Backward  body.backward(head.backward(dloss))
              -- no target is in a prompt, so a prompt's tokens have a gradient through the response alone; and none sees
              -- what stands in another segment
    Saved     what body and head saved

    All that is a GPT's own. The mean is over a batch's response tokens, <end> among them, so that a long answer weighs more
    than a short one, and the examples of a batch one by one give the same, summed.
    """


class InstructData(ExampleData):
    """Prompts and responses, packed.

    turns   the share of rows that are, in place of those that were packed, turns of one conversation, which see what was said
            before: examples drawn at random, for packed ones are of like lengths, and their borders would be learned by heart.
            What numgpt chat remembers looks like that, and places behind the longest example are met nowhere else
    """

    forms = (("exact", "{:.1%} exact"), ("perplexity", "perplexity {:.2f}"))

    def __init__(self, *parts, turns: float = 0.0, **more):
        if not 0 <= turns <= 1:
            raise ValueError(f"turns is a share of rows, from 0 to 1; got {turns}")
        super().__init__(*parts, **more)
        self.turns = turns

    def prepare(self, settings, n_ctx):
        longest = max(self.train.T, self.kept.T)
        T = settings.tokens or min(n_ctx, max(longest, ROW))
        if T > n_ctx:
            raise ValueError(f"rows of {T} tokens do not fit into the model's context of {n_ctx}")
        if T < longest:
            raise ValueError(f"rows of {T} tokens have no room for the longest example, which has {longest}: say --tokens {longest} or more")
        self.B, self.T, self.seed = settings.batch, T, settings.seed
        self.rows, self.kept_rows = packed(self.train, T), packed(self.kept, T)
        self.dealt = deal(len(self.rows), self.B, seed=settings.seed)

    @property
    def steps_per_epoch(self):
        return len(self.rows) / self.B

    def taken(self, rows: Packed, which: np.ndarray):
        return rows.ids[which], rows.targets[which], rows.segments[which]

    def batch(self, step):
        ids, targets, segments = self.taken(self.rows, self.dealt(step))
        if self.turns:
            rng = np.random.default_rng((self.seed, step, TURNS))
            for row in np.flatnonzero(rng.random(self.B) < self.turns):
                ids[row], targets[row], segments[row] = self.conversation(rng)
        return ids, targets, segments

    def conversation(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A row of examples drawn at random, up to the first that has no room: one segment, and what is padded another."""
        ids, targets, segments = np.full(self.T, PAD), np.full(self.T, IGNORE), np.ones(self.T, np.int64)
        start = 0
        for i in rng.integers(len(self.train), size=self.T).tolist():
            (sequence,), (begin,) = self.train.ids[i], self.train.begins[i]
            stop = start + len(sequence)
            if stop > self.T:
                break
            ids[start:stop], segments[start:stop] = sequence, 0
            targets[start + begin - 1:stop - 1] = sequence[begin:]
            start = stop
        return ids, targets, segments

    def held_out(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for start in range(0, len(self.kept_rows), self.B):
            yield self.taken(self.kept_rows, np.arange(start, min(start + self.B, len(self.kept_rows))))

    def measure(self, trainer):
        """The loss of a response's token, and the share of responses that are right in every one. With the response so far
        given, that is what greedy decoding would write: up to the first wrong token both see the same."""
        total = count = wrong = 0
        for ids, targets, segments in self.held_out():
            counted = targets != IGNORE
            total += trainer.loss(ids, targets, segments) * counted.sum()
            count += counted.sum()
            missed = best(trainer.model, trainer.model.body(ids, segments=segments)[counted]) != targets[counted]
            examples = np.arange(len(ids))[:, None] * (self.T + 1) + segments
            wrong += len(np.unique(examples[counted][missed]))
        loss = float(total / count)
        return {"val_loss": loss, "exact": 1 - wrong / len(self.kept), "perplexity": math.exp(min(loss, 700))}

    def shown(self, trainer):
        """Prompts that are held out, and what the run's best model answers."""
        model, whose = best_model(trainer)
        lines = [f"{whose}, on prompts held out:"]
        for (ids,), (begin,) in list(zip(self.kept.ids, self.kept.begins))[:SHOWN]:
            text = [self.template.text(part, self.tokenizer) for part in (ids[1:begin - 1], ids[begin:])]
            said = answer(model, self.template, self.tokenizer, ids[:begin].tolist(), len(ids) - begin)
            lines.append(f"{text[0]} -> {said}" + ("" if said == text[1] else f"   (right: {text[1]})"))
        return "\n".join(lines)


def best(model, x: np.ndarray) -> np.ndarray:
    """x (N, C), what came out of the body -> (N,) the token of the highest score after each."""
    n = max(1, NUMBERS // model.config.n_vocab)
    return np.concatenate([model.head.logits(x[i:i + n]).argmax(-1) for i in range(0, len(x), n)])
