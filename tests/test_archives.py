"""Archives: every member is read or named, sizes are not believed, names do no harm."""

import os
import shutil
import struct
import subprocess
import time
import zipfile
import zlib
from pathlib import Path

import pytest
from alz_writer import BZIP2, DEFLATE, STORE, alz, volumes, zipped

from hwdb.archives import GntFile, find_files, open_files

DATA = {f"{number}.gnt": f"content of {number}".encode() * 50 for number in range(1001, 1006)}


def content(item: GntFile) -> tuple[bytes, str]:
    """Return what a stream delivers, and the error that ends it."""
    data = b""
    try:
        while chunk := item.stream.read(1 << 20):
            data += chunk
    except OSError as error:
        return data, str(error)
    return data, ""


def read(*files: Path) -> tuple[dict[str, bytes], list[str]]:
    """Return what is delivered whole, by name, and a line for all the rest."""
    delivered, lines = {}, []
    for item in open_files(files):
        if not isinstance(item, GntFile):
            lines.append(item if isinstance(item, str) else f"{item.source}: {item.reason}")
            continue
        data, error = content(item)
        if error:
            lines.append(f"{item.name}: {error}")
        else:
            delivered[Path(item.name).name] = data
    return delivered, lines


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


# -- finding files ---------------------------------------------------------------------------------


def test_files_below_a_folder_are_found_in_order(tmp_path):
    names = ["b/1.GNT", "a/2.gnt", "a/1.gnt", "x.zip", "y.ALZ", "y.a00", "z.txt", "U+4E00/1.gnt",
             ".git/1.gnt", "a/.1.gnt", "__MACOSX/1.gnt", "a/more.RAR", "b/1.dgrl"]  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    files, notes = find_files([tmp_path])
    found = [path.relative_to(tmp_path).as_posix() for path in files]
    assert found == ["x.zip", "y.ALZ", "a/1.gnt", "a/2.gnt", "b/1.GNT"]
    assert [note.split(": ")[0] for note in notes] == [
        str(tmp_path / "a" / "more.RAR"), str(tmp_path / "b" / "1.dgrl")
    ]  # fmt: skip
    assert find_files([tmp_path / "y.a00", tmp_path / "x.zip"])[0] == [tmp_path / "x.zip"]
    assert len(find_files([tmp_path / "x.zip", tmp_path])[0]) == 5
    with pytest.raises(ValueError, match="z.txt: not a .gnt, .zip or .alz file"):
        find_files([tmp_path / "z.txt"])
    with pytest.raises(FileNotFoundError, match="none does not exist"):
        find_files([tmp_path / "none"])


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
    files, _ = find_files([tmp_path])
    assert sorted(p.name for p in files) == ["1001.gnt", "link.gnt", "pipe.gnt"]
    delivered, lines = read(*files)
    assert delivered == {"1001.gnt": b"x"}
    assert [line.rpartition(": ")[2] for line in lines] == ["not a regular file"] * 2


# -- members ---------------------------------------------------------------------------------------


def test_the_content_decides_what_a_file_is(write):
    whole = zipped({"1001.gnt": b"x"})
    for name in ("a.gnt", "a.ALZ"):
        assert read(write(name, whole)) == ({"1001.gnt": b"x"}, [])
        assert read(write(name, alz({"1001.gnt": b"y"}))) == ({"1001.gnt": b"y"}, [])
    for name in ("b.zip", "b.ALZ"):
        (line,) = read(write(name, b"GIF89a"))[1]
        assert line.endswith(f"not a {name[1:].lower()} archive; download it again")
    path = write("c.zip", zipped({}))
    assert read(path) == ({}, [f"{path}: contains no .gnt file"])


@pytest.mark.parametrize("name", ["一1001.gnt", "../1001.gnt", "/1001.gnt", "a\n\x1b[2J1001.gnt"])
def test_names_of_any_kind(write, name):
    for path in (write("a.zip", zipped({name: b"x"})), write("a.alz", alz({name: b"x"}))):
        item = next(items := open_files([path]))
        assert item.name == f"{path}/{name}" and content(item) == (b"x", "")
        assert not list(items)
    raw = name.replace("一", "---").encode().replace(b"---", b"\xff\xfe\xff")  # not UTF-8
    archive = alz({"=" * len(raw): b"x"} | DATA).replace(b"=" * len(raw), raw)
    assert len(read(write("b.alz", archive))[0]) in (5, 6)


