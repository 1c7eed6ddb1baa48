"""Synthetic handwriting: the hand, its papers and endless stream, synthesize_gnt.py, build.py."""

import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import KILLS, call_script, kill_at_random, run_script

from hwdb.archives import find_files
from hwdb.characters import LEVEL1, SYMBOLS
from hwdb.record import Record, read_gnt
from hwdb.sets import origin
from jobs.files import only_one
from picture import to_glyph
from synthesis import papers
from synthesis.fonts import Fonts, thin
from synthesis.papers import NO_CHARACTERS, no_character, remains
from synthesis.stream import Handwriting
from synthesis.strokes import build
from synthesis.templates import (
    components,
    crossings,
    parts,
    stroke_data,
    stroke_template,
    symbols,
)
from synthesis.writer import Writer, bend, drawable, drawn_share, field, render, smooth, trace

ROOT = Path(__file__).resolve().parents[1]
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


def system_font():
    """Return a font file that has Latin letters, if the system has one."""
    folders = ["/usr/share/fonts", "/Library/Fonts", "C:/Windows/Fonts"]
    found = (p for f in folders for p in sorted(Path(f).rglob("*.ttf")) if "Sans" in p.name)
    return next(found, None)


# Data -------------------------------------------------------------------------------------------


def test_data_is_small_complete_and_licensed():
    assert sum(path.stat().st_size for path in STROKES.iterdir() if path.is_file()) <= 400_000
    assert "ARPHIC PUBLIC LICENSE" in (STROKES / "ARPHICPL.TXT").read_text()
    notice = (STROKES / "README.md").read_text(encoding="utf-8")
    assert "Notice of change" in notice and "2.0.1" in notice
    assert "".join(stroke_data()) == LEVEL1
    assert set(symbols()) == set(SYMBOLS)


def test_stroke_counts_and_order_are_those_of_the_characters():
    for character, count in {"一": 1, "人": 2, "永": 5, "国": 8, "龙": 5, "霸": 21}.items():
        assert len(stroke_data()[character][0]) == count
    across, down = stroke_data()["十"][0]
    assert np.ptp(across.real) > 3 * np.ptp(across.imag)
    assert np.ptp(down.imag) > 3 * np.ptp(down.real)
    assert across[0].real < across[-1].real and down[0].imag < down[-1].imag  # y is down


def test_build_repeats_the_format(tmp_path):
    package = {c: {"medians": [[[0, 900], [100, 890], [400, 500]]]} for c in LEVEL1}
    cross = [[[0, 450], [1000, 450]], [[500, 880], [500, 0]]]
    package["十"] = {"medians": cross, "radStrokes": [1]}
    archive = tmp_path / "package.tgz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as stream:
        for character, record in package.items():
            member, data = tarfile.TarInfo(f"package/{character}.json"), json.dumps(record).encode()
            member.size = len(data)
            stream.addfile(member, io.BytesIO(data))
    out = tmp_path / "medians.npz"
    assert build.main([str(archive), "--out", str(out)]) == 0
    with np.load(out) as arrays:
        assert arrays["strokes"][LEVEL1.index("十")] == 2
        assert arrays["strokes"].sum() == 3756 == len(arrays["points"])
        assert np.unpackbits(arrays["radical"])[:3756].sum() == 1
        x, y = np.cumsum(arrays["steps"].astype(int), axis=1) % 256
        start = arrays["points"][: LEVEL1.index("十")].sum()
        assert x[start : start + 2].tolist() == [0, 250]
        assert y[start : start + 2].tolist() == [112, 112]  # (900 - 450) / 4, to even


def test_build_says_what_is_wrong(tmp_path, capsys):
    (tmp_path / "x.tgz").write_bytes(b"no archive")
    out = tmp_path / "medians.npz"
    assert build.main([str(tmp_path / "x.tgz"), "--out", str(out)]) == 2
    assert "npm pack" in capsys.readouterr().err and not out.exists()


