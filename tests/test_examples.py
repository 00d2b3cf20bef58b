"""Lines of JSON as examples: what is good is kept as it is, and what is bad is told with its place and what was wanted."""

import numpy as np
import pytest

from numgpt.files import FormatError
from numgpt.tuning.examples import Examples, Origin, read, write
from numgpt.tuning.lines import KINDS, RIGHT, Choice, Instruction, Pair, Preference, Prompt, Text, parse

GOOD = {"classify": '{"text": "a fine film", "label": "good"}', "choice": RIGHT["choice"], "preference": RIGHT["preference"],
        "instruct": RIGHT["instruct"], "pairs": RIGHT["pairs"]}
SKIP = " (--skip-bad leaves such lines out)"
LIKE = {kind: f"a line of {kind} is like {line}" for kind, line in RIGHT.items()}

# kind, the line, the reason it is counted under, the sentence
BAD = [
    ("classify", b'{"text": "a" "label": "b"}', "not JSON",
     """not JSON, Expecting ',' delimiter at character 14; got '{"text": "a" "label": "b"}': """ + LIKE["classify"]),
    ("classify", b'{"text": "a", "label": NaN}', "not JSON",
     """not JSON, NaN is no number in JSON; got '{"text": "a", "label": NaN}': """ + LIKE["classify"]),
    ("classify", b"the film was good; I would have gone to see it another time, had there been one", "not JSON",
     "not JSON, Expecting value at character 1; got 'the film was good; I would have gone to see it another t...: " + LIKE["classify"]),
    ("classify", b'["a", "good"]', "no object", """an object is wanted; got a list, '["a", "good"]': """ + LIKE["classify"]),
    ("classify", b'{"text": "a", "label": "good", "text": "b"}', "a key twice", "'text' is there twice: " + LIKE["classify"]),
    ("classify", b'{"txt": "a", "label": "good"}', "a key missing", '"text" is missing (is "txt" meant?): ' + LIKE["classify"]),
    ("classify", b'{"id": 3, "label": "good"}', "a key missing", '"text" is missing (the keys are "id", "label"): ' + LIKE["classify"]),
    ("classify", b"{}", "a key missing", '"text" is missing (the object is empty): ' + LIKE["classify"]),
    ("classify", b'{"text": ["a"], "label": "good"}', "a wrong type", '"text" must be a text; got a list, ["a"]: ' + LIKE["classify"]),
    ("classify", b'{"text": "", "label": "good"}', "an empty text", '"text" is empty: ' + LIKE["classify"]),
    ("classify", b'{"text": " \\t", "label": "good"}', "an empty text",
     '"text" is empty but for white space: ' + LIKE["classify"]),
    ("classify", b'{"text": "a", "label": 0.5}', "a wrong type",
     "a label is a text, a whole number, true or false; got a number, 0.5: " + LIKE["classify"]),
    ("classify", b'{"text": "a", "label": null}', "a wrong type",
     "a label is a text, a whole number, true or false; got null, null: " + LIKE["classify"]),
    ("classify", b'{"text": "a", "label": 1}', "a wrong type",
     'the label is a whole number, 1, and a text in 17 other lines, such as "good": labels must be alike'),
    ("classify", b'{"text": "caf\xe9", "label": "good"}', "not UTF-8", "byte 14 of the line, 0xe9, is not UTF-8: convert the file"),
    ("classify", b'{"text": "\\ud83d", "label": "good"}', "not Unicode", "'\\ud83d' holds half of a surrogate pair"),
    ("pairs", b'{"a": "it rains", "label": "entails"}', "a key missing",
     '"b" is missing (the keys are "a", "label"): ' + LIKE["pairs"]),
    ("choice", b'{"context": "a", "choices": ["b"], "answer": 0}', "too few choices",
     '"choices" must be two at least; got 1: ' + LIKE["choice"]),
    ("choice", b'{"context": "a", "choices": "bc", "answer": 0}', "a wrong type",
     '"choices" must be a list of texts; got a text, "bc": ' + LIKE["choice"]),
    ("choice", b'{"context": "a", "choices": ["b", 3], "answer": 0}', "a wrong type",
     '"choices[1]" must be a text; got a whole number, 3: ' + LIKE["choice"]),
    ("choice", b'{"context": "a", "choices": ["b", "c", "b"], "answer": 0}', "a choice twice",
     '"b" is there twice among the choices: no answer could tell them apart'),
    ("choice", b'{"context": "a", "choices": ["b", "c"], "answer": 2}', "an unknown answer",
     '"answer" is the number of a choice, from 0 to 1 here; got 2'),
    ("choice", b'{"context": "a", "choices": ["b", "c"], "answer": "d"}', "an unknown answer",
     '"answer" is none of the choices "b", "c"; got "d"'),
    ("choice", b'{"context": "a", "choices": ["b", "c"], "answer": true}', "a wrong type",
     '"answer" is the number of a choice, from 0 on, or its text; got a boolean, true: ' + LIKE["choice"]),
    ("instruct", b'{"prompt": "a", "answer": "b"}', "a key missing",
     '"response" is missing (the keys are "prompt", "answer"): ' + LIKE["instruct"]),
    ("preference", b'{"prompt": "a", "chosen": "b", "rejected": "b"}', "chosen as rejected",
     '"chosen" and "rejected" are the same, "b": two that differ are wanted'),
]


