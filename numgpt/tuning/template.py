"""What an example looks like in tokens: the special ones around its texts, and whose prediction counts.

A tuned model's vocabulary is its base's and, after it, a few ids that no text has:

    classify     <start> text <extract>
    pairs        <start> a <delimiter> b <extract>
    similarity   the same, and <start> b <delimiter> a <extract>
    choice       <start> context <delimiter> choice <extract>, for each choice
    instruct     <user> prompt <assistant> response <end>
    preference   the same with the chosen response, and with the rejected one
    prompts      <user> prompt <assistant>
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from numgpt.files import FormatError, short
from numgpt.layers.inputs import positive
from numgpt.tuning.lines import Bad

PAIR, TURN = ("start", "delimiter", "extract"), ("user", "assistant", "end")
SPECIAL = {"classify": ("start", "extract"), "pairs": PAIR, "similarity": PAIR, "choice": PAIR,
           "instruct": TURN, "preference": TURN, "prompts": TURN}


class TooLong(Bad):
    """An example that has more tokens than there is room for."""


@dataclass(frozen=True)
class Template:
    """The special tokens of a kind of examples: ids from n_base on, in the order of SPECIAL.

    template = Template("classify", n_base=50257)
    template.special["extract"], template.n_vocab      # 50258, 50259
    """
    kind: str
    n_base: int

    def __post_init__(self):
        if self.kind not in SPECIAL:
            raise ValueError(f"there is no template of kind {short(self.kind)}: choose one of {', '.join(SPECIAL)}")
        positive(self.n_base, "n_base")

    @property
    def special(self) -> dict[str, int]:
        return {name: self.n_base + i for i, name in enumerate(SPECIAL[self.kind])}

    @property
    def n_vocab(self) -> int:
        return self.n_base + len(SPECIAL[self.kind])

    def to_dict(self) -> dict:
        return {"kind": self.kind, "n_base": self.n_base, "special": self.special}

    @classmethod
    def from_dict(cls, content: dict) -> "Template":
        try:
            template = cls(content["kind"], content["n_base"])
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"this is no template of a tuned model: {error!r}; got {short(content)}") from None
        if content != template.to_dict():
            raise FormatError(f"a template of {template.kind} over {template.n_base} ids has the special tokens "
                              f"{template.special}; got {short(content.get('special'))}")
        return template

    def fits(self, kind: str) -> bool:
        """Whether examples of that kind can be written with this template's tokens."""
        return SPECIAL.get(kind) == SPECIAL[self.kind]

    # -- one example to sequences of ids

    def sequences(self, item, kind: str, tokenizer, n_ctx: int, *, truncate: bool = False, answer: int = 0) -> list[tuple[list[int], int]]:
        """The sequences of one example, each with the place of the first token whose prediction counts.

        Of a classified text, every token but the first is predicted (the auxiliary loss of GPT-1); of a turn, the
        response and its <end>. TooLong, if one is longer than n_ctx. With truncate, the end of a classified text is cut, or of
        the longer of two; of a turn the beginning of the prompt, whose end is nearest to the answer and often has the question
        (of both turns of a preference alike), but never a response.

        answer   tokens that prompts leave room for
        """
        special, limits = self.special, dict(n_ctx=n_ctx, truncate=truncate)
        if kind == "classify":
            [text] = _cut([self._ids(tokenizer, item.text)], 2, **limits)
            return [([special["start"], *text, special["extract"]], 1)]
        if kind in ("pairs", "similarity"):
            a, b = _cut([self._ids(tokenizer, text) for text in (item.a, item.b)], 3, **limits)
            return [self._pair(*texts) for texts in ([(a, b), (b, a)] if kind == "similarity" else [(a, b)])]
        if kind == "choice":
            context = self._ids(tokenizer, item.context)
            return [self._pair(*_cut([context, self._ids(tokenizer, choice)], 3, **limits)) for choice in item.choices]
        names = {"instruct": ("response",), "preference": ("chosen", "rejected"), "prompts": ()}[kind]
        responses = [[*self._ids(tokenizer, getattr(item, name)), special["end"]] for name in names]
        [prompt] = _cut([self._ids(tokenizer, item.prompt)], 2, **limits, response=max(map(len, responses), default=0), turn=True,
                        answer=answer)
        begin = [special["user"], *prompt, special["assistant"]]
        return [([*begin, *response], len(begin)) for response in responses or [[]]]

    def _pair(self, a: list[int], b: list[int]) -> tuple[list[int], int]:
        return [self.special["start"], *a, self.special["delimiter"], *b, self.special["extract"]], 1

    def _ids(self, tokenizer, text: str) -> list[int]:
        try:
            ids = tokenizer.encode(text)
        except ValueError as error:
            sentence = str(error).partition(": encode with replace=True")[0]  # of characters; there are no such options here
            sentence = sentence.replace("allow it with allowed_special, or take it out", "take it out, for an example's text may have none")
            raise Bad("not of the vocabulary", f"{short(text)}: {sentence}") from None
        if not ids:
            raise Bad("an empty text", f"{short(text)} has no tokens")
        return ids

    # -- chat

    def conversation(self, turns: Sequence[tuple[str, str]], prompt: str, tokenizer, n_ctx: int) -> tuple[list[int], int]:
        """<user> prompt <assistant> response <end> for each turn there was, then the new <user> prompt <assistant>.

        Where they are too long for n_ctx (leave room in it for the response), the oldest turns go: gives back the ids and
        how many turns were left out.
        """
        special = self.special
        ids = [special["user"], *tokenizer.encode(prompt), special["assistant"]]
        if len(ids) > n_ctx:
            raise ValueError(f"a prompt of {len(ids) - 2} tokens does not fit: it may have {n_ctx - 2}")
        for number, (asked, answered) in enumerate(reversed(turns)):
            turn = [special["user"], *tokenizer.encode(asked), special["assistant"], *tokenizer.encode(answered),
                    special["end"]]
            if len(turn) + len(ids) > n_ctx:
                return ids, len(turns) - number
            ids = turn + ids
        return ids, 0

    def text(self, ids: Iterable[int], tokenizer) -> str:
        """What a response says: up to <end>, without special tokens and those that only the base model has."""
        kept = []
        for i in ids:
            if i == self.special.get("end"):
                break
            if i < tokenizer.n_vocab:
                kept.append(int(i))
        return tokenizer.decode(kept)


