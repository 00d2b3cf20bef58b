"""Speaking with a model that was taught to answer: token by token, up to <end>."""

from collections.abc import Iterator, Sequence

import numpy as np

from numgpt.layers.inputs import positive
from numgpt.sample import Decoder, Filters
from numgpt.sample.filters import draw, only
from numgpt.text import StreamDecoder
from numgpt.tuning.template import Template


class Talk:
    """A conversation: what was said before stands before each new prompt, as far as the context has room.

        talk = Talk(model, template, tokenizer, n_tokens=200, temperature=0.8, seed=1)
        for text in talk.ask("add 12 and 30"):     # as it is made
            ...
        talk.turns                                 # [("add 12 and 30", "42")]

    n_tokens   the most tokens of an answer
    single     each prompt is a conversation of its own
    seed       None: another conversation each time
    filters    see Filters

    Of the last answer, forgotten says how many turns had no room before it and are forgotten for good, and cut, if it did
    not come to its end, why: "tokens" (there were n_tokens of it) or "context" (it is full).
    """

    def __init__(self, model, template: Template, tokenizer, *, n_tokens: int = 200, single: bool = False, seed: int | None = None, **filters):
        self.model, self.template, self.tokenizer, self.single = model, template, tokenizer, single
        self.n_tokens, self.filters, self.rng = positive(n_tokens, "n_tokens"), Filters(**filters), np.random.default_rng(seed)
        self.turns: list[tuple[str, str]] = []
        self.forgotten, self.cut = 0, None

    def ask(self, prompt: str) -> Iterator[str]:
        """The answer in pieces. ValueError, if the prompt cannot be put into tokens or has no room: nothing is said then."""
        ids = self._ids(prompt)
        n_ctx = self.model.config.n_ctx
        n = min(self.n_tokens, n_ctx - len(ids) + 1)  # the last token is not read again
        return self._answer(prompt, ids, n)

    def _ids(self, prompt: str) -> list[int]:
        if not prompt.strip():
            raise ValueError("a prompt is empty")
        n_ctx = self.model.config.n_ctx
        alone, _ = self.template.conversation([], prompt, self.tokenizer, n_ctx)
        room = max(len(alone), n_ctx + 1 - min(self.n_tokens, n_ctx // 2))  # the answer has half of the context, if it wants it
        ids, self.forgotten = self.template.conversation([] if self.single else self.turns, prompt, self.tokenizer, room)
        self.turns = self.turns[self.forgotten:]
        return ids

    def _answer(self, prompt: str, ids: list[int], n: int) -> Iterator[str]:
        stream, made, self.cut = StreamDecoder(self.tokenizer), [], "tokens" if n == self.n_tokens else "context"
        try:
            for token in answering(self.model, self.template, self.tokenizer, ids, n, rng=self.rng, filters=self.filters):
                if token is None:
                    self.cut = None
                    break
                made.append(token)
                text = stream.feed(token)
                if text:
                    yield text
            text = stream.finish()
            if text:
                yield text
        finally:  # what was said is said, also to somebody who has had enough
            self.turns.append((prompt, self.tokenizer.decode(made)))

    def reset(self) -> None:
        """Begin anew."""
        self.turns = []


def answering(model, template: Template, tokenizer, ids: Sequence[int], n_tokens: int, *, rng: np.random.Generator | None = None,
              filters: Filters = Filters()) -> Iterator[int | None]:
    """The tokens of an answer to ids, which end with <assistant>: n_tokens at most, then None if <end> came.

    No other special token is ever drawn, be it the template's or the tokenizer's, nor one that has no text.
    rng: None only for a temperature of 0
    """
    if "end" not in template.special:
        raise ValueError(f"a model tuned to {template.kind} has no <end>, and does not answer")
    end, silent = template.special["end"], {getattr(tokenizer, "end", None), *getattr(tokenizer, "special", {}).values()}
    allowed = np.array([*(token for token in range(tokenizer.n_vocab) if token not in silent), end])
    decoder = Decoder(model, [ids])
    for i in range(positive(n_tokens, "n_tokens")):
        token = draw(filters(only(decoder.scores[0], allowed), decoder.texts[0]), rng)
        yield None if token == end else token
        if token == end or i == n_tokens - 1:
            return
        decoder.feed([token])


def answer(model, template: Template, tokenizer, ids: Sequence[int], n_tokens: int) -> str:
    """The likeliest answer, token by token, as a text."""
    made = answering(model, template, tokenizer, ids, n_tokens, filters=Filters(temperature=0.0))
    return tokenizer.decode([token for token in made if token is not None])
