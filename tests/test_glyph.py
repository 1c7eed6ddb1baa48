"""From a picture to a glyph, step by step: greys, clean paper, where ink ends, its strength."""

import cv2
import numpy as np
import pytest
from conftest import bitmap

from picture import glyph, is_clean, to_glyph, to_grey

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("picture", "grey"),
    [
        (np.array([[0, 255, 256, 65535]], np.uint16), [[0, 0, 1, 255]]),
        (np.array([[True, False]]), [[255, 0]]),
        (np.array([[0, 0.5, 1]]), [[0, 127, 255]]),
        (np.array([[0, 257, 65535.0]]), [[0, 1, 255]]),
        (np.uint8([[[7], [9]]]), [[7, 9]]),
        (np.uint8([[[7, 255], [9, 0]]]), [[7, 255]]),
        (np.array([[-1, 0.2, np.nan, np.inf, -np.inf, 1]]), [[0, 51, 0, 0, 0, 255]]),
        (np.array([[0, 1.5, 255]]), [[0, 1, 255]]),
        (np.uint8([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]), [[29, 150, 76]]),
        (np.uint8([[[255, 0, 0, 255], [0, 255, 0, 255]]]), [[29, 150]]),
    ],
)
def test_pictures_of_all_types_become_grey(picture, grey):
    found = to_grey(picture)
    assert found.dtype == np.uint8 and found.tolist() == grey


@pytest.mark.parametrize("shape", [(4,), (2, 2, 2, 2), (4, 4, 5), (4, 4, 0), (0, 3), (3, 0, 3)])
def test_what_is_no_picture_is_said(shape):
    with pytest.raises(ValueError, match="expected .h,w.") as caught:
        to_grey(np.zeros(shape, np.uint8))
    assert str(shape) in str(caught.value)
    with pytest.raises(ValueError, match="type int32, expected uint8, uint16, bool or float"):
        to_grey(np.zeros((2, 2), np.int32))


def rgba(grey, opacity) -> np.ndarray:
    grey = np.asarray(grey, np.uint8)
    return np.dstack([grey, grey, grey, np.broadcast_to(np.uint8(opacity), grey.shape)])


def test_paper_is_put_under_what_is_transparent():
    # Dark ink on nothing: white paper; light ink: black paper.
    assert to_grey(rgba([[0, 0, 30]], [[255, 0, 128]])).tolist() == [[0, 255, 142]]
    assert to_grey(rgba([[255, 255, 230]], [[255, 0, 128]])).tolist() == [[255, 0, 115]]
    assert to_grey(rgba([[9, 9]], 0)).tolist() == [[255, 255]]  # nothing at all
    assert to_grey(rgba([[200, 200]], [[254, 128]])).tolist() == [[199, 100]]
    # A sheet, of many shades and all over its box, goes on with its own paper.
    sheet = np.full((10, 10), 180, np.uint8)
    sheet[4:6, 2:8] = 20
    framed = np.zeros((14, 14, 4), np.uint8)
    framed[2:-2, 2:-2] = rgba(sheet, 255)
    grey = to_grey(framed)
    assert np.array_equal(grey[2:-2, 2:-2], sheet) and (grey[:2] == 180).all()


def shades(**pixels: int) -> np.ndarray:
    """Return a square of 100 x 100 pixels, with counts of each shade, the rest around 125."""
    values = [np.full(count, int(name[1:])) for name, count in pixels.items()]
    values.append(100 + np.arange(10_000 - sum(map(len, values))) % 50)
    return np.concatenate(values).astype(np.uint8).reshape(100, 100)


@pytest.mark.parametrize(
    ("pixels", "clean"),
    [
        (dict(s255=1500), True), (dict(s255=1499), False),
        (dict(s255=3000, s254=600), True), (dict(s255=3000, s254=601), False),
        (dict(s255=3000, s236=601), False), (dict(s255=3000, s235=601), True),
        (dict(s255=3499, s23=5000), False), (dict(s255=3500, s0=5000), True),
        (dict(s255=3499, s23=4999), True), (dict(s255=3499, s24=5000), False),
        (dict(s255=3000, s31=7000), False),  # light ink on dark mode, in a tight box
    ],
)  # fmt: skip
def test_clean_paper_is_much_and_exactly_white(pixels, clean):
    assert is_clean(shades(**pixels)) == clean


