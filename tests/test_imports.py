"""The map of the package, held to: imports go down, and reach outside NumPy only where they may."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import numgpt

ROOT = Path(numgpt.__file__).parent
FLOORS = {"layers": 0, "gradcheck": 0, "threads": 0, "files": 0, "bfloat16": 0,
          "text": 1, "safetensors": 1, "plan": 1, "config": 2, "stored": 2, "body": 3, "model": 4, "formats": 5, "sample": 5,
          "training": 6, "verify": 7, "teach": 8, "cli": 9, "__init__": 10, "__main__": 10}
# Where another package may be imported, inside a function.
ADAPTERS = {"verify/adapters.py"}
MODULES = sorted(ROOT.rglob("*.py"))


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(path: Path):
    """(module, whether at module level) for each import of a file; from numgpt import x names numgpt.x."""
    tree = ast.parse(path.read_text())
    inside = {id(node) for function in ast.walk(tree) if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
              for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, id(node) not in inside
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            if node.module == "numgpt":
                for name in node.names:
                    yield f"numgpt.{name.name}", id(node) not in inside
            else:
                yield node.module, id(node) not in inside


def faults(path: Path, relative: str) -> list[str]:
    own = Path(relative).parts[0].removesuffix(".py")
    found = []
    for module, at_module_level in imports(path):
        top = module.split(".")[0]
        if top == "numgpt":
            room = room_of(module)
            if room == own or room == "__init__" or room not in FLOORS:
                continue  # its own room; a name of the package itself, such as __version__
            if FLOORS[room] >= FLOORS[own]:
                found.append(f"{relative} (floor {FLOORS[own]}) imports {module} (floor {FLOORS[room]})")
        elif top != "numpy" and top not in sys.stdlib_module_names:
            if at_module_level or relative not in ADAPTERS:
                found.append(f"{relative} imports {module}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_and_stay_within_numpy(path):
    assert faults(path, path.relative_to(ROOT).as_posix()) == []


@pytest.mark.parametrize("source", ["import numgpt.verify.cases", "from numgpt.model import GPT", "from numgpt import cli",
                                    "import torch", "def f():\n    import scipy.special", "from numgpt.gradcheck import check"])
def test_an_import_that_goes_up_or_out_is_seen(tmp_path, source):
    file = tmp_path / "linear.py"
    file.write_text(source)
    assert faults(file, "layers/linear.py")


def test_every_file_stands_in_a_room_of_the_map():
    assert {p.relative_to(ROOT).parts[0].removesuffix(".py") for p in MODULES} <= set(FLOORS)


def test_import_numgpt_loads_nothing_beyond_numpy_and_the_standard_library():
    code = ("import sys, numpy.random; before = set(sys.modules); import numgpt; "
            "print(sorted({m.split('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names)))")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert set(ast.literal_eval(ran.stdout)) <= {"numgpt", "numpy"}
