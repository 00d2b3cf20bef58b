"""How many wrong gradients the check catches, how many right ones it doubts, and how others' checks do on the same.

Wrong: every mistake of numgpt.verify.mutants in every case that shows it, at output scales 1 and 1e-5; a mask that looks
ahead, or leaks through large scores alone, has a right gradient, and shows in no case.
Right: random cases, every layer in turn, drawn by Sizes.drawn: sizes from 1 to 40, input scales from
1e-3 to 1e3, offsets up to 100, weights of order one; each checked with both automatic methods.
torch.autograd.gradcheck (default and fast mode) and jax.test_util.check_grads see the same forward and
backward, wrapped, with their default tolerances, on those cases that are small enough for them.
"""

import argparse
import json
import sys
from collections import Counter

import numpy as np

from numgpt.gradcheck import check
from numgpt.verify import cases, mutants

METHODS = ("auto", "richardson")
SMALL = 2000  # numbers in the inputs of a case that is given to the others: they measure each


def main(argv: list[str] | None = None) -> int:
    duration = " About 20 minutes alone, an hour beside torch and jax; --cases 100 gives a first impression."
    parser = argparse.ArgumentParser(prog="python -m benchmarks gradcheck", description=__doc__.splitlines()[0] + duration)
    parser.add_argument("--cases", type=int, default=1000, help="random cases of right gradients (default: 1000)")
    parser.add_argument("--budget", type=float, default=0.2, help="seconds a check of one of them (default: 0.2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alone", action="store_true", help="leave torch and jax out")
    parser.add_argument("--json", metavar="FILE", help="write the counts there too")
    arguments = parser.parse_args(argv)
    others = {} if arguments.alone else other_checks()

    wrong = count_wrong(others)
    print_table("wrong gradients", wrong, ("wrong", "inconclusive", "ok"))
    right = count_right(arguments, others)
    print_table("right gradients", right, ("ok", "inconclusive", "wrong"))
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"wrong gradients": wrong, "right gradients": right}, file, indent=1)
    missed = sum(wrong[f"numgpt, {method}"]["ok"] for method in METHODS)
    alarms = sum(right[f"numgpt, {method}"]["wrong"] for method in METHODS)
    print(f"{missed} wrong gradients passed, {alarms} right ones were called wrong")
    return 1 if missed or alarms else 0


def count_wrong(others) -> dict[str, Counter]:
    """Verdicts on every planted mistake."""
    counts = {f"numgpt, {method}": Counter() for method in METHODS}
    shown = [(slug, name) for slug in mutants.names() for name in mutants.CATALOGUE[slug].shows]
    for i, (slug, name) in enumerate(shown):
        for factor in (1.0, 1e-5):
            progress(f"wrong gradients: {i + 1} of {len(shown)}")
            case = cases.make(name, seed=3)
            if case.backward is None:
                case.target = cases.Scaled(case.target, factor)
            with mutants.apply(slug):
                tally(counts, case, others, {}, slug)
    return counts


def count_right(arguments, others) -> dict[str, Counter]:
    """Verdicts on random cases of healthy code; those that are not ok are printed, to be looked into."""
    counts = {f"numgpt, {method}": Counter() for method in METHODS}
    names = cases.names()
    for i in range(arguments.cases):
        progress(f"right gradients: {i + 1} of {arguments.cases}")
        sizes = cases.Sizes.drawn(np.random.default_rng([arguments.seed, i]))
        case = cases.make(names[i % len(names)], i, sizes)
        tally(counts, case, others, {"budget": arguments.budget}, f"case {i}, {case.name}, {sizes}", wanted="ok")
    return counts


def tally(counts, case, others, options, label, wanted="wrong") -> None:
    inputs, case_options = case.arguments()
    for method in METHODS:
        verdict = check(*inputs, method=method, **case_options, **options).verdict
        counts[f"numgpt, {method}"][verdict] += 1
        if verdict != wanted:
            progress("")
            print(f"{method}: {verdict}: {label}")
    if sum(np.size(x) for x in case.inputs) <= SMALL:
        for name, other in others.items():
            counts.setdefault(name, Counter())["ok" if other(case) else "wrong"] += 1


