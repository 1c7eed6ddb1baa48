"""test.py, its figures, and the whole way from .gnt files to a recognized character."""

import csv
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import CHARACTERS, SMALL, call_script, run_script, write_gnt, write_tree

import checkpoint
from dataset import CharacterDataset
from evaluation import analysis, rejection
from evaluation.mistakes import Mistakes, safe_cell
from evaluation.score import Result, evaluate
from hwdb.characters import LEVEL1, SYMBOLS, TWINS, folder_name


def result_of(rows: list[tuple[int, list[int], float]]) -> Result:
    """Build a result of (label, best labels, confidence)."""
    top = np.array([row[1] for row in rows])
    probability = np.zeros(top.shape, np.float32)
    probability[:, 0] = [row[2] for row in rows]
    labels = np.array([row[0] for row in rows])
    return Result(top, probability, labels, np.zeros(len(rows)), np.arange(len(rows)))


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
    assert analysis.confused_pairs(RESULT) == [(0, 1, 2), (2, 0, 1)]
    worst = analysis.worst_classes(RESULT)
    assert [(s.key, s.correct, s.samples) for s in worst] == [(2, 0, 1), (0, 1, 3), (1, 1, 1)]
    shares = analysis.by_writer(RESULT, np.array([7, 7, 8, 8, -1]))
    assert [(s.key, s.accuracy) for s in shares] == [(7, 0.5), (8, 0.5)]
    bins, ece = analysis.calibration(RESULT, bins=10)
    assert len(bins) == 5
    assert ece == pytest.approx((0.05 + 0.85 + 0.75 + 0.35 + 0.55) / 5, abs=1e-6)
    threshold, covered, accuracy = analysis.coverage(RESULT)
    assert covered[-1] == 1 and accuracy[0] == 1 and accuracy[-1] == pytest.approx(2 / 5)
    assert list(threshold) == sorted(threshold, reverse=True)


@pytest.mark.parametrize("correlated", [True, False])
def test_error_is_the_spread_over_writers(correlated):
    """24 writers of unequal numbers of samples: the error against the spread over repetitions."""
    rng = np.random.default_rng(0)
    writers = np.repeat(np.arange(24), rng.integers(200, 600, 24))
    means, errors = [], []
    for _ in range(400):
        skill = rng.beta(18, 2, 24) if correlated else np.full(24, 0.9)
        right = rng.random(len(writers)) < skill[writers]
        error, over = analysis.standard_error(right, writers)
        assert over == "24 writers"
        means.append(right.mean())
        errors.append(error)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(means), rel=0.15)
    by_sample, over = analysis.standard_error(right, np.full(len(right), -1))
    assert over == "samples" and (errors[-1] > 3 * by_sample) == correlated
    assert by_sample == pytest.approx((right.mean() * (1 - right.mean()) / len(right)) ** 0.5)


def test_error_with_one_writer_or_some_unknown():
    right = np.array([1, 1, 0, 0])
    assert analysis.standard_error(right, np.zeros(4, int)) == (0.25, "samples")
    error, over = analysis.standard_error(right, np.array([0, 0, 1, -1]))
    assert over == "2 writers and 1 samples of unknown writers"
    assert error == pytest.approx(((1 + 0.25 + 0.25) * 3 / 2) ** 0.5 / 4)


