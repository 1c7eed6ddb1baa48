"""The .gnt record: round trip, every kind of damage, names, selections, random corruption."""

import io
import struct
import time

import numpy as np
import pytest

from hwdb.characters import LEVEL1, SYMBOLS, character_of, folder_name, select_classes
from hwdb.record import CHUNK, Damage, Record, decode_tag, encode_tag, read_gnt, write_record
from hwdb.sets import origin, writer_of

TEXT = "啊阿埃挨哎唉哀皑癌蔼"


def bitmap_of(i: int) -> np.ndarray:
    """Return a bitmap like a scan: paper with a grey stroke, its size depending on i."""
    bitmap = np.full((30 + i, 40 - i), 255, np.uint8)
    bitmap[5 : 10 + i, 3:9] = np.arange(6, dtype=np.uint8) * 20
    return bitmap


def gnt_bytes(text: str = TEXT) -> bytes:
    stream = io.BytesIO()
    for i, character in enumerate(text):
        write_record(stream, character, bitmap_of(i))
    return stream.getvalue()


def offsets(data: bytes) -> list[int]:
    found, at = [], 0
    while at < len(data):
        found.append(at)
        at += struct.unpack_from("<I", data, at)[0]
    return found


def read(data: bytes) -> tuple[str, list[Damage]]:
    """Return (characters read, damage), having checked each bitmap against what was written."""
    items = list(read_gnt(io.BytesIO(data), "x.gnt"))
    samples = [item for item in items if isinstance(item, Record)]
    for sample in samples:
        np.testing.assert_array_equal(sample.bitmap, bitmap_of(TEXT.index(sample.character)))
    damage = [item for item in items if isinstance(item, Damage)]
    assert {item.source for item in damage} <= {"x.gnt"}
    return "".join(sample.character for sample in samples), damage


def test_round_trip_and_layout():
    data = gnt_bytes()
    assert data[:10] == struct.pack("<I2sHH", 10 + 30 * 40, b"\xb0\xa1", 40, 30)
    assert read(data) == (TEXT, [])
    assert [s.offset for s in read_gnt(io.BytesIO(data), "x")] == offsets(data)


def test_symbols_and_ascii_tags():
    assert len(LEVEL1) == 3755 and LEVEL1[0] == "啊" and LEVEL1[-1] == "座"
    assert len(set(SYMBOLS)) == 171 and not set(SYMBOLS) & set(LEVEL1)
    assert sorted(SYMBOLS, key=encode_tag) == list(SYMBOLS)
    assert encode_tag("A") == b"A\0" and decode_tag(b"A\0") == "A"
    assert encode_tag("Ａ") == b"\xa3\xc1" and decode_tag(b"\xa3\xc1") == "Ａ"
    assert decode_tag(b"\xa1\xa4") == "·" and decode_tag(b"\xa1\xaa") == "—"
    assert all(decode_tag(encode_tag(c)) == c for c in LEVEL1 + SYMBOLS)
    for tag in (b"\0\0", b"\xff\xff", b"AB", b"\x07\0", b"\xa1\xa1", b"\xaa\xa1"):
        assert decode_tag(tag) is None
    with pytest.raises(ValueError, match="two-byte"):
        encode_tag("😀")


@pytest.mark.parametrize(("at", "value"), [(0, 7), (6, 7), (6, 0)])
def test_a_damaged_header_loses_one_record(at, value):
    data, begins = bytearray(gnt_bytes()), offsets(gnt_bytes())
    struct.pack_into("<H", data, begins[3] + at, value)
    text, (damage,) = read(bytes(data))
    assert text == TEXT[:3] + TEXT[4:] and damage.offset == begins[3]
    assert damage.reason == f"{begins[4] - begins[3]} bytes are not a whole record"
    text, (damage,) = read(bytes(data[: begins[3] + 200]))
    assert text == TEXT[:3] and damage.reason == "200 bytes are not a whole record"


@pytest.mark.parametrize("end", [7, 10, 110])
def test_a_cut_off_file_keeps_the_records_before(end):
    begin = offsets(gnt_bytes())[2]
    text, (damage,) = read(gnt_bytes()[: begin + end])
    assert text == TEXT[:2] and damage.offset == begin and damage.reason.startswith(f"{end} bytes")


def test_missing_and_surplus_bytes():
    data, at = gnt_bytes(), offsets(gnt_bytes())
    text, damage = read(data[: at[4] + 500] + data[at[4] + 600 :])  # inside a bitmap
    assert text == TEXT[:4] + TEXT[5:] and [d.offset for d in damage] == [at[4]]
    text, damage = read(data + bytes(100))
    assert text == TEXT and [d.offset for d in damage] == [len(data)]
    text, damage = read(data[:4] + b"\xff\xfe" + data[6:])
    assert text == TEXT[1:] and damage == [Damage("x.gnt", 0, "tag ff fe is no character")]


