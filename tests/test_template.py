"""Examples in tokens: every id in its place, what counts counts, and what is too long is told with its line."""

import numpy as np
import pytest

from numgpt import GPT, GPTConfig
from numgpt.files import FormatError
from numgpt.layers.inputs import IGNORE
from numgpt.text import BPETokenizer, CharTokenizer
from numgpt.tuning.encoding import encode, parted
from numgpt.tuning.examples import BadLines, Examples, Origin
from numgpt.tuning.lines import Choice, Instruction, Pair, Preference, Prompt, Text
from numgpt.tuning.template import SPECIAL, Template

LETTERS = CharTokenizer("abcdefghijklmnopqrst")  # "a" is 0, "b" 1, ...
N = LETTERS.n_vocab
_ = IGNORE


def examples(kind: str, *items, labels=None, skip: bool = False) -> Examples:
    return Examples(kind, list(items), [Origin("data", i) for i in range(1, len(items) + 1)], labels, BadLines(skip))


def rows(kind: str, *items, labels=None, n_ctx: int = 12, template: str | None = None, **options):
    return encode(examples(kind, *items, labels=labels), Template(template or kind, N), LETTERS, n_ctx, **options)


def test_classified_texts_stand_between_start_and_extract_and_all_but_the_first_token_is_a_target():
    batch = rows("classify", Text("bcd", "x"), Text("e", "w"), labels=("w", "x")).at([0, 1])
    start, extract = N, N + 1
    assert batch.ids.tolist() == [[start, 1, 2, 3, extract], [start, 4, extract, 0, 0]]
    assert batch.targets.tolist() == [[1, 2, 3, extract, _], [4, extract, _, _, _]]
    assert batch.last.tolist() == [4, 2] and batch.classes.tolist() == [1, 0]


def test_pairs_have_a_delimiter_and_similarity_has_both_orders():
    start, delimiter, extract = N, N + 1, N + 2
    batch = rows("pairs", Pair("bc", "d", True), labels=(False, True)).at([0])
    assert batch.ids.tolist() == [[start, 1, 2, delimiter, 3, extract]] and batch.last.tolist() == [5]
    both = rows("similarity", Pair("bc", "d", True), Pair("e", "f", False), labels=(False, True)).at([0, 1])
    assert both.ids.tolist() == [[[start, 1, 2, delimiter, 3, extract], [start, 3, delimiter, 1, 2, extract]],
                                 [[start, 4, delimiter, 5, extract, 0], [start, 5, delimiter, 4, extract, 0]]]
    assert both.last.tolist() == [[5, 5], [4, 4]] and both.classes.tolist() == [1, 0]
    assert both.targets[1].tolist() == [[4, delimiter, 5, extract, _, _], [5, delimiter, 4, extract, _, _]]


def test_a_choice_that_an_example_does_not_have_is_last_minus_one_and_no_target():
    start, delimiter, extract = N, N + 1, N + 2
    encoded = rows("choice", Choice("b", ("c", "de"), 1), Choice("f", ("g", "h", "i"), 0))
    batch = encoded.at([0])  # as wide as the widest of all, so that every batch is
    assert batch.ids.tolist() == [[[start, 1, delimiter, 2, extract, 0], [start, 1, delimiter, 3, 4, extract], [0] * 6]]
    assert batch.last.tolist() == [[4, 5, -1]] and batch.classes.tolist() == [1]
    assert batch.targets.tolist() == [[[1, delimiter, 2, extract, _, _], [1, delimiter, 3, 4, extract, _], [_] * 6]]


def test_of_a_turn_the_response_and_its_end_alone_are_targets():
    user, assistant, end = N, N + 1, N + 2
    batch = rows("instruct", Instruction("bc", "de")).at([0], T=8)
    assert batch.ids.tolist() == [[user, 1, 2, assistant, 3, 4, end, 0]]
    assert batch.targets.tolist() == [[_, _, _, 3, 4, end, _, _]] and batch.last.tolist() == [6] and batch.classes is None


def test_of_a_preference_the_two_responses_follow_the_same_prompt():
    user, assistant, end = N, N + 1, N + 2
    for template in ("preference", "instruct"):  # a model that was tuned on instructions goes on with its own
        batch = rows("preference", Preference("b", "c", "def"), template=template).at([0])
        assert batch.ids.tolist() == [[[user, 1, assistant, 2, end, 0, 0], [user, 1, assistant, 3, 4, 5, end]]]
        assert batch.targets.tolist() == [[[_, _, 2, end, _, _, _], [_, _, 3, 4, 5, end, _]]]
        assert batch.last.tolist() == [[4, 6]]


