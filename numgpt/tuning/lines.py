"""One line of JSON and the example in it: what it must hold, and the sentence on what it does not.

    {"text": "a fine film", "label": "good"}                                        classify
    {"a": "it rains", "b": "it is wet", "label": "entails"}                         pairs, similarity
    {"context": "it rained, so", "choices": ["I got wet", "I flew"], "answer": 0}   choice (or the right choice's text)
    {"prompt": "add 12 and 30", "response": "42"}                                   instruct
    {"prompt": "add 12 and 30", "chosen": "42", "rejected": "41"}                   preference
    {"prompt": "add 12 and 30"}                                                     prompts

A key that a kind does not name is not looked at: a line may have an "id", and prompts are read from the lines of instruct too.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from numgpt.files import FormatError, names_once, nearest, short, unicode

Label = str | int | bool


@dataclass(frozen=True)
class Text:
    text: str
    label: Label | None


@dataclass(frozen=True)
class Pair:
    a: str
    b: str
    label: Label | None


@dataclass(frozen=True)
class Choice:
    context: str
    choices: tuple[str, ...]
    answer: int | None


@dataclass(frozen=True)
class Instruction:
    prompt: str
    response: str


@dataclass(frozen=True)
class Preference:
    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Prompt:
    prompt: str


KINDS = {"classify": Text, "pairs": Pair, "similarity": Pair, "choice": Choice, "instruct": Instruction, "preference": Preference,
         "prompts": Prompt}
_PAIR = '{"a": "it rains", "b": "it is wet", "label": "entails"}'
RIGHT = {"classify": '{"text": "a fine film", "label": "good"}', "pairs": _PAIR, "similarity": _PAIR,
         "choice": '{"context": "it rained, so", "choices": ["I got wet", "I flew"], "answer": 0}',
         "instruct": '{"prompt": "add 12 and 30", "response": "42"}',
         "preference": '{"prompt": "add 12 and 30", "chosen": "42", "rejected": "41"}',
         "prompts": '{"prompt": "add 12 and 30"}'}


class Bad(ValueError):
    """What is wrong with an example, and the reason under which it is counted."""

    def __init__(self, reason: str, what: str):
        super().__init__(what)
        self.reason = reason


def parse(line: bytes, kind: str, *, answers: bool = True):
    """The example in a line. Bad, if there is none."""
    content = _object(line, kind)
    fields = {}
    for name in KINDS[kind].__dataclass_fields__:
        if name not in content and name in ("label", "answer") and not answers:
            fields[name] = None
            continue
        if name not in content:
            near = nearest(name, [key for key in content if key not in KINDS[kind].__dataclass_fields__])
            came = f"is {shown(near)} meant?" if near else f"the keys are {names(content)}" if content else "the object is empty"
            raise Bad("a key missing", f"{shown(name)} is missing ({came}): {wanted(kind)}")
        if name == "answer":
            fields[name] = _answer(content[name], fields["choices"], kind)
        else:
            fields[name] = {"label": _label, "choices": _choices}.get(name, _text)(content[name], name, kind)
    if kind == "preference" and fields["chosen"] == fields["rejected"]:
        raise Bad("chosen as rejected", f'"chosen" and "rejected" are the same, {shown(fields["chosen"])}: two that differ are wanted')
    return KINDS[kind](**fields)


def _object(line: bytes, kind: str) -> dict:
    text = decoded(line)
    try:
        content = json.loads(text, object_pairs_hook=names_once, parse_constant=_refused)
    except FormatError as error:
        raise Bad("a key twice", f"{error}: {wanted(kind)}") from None
    except (ValueError, RecursionError) as error:
        what = f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise Bad("not JSON", f"not JSON, {what}; got {short(text)}: {wanted(kind)}") from None
    if not isinstance(content, dict):
        raise Bad("no object", f"an object is wanted; got {called(content)}, {short(text)}: {wanted(kind)}")
    try:
        return unicode(content)
    except FormatError as error:
        raise Bad("not Unicode", f"{error}") from None


def decoded(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise Bad("not UTF-8", f"byte {error.start + 1} of the line, {line[error.start]:#04x}, is not UTF-8: convert the file") from None


def _text(item, name: str, kind: str) -> str:
    if not isinstance(item, str):
        raise Bad("a wrong type", f"{shown(name)} must be a text; got {called(item)}, {shown(item)}: {wanted(kind)}")
    if not item.strip():
        raise Bad("an empty text", f"{shown(name)} is empty" + (" but for white space" if item else "") + f": {wanted(kind)}")
    return item


def _label(item, name: str, kind: str) -> Label:
    if not isinstance(item, (str, int)):
        raise Bad("a wrong type", f"a label is a text, a whole number, true or false; got {called(item)}, {shown(item)}: {wanted(kind)}")
    return _text(item, name, kind) if isinstance(item, str) else item


def _choices(item, name: str, kind: str) -> tuple[str, ...]:
    if not isinstance(item, list):
        raise Bad("a wrong type", f'"choices" must be a list of texts; got {called(item)}, {shown(item)}: {wanted(kind)}')
    choices = tuple(_text(choice, f"choices[{i}]", kind) for i, choice in enumerate(item))
    if len(choices) < 2:
        raise Bad("too few choices", f'"choices" must be two at least; got {len(choices)}: {wanted(kind)}')
    if len(set(choices)) < len(choices):
        again = next(choice for i, choice in enumerate(choices) if choice in choices[:i])
        raise Bad("a choice twice", f"{shown(again)} is there twice among the choices: no answer could tell them apart")
    return choices


def _answer(item, choices: tuple[str, ...], kind: str) -> int:
    if isinstance(item, str) and item in choices:
        return choices.index(item)
    if isinstance(item, str):
        raise Bad("an unknown answer", f'"answer" is none of the choices {names(choices)}; got {shown(item)}')
    if type(item) is not int:
        raise Bad("a wrong type", f'"answer" is the number of a choice, from 0 on, or its text; got {called(item)}, {shown(item)}: '
                  f"{wanted(kind)}")
    if not 0 <= item < len(choices):
        raise Bad("an unknown answer", f'"answer" is the number of a choice, from 0 to {len(choices) - 1} here; got {item}')
    return item


def wanted(kind: str) -> str:
    return f"a line of {kind} is like {RIGHT[kind]}"


def called(item) -> str:
    return {dict: "an object", list: "a list", str: "a text", int: "a whole number", float: "a number", bool: "a boolean",
            type(None): "null"}[type(item)]


def shown(item) -> str:
    text = json.dumps(item, ensure_ascii=False)
    return text if len(text) < 60 else text[:57] + "..."


def names(items: Iterable) -> str:
    found = [*map(shown, items)]
    return ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")


def _refused(constant: str):
    raise ValueError(f"{constant} is no number in JSON")