def test_a_strip_needs_less_paper():
    for wide, high, white, clean in (
        (251, 100, 0.021, True), (250, 100, 0.021, False), (100, 251, 0.021, True),
        (251, 100, 0.019, False),
    ):  # fmt: skip
        strip = (100 + np.arange(wide * high) % 50).astype(np.uint8)
        strip[: round(white * strip.size)] = 255
        assert is_clean(strip.reshape(high, wide)) == clean


def test_ink_ends_where_it_is_a_seventh_as_dark_as_the_darkest():
    for edge, wide in ((225, 10), (224, 11)):  # 15 % of 205 is 30.75
        paper = np.full((30, 30), 255, np.uint8)
        paper[10:20, 10:20] = 50
        paper[12:18, 20] = edge
        assert glyph.ink_box(255 - paper) == (10, 20, 10, 10 + wide)
    assert glyph.ink_box(255 - paper, 0.3) == (7, 23, 7, 24)  # of the longer side
    assert glyph.ink_box(255 - paper, 2) == (0, 30, 0, 30)
    faint = np.full((9, 9), 255, np.uint8)
    faint[4, 3] = 246
    with pytest.raises(ValueError, match="blank"):
        glyph.ink_box(255 - faint)
    faint[4, 3] = 245
    assert glyph.ink_box(255 - faint) == (4, 5, 3, 4)


@pytest.mark.parametrize(
    ("high", "wide", "size", "rows", "columns"),
    [
        (10, 30, 64, (22, 42), (2, 62)),  # margin 2: 60 wide, 20 high
        (30, 10, 64, (2, 62), (22, 42)),
        (10, 30, 63, (21, 41), (1, 62)),  # margin 1: 61 wide, 20.3 high
        (1, 300, 50, (24, 25), (1, 49)),  # no side less than a pixel
        (50, 25, 16, (0, 16), (4, 12)),  # no margin below 32
    ],
)
def test_a_glyph_fills_its_square_but_for_the_margin(high, wide, size, rows, columns):
    paper = np.full((high + 40, wide + 80), 255, np.uint8)
    paper[10 : 10 + high, 30 : 30 + wide] = 0
    found = to_glyph(paper, size)
    assert found.shape == (size, size) and found.dtype == np.uint8
    ink = found > 127
    assert tuple(np.flatnonzero(ink.any(1))[[0, -1]] + (0, 1)) == rows
    assert tuple(np.flatnonzero(ink.any(0))[[0, -1]] + (0, 1)) == columns
    assert ink.sum() == (rows[1] - rows[0]) * (columns[1] - columns[0])


def test_pale_ink_is_brought_to_full_strength():
    clean = bitmap("永", 7)
    for strength in (1, 0.3):
        found = to_glyph((255 - (255 - clean) * strength).astype(np.uint8))
        assert np.percentile(found[found > 64], 95, method="inverted_cdf") == 255


def test_paper_and_ink_are_told_by_their_shades():
    page = np.full((200, 200), 200, np.uint8)
    page[60:140, 60:70] = page[60:70, 60:140] = 80
    page[130:140, 60:140] = 140  # half as dark
    for grey in (page, 255 - page):
        lifted = glyph.lift(grey)
        assert lifted.shape == grey.shape and (lifted[:50] == 255).all()
        assert lifted[100, 65] == 0 and 110 <= lifted[135, 100] <= 145
    shaded = (page * np.linspace(1, 0.6, 200)[:, None]).astype(np.uint8)
    lifted = glyph.lift(shaded)
    assert (lifted[:50] == 255).mean() > 0.99 and lifted[100, 65] < 40
    for ink in (189, 196):  # the second is found by its pieces
        page[60:140, 60:70] = page[60:70, 60:140] = page[130:140, 60:140] = ink
        assert (glyph.lift(page) < 128).sum() > 2000
    page[page == ink] = 199
    with pytest.raises(ValueError, match="blank"):
        glyph.lift(page)


