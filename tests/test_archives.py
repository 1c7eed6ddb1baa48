"""Archives: every member is read or named, sizes are not believed, names do no harm."""

import io
import os
import random
import shutil
import struct
import subprocess
import tempfile
import time
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwdb import archives
from hwdb.archives import GntFile, _Chunks, _exactly, _join, find_files, is_whole_zip, open_files
from hwdb.record import Damage
from tests.alz_writer import BZIP2, DEFLATE, STORE, alz, volumes, zipped
from tests.fuzz import check_archive, check_gnt, gnt_records, make_alz, make_zip

DATA = {f"{number}.gnt": f"content of {number}".encode() * 50 for number in range(1001, 1006)}
# At: anywhere in a small file, or near its end; how many bytes go; what comes.
CHANGES = st.lists(
    st.tuples(st.integers(0, 4000), st.integers(0, 40), st.binary(max_size=40)), max_size=3
)


def read(*files: Path) -> tuple[dict[str, bytes], list[str]]:
    """Return what is delivered whole, by name, and all that is said of the rest."""
    delivered, said = {}, []
    for item in open_files(files):
        if isinstance(item, Damage):
            said.append(f"{item.source}: {item.reason}")
            continue
        try:
            delivered[Path(item.name).name] = item.open().read()
        except OSError as error:
            said.append(f"{item.name}: {error}")
    return delivered, said


def plain_zip(members: dict[str, bytes]) -> bytes:
    """Pack names that zipfile refuses."""
    files = directory = b""
    for name, data in members.items():
        raw = name.encode()
        sizes = struct.pack("<IIIHH", zlib.crc32(data), len(data), len(data), len(raw), 0)
        entry = bytes(12) + sizes + struct.pack("<HHHII", 0, 0, 0, 0, len(files)) + raw
        directory += b"PK\1\2" + entry
        files += b"PK\3\4" + bytes(10) + sizes + raw + data
    counts = struct.pack("<HHIIH", len(members), len(members), len(directory), len(files), 0)
    return files + directory + b"PK\5\6" + bytes(4) + counts


