"""Picture files: what their headers state is bounded exactly, however they are written."""

import io
import struct

import cv2
import numpy as np
import pytest
from conftest import bitmap
from test_picture import png

from picture import decode_picture, files, read_picture

INK = bitmap("永", 7)
W, H = 300, 20


def tiff(order: str, *tags: tuple, more: bytes = b"") -> bytes:
    """Return TIFF or Exif data; tags are (number, type, count, value or its four bytes)."""
    mark = {"<": b"II", ">": b"MM"}[order]
    data = mark + struct.pack(order + "HIH", 42, 8, len(tags))
    for tag, kind, count, value in tags:
        code = {1: "B3x", 3: "H2x"}.get(kind, "I")
        value = value if isinstance(value, bytes) else struct.pack(order + code, value)
        data += struct.pack(order + "HHI", tag, kind, count) + value
    return data + bytes(4) + more


def segment(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, kind, 2 + len(body)) + body


def jpeg(kind: int, *before: bytes) -> bytes:
    """Return a JPEG file up to its frame header, of a kind, behind other segments."""
    frame = segment(kind, struct.pack(">BHHB", 8, H, W, 1) + b"\1\x11\0")
    return b"\xff\xd8" + b"".join(before) + frame + segment(0xDA, bytes(6))


def webp(kind: bytes, body: bytes) -> bytes:
    return b"RIFF" + bytes(4) + b"WEBP" + kind + bytes(4) + body + bytes(20)


SHORTS = struct.pack("<3H", 16, 16, 16)
OTHER = struct.pack(">BHHB", 8, 9999, 9999, 1)  # looks like a frame header
SMALL = struct.pack("<I", (W - 1) | (H - 1) << 14)
# Files whose headers state W x H pixels, and how many bytes a pixel takes at most.
STATED = {
    "grey PNG": (png(W, H), 1),
    "PNG of a bit": (png(W, H, 1), 1),
    "grey PNG, 16 bits": (png(W, H, 16), 2),
    "colour PNG": (png(W, H, 8, 2), 4),
    "palette PNG": (png(W, H, 4, 3), 4),
    "grey PNG with opacity": (png(W, H, 8, 4), 4),
    "colour PNG, 16 bits": (png(W, H, 16, 6), 8),
    "JPEG": (jpeg(0xC0), 3),
    "progressive JPEG": (jpeg(0xC2, segment(0xE0, b"JFIF\0")), 3),
    "JPEG, last kind": (jpeg(0xCF, *(segment(k, OTHER) for k in (0xC4, 0xC8, 0xCC))), 3),
    "JPEG with padding": (jpeg(0xC1, b"\xff" * 3, segment(0xD0, OTHER), b"\xff"), 3),
    "WebP": (webp(b"VP8 ", bytes(6) + struct.pack("<HH", W | 0x4000, H | 0xC000)), 4),
    "WebP, lossless": (webp(b"VP8L", b"\x2f" + SMALL), 4),
    "WebP, extended": (
        webp(b"VP8X", bytes(4) + (W - 1).to_bytes(3, "little") + (H - 1).to_bytes(3, "little")), 4),
    "BMP": (b"BM" + bytes(12) + struct.pack("<Iii", 40, W, H), 4),
    "BMP, mirrored": (b"BM" + bytes(12) + struct.pack("<Iii", 40, -W, -H), 4),
    "old BMP": (b"BM" + bytes(12) + struct.pack("<IHH", 12, W, H) + bytes(9), 4),
    "GIF": (b"GIF89a" + struct.pack("<HH", W, H), 4),
    "old GIF": (b"GIF87a" + struct.pack("<HH", W, H), 4),
    "TIFF of a bit": (tiff("<", (256, 3, 1, W), (257, 4, 1, H)), 1),
    "grey TIFF": (tiff(">", (256, 4, 1, W), (257, 1, 1, H), (258, 3, 1, 8)), 1),
    "TIFF with opacity": (tiff(">", (256, 3, 1, W), (257, 3, 1, H), (258, 3, 2, b"\0\x10\0\x10"),
                               (277, 3, 1, 2)), 4),
    "colour TIFF, 16 bits": (tiff("<", (256, 3, 1, W), (257, 3, 1, H), (258, 3, 3, 62),
                                  (277, 3, 1, 3), more=SHORTS), 6),
    "float TIFF": (tiff("<", (256, 3, 1, W), (257, 3, 1, H), (258, 3, 1, 32)), 4),
    "PBM": (b"P1 # 5 5\n300 20 1 0 1", 1),
    "PGM": (b"P2\n#1\n#2\r300\t20 255 0 0", 2),
    "PPM": (b"P3 300 #20 9\n20 255 0 0", 6),
    "packed PBM": (b"P4\n300 20\n", 1),
    "packed PGM": (b"P5\n300 20\n65535\n", 2),
    "packed PPM": (b"P6\n300 20\n255\n", 6),
}  # fmt: skip


