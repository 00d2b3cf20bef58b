"""numgpt gradcheck: every layer's gradients against its forward pass."""

import argparse
import time
from difflib import get_close_matches

import numpy as np

from numgpt.gradcheck import check
from numgpt.gradcheck.check import METHODS
from numgpt.verify import cases


def register(commands) -> None:
    parser = commands.add_parser(
        "gradcheck", help="check the gradients of every layer and model, or of those named",
        description="Compare the backward pass of each layer, and of whole models in small, with derivatives measured from "
                    "the forward pass, at weights of order one and sizes that are coprime. Models are the forms of the presets "
                    "with two layers. One line each; exit status 1 if a gradient is wrong, or could not be told.")
    parser.add_argument("layers", nargs="*", metavar="LAYER", help="a layer or model, or the beginning of its name (default: all)")
    parser.add_argument("--float32", action="store_true", help="in single precision: checked in double, then compared with it")
    parser.add_argument("--method", choices=METHODS, default="auto", help="how derivatives are measured (default: auto)")
    parser.add_argument("--seed", type=_seed, default=0, help="of weights and inputs (default: 0)")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.set_defaults(run=run, error=parser.error)


def run(arguments) -> int:
    names = _chosen(arguments)
    if arguments.list:
        print("\n".join(names))
        return 0
    width = max(map(len, names))
    print(f"{'layer':{width}}  {'method':10}  worst error  tolerance  time")
    failures = []
    for name in names:
        began = time.perf_counter()
        sizes = cases.Sizes(dtype=np.float32 if arguments.float32 else np.float64)
        inputs, options = cases.make(name, arguments.seed, sizes).arguments()
        if name in cases.models() and name != "gpt-nano":  # thousands of weights, and nano has shown every one of its own
            options["mode"] = "projection"
        report = check(*inputs, method=arguments.method, seed=arguments.seed, **options)
        compared = [f for f in report.gradients if not arguments.float32 or f.method == "float32"] or report.gradients
        worst = max(compared, key=lambda f: f.error / f.tolerance)
        print(f"{name:{width}}  {worst.method:10}  {worst.error:11.1e}  {worst.tolerance:9.1e}  "
              f"{time.perf_counter() - began:3.1f} s" + ("" if report.ok else f"  {report.verdict.upper()}"), flush=True)
        if not report.ok:
            failures.append(report)
    for report in failures:
        print(f"\n{report}")
    if not failures:
        print(f"{len(names)} checked, all right; errors are shares of the largest derivative")
    return 1 if failures else 0


def _chosen(arguments) -> list[str]:
    names = [*cases.names(), *cases.tuned_models(), *cases.models()]
    if not arguments.layers:
        return names
    chosen = []
    for wanted in arguments.layers:
        found = [name for name in names if name == wanted.lower()] or [
            name for name in names if name.startswith(wanted.lower())]
        if not found:
            near = get_close_matches(wanted.lower(), names)
            arguments.error(f"there is no layer or model {wanted!r}" + (f": {' or '.join(near)}?" if near else ";") + " --list prints all")
        chosen += found
    return list(dict.fromkeys(chosen))


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a seed is a whole number from 0 on; got {text}")
    return int(text)