def file_of(folder, *lines: bytes):
    path = folder / "data.jsonl"
    path.write_bytes(b"\n".join(lines))
    return path


@pytest.mark.parametrize("kind, line, reason, sentence", BAD, ids=lambda item: item if isinstance(item, str) and len(item) < 20 else "")
def test_a_bad_line_17_is_told_with_its_place_what_came_and_what_was_wanted(tmp_path, kind, line, reason, sentence):
    good = GOOD[kind].encode()
    other = good.replace(b'"good"', b'"bad"').replace(b'"entails"', b'"denies"')
    path = file_of(tmp_path, *[good, other] * 8, line, good)
    with pytest.raises(FormatError) as error:
        read(path, kind)
    assert str(error.value) == f"{path}, line 17: {sentence}{SKIP}"
    examples = read(path, kind, skip_bad=True)
    assert len(examples) == 17 and dict(examples.bad.counts) == {reason: 1} and len(examples.bad) == 1
    assert str(examples.bad) == f"{reason} (1)" and examples.bad.first == {reason: f"{path}, line 17: {sentence}"}
    assert [origin.line for origin in examples.origins] == [*range(1, 17), 18]


def test_nesting_without_end_is_no_json(tmp_path):
    path = file_of(tmp_path, b'{"text": ' + b"[" * 100_000)
    with pytest.raises(FormatError, match=r"line 1: not JSON, maximum recursion depth exceeded"):
        read(path, "classify")


def test_a_label_that_is_not_among_those_given_is_told_with_the_nearest(tmp_path):
    path = file_of(tmp_path, b'{"text": "a", "label": "good"}', b'{"text": "b", "label": "godo"}')
    with pytest.raises(FormatError) as error:
        read(path, "classify", labels=["good", "bad"])
    assert str(error.value) == f'{path}, line 2: there is no label "godo": the labels are "good", "bad"; is "good" meant?{SKIP}'
    kept = read(path, "classify", labels=["good", "bad"], skip_bad=True)
    assert kept.items == [Text("a", "good")] and kept.labels == ("good", "bad") and str(kept.bad) == "an unknown label (1)"


def test_labels_are_what_json_has_and_their_classes_follow_their_order(tmp_path):
    for shown, labels, classes in ((("10", "9", "10"), (9, 10), [1, 0, 1]), (("true", "false", "true"), (False, True), [1, 0, 1]),
                                   (('"b"', '"ä"', '"b"'), ("b", "ä"), [0, 1, 0])):
        path = file_of(tmp_path, *(f'{{"text": "x", "label": {label}}}'.encode() for label in shown))
        examples = read(path, "classify")
        assert examples.labels == labels and [*map(type, examples.labels)] == [*map(type, labels)]
        assert examples.classes().tolist() == classes
    path = file_of(tmp_path, b'{"text": "x", "label": true}')
    with pytest.raises(FormatError, match="there is no label true: the labels are 0, 1"):  # though to Python it is 1
        read(path, "classify", labels=[0, 1])
    for wrong in (["a"], ["a", "a"], "ab", [0, True], [0.5, 1.5], ["", "a"]):
        with pytest.raises(ValueError, match="labels must be two or more different texts, whole numbers or booleans, all alike"):
            read(path, "classify", labels=wrong)