@pytest.fixture
def reached(monkeypatch):
    """Have files that are let through decoded to a mark."""
    monkeypatch.setattr(files, "PIXELS_A_BYTE", 1 << 30)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: np.full((1, 1), 7, np.uint8))
    return lambda data: decode_picture(data).tolist() == [[7]]


@pytest.mark.parametrize("kind", STATED)
def test_pixels_and_bytes_are_bounded_exactly(kind, reached, monkeypatch):
    data, each = STATED[kind]
    for name, most in (("MAX_PIXELS", W * H), ("MAX_BYTES", W * H * each)):
        with monkeypatch.context() as patch:
            patch.setattr(files, name, most)
            assert reached(data)
            patch.setattr(files, name, most - 1)
            with pytest.raises(ValueError, match=f"{W} x {H} pixels, more than"):
                decode_picture(data)


@pytest.mark.parametrize(
    "data",
    [
        png(0, H), png(W, 0), png(W, H)[:12] + b"JHDR" + png(W, H)[16:], b"GIF88a" + bytes(9),
        b"P7\n300 20\n", b"P5300 20", b"P0 300 20", b"Q5 300 20", b"BX" + bytes(30), jpeg(0xC4),
        jpeg(0xBF), b"\xff\xd8" + segment(0xDA, b"") + jpeg(0xC0)[2:], jpeg(0xC0, b"\0"),
        webp(b"", b"")[:30], b"RIFF" + bytes(4) + b"WAVE" + bytes(30), tiff("<", (256, 3, 1, W)),
        tiff("<", (257, 3, 1, W)), tiff("<", (256, 5, 1, 8), (257, 3, 1, H)),
        b"II+\0" + tiff("<", (256, 3, 1, W))[4:],
        tiff("<", (256, 3, 1, W), (257, 3, 1, H), (257, 3, 1, H)),
    ],
)  # fmt: skip
def test_what_states_no_size_is_no_picture(data, reached):
    with pytest.raises(ValueError, match="not a picture"):
        decode_picture(data, "name")


def test_pixels_that_a_byte_can_hold(monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: np.zeros((1, 1), np.uint8))
    most = len(png(2048, 1)) + 64
    assert decode_picture(png(2048, most)).shape == (1, 1)
    with pytest.raises(ValueError, match=f"2048 x {most + 1} pixels cannot be in"):
        decode_picture(png(2048, most + 1))


def test_scans_of_a_jpeg_are_bounded(reached, monkeypatch):
    scans = b"\xff\xda" * 9
    many = jpeg(0xC2) + scans
    jpegs = many, tiff("<", (256, 3, 1, W), (257, 3, 1, H)) + scans + b"\xff\xda"
    jpegs += (tiff(">", (256, 3, 1, W), (257, 3, 1, H)) + scans + b"\xff\xda",)
    for data in jpegs:
        monkeypatch.setattr(files, "MAX_SCANNED", 10 * W * H)
        assert reached(data)
        monkeypatch.setattr(files, "MAX_SCANNED", 10 * W * H - 1)
        with pytest.raises(ValueError, match=f"{W} x {H} pixels in too many scans"):
            decode_picture(data)
        # A long file may have more.
        assert reached(data.ljust(10 << 14, b"\0"))
        with pytest.raises(ValueError, match="too many"):
            decode_picture(data.ljust((10 << 14) - 1, b"\0"))
    assert reached(png(W, H, body=scans * 2))  # elsewhere the bytes say nothing


