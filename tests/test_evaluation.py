"""test.py and its figures."""

import csv
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import call_script, several, write_gnt, write_tree

import calibration
import checkpoint
from config import DEFAULT_CHECKPOINT
from dataset import CharacterDataset
from evaluation import analysis
from evaluation.mistakes import BAR, SIDE, Mistakes
from evaluation.score import Result, evaluate
from hwdb.characters import folder_name
from recognizer import Recognizer, load_network


def result_of(rows: list[tuple[int, list[int], float]]) -> Result:
    """Build a result of (label, best labels, confidence)."""
    top = np.array([row[1] for row in rows])
    probability = np.zeros(top.shape, np.float32)
    probability[:, 0] = [row[2] for row in rows]
    labels = np.array([row[0] for row in rows])
    zeros = np.zeros(len(rows), np.float32)
    return Result(top, probability, labels, zeros, zeros, zeros.astype(int), np.arange(len(rows)))


RESULT = result_of(
    [
        (0, [0, 1, 2], 0.95),
        (0, [1, 0, 2], 0.85),
        (0, [1, 2, 0], 0.75),
        (1, [1, 0, 2], 0.65),
        (2, [0, 1, 2], 0.55),
    ]
)


def test_figures_by_hand():
    assert RESULT.topk(1) == pytest.approx(2 / 5) and RESULT.topk(2) == pytest.approx(3 / 5)
    assert analysis.confused_pairs(RESULT) == [((0, 1), 2), ((2, 0), 1)]
    assert analysis.shares(RESULT, RESULT.labels) == [(2, 0, 1), (0, 1, 3), (1, 1, 1)]
    assert analysis.shares(RESULT, np.array([7, 7, 8, 8, -1])) == [(7, 1, 2), (8, 1, 2)]
    diagram, ece = analysis.reliability(RESULT, bins=10)
    assert diagram.shape == (3, 5)
    assert ece == pytest.approx((0.05 + 0.85 + 0.75 + 0.35 + 0.55) / 5, abs=1e-6)


@pytest.mark.parametrize(
    ("writers", "over", "expected"),
    [
        ([0, 0, 0, 0], "samples", (4 * 0.25 * 4 / 3) ** 0.5 / 4),
        ([-1, -1, -1, -1], "samples", (4 * 0.25 * 4 / 3) ** 0.5 / 4),
        ([0, 0, 1, 1], "2 writers", ((1 + 1) * 2) ** 0.5 / 4),
        ([0, 1, 0, 1], "2 writers", 0),
        ([0, 0, 1, -1], "2 writers", ((1 + 0.25 + 0.25) * 3 / 2) ** 0.5 / 4),
    ],
)
def test_standard_error_over_writers(writers, over, expected):
    error, name = analysis.standard_error(np.array([1, 1, 0, 0]), np.array(writers))
    assert (error, name) == (pytest.approx(expected), over)


def test_mcnemar_by_hand():
    assert analysis.mcnemar(4, 2) == pytest.approx(2 * (1 + 6 + 15) / 64)
    assert analysis.mcnemar(0, 0) == 1 and analysis.mcnemar(3, 3) == 1
    assert analysis.mcnemar(0, 10) == analysis.mcnemar(10, 0) == pytest.approx(2 / 1024)
    assert analysis.mcnemar(510, 590) == pytest.approx(0.0172, rel=0.01)


def test_evaluation_counts_every_sample_once_and_leaves_the_mode(trained, data):
    loaded = checkpoint.load(trained / "best.pt")
    model = checkpoint.build_model(loaded).train()
    glyphs = CharacterDataset(data / "test", size=32, classes=loaded["classes"])
    indices = np.arange(len(glyphs))
    one = evaluate(model, glyphs, indices, "cpu", batch_size=7)
    assert model.training
    two = evaluate(model, glyphs, indices, "cpu", batch_size=len(indices))
    assert np.array_equal(one.indices, indices) and np.array_equal(one.top, two.top)
    np.testing.assert_allclose(one.losses, two.losses, rtol=1e-4, atol=1e-5)