@pytest.mark.parametrize("data", [b"", bytes(100_000), b"\xff" * 3_000_000, b"PK\3\4 not .gnt"])
def test_nothing_readable(data):
    text, (damage,) = read(data)
    assert not text and damage.offset == 0


def test_nothing_is_read_behind_an_error_of_the_stream(monkeypatch):
    class FailsOnce(io.BytesIO):
        def read(self, count=-1):
            if self.tell() and not failed:
                failed.append(self.tell())
                raise OSError("unreadable sector")
            return super().read(100)

    failed = []
    items = list(read_gnt(FailsOnce(gnt_bytes()), "x.gnt"))
    assert items[-1] == Damage("x.gnt", failed[0], "unreadable sector")
    assert not any(isinstance(item, Record) for item in items)


def test_time_is_linear_in_the_file_whatever_the_damage():
    small = struct.pack("<I2sHH", 11, encode_tag("啊"), 1, 1)
    large = struct.pack("<I2sHH", 10 + (1 << 24), encode_tag("啊"), 4096, 4096)
    for data, damages in (
        ((small + b"\0" + small) * 8000, 8000),  # every other record lacks its pixel
        (large * 2000 + b"\xff" * (1 << 24), 1),  # headers that each claim the next 16 MB
        (bytes(30_000_000), 1),  # a kilobyte of .zip unpacks to a megabyte of zeros
    ):
        begin = time.process_time()
        items = list(read_gnt(io.BytesIO(data), "x.gnt"))
        assert time.process_time() - begin < 10  # looking at every byte again takes a minute
        assert sum(isinstance(item, Damage) for item in items) == damages


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("1001-c.gnt", ("HWDB1.1", "1001", "train")), ("1240-f.gnt", ("HWDB1.1", "1240", "train")),
        ("1241-c.gnt", ("HWDB1.1", "1241", "test")), ("a/1300.gnt", ("HWDB1.1", "1300", "test")),
        ("C001-f-f.gnt", ("competition", "C001", "test")),
        ("c060.gnt", ("competition", "C060", "test")), ("C061.gnt", ("other", "C061", None)),
        ("Gnt1.0Test.zip/006-t.gnt", ("HWDB1.0", "006", "test")),
        ("HWDB1.0trn_gnt.zip/x.alz/001-f.gnt", ("HWDB1.0", "001", "train")),
        (r"Gnt1.2TrainPart1\501-f.gnt", ("HWDB1.2", "501", "train")),
        ("10001-c.gnt", ("synthetic", "10001", "train")),
        ("29999-c.gnt", ("synthetic", "29999", "test")), ("20000.gnt", ("other", "20000", None)),
        ("006-t.gnt", ("other", "006", None)), ("9001-c.gnt", ("other", "9001", None)),
        ("1301.gnt", ("other", "1301", None)), ("Gnt1.0Test/421.gnt", ("other", "421", None)),
        ("my.gnt", ("other", None, None)), ("12.gnt", ("other", None, None)),
        ("c60-f.gnt", ("other", None, None)),
        ("HWDB1.2tst_gnt/501.gnt", ("HWDB1.2", "501", "test")),
        ("HWDB1.2_train/800-f.gnt", ("HWDB1.2", "800", "train")),
        ("Gnt1.0TrainPart1/Gnt1.0Test/001.gnt", ("HWDB1.0", "001", "test")),
        ("x1001.gnt", ("other", None, None)),
        ("1" * 18 + ".gnt", ("other", "1" * 18, None)), ("1" * 19 + ".gnt", ("other", None, None)),
    ],
)  # fmt: skip
def test_official_numbers(name, where):
    assert origin(name) == where


@pytest.mark.parametrize(
    ("name", "writer"),
    [
        ("1001-c.gnt", "1001"), ("1001-s.gnt", "1001"), ("a.zip/x/1001-f.GNT", "1001"),
        ("C001-f-f.gnt", "C001"), ("c001.gnt", "C001"), ("10001-c.gnt", "10001"),
        ("my_file 字.gnt", "my-file-字"), ("12.gnt", "12"), ("1-2.gnt", "1-2"), ("__.gnt", "--"),
        ("1001_00017.png", "1001"), ("1001+2_00017.png", "1001"), ("1001-2_00004.png", "1001"),
        ("C001_3.png", "C001"), ("12_00001.png", "12"), ("1-2_00001.png", "1-2"),
        ("my-file-字+3_123456.png", "my-file-字"), ("anna_00000.png", "anna"),
        ("anna.png", ""), ("anna_1.png", ""), ("17.png", ""),
    ],
)  # fmt: skip
def test_one_identity_in_gnt_files_and_trees(name, writer):
    assert writer_of(name) == writer