def test_one_label_alone_is_refused(tmp_path):
    path = file_of(tmp_path, *[GOOD["classify"].encode()] * 3)
    with pytest.raises(FormatError) as error:
        read(path, "classify", skip_bad=True)
    assert str(error.value) == (f'each of the 3 lines of {path} has the label "good": '
                                "to tell labels apart, there must be two of them")


def test_the_type_that_most_labels_have_is_right_wherever_the_odd_one_stands(tmp_path):
    odd, good = b'{"text": "x", "label": 0}', [f'{{"text": "x", "label": "{i % 2}"}}'.encode() for i in range(6)]
    for place in (0, 3, 6):
        path = file_of(tmp_path, *good[:place], odd, *good[place:])
        with pytest.raises(FormatError, match=f'line {place + 1}: the label is a whole number, 0, and a text in 6 other lines, such as "0"'):
            read(path, "classify")
        found = read(path, "classify", skip_bad=True)
        assert found.labels == ("0", "1") and len(found) == 6 and str(found.bad) == "a wrong type (1)"
    path.rename(tmp_path / "mixed")
    path = file_of(tmp_path, *[odd] * 9)
    with pytest.raises(FormatError) as error:  # by all files, and all lines
        read([tmp_path / "mixed", path], "classify", skip_bad=True)
    assert str(error.value) == (f"each of the 10 lines of {tmp_path / 'mixed'} and {path} that can be used has the label 0 "
                                "(left out: a wrong type (6)): to tell labels apart, there must be two of them")


def test_a_file_that_is_one_list_is_told_what_it_is(tmp_path):
    for content in ('[{"text": "a", "label": 0}, {"text": "b", "label": 1}]', '[\n  {"text": "a", "label": 0},\n  {"text": "b", "label": 1}\n]\n'):
        (tmp_path / "data.json").write_text(content)
        with pytest.raises(FormatError, match=r"data.json is one list, of 2 objects: a file of JSON lines is wanted, one object a line"):
            read(tmp_path / "data.json", "classify", skip_bad=True)


def test_a_right_choice_is_told_by_its_number_or_its_text(tmp_path):
    path = file_of(tmp_path, b'{"context": "c", "choices": ["x", "y", "1"], "answer": 1}', b'{"context": "c", "choices": ["x", "y"], "answer": "y"}',
                   b'{"context": "c", "choices": ["0", "1"], "answer": "0"}')
    examples = read(path, "choice")
    assert examples.classes().tolist() == [1, 1, 0] and examples.labels is None
    assert examples.items[0] == Choice("c", ("x", "y", "1"), 1)


def test_byte_order_mark_line_ends_blank_lines_and_a_missing_newline_change_nothing(tmp_path):
    a, b = b'{"text": "a\xe2\x80\xa8b", "label": 0}', b'{"text": "c", "label": 1, "id": 7}'  # U+2028 ends no line of JSON
    plain = read(file_of(tmp_path, a, b, b""), "classify")
    assert plain.items == [Text("a\u2028b", 0), Text("c", 1)]
    for content in (a + b"\n" + b, b"\xef\xbb\xbf" + a + b"\n" + b, a + b"\r\n" + b + b"\r\n"):
        (tmp_path / "other").write_bytes(content)
        assert read(tmp_path / "other", "classify").items == plain.items
    (tmp_path / "other").write_bytes(a + b"\r\nwrong\r\n")
    with pytest.raises(FormatError, match="line 2: not JSON, .*; got 'wrong': "):
        read(tmp_path / "other", "classify")
    (tmp_path / "other").write_bytes(b"\n\r\n" + a + b"\n \t\n" + b)
    spaced = read(tmp_path / "other", "classify")
    assert spaced.items == plain.items and [origin.line for origin in spaced.origins] == [3, 5] and len(spaced.bad) == 0