@pytest.fixture
def write(tmp_path):
    def write(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write


def test_a_file_says_where_it_lies_and_how_far_reading_is(write):
    archive = alz(DATA)
    for path in (
        write("a.gnt", DATA["1001.gnt"]),
        write("a.zip", zipped(DATA)),
        write("a.alz", archive),
        write("b.zip", zipped({"a.alz": archive}, zipfile.ZIP_STORED)),
    ):
        positions = []
        for item in open_files([path]):
            content = DATA.get(Path(item.name).name, DATA["1001.gnt"])
            assert item.path == path and item.size == len(content)
            assert item.crc == (None if path.suffix == ".gnt" else zlib.crc32(content))
            assert item.open().read() == content
            positions.append(item.position())
        assert positions == sorted(positions) and 0 < positions[0] <= positions[-1]
        assert positions[-1] <= path.stat().st_size and (
            path.suffix != ".gnt" or positions == [len(content)]
        )


@pytest.mark.parametrize("name", ["一1001.gnt", "é1001.gnt"])
def test_names_of_any_encoding(write, name):
    for path in (write("a.zip", zipped({name: b"x"})), write("a.alz", alz({name: b"x"}))):
        assert read(path) == ({name: b"x"}, [])
    old = plain_zip({name: b"x"})  # does not say that its names are UTF-8: they are CP437
    assert read(write("c.zip", old)) == ({name.encode().decode("cp437"): b"x"}, [])
    for wrong in ("一".encode("cp949", "replace").ljust(3, b"?"), b"\xff\xfe\xff"):
        archive = alz({"---1001.gnt": b"x"} | DATA).replace(b"---", wrong)
        delivered, said = read(write("b.alz", archive))
        assert len(delivered) == 6 and not said


def test_a_stream_s_zip_that_is_cut_off_tells_no_sizes(write):
    class Pipe(io.RawIOBase):
        data = b""

        def write(self, data):
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:
        for name, data in DATA.items():
            archive.writestr(name, data)
    assert read(write("a.zip", pipe.data)) == (DATA, [])
    delivered, said = read(write("a.zip", pipe.data[: pipe.data.index(b"PK\1\2")]))
    assert not delivered and "not a whole .zip" in said[0]


def test_streams_give_as_much_as_is_asked_for():
    parts = [(lambda p=part: io.BytesIO(p), len(part)) for part in volumes(b"abcdefg", 3)]
    with _join(parts) as joined:
        for stream in (joined, _Chunks(iter([b"ab", b"cdef", b"g"]))):
            assert [stream.read(n) for n in (1, 2, 0, 3, 9)] == [b"a", b"bc", b"", b"def", b"g"]
    with _join(parts) as joined:
        assert joined.read(1) == b"a" and joined.find(b"c") and joined.tell() == 2
        assert joined.read(3) == b"cde" and joined.tell() == 5 and not joined.find(b"c")


def test_what_lies_in_the_volumes_behind_a_damaged_one_is_read(write):
    rng = random.Random(0)
    members = {f"{number}.gnt": rng.randbytes(400) for number in range(1001, 1007)}
    parts = volumes(alz(members, STORE), 1000)
    names = ["a.alz", *(f"a.a{number:02d}" for number in range(len(parts) - 1))]
    archive = zipped(dict(zip(names, parts, strict=True)), zipfile.ZIP_STORED)
    header, content = archive.index(b"a.a00") - 28, archive.index(parts[1]) + 500
    for at in (header, content):
        damaged = bytearray(archive)
        damaged[at] ^= 1
        delivered, _ = read(write("a.zip", bytes(damaged)))
        assert delivered["1006.gnt"] == members["1006.gnt"] and delivered != members


@pytest.mark.parametrize("chunk", [4, 5, 7, 64])
def test_a_mark_is_found_wherever_it_lies(monkeypatch, chunk):
    monkeypatch.setattr(archives, "CHUNK", chunk)
    for at in range(12):
        data = b"BLBLZ\2BLZZB"[:at].ljust(at, b"L") + b"BLZ\1 and more behind it"
        with _join([(lambda data=data: io.BytesIO(data), len(data))]) as joined:
            assert _exactly(joined, at // 2) == data[: at // 2] and joined.find(b"BLZ\1")
            assert joined.tell() == at
            assert _exactly(joined, len(data) - at) == data[at:] and joined.tell() == len(data)
            assert not joined.find(b"BLZ\1")


def test_a_member_without_name_is_named_and_the_others_are_read(write):
    delivered, said = read(write("a.zip", plain_zip({"": b"x"} | DATA)))
    assert delivered == DATA and len(said) == 1 and "a file without a name" in said[0]


@pytest.mark.parametrize("inner", ["more.zip", "more.rar", "more.a00", "volumes.a00", "x.tar.gz"])
def test_an_archive_within_is_named(write, inner):
    for path in (
        write("a.zip", zipped({inner: zipped({"1007.gnt": b"x"})} | DATA)),
        write("a.alz", alz({inner: b"x"} | DATA)),
    ):
        delivered, said = read(path)
        assert delivered == DATA and len(said) == 1
        assert said[0].startswith(f"{path}/{inner}: an archive within an archive")


def test_other_files_within_are_noted(write):
    path = write("a.zip", zipped({"folder/": b"", "folder/readme.txt": b"x"} | DATA))
    items = [item for item in open_files([path]) if isinstance(item, Damage)]
    assert [(i.source, i.kind) for i in items] == [(f"{path}/folder/readme.txt", "other")]


def test_a_name_that_is_damaged_in_the_directory_only(write):
    data = zipped(DATA)
    at = data.rindex(b"1003.gnt")
    delivered, said = read(write("a.zip", data[: at + 7] + b"x" + data[at + 8 :]))
    assert delivered == DATA
    assert len(said) == 1 and "calls a file 1003.gnx, its own header 1003.gnt" in said[0]


def test_a_member_that_the_directory_has_lost(write):
    data = bytearray(zipped(DATA))
    begin = data.rindex(b"PK\1\2", 0, data.rindex(b"1003.gnt"))
    end = data.index(b"PK\1\2", begin + 4)
    del data[begin:end]
    directory = struct.unpack_from("<I", data, len(data) - 10)[0]
    struct.pack_into("<HHI", data, len(data) - 14, 4, 4, directory - (end - begin))
    assert len(zipfile.ZipFile(io.BytesIO(data)).infolist()) == 4
    delivered, said = read(write("a.zip", bytes(data)))
    assert delivered == DATA and len(said) == 1 and "missing in the directory" in said[0]
    data[data.index(b"1003.gnt") - 30] ^= 1  # nor is its own header to be recognized
    delivered, said = read(write("a.zip", bytes(data)))
    assert "1003.gnt" not in delivered and len(delivered) == 4
    assert len(said) == 1 and "belong to no file" in said[0]


@pytest.mark.parametrize("names", [2, 1000])
def test_files_that_overlap_are_read_once(write, names):
    """A directory of many names for one file is not many files."""
    data = zipped({"1001.gnt": bytes(100_000)}, zipfile.ZIP_STORED)
    room = zipped({"1002.gnt": bytes(200_000)}, zipfile.ZIP_STORED)[: 200_000 + 38]
    at = data.index(b"PK\1\2")
    entry, end = data[at:-22], data[-22:]
    end = end[:8] + struct.pack("<HHI", names, names, names * len(entry)) + end[16:]
    begin = struct.pack("<I", at + len(room))
    end = end[:16] + begin + end[20:]
    delivered, said = read(write("a.zip", data[:at] + room + names * entry + end))
    assert delivered == {"1001.gnt": bytes(100_000), "1002.gnt": bytes(200_000)}
    assert len(said) == 1 and "lists files that overlap" in said[0]


def test_archives_of_very_many_small_files_take_no_longer_than_their_size(write):
    """A kilobyte of .zip can hold a megabyte of .alz entries, read a few bytes at a time."""
    begin = time.process_time()
    entry = b"BLZ\1" + struct.pack("<HBIBB", 5, 0, 0, 0, 0) + b"a.txt"
    archive = b"ALZ\1" + bytes(4) + 100_000 * entry + b"CLZ\1" + bytes(8) + b"CLZ\2"
    assert len(read(write("a.zip", zipped({"a.alz": archive})))[1]) == 100_001
    broken = b"BLZ\1" + struct.pack("<HBIBB", 0, 0, 0, 0x30, 0)
    archive = b"ALZ\1" + bytes(4) + 100_000 * (b"junk" + broken)
    assert len(read(write("b.alz", archive))[1]) == 200_001
    assert time.process_time() - begin < 5


def test_a_downloaded_zip_is_whole_or_not(write):
    whole = zipped(DATA)
    assert is_whole_zip(write("a.zip", whole)) and not is_whole_zip(write("a.zip", zipped({})))
    at = whole.index(b"1003.gnt") + 12
    wrong = [b"", b"a page of an error", whole[:-1], whole[: len(whole) // 2]]
    wrong += [whole[:at] + b"xy" + whole[at + 2 :], zipped(DATA, zipfile.ZIP_LZMA)]
    for data in wrong:
        assert not is_whole_zip(write("a.zip", data))


@pytest.mark.parametrize("size", [1 << 20, (1 << 32) - 2])
def test_a_size_that_the_data_cannot_have_is_refused(write, size):
    archive = bytearray(alz({"1001.gnt": b"x" * 100}))
    struct.pack_into("<I", archive, 8 + 4 + 9 + 6 + 4, size)
    delivered, said = read(write("a.alz", bytes(archive)))
    assert not delivered and f"cannot hold the {size}" in said[0]
    archive = bytearray(zipped({"1001.gnt": b"x" * 100}))
    struct.pack_into("<I", archive, archive.index(b"PK\1\2") + 24, size)
    delivered, said = read(write("a.zip", bytes(archive)))
    assert not delivered and f"cannot hold the {size}" in said[0]


def test_content_is_not_unpacked_beyond_its_size(write):
    archive = bytearray(zipped({"1001.gnt": bytes(50_000_000)}))
    struct.pack_into("<I", archive, archive.index(b"PK\1\2") + 24, 1000)
    items = open_files([write("a.zip", bytes(archive))])
    stream = next(items).open()
    assert len(stream.read()) <= 2 << 20
    with pytest.raises(OSError, match="unpacks to"):
        stream.read(1)


def test_bzip2_of_alzip_is_named_with_what_unpacks_it(write):
    delivered, said = read(write("a.alz", alz(DATA, BZIP2)))
    assert not delivered and len(said) == len(DATA) and all("unalz" in line for line in said)


@pytest.mark.parametrize("size", [37, 50, 64, 111])
def test_alz_volumes_may_end_anywhere(write, size):
    parts = volumes(alz(DATA), size)
    paths = [write(f"a.{'alz' if not i else f'a{i - 1:02d}'}", p) for i, p in enumerate(parts)]
    write("b.a00", b"a volume of another archive")
    assert read(paths[0]) == (DATA, [])
    inner = zipped({path.name: path.read_bytes() for path in paths})
    assert read(write("b.zip", inner)) == (DATA, [])


def test_alz_goes_on_behind_damage(write):
    archive = bytearray(alz(DATA))
    at = archive.rindex(b"BLZ\1", 0, archive.index(b"1003.gnt"))
    for mark in (b"XLZ\1", b"CLZ\1", b"BLZ\2"):
        archive[at : at + 4] = mark
        delivered, said = read(write("a.alz", bytes(archive)))
        assert sorted(delivered) == sorted(set(DATA) - {"1003.gnt"})
        assert len(said) == 1 and "no file begins here; reading goes on" in said[0]


@pytest.mark.skipif(not shutil.which("unalz"), reason="needs unalz")
@pytest.mark.parametrize("method", [STORE, DEFLATE])
def test_unalz_reads_what_the_tests_write(write, tmp_path, method):
    parts = volumes(alz(DATA, method), 150)
    paths = [write(f"a.{'alz' if not i else f'a{i - 1:02d}'}", p) for i, p in enumerate(parts)]
    subprocess.run(["unalz", "-d", tmp_path / "out", paths[0]], check=True, capture_output=True)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == DATA


@pytest.mark.parametrize(
    "name", ["a\n1001.gnt", "a\u20281001.gnt", "a\x1b[2J1001.gnt", "../1001.gnt"]
)
def test_names_in_archives_stay_on_their_line(write, name):
    for path in (write("a.zip", zipped({name: b"x"})), write("a.alz", alz({name: b"x"}))):
        for item in open_files([path]):
            shown = "".join(c if c.isprintable() else "?" for c in name)
            assert isinstance(item, GntFile) and item.name == f"{path}/{shown}"
            assert item.open().read() == b"x"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes and links")
def test_pipes_links_and_loops(tmp_path):
    os.mkfifo(tmp_path / "pipe.gnt")
    (tmp_path / "link.gnt").symlink_to(tmp_path / "nowhere.gnt")
    (tmp_path / "folder.gnt").mkdir()
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "again").symlink_to(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "1001.gnt").write_bytes(b"x")
    (tmp_path / "more" / "linked").symlink_to(tmp_path / "data")
    files = find_files([tmp_path])
    assert sorted(p.name for p in files) == ["1001.gnt", "link.gnt", "pipe.gnt"]
    delivered, said = read(*files)
    assert delivered == {"1001.gnt": b"x"}
    assert sorted(line.rpartition(": ")[2] for line in said) == [
        "a link to nowhere",
        "no regular file (a pipe?)",
    ]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1000), CHANGES)
def test_records_are_delivered_or_named_and_none_invented(seed, changes):
    check_gnt(gnt_records(random.Random(seed)), changes)


@pytest.mark.parametrize("make", [make_zip, make_alz])
def test_members_are_delivered_or_named_and_none_invented(make):
    @settings(max_examples=100, deadline=None)
    @given(st.integers(0, 1000), CHANGES, st.booleans())
    def check(seed, changes, at_the_end):
        def place(size: int) -> list:
            return [(size - at if at_the_end and at < size else at, *c) for at, *c in changes]

        with tempfile.TemporaryDirectory() as folder:
            check_archive(make, random.Random(seed), place, Path(folder))

    check()


@pytest.mark.parametrize("suffix", [".rar", ".7z", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".RAR"])
def test_other_archives_are_listed(tmp_path, suffix):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"a{suffix}").write_bytes(b"x")
    (tmp_path / "in" / "a.zip").write_bytes(b"x")
    assert archives.other_archives([tmp_path]) == [tmp_path / "in" / f"a{suffix}"]
    assert archives.other_archives([tmp_path / "in" / f"a{suffix}"]) == []


