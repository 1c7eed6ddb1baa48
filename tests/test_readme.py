"""The two READMEs tell the same story, and the story is true of the scripts."""

import argparse
import hashlib
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from conftest import call_script

import checkpoint
from config import DEFAULT_CHECKPOINT, Config, add_arguments, from_dict

ROOT = Path(__file__).resolve().parents[1]
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")


def blocks(text: str) -> list[str]:
    return re.findall(r"```\w*\n(.*?)```", text, re.S)


def commands(text: str) -> list[str]:
    lines = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.S)).splitlines()
    return [re.sub(r"\s+#.*", "", line).strip() for line in lines if line.strip()]


def test_same_headings():
    headings = [re.findall(r"^#+ .*$", text, re.M) for text in (ENGLISH, CHINESE)]
    assert headings[0] == headings[1] and len(headings[0]) > 8


def test_same_commands_and_code():
    assert blocks(ENGLISH) == blocks(CHINESE)


def test_same_figures_in_tables():
    def figures(text: str) -> list[list[str]]:
        rows = [line for line in text.splitlines() if line.startswith("|")]
        return [sorted(re.findall(r"\d(?:[\d.,]*\d)?", row)) for row in rows]

    # Words are translated, numbers are not: 1.1 million is 110 万.
    english, chinese = figures(ENGLISH), figures(CHINESE)
    assert len(english) == len(chinese)
    differing = [(a, b) for a, b in zip(english, chinese, strict=True) if a != b]
    assert all("110" in b for _, b in differing), differing


def test_same_decimal_figures_in_the_text():
    """Figures such as 97.09 stand in both; words between them are in another order."""

    def figures(text: str) -> set[str]:
        prose = re.sub(r"```.*?```", "", text, flags=re.S)
        return set(re.findall(r"(?<![\w.])\d+\.\d+(?![\w.])", prose))

    assert figures(ENGLISH) == figures(CHINESE) and "97.09" in figures(ENGLISH)


def test_no_passage_of_six_lines_stands_twice():
    lines = [line for line in ENGLISH.splitlines() if line.strip()]
    passages = ["\n".join(lines[at : at + 6]) for at in range(len(lines) - 5)]
    assert len(set(passages)) == len(passages)


def test_same_pictures_and_links():
    pattern = re.compile(r"!\[.*?\]\((.*?)\)")
    assert pattern.findall(ENGLISH) == pattern.findall(CHINESE)
    for name in pattern.findall(ENGLISH):
        assert (ROOT / name).is_file(), f"{name} is shown and not there"


def options() -> dict[str, set[str]]:
    """Return the options that the READMEs give to each script."""
    found: dict[str, set[str]] = {}
    for line in commands(ENGLISH):
        for part in line.split("&&"):
            words = shlex.split(part)
            scripts = [word for word in words if re.fullmatch(r"\w+\.py", word)]
            if scripts:
                rest = words[words.index(scripts[0]) + 1 :]
                flags = {word for word in rest if word.startswith("--")}
                found.setdefault(scripts[0], set()).update(flags)
    return found


@pytest.mark.parametrize("script", sorted(options()))
def test_options_exist(script):
    done = call_script(script, "--help")
    assert done.returncode == 0
    for flag in options()[script]:
        assert re.search(rf"{flag}\b", done.stdout), f"{script} has no {flag}"


def test_every_option_of_the_text_is_one_of_some_script():
    helps = [call_script(script, "--help").stdout for script in [*options(), "export.py"]]
    known = set(re.findall(r"--[a-z][\w-]+", "\n".join(helps)))
    text = re.sub(r"^(torchrun|pip|ruff).*?(?=train.py|$)", "", ENGLISH, flags=re.M)
    unknown = set(re.findall(r"(?<!-)--[a-z][\w-]+", text)) - known
    assert unknown <= {"--logdir"}  # of tensorboard


def test_modules_exist():
    for name in set(re.findall(r"python -m ([\w.]+)", ENGLISH)) - {"pytest", "venv"}:
        path = ROOT / name.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").is_file(), name


def test_card_names_the_very_file():
    card = (ROOT / "checkpoints" / "README.md").read_text(encoding="utf-8")
    for path in (DEFAULT_CHECKPOINT, "picture/finder.npz"):
        assert hashlib.sha256((ROOT / path).read_bytes()).hexdigest() in card


def calls_of_recipe(tmp_path: Path) -> list[list[str]]:
    """Return what the recipe of the shipped weights has python do, without doing it."""
    for name in ("python", "git"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\nprintf '%s\\t' {name} \"$@\" >> {tmp_path}/calls\n"
                           f"echo >> {tmp_path}/calls\n")  # fmt: skip
        program.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    script = ROOT / "checkpoints" / "small80.sh"
    words = [script, "fastcompact.onnx", "real", "fonts", tmp_path / "work"]
    subprocess.run(["bash", *words], check=True, env=os.environ | {"PATH": path})
    lines = (tmp_path / "calls").read_text().splitlines()
    return [line.rstrip("\t").split("\t")[1:] for line in lines if line.startswith("python")]


def test_shipped_weights_are_those_of_the_recipe(tmp_path):
    calls = [words for words in calls_of_recipe(tmp_path) if words[0] == "train.py"]
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    given = vars(parser.parse_args(calls[-1][1:]))
    shipped = checkpoint.load(ROOT / DEFAULT_CHECKPOINT)
    named = checkpoint.without_folders(Config().to_dict() | given)
    stored = from_dict(shipped["config"]).to_dict()
    for key in given.keys() - {"out"}:
        assert str(stored[key]) == str(from_dict(named).to_dict()[key]), key
    assert shipped["epoch"] == given["epochs"] and shipped["metrics"]


def test_recipe_says_what_it_wants():
    script = ROOT / "checkpoints" / "small80.sh"
    done = subprocess.run(["bash", script], capture_output=True, text=True)
    assert done.returncode == 2 and "TEACHER.onnx REAL FONTS" in done.stderr and not done.stdout


def test_named_files_exist():
    for name in set(re.findall(r"`([\w./-]+\.(?:py|md|txt))`", ENGLISH)):
        assert (ROOT / name).exists(), f"{name} is named and not there"
