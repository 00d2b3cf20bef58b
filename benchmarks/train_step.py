"""A training step: forward, backward, clipping and AdamW, beside torch's, and beside its matrix products alone.

Random weights and ids, float32, at four shapes. numgpt trains as its trainer does; torch is a plain module with fused
attention, fused AdamW and as many threads, eager and compiled. The floor is the step's matrix products, at the shapes in
which numgpt does them, on as many threads; that of AdamW and clipping is to read and write the optimizer's arrays once.
"kept" is torch with what numgpt's trainer asks of the C library for itself: to keep the memory that is given back to it.

Each has a process of its own, and they take turns. Shown are medians over the rounds, with quartiles; and ratios of
medians, with the quartiles of the rounds' own ratios. A comparison in which losses or gradients differ is an error.
"""

import argparse
import json
import math
import sys
import time

from benchmarks._contenders import Numgpt, Torch, disagreement
from benchmarks._floor import Floor
from benchmarks._shapes import (REST, SHAPES, Failed, Remote, Shape, installed, quartiles, ratio, say_kernels, shape_of,
                                warn_of_load)
from numgpt.threads import cores

PARTS = ("step", "gradient", "update")  # the second and the third make the first
TURN = 0.4  # seconds, for as many steps as fit into it, one at least; and as many before them, which are not counted
COLUMN = 42


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks train_step", description=__doc__.splitlines()[0])
    parser.add_argument("shapes", nargs="*", type=shape_of, default=list(SHAPES.values()), metavar="SHAPE",
                        help=f"of {', '.join(SHAPES)} (default: all), or PRESET:BxT")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=cores(), help="of each (default: the cores)")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--profile", action="store_true", help="only show where numgpt's step goes, one shard on one thread")
    parser.add_argument("--json", metavar="FILE", help="write the figures, too")
    arguments = parser.parse_args(argv)
    found = {"load": warn_of_load(), "kernels": say_kernels(), "threads": arguments.threads}
    torch = not arguments.profile and installed("torch")
    for shape in arguments.shapes:
        name = f"{shape.preset} {shape.batch} x {shape.n_tokens}"
        print(f"{name}, {shape.config().n_params:,} parameters, "
              f"{'one shard on one thread' if arguments.profile else f'{arguments.threads} threads'}", flush=True)
        if arguments.profile:
            found[name] = profile(shape, arguments)
        else:
            found[name] = compare(shape, arguments, torch)
            if found[name] is None:
                return 1
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(found, file, indent=1)
    return 0


def compare(shape: Shape, arguments, torch: bool) -> dict | None:
    """Take turns, and print what they come to; None if the comparison is void."""
    runners = {}
    try:
        runners["numgpt"] = Remote(Numgpt, shape, arguments.threads)
        runners["floor"] = Remote(Floor, shape, arguments.threads)
        for one in runners.values():
            one.call("begin")
        opening = runners["numgpt"].call("opening")
        if torch:
            runners["torch"] = Remote(Torch, shape, arguments.threads)
            runners["kept"] = Remote(Torch, shape, arguments.threads, kept=True)
            if not arguments.no_compile:
                runners["compiled"] = Remote(Torch, shape, arguments.threads, compiled=True)
        for name in [name for name in ("torch", "kept", "compiled") if name in runners]:
            try:
                runners[name].call("begin", True)
                differs = disagreement(opening, runners[name].call("opening"))
            except Failed as failure:
                if name != "compiled":
                    raise
                print(f"  torch.compile does not work here: {failure.args[0]}")
                runners.pop(name).close()
                continue
            if differs:
                print(f"the comparison with torch ({name}) is void: {differs}", file=sys.stderr)
                return None
        times = take_turns(runners, arguments.rounds)
    finally:
        for one in runners.values():
            one.close()
    return shown(times)


def take_turns(runners: dict[str, Remote], rounds: int) -> dict[str, dict[str, list[float]]]:
    """name -> part -> seconds a step, round by round."""
    times, n = {name: {part: [] for part in PARTS} for name in runners}, {}
    for i in range(rounds + 1):
        for name, one in runners.items():
            time.sleep(REST)
            one.call("turn", n.get(name, 1))  # threads and cores that have slept are slow at first; a run of training never sleeps
            gradient, update = one.call("turn", n.get(name, 1))
            if i == 0:
                n[name] = max(1, math.ceil(TURN / (gradient + update)))
                continue
            for part, seconds in zip(PARTS, (gradient + update, gradient, update)):
                times[name][part].append(seconds)
    return times


def shown(times) -> dict:
    figures = {"seconds": times, "ratios": {}}
    for name, parts in times.items():
        line = f"  {name:9}"
        for part, seconds in parts.items():
            if name == "floor" and part == "step":  # two floors, of the two parts
                line += " " * COLUMN
                continue
            q = quartiles([1e3 * s for s in seconds])
            line += f"  {part} {q['median']:8.2f} ms ({q['low']:.2f} to {q['high']:.2f})".ljust(COLUMN)
        print(line.rstrip())
    for other in [name for name in times if name != "numgpt"]:
        for part in PARTS:
            # a step is held against its products alone
            theirs = times[other]["gradient" if (other, part) == ("floor", "step") else part]
            figures["ratios"][f"{part}, numgpt / {other}"] = ratio(times["numgpt"][part], theirs)
    for what, r in figures["ratios"].items():
        print(f"    {what:28} {r['of medians']:6.3f}  ({r['low']:.3f} to {r['high']:.3f})")
    figures["share of products"] = ratio(times["floor"]["gradient"], times["numgpt"]["gradient"])
    r = figures["share of products"]
    print(f"    products' share of forward and backward: {r['of medians']:.1%} ({r['low']:.1%} to {r['high']:.1%})\n",
          flush=True)
    return figures


def profile(shape: Shape, arguments) -> dict:
    with Remote(Numgpt, shape, arguments.threads) as one:
        one.call("begin")
        seconds = one.call("profile", arguments.rounds)
    whole = sum(map(sum, seconds.values()))
    print(f"  {'without the layers inside':26}  {'forward':>9}  {'backward':>9}  {'of the step':>11}"
          f"   step {1e3 * whole:.1f} ms")
    for kind, (forward, backward) in sorted(seconds.items(), key=lambda item: -sum(item[1])):
        print(f"  {kind:26}  {forward / whole:9.2%}  {backward / whole:9.2%}  {(forward + backward) / whole:11.2%}")
    print(flush=True)
    return seconds


if __name__ == "__main__":
    sys.exit(main())
