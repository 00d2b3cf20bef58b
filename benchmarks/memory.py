"""Memory: what a training step adds to the weights, beside plan()'s sum and beside torch; and what an import costs.

Each is a process of its own, which takes a few steps with a tiny model, makes the model, gives back to the system what it
no longer uses, and notes what is resident. Three training steps follow, as in train_step. "added" is the peak during all
three, less what was noted; "faults" are the pages that the third one took anew from the system.

"predicted" is summed from plan(): the gradients, once; AdamW's two moments; saved, or saved_recompute, of each shard at its
own rows; for each shard but the first the gradients that it holds before it adds them, of a tied table, which the head
begins and the embedding ends, and of one block; and for each shard what comes and goes where that is most, in the head or
in a block's feed-forward. plan() itself counts only what stays.

The time of an import is that of a process that does nothing else, median of several that take turns with ones that import
numpy.
"""

import argparse
import ctypes
import gc
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks._contenders import Numgpt, Torch
from benchmarks._floor import chunk
from benchmarks._shapes import SHAPES, Remote, Shape, installed, rows_of_shards, shape_of
from numgpt.plan import human
from numgpt.threads import cores

KINDS = {"numgpt": (Numgpt,), "numgpt, Recompute": (Numgpt, True), "torch": (Torch,)}
STEPS, PROCESSES = 3, 15
WARM_UP = Shape("nano", 4, 8)


def status(field: str) -> int:
    """Bytes, of this process: VmRSS, what is resident, or VmHWM, the most that was."""
    return 1024 * int(re.search(rf"{field}:\s*(\d+)", Path("/proc/self/status").read_text())[1])


def trim() -> None:
    """Give back to the system what the construction no longer needs, so that no step can take it unseen."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


class Weighed:
    def __init__(self, kind: type, shape: Shape, threads: int, *options):
        first = kind(WARM_UP, threads, *options)  # loads whatever a framework loads with its first step
        first.begin()
        first.opening()
        del first
        self.contender = kind(shape, threads, *options)

    def weigh(self) -> dict[str, int]:
        import resource  # not everywhere, and neither is /proc

        trim()
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        self.contender.begin()
        faults = []
        for _ in range(STEPS):
            began = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            self.contender.opening(1)
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - began)
        return {"stood": before, "added": status("VmHWM") - before, "faults": faults[-1]}


def predicted(shape: Shape, shards: int, recompute: bool = False) -> int:
    config = shape.config()
    plans = [config.plan(batch=rows, n_tokens=shape.n_tokens) for rows in rows_of_shards(shape.batch, shards)]
    kept = sum(plan.saved_recompute if recompute else plan.saved for plan in plans)
    one, two = (config.change(n_layer=n).n_params for n in (1, 2))
    held = two - one + (config.n_vocab * config.n_embd if config.tied else 0)
    more = (len(plans) - 1) * held + sum(passing(plan, config) for plan in plans)
    return plans[0].gradients + plans[0].moments + kept + 4 * more


def passing(plan, config) -> int:
    """Numbers: the logits of a chunk and three arrays like them; or feed-forward's a, slope and da, and what its block hands on."""
    n = plan.batch * plan.n_tokens
    return max(4 * min(n, chunk(config.n_vocab)) * config.n_vocab, n * (3 * config.hidden_dim + 2 * config.n_embd))


IMPORTS = ("import numpy", "import numpy, numgpt", "import numpy; from numgpt import GPT")  # numgpt alone loads no NumPy


def import_times(n: int) -> dict[str, float]:
    """Seconds of a process that does each, and nothing else."""
    times = {code: [] for code in IMPORTS}
    for _ in range(n):
        for code, seconds in times.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
            seconds.append(time.perf_counter() - began)
    return {code: statistics.median(seconds) for code, seconds in times.items()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks memory", description=__doc__.splitlines()[0])
    parser.add_argument("shapes", nargs="*", type=shape_of, default=list(SHAPES.values()), metavar="SHAPE",
                        help=f"of {', '.join(SHAPES)} (default: all), or PRESET:BxT")
    parser.add_argument("--threads", type=int, default=cores(), help="of each (default: the cores)")
    parser.add_argument("--processes", type=int, default=PROCESSES, help=f"that import each (default: {PROCESSES})")
    parser.add_argument("--json", metavar="FILE", help="write the figures, too")
    arguments = parser.parse_args(argv)
    if not Path("/proc/self/clear_refs").exists():
        print("the peak of a step is read from Linux's /proc, which is not here", file=sys.stderr)
        return 2
    kinds = {name: kind for name, kind in KINDS.items() if name != "torch" or installed("torch")}
    rows = []
    print(f"{'shape':18} {'who':18} {'weights stand':>13} {'added':>9} {'predicted':>10} {'ratio':>6} {'faults':>8}")
    for shape in arguments.shapes:
        for name, (kind, *options) in kinds.items():
            with Remote(Weighed, kind, shape, arguments.threads, *options) as one:
                row = {"shape": shape, "who": name, **one.call("weigh")}
            text = ""
            if kind is Numgpt:
                row["predicted"] = predicted(shape, arguments.threads, *options)
                text = f"{human(row['predicted'], 'B'):>10} {row['added'] / row['predicted']:6.2f}"
            rows.append(row)
            print(f"{f'{shape.preset} {shape.batch} x {shape.n_tokens}':18} {name:18} {human(row['stood'], 'B'):>13} "
                  f"{human(row['added'], 'B'):>9} {text:17} {row['faults']:8,}", flush=True)
    times = import_times(arguments.processes)
    print()
    for code, seconds in times.items():
        print(f"{code:34} {1e3 * seconds:6.1f} ms  {1e3 * (seconds - times[IMPORTS[0]]):+6.1f}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"steps": rows, "import seconds": times}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
