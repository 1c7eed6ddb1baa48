"""Synthetic handwriting: templates, drawing, papers, the endless stream, synthesize_gnt.py."""

import gzip
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import KILLS, ROOT, call_script, kill_at_random, run_script

from hwdb.characters import LEVEL1, SYMBOLS
from hwdb.record import read_gnt
from hwdb.sets import origin
from picture import to_glyph
from synthesis.fonts import Fonts
from synthesis.papers import remains
from synthesis.stream import Handwriting
from synthesis.templates import stroke_data, stroke_template, symbols
from synthesis.writer import Writer, drawable, render

STROKES = ROOT / "synthesis" / "strokes"


def synthesize(*arguments, check=True):
    """Run the script: in this process, unless with two workers."""
    if 2 in arguments:
        done = run_script("synthesize_gnt.py", *arguments)
    else:
        done = call_script("synthesize_gnt.py", "--workers", 1, *arguments)
    assert not check or done.returncode == 0, done.stderr
    return done


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.gnt"))}


def samples(path):
    with path.open("rb") as stream:
        return list(read_gnt(stream, path.name))


def drawn(character, seed, hard=1.0, **style):
    """Draw a character by the writer of a seed; `style` are arguments of `Writer.draw`."""
    return render(character, Writer.draw(seed, hard, **style), np.random.default_rng(seed))


def system_font():
    """Return a font file that has Latin letters, if the system has one."""
    folders = ["/usr/share/fonts", "/Library/Fonts", "C:/Windows/Fonts"]
    found = (p for f in folders for p in sorted(Path(f).rglob("*.ttf")) if "Sans" in p.name)
    return next(found, None)


# Templates --------------------------------------------------------------------------------------


def test_data_is_small_complete_and_licensed():
    assert sum(path.stat().st_size for path in STROKES.iterdir() if path.is_file()) <= 400_000
    assert "ARPHIC PUBLIC LICENSE" in (STROKES / "ARPHICPL.TXT").read_text()
    notice = (STROKES / "README.md").read_text(encoding="utf-8")
    assert "Notice of change" in notice and "2.0.1" in notice
    assert "".join(stroke_data()) == LEVEL1 and set(symbols()) == set(SYMBOLS)
    assert [len(stroke_data()[character][0]) for character in "一人永霸"] == [1, 2, 5, 21]


def test_straight_templates_have_level_and_upright_strokes():
    points = stroke_template("十", straight=True).points
    assert len(np.unique(points[:10].imag)) == 1 and len(np.unique(points[-10:].real)) == 1
    assert len(np.unique(stroke_template("十").points[:10].imag)) > 1


# Drawing ----------------------------------------------------------------------------------------


def test_all_classes_can_be_drawn_and_differ():
    drawable(LEVEL1 + SYMBOLS)
    rng, writer, seen = np.random.default_rng(0), Writer.draw(2, 0.6), set()
    some = LEVEL1[::4] + SYMBOLS
    for character in some:
        bitmap = render(character, writer, rng)
        assert bitmap.dtype == np.uint8 and bitmap.ndim == 2 and max(bitmap.shape) < 250
        assert (bitmap < 255).sum() >= 6
        seen.add(bitmap.tobytes())
    assert len(seen) == len(some)


@pytest.mark.parametrize(
    "style", [{}, {"small": 1.0}, {"coarse": 1.0}, {"pens": 1.0}, {"neat": 1.0}]
)
def test_no_picture_is_refused_as_blank(style):
    """Dots and dashes of thick, small pens fill their boxes."""
    for seed in range(60):
        for character in '.:-|‘"一' + LEVEL1[seed::1000]:
            bitmap = drawn(character, seed, 1.5, **style)
            assert to_glyph(bitmap, 64).any(), (character, seed)


def test_special_hands():
    small = [max(drawn("永", seed, small=1.0).shape) for seed in range(40)]
    assert max(small) < 75 and np.median(small) < 40
    coarse = [drawn("永", seed, coarse=1.0) for seed in range(40)]
    assert all(set(np.unique(bitmap)) <= {0, 255} for bitmap in coarse)
    widths = sorted(hand.pen / hand.em for hand in (Writer.draw(k, pens=1.0) for k in range(60)))
    assert widths[5] < 0.02 and 0.1 < widths[-5] <= widths[-1] <= 0.14


def test_variation_grows_with_hard_and_is_least_for_neat_hands():
    def spread(hard, **style):
        pictures = [cv2.resize(drawn("永", seed, hard, **style), (32, 32)) for seed in range(60)]
        return np.std(np.array(pictures, float), axis=0).mean()

    assert spread(0.0) < spread(0.6) < spread(1.5)
    assert spread(1.0, neat=1.0) < spread(1.0)


