"""What README prints is what running it prints."""

import doctest
import re
from pathlib import Path

import numpy as np
import pytest

from numgpt.cli import main
from numgpt.gradcheck import check

README = Path(__file__).parent.parent / "README.md"

# Rounding errors and timings are the machine's own; tolerances are not.
LOOSE = re.compile(r"\d\.\de[-+]\d\d(?= +1\.4e-14)|\+- \S+|[\d.]+ s\b")


class Checker(doctest.OutputChecker):
    def check_output(self, want, got, optionflags):
        return super().check_output(*(re.sub(r" +", " ", LOOSE.sub("#", text)) for text in (want, got)), optionflags)


def test_the_first_screen():
    test = doctest.DocTestParser().get_doctest(re.sub(r"```", "", README.read_text()), {}, "README", str(README), 0)
    failures = []
    doctest.DocTestRunner(Checker(), verbose=False).run(test, out=failures.append)
    assert test.examples and not failures, "".join(failures)


def test_the_commands_that_are_shown_with_their_output_print_it(capsys):
    shown = re.findall(r"^```\n\$ numgpt ([^\n]*)\n(.*?)^```", README.read_text(), re.M | re.S)
    assert shown
    for arguments, output in shown:
        assert main(arguments.split()) == 0
        assert capsys.readouterr().out == output


def test_the_story_for_porters_goes_as_it_is_told(tmp_path, monkeypatch, capsys):
    """Three commands, and what the port does between them. The last digits of tolerances are the machine's own."""
    section = re.search(r"^## For porters.*?(?=^## )", README.read_text(), re.M | re.S)[0]
    monkeypatch.chdir(tmp_path)
    told = re.findall(r"^```(console|python)\n(.*?)^```", section, re.M | re.S)
    assert [kind for kind, _ in told] == ["console", "python", "console"]
    rounding = re.compile(r"(?<=  )\d\.\de-0\d(?=   )|\d\.\de-0\d(?= is rounding)|\d\.\d(?= digits)")
    for kind, text in told:
        if kind == "python":
            exec(text, {})
            continue
        for command in re.split(r"^\$ numgpt ", text, flags=re.M)[1:]:
            arguments, output = command.split("\n", 1)
            assert main(arguments.split()) == (0 if arguments.startswith("trace") else 1)
            assert rounding.sub("#", capsys.readouterr().out) == rounding.sub("#", output)


class Dense:
    """The layer of the recipe, with its mistake."""

    def __init__(self, W, b):
        self.W, self.b = W, b

    def forward(self, x):
        self.x = x
        return x @ self.W + self.b

    def backward(self, dy):
        self.dW = self.x.T @ dy
        self.db = dy.mean(0)
        return dy @ self.W.T


def test_the_recipe_for_testers_prints_the_report_that_is_shown():
    rng = np.random.default_rng(0)
    layer = Dense(rng.standard_normal((5, 3)), rng.standard_normal(3))
    with pytest.raises(AssertionError) as failure:
        check(layer, rng.standard_normal((7, 5))).assert_ok()
    shown = re.search(r"^gradcheck of Dense.*?(?=\n```)", README.read_text(), re.M | re.S)[0]
    assert LOOSE.sub("#", str(failure.value)) == LOOSE.sub("#", shown)