def test_simplified_lines_stay_within_the_tolerance():
    t = np.linspace(0, 3, 200)
    line = np.stack([300 * t, 200 * np.sin(t)], axis=1)
    simple = build.simplify(line, 4.0)
    assert len(simple) < 20
    assert np.abs(np.interp(line[:, 0], simple[:, 0], simple[:, 1]) - line[:, 1]).max() < 5


# Templates --------------------------------------------------------------------------------------


def test_components_are_found_where_they_are():
    names = [component.name for component in components()]

    def found(character):
        return {names[number] for _, _, number in parts(character)}

    assert {"讠", "口"} <= found("语") and "氵" in found("江") and "辶" in found("这")
    assert "门" in found("间") and "日" in found("间") and "纟" in found("红")
    assert "讠" not in found("江") and "氵" not in found("说") and not found("一")
    assert "艹" not in found("世")
    assert 12 <= sum("讠" in found(character) for character in LEVEL1[::5]) <= 24


def test_an_abbreviation_changes_its_component_alone():
    printed, short = stroke_template("江"), stroke_template("江", (2,))
    assert len(printed.first) == 6 and len(short.first) == 4  # three dots in one stroke
    rest = printed.points[printed.owner >= 3], short.points[short.owner >= 1]
    shift = rest[0] - rest[1]
    assert np.abs(shift - shift[0]).max() < 1e-9


def test_strokes_that_cross_can_be_written_in_the_other_order():
    assert [crossings(c) for c in "十王生火"] == [(0,), (1,), (2,), ()]
    printed, swapped = stroke_template("王"), stroke_template("王", (), crossings("王"))

    def stroke(template, k):
        return template.points[template.first[k] : template.last[k] + 1]

    for k, there in enumerate((0, 2, 1, 3)):
        np.testing.assert_array_equal(stroke(printed, k), stroke(swapped, there))


def test_every_form_of_every_component_can_be_drawn():
    for number, component in enumerate(components()):
        character = next(c for c in LEVEL1 if any(n == number for *_, n in parts(c)))
        place = [n for *_, n in parts(character)].index(number)
        assert component.forms
        for form in range(1 + len(component.forms)):
            forms = [0] * len(parts(character))
            forms[place] = form
            template = stroke_template(character, tuple(forms))
            assert np.isfinite(template.points).all() and len(template.points) > 5


def test_thinning_leaves_a_line_one_pixel_wide():
    body = np.zeros((40, 80), np.uint8)
    body[15:24, 10:70] = 1
    line = thin(body)
    assert set(np.unique(line)) == {0, 1} and body[line == 1].all()
    assert (line[:, 20:60].sum(axis=0) == 1).all()
    assert cv2.connectedComponents(line)[0] == 2


# Drawing ----------------------------------------------------------------------------------------


def test_all_classes_can_be_drawn_and_differ():
    drawable(LEVEL1 + SYMBOLS)
    rng = np.random.default_rng(0)
    writer = Writer.draw(1, 0.6)
    seen = {}
    some = LEVEL1[::4] + SYMBOLS
    for character in some:
        bitmap = render(character, writer, rng)
        assert bitmap.dtype == np.uint8 and bitmap.ndim == 2
        ink = bitmap < 255
        assert ink.sum() >= 6
        assert ink[0].any() and ink[-1].any() and ink[:, 0].any() and ink[:, -1].any()
        assert max(bitmap.shape) < 250
        assert seen.setdefault(bitmap.tobytes(), character) == character
    assert len(seen) == len(some) == 939 + 171


def test_some_write_small():
    sizes = {
        small: [
            max(render("永", Writer.draw(seed, small=small), np.random.default_rng(seed)).shape)
            for seed in range(60)
        ]
        for small in (0, 0.5, 1)
    }
    assert min(sizes[0]) > 35 and max(sizes[1]) < 75 and np.median(sizes[1]) < 40
    assert 10 < sum(size < 40 for size in sizes[0.5]) < 45


