"""How wide a terminal is, and whether it shows colours: a pipe does not, nor does one whose owner has said NO_COLOR."""

import os
import shutil
import sys
from typing import TextIO

PIPE = 100  # columns, where nobody says how many there are


def width(most: int = 120) -> int:
    """Columns to write in."""
    return min(most, shutil.get_terminal_size((PIPE, 24)).columns)


def coloured(stream: TextIO | None = None) -> bool:
    stream = sys.stdout if stream is None else stream
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Ink:
    """Text as a terminal shows it in some colour; with on=False, as it is."""

    def __init__(self, on: bool):
        self.on = on

    def faint(self, text: str) -> str:
        return self._in("2", text)

    def strong(self, text: str) -> str:
        return self._in("1", text)

    def good(self, text: str) -> str:
        return self._in("32", text)

    def bad(self, text: str) -> str:
        return self._in("31", text)

    def value(self, text: str) -> str:
        return self._in("36", text)

    def gradient(self, text: str) -> str:
        return self._in("33", text)

    def shade(self, text: str, share: float) -> str:
        """On a ground of grey to blue, the deeper the larger the share (0 to 1)."""
        step = round(5 * min(1.0, max(0.0, share)))
        return self._in(f"48;5;{(235, 17, 18, 19, 20, 21)[step]};38;5;{250 + step}", text)

    def _in(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.on and text else text
