"""Answers of a model that was taught to give some: token by token, up to <end>."""

from collections.abc import Iterator, Sequence

import numpy as np

from numgpt.layers.inputs import positive
from numgpt.sample import Filters
from numgpt.sample.decoder import Decoder
from numgpt.sample.filters import draw, only
from numgpt.tuning.template import Template


def answering(model, template: Template, tokenizer, ids: Sequence[int], n_tokens: int, *, rng: np.random.Generator | None = None,
              **filters) -> Iterator[int]:
    """The tokens of an answer to ids, which end with <assistant>: n_tokens at most, and <end> is none of them.

    None of the template's other tokens is ever drawn, nor one that the tokenizer has no text for.
    rng: None only for a temperature of 0; filters: see Filters
    """
    if "end" not in template.special:
        raise ValueError(f"a model tuned to {template.kind} has no <end>, and does not answer")
    filters, end = Filters(**filters), template.special["end"]
    allowed = [*range(tokenizer.n_vocab), end]
    decoder = Decoder(model, [ids])
    for i in range(positive(n_tokens, "n_tokens")):
        token = draw(filters(only(decoder.scores[0], allowed), decoder.texts[0]), rng)
        if token == end:
            return
        yield token
        if i < n_tokens - 1:
            decoder.feed([token])


def answer(model, template: Template, tokenizer, ids: Sequence[int], n_tokens: int, **options) -> str:
    """The same as a text."""
    return tokenizer.decode(list(answering(model, template, tokenizer, ids, n_tokens, **options)))