def test_coarse_drawings_are_black_or_white():
    shares = []
    for seed in range(40):
        bitmap = render("永", Writer.draw(seed, coarse=1.0), np.random.default_rng(seed))
        assert set(np.unique(bitmap)) <= {0, 255} and 18 < max(bitmap.shape) < 70
        assert cv2.connectedComponents((bitmap == 0).astype(np.uint8))[0] < 10  # nothing crumbles
        shares.append((bitmap == 0).mean())
    assert min(shares) < 0.2 and max(shares) > 0.4  # thin pens and thick ones


def test_some_pens_are_not_those_of_hwdb():
    widths = {}
    for pens in (0.0, 1.0):
        hands = [Writer.draw(seed, pens=pens) for seed in range(60)]
        widths[pens] = np.sort([hand.pen / hand.em for hand in hands])
    assert widths[0.0][0] >= 0.033 and widths[0.0][-1] <= 0.08
    assert widths[1.0][5] < 0.02 and widths[1.0][-5] > 0.1 and widths[1.0][-1] <= 0.14
    thin, thick = (
        (render("永", hands[0].but(pen=share * 100, em=100), np.random.default_rng(0)) < 128).mean()
        for share in (0.01, 0.14)
    )
    assert thin < 0.15 < 0.4 < thick


def test_hasty_hands_join_more():
    joined = []
    for joining in (-3.0, 0.0, 3.0):
        way, chance = np.full(2000, -0.2 - 0.2j), np.random.default_rng(0).random((2, 2000))
        hand = Writer.draw(0).but(joining=joining)
        joined.append((drawn_share(way, np.zeros(2000), chance, hand) == 1).mean())
    assert joined[0] < 0.15 and 0.3 < joined[1] < 0.6 and joined[2] > 0.85
    across = drawn_share(way, np.ones(2000), chance, hand) == 1
    assert across.mean() < joined[2]  # over the border of a radical


def test_bent_strokes_keep_their_parts_together():
    template = stroke_template("口")
    rng = np.random.default_rng(0)
    local = bend(template, Writer.draw(0).but(turn=0.5, stretch=0.3), 1.0, rng)
    for first, last in zip(template.first, template.last, strict=True):
        stroke = local[first : last + 1]
        assert abs(stroke.mean()) < 1e-9 and np.abs(np.diff(stroke)).max() < 0.15
    assert sorted(np.unique(template.piece[template.owner == 1])) == [1, 2]  # 横 and 竖 of 横折


def test_remains_keep_most_of_a_character():
    changed = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        bitmap = render("永", Writer.draw(seed, 0.5), rng)
        spoiled = remains(bitmap, rng)
        assert spoiled.dtype == np.uint8 and spoiled.min() < 255
        assert 0.6 < (spoiled < 255).sum() / (bitmap < 255).sum() < 2.5
        changed += spoiled.shape != bitmap.shape or bool((spoiled != bitmap).any())
    assert changed >= 58


@pytest.mark.parametrize("kind", NO_CHARACTERS)
def test_pictures_of_no_character(kind):
    drawn = [no_character(kind, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])
    for picture in drawn:
        assert picture.dtype == np.uint8 and picture.min() < 255 == picture.max()


def test_pictures_of_no_character_are_written_by_one_command(tmp_path):
    assert papers.main(["--count", "2", "--seed", "3", "--out", str(tmp_path)]) == 0
    assert {folder.name for folder in tmp_path.iterdir()} == set(NO_CHARACTERS)
    stamps = [cv2.imread(str(path), 0) for path in sorted((tmp_path / "stamp").glob("*.png"))]
    assert len(stamps) == 2 and not np.array_equal(*stamps)
    assert papers.main(["--count", "0"]) == 2


def test_classes_differ_more_than_drawings_of_one_class():
    def blurred(character, seed):
        bitmap = render(character, Writer.draw(seed, 0.5), np.random.default_rng(seed))
        return cv2.GaussianBlur(cv2.resize(255 - bitmap, (32, 32)), (0, 0), 2).astype(float)

    characters = LEVEL1[:40]
    means = [np.mean([blurred(c, seed) for seed in range(12)], axis=0) for c in characters]
    right = 0
    for index, character in enumerate(characters):
        for seed in range(100, 103):
            picture = blurred(character, seed)
            right += np.argmin([np.abs(picture - mean).sum() for mean in means]) == index
    assert right >= 0.8 * 3 * len(characters)


