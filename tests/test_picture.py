"""Preprocessing: the same glyph from every kind of picture of the same character."""

import io
import os
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
import torch
from conftest import bitmap
from hypothesis import given, settings
from hypothesis import strategies as st

from config import Config
from model import to_input
from picture import decode_picture, find_proposals, read_picture, to_glyph, to_grey
from training.augment import Augmentation, augment

INK = bitmap("永", 7)
OFF = Augmentation(*[0.0] * len(Augmentation._fields))


def like(a: np.ndarray, b: np.ndarray) -> float:
    """Return the correlation of two glyphs."""
    return float(np.corrcoef(a.ravel().astype(float), b.ravel().astype(float))[0, 1])


def on_page(side: int, ink: np.ndarray = INK, paper: int = 255) -> np.ndarray:
    page = np.full((side, side), paper, np.uint8)
    y, x = side // 5, side // 2
    page[y : y + ink.shape[0], x : x + ink.shape[1]] = ink
    return page


def test_clean_scan_passes_unchanged():
    found = find_proposals(INK)
    assert len(found.glyphs) == 1 and np.array_equal(found.inks[0], 255 - INK)


def test_dense_writing_in_a_tight_box_is_clean_too():
    dense = cv2.erode(bitmap("圆", 1), np.ones((4, 4)))
    assert 0.15 < (dense == 255).mean() < 0.2  # once taken for dark paper, or for a blank picture
    assert np.array_equal(find_proposals(dense).inks[0], 255 - dense)


def test_glyph_is_centred_levelled_and_keeps_its_shape():
    wide = np.full((20, 90), 255, np.uint8)
    wide[8:12, 5:85] = 100
    glyph = to_glyph(wide, 64)
    rows, columns = np.flatnonzero(glyph.any(1)), np.flatnonzero(glyph.any(0))
    assert glyph.shape == (64, 64) and glyph.dtype == np.uint8
    assert (columns[0], columns[-1]) == (2, 61) and len(rows) in (3, 4)
    assert abs(rows.mean() - 31.5) <= 0.5
    assert glyph.max() == 255
    assert to_glyph(wide, 96, margin=0).any(0).sum() == 96


def pictures() -> dict[str, np.ndarray]:
    """The character INK in the ways in which users hand it in."""
    h, w = INK.shape
    rng = np.random.default_rng(0)
    light = np.linspace(120, 230, w)[None] * np.linspace(1, 0.75, h)[:, None]
    photo = light * (1 - 0.8 * (255 - INK) / 255) + rng.normal(0, 3, INK.shape)
    grey_page = (on_page(400).astype(float) * 0.75 + 20).astype(np.uint8)
    rgba = np.zeros((h, w, 4), np.uint8)
    rgba[..., 3] = 255 - INK
    white_ink = rgba.copy()
    white_ink[..., :3] = 255
    blue = np.stack([np.full_like(INK, 255), INK, INK], -1)
    big = cv2.resize(on_page(300), None, fx=6, fy=6, interpolation=cv2.INTER_CUBIC)
    jpeg = cv2.imdecode(cv2.imencode(".jpg", on_page(200), [1, 60])[1], cv2.IMREAD_UNCHANGED)
    specks = grey_page.copy()
    specks[rng.integers(0, 400, 40), rng.integers(0, 400, 40)] = 60
    return {
        "inverted": 255 - INK,
        "inverted page": 255 - on_page(300),
        "faint on grey": (200 - (255 - INK) * 0.2).astype(np.uint8),
        "photo": photo.clip(0, 255).astype(np.uint8),
        "grey page": grey_page,
        "small on a large page": on_page(3000),
        "small on a large grey page": on_page(2000, (INK * 0.8).astype(np.uint8), 204),
        "transparent": rgba,
        "white ink, transparent": white_ink,
        "16 bit": INK.astype(np.uint16) * 257,
        "float": INK / 255,
        "blue ink": blue,
        "one channel more": INK[..., None],
        "large": big,
        "jpeg": jpeg,
        "specks": specks,
    }


@pytest.mark.parametrize("kind", sorted(pictures()))
def test_same_glyph_from_every_kind_of_picture(kind):
    assert (
        like(to_glyph(pictures()[kind]), to_glyph(INK)) > 0.85
    )  # a pixel's shift of the crop costs 0.1


