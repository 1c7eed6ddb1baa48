"""The READMEs: both languages agree, links lead to files, and commands and recipes run."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import CHARACTERS, SMALL, call_script, run_script, write_tree

ROOT = Path(__file__).resolve().parents[1]
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
CARD = (ROOT / "checkpoints" / "README.md").read_text(encoding="utf-8")
EXPERIMENTS = (ROOT / "docs" / "EXPERIMENTS.md").read_text(encoding="utf-8")

# Arguments added to the commands of README.md so that they run on tiny data in seconds.
FEW = "--classes 4 --writers 3 --test-writers 1 --workers 1"
QUICK = {"synthesize_gnt.py": FEW.split(), "train.py": [*SMALL, "--epochs", "1"]}


def blocks(text: str, language: str = r"\w*") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M)


def code(text: str) -> list[str]:
    """Return the code blocks without comments, which are translated."""
    return [re.sub(r"\s+# .*", "", block) for block in blocks(text, r"(?:bash|powershell|python)")]


def commands(text: str) -> list[list[str]]:
    """Return the words of each `python SCRIPT.py ...`, without `python` and redirections."""
    lines = "\n".join(blocks(text, "bash")).replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in re.split(r"&&| < ", line)]
    found = [re.search(r"\b(\w+\.py\b.*)", part) for part in parts]
    return [shlex.split(match[1], comments=True) for match in found if match]


def section(heading: str) -> str:
    """Return the text between a heading of README.md and the next one."""
    return re.search(rf"^##+ {heading}$(.*?)(?=^## |^### |\Z)", ENGLISH, re.S | re.M)[1]


def test_both_languages_have_the_same_structure_code_and_pictures():
    for pattern in (r"^(#+) ", r"^(\|.*?\|)-", r"!\[.*?\]\((.*?)\)", r"\]\((.*?)\)"):
        found = [re.findall(pattern, text, re.M) for text in (ENGLISH, CHINESE)]
        assert len(found[0]) == len(found[1]), pattern
    assert code(ENGLISH) == code(CHINESE) and len(code(ENGLISH)) > 8


def test_both_languages_have_the_same_figures():
    def figures(text: str) -> list[list[str]]:
        rows = [line for line in text.splitlines() if line.startswith("|")]
        return [sorted(re.findall(r"\d(?:[\d.,]*\d)?", row)) for row in rows]

    def decimals(text: str) -> set[str]:
        prose = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
        return set(re.findall(r"(?<![\w.])\d+\.\d+(?![\w.])", prose))

    assert figures(ENGLISH) == figures(CHINESE)
    assert decimals(ENGLISH) == decimals(CHINESE) and "97.09" in decimals(ENGLISH)


@pytest.mark.parametrize(
    "text", ["README.md", "README.zh-CN.md", "docs/EXPERIMENTS.md", "data/README.md"]
)
def test_links_and_named_files_exist(text):
    content = (ROOT / text).read_text(encoding="utf-8")
    for name in re.findall(r"\]\(([^)#:]+)\)", content):
        assert ((ROOT / text).parent / name).exists(), f"{text} links to {name}"
    now = "\n".join(line for line in content.splitlines() if "†" not in line)
    for name in re.findall(r"`([\w./-]+\.(?:py|md|txt|sh))`", now):
        assert (ROOT / name).exists() or (ROOT / text).parent.joinpath(name).exists(), name
    for name in set(re.findall(r"python -m ([\w.]+)(?![^`]*` †)", now)) - {"pytest", "venv"}:
        path = ROOT / name.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").is_file(), f"{text}: python -m {name}"
    assert "TODO" not in content and "/work/" not in content


def parsed() -> dict[str, list[list[str]]]:
    """Return the commands of README.md and of the model card by script."""
    found: dict[str, list[list[str]]] = {}
    inline = re.findall(r"`python (\w+\.py [^`]+)`(?! †)", ENGLISH + CARD + EXPERIMENTS)
    for script, *words in commands(ENGLISH + CARD) + [shlex.split(line) for line in inline]:
        found.setdefault(script, []).append(words)
    return found


NUMBERS = {"T": "0.9", "SCALE": "1", "OFFSET": "0", "THRESHOLD": "0.5", "SHARE": "0.5", "V": "-1"}


@pytest.mark.parametrize("script", sorted(parsed()))
def test_commands_parse(script):
    shown = call_script(script, "--help").stdout
    for words in parsed()[script]:
        words = [NUMBERS.get(word, word) for word in words if word != "..."]
        done = call_script(script, *words, "--help")  # what comes before --help is checked
        assert done.returncode == 0, (words, done.stderr)
        for flag in (word for word in words if word.startswith("--")):
            assert re.search(rf"{flag}\b", shown), f"{script} has no {flag}"


def test_every_option_in_the_text_belongs_to_a_script():
    scripts = [*parsed(), "export.py", "synthesize_gnt.py"]
    shown = "\n".join(call_script(name, "--help").stdout for name in scripts)
    text = re.sub(r"^(torchrun|pip|ruff).*?(?=train.py|$)", "", ENGLISH, flags=re.M)
    unknown = set(re.findall(r"(?<![-\w])--[a-z][\w-]+", text))
    assert unknown - set(re.findall(r"--[a-z][\w-]+", shown)) <= {"--logdir", "--help", "--prefix"}


@pytest.fixture
def place(trained, data, tmp_path, monkeypatch) -> Path:
    """A folder with everything that the commands of README.md name, tiny."""
    for name in ("train", "test"):
        write_tree(tmp_path / "data" / name, range(1001, 1005), samples=1)
    for name in ("val", "scans", "DIR"):
        shutil.copytree(data / "test", tmp_path / name)
    write_tree(tmp_path / "own", range(4), "木火" + CHARACTERS[0], name=lambda character: character)
    picture = next((data / "test").rglob("*.png"))
    for name in ("a.png", "b.jpg", "picture.png", "folder/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(picture, tmp_path / name)
    for name in ("checkpoints/small80.pt", "runs/train/best.pt", "runs/large/best.pt"):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(trained / "best.pt", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("heading", ["Recipes", "Testing", "Prediction"])
def test_commands_run(place, heading):
    for script, *words in commands(section(heading)):
        if "-" in words:
            continue  # reads standard input
        words = [NUMBERS.get(word, word) for word in words]
        done = call_script(script, *words, *QUICK.get(script, []))
        assert done.returncode == 0, (script, words, done.stderr)


def test_job_on_stand_in_data_runs(place):
    shutil.rmtree(place / "data")
    shutil.rmtree(place / "runs")
    steps = next(b for b in blocks(ENGLISH, "bash") if b.startswith("python synthesize_gnt.py"))
    for script, *words in commands(f"```bash\n{steps}```"):
        run = run_script if "gnt" in script else call_script  # worker processes import the script
        done = run(script, *words, *QUICK.get(script, []))
        assert done.returncode == 0, (script, words, done.stderr)
    assert (place / "runs" / "train" / "best.pt").is_file() and "top-1" in done.stdout


@pytest.mark.parametrize("block", blocks(ENGLISH, "python"))
def test_python_runs(place, block, capsys):
    names: dict = {}
    exec(compile(block, "README.md", "exec"), names)
    if "images" in names:
        assert names["images"].shape[1:] == (1, 80, 80) and len(names["labels"]) > 8
    else:
        assert re.search(r"^\S \d+\.\d%$", capsys.readouterr().out, re.M)