def test_a_prompt_ends_where_the_response_begins():
    batch = rows("prompts", Prompt("bc"), Prompt("d")).at([1, 0])
    assert batch.ids.tolist() == [[N, 3, N + 1, 0], [N, 1, 2, N + 1]] and batch.last.tolist() == [2, 3]
    assert (batch.targets == IGNORE).all()


def test_every_target_is_the_token_that_comes_next():
    items = {"classify": Text("bcd", 0), "similarity": Pair("bc", "d", 0), "choice": Choice("b", ("c", "de"), 1),
             "preference": Preference("b", "c", "def"), "instruct": Instruction("bc", "de")}
    for kind, item in items.items():
        batch = rows(kind, item, labels=(0, 1) if hasattr(item, "label") else None).at([0], T=10)
        counted = batch.targets[..., :-1] != IGNORE
        assert counted.any() and (batch.targets[..., :-1] == batch.ids[..., 1:])[counted].all()
        assert (batch.targets[np.arange(10) >= batch.last[..., None]] == IGNORE).all()


def test_padding_on_the_right_changes_no_bit_of_what_comes_before():
    model = GPT(GPTConfig(n_vocab=N + 2, n_ctx=12, n_layer=2, n_head=2, n_embd=8, std=0.5), seed=0)
    encoded = rows("classify", Text("bcd", 0), labels=(0, 1))
    batch = encoded.at([0], T=12)
    other = np.where(np.arange(12) > batch.last[:, None], 7, batch.ids)  # another id in their place
    hidden, changed = (model.body(ids) for ids in (batch.ids, other))
    last = int(batch.last[0])
    assert np.array_equal(hidden[0, :last + 1], changed[0, :last + 1]) and not np.array_equal(hidden[0, last + 1], changed[0, last + 1])


@pytest.mark.parametrize("kind, item, n_ctx, sentence", [
    ("classify", Text("a" * 30, "x"), 12, "32 tokens (30, and 2 special ones), where 12 have room"),
    ("pairs", Pair("a" * 7, "b" * 3, "x"), 12, "13 tokens (7 and 3, and 3 special ones), where 12 have room"),
    ("choice", Choice("a" * 7, ("b", "b" * 3), 0), 12, "13 tokens (7 and 3, and 3 special ones), where 12 have room"),
    ("instruct", Instruction("a" * 6, "b" * 4), 12, "13 tokens (6 and 4, and 3 special ones), where 12 have room"),
    ("preference", Preference("a" * 6, "b", "b" * 4), 12, "13 tokens (6 and 4, and 3 special ones), where 12 have room"),
    ("prompts", Prompt("a" * 11), 12, "13 tokens (11, and 2 special ones), where 12 have room"),
])
def test_a_row_longer_than_the_context_is_told_with_its_line_and_lengths(kind, item, n_ctx, sentence):
    right = {"classify": Text("a", "w"), "pairs": Pair("a", "b", "w"), "choice": Choice("a", ("b", "c"), 1),
             "instruct": Instruction("a", "b"), "preference": Preference("a", "b", "c"), "prompts": Prompt("a")}[kind]
    labels = ("w", "x") if hasattr(item, "label") else None
    with pytest.raises(FormatError) as error:
        rows(kind, right, item, labels=labels, n_ctx=n_ctx)
    assert str(error.value) == (f"data, line 2: {sentence}: shorten it, have it cut (--truncate) or take a model with a longer "
                                "context (--skip-bad leaves such lines out)")
    given = examples(kind, item, right, right, labels=labels, skip=True)
    kept = encode(given, Template(kind, N), LETTERS, n_ctx)
    assert [str(origin) for origin in kept.origins] == ["data, line 2", "data, line 3"]
    assert dict(given.bad.counts) == {"longer than the context": 1}
    assert kept.classes is None or kept.classes.tolist() == given.classes().tolist()[1:] != given.classes().tolist()[:2]
    assert len(rows(kind, item, labels=labels, n_ctx=n_ctx, truncate=True)) == 1
    exact = rows(kind, item, labels=labels, n_ctx=int(sentence.split()[0]))  # of that length there is room for it
    assert exact.T == int(sentence.split()[0])