def print_table(title, counts, verdicts) -> None:
    progress("")
    print(f"{title:28}" + "".join(f"{verdict:>14}" for verdict in verdicts) + f"{'of':>8}")
    for name, counter in counts.items():
        print(f"{name:28}" + "".join(f"{counter[verdict]:14}" for verdict in verdicts) + f"{sum(counter.values()):8}")
    print()


def progress(text: str) -> None:
    """A line that updates, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r{text:40}\r", end="", file=sys.stderr, flush=True)


# -- the same forward and backward under other checks


def as_function(case):
    """forward(arrays) -> y and backward(arrays, dy) -> gradients, over all inputs and parameters of a case."""
    layer, backward = case.target, case.backward
    params = [] if backward else [param for _, param in layer.named_params()]
    where = [i for i, x in enumerate(case.inputs) if x.dtype.kind == "f"]

    def arguments(arrays):
        inputs = list(case.inputs)
        for i, a in zip(where, arrays):
            inputs[i] = a
        for param, a in zip(params, arrays[len(where):]):
            param.value = a
        return inputs

    def options():
        return {k: np.random.default_rng(0) if k == "rng" else v for k, v in case.options.items()}

    def forward(*arrays):
        inputs = arguments([np.asarray(a, np.float64) for a in arrays])
        return np.asarray(layer(*inputs) if backward else layer.forward(*inputs, **options())[0])

    def pull(arrays, dy):
        inputs = arguments([np.asarray(a, np.float64) for a in arrays])
        dy = np.asarray(dy, np.float64)
        if backward:
            return [backward(dy, *inputs)]
        _, saved = layer.forward(*inputs, **options())
        layer.zero_grad()
        result = layer.backward(dy if dy.ndim else float(dy), saved)
        given = [d for d in (result if isinstance(result, tuple) else (result,)) if d is not None]
        return [np.asarray(d) for d in given] + [param.grad.copy() for param in params]

    return forward, pull, [np.array(case.inputs[i]) for i in where] + [param.value for param in params]


def other_checks() -> dict:
    """torch's and jax's checks, as far as they are installed: name -> check(case) -> passed."""
    found = {}
    try:
        import torch

        def torch_check(case, fast=False):
            forward, pull, arrays = as_function(case)

            class Wrapped(torch.autograd.Function):
                @staticmethod
                def forward(ctx, *tensors):
                    ctx.save_for_backward(*tensors)
                    return torch.from_numpy(np.array(forward(*(t.detach().numpy() for t in tensors))))

                @staticmethod
                def backward(ctx, dy):
                    arrays = [t.detach().numpy() for t in ctx.saved_tensors]
                    return tuple(torch.from_numpy(np.array(g)) for g in pull(arrays, dy.numpy()))

            tensors = [torch.from_numpy(np.array(a)).requires_grad_() for a in arrays]
            torch.manual_seed(0)
            return torch.autograd.gradcheck(Wrapped.apply, tensors, raise_exception=False, fast_mode=fast)

        found["torch gradcheck"] = torch_check
        found["torch gradcheck, fast mode"] = lambda case: torch_check(case, fast=True)
    except ImportError:
        pass
    try:
        import jax
        from jax.test_util import check_grads

        jax.config.update("jax_enable_x64", True)

        def jax_check(case):
            forward, pull, arrays = as_function(case)
            shape = jax.ShapeDtypeStruct(np.shape(forward(*arrays)), np.float64)

            @jax.custom_vjp
            def f(*xs):
                return jax.pure_callback(forward, shape, *xs)

            def g(xs, dy):
                shapes = [jax.ShapeDtypeStruct(x.shape, np.float64) for x in xs]
                return tuple(jax.pure_callback(lambda xs, dy: pull(xs, dy), shapes, xs, dy))

            f.defvjp(lambda *xs: (f(*xs), xs), g)
            try:
                check_grads(f, arrays, order=1, modes=["rev"])
                return True
            except AssertionError:
                return False

        found["jax check_grads"] = jax_check
    except ImportError:
        pass
    return found
