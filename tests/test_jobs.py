"""Files that are whole or not there, one writer at a time, worker processes, ends of commands."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import fork
from tqdm import tqdm

from jobs.command import progress
from jobs.files import is_hidden, only_one, read_mark, replacing, write_file, write_mark
from jobs.pool import AHEAD, Workers

ROOT = Path(__file__).resolve().parents[1]


def python(
    code: str, *arguments: object, shell: str = "", **options
) -> subprocess.CompletedProcess:
    """Run Python code that knows the repository; `shell` is what follows the command."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]
    command += map(str, arguments)
    if shell:
        if os.name == "nt":
            pytest.skip("needs bash")
        shell = shell if "$@" in shell else f'"$@" {shell}'
        command = ["bash", "-c", shell, "bash", *command]
    return subprocess.run(command, capture_output=True, timeout=60, **options)


# -- files -----------------------------------------------------------------------------------------


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "a.json"
    with replacing(path) as first, replacing(path) as second:
        assert first != second and first.suffix == ".json"
        second.write_text("second")
        first.write_text("first")
        assert not path.exists()
    assert path.read_text() == "first"
    with pytest.raises(KeyError), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "first" and os.listdir(tmp_path) == ["a.json"]


def test_errors_name_the_file_and_leave_nothing(tmp_path):
    with pytest.raises(OSError, match="No space") as error, replacing(tmp_path / "a.pt") as part:
        part.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert error.value.filename == str(tmp_path / "a.pt") and os.listdir(tmp_path) == []
    with pytest.raises(OSError) as error, replacing(tmp_path / "none" / "a.pt") as part:
        part.write_bytes(b"")
    assert error.value.filename == str(tmp_path / "none" / "a.pt")


def test_a_link_stays_and_its_target_is_written(tmp_path):
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "a.json", tmp_path / "link.json"
    link.symlink_to(target)
    for data in (b"first", b"second"):  # the target is missing at first
        write_file(link, data)
        assert link.is_symlink() and target.read_bytes() == data
    assert os.listdir(tmp_path / "real") == ["a.json"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_devices_and_pipes_are_written_to(tmp_path):
    write_file("/dev/null", b"x")
    assert not Path("/dev/null").is_file()
    write = (
        "from jobs.files import write_file; print('before'); write_file(sys.argv[1], b'data\\n')"
    )
    command = f'"$@" /dev/stdout > {tmp_path}/out; "$@" >(cat > {tmp_path}/pipe) > /dev/null; wait'
    done = python(write, shell=command)
    assert done.returncode == 0 and done.stderr == b""
    assert (tmp_path / "out").read_bytes() == b"before\ndata\n"
    assert (tmp_path / "pipe").read_bytes() == b"data\n"


def test_hidden_names():
    hidden = ["._1001-c.gnt", ".DS_Store", "__MACOSX", ".ipynb_checkpoints", "..."]
    assert all(map(is_hidden, hidden))
    assert not any(map(is_hidden, ["1001-c.gnt", "a.b", ".", "..", "", "MACOSX"]))


def test_marks(tmp_path):
    path = tmp_path / "mark.json"
    assert read_mark(path, 1) is None
    write_mark(path, {"version": 1, "name": "字\n\u2028\udcff"})
    assert read_mark(path, 1) == {"version": 1, "name": "字\n\u2028\udcff"}
    assert read_mark(path, 2) is None
    for broken in ("", "{", "[]", "3", '{"version": 1'):
        path.write_text(broken)
        assert read_mark(path, 1) is None


HOLD = """
import time
from pathlib import Path
from jobs.files import only_one
with only_one(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_only_one_process_holds_a_folder(tmp_path):
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{HOLD}"]
    holder = subprocess.Popen([*command, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(ValueError, match="another process is writing here"), only_one(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    with only_one(tmp_path):
        pass
    assert os.listdir(tmp_path) == [".lock"]


# -- commands --------------------------------------------------------------------------------------

COMMAND = """
from jobs.command import command
@command
def main():
    {}
    return 0
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ("raise ValueError('one\\n  two')", 2, "error: one two\n"),
        ("open('/no/such')", 2, "error: /no/such: No such file or directory\n"),
        ("raise OSError('a\\x1b[2J字')", 2, "error: a\\x1b[2J字\n"),
        ("raise KeyboardInterrupt", 130, "\ninterrupted\n"),
        ("return 1", 1, ""),
    ],
)
def test_errors_are_sentences(body, status, says):
    done = python(COMMAND.format(body.replace("\n", "\\n")))
    assert (done.returncode, done.stderr.decode()) == (status, says)


