"""Proposals of what the character of a picture is, and which of them is read."""

import cv2
import numpy as np
import pytest
from conftest import bitmap
from test_picture import INK, like

from config import DEFAULT_CHECKPOINT
from picture import find_proposals, to_glyph
from picture.proposals import DENSITY, PRIOR
from recognizer import Recognizer

SIDE = 160


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
    if kind in ("grid", "tilted grid", "shadow"):
        cv2.rectangle(lines, (12, 12), (148, 148), 90, 2)
        dashes(lines, (12, 80, 148, 80), 120)
        dashes(lines, (80, 12, 80, 148), 120)
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


LINED = "grid", "tilted grid", "shadow", "ruled", "through", "cell", "box by hand"
SCENES = {kind: lined(kind) for kind in LINED}
SCENES |= {"neighbour": neighbours(1), "neighbours": neighbours(4), "specks": specks()}


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer.from_checkpoint(DEFAULT_CHECKPOINT)


@pytest.mark.parametrize("kind", SCENES)
def test_the_character_is_proposed_and_read(kind, recognizer):
    expected = to_glyph(photograph(page()))
    photo = photograph(SCENES[kind])
    if kind == "shadow":
        photo[:, :60] = photo[:, :60] * 0.7
    glyphs = find_proposals(photo).glyphs
    assert np.array_equal(glyphs[0], to_glyph(photo))
    assert max(like(glyph, expected) for glyph in glyphs) > 0.85
    readings = recognizer.recognize([photo], top_k=1)[0]
    assert readings[0].character == "永"


def test_no_proposal_comes_twice_and_all_are_glyphs():
    glyphs = find_proposals(photograph(SCENES["grid"]), 48).glyphs
    assert glyphs.dtype == np.uint8 and glyphs.shape[1:] == (48, 48) and len(glyphs) > 3
    assert len({glyph.tobytes() for glyph in glyphs}) == len(glyphs)
    for glyph in glyphs:
        assert max(glyph.any(0).sum(), glyph.any(1).sum()) <= 46


def test_colours_tell_lines_from_strokes():
    lines = np.full((SIDE, SIDE), 255, np.uint8)
    cv2.rectangle(lines, (12, 12), (147, 147), 90, 3)
    cv2.line(lines, (12, 12), (147, 147), 90, 3)
    photo = np.full((SIDE, SIDE, 3), 235.0)
    for layer, tone in ((page(), [1, 0, 0]), (lines, [0.1, 0.1, 0.1])):
        photo *= 1 - (255 - layer[..., None]) / 255 * (1 - np.array(tone))
    photo = photo.astype(np.uint8)
    expected = to_glyph(photograph(page()))
    best, grey = (
        max(like(glyph, expected) for glyph in find_proposals(one).glyphs)
        for one in (photo, cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY))
    )
    assert best > 0.75 > grey + 0.1


def test_the_middle_one_of_three_is_proposed():
    row = np.hstack([page(bitmap(one, 7))[:, 25:135] for one in "国永明"])
    found, expected = find_proposals(photograph(row)), to_glyph(photograph(page()))
    best = max(range(len(found.glyphs)), key=lambda i: like(found.glyphs[i], expected))
    assert like(found.glyphs[best], expected) > 0.85
    assert found.holds_more(best) and not found.holds_more(0)


def test_a_character_on_a_large_photo_is_looked_at_closer():
    large = np.full((1500, 2000), 255, np.uint8)
    large[500:900, 800:1200] = cv2.resize(page(), (400, 400))
    assert like(to_glyph(photograph(large)), to_glyph(photograph(page()))) > 0.85


def test_a_clean_tight_crop_has_one_proposal():
    for character in "一口田回目永":
        assert len(find_proposals(bitmap(character, 1)).glyphs) == 1, character


def test_what_is_left_out_is_shown():
    found = find_proposals(photograph(SCENES["cell"]))
    assert len(found.inks) == len(found.glyphs) > 1
    for index, ink in enumerate(found.inks):
        view = found.view(index)
        assert view.shape == (*ink.shape, 3)
        left_out = (view[..., 2].astype(int) - view[..., 0]).max()
        assert (left_out > 10) == (index > 0)


@pytest.mark.parametrize("character", "一口田回目日国王二三小川心")
def test_strokes_of_a_lone_character_stay(character):
    for writer in range(4):
        ink = bitmap(character, writer)
        expected = to_glyph(ink)
        for margin in (0, 2, 12):
            framed = cv2.copyMakeBorder(ink, *([margin] * 4), cv2.BORDER_CONSTANT, value=255)
            assert np.array_equal(to_glyph(framed), expected)
            if margin != 2:
                assert like(to_glyph(photograph(framed)), expected) > 0.7, (writer, margin)


def test_a_proposal_costs_what_it_leaves_out_around_it():
    page = np.full((200, 200), 200, np.uint8)
    cv2.circle(page, (100, 100), 30, 0, 6)
    page[:, 8:12] = 0  # a line far from the circle
    costs = []
    for line in (8, 64):
        page[:, line : line + 4] = 0
        found = find_proposals(page)
        costs.append(DENSITY / 255 * found.glyphs.mean((1, 2)) - found.priors)
    far, near = costs
    assert np.allclose(far, [0, PRIOR], atol=1e-5) and near.max() > PRIOR + 0.1
