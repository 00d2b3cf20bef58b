"""GPT-2's words: the pattern, and the table of letters and numbers behind it."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numgpt.text.pretokenize import SPACES, _ascii, _unicode, words
from numgpt.text.unicode16 import LETTERS, NUMBERS

TEXT = st.text(st.characters(exclude_categories=()), max_size=60)
EVERY = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def members(table: str) -> set[str]:
    found = set()
    for part in table.split():
        first, _, last = part.partition("-")
        found |= set(map(chr, range(int(first, 16), int(last or first, 16) + 1)))
    return found


@pytest.mark.parametrize("text, pieces", [
    ("Hello world", ["Hello", " world"]),
    ("it's we'll they'd I'M", ["it", "'s", " we", "'ll", " they", "'d", " I", "'", "M"]),  # lower case alone is split off
    ("a  b   c", ["a", " ", " b", "  ", " c"]),  # the last space goes with the word
    ("end \n\n", ["end", " \n\n"]),
    ("x=3.14!", ["x", "=", "3", ".", "14", "!"]),
    ("naïve 北京 ½ ²", ["naïve", " 北京", " ½", " ²"]),
    ("a\u3000b\u00a0c", ["a", "\u3000", "b", "\u00a0", "c"]),  # only a plain space goes with a word
    ("a\x1cb", ["a", "\x1c", "b"]),  # a separator to Python, no space to GPT-2
    ("", []),
])
def test_text_is_cut_where_gpt2_cuts_it(text, pieces):
    assert words(text) == pieces


@given(TEXT)
def test_the_pieces_are_the_text(text):
    assert "".join(words(text)) == text


@given(st.text(st.characters(max_codepoint=127), max_size=60))
def test_the_short_pattern_for_ascii_cuts_like_the_long_one(text):
    assert _ascii().findall(text) == _unicode().findall(text)


def test_the_table_agrees_with_this_python_on_every_code_point_that_both_know():
    # Each knows the code points of its own version of Unicode; of those of both, none has changed between L, N and others.
    for table, category in ((LETTERS, "L"), (NUMBERS, "N")):
        ours = members(table)
        theirs = {c for c in EVERY if unicodedata.category(c).startswith(category)}
        assert all(unicodedata.category(c) == "Cn" for c in ours - theirs)  # younger than this Python
        if unicodedata.unidata_version <= "16.0.0":
            assert theirs <= ours


def test_the_table_has_the_letters_and_numbers_of_unicode_16():
    assert (len(members(LETTERS)), len(members(NUMBERS))) == (141028, 1911)


@pytest.mark.verify
def test_the_table_is_that_of_tiktoken_and_of_tokenizers_on_every_code_point():
    import tiktoken
    from tokenizers import Regex, pre_tokenizers
    text = "".join(EVERY)
    for table, category in ((LETTERS, "L"), (NUMBERS, "N")):
        alone = tiktoken.Encoding("class", pat_str=rf"\p{{{category}}}", mergeable_ranks={bytes([i]): i for i in range(256)},
                                  special_tokens={})  # what does not match is left out
        assert set(alone.decode(alone.encode_ordinary(text))) == members(table)
        removed = pre_tokenizers.Split(Regex(rf"\p{{{category}}}"), behavior="removed")
        left = set()
        for i in range(0, len(text), 5000):
            left |= set("".join(piece for piece, _ in removed.pre_tokenize_str(text[i:i + 5000])))
        assert set(EVERY) - left == members(table)


@pytest.mark.verify
def test_only_code_points_younger_than_the_table_differ_from_the_regex_module():
    import regex
    text = "".join(EVERY)
    for table, category in ((LETTERS, "L"), (NUMBERS, "N")):
        theirs, ours = set(regex.findall(rf"\p{{{category}}}", text)), members(table)
        assert ours <= theirs
        # None of them is assigned in Unicode 14 to 16: this Python does not know them, and tiktoken's 16.0 (above) neither.
        assert all(unicodedata.category(c) == "Cn" for c in theirs - ours) or unicodedata.unidata_version > "16.0.0"
    assert set(regex.findall(r"\s", text)) == set(re.findall(f"[{SPACES}]", text))


@pytest.mark.verify
@given(st.text(st.sampled_from([c for c in EVERY if unicodedata.category(c) != "Cn"]), max_size=40))
def test_words_are_those_of_gpt2s_own_pattern(text):
    import regex
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    assert words(text) == regex.findall(pattern, text)