def test_files_below_a_folder_are_found_in_order(tmp_path):
    names = ["b/1.GNT", "a/2.gnt", "a/1.gnt", "x.zip", "y.ALZ", "y.a00", "z.txt", "U+4E00/1.gnt",
             ".git/1.gnt", "a/.1.gnt"]  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = [p.relative_to(tmp_path).as_posix() for p in find_files([tmp_path])]
    assert found == ["x.zip", "y.ALZ", "a/1.gnt", "a/2.gnt", "b/1.GNT"]
    assert find_files([tmp_path / "y.a00", tmp_path / "z.txt"]) == [tmp_path / "z.txt"]
    (tmp_path / "y.ALZ").unlink()
    assert find_files([tmp_path / "y.a00"]) == [tmp_path / "y.a00"]
    twice = [tmp_path / "x.zip", tmp_path / "x.zip", tmp_path]
    assert len(find_files(twice)) == 4
    with pytest.raises(FileNotFoundError, match="none does not exist"):
        find_files([tmp_path / "none"])


def test_what_is_read_of_an_archive_is_told_by_its_content(write):
    whole = zipped({"1001.gnt": b"x"})
    for name in ("a.gnt", "a.dat", "a.ALZ"):
        assert read(write(name, whole)) == ({"1001.gnt": b"x"}, [])
        assert read(write(name, alz({"1001.gnt": b"y"}))) == ({"1001.gnt": b"y"}, [])
    for name in ("b.zip", "b.ALZ"):
        (said,) = read(write(name, b"GIF89a"))[1]
        assert said.endswith(f"not a {name[1:].lower()} archive; download it again")
    assert read(write("b.dat", b"GIF89a")) == ({"b.dat": b"GIF89a"}, [])
    delivered, said = read(write("c.zip", zipped({})))
    assert not delivered and said == [
        f"{write('c.zip', zipped({}))}: holds no .gnt and no .alz file"
    ]