def test_members_that_are_not_read_are_named(write):
    others = {name: b"x" for name in ("old.rar", "b.a00", "in.zip", "notes.txt", "d/", "README")}
    for pack, archive in ((zipped, "a.zip"), (alz, "a.alz")):
        path = write(archive, pack(others | DATA))
        delivered, lines = read(path)
        assert delivered == DATA
        named = [line.split(": ")[0] for line in lines]
        assert named == [f"{path}/{name}" for name in others if name != "d/"]
        lines = read(write(archive, pack({"notes.txt": b"x"})))[1]
        assert lines[-1] == f"{path}: contains no .gnt file"


def test_what_cannot_be_unpacked_is_named_with_what_can(write):
    for archive in (alz(DATA, BZIP2), alz(DATA, STORE, encrypted=True)):
        delivered, lines = read(write("a.alz", archive))
        assert not delivered and len(lines) == len(DATA)
        assert all("unpack it with unalz" in line for line in lines)
    archive = bytearray(zipped(DATA))
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        archive[archive.index(mark) + at] |= 1
    delivered, (line,) = read(write("a.zip", bytes(archive)))
    assert len(delivered) == 4 and "1001.gnt: File" in line and "is encrypted" in line
    lines = read(write("b.zip", zipped(DATA, zipfile.ZIP_LZMA)))[1]
    assert len(lines) == 5 and all(".zip method 14; unpack it first" in line for line in lines)


def test_checksums_and_sizes_are_compared_after_all_data(write):
    data = bytes(range(256)) * 8
    for pack in (lambda d: zipped(d, zipfile.ZIP_STORED), lambda d: alz(d, STORE)):
        archive = bytearray(pack({"1001.gnt": data}))
        archive[archive.index(data) + 100] ^= 1
        item = next(items := open_files([write("a", bytes(archive))]))
        delivered, error = content(item)
        assert len(delivered) == len(data)
        assert error == f"bad CRC: {zlib.crc32(delivered):08x}, the archive states {item.crc:08x}"
        assert not list(items)
    for pack, mark, at in ((zipped, b"PK\1\2", 24), (alz, b"BLZ\1", 23)):
        packed = bytearray(pack({"1001.gnt": data}))
        struct.pack_into("<I", packed, packed.index(mark) + at, len(data) + 1)
        item = next(items := open_files([write("b", bytes(packed))]))
        wanted = f"unpacks to {len(data)} bytes or more, the archive states {len(data) + 1}"
        assert content(item) == (data, wanted) and not list(items)


# -- hostile and damaged archives ------------------------------------------------------------------


@pytest.mark.parametrize("size", [1000, (1 << 32) - 2])
def test_a_stated_size_is_not_believed(write, size):
    """Neither are fifty megabytes unpacked into a kilobyte, nor is memory taken for what is not."""
    for pack, mark, at in ((zipped, b"PK\1\2", 24), (alz, b"BLZ\1", 23)):
        archive = bytearray(pack({"1001.gnt": bytes(50_000_000)}))
        struct.pack_into("<I", archive, archive.index(mark) + at, size)
        item = next(items := open_files([write("a", bytes(archive))]))
        have = 0
        with pytest.raises(OSError, match="bad CRC|unpacks to"):
            while chunk := item.stream.read(1 << 20):
                have += len(chunk)
        assert have <= min(50_000_000, size + (1 << 20)) and not list(items)


@pytest.mark.parametrize("names", [2, 1000])
def test_files_that_overlap_are_refused(write, names):
    """A directory of many names for one file is not many files."""
    data = zipped({"1001.gnt": bytes(100_000)}, zipfile.ZIP_STORED)
    at = data.index(b"PK\1\2")
    entry, end = data[at:-22], data[-22:]
    end = end[:8] + struct.pack("<HHI", names, names, names * len(entry)) + end[16:]
    delivered, lines = read(write("a.zip", data[:at] + names * entry + end))
    assert not delivered and len(lines) == 1 and "lists files that overlap" in lines[0]


