"""Width and colour follow the terminal."""

import io

import pytest

from numgpt.teach.terminal import PIPE, Ink, coloured, width


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream, variables, expected", [
    (Terminal(), {}, True), (Terminal(), {"NO_COLOR": "1"}, False), (Terminal(), {"NO_COLOR": ""}, True),
    (Terminal(), {"TERM": "dumb"}, False), (io.StringIO(), {}, False)])
def test_colour_is_for_terminals_whose_owner_wants_it(monkeypatch, stream, variables, expected):
    for name, value in {"TERM": "xterm", "NO_COLOR": None, **variables}.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    assert coloured(stream) is expected


def test_the_width_is_the_terminal_s_up_to_a_limit_and_a_pipe_s_is_fixed(monkeypatch):
    monkeypatch.setenv("COLUMNS", "61")
    assert width() == 61 and width(50) == 50
    monkeypatch.delenv("COLUMNS")
    monkeypatch.setattr("os.get_terminal_size", lambda *_: (_ for _ in ()).throw(OSError))
    assert width() == PIPE


def test_without_colour_text_is_as_it_is():
    ink = Ink(False)
    assert all(way("a b") == "a b" for way in (ink.faint, ink.strong, ink.good, ink.bad, ink.value, ink.gradient))
    assert ink.shade("a", 0.7) == "a" and Ink(True).strong("") == ""


def test_a_larger_share_is_another_shade():
    shades = {Ink(True).shade("a", share) for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)}
    assert len(shades) == 6 and Ink(True).shade("a", 7.0) == Ink(True).shade("a", 1.0)
    assert all(shade.endswith("a\x1b[0m") for shade in shades)