def test_members_that_are_not_read_are_named(write):
    others = {name: b"x" for name in ("notes.txt", "in.zip", "old.rar", "IN.ALZX", "b.a00", "d/")}
    kinds = {}
    for path in (write("a.zip", zipped(others | DATA)), write("a.alz", alz(others | DATA))):
        items = [item for item in open_files([path]) if isinstance(item, Damage)]
        kinds[path.suffix] = {item.source.removeprefix(f"{path}/"): item.kind for item in items}
        assert {item.offset for item in items} == {0}
        assert all(("unpack it" in item.reason) == (item.kind == "archive") for item in items)
    wanted = {"notes.txt": "other", "in.zip": "archive", "old.rar": "archive", "IN.ALZX": "other",
              "b.a00": "archive"}  # fmt: skip
    assert kinds == {".zip": wanted, ".alz": wanted}
    _, said = read(write("b.alz", alz({"notes.txt": b"x"})))
    assert said[-1].endswith("holds no .gnt file")


@pytest.mark.parametrize("cut", [1, 4, 16, 17, 60])
def test_an_alz_without_its_end_is_cut_off(write, cut):
    delivered, said = read(write("a.alz", alz(DATA)[:-cut]))
    if cut > 16:
        assert said and "cut off" in said[-1]
    assert set(delivered) >= set(list(DATA)[:4])


