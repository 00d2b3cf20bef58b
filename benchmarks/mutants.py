"""Whether our own tests notice each mistake of numgpt.verify.mutants, when it is planted in the code that they test.

Each mistake is planted in a process of its own, which runs those test files that guard what it breaks, up to the first
test that fails; a test that fails because it cannot plant its own mistake in the same line has noticed nothing. One that no
test notices has SURVIVED: a hole in the tests, which a test should close.
"""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from numgpt.verify import mutants

TESTS = Path(__file__).parent.parent / "tests"
# Of each kind of mistake; the quickest first.
GUARDS = {"step": ("test_optim.py", "test_shards.py", "test_trainer.py"),
          "gradient": ("test_docstrings.py", "test_golden.py", "test_ops.py", "test_cases.py", "test_model.py",
                       "test_properties.py"),
          "tuning": ("test_docstrings.py", "test_heads.py", "test_logprobs.py", "test_preference.py", "test_policy.py",
                     "test_lora.py", "test_segments.py", "test_classifier.py", "test_instruct.py", "test_reward_model.py",
                     "test_dpo_model.py", "test_ppo.py", "test_rollouts.py")}
LIMIT = 300  # seconds for one mistake: it may be one that never ends


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks mutants",
                                     description=__doc__.splitlines()[0] + " Five minutes; with --forms ten.")
    parser.add_argument("slugs", nargs="*", metavar="SLUG", help="these mistakes (default: all)")
    parser.add_argument("--forms", action="store_true", help="every form of each, not the first alone")
    parser.add_argument("--json", metavar="FILE", help="write the table there too")
    arguments = parser.parse_args(argv)
    unknown = set(arguments.slugs) - set(mutants.CATALOGUE)
    if unknown:
        parser.error(f"there is no mistake {', '.join(sorted(unknown))}; there are {', '.join(mutants.CATALOGUE)}")

    for files in GUARDS.values():
        _silently(lambda: pytest.main(["--collect-only", *options(files)]))  # what is imported now, no child has to
        failed, _ = run(files)
        if failed:
            print(f"without any mistake, {failed} fails: mend that first", file=sys.stderr)
            return 1
    found = []
    for slug in arguments.slugs or mutants.CATALOGUE:
        for i, form in enumerate(mutants.forms(slug)[:None if arguments.forms else 1]):
            test, seconds = run(GUARDS[mutants.CATALOGUE[slug].kind], form)
            found.append({"slug": slug, "form": i, "story": form.story, "killed by": test, "seconds": round(seconds, 2)})
            name = f"{slug}, {i}" if i else slug
            print(f"{name:24}{'killed' if test else 'SURVIVED':10}{seconds:5.1f} s  {test or form.story}", flush=True)
    survived = sum(row["killed by"] is None for row in found)
    print(f"{len(found)} mistakes, {survived} survived")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(found, file, indent=1)
    return 1 if survived else 0


class First:
    """The first test that failed, after which no other is run."""

    name = session = None

    def pytest_sessionstart(self, session):
        self.session = session

    def pytest_runtest_logreport(self, report):
        if report.failed and "the code has changed, so must the mistake" not in report.longreprtext:
            self.name = self.name or report.nodeid
            self.session.shouldstop = self.name

    def pytest_collectreport(self, report):
        self.pytest_runtest_logreport(report)


def options(files: tuple[str, ...]) -> list[str]:
    return ["-q", "-p", "no:cacheprovider", "-k", "not planted", *(str(TESTS / name) for name in files)]


def run(files: tuple[str, ...], *planted) -> tuple[str | None, float]:
    """The first test of these files that fails with the mistakes in the code, and how long that took."""
    start = time.perf_counter()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(LIMIT)  # which ends the process
        first = First()
        try:
            with mutants.apply(*planted):
                _silently(lambda: pytest.main(options(files), plugins=[first]))
            os.write(writing, (first.name or "").encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        name = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        name = f"signal {os.WTERMSIG(status)}"
    return name or None, time.perf_counter() - start


def _silently(action) -> None:
    """Without what pytest prints, at the level of the file descriptors: it captures and restores them itself."""
    sys.stdout.flush()
    kept = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1), os.dup2(nowhere, 2)
        action()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os.dup2(kept[0], 1), os.dup2(kept[1], 2)
        for number in (*kept, nowhere):
            os.close(number)


if __name__ == "__main__":
    sys.exit(main())