def test_size_pen_and_ink_follow_those_of_real_crops():
    """Bounds around HWDB crops: height 44/63/92, pen 3.5/4.5/5.7 px, coverage .17/.30/.45."""
    height, coverage, pens, grey = [], [], [], []
    for index in range(400):
        bitmap, _ = Handwriting(LEVEL1, seed=3).draw(index)
        ink = bitmap < 255
        height.append(len(bitmap))
        coverage.append(ink.mean())
        body = cv2.GaussianBlur(np.pad(bitmap, 2, constant_values=255), (0, 0), 0.8) < 215
        pens.append(ink.sum() / (1.1 * thin(body.astype(np.uint8)).sum()))
        grey.append(np.median(bitmap[ink]))
    assert 58 < np.median(height) < 74 and np.percentile(height, 98) < 125
    assert 3.8 < np.median(pens) < 5.4
    assert 0.25 < np.median(coverage) < 0.36
    assert 105 < np.median(grey) < 150


def test_a_wild_hand_deviates_more_than_a_careful_one():
    def spread(hard):
        pictures = []
        for seed in range(60):
            bitmap = render("永", Writer.draw(seed, hard), np.random.default_rng(seed))
            pictures.append(cv2.resize(bitmap, (32, 32)).astype(float))
        return np.std(pictures, axis=0).mean()

    assert spread(0.0) < spread(0.6) < spread(1.5)


def test_joins_and_skipped_strokes():
    template = stroke_template("三")
    writer = Writer.draw(0, 0.0)

    def runs(**style):
        style = {"joining": -50.0, "tails": 0.0, "skip": 0.0} | style
        hand = writer.but(**style)
        points, _ = trace(template, template.points * 80, 80, hand, np.random.default_rng(0))
        mask = (field(points, np.full(len(points), 2.0), 2) > 0).astype(np.uint8)
        return cv2.connectedComponents(mask)[0] - 1

    assert runs() == 3
    assert runs(joining=50.0) == 1


def test_smoothing_rounds_corners_and_keeps_ends():
    points = np.concatenate([np.arange(20), 19 + 1j * np.arange(1, 20)]).astype(complex)
    link = np.ones(len(points) - 1, bool)
    rounded = points.copy()
    smooth(rounded, link, 2.0)
    assert rounded[0] == points[0] and rounded[-1] == points[-1]
    assert 0.5 < abs(rounded[19] - points[19]) < 3
    link[18:20] = False
    parted = points.copy()
    smooth(parted, link, 2.0)
    assert np.allclose(parted, points)