def photo(contrast: float, shadow: float, seed: int = 0) -> np.ndarray:
    """Return a noisy photo (600,800) of a pencil's character, with the sharp edge of a shadow."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:600, 0:800].astype(np.float32)
    light = np.where(x + 0.3 * y > 480, 1 - shadow, 1) * (210 - 0.03 * x)
    ink = cv2.resize(bitmap("永", 7), (180, 180), interpolation=cv2.INTER_AREA)
    light[200:380, 80:260] -= contrast * (1 - ink / np.float32(255))
    page = (light + rng.normal(0, 2, light.shape)).clip(0, 255).astype(np.uint8)
    return cv2.imdecode(cv2.imencode(".jpg", page, [cv2.IMWRITE_JPEG_QUALITY, 90])[1], 0)


@pytest.mark.parametrize("shadow", [0, 0.3])
def test_a_faint_pencil_is_read_and_an_empty_sheet_is_not(shadow):
    expected = to_glyph(bitmap("永", 7)).ravel()
    for contrast in (140, 30, 8):
        found = to_glyph(photo(contrast, shadow)).ravel()
        assert np.corrcoef(found, expected)[0, 1] > 0.65, contrast
    for seed in range(2):
        with pytest.raises(ValueError, match="blank"):
            to_glyph(photo(0, shadow, seed))


@pytest.mark.parametrize(("side", "grain"), [(160, 0), (160, 3), (320, 0), (320, 3)])
def test_uneven_paper_is_no_pencil(side, grain):
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    for seed in range(3):
        rng = np.random.default_rng([side, grain, seed])
        page = 200 * (1 - rng.uniform(0, 0.15) * (x**2 + y**2)) * (1 + rng.uniform(-0.15, 0.15) * x)
        page += rng.normal(0, 1, page.shape)
        if grain:
            soft = cv2.GaussianBlur(rng.normal(0, 1, page.shape), (0, 0), grain)
            page += soft / soft.std()
        page = cv2.imencode(".jpg", page.clip(0, 255).astype(np.uint8))[1]
        with pytest.raises(ValueError, match="blank"):
            to_glyph(cv2.imdecode(page, cv2.IMREAD_GRAYSCALE))


def test_grains_are_no_pencil():
    page = RNG.normal(200, 2, (240, 320)).clip(0, 255).astype(np.uint8)
    page[100:103, 50:250:12] -= 20  # some 10 px each
    with pytest.raises(ValueError, match="blank"):
        glyph.lift(page)
    page[150:153, 50:250] -= 20
    assert (glyph.lift(page) < 128).sum() > 300


def test_strokes_at_the_border_of_a_crop_are_no_shadow():
    crop = RNG.integers(218, 223, (120, 90)).astype(np.uint8)
    crop[:, :12] = 60
    assert (glyph.lift(crop)[:, :9] < 60).all()
    page = RNG.integers(218, 223, (320, 240)).astype(np.uint8)
    page[:, :30] = 160  # of a page it is one
    page[100:108, 100:180] = 60
    assert (glyph.lift(page)[:, :25] == 255).all()


@pytest.mark.parametrize("ramp", [0, 60, -60])
@pytest.mark.parametrize("ink", [-50, 50])
def test_polarity_is_told_in_slanting_light(ramp, ink):
    y, x = np.mgrid[0:150, 0:120] / 150
    for light in (ramp * x, ramp * y, ramp * (x + y) / 2):
        page = 128 + light + RNG.normal(0, 1, light.shape)
        page[60:64, 30:90] += ink
        lifted = glyph.lift(page.astype(np.uint8))
        assert lifted[61:63, 35:85].max() < 60 and (lifted[:50] > 200).all()
