"""An exercise, from its file in course/: what the learner is given, the solution, and what lies between them."""

import functools
import importlib
import inspect
import re
from dataclasses import dataclass
from types import ModuleType

from numgpt.teach.exercises.course import ORDER, OWN

HEAD = "# numgpt exercise "
GIVEN, SOLVED = re.compile(r"^(\s*)#-(\d?) "), re.compile(r"\s*#\+(\d?)$")
WAYS = {"write": "What is missing is yours to write",
        "mend": "There is a mistake, which is yours to find and to mend",
        "mend two": "There are two mistakes, which are yours to find and to mend"}


@dataclass(frozen=True)
class Exercise:
    name: str
    number: int  # from 1
    module: ModuleType

    @property
    def file(self) -> str:
        return self.name.replace("-", "_") + ".py"

    @property
    def title(self) -> str:
        return self.module.TITLE

    @property
    def asks(self) -> str:
        return WAYS[self.module.TASK + (" two" if len(self.mistakes) == 2 else "")]

    @property
    def mistakes(self) -> tuple[str, ...]:
        return self.module.MISTAKES

    @property
    def hints(self) -> dict[str, tuple[str, ...]]:
        return self.module.HINTS

    @property
    def given(self) -> str:
        """The learner's file."""
        head = (f"{HEAD}{self.name}: {self.number} of {len(ORDER)}\n"
                f"# {self.asks}. Then: numgpt exercise check {self.name}\n\n")
        return head + self._made(set())

    @property
    def planted(self) -> list[str]:
        """As it is given; and where there are two mistakes, with either mended, for one of them will be first."""
        numbers = self._numbers()
        return [self._made(mended) for mended in [set(), *({n} for n in sorted(numbers) if len(numbers) > 1)]]

    @property
    def solution(self) -> str:
        return self._made(self._numbers())

    @property
    def difference(self) -> list[str]:
        """What the learner has to change, as in a diff."""
        return [f"- {GIVEN.sub('', line)}" if GIVEN.match(line) else f"+ {SOLVED.sub('', line).strip()}"
                for line in self._marked() if GIVEN.match(line) or SOLVED.search(line)]

    @property
    def following(self) -> "Exercise | None":
        return in_order()[self.number] if self.number < len(ORDER) else None

    def _made(self, mended: set[str]) -> str:
        """The file in which the mistakes of these numbers are mended."""
        lines = []
        for line in self._marked():
            given, solved = GIVEN.match(line), SOLVED.search(line)
            if given and given[2] not in mended:
                lines.append(GIVEN.sub(r"\1", line))
            elif not given and (not solved or solved[1] in mended):
                lines.append(SOLVED.sub("", line))
        return "\n".join(lines) + "\n"

    def _numbers(self) -> set[str]:
        marks = (GIVEN.match(line) or SOLVED.search(line) for line in self._marked())
        return {mark[mark.lastindex] for mark in marks if mark}

    def _marked(self) -> list[str]:
        return inspect.getsource(self.module).partition(OWN)[0].rstrip().splitlines()


def in_order() -> list[Exercise]:
    """In the order in which they build on each other."""
    return [named(name) for name in ORDER]


@functools.cache
def named(name: str) -> Exercise:
    """By its name, or by that of its file; KeyError if there is none."""
    name = name.removesuffix(".py").replace("_", "-")
    if name not in ORDER:
        raise KeyError(name)
    module = importlib.import_module(f"numgpt.teach.exercises.course.{name.replace('-', '_')}")
    return Exercise(name, ORDER.index(name) + 1, module)