def test_several_files_are_one_after_the_other_and_each_example_knows_its_own(tmp_path):
    for name, label in (("one", 0), ("two", 1)):
        (tmp_path / name).write_text(f'{{"text": "{name}", "label": {label}}}\nwrong\n')
    examples = read([tmp_path / "one", str(tmp_path / "two")], "classify", skip_bad=True)
    assert [*map(str, examples.origins)] == [f"{tmp_path / 'one'}, line 1", f"{tmp_path / 'two'}, line 1"]
    assert dict(examples.bad.counts) == {"not JSON": 2} and examples.bad.first["not JSON"].startswith(f"{tmp_path / 'one'}, line 2: ")


@pytest.mark.parametrize("content", ["", "\n \r\n"])
def test_a_file_without_lines_is_an_error(tmp_path, content):
    path = tmp_path / "empty"
    path.write_text(content)
    with pytest.raises(FormatError) as error:
        read(path, "instruct", skip_bad=True)
    assert str(error.value) == f"{path} has no lines: {LIKE['instruct']}"


def test_a_file_without_a_good_line_is_an_error_although_bad_ones_are_skipped(tmp_path):
    path = file_of(tmp_path, b"a", b'{"prompt": "b"}', b"c")
    (tmp_path / "good").write_text(GOOD["instruct"])
    with pytest.raises(FormatError) as error:
        read([tmp_path / "good", path], "instruct", skip_bad=True)
    assert str(error.value) == (f"none of the 3 lines of {path} can be used (not JSON (2), a key missing (1)): {path}, line 1: "
                                f"not JSON, Expecting value at character 1; got 'a': {LIKE['instruct']}")


def test_prompts_are_read_from_the_lines_of_the_other_stages(tmp_path):
    path = file_of(tmp_path, *(RIGHT[kind].encode() for kind in ("instruct", "preference", "prompts")))
    assert read(path, "prompts").items == [Prompt("add 12 and 30")] * 3


def test_a_label_that_is_asked_for_may_be_lacking(tmp_path):
    path = file_of(tmp_path, b'{"text": "a"}', b'{"text": "b", "label": "good"}')
    examples = read(path, "classify", labels=["bad", "good"], answers=False)
    assert examples.items == [Text("a", None), Text("b", "good")] and examples.classes().tolist() == [-1, 1]
    assert read(path, "classify", answers=False).classes() is None
    with pytest.raises(FormatError, match='line 1: "label" is missing'):
        read(path, "classify", labels=["bad", "good"])


ITEMS = {"classify": [Text("\u2028 ä\n", "good"), Text("x", "bad")], "pairs": [Pair("a", "b", True), Pair("b", "a", False)],
         "choice": [Choice("c", ("x", "y"), 1)], "instruct": [Instruction("p", "r")], "preference": [Preference("p", "c", "r")],
         "prompts": [Prompt("p")]}


@pytest.mark.parametrize("kind", ITEMS)
def test_what_is_written_is_read_back(tmp_path, kind):
    write(tmp_path / "out", ITEMS[kind])
    assert read(tmp_path / "out", kind).items == ITEMS[kind]


def test_the_line_that_a_sentence_shows_is_a_right_one():
    for kind in KINDS:
        assert isinstance(parse(RIGHT[kind].encode(), kind), KINDS[kind])
    with pytest.raises(ValueError, match="no kind of examples 'label': choose one of classify, "):
        read("x", "label")


def test_classes_are_none_where_nothing_is_chosen():
    assert Examples("instruct", [Instruction("p", "r")], [Origin("f", 1)]).classes() is None
    assert Examples("choice", [Choice("c", ("x", "y"), None)], [Origin("f", 1)]).classes().dtype == np.int64
