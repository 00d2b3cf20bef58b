"""What is drawn: right answers, labels that hold, and nothing held out in what is trained on."""

import re
from collections import Counter

import numpy as np
import pytest

from numgpt.training.data import is_held_out
from numgpt.tuning import synthetic
from numgpt.tuning.examples import read, write
from numgpt.tuning.synthetic import ALPHABET, KIND, LONG, TOKENIZER, answer, balanced, draw, right


def reduces(text: str) -> bool:
    """Whether taking out neighbours that close each other leaves nothing: no stack, and so another way than the code's."""
    while (shorter := re.sub(r"\(\)|\[\]|\{\}", "", text)) != text:
        text = shorter
    return not text


def test_a_label_says_whether_a_string_is_balanced():
    items = draw("brackets", 1000, 0).items
    assert all((item.label == "balanced") == reduces(item.text) == balanced(item.text) for item in items)
    n_balanced = sum(item.label == "balanced" for item in items)
    assert abs(n_balanced - 500) < 5 * (1000 / 4) ** 0.5  # five standard deviations
    assert not any(map(balanced, ("(", ")", ")(", "([)]", "(]", "())", "(()"))) and all(map(balanced, ("()", "([]{})", "{}()")))


def test_counting_brackets_does_not_tell_and_nor_do_lengths_or_the_ends():
    items = draw("brackets", 2000, 1).items
    kinds = {label: [item.text for item in items if item.label == label] for label in ("balanced", "unbalanced")}
    assert all(text.count(a) == text.count(b) for text in kinds["balanced"] for a, b in synthetic.PAIRS.items())
    equal = np.mean([all(text.count(a) == text.count(b) for a, b in synthetic.PAIRS.items()) for text in kinds["unbalanced"]])
    assert equal > 0.45  # so that whoever counts is right three times in four
    lengths = [Counter(map(len, texts)) for texts in kinds.values()]
    assert {*lengths[0]} == {*lengths[1]} == set(range(synthetic.LENGTHS[0], synthetic.LENGTHS[1] + 1, 2))
    assert abs(*np.diff([np.mean([*map(len, texts)]) for texts in kinds.values()])) < 1
    ends = np.mean([text[0] in synthetic.PAIRS and text[-1] not in synthetic.PAIRS for text in kinds["unbalanced"]])
    assert ends > 0.7


def question(name: str, item) -> str:
    """What is asked, in whatever words, and whichever of two numbers to be added comes first."""
    if name == "brackets":
        return item.text
    numbers = [*map(int, re.findall(r"\d+", item.prompt))]
    return " ".join(["sort", *map(str, numbers)] if len(numbers) > 2 else ["add", *map(str, sorted(numbers))])


@pytest.mark.parametrize("name", KIND)
def test_no_question_is_drawn_twice_and_none_is_both_trained_on_and_held_out(name):
    trained, held = ([question(name, item) for item in draw(name, n, 0, held_out=out).items] for n, out in ((700, False), (100, True)))
    assert len(set(trained)) == 700 and len(set(held)) == 100
    assert not any(map(is_held_out, trained)) and all(map(is_held_out, held))  # by the question alone, so there is none in both


@pytest.mark.parametrize("name", KIND)
def test_what_is_drawn_depends_on_the_seed_alone(name):
    assert draw(name, 20, (0, 3)).items == draw(name, 20, (0, 3)).items != draw(name, 20, (0, 4)).items
    assert draw(name, 20, 3).items == draw(name, 40, 3).items[:20]


@pytest.mark.parametrize("name", KIND)
def test_all_texts_are_of_one_alphabet_and_can_be_written_and_read(tmp_path, name):
    examples = draw(name, 300, 5)
    write(tmp_path / "drawn.jsonl", examples.items)
    again = read(tmp_path / "drawn.jsonl", KIND[name])
    assert again.items == examples.items and again.labels == examples.labels
    texts = [text for item in examples.items for text in vars(item).values()]
    assert {c for text in texts for c in text} <= set(ALPHABET) and TOKENIZER.n_vocab == len(ALPHABET) == len(set(ALPHABET))
    assert str(examples.origins[6]) == f"{name} (drawn), line 7"


def test_responses_are_right_in_every_wording():
    worded = Counter()
    for item in draw("instruct", 500, 0).items:
        numbers = [*map(int, re.findall(r"\d+", item.prompt))]
        adds = re.search("add|plus|how much", item.prompt)
        assert item.response == (str(sum(numbers)) if adds else " ".join(map(str, sorted(numbers))))
        worded[re.sub(r"\d+( \d+)*", "#", item.prompt)] += 1
        assert right(item.prompt, item.response) and right(item.prompt, LONG + item.response)
        assert not right(item.prompt, item.response + "0") and not right(item.prompt, "the answer: " + item.response)
    assert sorted(worded) == ["add # and #", "how much is # and #?", "put # in order", "sort #", "what is # in order?", "what is # plus #?"]
    assert min(worded.values()) > 500 / 6 - 5 * (500 * 5 / 36) ** 0.5
    assert answer("sort 10 9 8") == "8 9 10" and answer("add 999 and 1") == "1000"
    with pytest.raises(ValueError, match="a prompt is worded like 'sort 3 1 2' or 'what is 12 plus 30\\?'; got 'sort it'"):
        answer("sort it")


def test_half_of_the_mixed_responses_are_in_a_sentence_and_all_are_right():
    items = draw("instruct-mixed", 1000, 0).items
    n_long = sum(item.response.startswith(LONG) for item in items)
    assert abs(n_long - 500) < 5 * (1000 / 4) ** 0.5 and all(right(item.prompt, item.response) for item in items)


def test_the_shorter_of_two_right_responses_is_preferred():
    for item in draw("shorter", 200, 0).items:
        assert right(item.prompt, item.chosen) and item.rejected == LONG + item.chosen


def test_too_many_different_questions_are_refused_and_without_end_they_may_repeat(monkeypatch):
    monkeypatch.setattr(synthetic, "PATIENCE", 30)
    with pytest.raises(ValueError, match=r"there are no 1300 different questions of instruct: \d+ were found; draw fewer"):
        draw("instruct", 1300, 0, held_out=True)
    monkeypatch.undo()
    assert len(draw("instruct", 1300, 0, held_out=True, distinct=False)) == 1300
    with pytest.raises(ValueError, match="nothing to draw with the name 'poems': choose one of brackets, instruct, "):
        draw("poems", 3, 0)
