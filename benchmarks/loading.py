"""Loading GPT-2 (124M) and one forward at T = 64: time and peak memory, from every format.

The bound is 1.3 times the weights and what the forward must keep, as plan() predicts it. Each row is a process of its
own, whose peak is that of the whole process; "python" is one that imports numgpt and does nothing.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from numgpt import GPT, GPTConfig, huggingface, llmc
from numgpt.plan import human

SAVERS = {
    "numgpt": lambda model, path: model.save(path / "model.safetensors"),
    "numgpt, bfloat16": lambda model, path: model.save(path / "model.safetensors", dtype="bfloat16"),
    "huggingface": huggingface.save,
    "huggingface, 100 MB shards": lambda model, path: huggingface.save(model, path, shard_bytes=10 ** 8),
    "huggingface, bfloat16": lambda model, path: huggingface.save(model, path, dtype="bfloat16"),
    "llm.c": lambda model, path: llmc.save(model, path / "model.bin"),
    "llm.c, bfloat16": lambda model, path: llmc.save(model, path / "model.bin", dtype="bfloat16"),
}

CHILD = """
import json, re, sys, time
import numpy as np
from numgpt import formats
path, T = sys.argv[1], int(sys.argv[2])
peak = lambda: 1024 * int(re.search("VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
result = {"python": peak()}
if path:
    began = time.perf_counter()
    model = formats.load(path)
    result |= {"load s": time.perf_counter() - began, "loaded": peak()}
    ids = np.random.default_rng(0).integers(0, model.config.n_vocab, (1, T))
    loss, saved = model.forward(ids, ids)
    result |= {"forward": peak(), "loss": float(loss)}
print(json.dumps(result))
"""


def measured(path: str, T: int) -> dict:
    ran = subprocess.run([sys.executable, "-c", CHILD, path, str(T)], capture_output=True, text=True, check=True,
                         cwd=Path(__file__).parent.parent)
    return json.loads(ran.stdout)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks loading", description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="gpt2")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--json", metavar="FILE", help="write the figures, too")
    arguments = parser.parse_args(argv)
    config = GPTConfig.preset(arguments.preset)
    plan = config.plan(n_tokens=arguments.tokens)
    bound = 1.3 * plan.weights + plan.saved
    model = GPT(config)
    print(f"{arguments.preset}: weights {human(plan.weights, 'B')}, kept by a forward at T = {arguments.tokens} "
          f"{human(plan.saved, 'B')}, bound {human(bound, 'B')}; python {human(measured('', 0)['python'], 'B')}\n")
    print(f"{'format':26}  {'load':>7}  {'peak loaded':>11}  {'peak forward':>12}  {'of bound':>8}  (peak - kept) / weights")
    rows = {}
    for name, save in SAVERS.items():
        with tempfile.TemporaryDirectory() as folder:
            save(model, Path(folder))
            files = list(Path(folder).iterdir())
            row = rows[name] = measured(str(files[0] if len(files) == 1 else folder), arguments.tokens)
        print(f"{name:26}  {row['load s']:5.2f} s  {human(row['loaded'], 'B'):>11}  {human(row['forward'], 'B'):>12}  "
              f"{row['forward'] / bound:8.2f}  {(row['forward'] - plan.saved) / plan.weights:.2f}", flush=True)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"plan": json.loads(plan.to_json()), "rows": rows}, indent=1))
    return 0 if all(row["forward"] <= bound for row in rows.values()) else 1