def _cut(texts: list[list[int]], n_special: int, *, n_ctx: int, truncate: bool, response: int = 0, turn: bool = False,
         answer: int = 0) -> list[list[int]]:
    """The ids of texts that have room together beside n_special tokens, a response with its <end>, and an answer; at least one of each.

    turn: what has room of a text is its end
    """
    total, room = sum(map(len, texts)), n_ctx - n_special - response - answer
    if total <= room:
        return texts
    if not truncate or room < len(texts):
        parts = [*map(len, texts), *([response - 1] if response else [])]
        special = n_special + (response > 0)
        lengths = " and ".join(map(str, parts))
        if response and room < 1:
            way = "shorten the response, which --truncate does not cut,"
        elif truncate or room < len(texts):
            way = "shorten it"
        else:
            way = "shorten it, have it cut (--truncate)"
        raise TooLong("longer than the context", f"{sum(parts) + special} tokens ({lengths}, and {special} special ones), "
                      f"where {n_ctx - answer} have room"
                      + {0: ": ", 1: " beside an answer: "}.get(answer, f" beside an answer of {answer}: say a lower --response, ")
                      + f"{way} or take a model with a longer context")
    if len(texts) == 1:
        return [texts[0][-room:] if turn else texts[0][:room]]
    shorter = min(min(map(len, texts)), room // 2)  # left whole, unless it has more than half of the room
    first = shorter if len(texts[0]) < len(texts[1]) else room - shorter
    return [texts[0][:first], texts[1][:room - first]]
