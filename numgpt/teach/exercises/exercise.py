"""An exercise, from its file in course/: what the learner is given, the solution, and what lies between them."""

import functools
import importlib
import inspect
from dataclasses import dataclass
from types import ModuleType

from numgpt.teach.exercises.course import ORDER, OWN

HEAD = "# numgpt exercise "
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
        lines = [line.replace("#- ", "", 1) if _only_given(line) else line
                 for line in self._marked() if not _only_solved(line)]
        return head + "\n".join(lines) + "\n"

    @property
    def solution(self) -> str:
        return "\n".join(_unmarked(line) for line in self._marked() if not _only_given(line)) + "\n"

    @property
    def difference(self) -> list[str]:
        """What the learner has to change, as in a diff."""
        return [("- " + line.strip().removeprefix("#- ")) if _only_given(line) else "+ " + _unmarked(line).strip()
                for line in self._marked() if _only_given(line) or _only_solved(line)]

    @property
    def following(self) -> "Exercise | None":
        return in_order()[self.number] if self.number < len(ORDER) else None

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


def _only_given(line: str) -> bool:
    return line.lstrip().startswith("#- ")


def _only_solved(line: str) -> bool:
    return line.endswith("#+")


def _unmarked(line: str) -> str:
    return line.removesuffix("#+").rstrip()
