"""python -m benchmarks [QUESTION] [--help ...]"""

import importlib
import sys
from pathlib import Path

QUESTIONS = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: python -m benchmarks QUESTION [options]\n")
        for name in QUESTIONS:
            summary = importlib.import_module(f"benchmarks.{name}").__doc__.splitlines()[0]
            print(f"  {name:12} {summary}")
        return 0
    if argv[0] not in QUESTIONS:
        print(f"there is no benchmark {argv[0]!r}; there are {', '.join(QUESTIONS)}", file=sys.stderr)
        return 2
    return importlib.import_module(f"benchmarks.{argv[0]}").main(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