def test_encrypted_members_are_said_to_be(write):
    archive = bytearray(alz(DATA))
    first = archive.index(b"BLZ\1")
    archive[first + 11] |= 1
    said = read(write("a.alz", bytes(archive)))[1]
    assert any("1001.gnt: encrypted" in line for line in said)
    archive = bytearray(zipped(DATA))
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        archive[archive.index(mark) + at] |= 1
    delivered, said = read(write("a.zip", bytes(archive)))
    assert len(delivered) == 4 and said == [f"{write('a.zip', bytes(archive))}/1001.gnt: encrypted"]
    said = read(write("b.zip", zipped(DATA, zipfile.ZIP_LZMA)))[1]
    assert len(said) == 5 and all("packed by .zip method 14; unpack it first" in s for s in said)


def test_checksums_and_sizes_are_compared(write):
    data = bytes(range(256)) * 8
    for pack in (lambda d: zipped(d, zipfile.ZIP_STORED), lambda d: alz(d, STORE)):
        archive = bytearray(pack({"1001.gnt": data}))
        archive[archive.index(data) + 100] ^= 1
        items = open_files([write("a", bytes(archive))])
        item = next(items)
        stream = item.open()
        assert len(stream.read(len(data))) == len(data)  # all of it, then the error
        wrong = zlib.crc32(bytes(archive[archive.index(data[:50]) :][: len(data)]))
        with pytest.raises(OSError, match=f"bad CRC: {wrong:08x}, the archive says {item.crc:08x}"):
            stream.read(1)
    packed = bytearray(zipped({"1001.gnt": data}))
    at = packed.index(b"PK\1\2")
    struct.pack_into("<I", packed, at + 24, len(data) + 1)
    items = open_files([write("b.zip", bytes(packed))])
    stream = next(items).open()
    assert stream.read() == data
    with pytest.raises(OSError, match="unpacks to 2048 bytes or more, the archive says 2049"):
        stream.read(1)


