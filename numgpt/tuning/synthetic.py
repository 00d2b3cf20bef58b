"""Examples that are drawn: what fine-tuning runs on where there are no files, with answers that are right or wrong.

    brackets        "([]{})" is balanced, "([)]" is not                           classify
    instruct        {"prompt": "sort 3 1 2", "response": "1 2 3"}                 instruct
    instruct-mixed  the same, but half of the responses are in a sentence         instruct
                    {"prompt": "what is 12 plus 30?", "response": "the answer is 42"}
    shorter         the response alone is preferred to the one in a sentence      preference

One question in ten is held out by its hash, whatever the seed and however it is worded. All have one small alphabet.
"""

import re

import numpy as np

from numgpt.files import short
from numgpt.layers.inputs import positive
from numgpt.text import CharTokenizer
from numgpt.training.data import is_held_out
from numgpt.tuning.examples import Examples, Origin
from numgpt.tuning.lines import Instruction, Preference, Text

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789 ,.?()[]{}"
TOKENIZER = CharTokenizer(ALPHABET)
KIND = {"brackets": "classify", "instruct": "instruct", "instruct-mixed": "instruct", "shorter": "preference"}
LABELS = ("balanced", "unbalanced")
PAIRS = {"(": ")", "[": "]", "{": "}"}
LENGTHS = (8, 24)  # of a string of brackets; of the shorter ones there are too few
WORDED = {"sort": ("sort {}", "put {} in order", "what is {} in order?"),
          "add": ("add {} and {}", "what is {} plus {}?", "how much is {} and {}?")}
ADDED = 50  # numbers below it are added
LONG = "the answer is "
PATIENCE = 10_000  # so many draws in a row that bring nothing new: all but a few in a hundred have been found
_FORMS = [(task, re.compile(re.escape(form).replace(r"\{\}", r"(\d+(?: \d+)+)" if task == "sort" else r"(\d+)")))
          for task, forms in WORDED.items() for form in forms]


def draw(name: str, n: int, seed, *, held_out: bool = False, distinct: bool = True) -> Examples:
    """n examples; seed: a whole number, or several, such as (seed, step).

    distinct: no question twice; not so, where batches are drawn without end
    """
    if name not in KIND:
        raise ValueError(f"there is nothing to draw with the name {short(name)}: choose one of {', '.join(KIND)}")
    rng, found = np.random.default_rng(seed), {}
    positive(n, "n")
    misses = 0
    while len(found) < n:
        question, item = _bracketed(rng) if name == "brackets" else _instruction(name, rng)
        key = question if distinct else len(found)
        if is_held_out(question) != held_out or key in found:
            misses += 1
            if misses == PATIENCE:
                raise ValueError(f"there are no {n} different questions of {name}: {len(found)} were found; draw fewer, "
                                 "or distinct=False")
            continue
        found[key], misses = item, 0
    origins = [Origin(f"{name} (drawn)", i) for i in range(1, n + 1)]
    return Examples(KIND[name], list(found.values()), origins, LABELS if name == "brackets" else None)


# -- brackets

def balanced(text: str) -> bool:
    """Whether each bracket is closed by its like, the last to be opened first."""
    due = []
    for c in text:
        if c in PAIRS:
            due.append(PAIRS[c])
        elif not due or due.pop() != c:
            return False
    return not due


def _bracketed(rng: np.random.Generator) -> tuple[str, Text]:
    text = _balanced(rng, 2 * int(rng.integers(LENGTHS[0] // 2, LENGTHS[1] // 2 + 1)))
    label = LABELS[int(rng.integers(2))]
    if label == "unbalanced":
        text = _broken(text, rng)
    return text, Text(text, label)


def _balanced(rng: np.random.Generator, n: int) -> str:
    """n brackets, each opening or closing with even chances where both may be."""
    text, due = "", []
    while len(text) < n:
        if due and (len(due) == n - len(text) or rng.integers(2)):
            text += due.pop()
        else:
            opening = "([{"[rng.integers(3)]
            text += opening
            due.append(PAIRS[opening])
    return text


def _broken(text: str, rng: np.random.Generator) -> str:
    """Two brackets swapped (as often as not), or one put in another's place, or one of another kind."""
    way, broken = int(rng.integers(4)), text
    while balanced(broken):
        letters = list(text)
        i, j = rng.choice(len(text), 2, replace=False).tolist()
        if way < 2:
            letters[i], letters[j] = letters[j], letters[i]
        else:
            others = "()[]{}" if way == 2 else "([{" if text[i] in PAIRS else ")]}"
            letters[i] = others[rng.integers(len(others))]
        broken = "".join(letters)
    return broken


# -- instructions

def _instruction(name: str, rng: np.random.Generator) -> tuple[str, Instruction | Preference]:
    """What is asked, in a form that all its wordings share, and the example."""
    task = ("sort", "add")[int(rng.integers(2))]
    wording = WORDED[task][int(rng.integers(3))]
    if task == "sort":
        numbers = rng.integers(0, 10, int(rng.integers(3, 5))).tolist()
        prompt = wording.format(" ".join(map(str, numbers)))
    else:
        numbers = rng.integers(0, ADDED, 2).tolist()
        prompt = wording.format(*numbers)
        numbers.sort()  # 12 and 30 is the same question as 30 and 12
    response = answer(prompt)
    if name == "shorter":
        item = Preference(prompt, response, LONG + response)
    else:
        item = Instruction(prompt, (LONG if name == "instruct-mixed" and rng.integers(2) else "") + response)
    return f"{task} {' '.join(map(str, numbers))}", item


def answer(prompt: str) -> str:
    """The short response to a prompt in one of the wordings."""
    for task, form in _FORMS:
        asked = form.fullmatch(prompt)
        if asked and task == "sort":
            return " ".join(sorted(asked[1].split(), key=int))
        if asked:
            return str(int(asked[1]) + int(asked[2]))
    raise ValueError(f"a prompt is worded like {WORDED['sort'][0].format('3 1 2')!r} or "
                     f"{WORDED['add'][1].format(12, 30)!r}; got {short(prompt)}")


def right(prompt: str, response: str) -> bool:
    """Whether a response says the answer, alone or in a sentence."""
    return response in (answer(prompt), LONG + answer(prompt))
