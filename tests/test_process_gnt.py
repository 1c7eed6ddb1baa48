"""The converter as a user runs it: archives of all kinds, damage, interruption, download."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from alz_writer import DEFLATE, STORE, alz, volumes, zipped
from conftest import KILLS, call_script

from hwdb.record import write_record

ROOT = Path(__file__).resolve().parents[1]
TEXT = "啊阿埃A＋①"


def bitmap_of(writer: int, i: int) -> np.ndarray:
    rng = np.random.default_rng(1000 * writer + i)
    bitmap = np.full((20 + i % 7, 24 + writer % 5), 255, np.uint8)
    bitmap[4:15, 5:12] = rng.integers(0, 200, (11, 7))
    return bitmap


def gnt_of(writer: int, text: str = TEXT) -> bytes:
    stream = io.BytesIO()
    for i, character in enumerate(text):
        write_record(stream, character, bitmap_of(writer, i))
    return stream.getvalue()


def large_gnt(seed: int, count: int = 400) -> bytes:
    """Return a file of few but slow pictures: 256 x 256 pixels of noise."""
    rng = np.random.default_rng(seed)
    stream = io.BytesIO()
    for _ in range(count):
        write_record(stream, "啊", rng.integers(0, 256, (256, 256), np.uint8))
    return stream.getvalue()


def command(*arguments) -> list[str]:
    return [sys.executable, str(ROOT / "process_gnt.py"), *map(str, arguments)]


def run(*arguments, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """Run the converter: in this process, unless with two workers or in a folder."""
    if cwd is None and 2 not in arguments:
        return call_script("process_gnt.py", "--workers", 1, *arguments)
    return subprocess.run(command(*arguments), cwd=cwd, capture_output=True, text=True, timeout=100)


def pictures(folder: Path) -> dict[str, bytes]:
    """Return every picture below a folder, by its path there."""
    paths = sorted(folder.rglob("*.png"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def marks(out: Path, split: str = "train") -> dict[str, dict]:
    """Return the last mark of each source, by the prefix of its pictures."""
    lines = (out / split / ".process_gnt.jsonl").read_text("ascii").splitlines()
    return {mark["prefix"]: mark for mark in map(json.loads, lines[1:])}


def expected(split: str, prefix: str, writer: int, text: str = TEXT) -> dict[str, np.ndarray]:
    return {
        f"{split}/U+{ord(character):04X}/{prefix}_{i:05d}.png": bitmap_of(writer, i)
        for i, character in enumerate(text)
    }


def check(out: Path, *parts: dict[str, np.ndarray]) -> None:
    """Check that a tree holds exactly these pictures, one channel, bit for bit."""
    wanted = {name: bitmap for part in parts for name, bitmap in part.items()}
    found = pictures(out)
    assert sorted(found) == sorted(wanted)
    for name, data in found.items():
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert picture.dtype == np.uint8
        np.testing.assert_array_equal(picture, wanted[name])


def test_official_numbers_decide_and_the_table_counts(tmp_path):
    source = tmp_path / "手写 数据"
    source.mkdir()
    (source / "1001-f.gnt").write_bytes(gnt_of(1))
    (source / "1241-f.gnt").write_bytes(gnt_of(2))
    (source / "C001-f-f.gnt").write_bytes(gnt_of(3))
    (source / "readme.txt").write_text("not for us")
    out = tmp_path / "输出"
    result = run(source, "--out", out, "--workers", 2)
    assert result.returncode == 0, result.stderr
    check(
        out, expected("train", "1001", 1), expected("test", "1241", 2), expected("test", "C001", 3)
    )
    assert "938,679" in result.stdout and "234,228" in result.stdout
    train = next(line.split() for line in result.stdout.splitlines() if line.startswith("train"))
    assert train[1:5] == ["HWDB1.1", "1", "1", "6"]


@pytest.mark.parametrize("method", [STORE, DEFLATE])
def test_archives_of_all_kinds_give_the_same_tree(tmp_path, method):
    files = {f"{number}-c.gnt": gnt_of(number % 7, TEXT * 9) for number in (1001, 1002, 1241)}
    (tmp_path / "loose").mkdir()
    for name, data in files.items():
        (tmp_path / "loose" / name).write_bytes(data)
    archive = alz({f"../../{name}": data for name, data in files.items()}, method)
    cut = volumes(archive, len(archive) // 3)
    inputs = {
        "alz": {"a.alz": archive},
        "zip": {"HWDB1.1trn_gnt.zip": zipped({"x/y.alz": archive})},
    }
    inputs["volumes"] = {
        f"b.{'alz' if not i else f'a{i - 1:02d}'}": part for i, part in enumerate(cut)
    }
    inputs["plain zip"] = {
        "Gnt1.1TrainPart1.zip": zipped(
            {f"/abs/../{name}": data for name, data in files.items()},
            zipfile.ZIP_STORED if method == STORE else zipfile.ZIP_DEFLATED,
        )
    }
    assert run(tmp_path / "loose", "--out", tmp_path / "wanted").returncode == 0
    wanted = pictures(tmp_path / "wanted")
    assert len(wanted) == 3 * 9 * len(TEXT)
    for name, parts in inputs.items():
        folder = tmp_path / name
        folder.mkdir()
        for file, data in parts.items():
            (folder / file).write_bytes(data)
        result = run(folder, "--out", tmp_path / f"out {name}", "--workers", 1)
        assert result.returncode == 0, result.stderr
        assert pictures(tmp_path / f"out {name}") == wanted, name
    assert {path.name for path in tmp_path.parent.glob("*.gnt")} == set()


def test_other_names_need_split(tmp_path):
    (tmp_path / "my_file 字.gnt").write_bytes(gnt_of(5))
    (tmp_path / "1241-c.gnt").write_bytes(gnt_of(1))
    result = run(tmp_path, "--out", tmp_path / "out")
    assert result.returncode == 2 and "--split" in result.stderr
    assert run(tmp_path, "--out", tmp_path / "out", "--split", "train").returncode == 0
    check(tmp_path / "out", expected("train", "my-file-字", 5), expected("test", "1241", 1))


def test_classes(tmp_path):
    (tmp_path / "1001.gnt").write_bytes(gnt_of(1))
    out = tmp_path / "out"
    result = run(tmp_path, "--out", out, "--classes", "2")
    assert result.returncode == 0
    check(out, expected("train", "1001", 1, TEXT[:2]))
    row = next(line.split() for line in result.stdout.splitlines() if line.startswith("train"))
    assert row[4] == "2" and row[-2:] == ["4", "0"]
    refused = run(tmp_path, "--out", out, "--classes", "all")
    assert refused.returncode == 2 and "--classes" in refused.stderr
    assert run(tmp_path, "--out", tmp_path / "s", "--classes", "symbols").returncode == 0
    assert {name.split("/")[1] for name in pictures(tmp_path / "s")} == {"U+0041", "U+2460"}


def test_synthetic_files_and_others_are_kept_apart(tmp_path):
    for name, status in (("10001-c.gnt", 0), ("10002-c.gnt", 0), ("1001-c.gnt", 2)):
        (tmp_path / name).write_bytes(gnt_of(1))
        result = run(tmp_path / name, "--out", tmp_path)
        assert result.returncode == status
    assert "would mix synthetic and other files" in result.stderr


def test_same_numbers_do_not_overwrite_each_other(tmp_path):
    for folder, writer in (("a", 1), ("b", 2), ("c", 1)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1001.gnt").write_bytes(gnt_of(writer))
    out = tmp_path / "out"
    wanted = expected("train", "1001", 1), expected("train", "1001+2", 2)
    result = run(tmp_path / "a", tmp_path / "b", tmp_path / "c", "--out", out)
    assert result.returncode == 0 and "same content" in result.stderr
    check(out, *wanted)
    assert run(tmp_path / "b", "--out", out).returncode == 0  # known already
    check(out, *wanted)
    apart = tmp_path / "apart"
    for folder in "abc":
        assert run(tmp_path / folder, "--out", apart).returncode == 0
    check(apart, *wanted)


def test_running_twice_changes_nothing_and_missing_files_are_restored(tmp_path):
    (tmp_path / "1001.gnt").write_bytes(gnt_of(1))
    (tmp_path / "1002.gnt").write_bytes(gnt_of(2))
    (tmp_path / "more.rar").write_bytes(b"Rar!")
    out = tmp_path / "out"
    first = run(tmp_path, "--out", out)
    assert first.returncode == 0 and "more.rar: an archive; unpack it" in first.stderr
    before, times = pictures(out), {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    second = run(tmp_path, "--out", out)
    assert second.stdout == first.stdout and pictures(out) == before
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == times  # or it is packed again
    (out / "train" / "U+554A" / "1002_00000.png").unlink()
    assert run(tmp_path, "--out", out).returncode == 0 and pictures(out) == before


def test_a_changed_source_replaces_its_pictures(tmp_path):
    path, out = tmp_path / "1001.gnt", tmp_path / "out"
    path.write_bytes(gnt_of(1))
    run(path, "--out", out)
    path.write_bytes(gnt_of(2, TEXT[:2]))
    assert run(path, "--out", out).returncode == 0
    check(out, expected("train", "1001", 2, TEXT[:2]))
    (tmp_path / "moved").mkdir()
    path.rename(tmp_path / "moved" / path.name)
    path.write_bytes(gnt_of(3))  # takes the place of what is elsewhere now
    assert run(path, tmp_path / "moved", "--out", out).returncode == 0
    check(out, expected("train", "1001", 3), expected("train", "1001+2", 2, TEXT[:2]))


def test_damage_is_reported_with_offset_and_the_rest_kept(tmp_path):
    data = gnt_of(1)
    record = len(gnt_of(1, TEXT[:1]))
    broken = bytearray(data)
    broken[record] ^= 1
    (tmp_path / "1001.gnt").write_bytes(broken)  # size mismatch in the second record
    (tmp_path / "1002.gnt").write_bytes(gnt_of(2)[:-3])
    (tmp_path / "1003.gnt").write_bytes(b"")
    archive = bytearray(zipped({"1004.gnt": gnt_of(4)}, zipfile.ZIP_STORED))
    archive[len(archive) // 4] ^= 1  # a pixel: the checksum is wrong, the records are whole
    (tmp_path / "x.zip").write_bytes(archive)
    (tmp_path / "y.alz").write_bytes(alz({"1005.gnt": gnt_of(5)}, crc_error=1))
    (tmp_path / "z.alz").write_bytes(alz({"1006.gnt": gnt_of(6)}, encrypted=True))
    out = tmp_path / "out"
    result = run(tmp_path, "--out", out)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert f"1001.gnt at byte {record}: 535 bytes are not a whole record" in result.stderr
    assert "1002.gnt at byte" in result.stderr
    assert "1003.gnt at byte 0: the file is empty" in result.stderr
    assert "x.zip/1004.gnt at byte" in result.stderr and "y.alz/1005.gnt at byte" in result.stderr
    assert result.stderr.count("bad CRC") == 2 and "encrypted" in result.stderr
    names = [name.split("/")[-1][:4] for name in pictures(out)]
    counts = {number: names.count(number) for number in sorted(set(names))}
    assert counts == {"1001": 5, "1002": 5, "1004": 6, "1005": 6}
    again = run(tmp_path, "--out", out)
    assert again.returncode == 1 and again.stderr == result.stderr
    (tmp_path / "1001.gnt").write_bytes(data)  # repaired
    run(tmp_path, "--out", out)
    assert sum("1001_" in name for name in pictures(out)) == 6


def test_errors_are_one_line(tmp_path):
    (tmp_path / "1001.gnt").write_bytes(gnt_of(1))
    cases = [
        [tmp_path / "none.gnt"],
        [tmp_path, "--classes", "nonsense"],
        [tmp_path, "--out", tmp_path / "1001.gnt"],
        [tmp_path, "--workers", "0"],
        [ROOT / "README.md"],
    ]
    for arguments in cases:
        result = run(*arguments)
        assert result.returncode == 2 and "error: " in result.stderr.splitlines()[-1]
        assert "Traceback" not in result.stderr
    (tmp_path / "out" / "train" / "cats").mkdir(parents=True)
    result = run(tmp_path / "1001.gnt", "--out", tmp_path / "out")
    assert result.returncode == 2 and "process_gnt.py; delete it" in result.stderr
    result = run(ROOT / "README.md", "--out", tmp_path / "out")
    assert result.stderr == f"error: {ROOT}/README.md: not a .gnt, .zip or .alz file\n"


def test_without_path(tmp_path):
    result = run(cwd=tmp_path)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "--download" in result.stderr and "Gnt1.1Test.zip (2.3 GB)" in result.stderr
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "1001.gnt").write_bytes(gnt_of(1))
    for _ in range(2):  # the tree is in data/ too, and is not taken for a source
        assert run(cwd=tmp_path).returncode == 0
        check(tmp_path / "data", expected("train", "1001", 1))


def test_nothing_slow_is_loaded():
    code = "import process_gnt, sys; sys.exit(not {'cv2', 'PIL'}.isdisjoint(sys.modules))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_killed_and_run_again_is_an_unbroken_run(tmp_path):
    """Killed at any moment; KILLS=50 for more of them."""
    path, out = tmp_path / "HWDB1.1trn_gnt.zip", tmp_path / "out"
    files = {f"{number}.gnt": large_gnt(number, 60) for number in range(1001, 1005)}
    path.write_bytes(zipped({"x.alz": alz(files, STORE)}, zipfile.ZIP_STORED))
    begin = time.monotonic()
    assert run(path, "--out", tmp_path / "unbroken", "--workers", 2).returncode == 0
    whole = time.monotonic() - begin
    for _ in range(KILLS):
        process = subprocess.Popen(command(path, "--out", out, "--workers", 2))
        time.sleep(random.uniform(0, whole))
        process.kill()
        process.wait()
    assert run(path, "--out", out).returncode == 0
    assert pictures(out) == pictures(tmp_path / "unbroken")


@pytest.mark.skipif(os.name == "nt", reason="needs SIGINT")
def test_interrupted_and_run_again_is_an_unbroken_run(tmp_path):
    path, out = tmp_path / "1001.gnt", tmp_path / "out"
    path.write_bytes(large_gnt(1))
    first = out / "train" / "U+554A" / "1001_00000.png"
    process = subprocess.Popen(
        command(path, "--out", out, "--workers", 2), stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not first.exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == "\ninterrupted\n" and process.returncode == 130
    assert 0 < len(pictures(out)) < 400
    first.write_bytes(first.read_bytes()[:20])  # as a kill in the middle of writing may leave it
    assert not marks(out)["1001"]["done"]
    assert run(path, "--out", out).returncode == 0
    assert run(path, "--out", tmp_path / "unbroken").returncode == 0
    assert pictures(out) == pictures(tmp_path / "unbroken")


def test_a_killed_run_continues_from_its_marks(tmp_path):
    """The last line of the state file may be cut off."""
    path, out = tmp_path / "a.zip", tmp_path / "out"
    path.write_bytes(zipped({f"{number}.gnt": gnt_of(1) for number in range(1001, 1041)}))
    assert run(path, "--out", out).returncode == 0
    state, before = out / "train" / ".process_gnt.jsonl", pictures(out)
    state.write_bytes(state.read_bytes()[:-9])
    last, other = (out / "train" / "U+554A" / f"{n}_00000.png" for n in (1040, 1039))
    last.write_bytes(b"half a picture")
    time_of_other = other.stat().st_mtime_ns
    assert run(path, "--out", out).returncode == 0 and pictures(out) == before
    assert other.stat().st_mtime_ns == time_of_other


# -- the machine -----------------------------------------------------------------------------------


def test_a_full_disk_is_said_with_the_path(tmp_path):
    """A limit on the size of files stands for the disk."""
    resource = pytest.importorskip("resource")
    (tmp_path / "1001.gnt").write_bytes(gnt_of(1, TEXT[:2]) + large_gnt(1, 1) + gnt_of(1))
    out = tmp_path / "out"
    for workers in (1, 2):
        done = subprocess.run(
            command(tmp_path / "1001.gnt", "--out", out, "--workers", workers),
            capture_output=True, text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)),
        )  # fmt: skip
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert done.stderr.endswith(f"{out}/train/U+554A/1001_00002.png: File too large\n")
        assert done.stderr.count("\n") == 1
    assert run(tmp_path / "1001.gnt", "--out", out).returncode == 0
    assert len(pictures(out)) == 3 + len(TEXT) and not list(out.rglob("*.part*"))


HIDDEN = ["__MACOSX/._1001-c.gnt", "__MACOSX/x/1002-c.gnt", "._1001-c.gnt", ".git/1003-c.gnt"]


@pytest.mark.parametrize("kind", ["zip", "alz", "folder"])
def test_hidden_names_are_skipped(tmp_path, kind):
    files = {name: b"\0\5\x16\7 of a Mac" for name in HIDDEN} | {"1001-c.gnt": gnt_of(1)}
    source = tmp_path / f"in.{kind}"
    if kind == "folder":
        for name, data in files.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(data)
    else:
        source.write_bytes({"zip": zipped, "alz": alz}[kind](files))
    result = run(source, "--out", tmp_path / "out")
    assert (result.returncode, result.stderr) == (0, "")
    check(tmp_path / "out", expected("train", "1001", 1))


PAGE = b"<!DOCTYPE html><html>come back tomorrow</html>"
OTHERS = [
    ("1001-c.gnt", b"version https://git-lfs.github.com/spec/v1\noid", "run git lfs pull", 1),
    ("1001-c.gnt", b"\n" + PAGE, "a web page, not the file; download it again", 1),
    ("Gnt1.1Test.zip", PAGE, "download it again", 1),
    ("001.dgrl", bytes(90), "a page of handwritten text (HWDB2.x); images of characters are in", 2),
    ("001.pot", bytes(90), "pen trajectories (OLHWDB)", 2),
    ("001.MPF", bytes(90), "feature vectors", 2),
    ("001.gnt", b"\x24\0\0\0DGRL\0\0\0\0" + bytes(90), "a page of handwritten text", 1),
    ("001.gnt", b"\x3c\0\0\0MPF\0\0\0\0\0" + bytes(90), "feature vectors", 1),
    ("001.gnt", b"\x48\0\xa1\xb0\0\0\x03\0" + bytes(90), "pen trajectories (OLHWDB)", 1),
]


@pytest.mark.parametrize(("name", "data", "reason", "status"), OTHERS)
def test_files_of_other_formats_are_named_with_what_is_right(tmp_path, name, data, reason, status):
    (tmp_path / name).write_bytes(data)
    for path in (tmp_path / name, tmp_path):
        done = run(path, "--split", "train", "--out", tmp_path / "out")
        assert done.returncode == status
        assert f"{tmp_path / name}" in done.stderr and reason in done.stderr


def test_two_converters_at_once(tmp_path):
    """One goes on as if it were alone; the other is told, or comes late enough to find all done."""
    path, out = tmp_path / "1001.gnt", tmp_path / "out"
    path.write_bytes(large_gnt(1))
    both = [
        subprocess.Popen(
            command(path, "--out", out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    errors = [process.communicate(timeout=100)[1] for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) in ([0, 0], [0, 2]) and "Traceback" not in "".join(errors)
    for code, message in zip(codes, errors, strict=True):
        assert ("is writing here" in message) == (code == 2)
    assert len(pictures(out)) == 400


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not UTF-8")
def test_any_locale_and_file_name(tmp_path):
    folder = tmp_path / "手写\n\x1b[2J"
    folder.mkdir()
    (folder / "字.gnt").write_bytes(gnt_of(1)[:-1])
    with open(os.fsencode(folder) + b"/\xff.gnt", "wb") as stream:
        stream.write(gnt_of(3)[:-1])
    done = subprocess.run(
        command(folder, "--out", tmp_path / "out", "--split", "train"),
        capture_output=True, env=os.environ | {"LC_ALL": "C"}, timeout=100,
    )  # fmt: skip
    errors = done.stderr.decode()
    assert done.returncode == 1 and "Traceback" not in errors and "\x1b" not in errors
    for part in ("damage: ", "手写\\n\\x1b[2J/字.gnt at byte ", "\\udcff.gnt at byte "):
        assert part in errors, errors
    assert len(pictures(tmp_path / "out")) == 2 * (len(TEXT) - 1)