def test_a_deflated_file_may_be_a_thousand_times_its_packed_size(write):
    zeros = bytes(1_000_000)
    packed = zipped({"1001.gnt": zeros})
    assert len(packed) < 2000 and read(write("a.zip", packed)) == ({"1001.gnt": zeros}, [])
    stored = bytearray(zipped({"1001.gnt": b"x" * 50}, zipfile.ZIP_STORED))
    struct.pack_into("<I", stored, stored.index(b"PK\1\2") + 24, 51)
    assert "50 packed bytes cannot hold the 51" in read(write("b.zip", bytes(stored)))[1][0]


def test_streams_end_in_their_error():
    def chunks():
        yield b"abc"
        yield b"de"
        raise OSError("torn")

    stream = _Chunks(chunks())
    assert stream.read(2) == b"ab" and stream.read() == b"cde"
    for _ in range(2):
        with pytest.raises(OSError, match="torn"):
            stream.read(1)
    stream = _Chunks(iter([b"abc"]))
    assert [stream.read(n) for n in (-1, -1, 5, 0)] == [b"abc", b"", b"", b""]


def test_a_name_in_broken_utf_8_is_read_as_it_may_be(write):
    archive = zipped({"一1001.gnt": b"x"}).replace("一".encode(), b"\xff\xfe\xfd")
    assert list(read(write("a.zip", archive))[0]) == ["\ufffd\ufffd\ufffd1001.gnt"]


def test_entries_without_sizes_are_empty(write):
    entry = b"BLZ\1" + struct.pack("<HBIBB", 6, 0, 0, 0, 0)
    whole = alz(DATA)
    for name in (b"folder", b"a.gntx"):
        delivered, said = read(write("a.alz", whole[:8] + entry + name + whole[8:]))
        assert delivered == DATA and [line.rpartition("/")[2] for line in said] == [
            f"{name.decode()}: no .gnt file, not read"
        ]
    wrong = bytearray(entry)
    wrong[-2] = 0x30
    _, said = read(write("a.alz", whole[:8] + bytes(wrong) + b"a.gntx" + whole[8:]))
    assert "damaged .alz entry (sizes of 3 bytes)" in said[0]
