"""The character is found on its paper, and a tight crop is left alone."""

import cv2
import numpy as np
import pytest
from conftest import bitmap

from config import DEFAULT_CHECKPOINT
from picture import find_glyph, is_clean, scene, to_glyph
from recognizer import Recognizer

SIDE = 160
INK = bitmap("永", 7)


def like(a: np.ndarray, b: np.ndarray) -> float:
    """Return the correlation of two glyphs."""
    return float(np.corrcoef(a.ravel().astype(float), b.ravel().astype(float))[0, 1])


def photograph(page: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return a page (h,w) as a camera has it: grey paper, some noise."""
    noise = np.random.default_rng(seed).normal(0, 2, page.shape)
    return (page * 0.85 + 20 + noise).clip(0, 255).astype(np.uint8)


def page(ink: np.ndarray = INK) -> np.ndarray:
    """Return white paper with a character in the middle."""
    paper = np.full((SIDE, SIDE), 255, np.uint8)
    scale = 85 / max(ink.shape)
    small = cv2.resize(ink, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    y, x = (SIDE - small.shape[0]) // 2, (SIDE - small.shape[1]) // 2
    paper[y : y + small.shape[0], x : x + small.shape[1]] = small
    return paper


def dashes(paper: np.ndarray, ends: tuple[int, int, int, int], grey: int) -> None:
    """Draw a dashed line from x0, y0 to x1, y1."""
    x0, y0, x1, y1 = ends
    for t in np.arange(0, 1, 0.06):
        a, b = ((round(x0 + (x1 - x0) * u), round(y0 + (y1 - y0) * u)) for u in (t, t + 0.03))
        cv2.line(paper, a, b, min(grey, int(paper[a[::-1]])), 1)


def lined(kind: str) -> np.ndarray:
    """Return the page with lines of a kind."""
    paper = page()
    lines = np.full_like(paper, 255)
    if kind in ("grid", "diagonal grid", "tilted grid", "shadow"):
        cv2.rectangle(lines, (12, 12), (148, 148), 90, 2)
        dashes(lines, (12, 80, 148, 80), 120)
        dashes(lines, (80, 12, 80, 148), 120)
        if kind == "diagonal grid":
            dashes(lines, (12, 12, 148, 148), 120)
            dashes(lines, (12, 148, 148, 12), 120)
    elif kind == "circle":
        cv2.rectangle(lines, (6, 6), (153, 153), 90, 2)
        cv2.circle(lines, (80, 80), 72, 90, 1, cv2.LINE_AA)
    elif kind == "ruled":
        lines[18:20] = lines[140:142] = 60
    elif kind == "through":  # across strokes, along none
        lines[94:96] = 80
    elif kind == "cell":
        lines[:3] = lines[-3:] = lines[:, :3] = lines[:, -3:] = 0
    elif kind == "box by hand":
        corners = [(14, 17), (80, 13), (147, 16), (143, 80), (146, 148), (78, 144), (16, 146)]
        cv2.polylines(lines, [np.array(corners)], True, 30, 3, cv2.LINE_AA)
    if kind == "tilted grid":
        turn = cv2.getRotationMatrix2D((80, 80), 6, 0.95)
        lines = cv2.warpAffine(lines, turn, (SIDE, SIDE), borderValue=255)
    return np.minimum(paper, lines)


def neighbours(sides: int) -> np.ndarray:
    """Return the page with pieces of others at some of its sides."""
    paper = page()
    for side, character in enumerate("国明我何"[:sides]):
        view = np.rot90(paper, side)
        other = np.rot90(page(bitmap(character, 3)), side)
        last = np.flatnonzero((other < 128).any(0))[-1]
        view[:, :18] = np.minimum(view[:, :18], other[:, last - 17 : last + 1])
    return paper


def specks() -> np.ndarray:
    """Return the page with dust."""
    paper = page()
    y, x = np.random.default_rng(2).integers(0, SIDE, (2, 200))
    paper[y, x] = 90
    return paper


LINED = ("grid", "diagonal grid", "tilted grid", "shadow", "circle", "ruled", "through", "cell")
SCENES = {kind: lined(kind) for kind in (*LINED, "box by hand")}
SCENES |= {"neighbour": neighbours(1), "neighbours": neighbours(4), "specks": specks()}


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer.from_checkpoint(DEFAULT_CHECKPOINT)


@pytest.mark.parametrize("kind", SCENES)
def test_the_character_is_found_and_read(kind, recognizer):
    expected = to_glyph(photograph(page()))
    photo = photograph(SCENES[kind])
    if kind == "shadow":
        photo[:, :60] = photo[:, :60] * 0.7
    found = find_glyph(photo)
    assert like(found.glyph, expected) > 0.85
    assert found.scene.marks or kind == "specks"
    assert found.view().shape == (*found.picture.shape, 3)
    assert recognizer.recognize([photo], top_k=1)[0][0].character == "永"


def test_the_finder_decides_what_is_a_line(monkeypatch):
    photo = photograph(SCENES["ruled"])
    assert {mark.kind for mark in find_glyph(photo).scene.marks} == {"line"}
    monkeypatch.setattr(scene, "evidence", lambda ink: np.ones((2, *ink.shape), np.float32))
    assert "line" not in {mark.kind for mark in find_glyph(photo).scene.marks}


def test_colours_tell_lines_from_strokes(monkeypatch):
    frame, cross = np.full((2, SIDE, SIDE), 255, np.uint8)
    cv2.rectangle(frame, (8, 8), (151, 151), 90, 2)
    cross[79:81, 9:151] = cross[9:151, 79:81] = 90
    blue, red = ([1, 0, 0], [0, 0, 1])  # what of the light they let through
    layers = ((page(), blue), (np.minimum(frame, cross), red))
    photo = np.full((SIDE, SIDE, 3), 235.0)
    for layer, tone in layers:
        photo *= 1 - (255 - layer[..., None]) / 255 * (1 - np.array(tone))
    photo = photo.astype(np.uint8)
    # The finder is sure of the frame, and takes the cross for strokes.
    said = np.where(frame < 255, -5, 2.5).astype(np.float32)
    monkeypatch.setattr(scene, "evidence", lambda ink: (said.copy(), np.ones_like(said)))
    expected = to_glyph(photograph(page()))
    assert like(to_glyph(photo), expected) > 0.9
    assert like(to_glyph(cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY)), expected) < 0.7


def test_strokes_stay_whole_where_a_line_crosses_them(monkeypatch):
    lines = np.full((SIDE, SIDE), 255, np.uint8)
    lines[94:98] = 80
    said = np.where(lines < 255, -5, 5).astype(np.float32)
    monkeypatch.setattr(scene, "evidence", lambda ink: (said.copy(), np.ones_like(said)))
    found = find_glyph(photograph(np.minimum(page(), lines)))
    assert {mark.kind for mark in found.scene.marks} == {"line"}
    assert like(found.glyph, to_glyph(photograph(page()))) > 0.97


def by_colour(monkeypatch, said: np.ndarray, layers, paper=(235, 235, 235)) -> np.ndarray:
    """Return what colours add to what the finder said (h,w).

    `layers` are drawings (h,w), each with what of blue, green and red light its ink lets through.
    """
    photo = np.full((SIDE, SIDE, 3), paper, np.float64)
    for drawing, tone in layers:
        photo *= 1 - (255 - drawing[..., None]) / 255 * (1 - np.array(tone))
    ink = 255 - np.minimum(*(drawing for drawing, _ in layers)).astype(np.uint8)
    monkeypatch.setattr(scene, "evidence", lambda ink: (said.copy(), np.ones_like(said)))
    return scene.find_character(ink, (), photo.astype(np.uint8)).evidence[0] - said


def marked() -> tuple[np.ndarray, ...]:
    """Return a character, a frame round it and a cross through it, each (h,w)."""
    frame, cross = np.full((2, SIDE, SIDE), 255, np.uint8)
    cv2.rectangle(frame, (8, 8), (151, 151), 90, 2)
    cross[79:81, 9:151] = cross[9:151, 79:81] = 90
    return page(), frame, cross


@pytest.mark.parametrize("paper", [(235, 235, 235), (150, 215, 235)])
def test_weak_strokes_are_of_the_pen_whose_colour_they_have(monkeypatch, paper):
    ink, frame, cross = marked()
    left = np.arange(SIDE) < 75
    ink = np.where(left, 255 - (255 - ink) * 0.5, ink)
    # The finder is sure of the frame and of strong strokes, not of weak ones nor of the cross.
    said = np.where(frame < 255, -5, np.where(left, 0, 2.5)).astype(np.float32)
    said[cross < 255] = 0
    lines, blue, black = np.minimum(frame, cross), [1, 0.3, 0.1], [0.1, 0.1, 0.1]
    added = by_colour(monkeypatch, said, ((ink, blue), (lines, black)), paper)
    assert np.median(added[(ink < 150) & left & (cross == 255)]) > 1
    assert np.median(added[(cross < 255) & (ink == 255)]) < -1
    assert np.abs(added).max() == 4 and not added[(ink == 255) & (lines == 255)].any()


def test_colours_say_nothing_where_all_ink_is_alike_or_of_one_kind(monkeypatch):
    ink, frame, cross = marked()
    lines, blue, red = np.minimum(frame, cross), [1, 0.2, 0], [0, 0, 1]
    said = np.where(frame < 255, -5, np.where(cross < 255, 0, 2.5)).astype(np.float32)
    assert np.abs(by_colour(monkeypatch, said, ((ink, blue), (lines, red)))).max() > 1
    for tone in ([0, 0, 0], [0.5, 0.5, 0.5]):
        assert not by_colour(monkeypatch, said, ((ink, tone), (lines, tone))).any()
    all_blue = np.minimum(ink, lines), blue
    none = np.full_like(ink, 255), blue
    assert np.abs(by_colour(monkeypatch, said, (all_blue, none))).max() < 1
    for unsure in (np.maximum(said, -1.9), np.minimum(said, 1.9)):
        assert not by_colour(monkeypatch, unsure, ((ink, blue), (lines, red))).any()


@pytest.mark.parametrize(("wide", "least"), [(2, 0.97), (4, 0.97), (9, 0.93)])
def test_strokes_stay_whole_where_lines_cross_them_upright_or_level(monkeypatch, wide, least):
    ink = page()
    for turned in (ink, np.ascontiguousarray(ink.T)):
        lines = np.full((SIDE, SIDE), 255, np.uint8)
        lines[94 : 94 + wide] = 80
        lines = lines if turned is ink else lines.T
        said = np.where(lines < 255, -5, 5).astype(np.float32)
        monkeypatch.setattr(
            scene, "evidence", lambda ink, said=said: (said.copy(), np.ones_like(said))
        )
        found = find_glyph(photograph(np.minimum(turned, lines)))
        assert like(found.glyph, to_glyph(photograph(turned))) > least


def test_a_piece_of_which_hardly_any_is_foreign_is_not_cut(monkeypatch):
    _, frame, _ = marked()
    box = np.full((SIDE, SIDE), 255, np.uint8)
    cv2.rectangle(box, (45, 45), (115, 115), 0, 6)
    for long, cut in ((11, False), (30, True)):  # 4 % and 10 % of the ink
        said = np.where(frame < 255, -5, 5).astype(np.float32)
        said[40:50, 70 : 70 + long] = -5
        monkeypatch.setattr(
            scene, "evidence", lambda ink, said=said: (said.copy(), np.ones_like(said))
        )
        found = scene.find_character(255 - np.minimum(box, frame))
        assert found.marks and not found.ink[8:10].any()
        assert (found.ink[45, 70 : 70 + long] == 0).any() == cut


def test_a_light_drawing_as_jpeg_keeps_it_has_no_lines(monkeypatch):
    light = np.zeros((64, 64), np.uint8)
    cv2.line(light, (8, 34), (56, 30), 160, 1, cv2.LINE_AA)
    cv2.line(light, (32, 8), (32, 56), 160, 1, cv2.LINE_AA)
    kept = cv2.imdecode(cv2.imencode(".jpg", light, [cv2.IMWRITE_JPEG_QUALITY, 70])[1], 0)
    assert not is_clean(255 - kept)
    left = np.where(np.arange(64) < 30, -np.ones((64, 1), np.float32), 1)
    monkeypatch.setattr(scene, "evidence", lambda ink: left)  # half a stroke is a line, it says
    assert not find_glyph(kept).scene.marks


def test_the_middle_one_of_three_is_read():
    row = np.hstack([page(bitmap(one, 7))[:, 25:135] for one in "国永明"])
    found = find_glyph(photograph(row))
    assert like(found.glyph, to_glyph(photograph(page()))) > 0.85 and found.notices


def test_a_large_photo_is_looked_at_twice():
    large = np.full((1500, 2000), 255, np.uint8)
    large[500:900, 800:1200] = cv2.resize(SCENES["grid"], (400, 400))
    assert like(find_glyph(photograph(large)).glyph, to_glyph(photograph(page()))) > 0.85


def test_a_clean_tight_crop_is_not_searched(monkeypatch):
    monkeypatch.setattr(scene, "evidence", lambda ink: pytest.fail("searched"))
    for character in "一口田回目永":
        assert find_glyph(bitmap(character, 1)).scene is None


def test_strokes_at_the_border_of_a_tight_crop_stay(monkeypatch):
    tight = photograph(bitmap("田", 1))
    half = np.arange(tight.shape[0])[:, None] < 0.6 * tight.shape[0]

    def evidence(ink):  # the left side of 田, down to the middle, is a line, it says
        left = half & (np.arange(ink.shape[1]) < 0.25 * ink.shape[1])
        return np.where(left, np.float32(-5), 5), np.full(ink.shape, 5, np.float32)

    monkeypatch.setattr(scene, "evidence", evidence)
    assert scene._is_tight(255 - tight) and not find_glyph(tight).scene.marks
    # Cut a little by the border, it is no tight crop; what would be left touches three sides.
    monkeypatch.setattr(scene, "_is_tight", lambda ink: False)
    assert not find_glyph(tight).scene.marks
    monkeypatch.setattr(scene, "_plausible", lambda *given: True)
    assert find_glyph(tight).scene.marks
    assert not scene._is_tight(255 - photograph(page())[:, 45:-45])


@pytest.mark.parametrize("character", "一口田回目日国王二三小川心")
def test_all_of_a_tight_crop_or_a_lone_character_is_kept(character):
    for writer in range(4):
        ink = bitmap(character, writer)
        expected = to_glyph(ink)
        assert not find_glyph(photograph(page(ink))).notices
        for margin in (0, 2, 12):
            framed = cv2.copyMakeBorder(ink, *([margin] * 4), cv2.BORDER_CONSTANT, value=255)
            assert np.array_equal(to_glyph(framed), expected)
            # Not held yet: a frame drawn as straight as printed, alone on its paper (回).
            if margin != 2 and not (character == "回" and margin):
                assert like(to_glyph(photograph(framed)), expected) > 0.75, (writer, margin)
