"""The structure: imports go down only, no machine paths, no real handwriting."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# From the bottom up: a file may import what is in the rows below its own, and from its own folder.
LAYERS = [
    ["jobs"],
    ["config", "model", "picture", "hwdb"],
    ["synthesis", "calibration", "page"],
    ["checkpoint", "packing"],
    ["dataset"],
    ["recognizer"],
    ["training", "evaluation"],
    ["process_gnt", "synthesize_gnt", "train", "test", "predict", "export", "demo", "hubconf"],
]
LEVEL = {name: level for level, row in enumerate(LAYERS) for name in row}
FOLDERS = [name for name in LEVEL if (ROOT / name).is_dir()]


def files_of(name: str) -> list[Path]:
    """Return the files of a folder, or the one file of that name."""
    return sorted((ROOT / name).glob("**/*.py")) if name in FOLDERS else [ROOT / f"{name}.py"]


def imports(path: Path) -> set[str]:
    """Return the top-level names of all modules that a file imports, also within functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_every_file_has_a_row():
    names = {path.stem for path in ROOT.glob("*.py")}
    assert names | set(FOLDERS) == set(LEVEL)
    assert len(names) <= 15


@pytest.mark.parametrize("name", sorted(LEVEL))
def test_imports_go_down(name):
    for path in files_of(name):
        for other in imports(path) & set(LEVEL) - {name}:
            assert LEVEL[other] < LEVEL[name], f"{path} imports {other}"


def test_model_imports_torch_alone():
    third_party = imports(ROOT / "model.py") - sys.stdlib_module_names
    assert third_party == {"torch"}


def test_lab_and_benchmarks_are_not_imported():
    for name in LEVEL:
        for path in files_of(name):
            assert not imports(path) & {"lab", "benchmarks", "tests"}, path


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.splitlines()]


def test_no_file_names_a_path_of_a_machine():
    for path in tracked():
        if path.suffix in (".py", ".md", ".toml", ".txt", ".html") and path.is_file():
            text = path.read_text(encoding="utf-8")
            machine = re.compile(r"/(work|home|root|Users)/\w")
            assert not machine.search(text), f"{path}: a path of some machine"


def test_no_real_handwriting_is_tracked():
    names = [path.name for path in tracked()]
    assert not [name for name in names if name.endswith(".gnt")]