def test_archives_of_very_many_small_files_take_no_longer_than_their_size(write):
    """A kilobyte of .zip can hold a megabyte of .alz entries, read a few bytes at a time."""
    begin = time.process_time()
    entry = b"BLZ\1" + struct.pack("<HBIBB", 5, 0, 0, 0, 0) + b"a.txt"
    archive = b"ALZ\1" + bytes(4) + 100_000 * entry + b"CLZ\1" + bytes(8) + b"CLZ\2"
    assert len(read(write("a.zip", zipped({"a.alz": archive})))[1]) == 100_001
    many = {f"{number}.{kind}": b"" for number in range(3000) for kind in ("alz", "a00")}
    assert len(read(write("b.zip", zipped(many)))[1]) == 6000
    assert time.process_time() - begin < 20  # quadratic work takes minutes


def test_a_damaged_directory_is_named(write):
    whole = zipped(DATA)
    at = whole.rindex(b"1003.gnt")
    delivered, lines = read(write("a.zip", whole[: at + 7] + b"x" + whole[at + 8 :]))
    assert sorted(delivered) == sorted(set(DATA) - {"1003.gnt"}) and "1003.gnx" in lines[0]
    for cut in (whole[:-1], whole[: len(whole) // 2], b"PK\3\4"):
        delivered, lines = read(write("b.zip", cut))
        assert not delivered and "not a whole .zip archive" in lines[0]


def test_a_member_that_the_directory_has_lost_is_noticed(write):
    large = {**DATA, "1009.gnt": os.urandom(9000)}
    data = bytearray(zipped(large))
    begin, end = data.rindex(b"PK\1\2"), len(data) - 22
    count = len(large) - 1
    del data[begin:end]
    struct.pack_into("<HHI", data, len(data) - 14, count, count, begin - data.index(b"PK\1\2"))
    delivered, lines = read(write("a.zip", bytes(data)))
    assert delivered == DATA and len(lines) == 1 and "missing from its directory" in lines[0]


# -- .alz ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [37, 50, 64, 111])
def test_alz_volumes_may_end_anywhere(write, size):
    parts = volumes(alz(DATA), size)
    paths = [write(f"a.{'alz' if not i else f'a{i - 1:02d}'}", p) for i, p in enumerate(parts)]
    write("b.a00", b"a volume of another archive")
    assert read(paths[0]) == (DATA, [])
    inner = zipped({path.name: path.read_bytes() for path in paths})
    assert read(write("b.zip", inner))[1][-1].endswith("unpack it if it contains .gnt files")
    paths[1].unlink()
    delivered, lines = read(paths[0])
    assert lines and all(data == DATA[name] for name, data in delivered.items())


def test_a_damaged_alz_is_read_up_to_the_damage(write):
    archive = bytearray(alz(DATA))
    at = archive.rindex(b"BLZ\1", 0, archive.index(b"1003.gnt"))
    for mark in (b"XLZ\1", b"BLZ\2"):
        archive[at : at + 4] = mark
        delivered, lines = read(write("a.alz", bytes(archive)))
        assert list(delivered) == ["1001.gnt", "1002.gnt"]
        assert len(lines) == 1 and "the rest of the archive is lost" in lines[0]
    for cut in (16, 17, 60):  # in the end mark, and before it
        delivered, lines = read(write("a.alz", alz(DATA)[:-cut]))
        assert lines and "cut off" in lines[-1] and set(delivered) >= set(list(DATA)[:4])


@pytest.mark.skipif(not shutil.which("unalz"), reason="needs unalz")
@pytest.mark.parametrize("method", [STORE, DEFLATE])
def test_unalz_reads_what_the_tests_write(write, tmp_path, method):
    parts = volumes(alz(DATA, method), 150)
    paths = [write(f"a.{'alz' if not i else f'a{i - 1:02d}'}", p) for i, p in enumerate(parts)]
    subprocess.run(["unalz", "-d", tmp_path / "out", paths[0]], check=True, capture_output=True)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == DATA