def test_evaluation_counts_every_sample_once_and_leaves_the_mode(trained, data):
    loaded = checkpoint.load(trained / "best.pt")
    model = checkpoint.build_model(loaded).train()
    glyphs = CharacterDataset(data / "test", size=32, classes=loaded["classes"])
    indices = np.arange(len(glyphs))
    cpu = torch.device("cpu")
    one = evaluate(model, glyphs, indices, cpu, batch_size=7)
    assert model.training
    two = evaluate(model, glyphs, indices, cpu, batch_size=len(indices))
    assert np.array_equal(one.indices, indices) and np.array_equal(one.top, two.top)
    np.testing.assert_allclose(one.losses, two.losses, rtol=1e-4, atol=1e-5)


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
    error = f"± {figures['top1_error']:.2%} (standard error over 4 writers)"
    assert figures["top1_error_over"] == "4 writers"
    for text in ("top-5", "top-10", "loss", "by writer", f"{figures['top1']:.2%} {error}"):
        assert text in done.stdout
    assert "best.pt" in done.stderr and "48 glyphs" in done.stderr
    with open(tmp_path / "mistakes" / "mistakes.csv", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == round(48 * (1 - figures["top1"]))
    for row in rows:
        assert row["truth"] != row["prediction"] and row["file"].endswith(".png")
    if rows:
        assert cv2.imread(str(tmp_path / "mistakes" / "mistakes.png")) is not None


def test_names_of_mistakes_cannot_break_the_table(trained, tmp_path):
    tree = write_tree(tmp_path / "t", range(1, 2), "一十", 1)
    for folder in tree.iterdir():
        next(folder.iterdir()).rename(folder / "=cmd\n\u2028\x1b.png")
    (tree / folder_name("一")).rename(tree / "x")
    (tree / folder_name("十")).rename(tree / folder_name("一"))
    (tree / "x").rename(tree / folder_name("十"))  # each is read as the other
    out = tmp_path / "out"
    done = call_script("test.py", tree, "--checkpoint", trained / "best.pt", "--errors", out)
    assert done.returncode == 0, done.stderr
    with open(out / "mistakes.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and {row["truth"] for row in rows} == {"一", "十"}
    assert all("=cmd\\n\\u2028\\x1b.png" in row["file"] for row in rows)
    assert safe_cell("=1+1") == "'=1+1" and safe_cell("=") == "="


def test_sheet_shows_the_input_its_class_and_the_reading(trained, data):
    glyphs = CharacterDataset(data / "test", size=32)
    result = result_of([(5, [5, 1, 2], 0.9), (5, [1, 5, 2], 0.6), (5, [0, 5, 2], 0.8)])
    assert list(glyphs.targets[:3]) == [5, 5, 5]
    mistakes = Mistakes(result, glyphs, glyphs.classes)
    assert list(mistakes.rows) == [2, 1] and [m.rank_of_truth for m in mistakes] == [2, 2]
    sheet = mistakes.sheet(2, columns=3)
    assert sheet.shape == (40, 3 * 108)
    assert np.array_equal(255 - sheet[4:36, 4:36], mistakes.sample(2))
    assert np.array_equal(255 - sheet[4:36, 38:70], mistakes.sample(0))  # the surest of its class
    strokes = 255 - sheet[4:36, 72:104]  # class 0 has no sample in the result
    assert 0.02 < (strokes > 127).mean() < 0.5
    lines = mistakes.as_markdown(1).splitlines()
    assert lines[-1] == f"| 1 | {glyphs.classes[5]} | {glyphs.classes[0]} | 80.0% |"
    assert len(lines) == 5


def test_gnt_and_tree_give_the_same_figures(trained, tmp_path):
    for writer in (1241, 1242):
        write_gnt(tmp_path / "gnt" / f"{writer}-c.gnt", writer)
    done = call_script(
        "process_gnt.py", tmp_path / "gnt", "--out", tmp_path / "out", "--workers", 1
    )
    assert done.returncode == 0, done.stderr
    figures = []
    for path in (tmp_path / "gnt", tmp_path / "out" / "test"):
        done = call_script("test.py", path, "--checkpoint", trained / "best.pt", "--json", "-")
        figures.append(json.loads(done.stdout))
    for key in ("samples", "top1", "top5", "writers"):
        assert figures[0][key] == figures[1][key]
    assert figures[0]["loss"] == pytest.approx(figures[1]["loss"])


def test_scored_among_all_classes_of_the_checkpoint(trained, tmp_path):
    write_gnt(tmp_path / "1241-c.gnt", 1241, CHARACTERS[:2])
    done = call_script("test.py", tmp_path / "1241-c.gnt", "--checkpoint", trained / "best.pt")
    assert done.returncode == 0 and "2 of 2 classes, read among 6" in done.stdout


def test_classes_that_the_checkpoint_lacks_are_left_out_counted_and_named(trained, tmp_path):
    tree = write_tree(tmp_path / "t", range(1241, 1243), "一永", 2)
    blank = cv2.imencode(".png", np.full((30, 30), 255, np.uint8))[1]
    blank.tofile(tree / folder_name("永") / "blank.png")
    out = tmp_path / "result.json"
    best = trained / "best.pt"
    done = call_script("test.py", tree, "--checkpoint", best, "--json", out)
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text(encoding="utf-8"))
    assert figures["samples"] == 4 and figures["unknown_classes"] == {"永": 5}
    assert "5 samples of 1 classes that are not read: 永" in done.stdout
    only = write_tree(tmp_path / "only", range(1), "永", 1)
    done = call_script("test.py", only, "--checkpoint", best)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: ")
    assert "永" in done.stderr and "大" in done.stderr


def test_refused_pictures_count_as_not_read(trained, data, tmp_path):
    tree = tmp_path / "t"
    shutil.copytree(data / "test", tree)
    before = call_script("test.py", tree, "--checkpoint", trained / "best.pt", "--json", "-")
    cv2.imencode(".png", np.full((30, 30), 255, np.uint8))[1].tofile(
        tree / folder_name("一") / "blank.png"
    )
    (tree / folder_name("十") / "broken.png").write_bytes(b"no picture")
    after = call_script("test.py", tree, "--checkpoint", trained / "best.pt", "--json", "-")
    before, after = (json.loads(done.stdout) for done in (before, after))
    assert (before["samples"], before["refused"]) == (48, 0)
    assert (after["samples"], after["refused"]) == (50, 2)
    for key in ("top1", "top5", "top10", "top1_twins"):
        assert after[key] == pytest.approx(before[key] * 48 / 50)


def test_reading_is_narrowed(trained, data, tmp_path):
    chosen = tmp_path / "two.txt"
    chosen.write_text("一十", encoding="utf-8")
    best = trained / "best.pt"
    done = call_script(
        "test.py", data / "test", "--checkpoint", best, "--classes", chosen, "--json", "-"
    )
    figures = json.loads(done.stdout)
    assert (figures["samples"], figures["classes_read"]) == (16, 2)
    assert figures["classes_of_checkpoint"] == 6 and "2 of them are read" in done.stderr
    assert sum(figures["unknown_classes"].values()) == 32
    assert figures["top5"] == 1  # there are but two readings
    done = call_script("test.py", data / "test", "--checkpoint", best, "--classes", "symbols")
    assert done.returncode == 2 and "knows none" in done.stderr


def test_twins_count_as_right_beside_top1():
    assert list(analysis.correct_or_twin(RESULT, "0xO", TWINS)) == [1, 0, 0, 1, 1]
    groups = [set(group) for group in TWINS]
    assert all(set(group) <= set(LEVEL1 + SYMBOLS) for group in TWINS)
    for pair in ("0O", "Oo", "1l", "I|", "Ss", "Cc", "一-", "口O"):
        assert any(set(pair) <= group for group in groups), pair
    assert not any(len(group & set("日曰")) == 2 for group in groups)


def test_without_a_name_it_is_ones_own_checkpoint_then_the_shipped(trained, data, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "train").symlink_to(trained)
    done = call_script("test.py", data / "test", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    own = Path("runs") / "train" / "best.pt"
    first = done.stderr.splitlines()[0]
    assert first.startswith(f"{own}: 6 classes, validation top-1 ") and "small80.pt" in first
    assert re.search(r"made (just now|\d+ minutes? ago); the shipped weights: --checkpoint ", first)
    assert done.stdout.splitlines()[0].split() == ["checkpoint", str(own)]


@pytest.mark.parametrize("path", ["nowhere", "nowhere.gnt"])
def test_missing_data(trained, path):
    done = call_script("test.py", path, "--checkpoint", trained / "best.pt")
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: nowhere")


def test_temperature_lowers_the_loss_and_keeps_the_readings(trained, data, tmp_path):
    best, new = trained / "best.pt", tmp_path / "new.pt"
    # Some wrong labels: a network that is always right cannot be too sure.
    wrong = shutil.copytree(data / "test", tmp_path / "test") / folder_name("一")
    for path in (data / "test" / folder_name("十")).iterdir():
        shutil.copy(path, wrong / f"wrong-{path.name}")

    def figures(path):
        done = call_script(
            "test.py", tmp_path / "test", "--checkpoint", path, "--temperature", "--json", "-"
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    before = figures(best)
    assert call_script(
        "checkpoint.py", best, new, "--temperature", before["temperature"]
    ).returncode == 0  # fmt: skip
    after = figures(new)
    assert after["loss"] < before["loss"] + 1e-3 and after["top1"] == pytest.approx(before["top1"])
    assert after["temperature"] == pytest.approx(1, abs=0.02)  # nothing is left to do
    assert checkpoint.load(new)["metrics"]["temperature"] == before["temperature"]
    assert call_script("checkpoint.py", best, "--temperature", "2").returncode == 2
    assert call_script("checkpoint.py", best, new, "--temperature", "0").returncode == 2


def test_what_is_no_character_is_told(trained, data, tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "none" / "deep"
    folder.mkdir(parents=True)
    for number in range(20):
        noise = rng.integers(0, 2, (12, 12)).astype(np.uint8) * 255
        large = cv2.resize(noise, (48, 48), interpolation=cv2.INTER_NEAREST)
        cv2.imencode(".png", large)[1].tofile(folder / f"{number}.png")
    cv2.imencode(".png", np.full((30, 30), 255, np.uint8))[1].tofile(folder / "blank.png")
    best, new, out = trained / "best.pt", tmp_path / "new.pt", tmp_path / "report"

    def figures(path, *more):
        done = call_script("test.py", data / "test", "--checkpoint", path, "--no-characters",
                           tmp_path / "none", "--json", "-", *more)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["no_characters"]

    before = figures(best)
    assert before["others"] == 21 and before["characters"] == 48 and not before["of_checkpoint"]
    assert before["kept"] > 0.97 and before["told"] >= 1 / 21
    # Not those that fit: a network of six characters may find noise more like one than they are.
    # And of a small scale: scores that come close to 1 are rounded to it, and then are equal.
    numbers = 0.5, 0.0, 0.7
    assert call_script("checkpoint.py", best, new, "--reject", *numbers).returncode == 0
    after = figures(new, "--report", out)
    assert after["of_checkpoint"] and after["auroc"] == pytest.approx(before["auroc"], abs=0.01)
    assert "No character" in (out / "report.html").read_text(encoding="utf-8")
    scores = []  # what predict.py says of the same pictures
    for path in (data / "test", folder):
        said = json.loads(call_script("predict.py", path, "--checkpoint", new, "--json").stdout)
        scores.append(np.array([element.get("character_score", -1) for element in said]))
    assert rejection.auroc(*scores) == pytest.approx(after["auroc"], abs=1e-3)
    threshold = numbers[-1]
    assert (scores[0] >= threshold).mean() == pytest.approx(after["kept"])
    assert (scores[1] < threshold).mean() == pytest.approx(after["told"])
    assert call_script("checkpoint.py", best, new, "--reject", 1, 2, 3).returncode == 2
    (tmp_path / "empty").mkdir()
    done = call_script("test.py", data / "test", "--no-characters", tmp_path / "empty")
    assert done.returncode == 2 and "holds no pictures" in done.stderr


def test_whole_way_without_flags(tmp_path):
    """synthesize -> process -> train -> test -> predict, in a folder of its own."""
    arguments = ["--writers", 6, "--test-writers", 2, "--classes", 8]
    done = run_script("synthesize_gnt.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = run_script("process_gnt.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "data" / "train").glob("U+*/*.png"))) == 6 * 8
    done = call_script("train.py", *SMALL, "--epochs", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    best = tmp_path / "runs" / "train" / "best.pt"
    done = call_script("test.py", "--checkpoint", best, cwd=tmp_path)
    assert done.returncode == 0 and "16" in done.stdout, done.stderr
    picture = next((tmp_path / "data" / "test").rglob("*.png"))
    done = call_script("predict.py", picture, "--checkpoint", best, "--json")
    assert len(json.loads(done.stdout)[0]["predictions"]) == 8
