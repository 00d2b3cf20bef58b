"""How the cost of forward and backward grows with each size, beside how it should: a quadratic in the wrong place shows.

From one small model, one size at a time is doubled. Each time is the best of the rounds, in which all points take turns.
The exponent is the slope of log(time) over log(size), by least squares over the upper half of the points; beside it the
slope, over the same points, of the FLOPs that plan() says a shard has, which is what a perfect program would show. At
small sizes what each layer costs whatever its size makes the measured one the lower.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks._shapes import rows_of_shards, warn_of_load
from numgpt import GPT, GPTConfig
from numgpt.threads import cores, keep_memory
from numgpt.training.shards import Shards

BASE = dict(T=128, B=4, width=128, layers=2, vocabulary=256, shards=1)
SIZES = {"T": (64, 128, 256, 512, 1024, 2048), "B": (1, 2, 4, 8, 16, 32), "width": (64, 128, 256, 512, 1024),
         "layers": (1, 2, 4, 8, 16), "vocabulary": (256, 1024, 4096, 16384, 65536), "shards": None}
TOO_STEEP = 0.25  # of a difference between exponents
HEAD = 64


class Point:
    """A model and a batch of some size, and the seconds that they took."""

    def __init__(self, **sizes):
        s = BASE | sizes
        self.config = GPTConfig(n_vocab=s["vocabulary"], n_ctx=s["T"], n_layer=s["layers"], n_head=s["width"] // HEAD,
                                n_embd=s["width"])
        rows = max(rows_of_shards(s["B"], s["shards"]))
        self.flops = s["T"] * rows * self.config.flops_per_token(training=True)
        self.shards = Shards(GPT(self.config), s["shards"])
        self.batch = np.random.default_rng(0).integers(0, s["vocabulary"], (2, s["B"], s["T"]))
        self.best = math.inf
        self.turn()  # a warm-up
        self.best = math.inf

    def turn(self) -> None:
        began = time.perf_counter()
        self.shards.backward(*self.batch)
        self.best = min(self.best, time.perf_counter() - began)


def slope(sizes, costs) -> float:
    """The exponent, over the upper half of the points: two of them at least."""
    half = len(sizes) - max(2, math.ceil(len(sizes) / 2))
    return float(np.polyfit(np.log(sizes[half:]), np.log(costs[half:]), 1)[0])


def measure(axis: str, sizes, rounds: int) -> dict:
    more = {"B": 2 * cores() * BASE["B"]} if axis == "shards" else {}
    points = [Point(**more, **{axis: size}) for size in sizes]
    for _ in range(rounds):
        for point in points:
            point.turn()
    for point in points:
        point.shards.close()
    seconds, flops = [point.best for point in points], [point.flops for point in points]
    return {"sizes": list(sizes), "seconds": seconds, "flops": flops,
            "exponent": slope(sizes, seconds), "theory": slope(sizes, flops)}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks scaling", description=__doc__.splitlines()[0])
    parser.add_argument("axes", nargs="*", metavar="SIZE", help=f"of {', '.join(SIZES)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="without the largest point of each, and two rounds")
    parser.add_argument("--json", metavar="FILE", help="write the figures, too")
    arguments = parser.parse_args(argv)
    unknown = set(arguments.axes) - set(SIZES)
    if unknown:
        parser.error(f"there is no size {', '.join(sorted(unknown))}; there are {', '.join(SIZES)}")
    keep_memory()
    found = {"load": warn_of_load(), "base": BASE}
    print(f"from {', '.join(f'{name} {size}' for name, size in BASE.items())}; heads of {HEAD}\n")
    for axis in arguments.axes or SIZES:
        sizes = SIZES[axis] or range(1, cores() + 1)
        if axis == "shards" and len(sizes) == 1:
            print("shards      one core: nothing to compare")
            continue
        if arguments.quick and axis != "shards":
            sizes = sizes[:-1]
        row = found[axis] = measure(axis, sizes, 2 if arguments.quick else arguments.rounds)
        # cores that share memory, or are two halves of one, are no fault of a formula
        row["too steep"] = axis != "shards" and row["exponent"] > row["theory"] + TOO_STEEP
        points = "  ".join(f"{size}: {1e3 * s:.1f} ms" for size, s in zip(row["sizes"], row["seconds"]))
        print(f"{axis:10}  exponent {row['exponent']:5.2f}, of the FLOPs {row['theory']:5.2f}"
              f"{'   TOO STEEP' if row['too steep'] else ''}\n            {points}", flush=True)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
