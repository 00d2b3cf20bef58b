"""Causal attention alone, forward and backward, one thread each, beside torch's scaled_dot_product_attention.

float32; queries, keys and values lie as a model's do, as views of one array (B, T, 3, H, D). Each has a process of its own,
and they take turns; shown are medians over the rounds, with quartiles, and ratios of medians, with the quartiles of the
rounds' own. Outputs and gradients that differ by more than 1e-4 of the largest make the comparison void: an error.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks._shapes import REST, Remote, installed, quartiles, ratio, say_kernels, warn_of_load
from numgpt.layers import CausalAttention
from numgpt.threads import keep_memory, one_blas_thread

SIZES = [(8, 6, 256, 64), (1, 12, 1024, 64), (1, 12, 2048, 64), (4, 12, 64, 64), (12, 4, 64, 32)]
TURN = 0.3  # seconds


def drawn(B: int, H: int, T: int, D: int):
    """q, k, v and dy as views (B, H, T, D)."""
    rng = np.random.default_rng(0)
    qkv, dy = rng.standard_normal((B, T, 3, H, D), np.float32), rng.standard_normal((B, T, H, D), np.float32)
    return *qkv.transpose(2, 0, 3, 1, 4), dy.swapaxes(1, 2)


class Side:
    """forward() keeps what backward() needs, and backward() returns y and the three gradients as arrays."""

    def turn(self, n: int) -> tuple[float, float]:
        """Mean seconds of forward and of backward."""
        first = second = 0.0
        for _ in range(n):
            began = time.perf_counter()
            self.forward()
            between = time.perf_counter()
            self.backward()
            first, second = first + between - began, second + time.perf_counter() - between
        return first / n, second / n


class Ours(Side):
    def __init__(self, sizes):
        *self.inputs, self.dy = drawn(*sizes)
        self.layer = CausalAttention(scale=1 / math.sqrt(sizes[-1]))
        keep_memory()
        self.held = one_blas_thread()
        self.held.__enter__()

    def forward(self):
        self.y, self.saved = self.layer.forward(*self.inputs)

    def backward(self):
        self.gradients = self.layer.backward(self.dy, self.saved)

    def results(self):
        self.forward(), self.backward()
        return self.y, *self.gradients


class Theirs(Side):
    def __init__(self, sizes):
        import torch

        torch.set_num_threads(1)
        keep_memory()
        self.torch = torch
        *inputs, dy = map(torch.from_numpy, drawn(*sizes))
        self.inputs, self.dy = [a.requires_grad_() for a in inputs], dy

    def forward(self):
        self.y = self.torch.nn.functional.scaled_dot_product_attention(*self.inputs, is_causal=True)

    def backward(self):
        self.gradients = self.torch.autograd.grad(self.y, self.inputs, self.dy)

    def results(self):
        self.forward(), self.backward()
        return [a.detach().numpy() for a in (self.y, *self.gradients)]


def sizes_of(text: str) -> tuple[int, ...]:
    try:
        B, H, T, D = map(int, text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not BxHxTxD, such as 8x6x256x64") from None
    return B, H, T, D


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks attention", description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", type=sizes_of, default=SIZES, metavar="BxHxTxD")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", metavar="FILE", help="write the figures, too")
    arguments = parser.parse_args(argv)
    load, kernels, kinds, rows = warn_of_load(), say_kernels(), {"numgpt": Ours}, []
    if installed("torch"):
        kinds["torch"] = Theirs
    for sizes in arguments.sizes:
        sides = {}
        try:
            for name, kind in kinds.items():
                sides[name] = Remote(kind, sizes)
            results = [side.call("results") for side in sides.values()]
            for what, *both in zip(("y", "dq", "dk", "dv"), *results):
                error = abs(both[0] - both[-1]).max() / abs(both[0]).max()
                if not error <= 1e-4:
                    print(f"the comparison with torch at {sizes} is void: {what} differs by {error:.1e}", file=sys.stderr)
                    return 1
            n = {name: max(1, math.ceil(TURN / sum(side.call("turn", 1)))) for name, side in sides.items()}
            times = {name: [] for name in sides}
            for _ in range(arguments.rounds):
                for name, side in sides.items():
                    time.sleep(REST)
                    side.call("turn", n[name])  # a core that has slept is slow at first
                    forward, backward = side.call("turn", n[name])
                    times[name].append((forward, backward, forward + backward))
        finally:
            for side in sides.values():
                side.close()
        row = {"sizes": sizes, "seconds": times}
        print("B {}, H {}, T {}, D {}".format(*sizes))
        for i, part in enumerate(("forward", "backward", "both")):
            line = f"  {part:9}"
            for name, turns in times.items():
                q = quartiles([1e3 * turn[i] for turn in turns])
                line += f" {name} {q['median']:8.2f} ms ({q['low']:.2f} to {q['high']:.2f})".ljust(40)
            if "torch" in times:
                r = row[part] = ratio(*([turn[i] for turn in times[name]] for name in ("numgpt", "torch")))
                line += f" ratio {r['of medians']:.3f} ({r['low']:.3f} to {r['high']:.3f})"
            print(line.rstrip(), flush=True)
        rows.append(row)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"load": load, "kernels": kernels, "rows": rows}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
