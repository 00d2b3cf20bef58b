"""Whether diagnose names the mistakes of a port that numgpt did not write, and how long it takes.

The port is the one in tests/torch_port.py: a forward and backward by hand in torch, in float32, with one mistake of the
catalogue planted, in its plainest form or (--forms) in another, or one that no catalogue has. It runs on two traces: the
hard case, and weights of 0.02 as they are before training, where gains are 1 and biases 0. A mistake that changes no tensor
by more than compare takes for rounding is "below noise".
"""

import argparse
import json
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from numgpt.threads import cores

TESTS = Path(__file__).parent.parent / "tests"
GOOD = ("named", "in the list", "below noise", "correct", "unknown, rightly")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks diagnose", description=__doc__.splitlines()[0])
    parser.add_argument("mistakes", nargs="*", metavar="MISTAKE", help="slugs, or slug:form (default: all, and none)")
    parser.add_argument("--trace", choices=("hard", "0.02", "both"), default="both")
    parser.add_argument("--forms", action="store_true", help="other forms of the mistakes too")
    parser.add_argument("--only", default="", metavar="BEGINNING",
                        help="the port dumps only what begins so: grads. say, the parameters' gradients")
    parser.add_argument("--jobs", type=int, default=cores(), help="at a time (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the table there too")
    arguments = parser.parse_args(argv)
    try:
        import torch  # noqa: F401
    except ImportError:
        print("The port is one in torch, which is not installed: pip install -e '.[bench]'")
        return 2
    sys.path.insert(0, str(TESTS))
    from torch_port_mistakes import FORMS, MISTAKES, OF_THE_STEP, STRANGE
    known = [None, *MISTAKES, *FORMS, *STRANGE]
    unknown = set(arguments.mistakes) - set(known)
    if unknown:
        parser.error(f"there is no mistake {', '.join(sorted(unknown))}: tests/torch_port_mistakes.py lists them")
    mistakes = arguments.mistakes or [one for one in known if arguments.forms or one not in FORMS]
    if arguments.only and not arguments.only.startswith("steps"):
        mistakes = [one for one in mistakes if (one or "").split(":")[0] not in OF_THE_STEP]
    traces = [name for name in ("hard", "0.02") if arguments.trace in (name, "both")]
    cases = [(one, name == "hard", arguments.only) for name in traces for one in mistakes]

    layout = "{:24} {:5} {:40} {:52} {:>6} {:>6}  {}"
    print(layout.format("mistake", "trace", "compare: the first that differs", "diagnose", "digits", "s", "result"))
    rows = []
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        for row in pool.map(judged, cases):
            said = " or ".join("+".join(slugs) for slugs in row["said"]) or row["verdict"]
            print(layout.format(row["mistake"] or "(none)", row["trace"], row["compare"] or "all agree",
                                said if len(said) < 53 else said[:49] + "...", f"{row['digits']:.1f}", f"{row['seconds']:.1f}",
                                row["result"]), flush=True)
            rows.append(row)
    for name in traces:
        totals = Counter(row["result"] for row in rows if row["trace"] == name)
        slowest = max((row for row in rows if row["trace"] == name), key=lambda row: row["seconds"])
        print(f"{name}: {', '.join(f'{n} {result}' for result, n in totals.most_common())}; "
              f"the slowest took {slowest['seconds']:.1f} s ({slowest['mistake']})")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"only": arguments.only, "rows": rows}, file, indent=1)
    return 0 if all(row["result"] in GOOD for row in rows) else 1


def judged(case: tuple[str | None, bool, str]) -> dict:
    """One mistake, planted in the port, and what compare and diagnose say of its numbers."""
    sys.path[:0] = [str(TESTS)] if str(TESTS) not in sys.path else []
    from ports import in_torch, planted, trace_of

    from numgpt.verify.compare import compare
    from numgpt.verify.diagnose import diagnose

    mistake, hard, only = case
    trace = trace_of(mistake, hard)
    port = in_torch(trace, mistake, only=only)
    differing, diagnosis = compare(trace, port).wrong, diagnose(trace, port)
    moved = {name: times for name, times in planted(trace, mistake).items() if name.startswith(only)} if mistake else {}
    said = [[one.slug for one in found] for found in (diagnosis.found, *diagnosis.others) if found]
    return {"mistake": mistake, "trace": "hard" if hard else "0.02", "compare": differing[0].name if differing else None,
            "moved": max(moved.values(), default=0.0), "verdict": diagnosis.verdict, "said": said, "digits": diagnosis.digits,
            "wrong": [row.name for row in diagnosis.wrong], "tried": diagnosis.tried, "seconds": round(diagnosis.seconds, 2),
            "result": result(mistake, diagnosis.verdict, said, max(moved.values(), default=0.0))}


def result(mistake: str | None, verdict: str, said: list[list[str]], moved: float) -> str:
    """What came of it; moved: by how many of float32's tolerances the mistake moves the tensor that it moves most."""
    slug = (mistake or "").partition(":")[0]
    if mistake is None:
        return "correct" if verdict == "correct" else "FALSE ALARM"
    if verdict == "correct":
        return "below noise" if moved < 1 else "MISSED"
    if slug.startswith("strange"):
        return "unknown, rightly" if verdict == "unknown" else "FALSE NAME"
    if verdict == "unknown":
        return "NOT NAMED"
    if said[0] == [slug]:
        return "named"
    return "in the list" if [slug] in said else "FALSE NAME"
