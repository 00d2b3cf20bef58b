"""The map of the package, held to: imports go down, and reach outside NumPy only where they may."""

import ast
import importlib
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import numgpt

ROOT = Path(numgpt.__file__).parent
FLOORS = {"layers": 0, "gradcheck": 0, "threads": 0, "files": 0, "bfloat16": 0,
          "text": 1, "safetensors": 1, "plan": 1, "config": 2, "stored": 2, "body": 3, "flat": 3, "adapted": 3, "model": 4, "formats": 5, "sample": 5,
          "training": 6, "tuning": 7, "verify": 8, "teach": 9, "cli": 10, "__init__": 11, "__main__": 11}
# Where another package may be imported, inside a function.
ADAPTERS = {"verify/adapters.py", "verify/foreign/jax_side.py", "verify/foreign/torch_side.py"}
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


def test_imports_go_down_and_stay_within_numpy():
    assert [fault for path in MODULES for fault in faults(path, path.relative_to(ROOT).as_posix())] == []


@pytest.mark.parametrize("source", ["import numgpt.verify.cases", "from numgpt.model import GPT", "from numgpt import cli",
                                    "import torch", "def f():\n    import scipy.special", "from numgpt.gradcheck import check"])
def test_an_import_that_goes_up_or_out_is_seen(tmp_path, source):
    file = tmp_path / "linear.py"
    file.write_text(source)
    assert faults(file, "layers/linear.py")


def test_every_file_stands_in_a_room_of_the_map():
    assert {p.relative_to(ROOT).parts[0].removesuffix(".py") for p in MODULES} <= set(FLOORS)


def loaded_by(code: str) -> set[str]:
    """The modules of numgpt, and the packages beside it, that a new Python has loaded once it has run this."""
    code = f"import sys; before = set(sys.modules)\n{code}\nprint(sorted(set(sys.modules) - before))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    modules = ast.literal_eval(ran.stdout.splitlines()[-1])
    return {name if name.startswith("numgpt.") else name.split(".")[0] for name in modules} - set(sys.stdlib_module_names)


def rooms(modules: set[str]) -> set[str]:
    return {room_of(name) for name in modules if name.startswith("numgpt.")}


def test_all_of_numgpt_loads_nothing_beyond_numpy_and_the_standard_library():
    loaded = loaded_by("import numpy.random; before = set(sys.modules)\nfrom numgpt import *\nimport numgpt.cli\nnumgpt.verify")
    assert {"layers", "gradcheck", "formats", "sample", "training", "verify"} <= rooms(loaded)
    assert {name for name in loaded if not name.startswith("numgpt.")} <= {"numgpt", "numpy"}


def test_import_numgpt_alone_loads_none_of_its_rooms_and_not_even_numpy():
    assert loaded_by("import numgpt; numgpt.__version__; dir(numgpt)") == {"numgpt"}


@pytest.mark.parametrize("code, absent", [
    ("from numgpt import GPT, GPTConfig", {"gradcheck", "text", "formats", "sample", "training", "verify", "cli"}),
    ("from numgpt import gradcheck", set(FLOORS) - {"gradcheck"}),
    ("from numgpt import layers", set(FLOORS) - {"layers"}),
    ("from numgpt import generate, huggingface", {"gradcheck", "training", "verify", "cli"}),
])
def test_a_name_of_the_package_loads_no_room_that_it_does_not_need(code, absent):
    assert rooms(loaded_by(code)) & absent == set()


def test_a_command_loads_none_of_the_others_and_the_version_no_numpy():
    version = "import contextlib, numgpt.cli\nwith contextlib.suppress(SystemExit): numgpt.cli.main(['--version'])"
    assert loaded_by(version) == {"numgpt", "numgpt.cli"}
    plan = loaded_by("import numgpt.cli; numgpt.cli.main(['plan', 'nano'])")
    assert {name for name in plan if name.startswith("numgpt.cli.")} == {"numgpt.cli.plan", "numgpt.cli.configs", "numgpt.cli.options"}
    assert not rooms(plan) & {"gradcheck", "training", "verify"}


def test_what_the_package_says_to_type_checkers_is_what_it_gives():
    tree = ast.parse((ROOT / "__init__.py").read_text())
    said = {alias.name: node.module for block in tree.body if isinstance(block, ast.If) for node in block.body for alias in node.names}
    assert sorted(said) == numgpt.__all__ == sorted(numgpt.__all__)
    for name, module in said.items():
        assert getattr(numgpt, name) is getattr(importlib.import_module(module), name)
        assert name in dir(numgpt)
    assert not {"TYPE_CHECKING", "import_module"} & set(dir(numgpt))


def test_every_room_is_an_attribute_of_the_package_and_nothing_else_is():
    for room in set(FLOORS) - {"__init__", "__main__", "cli"}:
        assert getattr(numgpt, room) is importlib.import_module(f"numgpt.{room}")
        assert room in dir(numgpt)
    with pytest.raises(AttributeError, match="module 'numgpt' has no attribute 'gtp'"):
        numgpt.gtp


def test_help_shows_what_the_package_gives():
    text = pydoc.plain(pydoc.render_doc(numgpt))
    assert all(name in text for name in ("class GPT(", "class GPTConfig(", "train(*files", "generate(model", "score(model"))
