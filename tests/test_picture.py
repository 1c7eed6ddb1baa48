"""Preprocessing: the same glyph from every kind of picture of the same character."""

import io
import os
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from conftest import bitmap
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from picture import decode_picture, find_proposals, read_picture, to_glyph, to_grey

INK = bitmap("永", 7)


def like(a: np.ndarray, b: np.ndarray) -> float:
    """Return the correlation of two glyphs."""
    return float(np.corrcoef(a.ravel().astype(float), b.ravel().astype(float))[0, 1])


def on_page(side: int, ink: np.ndarray = INK, paper: int = 255) -> np.ndarray:
    page = np.full((side, side), paper, np.uint8)
    y, x = side // 5, side // 2
    page[y : y + ink.shape[0], x : x + ink.shape[1]] = ink
    return page


def test_clean_scans_pass_unchanged_dense_ones_too():
    dense = cv2.erode(bitmap("圆", 9), np.ones((4, 4)))
    assert 0.15 < (dense == 255).mean() < 0.2  # once taken for dark paper, or for a blank picture
    for clean in (dense, INK):
        assert np.array_equal(find_proposals(clean).inks[0], 255 - clean)


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
    return {
        "inverted": 255 - INK,
        "inverted page": 255 - on_page(300),
        "faint on grey": (200 - (255 - INK) * 0.2).astype(np.uint8),
        "photo": photo.clip(0, 255).astype(np.uint8),
        "grey page": grey_page,
        "small on a large page": on_page(3000),
        "small on a large grey page": on_page(2000, (INK * 0.8).astype(np.uint8), 204),
        "grey and opacity": rgba[..., [0, 3]],
        "keyed out of white": np.dstack([INK, INK, INK, np.where(INK < 250, 255, 0).astype("u1")]),
        "dark mode": (31 + (255 - INK) * (224 / 255)).astype(np.uint8),
        "transparent": rgba,
        "white ink, transparent": white_ink,
        "16 bit": INK.astype(np.uint16) * 257,
        "float": INK / 255,
        "blue ink": blue,
        "large": big,
        "jpeg": jpeg,
    }


@pytest.mark.parametrize("kind", sorted(pictures()))
def test_same_glyph_from_every_kind_of_picture(kind):
    found = to_glyph(pictures()[kind])
    assert like(found, to_glyph(INK)) > 0.85  # a pixel's shift of the crop costs 0.1


@pytest.mark.parametrize(
    "blank",
    [np.full((80, 80), 255, np.uint8), np.zeros((80, 80), np.uint8), np.full((9, 9, 3), 90, "u1")],
)
def test_blank_is_an_error(blank):
    with pytest.raises(ValueError, match="blank"):
        to_glyph(blank)


def test_files(tmp_path):
    path = tmp_path / "手寫" / ("很长的名字" * 12 + ".png")
    path.parent.mkdir()
    cv2.imencode(".png", INK)[1].tofile(path)
    assert np.array_equal(read_picture(path), INK)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
    for name in ("none.png", "pipe.png", "手寫"):
        with pytest.raises(FileNotFoundError, match=f"{name}: no such file, or not a regular file"):
            read_picture(tmp_path / name)
    for name, data in (("empty.png", b""), ("text.png", b"text"), ("cut.png", FILES["GIF"][:9])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=name):
            read_picture(tmp_path / name)


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    """Return a picture as a file."""
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_photos_are_turned_upright(kind):
    page = on_page(200)
    turned = {1: page, 2: page[:, ::-1], 3: page[::-1, ::-1], 4: page[::-1], 5: page.T}
    turned |= {6: np.rot90(page), 7: page[::-1, ::-1].T, 8: np.rot90(page, -1)}
    for orientation, held in turned.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = saved(Image.fromarray(np.ascontiguousarray(held)), kind, exif=exif, quality=95)
        assert like(to_glyph(decode_picture(data)), to_glyph(INK)) > 0.85, orientation


def bmp(fourth: int) -> bytes:
    """Return INK as a BMP file of 32 bit, whose fourth byte means nothing."""
    pixels = np.dstack([INK, INK, INK, np.full_like(INK, fourth)])[::-1]
    size = (40, INK.shape[1], INK.shape[0], 1, 32, 0, pixels.size, 0, 0, 0, 0)
    head = struct.pack("<IHHI", 54 + pixels.size, 0, 0, 54) + struct.pack("<IiiHHIIiiII", *size)
    return b"BM" + head + pixels.tobytes()