def test_reads_as_in_prediction(tmp_path):
    """Of photos all proposals are read, and the same one is chosen."""
    tree = tmp_path / "t"
    write_tree(tree, range(2), "一十大", 1)
    photo = next((tree / folder_name("大")).iterdir())
    cv2.imencode(".png", several())[1].tofile(photo)
    recognizer = Recognizer.from_checkpoint(DEFAULT_CHECKPOINT)
    dataset = CharacterDataset(tree, size=80, classes=recognizer.classes, skip_unknown=True)
    counts = [len(found.glyphs) for found in dataset.proposals(np.arange(len(dataset)))]
    assert max(counts) > 1 and min(counts) == 1
    result = evaluate(recognizer, dataset, np.arange(len(dataset)), "cpu", batch_size=4)
    files = [file for file, _ in dataset.samples]
    for row, readings in enumerate(recognizer.recognize(files)):
        top = [recognizer.classes[label] for label in result.top[row].tolist()]
        assert top == [reading.character for reading in readings]
        expected = [reading.probability for reading in readings]
        np.testing.assert_allclose(result.probability[row], expected, atol=1e-4)
        assert result.energies[row] == pytest.approx(readings.energy, rel=1e-4)
        shown = Mistakes(result, dataset, recognizer.classes).sample(row)
        assert np.array_equal(shown, recognizer.find(files[row]).glyphs[readings.proposal])
    assert result.proposals.max() > 0


def test_symbols_are_read_as_the_characters_that_look_alike(trained, tmp_path):
    """Unless --classes names them: 口 is called - here, whose twin is 一."""
    loaded = checkpoint.load(trained / "best.pt")
    classes = ["-" if label == "口" else label for label in loaded["classes"]]
    path = tmp_path / "twins.pt"
    checkpoint.save(path, loaded["model"], loaded["config"], classes, {}, 1)
    tree = write_tree(tmp_path / "t", range(1241, 1244), "一口")
    (tree / folder_name("口")).rename(tree / folder_name("-"))
    both = tmp_path / "both.txt"
    both.write_text("-一", encoding="utf-8")
    merged = figures_of(tree, "--checkpoint", path)
    apart = figures_of(tree, "--checkpoint", path, "--classes", both)
    assert (apart["samples"], apart["top1"]) == (12, 1)
    assert merged["top1"] == 0.5
    assert merged["confused_pairs"][0] == {"truth": "-", "guess": "一", "count": 6}
    assert merged["loss"] < 1
    picture = next((tree / folder_name("-")).iterdir())
    done = call_script("predict.py", picture, "--checkpoint", path, "--json")
    assert json.loads(done.stdout)[0]["predictions"][0]["character"] == "一"


