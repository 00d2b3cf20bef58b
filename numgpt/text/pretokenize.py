"""GPT-2's pre-tokenizer: text is cut into words before bytes are merged, so that no token spans two of them.

    's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+

is how GPT-2 writes it. Python's re has no \\p, so the classes of letters and numbers are spelled out from a table; its
\\s has U+001C to U+001F more than the original's, so that is spelled out as well.
"""

import functools
import re

from numgpt.text.unicode16 import LETTERS, NUMBERS

SPACES = "\t-\r\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


def words(text: str) -> list[str]:
    """The text in pieces, which joined are the text."""
    return (_ascii() if text.isascii() else _unicode()).findall(text)


@functools.cache
def _ascii() -> re.Pattern:
    return _pattern("A-Za-z", "0-9", "\t-\r ")


@functools.cache
def _unicode() -> re.Pattern:
    return _pattern(_class(LETTERS), _class(NUMBERS), SPACES)


def _pattern(letters: str, numbers: str, spaces: str) -> re.Pattern:
    return re.compile(f"'(?:[sdmt]|ll|ve|re)| ?[{letters}]+| ?[{numbers}]+| ?[^{spaces}{letters}{numbers}]+"
                      f"|[{spaces}]+(?![^{spaces}])|[{spaces}]+")


def _class(table: str) -> str:
    """"41-5A 61-7A" as the inside of a character class."""
    return "".join("-".join(re.escape(chr(int(end, 16))) for end in part.split("-")) for part in table.split())