def test_truncating_cuts_the_end_of_texts_the_longer_of_two_the_beginning_of_prompts_and_never_a_response():
    def cut(kind, item, n_ctx, column=0):
        return rows(kind, item, n_ctx=n_ctx, truncate=True).ids[0][column].tolist()

    start, delimiter, extract = N, N + 1, N + 2
    assert rows("classify", Text("bcdef", 0), labels=(0, 1), n_ctx=5, truncate=True).ids[0][0].tolist() == [N, 1, 2, 3, N + 1]
    for a, b, kept_a, kept_b in (("bcdefg", "hi", [1, 2, 3], [7, 8]), ("hi", "bcdefg", [7, 8], [1, 2, 3]), ("bcdef", "ghijk", [1, 2, 3], [6, 7])):
        row = rows("pairs", Pair(a, b, 0), labels=(0, 1), n_ctx=8, truncate=True).ids[0][0].tolist()
        assert row == [start, *kept_a, delimiter, *kept_b, extract]
    assert cut("choice", Choice("bcdefg", ("h", "ij"), 0), 7) == [start, 1, 2, 3, delimiter, 7, extract]
    assert cut("choice", Choice("bcdefg", ("h", "ij"), 0), 7, 1) == [start, 1, 2, delimiter, 8, 9, extract]
    assert cut("instruct", Instruction("bcdef", "ghi"), 8) == [N, 4, 5, N + 1, 6, 7, 8, N + 2]
    short, long = (cut("preference", Preference("bcdef", "g", "ghi"), 8, i) for i in (0, 1))
    assert short == [N, 4, 5, N + 1, 6, N + 2] and long == [N, 4, 5, N + 1, 6, 7, 8, N + 2]  # the same prompt
    assert cut("prompts", Prompt("bcdef"), 5) == [N, 3, 4, 5, N + 1]
    with pytest.raises(FormatError, match=r"line 1: 13 tokens \(1 and 9, and 3 special ones\), where 12 have room: "
                                          "shorten the response, which --truncate does not cut, or take"):
        rows("instruct", Instruction("b", "c" * 9), truncate=True)


def test_what_was_cut_is_counted_and_what_an_answer_takes_is_said():
    items = [Instruction("bcdefgh", "ij"), Instruction("b", "c"), Instruction("bcdefghi", "j")]
    assert [rows("instruct", *items, n_ctx=n_ctx, truncate=True).n_cut for n_ctx in (8, 11, 20)] == [2, 2, 0]
    prompt = Prompt("bcdefg")
    assert rows("prompts", prompt, n_ctx=11, truncate=True, answer=5).ids[0][0].tolist() == [N, 3, 4, 5, 6, N + 1]
    with pytest.raises(FormatError, match=r"where 6 have room beside an answer of 5: say a lower --response, shorten it, have"):
        rows("prompts", prompt, n_ctx=11, answer=5)


def test_a_share_is_held_out_of_the_examples_that_can_be_used_and_no_bad_line_is_counted_twice():
    given = examples("instruct", *[Instruction("b", "c" * 30)] * 16, *[Instruction("b", "c")] * 4, skip=True)
    template = Template("instruct", N)
    train, kept = parted(encode(given, template, LETTERS, 12), 0.25, np.random.default_rng(0))
    assert (len(train), len(kept), len(given.bad)) == (3, 1, 16)
    assert sorted(origin.line for rows in (train, kept) for origin in rows.origins) == [17, 18, 19, 20]
    with pytest.raises(FormatError, match=r"none of the 16 examples can be used; left out: longer than the context \(16\)$"):
        encode(examples("instruct", *given.items[:16], skip=True), template, LETTERS, 12, bad=given.bad)
    with pytest.raises(ValueError, match="4 examples are too few to hold out 0.1 of them: say --held-out 0.25, or give others by --validation FILE"):
        parted(encode(given, template, LETTERS, 12), 0.1, np.random.default_rng(0))


def test_of_each_label_a_share_is_held_out_and_one_at_least_where_it_has_two():
    letters = CharTokenizer("abcde 0123456789")
    for sizes, share, want in (((40, 20, 20, 2, 1), 0.1, (4, 2, 2, 1, 0)), ((50, 30), 0.25, (13, 7)), ((7, 2), 0.5, (3, 1)),
                               ((1, 1), 0.5, None)):
        labels = tuple("abcde"[:len(sizes)])
        items = [Text(f"{label} {i}", label) for label, n in zip(labels, sizes) for i in range(n)]
        given = Examples("classify", items, [Origin("f", i) for i in range(len(items))], labels)
        found = encode(given, Template("classify", letters.n_vocab), letters, 9)
        train, kept = parted(found, share, np.random.default_rng(3))
        assert sorted(origin.line for rows in (train, kept) for origin in rows.origins) == [*range(len(items))]
        assert [o.line for o in kept.origins] == sorted(o.line for o in kept.origins)
        held = np.bincount(kept.classes, minlength=len(labels))
        assert tuple(held) == want if want else held.sum() == 1
        assert kept.origins == parted(found, share, np.random.default_rng(3))[1].origins