def figures_of(*arguments: object, **options) -> dict:
    """Run test.py and return its figures."""
    done = call_script("test.py", *arguments, "--json", "-", **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_prints_and_writes_figures(trained, data, tmp_path):
    out = tmp_path / "result.json"
    done = call_script(
        "test.py", data / "test", "--checkpoint", trained / "best.pt", "--json", out,
        "--errors", tmp_path / "mistakes",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text(encoding="utf-8"))
    assert figures["samples"] == 6 * 4 * 2 and figures["writers"] == 4
    assert 0 < figures["top1"] <= figures["top5"] <= figures["top10"] <= 1
    top1 = f"{figures['top1']:.2%} ± {figures['top1_error']:.2%} (standard error over 4 writers)"
    assert all(text in done.stdout for text in ("top-5", "top-10", "loss", "by writer", top1))
    assert "best.pt" in done.stderr and ": 48 " in done.stderr
    wrong = round(48 * (1 - figures["top1"]))
    assert (f"lists all {wrong} mistakes" if wrong else "no mistakes") in done.stderr
    with open(tmp_path / "mistakes" / "mistakes.csv", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == wrong
    for row in rows:
        assert row["truth"] != row["prediction"] and row["file"].endswith(".png")


def test_names_of_mistakes_cannot_break_the_table(trained, tmp_path):
    tree = write_tree(tmp_path / "t", range(1, 2), "一", 1)
    out = tmp_path / "out"
    options = [tree, "--checkpoint", trained / "best.pt", "--errors", out]
    done = call_script("test.py", *options)
    assert done.returncode == 0 and f"{out}: no mistakes" in done.stderr
    picture = next(tree.rglob("*.png"))
    picture.parent.rename(tree / folder_name("十"))  # it is misread
    picture = next(tree.rglob("*.png"))
    picture.rename(picture.with_name("=cmd\n\u2028\x1b.png"))
    done = call_script("test.py", *options)
    assert done.returncode == 0, done.stderr
    with open(out / "mistakes.csv", encoding="utf-8-sig", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["truth"] == "十" and "=cmd\\n\\u2028\\x1b.png" in row["file"]


def test_sheet_shows_each_character_once_with_a_caption(data):
    dataset = CharacterDataset(data / "test", size=32)
    first = [int(np.flatnonzero(dataset.targets == label)[0]) for label in range(6)]
    rows = [(5, [5, 1, 2], 0.9), (5, [1, 5, 2], 0.6), (5, [0, 5, 2], 0.8), (4, [5, 4, 2], 0.7)]
    indices = np.array([first[5], first[5] + 1, first[5] + 2, first[4]])
    mistakes = Mistakes(result_of(rows)._replace(indices=indices), dataset, dataset.classes)
    assert list(mistakes.rows) == [2, 3, 1] and list(mistakes.shown(9)) == [2, 3]
    sheet = mistakes.sheet(9, columns=2)
    # A legend, then a row of two strips: frame, caption, three glyphs.
    assert sheet.shape == (BAR + BAR + SIDE + 2 + 6, 2 * (3 * (SIDE + 2) + 6))
    assert sheet[:BAR].min() < 100  # text


def test_gnt_and_tree_give_the_same_figures(trained, tmp_path):
    for writer in (1241, 1242):
        write_gnt(tmp_path / "gnt" / f"{writer}-c.gnt", writer)
    done = call_script(
        "process_gnt.py", tmp_path / "gnt", "--out", tmp_path / "out", "--workers", 1
    )
    assert done.returncode == 0, done.stderr
    paths = tmp_path / "gnt", tmp_path / "out" / "test"
    one, other = (figures_of(path, "--checkpoint", trained / "best.pt") for path in paths)
    for key in ("samples", "top1", "top5", "writers", "top1_error_over"):
        assert one[key] == other[key]
    assert one["loss"] == pytest.approx(other["loss"])


def test_classes_that_the_checkpoint_lacks_are_left_out_counted_and_named(trained, tmp_path):
    tree = write_tree(tmp_path / "t", range(1241, 1243), "一永", 2)
    blank = cv2.imencode(".png", np.full((30, 30), 255, np.uint8))[1]
    blank.tofile(tree / folder_name("永") / "blank.png")
    best = trained / "best.pt"
    figures = figures_of(tree, "--checkpoint", best)
    assert figures["samples"] == 4 and figures["unknown_classes"] == {"永": 5}
    done = call_script("test.py", tree, "--checkpoint", best)
    assert re.search("left out +5 samples of 1 classes that are not read: 永", done.stdout)
    assert "4 samples of 1 classes, out of 6" in done.stdout
    only = write_tree(tmp_path / "only", range(1), "永", 1)
    done = call_script("test.py", only, "--checkpoint", best)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: ")
    assert "永" in done.stderr and "大" in done.stderr


def test_refused_pictures_count_as_wrong(trained, data, tmp_path):
    tree = tmp_path / "t"
    shutil.copytree(data / "test", tree)
    before = figures_of(tree, "--checkpoint", trained / "best.pt")
    blank = cv2.imencode(".png", np.full((30, 30), 255, np.uint8))[1]
    blank.tofile(tree / folder_name("一") / "blank.png")
    (tree / folder_name("十") / "broken.png").write_bytes(b"no picture")
    after = figures_of(tree, "--checkpoint", trained / "best.pt")
    assert (before["samples"], before["refused"]) == (48, 0)
    assert (after["samples"], after["refused"]) == (50, 2)
    for key in ("top1", "top5", "top10"):
        assert after[key] == pytest.approx(before[key] * 48 / 50)
    assert after["top1_error"] != pytest.approx(before["top1_error"] * 48 / 50)


def test_classes_are_narrowed_and_bad_options_are_one_sentence(trained, data, tmp_path):
    chosen = tmp_path / "two.txt"
    chosen.write_text("一十", encoding="utf-8")
    best = trained / "best.pt"
    figures = figures_of(data / "test", "--checkpoint", best, "--classes", chosen)
    assert (figures["samples"], figures["classes_read"]) == (16, 2)
    assert figures["top5"] == 1 and sum(figures["unknown_classes"].values()) == 32
    for options, error in (
        (["--classes", "symbols"], "knows none"),
        (["--no-characters", trained / "absent"], "holds no pictures"),
        (["--compare", "absent.pt"], "no such checkpoint"),
    ):
        done = call_script("test.py", data / "test", "--checkpoint", best, *options)
        assert done.returncode == 2 and error in done.stderr
        assert "\ndata " not in done.stderr  # before anything is read


def test_without_a_name_it_is_ones_own_checkpoint_then_the_shipped(trained, data, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "train").symlink_to(trained)
    done = call_script("test.py", data / "test", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    own = Path("runs") / "train" / "best.pt"
    first = done.stderr.splitlines()[0]
    assert first.startswith(f"{own}: 6 classes, validation top-1 ") and "small80.pt" in first
    assert re.search(r"made 20[\d-]{8} \d\d:\d\d UTC; the shipped weights: --checkpoint ", first)
    assert done.stdout.splitlines()[0].split() == ["checkpoint", str(own)]


def test_summary_tells_the_time_and_another_preprocessing(trained, tmp_path):
    content = torch.load(trained / "best.pt", weights_only=True)
    content["made_with"]["time"] = "2026-11-28T09:30:01+00:00"
    content["metrics"] = {"top1": 0.0333}
    content["preprocessing"]["picture.glyph.MADE_UP"] = 1
    path = tmp_path / "a.pt"
    torch.save(content, path)
    summary = load_network(path).summary
    assert summary.startswith(f"{path}: 6 classes, validation top-1 3.3 %, made 2026-11-28 09:30 ")
    assert "another preprocessing (picture.glyph.MADE_UP)" in summary
    assert "MADE_UP" in call_script("checkpoint.py", path).stdout


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.dgrl", b"", "handwritten text"),
        ("a.gnt", b"\x24\0\0\0DGRL\0\0\0\0" + bytes(90), "handwritten text"),
        ("a.gnt", b"<!DOCTYPE html><html>later</html>", "a web page"),
        ("a.zip", b"PK\x03\x04", "process_gnt.py"),
        ("a.txt", b"text", "neither a .gnt"),
    ],
)
def test_a_file_that_is_no_source(trained, tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    done = call_script("test.py", name, "--checkpoint", trained / "best.pt", cwd=tmp_path)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and last.startswith(f"error: {name}") and expected in last


def test_two_checkpoints_are_compared_on_the_same_samples(trained, data, tmp_path):
    best, worse, favoured = trained / "best.pt", tmp_path / "worse.pt", tmp_path / "one.txt"
    favoured.write_text("一", encoding="utf-8")
    done = call_script("checkpoint.py", best, worse, "--class-prior", favoured, 8)
    assert done.returncode == 0, done.stderr
    same = figures_of(data / "test", "--checkpoint", best, "--compare", best)["comparison"]
    assert (same["samples"], same["only_this"], same["only_other"]) == (48, 0, 0)
    assert same["p_value"] == 1
    figures = figures_of(data / "test", "--checkpoint", best, "--compare", worse)
    alone = figures_of(data / "test", "--checkpoint", worse)
    compared = figures["comparison"]
    assert compared["checkpoint"] == str(worse) and compared["p_value"] < 0.01
    assert (compared["top1"], compared["top1_other"]) == (figures["top1"], alone["top1"])
    more = compared["only_this"] - compared["only_other"]
    assert more == round(48 * (figures["top1"] - alone["top1"])) > 0
    done = call_script("test.py", data / "test", "--checkpoint", worse, "--compare", best)
    assert f"only by this one: {compared['only_other']}, only by the other: " in done.stdout
    assert done.stdout.count("(standard error over 4 writers)") == 2


def test_temperature_lowers_the_loss_and_keeps_the_predictions(trained, data, tmp_path):
    best, new = trained / "best.pt", tmp_path / "new.pt"
    # Some wrong labels: a network that is always right cannot be overconfident.
    wrong = shutil.copytree(data / "test", tmp_path / "test") / folder_name("一")
    for path in (data / "test" / folder_name("十")).iterdir():
        shutil.copy(path, wrong / f"wrong-{path.name}")
    before = figures_of(tmp_path / "test", "--checkpoint", best, "--temperature")
    done = call_script("checkpoint.py", best, new, "--temperature", before["temperature"])
    assert done.returncode == 0, done.stderr
    after = figures_of(tmp_path / "test", "--checkpoint", new, "--temperature")
    assert after["loss"] < before["loss"] + 1e-3 and after["top1"] == pytest.approx(before["top1"])
    assert after["temperature"] == pytest.approx(1, abs=0.02)  # nothing is left to do
    assert checkpoint.load(new)["metrics"]["temperature"] == before["temperature"]
    done = call_script("test.py", tmp_path / "test", "--checkpoint", new, "--temperature")
    assert "checkpoint.py FILE NEW --temperature 1.0" in done.stdout


@pytest.fixture
def papers(tmp_path) -> Path:
    """A folder with images that contain no character: noise, and a blank sheet."""
    folder = tmp_path / "none" / "deep"
    folder.mkdir(parents=True)
    for number, noise in enumerate(np.random.default_rng(0).integers(0, 2, (20, 12, 12))):
        large = np.kron(noise, np.full((4, 4), 255)).astype(np.uint8)
        cv2.imencode(".png", large)[1].tofile(folder / f"{number}.png")
    cv2.imencode(".png", np.full((30, 30), 255, np.uint8))[1].tofile(folder / "blank.png")
    return tmp_path / "none"


def test_rejection_is_measured_as_predict_scores(trained, data, papers, tmp_path):
    best, new, out = trained / "best.pt", tmp_path / "new.pt", tmp_path / "report"
    options = [data / "test", "--no-characters", papers]
    before = figures_of(*options, "--checkpoint", best)["no_characters"]
    assert before["others"] == 21 and before["characters"] == 48 and not before["of_checkpoint"]
    reader, label = Recognizer.from_checkpoint(best), next((data / "test").iterdir()).name
    images = [path for path in papers.rglob("*.png") if path.stem != "blank"]
    images.sort(key=lambda path: reader.recognize(path)[0].energy)
    for number, path in enumerate(images):
        folder = tmp_path / ("low" if number < 10 else "high") / label
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    swapped = [tmp_path / "low", "--no-characters", tmp_path / "high"]
    done = call_script("test.py", *swapped, "--checkpoint", best)
    assert done.returncode == 0 and "no numbers to reject by" in done.stdout
    # Of a small scale: scores close to 1 are rounded to it, and then are equal.
    numbers = 0.5, 0.0, 0.7
    assert call_script("checkpoint.py", best, new, "--reject", *numbers).returncode == 0
    after = figures_of(*options, "--checkpoint", new, "--report", out)["no_characters"]
    assert after["of_checkpoint"] and after["auroc"] == pytest.approx(before["auroc"], abs=0.01)
    assert "AUROC" in (out / "report.html").read_text(encoding="utf-8")
    scores = []
    for path in (data / "test", papers):
        done = call_script("predict.py", path, "--checkpoint", new, "--json")
        elements = json.loads(done.stdout)
        scores.append(np.array([element.get("character_score", -1) for element in elements]))
    assert calibration.auroc(*scores) == pytest.approx(after["auroc"], abs=1e-3)
    assert (scores[0] >= numbers[-1]).mean() == pytest.approx(after["kept"])
    assert (scores[1] < numbers[-1]).mean() == pytest.approx(after["rejected"])