def test_classes_by_number_and_file(tmp_path):
    assert select_classes("1") == "啊" and select_classes("3755") == LEVEL1
    for spec in ("3756", "00"):
        with pytest.raises(ValueError, match=f"--which {spec}: a number is from 1 to 3755"):
            select_classes(spec, "--which")
    assert set(select_classes("digits")) == set("0123456789")
    assert len(select_classes("letters")) == 52 and len(select_classes("punctuation")) == 109
    path = tmp_path / "c.txt"
    for text in ("12\t啊\n\n13, A", "啊\tA啊\n"):
        path.write_text(text, encoding="utf-8")
        assert select_classes(str(path)) == "啊A"
    for data, said in (
        (b" \n", ": holds no characters"), (b"\xb0\xa1", ": not a UTF-8 text"),
        (b"1\ta\n\n2\tb\nx", ", line 4: 'x'; expected an index and a character"),
    ):  # fmt: skip
        path.write_bytes(data)
        with pytest.raises(ValueError, match=f"c.txt{said}"):
            select_classes(str(path))
    with pytest.raises(ValueError, match="--classes .*: expected level1, symbols"):
        select_classes(str(tmp_path))


@pytest.mark.parametrize(
    ("folder", "character"),
    [("U+0041", "A"), ("U+10FFFF", "\U0010ffff"), ("U+041", "U+041"), ("U+0000041", "U+0000041"),
     ("U+0041x", "U+0041x"), ("xU+0041", "xU+0041"), ("u+0041", "A"), ("", "")],
)  # fmt: skip
def test_folders_of_code_points(folder, character):
    assert character_of(folder) == character
    assert folder_name("\x41") == "U+0041" and folder_name("\U0010ffff") == "U+10FFFF"


def test_tags_are_one_or_two_bytes():
    for wrong in ("", "ab", "啊啊", "\u0100", "🄀"):  # the last ones have codes of four bytes
        with pytest.raises(ValueError, match="no two-byte GB code"):
            encode_tag(wrong)
    assert decode_tag(b"\0A") == "A" and decode_tag(b" \0") is None and decode_tag(b"A ") is None


def test_bitmaps_at_the_limits():
    stream = io.BytesIO()
    write_record(stream, "啊", np.zeros((256, 65535), np.uint8))
    write_record(stream, "啊", np.zeros((65535, 1), np.uint8))
    write_record(stream, "啊", np.zeros((4096, 4096), np.uint8))
    stream.seek(0)
    samples = list(read_gnt(stream, "x"))
    assert [s.bitmap.shape for s in samples] == [(256, 65535), (65535, 1), (4096, 4096)]
    wrong = [np.zeros(shape, np.uint8) for shape in ((65536, 1), (1, 65536), (4096, 4097), (0, 5))]
    for bitmap in [*wrong, np.zeros((5, 5)), np.zeros((5, 5, 1), np.uint8)]:
        with pytest.raises(ValueError, match=r"a bitmap is \(h, w\) uint8"):
            write_record(io.BytesIO(), "啊", bitmap)


def test_a_whole_record_is_not_taken_apart_for_what_its_pixels_look_like():
    inner = struct.pack("<I2sHH", 10 + 20 * 20, b"\xb0\xa1", 20, 20) + bytes(400)
    pixels = np.frombuffer(b"\xff" * 190 + inner, np.uint8).reshape(20, 30)
    stream = io.BytesIO()
    write_record(stream, "啊", pixels)
    whole = stream.getvalue()
    for data in (whole, whole + whole):  # the record within ends where a record ends, or the file
        items = list(read_gnt(io.BytesIO(data), "x"))
        assert [item.character for item in items] == ["啊"] * (len(data) // len(whole))


@pytest.mark.parametrize("junk", [1, 9, 10, 5000, *range(1012, 1026), CHUNK])
def test_reading_goes_on_after_junk_of_any_length(junk):
    """Also where the next record begins at the edge of a block."""
    data = gnt_bytes()
    at = offsets(data)[3]
    text, damage = read(data[:at] + b"\xff" * junk + data[at:])
    assert text == TEXT and [d.offset for d in damage] == [at]
    assert damage[0].reason == f"{junk} bytes are not a whole record"
