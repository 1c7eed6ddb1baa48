"""The house: imports go down only, one home for each thing, no machine paths."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# From the bottom up: a file may import files of the rows below its own, and those named with it
# within its room.
LAYERS = [
    ["jobs"],
    ["config", "model", "picture", "hwdb"],
    ["synthesis", "calibration", "page"],
    ["checkpoint", "packing"],
    ["dataset"],
    ["recognizer"],
    ["training"],
    ["evaluation"],
    ["process_gnt", "synthesize_gnt", "train", "test", "predict", "export", "demo", "hubconf"],
]
SCRIPTS = LAYERS[-1]
LEVEL = {name: level for level, row in enumerate(LAYERS) for name in row}
ROOMS = [name for name in LEVEL if (ROOT / name).is_dir()]


def files_of(name: str) -> list[Path]:
    """Return the files of a room, or the one file of that name."""
    return sorted((ROOT / name).glob("**/*.py")) if name in ROOMS else [ROOT / f"{name}.py"]


def imports(path: Path) -> set[str]:
    """Return the top-level names of all modules that a file imports, also within functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_every_file_has_its_place():
    names = {path.stem for path in ROOT.glob("*.py")}
    assert names | set(ROOMS) == set(LEVEL)
    assert len(names) <= 15


@pytest.mark.parametrize("name", sorted(LEVEL))
def test_imports_go_down(name):
    for path in files_of(name):
        for other in imports(path) & set(LEVEL) - {name}:
            assert LEVEL[other] < LEVEL[name], f"{path} imports {other}"


@pytest.mark.parametrize("name", LAYERS[0] + LAYERS[1])
def test_the_ground_floor_imports_nothing_of_ours(name):
    for path in files_of(name):
        assert not imports(path) & set(LEVEL) - {name, "jobs"}


def test_model_knows_torch_alone():
    third_party = imports(ROOT / "model.py") - set(__import__("sys").stdlib_module_names)
    assert third_party == {"torch"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_not_imported(name):
    for path in ROOT.glob("*.py"):
        assert name == "test" or name not in imports(path)


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.splitlines()]


def test_repository_speaks_of_itself_alone():
    for path in tracked():
        if path.suffix in (".py", ".md", ".toml", ".txt", ".html") and path.is_file():
            text = path.read_text(encoding="utf-8")
            machine = re.compile(r"/(work|home|root|Users)/\w")
            assert not machine.search(text), f"{path}: a path of some machine"


def test_no_real_handwriting_is_tracked():
    names = [path.name for path in tracked()]
    assert not [name for name in names if name.endswith(".gnt")]