def test_files_are_bounded(tmp_path, monkeypatch):
    data = cv2.imencode(".png", np.full((1, 1), 9, np.uint8))[1].tobytes()
    (tmp_path / "a.png").write_bytes(data)
    monkeypatch.setattr(files, "MAX_BYTES", len(data))
    assert read_picture(str(tmp_path / "a.png")).tolist() == [[9]]
    monkeypatch.setattr(files, "MAX_BYTES", len(data) - 1)
    with pytest.raises(ValueError, match="a.png: larger than 0 MB"):
        read_picture(tmp_path / "a.png")
    with pytest.raises(ValueError, match="not a regular file"):
        read_picture(tmp_path)


def test_only_what_is_needed_of_a_png_is_decoded(monkeypatch):
    pillow = pytest.importorskip("PIL.Image")
    picture = pillow.fromarray(INK).quantize(4)
    stream = io.BytesIO()
    picture.save(stream, "PNG", transparency=0, dpi=(300, 300))
    data = stream.getvalue()
    decoded = decode_picture(data)
    assert decoded.shape == (*INK.shape, 4)  # palette and opacity are there
    assert np.array_equal(decoded[..., 3] == 0, np.asarray(picture) == 0)
    given, decode = [], cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda d, way: given.append(bytes(d)) or decode(d, way))
    assert np.array_equal(decode_picture(data + b"more"), decoded)
    assert b"pHYs" in data and given == [data[: data.index(b"pHYs") - 4]
                                         + data[data.index(b"pHYs") + 17 :]]  # fmt: skip


PICTURE = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
TURNED = {  # how a camera held it -> as it is seen
    1: PICTURE, 2: PICTURE[:, ::-1], 3: PICTURE[::-1, ::-1], 4: PICTURE[::-1], 5: PICTURE.T,
    6: np.rot90(PICTURE, -1), 7: PICTURE[::-1, ::-1].T, 8: np.rot90(PICTURE),
    0: PICTURE, 9: PICTURE,
}  # fmt: skip


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + bytes(4)


def held(file: str, exif: bytes) -> bytes:
    """Return PICTURE in a file of a kind with Exif data."""
    if file == "PNG":
        data = cv2.imencode(".png", PICTURE)[1].tobytes()
        return data[:33] + chunk(b"tEXt", b"a\0b") + chunk(b"eXIf", exif) + data[33:]
    if file == "JPEG":
        data = cv2.imencode(".jpg", PICTURE, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
        note = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0")
        return data[:2] + note + segment(0xE1, b"Exif\0\0" + exif) + data[2:]
    data = cv2.imencode(".webp", PICTURE, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    body = b"Exif\0\0" + exif if file == "WebP, as some write it" else exif
    odd = b"XXXX" + struct.pack("<I", 3) + bytes(4)
    return data + odd + b"EXIF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("file", ["PNG", "JPEG", "WebP", "WebP, as some write it"])
@pytest.mark.parametrize("order", "<>")
def test_a_picture_is_turned_as_the_camera_was_held(file, order):
    plain = tiff(order, (271, 2, 1, 0)), b"??" + tiff(order, (274, 3, 1, 6))[2:], b"II*", b""
    cases = [(exif, PICTURE) for exif in plain]
    for number, seen in TURNED.items():
        cases.append((tiff(order, (256, 4, 1, 5), (274, 3, 1, number)), seen))
    for exif, seen in cases:
        found = decode_picture(held(file, exif))
        assert found.shape[:2] == seen.shape and found.flags.c_contiguous
        found = found.reshape(*seen.shape, -1)[..., 0].astype(int)
        assert np.abs(found - seen).max() <= 9