def test_an_unknown_character_is_named():
    with pytest.raises(ValueError, match="龘"):
        drawn("龘", 0)
    with pytest.raises(ValueError, match="1 characters .*龘"):
        Handwriting("一龘")


def test_remains_keep_most_of_a_character():
    for seed in range(60):
        bitmap = drawn("永", seed, 0.5)
        before = bitmap.copy()
        spoiled = remains(bitmap, np.random.default_rng(seed))
        assert not np.array_equal(spoiled, before) and np.array_equal(bitmap, before)
        assert 0.6 < (spoiled < 255).sum() / (bitmap < 255).sum() < 2.5


def test_drawing_does_not_import_torch():
    code = "import sys, synthesis.stream, synthesis.papers; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "False\n", done.stderr


def test_handwriting_depends_only_on_seed_and_index():
    first, second = Handwriting("永和九年", seed=5), Handwriting("永和九年", seed=5)
    pictures = [first.draw(index) for index in range(8)]
    for index in reversed(range(8)):
        bitmap, label = second.draw(index)
        assert label == pictures[index][1] and np.array_equal(bitmap, pictures[index][0])
    assert sorted(label for _, label in pictures) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert not np.array_equal(Handwriting("永和九年", seed=6).draw(0)[0], pictures[0][0])


# Fonts and pen trajectories -----------------------------------------------------------------------


def test_fonts_are_inked_by_the_writer(tmp_path):
    font = system_font()
    if font is None:
        pytest.skip("no font installed")
    (tmp_path / "fonts").mkdir()
    (tmp_path / "fonts" / font.name).write_bytes(font.read_bytes())
    fonts = Fonts(tmp_path / "fonts", "AQ永\U000ffffc ", share=1.0)
    assert {"A", "Q"} <= fonts.faces[0].keys() and not {"\U000ffffc", " "} & fonts.faces[0].keys()
    bitmap = render("A", Writer.draw(0), np.random.default_rng(0), fonts)
    assert (bitmap < 255).mean() > 0.05
    (tmp_path / "classes.txt").write_text("AQ")
    options = ("--fonts", tmp_path / "fonts", "--classes", tmp_path / "classes.txt")
    synthesize(*options, "--writers", 2, "--test-writers", 0, "--out", tmp_path / "o")
    assert [item.character for item in samples(tmp_path / "o" / "10002-s.gnt")] == ["A", "Q"]