def test_field_is_the_distance_into_the_ink():
    points = np.arange(0, 60, 0.5) + 0.25j
    inside = field(points, np.full(len(points), 3.0), 4.0)
    column = inside[:, inside.shape[1] // 2]
    assert 2.7 < column.max() <= 3
    assert abs((column > 0).sum() - 6) <= 1
    falling = np.diff(column[column.argmax() : column.argmax() + 5])
    assert np.allclose(falling, -1, atol=0.1)


def test_an_unknown_character_is_named():
    with pytest.raises(ValueError, match="龘"):
        render("龘", Writer.draw(0), np.random.default_rng(0))
    with pytest.raises(ValueError, match="1 characters .*龘"):
        Handwriting("一龘")


def test_a_refused_picture_makes_room_for_its_next_variant(monkeypatch):
    handwriting = Handwriting("永和九年", seed=5)
    draw = Handwriting.draw

    def refused(below):
        def drawn(self, index, variant=0):
            bitmap, label = draw(self, index, variant)
            return np.full_like(bitmap, 255) if variant < below else bitmap, label

        return drawn

    monkeypatch.setattr(Handwriting, "draw", refused(2))
    for index in range(4):
        bitmap, label = draw(handwriting, index, 2)
        glyph, same = handwriting.glyph(index, 32)
        assert np.array_equal(glyph, to_glyph(bitmap, 32))
        assert label == same == draw(handwriting, index)[1]
    monkeypatch.setattr(Handwriting, "draw", refused(1000))
    with pytest.raises(ValueError, match="blank"):
        handwriting.glyph(0, 32)


def test_drawing_does_without_torch():
    code = "import sys, synthesis.stream, synthesis.papers; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "False\n", done.stderr


def test_handwriting_depends_on_seed_and_index_alone():
    first, second = Handwriting("永和九年", seed=5), Handwriting("永和九年", seed=5)
    drawn = [first.draw(index) for index in range(12)]
    for index in reversed(range(12)):
        bitmap, label = second.draw(index)
        assert label == drawn[index][1] and np.array_equal(bitmap, drawn[index][0])
    for start in (0, 4, 8):
        assert sorted(label for _, label in drawn[start : start + 4]) == [0, 1, 2, 3]
    other, _ = Handwriting("永和九年", seed=6).draw(0)
    assert not np.array_equal(other, drawn[0][0])


# Fonts ------------------------------------------------------------------------------------------


def test_fonts_are_re_inked(tmp_path):
    font = system_font()
    if font is None:
        pytest.skip("no font installed")
    (tmp_path / "fonts").mkdir()
    (tmp_path / "fonts" / font.name).write_bytes(font.read_bytes())
    fonts = Fonts(tmp_path / "fonts", "AQ永")
    assert {"A", "Q"} <= fonts.faces[0].keys()
    rng = np.random.default_rng(0)
    writer = Writer.draw(0)
    assert (render("A", writer, rng, fonts, 1.0) < 255).mean() > 0.05
    symbols_file = tmp_path / "classes.txt"
    symbols_file.write_text("AQ")
    settings = ("--fonts", tmp_path / "fonts", "--classes", symbols_file, "--test-writers", 0)
    for n in (1, 2):
        synthesize(*settings, "--writers", n + 1, "--workers", n, "--out", tmp_path / str(n))
    assert {} != contents(tmp_path / "1").items() < contents(tmp_path / "2").items()


@pytest.mark.parametrize("content", [None, b"not a font"])
def test_fonts_that_cannot_be_read(tmp_path, content):
    (tmp_path / "fonts").mkdir()
    if content:
        (tmp_path / "fonts" / "broken.ttf").write_bytes(content)
    done = synthesize("--fonts", tmp_path / "fonts", "--out", tmp_path / "out", check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1 and "font" in done.stderr
    assert not (tmp_path / "out").exists()


# The script -------------------------------------------------------------------------------------


def test_same_bytes_on_any_number_of_workers(tmp_path):
    settings = ["--classes", 30, "--writers", 3, "--test-writers", 1, "--seed", 4]
    done = synthesize(*settings, "--workers", 1, "--out", tmp_path / "one")
    assert "120 pictures" in done.stdout
    synthesize(*settings, "--workers", 2, "--out", tmp_path / "two")
    files = contents(tmp_path / "one")
    assert files == contents(tmp_path / "two")
    assert list(files) == ["10001-c.gnt", "10002-c.gnt", "10003-c.gnt", "20001-c.gnt"]
    assert len(set(files.values())) == 4
    synthesize(*settings[:-1], 5, "--workers", 1, "--out", tmp_path / "three")
    assert not set(files.values()) & set(contents(tmp_path / "three").values())


def test_files_are_sound_and_their_names_tell_the_split(tmp_path):
    classes = tmp_path / "classes.txt"
    classes.write_text("永和 9a①\n", encoding="utf-8")
    synthesize("--classes", classes, "--writers", 1, "--test-writers", 1, "--out", tmp_path / "o")
    train, test = sorted((tmp_path / "o").glob("*.gnt"))
    assert origin(train.name) == ("synthetic", "10001", "train") and train.name == "10001-f.gnt"
    assert origin(test.name) == ("synthetic", "20001", "test")
    items = samples(train)
    assert all(isinstance(item, Record) for item in items)
    assert "".join(item.character for item in items) == "永和9a①"
    rng = np.random.default_rng((0, 10001))
    writer = Writer.draw(rng, rng.uniform(0.6, 1.5))
    assert np.array_equal(items[0].bitmap, render("永", writer, rng))


def test_a_killed_run_goes_on(tmp_path):
    out = tmp_path / "cut"
    settings = ("--classes", 6, "--writers", 3, "--test-writers", 0, "--paper", 0.5)
    synthesize(*settings, "--out", tmp_path / "whole")
    whole, left = contents(tmp_path / "whole"), []

    def check():
        """All that is there is whole, and the same command completes it."""
        kept = {path: path.stat().st_mtime_ns for path in find_files([out])} if out.exists() else {}
        assert {path.name: path.read_bytes() for path in kept}.items() <= whole.items()
        synthesize(*settings, "--out", out)
        assert contents(out) == whole
        assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
        left.append(len(kept))
        shutil.rmtree(out)

    kill_at_random(lambda: synthesize(*settings, "--out", out), KILLS, check)
    print(f"files left by kills: {left}")


def test_two_do_not_write_into_one_folder(tmp_path):
    with only_one(tmp_path, "synthesize_gnt.py"):
        done = synthesize("--classes", 3, "--out", tmp_path, check=False)
    assert done.returncode == 2 and "is writing here" in done.stderr
    assert not contents(tmp_path)


def test_other_settings_do_not_mix(tmp_path):
    synthesize("--classes", 3, "--writers", 1, "--test-writers", 0, "--out", tmp_path)
    done = synthesize("--classes", 4, "--writers", 1, "--out", tmp_path, check=False)
    assert done.returncode == 2 and "other settings" in done.stderr
    assert len(samples(tmp_path / "10001-c.gnt")) == 3
    synthesize("--classes", 3, "--writers", 2, "--test-writers", 0, "--out", tmp_path)
    assert len(contents(tmp_path)) == 2
    (tmp_path / "synthesis.json").unlink()
    done = synthesize("--classes", 3, "--writers", 1, "--out", tmp_path, check=False)
    assert done.returncode == 2 and "another origin" in done.stderr


def test_sheet(tmp_path):
    path = tmp_path / "sheet.png"
    synthesize("--sheet", path, "--writers", 3, "--out", tmp_path / "none")
    sheet = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert sheet.shape == (3 * 80, 20 * 80) and sheet.dtype == np.uint8
    cells = sheet.reshape(3, 80, 20, 80).min(axis=(1, 3))
    assert (cells < 200).all()
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--writers", "-1"], "--writers"),
        (["--writers", "0", "--test-writers", "0"], "nothing to do"),
        (["--writers", "10000"], "9999"),
        (["--workers", "0"], "--workers"),
        (["--seed", "-1"], "--seed"),
        (["--hard", "2", "1"], "--hard"),
        (["--coarse", "-1"], "--coarse"),
        (["--pens", "1.5"], "--pens"),
        (["--paper", "2"], "--paper"),
        (["--font-share", "2"], "--font-share"),
        (["--classes", "0"], "--classes"),
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


def test_benchmarks_run(tmp_path):
    synthesize("--classes", 5, "--writers", 1, "--test-writers", 0, "--out", tmp_path)
    speed = [sys.executable, "-m", "benchmarks.synthesize"]
    done = subprocess.run([*speed, "--count", "20", "--rounds", "1", "--json"],
                          capture_output=True, text=True, cwd=ROOT, check=True)  # fmt: skip
    assert json.loads(done.stdout)["strokes"]["best"] > 0
    compare = [sys.executable, "-m", "benchmarks.compare_gnt"]
    done = subprocess.run([*compare, tmp_path, tmp_path / "10001-c.gnt", "--markdown"],
                          capture_output=True, text=True, cwd=ROOT, check=True)  # fmt: skip
    assert "| pictures | 5 | 5 |" in done.stdout and "| coverage | 0." in done.stdout
    (tmp_path / "10001-c.gnt").write_bytes(b"damaged file")
    done = subprocess.run([*compare, tmp_path], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and done.stderr.startswith("error: ")
