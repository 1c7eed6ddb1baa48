"""Fetch the official archives of CASIA-HWDB, with resume, checks and several addresses in turn.

Used by `python process_gnt.py --download`. Every address of hwdb/sets.py is tried in order. A
transfer that breaks off is continued where it stopped (`NAME.part`), now or in the next run. An
archive takes its name when its MD5 is the known one or, where none is known, when it has the
announced length, a directory, and the right checksum of every file. Left out: anything but plain
HTTP(S), also by redirection.
"""

import hashlib
import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from hwdb.archives import is_whole_zip
from hwdb.sets import EDITIONS, MD5, PAGE

TIMEOUT = 30  # seconds without a byte
ATTEMPTS = 4  # in a row that bring nothing, per address
FAILURES = (OSError, http.client.HTTPException)


def download_set(name: str, folder: Path, mirror: str | None = None) -> list[Path]:
    """Fetch all archives of a set into a folder and return their paths.

    The editions are tried in turn, from the mirror alone if one is given. Raises OSError with
    every address that was tried and its answer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    answers: list[str] = []
    for edition in EDITIONS[name]:
        addresses = (mirror.rstrip("/") + "/",) if mirror else edition.addresses
        paths = []
        for file in edition.names:
            path = _fetch(file, addresses, folder, answers)
            if path is None:
                break
            paths.append(path)
        else:
            return paths
    tried = "\n  ".join(answers)
    raise OSError(
        f"HWDB {name} could not be downloaded; what the addresses answered:\n  {tried}\n"
        f"Get it by hand from {PAGE}, put it into {folder}/ as it is,\n"
        f"and run: python process_gnt.py {folder}"
    )


def _fetch(file: str, addresses: tuple[str, ...], folder: Path, answers: list[str]) -> Path | None:
    path, part = folder / file, folder / f"{file}.part"
    if path.exists():
        if _sound(path):
            print(f"{path} is already there", file=sys.stderr)
            return path
        print(f"{path} is damaged; fetching it again", file=sys.stderr)
    for address in addresses:
        try:
            _transfer(address + file, part)
            if _sound(part, file):
                os.replace(part, path)
                return path
            part.unlink()
            wrong = f"has not the MD5 {MD5[file]}" if file in MD5 else "is no whole .zip archive"
            answers.append(f"{address}{file}: the file {wrong}")
        except urllib.error.HTTPError as error:
            answers.append(f"{address}{file}: {error.code} {error.reason}")
        except FAILURES as error:
            if getattr(error, "filename", None):
                raise
            answers.append(f"{address}{file}: {_reason(error)}")
    return None


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return str(reason) or type(error).__name__


def _sound(path: Path, file: str | None = None) -> bool:
    """Tell whether a file has the known MD5 or, where none is known, is a .zip without a fault."""
    expected = MD5.get(file or path.name)
    if expected is None:
        return is_whole_zip(path)
    with path.open("rb") as stream:
        digest = hashlib.md5(usedforsecurity=False)
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest() == expected


def _opener() -> urllib.request.OpenerDirector:
    """Return what opens HTTP(S) and nothing else, wherever a redirection leads."""
    opener = urllib.request.OpenerDirector()
    for handler in ("Proxy", "HTTP", "HTTPS", "HTTPDefaultError", "HTTPRedirect", "Unknown"):
        opener.add_handler(getattr(urllib.request, f"{handler}Handler")())
    opener.add_handler(urllib.request.HTTPErrorProcessor())
    return opener


def _transfer(url: str, part: Path) -> None:
    """Bring `part` to its full length; gives up after ATTEMPTS in a row without a new byte."""
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _continue(url, part, before):
                return
            error: Exception = OSError("the connection broke off")
        except urllib.error.HTTPError as problem:
            if problem.code < 500:
                raise
            error = problem
        except FAILURES as problem:
            if getattr(problem, "filename", None):  # of ours: the disk, not the network
                raise
            error = problem
        after = part.stat().st_size if part.exists() else 0
        failures = 0 if after > before else failures + 1
        if failures == ATTEMPTS:
            raise error
        print(f"{part.name}: {_reason(error)}; going on at byte {after:,}", file=sys.stderr)
        time.sleep(min(8, 2**failures) / 2)


def _continue(url: str, part: Path, have: int) -> bool:
    """Append what is missing to `part`; tell whether it is complete now."""
    request = urllib.request.Request(url, headers={"User-Agent": "process_gnt"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = _opener().open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing behind byte `have`: complete, or another file
            raise
        total = re.search(r"\*/(\d+)", error.headers.get("Content-Range", ""))
        if total and int(total[1]) == have:
            return True
        part.unlink()
        return False
    with response:
        span = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        resumed = response.status == 206 and span is not None and int(span[1]) == have
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length and length.isdecimal() else None
        bar = tqdm(
            total=total, initial=have, unit="B", unit_scale=True, desc=part.stem, disable=None
        )
        with part.open("ab" if resumed else "wb") as stream, bar:
            while chunk := response.read(1 << 18):
                try:
                    stream.write(chunk)
                    stream.flush()
                except OSError as error:
                    raise OSError(error.errno, error.strerror, str(part)) from None
                have += len(chunk)
                bar.update(len(chunk))
    return total is None or have == total