def test_a_text_that_the_tokenizer_cannot_write_is_told_with_its_line():
    with pytest.raises(FormatError) as error:
        rows("instruct", Instruction("a", "b"), Instruction("a", "bZb"))
    assert str(error.value) == "data, line 2: 'bZb': the vocabulary lacks 'Z' at 1 (--skip-bad leaves such lines out)"
    bytes_ = BPETokenizer.train("a b c", 257)
    given = examples("instruct", Instruction("a", "b<|endoftext|>"), Instruction("a", "é"), skip=True)
    assert len(encode(given, Template("instruct", 257), bytes_, 12)) == 1
    assert dict(given.bad.counts) == {"not of the vocabulary": 1}
    with pytest.raises(FormatError, match=r"line 1: 'b<\|x\|>': .*: take it out, for an example's text may have none"):
        encode(examples("instruct", Instruction("a", "b<|x|>")), Template("instruct", 258), BPETokenizer.train("a b c", 258, special=["<|x|>"]), 12)
    with pytest.raises(FormatError, match=r"none of the 1 examples can be used; left out: not of the vocabulary \(1\)"):
        encode(examples("instruct", Instruction("a", "Z"), skip=True), Template("instruct", N), LETTERS, 12)


def test_special_ids_come_after_those_of_the_base_and_no_text_has_them():
    for kind, names in SPECIAL.items():
        template = Template(kind, 30)  # the base model's vocabulary may be larger than its tokenizer's
        assert template.special == {name: 30 + i for i, name in enumerate(names)} and template.n_vocab == 30 + len(names)
        assert Template.from_dict(template.to_dict()) == template
    with pytest.raises(ValueError, match="the tokenizer has 20 tokens, and the template's special ones begin at 19"):
        encode(examples("prompts", Prompt("a")), Template("prompts", 19), LETTERS, 12)
    with pytest.raises(ValueError, match="examples of preference cannot be written with the tokens of pairs: start, delimiter, extract"):
        rows("preference", Preference("a", "b", "c"), template="pairs")


@pytest.mark.parametrize("content, sentence", [
    ({}, "no template of a tuned model: KeyError"), ({"kind": "poem", "n_base": 3}, "there is no template of kind 'poem'"),
    ({"kind": "pairs", "n_base": 0}, "n_base must be at least 1"), ({"kind": "pairs", "n_base": "3"}, "n_base must be a whole number"),
    ({"kind": "classify", "n_base": 3, "special": {"start": 3, "extract": 5}}, "has the special tokens {'start': 3, 'extract': 4}; got"),
])
def test_a_stored_template_that_is_none_is_refused(content, sentence):
    with pytest.raises(FormatError) as error:
        Template.from_dict(content)
    assert sentence in str(error.value)


def test_a_conversation_is_turn_after_turn_and_the_oldest_go_when_the_context_is_full():
    template, turns = Template("instruct", N), [("a", "b"), ("c", "de")]
    user, assistant, end = N, N + 1, N + 2
    newest, later, first = [user, 5, assistant], [user, 2, assistant, 3, 4, end], [user, 0, assistant, 1, end]
    for n_ctx, ids, dropped in ((14, first + later + newest, 0), (13, later + newest, 1), (9, later + newest, 1), (8, newest, 2), (3, newest, 2)):
        assert template.conversation(turns, "f", LETTERS, n_ctx) == (ids, dropped)
    with pytest.raises(ValueError, match="a prompt of 1 tokens does not fit: it may have 0"):
        template.conversation(turns, "f", LETTERS, 2)
    assert template.conversation([], "f", LETTERS, 3) == (rows("prompts", Prompt("f")).ids[0][0].tolist(), 0)


def test_the_text_of_a_response_ends_at_its_end_and_has_no_special_tokens():
    template = Template("instruct", N + 5)  # ids N to N + 4 are the base model's, but no text
    end, user = template.special["end"], template.special["user"]
    assert template.text([1, N + 3, 2, user, 3, end, 4], LETTERS) == "bcd"
    assert template.text(np.array([1, 2]), LETTERS) == "bc" and template.text([end], LETTERS) == ""
