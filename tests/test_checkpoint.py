"""Checkpoints: what is shipped, what is read, what is refused."""

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, call_script, file_limit

import calibration
import checkpoint
from config import DEFAULT_CHECKPOINT, Config
from model import mobilenet_v3
from recognizer import character_score

CLASSES = "一十口"
REJECT = {"scale": 1.5, "offset": -3.0, "threshold": 0.4}


def content() -> dict:
    """Return what a small checkpoint holds."""
    config = Config(width=0.25, head=8).to_dict()
    torch.manual_seed(0)
    model = mobilenet_v3(
        num_classes=3, **{key: config[key] for key in checkpoint.ARCHITECTURE}
    ).state_dict()
    return {"format": 1, "model": model, "config": config, "classes": CLASSES,
            "metrics": {"top1": 0.5, "reject": REJECT}, "epoch": 2, "made_with": {}}  # fmt: skip


GOOD = content()


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("good") / "good.pt"
    torch.save(GOOD, path)
    return path


def test_the_model_card_names_the_bytes_that_are_shipped():
    card = (ROOT / "checkpoints" / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(Path(DEFAULT_CHECKPOINT).read_bytes()).hexdigest() in card


@pytest.mark.parametrize("classes", [list(CLASSES), ["一", "十 甲", "口"]])
def test_what_is_saved_is_loaded(tmp_path, classes):
    path = tmp_path / "new" / "folder" / "a.pt"
    parts = {key: GOOD[key] for key in ("model", "config", "metrics", "epoch")}
    checkpoint.save(path, classes=classes, **parts, resume={"step": 7})
    loaded = checkpoint.load(path)
    assert loaded["classes"] == classes and loaded["metrics"]["reject"] == REJECT
    assert loaded["config"] == GOOD["config"] and loaded["resume"] == {"step": 7}
    assert all(torch.equal(loaded["model"][name], t) for name, t in GOOD["model"].items())
    assert [file.name for file in path.parent.iterdir()] == ["a.pt"]
    model = checkpoint.build_model(loaded)
    assert all(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        model.classifier[3].bias += 1  # a network of its own
    assert torch.equal(loaded["model"]["classifier.3.bias"], GOOD["model"]["classifier.3.bias"])


WEIGHT = "classifier.3.weight"
WRONG = {
    "a list": [1],
    "no metrics": {key: value for key, value in GOOD.items() if key != "metrics"},
    **{f"{key} is {value!r}": GOOD | {key: value}
       for key, values in {
           "format": ["one", 2],
           "model": [[1], {}],
           "config": [[], {"size": 80}],
           "classes": [5, "", "一一口", "一十", ["一", "十", 3], ["一", "十", ""]],
           "metrics": [[], {"top1": "high"}, {1: 2.0}, {"top1": 10**400},
                       {"reject": 0.1}, {"reject": {"scale": 1.0}},
                       {"reject": REJECT | {"scale": -1.0}},
                       {"reject": REJECT | {"threshold": float("nan")}}],
           "preprocessing": [{"picture.glyph.MARGIN": "2"}],
           "resume": [[]],
       }.items() for value in values},
    **{f"config: {key} is {value!r}": GOOD | {"config": GOOD["config"] | {key: value}}
       for key, value in {
           "size": "64", "head": 1e9, "width": 1.0, "variant": "medium", "last_stride": None,
       }.items()},
    **{f"weight {what}": GOOD | {"model": GOOD["model"] | weights}
       for what, weights in {
           "of more": {"extra.weight": torch.zeros(2)},
           "of a name that is none": {7: torch.zeros(2)},
           "sparse": {WEIGHT: GOOD["model"][WEIGHT].to_sparse()},
           "expanded": {WEIGHT: torch.zeros(1).expand(3, 8)},
           "of another shape": {WEIGHT: torch.zeros(4, 8)},
           "NaN": {WEIGHT: GOOD["model"][WEIGHT] * float("nan")},
           "float8": {WEIGHT: torch.zeros(3, 8).to(torch.float8_e5m2)},
           "without memory": {WEIGHT: torch.zeros(3, 8, device="meta")},
           "no tensor": {WEIGHT: [0.0] * 24},
       }.items()},
}  # fmt: skip


SENTENCES = {
    "format is 'one'": "format is a str",
    "format is 2": "reads up to 1; update",
    "classes is ''": "classes are not one or more",
    "classes is '一一口'": "only 2 are different",
    "classes is '一十'": "its config and classes want (2",
    "config: size is '64'": "--size is '64', expected a whole number",
    "weight NaN": f"{WEIGHT} holds values that are not finite",
    "weight sparse": f"{WEIGHT} is not a plain tensor",
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_contents_are_one_sentence(tmp_path, what):
    path = tmp_path / "wrong.pt"
    torch.save(WRONG[what], path)
    with pytest.raises(ValueError) as caught:
        checkpoint.load(path)
    error = str(caught.value)
    assert error.startswith(f"{path}: not a ") and len(error) < 400 and "\n" not in error
    assert SENTENCES.get(what, "") in error


def test_files_that_are_no_checkpoint(tmp_path, good):
    path = tmp_path / "a.pt"
    with pytest.raises(FileNotFoundError, match="python train.py writes"):
        checkpoint.load(path)
    whole = good.read_bytes()
    folder, bit = bytearray(whole), bytearray(whole)
    folder[whole.rindex(b"PK\1\2") + 38] |= 0x10  # PyTorch would take any memory for the weights
    bit[whole.index(GOOD["model"][WEIGHT].numpy().tobytes())] ^= 1
    for data, reason in (
        (b"", ""), (b"text", ""), (whole[: len(whole) // 2], ""), (b"PK\5\6" + bytes(18), ""),
        (folder, "marked as folders"), (bit, "the checksum of"),
    ):  # fmt: skip
        path.write_bytes(data)
        with pytest.raises(ValueError, match=f"not a readable checkpoint of train.py: .*{reason}"):
            checkpoint.load(path)
    with zipfile.ZipFile(good) as archive, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for info in archive.infolist():
            new.writestr(info.filename, archive.read(info))
    with pytest.raises(ValueError, match="compressed"):
        checkpoint.load(path)


class Code:
    def __reduce__(self):
        return print, ("this must not run",)


def test_code_is_not_run(tmp_path, capsys):
    torch.save(GOOD | {"made_with": {"time": Code()}}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        checkpoint.load(tmp_path / "a.pt")
    assert capsys.readouterr().out == ""


def test_summary(tmp_path, good):
    done = call_script("checkpoint.py", good)
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert done.returncode == 0
    assert lines["classes"] == "3: 一, 十, 口" and "width 0.25" in lines["network"]
    assert lines["training"] == "2 of 30 epochs on data/train"
    assert lines["validation"] == "top-1 50.00% on held-out writers"
    assert lines["resumable"] == "no, weights only"
    assert lines["calibration"] == "temperature 1, reject 1.5 -3 0.4"
    assert "training" not in call_script("checkpoint.py", DEFAULT_CHECKPOINT).stdout
    whole = json.loads(call_script("checkpoint.py", good, "--json").stdout)
    assert list(whole["classes"]) == list("一十口") and whole["config"]["width"] == 0.25
    assert "model" not in whole
    done = call_script("checkpoint.py", tmp_path / "missing.pt")
    assert done.returncode == 2 and "no such checkpoint" in done.stderr and "--" not in done.stderr


def test_a_shared_file_is_half_as_large_and_names_no_folders(tmp_path, trained):
    new = tmp_path / "new.pt"
    done = call_script("checkpoint.py", trained / "last.pt", new)
    assert done.returncode == 0 and done.stdout.startswith(f"{new}: ")
    assert new.stat().st_size < 0.6 * (trained / "best.pt").stat().st_size
    loaded = checkpoint.load(new)
    assert loaded["config"]["data"] == ["train"] and loaded["config"]["out"] == "trained"
    assert "resume" not in loaded and loaded["model"][WEIGHT].dtype == torch.float32


def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, good):
    new = tmp_path / "new.pt"
    with file_limit(4096):
        done = call_script("checkpoint.py", good, new)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {new}: ") and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_that_half_precision_cannot_hold(tmp_path):
    large = GOOD["model"] | {WEIGHT: GOOD["model"][WEIGHT] + 7e4}
    torch.save(GOOD | {"model": large}, tmp_path / "large.pt")
    done = call_script("checkpoint.py", tmp_path / "large.pt", tmp_path / "new.pt")
    assert done.returncode == 2 and "not finite" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["large.pt"]


def logits_of(path: Path, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return checkpoint.build_model(checkpoint.load(path)).eval()(x)


@pytest.mark.parametrize(
    ("options", "change", "metrics"),
    [
        (["--temperature", 0.5], lambda logits: 2 * logits, {"top1": 0.5, "temperature": 0.5}),
        (["--class-prior", "symbols", 1.5], lambda logits: logits, {"top1": 0.5}),
        (["--class-prior", 1, -1.5], lambda logits: logits + torch.tensor([0, -1.5, 0]), None),
        (["--temperature", 2, "--class-prior", "all", 1], lambda logits: logits / 2 + 1, None),
        (["--reject", 1, -2, 0.3], lambda logits: logits,
         {"top1": 0.5, "reject": {"scale": 1, "offset": -2, "threshold": 0.3}}),
    ],
)  # fmt: skip
def test_options_change_the_logits(tmp_path, options, change, metrics):
    one, new = tmp_path / "one.pt", tmp_path / "new.pt"
    before = {"top1": 0.5, "reject": {"scale": 1.0, "offset": 0.0, "threshold": 0.5}}
    torch.save(GOOD | {"classes": "口啊十", "metrics": before}, one)  # 啊 is the first of level 1
    done = call_script("checkpoint.py", one, new, *options)
    assert done.returncode == 0, done.stderr
    x = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(logits_of(new, x), change(logits_of(one, x)), atol=0.01, rtol=0.01)
    if metrics is not None:
        assert checkpoint.load(new)["metrics"] == metrics
    assert call_script("checkpoint.py", one, *options).returncode == 2  # needs a file to write


@pytest.mark.parametrize(
    "options",
    [
        ["--average", "{good}", 1], ["--average", "{good}", "half"],
        ["--average", "missing.pt", 0.5], ["--temperature", 0], ["--class-prior", "all", "much"],
        ["--class-prior", "nowhere.txt", 1], ["--reject", 1, 2, 7], ["--reject", "nan", 2, 0.5],
    ],
)  # fmt: skip
def test_options_out_of_range_write_nothing(tmp_path, good, options):
    options = [str(option).format(good=good) for option in options]
    done = call_script("checkpoint.py", good, tmp_path / "new.pt", *options)
    assert done.returncode == 2 and done.stderr.startswith("error: ")
    assert not list(tmp_path.iterdir())


def test_average_lies_between_two_checkpoints(tmp_path):
    """Rows of the classifier go by class; the counters and the first file's other rows stay."""
    other = {key: tensor + 1 for key, tensor in GOOD["model"].items()}
    paths = [tmp_path / name for name in ("one.pt", "other.pt", "new.pt")]
    torch.save(GOOD, paths[0])
    torch.save(GOOD | {"model": other, "classes": "口一永"}, paths[1])  # 十 is not among them
    done = call_script("checkpoint.py", paths[0], paths[2], "--average", paths[1], 0.25)
    assert done.returncode == 0, done.stderr
    new = checkpoint.load(paths[2])
    for name, mine in GOOD["model"].items():
        theirs = other[name]
        if name.startswith("classifier.3"):
            theirs = torch.stack([theirs[1], mine[1], theirs[0]])
        expected = 0.75 * mine + 0.25 * theirs if mine.is_floating_point() else mine
        torch.testing.assert_close(new["model"][name], expected, atol=2e-3, rtol=2e-3)
    assert new["metrics"] == {}  # they were of other weights
    assert new["classes"] == list(CLASSES)
    torch.save(GOOD | {"config": GOOD["config"] | {"stem_stride": 1, "size": 48}}, paths[1])
    done = call_script("checkpoint.py", paths[0], paths[2], "--average", paths[1], 0.25)
    assert done.returncode == 2 and "the networks differ in size, stem_stride" in done.stderr


def test_rejection_is_fitted():
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(12, 1, 20_000), rng.normal(8, 1, 4_000)
    found = calibration.fit_rejection(inside, np.append(outside, -np.inf))
    # Two normals of one width: the logit of the odds is linear, (12 - 8) * (x - 10).
    assert found["scale"] == pytest.approx(4, rel=0.15)
    assert found["offset"] / found["scale"] == pytest.approx(-10, rel=0.02)
    kept = (character_score(inside, found) >= found["threshold"]).mean()
    assert kept == pytest.approx(calibration.KEPT, abs=0.001)
    assert calibration.fit_rejection(outside, inside) is None  # no numbers with a negative scale


def test_auroc_by_hand():
    inside, outside = np.array([3.0, 2.0, 1.0]), np.array([2.0, 0.0, -np.inf])
    assert calibration.auroc(inside, outside) == pytest.approx((3 + 2.5 + 2) / 9)


def test_weights_move_to_other_classes():
    loaded = {"model": dict(GOOD["model"]), "classes": list(CLASSES)}
    architecture = {key: GOOD["config"][key] for key in checkpoint.ARCHITECTURE}
    model = mobilenet_v3(num_classes=4, **architecture)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert calibration.transfer(model, "口日一月", loaded) == 2
    state = model.state_dict()
    for part in ("classifier.3.weight", "classifier.3.bias"):
        assert torch.equal(state[part][0], GOOD["model"][part][2])
        assert torch.equal(state[part][2], GOOD["model"][part][0])
        assert torch.equal(state[part][[1, 3]], fresh[part][[1, 3]])
    others = [name for name in state if "classifier.3" not in name]
    assert all(torch.equal(state[name], GOOD["model"][name]) for name in others)
    assert all(torch.equal(loaded["model"][name], GOOD["model"][name]) for name in state)
    for options in ({"head": 9}, {"head": 7}, {"variant": "large"}):
        other = mobilenet_v3(num_classes=3, **architecture | options)
        with pytest.raises(ValueError, match="--init-from: the networks differ; give the same"):
            calibration.transfer(other, CLASSES, loaded)