@pytest.mark.parametrize(
    "blank",
    [np.full((80, 80), 255, np.uint8), np.zeros((80, 80), np.uint8), np.full((9, 9, 3), 90, "u1")],
)
def test_blank_is_an_error(blank):
    with pytest.raises(ValueError, match="blank"):
        to_glyph(blank)


def test_noise_alone_is_blank():
    noise = np.random.default_rng(1).normal(200, 4, (120, 120)).clip(0, 255).astype(np.uint8)
    with pytest.raises(ValueError, match="blank"):
        to_glyph(noise)


@pytest.mark.parametrize(("shape", "kind"), [((4, 4, 5), "u1"), ((0, 4), "u1"), ((4, 4), "i8")])
def test_not_a_picture(shape, kind):
    bad = np.zeros(shape, kind)
    with pytest.raises(ValueError, match="expected"):
        to_glyph(bad)


def test_files(tmp_path):
    path = tmp_path / "手寫" / ("很长的名字" * 12 + ".png")
    path.parent.mkdir()
    cv2.imencode(".png", INK)[1].tofile(path)
    assert np.array_equal(read_picture(path), INK)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_picture(tmp_path / "none.png")
    for name, data in (
        ("empty.png", b""),
        ("text.png", b"hello"),
        ("cut.png", b"\x89PNG\r\n\x1a\n"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=name):
            read_picture(tmp_path / name)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_photos_are_turned_upright(kind):
    pillow = pytest.importorskip("PIL.Image")
    page = on_page(200)
    turned = {1: page, 2: page[:, ::-1], 3: page[::-1, ::-1], 4: page[::-1], 5: page.T}
    turned |= {6: np.rot90(page), 7: page[::-1, ::-1].T, 8: np.rot90(page, -1)}
    for orientation, held in turned.items():
        stream = io.BytesIO()
        exif = pillow.Exif()
        exif[0x0112] = orientation
        pillow.fromarray(np.ascontiguousarray(held)).save(stream, kind, exif=exif, quality=95)
        assert like(to_glyph(decode_picture(stream.getvalue())), to_glyph(INK)) > 0.85, orientation


def png(
    width: int, height: int, bits: int = 8, colour: int = 0, body: bytes = b"\0" * 999
) -> bytes:
    """Return a PNG file whose header promises what need not be there."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(body)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def tiff(*tags: tuple[int, int]) -> bytes:
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(500_000)


SCANS = bytes(3) + 100 * b"\xff\xda\0\x08\1\1\0\1\x3f\0" + bytes(10_000)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (png(60000, 60000), "million pixels"),
        (png(8191, 8191, 16, 6), "256 MB"),
        (png(8000, 8000), "cannot be in"),
        (b"BM" + struct.pack("<IHHIIii", 0, 0, 0, 0, 40, 30000, -30000), "million pixels"),
        (b"BM" + struct.pack("<IHHIIii", 0, 0, 0, 0, 268, 30000, 30000), "million pixels"),
        (b"P5 -30000 30000 255\n", "expected PNG"),
        (tiff((256, 30000), (257, 30000), (256, 9), (257, 9)), "expected PNG"),
        (b"\xff\xd8\xff\xc2" + struct.pack(">HBHHB", 11, 8, 4000, 4000, 1) + SCANS, "many scans"),
        (b"P5 99999 99999 255\n", "million pixels"),
        (b"GIF89a" + struct.pack("<HH", 65535, 65535), "million pixels"),
        (b"RIFF\0\0\0\0WEBPVP8X" + bytes(8) + b"\xff\xff\x3f" * 2, "million pixels"),
        (png(80, 60)[:60], "not a picture"),
    ],
)
def test_bombs_are_refused_before_they_are_decoded(data, said, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=said):
        decode_picture(data, "bomb")


def test_a_chunk_that_promises_too_much_takes_no_memory():
    data = bytearray(cv2.imencode(".png", INK)[1].tobytes())
    data[33:37] = b"\x7f\xff\xff\xff"  # the length of the first chunk after the header
    with pytest.raises(ValueError, match="not a picture"):
        decode_picture(bytes(data))


def test_pipes_are_refused_at_once(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes with names here")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="regular file"):
        read_picture(tmp_path / "pipe.png")


@pytest.mark.parametrize("top", [1, 255, 65535])
def test_floats_in_any_usual_range(top):
    picture = (INK / 255 * top).astype(np.float32)
    picture[0, 0] = np.nan
    assert np.abs(to_grey(picture)[1:].astype(int) - INK[1:]).max() <= 1
    stored = decode_picture(cv2.imencode(".tif", picture)[1])
    assert like(to_glyph(stored), to_glyph(INK)) > 0.85


def test_transparency_of_large_pictures_takes_little_memory():
    rgba = np.full((3000, 2000, 4), 200, np.uint8)
    rgba[1000:2000, 900:1100, :3] = 30
    small = to_grey(rgba[900:1100, 800:1000])
    tracemalloc.start()
    large = to_grey(rgba)
    assert tracemalloc.get_traced_memory()[1] < 8 * large.size
    tracemalloc.stop()
    np.testing.assert_array_equal(large[900:1100, 800:1000], small)


@pytest.mark.parametrize("dark", [True, False])
def test_a_transparent_margin_around_a_sheet_is_paper(dark):
    sheet = INK if dark else 255 - INK
    rgba = np.zeros((INK.shape[0] + 30, INK.shape[1] + 30, 4), np.uint8)
    rgba[15:-15, 15:-15] = np.dstack([sheet, sheet, sheet, np.full_like(sheet, 255)])
    assert like(to_glyph(rgba), to_glyph(INK)) > 0.85


FILES = [cv2.imencode(kind, INK)[1].tobytes() for kind in (".png", ".jpg", ".bmp", ".tif", ".pgm")]
CHANGES = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(FILES), CHANGES, st.booleans(), st.floats(0, 1))
def test_damaged_pictures_are_read_or_refused_in_a_sentence(data, changes, early, cut):
    """Nothing but ValueError, whatever is damaged; most of it in the header."""
    damaged = bytearray(data)
    for place, value in changes:
        damaged[int(place * (min(64, len(data)) - 1 if early else len(data) - 1))] = value
    if cut < 0.3:
        damaged = damaged[: int(cut * len(data))]
    try:
        glyph = to_glyph(decode_picture(bytes(damaged)))
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert glyph.shape == (64, 64)


def batch() -> torch.Tensor:
    return to_input(np.stack([to_glyph(bitmap(c, 3)) for c in "永国我是的一"] * 8))


def test_augmentation_off_is_identity():
    x = batch()
    y = augment(x.clone(), OFF, torch.Generator().manual_seed(0))
    torch.testing.assert_close(y, x, atol=1e-4, rtol=0)


@pytest.mark.parametrize("part", Augmentation._fields)
def test_each_part_of_the_augmentation_acts_alone_and_repeatably(part):
    strength = OFF._replace(**{part: getattr(Config(), part) or 0.3})
    x = batch()
    one = augment(x.clone(), strength, torch.Generator().manual_seed(5))
    two = augment(x.clone(), strength, torch.Generator().manual_seed(5))
    other = augment(x.clone(), strength, torch.Generator().manual_seed(6))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert one.shape == x.shape and one.min() >= 0 and one.max() <= 1 + 1e-5
    changed = (one - x).abs().amax((1, 2, 3)) > 0.05
    assert changed.float().mean() > (0.02 if part == "erase" else 0.1)


def test_shift_moves_by_the_stated_share():
    x = torch.zeros(64, 1, 64, 64)
    x[:, :, 28:36, 28:36] = 1
    y = augment(x.clone(), OFF._replace(shift=0.1), torch.Generator().manual_seed(0))
    weight = y.sum((1, 2, 3))
    centre = (y.sum((1, 2)) * torch.arange(64)).sum(1) / weight
    assert (centre - 31.5).abs().max() < 6.5 and (centre - 31.5).abs().max() > 4


def test_a_level_stroke_in_a_tight_box_keeps_its_polarity():
    """Nearly all of such a scan is ink, which must not be taken for grey paper."""
    rng = np.random.default_rng(0)
    scan = np.full((9, 60), 255, np.uint8)
    scan[1:8] = rng.integers(60, 160, (7, 60))
    scan[0, 5:50] = scan[8, 10:55] = 200
    page = cv2.copyMakeBorder(scan, 40, 40, 40, 40, cv2.BORDER_CONSTANT, value=255)
    assert (scan == 255).mean() < 0.1
    for strip, whole in ((scan, page), (scan.T, page.T)):
        assert np.array_equal(to_glyph(strip, 64), to_glyph(whole, 64))
    light = np.zeros((24, 70), np.uint8)
    light[10:14, 5:65] = 255
    glyph = to_glyph(light, 64)  # on black, a light stroke is still the ink
    assert glyph[31:33, 4:60].min() > 200 and glyph[:24].max() == 0