@pytest.mark.parametrize(
    "body",
    [
        "print('字' * 100_000)",
        "import argparse; argparse.ArgumentParser(usage='字' * 70_000).print_help()",
    ],
)
def test_a_reader_that_has_gone(body):
    done = python(COMMAND.format(body), shell="| true")
    assert done.returncode == 0 and done.stderr == b""


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}])
def test_any_terminal(variables):
    body = "print('字\\udcff'); print('字', file=sys.stderr)"
    done = python(COMMAND.format(body), env=os.environ | variables)
    assert (done.stdout, done.stderr) == ("字\\udcff\n".encode(), "字\n".encode())


def test_closed_streams_are_no_files_of_ours(tmp_path):
    """What goes to a stream that was closed must not end up in a file that was opened since."""
    path = tmp_path / "file"
    body = "file = open(sys.argv[1], 'w'); print('x'); import os; os.write(2, b'x'); file.close()"
    done = python(COMMAND.format(body), path, shell=">&- 2>&- <&-")
    assert done.returncode == 0 and path.read_bytes() == b""


# -- worker processes ------------------------------------------------------------------------------


def slow_square(number: int) -> int:
    time.sleep(0.02 * (number % 3))
    return number * number


def refuse(number: int) -> int:
    if number == 3:
        raise ValueError("three")
    return number


def end(number: int) -> int:
    os._exit(number)


@pytest.mark.parametrize("count", [1, 2])
def test_tasks_are_done_in_order_and_taken_as_needed(count):
    taken = []
    with Workers(count) as workers:
        for done, square in enumerate(
            workers.map(slow_square, (taken.append(i) or i for i in range(30)))
        ):
            assert square == done * done and len(taken) <= done + 1 + AHEAD * count
    assert len(taken) == 30


def test_errors_of_workers_come_through():
    with Workers(2) as workers, pytest.raises(ValueError, match="three"):
        list(workers.map(refuse, range(9)))
    with Workers(2) as workers, pytest.raises(OSError, match="was killed"):
        list(workers.map(end, range(9)))


UNGUARDED = """
import os
import sys
print("runs", flush=True)
sys.path += [{root!r}, {folder!r}]
import work
from jobs.pool import Workers
with Workers(2) as workers:
    assert len(list(workers.map(work.work, range(5)))) == 5
"""


@pytest.mark.parametrize("how", ["script", "standard input"])
def test_workers_do_not_run_the_script_again(tmp_path, how):
    """It needs no `if __name__ == "__main__"`, and may come from standard input."""
    (tmp_path / "work.py").write_text("import sys\ndef work(n): return 'torch' in sys.modules\n")
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED.format(root=str(ROOT), folder=str(tmp_path)))
    given = [script] if how == "script" else ["-"]
    done = subprocess.run(
        [sys.executable, *given], input=script.read_text(), capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "runs\n", "")


PARENT = """
import os, time
from jobs.pool import Workers
if __name__ == "__main__":
    workers = Workers(2)
    print(*{w for w in workers.map(os.getpgid, [0] * 4)}, flush=True)
    print(*workers.pool._processes, flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs signals")
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent(tmp_path, kill):
    script = tmp_path / "parent.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{PARENT}")
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    parent.stdout.readline()
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert workers and all(running(pid) for pid in workers)
    parent.send_signal(kill)
    parent.communicate()
    until = time.monotonic() + 20
    while any(running(pid) for pid in workers) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(running(pid) for pid in workers)


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def test_a_killed_process_does_not_keep_the_lock_of_progress_bars():
    def work():
        tqdm.get_lock().acquire()
        os.kill(os.getpid(), signal.SIGKILL)

    progress([]).close()
    os.waitpid(fork(work), 0)
    assert tqdm.get_lock().acquire(timeout=5)
    tqdm.get_lock().release()