@pytest.mark.parametrize("content", [None, b"not a font"])
def test_fonts_that_cannot_be_read(tmp_path, content):
    (tmp_path / "fonts").mkdir()
    if content:
        (tmp_path / "fonts" / "broken.ttf").write_bytes(content)
    done = synthesize("--fonts", tmp_path / "fonts", "--out", tmp_path / "out", check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1 and "font" in done.stderr
    assert not (tmp_path / "out").exists()


def write_hand(folder, name, *lines):
    """Write a trajectory file of a line or of several."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))


def written(character, strokes):
    return f'{{"character": "{character}", "strokes": {strokes}}}'


CROSS = written("一", [[[0, 500], [1000, 500]], [[500, 0], [500, 1000]]])  # unlike the real 一
DOTS = written("口", [[[0, 0], [0, 1000]], [[900, 500]]])


def test_writers_follow_pen_trajectories(tmp_path):
    write_hand(tmp_path / "hands", "a", CROSS, DOTS)
    write_hand(tmp_path / "hands", "._a", "rubbish of another system")
    classes = tmp_path / "classes.txt"
    classes.write_text("一口大", encoding="utf-8")
    settings = ("--classes", classes, "--writers", 3, "--test-writers", 0, "--hard", 0.3, 0.3)
    for out, options in (("plain", ()), ("hands", ("--hands", tmp_path / "hands"))):
        synthesize(*settings, *options, "--out", tmp_path / out)
    for number in (10001, 10002, 10003):
        plain, hand = (samples(tmp_path / out / f"{number}-c.gnt") for out in ("plain", "hands"))
        assert "".join(item.character for item in hand) == "一口大"  # 大 comes from the stroke data
        assert len(hand[0].bitmap) > 0.6 * hand[0].bitmap.shape[1]
        assert len(plain[0].bitmap) < 0.5 * plain[0].bitmap.shape[1]
    assert len(set(contents(tmp_path / "hands").values())) == 3
    done = synthesize(*settings, "--out", tmp_path / "hands", check=False)
    assert done.returncode == 2 and "other settings" in done.stderr


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (None, "no pen trajectories"),
        ([], "no character with strokes"),
        ([CROSS, "{"], "line 2"),
        ([written("一二", [])], "one character"),
        ([written("一", [[[0, 1, 2]]])], "lists of points"),
        ([written("一", "[[[0, 1e999]]]")], "not finite"),
    ],
)
def test_damaged_trajectories_are_one_sentence(tmp_path, lines, says):
    (tmp_path / "hands").mkdir()
    if lines is not None:
        write_hand(tmp_path / "hands", "a", *lines)
    done = synthesize("--hands", tmp_path / "hands", "--out", tmp_path / "out", check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1 and says in done.stderr and "hands" in done.stderr
    assert not (tmp_path / "out").exists()


# The script -------------------------------------------------------------------------------------


def test_same_bytes_on_any_number_of_workers(tmp_path):
    settings = ["--classes", 30, "--writers", 3, "--test-writers", 1, "--seed", 4]
    done = synthesize(*settings, "--workers", 1, "--out", tmp_path / "one")
    assert "4 writers, 30 characters each" in done.stdout
    synthesize(*settings, "--workers", 2, "--out", tmp_path / "two")
    files = contents(tmp_path / "one")
    assert files == contents(tmp_path / "two")
    assert list(files) == ["10001-c.gnt", "10002-c.gnt", "10003-c.gnt", "20001-c.gnt"]
    synthesize(*settings[:-1], 5, "--out", tmp_path / "three")
    assert len({*files.values(), *contents(tmp_path / "three").values()}) == 8


def test_files_are_sound_and_their_names_tell_the_split(tmp_path):
    classes = tmp_path / "classes.txt"
    classes.write_text("永和 9a①\n", encoding="utf-8")
    synthesize("--classes", classes, "--writers", 1, "--test-writers", 1, "--out", tmp_path / "o")
    train, test = sorted((tmp_path / "o").glob("*.gnt"))
    assert origin(train.name) == ("synthetic", "10001", "train") and train.name == "10001-f.gnt"
    assert origin(test.name) == ("synthetic", "20001", "test")
    assert "".join(item.character for item in samples(train)) == "永和9a①"


def test_a_killed_run_continues(tmp_path):
    out = tmp_path / "cut"
    settings = ("--classes", 6, "--writers", 3, "--test-writers", 0, "--paper", 0.5)
    synthesize(*settings, "--out", tmp_path / "whole")
    whole = contents(tmp_path / "whole")

    def check():
        """All finished files are whole, and the same command completes the set."""
        kept = {path: path.stat().st_mtime_ns for path in out.glob("[!.]*.gnt")}
        assert {path.name: path.read_bytes() for path in kept}.items() <= whole.items()
        synthesize(*settings, "--out", out)
        assert contents(out) == whole
        assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
        shutil.rmtree(out, ignore_errors=True)

    kill_at_random(lambda: synthesize(*settings, "--out", out), KILLS, check)


def test_other_settings_do_not_mix(tmp_path):
    settings = ("--test-writers", 0, "--out", tmp_path)
    synthesize("--classes", 3, "--writers", 1, *settings)
    done = synthesize("--classes", 4, "--writers", 1, *settings, check=False)
    assert done.returncode == 2 and "other settings" in done.stderr
    synthesize("--classes", 3, "--writers", 2, *settings)
    (tmp_path / "synthesis.json").unlink()
    done = synthesize("--classes", 3, "--writers", 1, *settings, check=False)
    assert done.returncode == 2 and "another origin" in done.stderr


def test_sheet(tmp_path):
    path = tmp_path / "sheet.png"
    synthesize("--sheet", path, "--writers", 3, "--paper", 0.5, "--out", tmp_path / "none")
    sheet = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert sheet.shape == (3 * 80, 20 * 80) and sheet.dtype == np.uint8
    assert (sheet.reshape(3, 80, 20, 80).min(axis=(1, 3)) < 200).all()
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--writers", "10000"], "9999"),
        (["--seed", "-1"], "--seed"),
        (["--hard", "2", "1"], "--hard"),
        (["--neat", "1.5"], "--neat"),
        (["--classes", "nowhere.txt"], "nowhere.txt"),
        (["--fonts", "nowhere"], "nowhere"),
        (["--sheet", "sheet.gif"], "--sheet"),
    ],
)
def test_wrong_settings_are_one_line_and_status_2(tmp_path, arguments, says):
    done = synthesize("--out", tmp_path / "out", *arguments, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert says in done.stderr and not (tmp_path / "out").exists()