def pgm(highest: int) -> bytes:
    """Return INK as a PGM file of this many shades."""
    values = np.rint(INK / 255 * highest).astype(">u2")
    return b"P5 %d %d %d\n" % (INK.shape[1], INK.shape[0], highest) + values.tobytes()


GREY = Image.fromarray(INK)
BIG_ENDIAN = Image.frombytes("I;16B", GREY.size, (INK.astype(">u2") * 257).tobytes())
FILES = {
    "BMP, fourth byte 0": bmp(0),
    "BMP, fourth byte 7": bmp(7),
    "PGM, 1023 shades": pgm(1023),
    "PGM, 65535 shades": pgm(65535),
    "BigTIFF": saved(GREY, "TIFF", big_tiff=True),
    "TIFF, 32-bit float": saved(Image.fromarray((INK / 255).astype(np.float32)), "TIFF"),
    "PNG, 16 bit": saved(Image.fromarray(INK.astype(np.uint16) * 257), "PNG"),
    "TIFF, 16 bit, big-endian": saved(BIG_ENDIAN, "TIFF"),
    "PNG, palette": saved(GREY.convert("P"), "PNG"),
    "PNG, grey and opacity": saved(GREY.convert("LA"), "PNG"),
    "GIF": saved(GREY, "GIF"),
    "WebP": saved(GREY.convert("RGB"), "WEBP", lossless=True),
    "JPEG, CMYK": saved(GREY.convert("CMYK"), "JPEG", quality=95),
}


@pytest.mark.parametrize("kind", FILES)
def test_every_format_gives_the_same_picture(kind):
    grey = to_grey(decode_picture(FILES[kind]))
    assert grey.shape == INK.shape and np.abs(grey.astype(int) - INK).max() <= 16


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP"])
def test_further_pages_and_frames_are_a_notice(kind):
    notices, second = [], Image.fromarray(255 - INK)
    data = saved(GREY, kind, save_all=True, append_images=[second], lossless=True)
    first = to_grey(decode_picture(data, "x", notices))
    assert len(notices) == 1 and "more than one page" in notices[0]
    assert np.abs(first.astype(int) - INK).max() <= 16
    notices.clear()
    decode_picture(saved(GREY, kind), "x", notices)
    assert not notices


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


SCANS = bytes(3) + 100 * b"\xff\xda\0\x08\1\1\0\1\x3f\0" + bytes(10_000)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (png(60000, 60000), "million pixels"),
        (png(9000, 9000), "million pixels"),
        (b"BM" + struct.pack("<IHHIIiiHH", 0, 0, 0, 0, 40, 9000, -9000, 1, 24) + bytes(24),
         "million pixels"),
        (b"P5 -30000 30000 255\n", "expected PNG"),
        (b"\xff\xd8\xff\xc2" + struct.pack(">HBHHBBBB", 11, 8, 4000, 4000, 1, 1, 17, 0) + SCANS,
         "99 scans"),
        (b"P5 99999 99999 255\n", "million pixels"),
        (png(80, 60)[:60], "not a picture"),
    ],
)  # fmt: skip
def test_bombs_are_refused_before_they_are_decoded(data, message):
    tracemalloc.start()
    with pytest.raises(ValueError, match=message):
        decode_picture(data, "bomb")
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_transparency_of_large_pictures_takes_little_memory():
    rgba = np.full((3000, 2000, 4), 200, np.uint8)
    rgba[1000:2000, 900:1100, :3] = 30
    small = to_grey(rgba[800:1600, 700:1300])
    tracemalloc.start()
    large = to_grey(rgba)
    assert tracemalloc.get_traced_memory()[1] < 8 * large.size
    tracemalloc.stop()
    np.testing.assert_array_equal(large[800:1600, 700:1300], small)


@pytest.mark.parametrize("dark", [True, False])
def test_a_transparent_margin_around_a_sheet_is_paper(dark):
    sheet = INK if dark else 255 - INK
    rgba = np.zeros((INK.shape[0] + 30, INK.shape[1] + 30, 4), np.uint8)
    rgba[15:-15, 15:-15] = np.dstack([sheet, sheet, sheet, np.full_like(sheet, 255)])
    assert like(to_glyph(rgba), to_glyph(INK)) > 0.85


CHANGES = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(FILES.values())), CHANGES, st.booleans(), st.floats(0, 1))
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
