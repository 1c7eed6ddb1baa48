"""Fetch the official archives of CASIA-HWDB: `python process_gnt.py --download`.

The addresses of hwdb/sets.py are tried in order. A transfer that breaks off is continued where it
stopped (`NAME.part`), now or in the next run. An archive takes its name when its MD5 is the known
one or, where none is known, when it is a .zip whose files all have the right checksum.
"""

import hashlib
import http.client
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from hwdb.archives import is_whole_zip
from hwdb.sets import EDITIONS, MD5, PAGE
from jobs.command import progress

TIMEOUT = 30  # seconds without a byte
PAUSES = (1, 4)  # seconds before each further attempt, if the last one brought no byte
FAILURES = (
    urllib.error.URLError, http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError,
)  # fmt: skip


def download_set(name: str, folder: Path, mirror: str | None = None) -> list[Path]:
    """Fetch all archives of a set into a folder and return their paths.

    Editions are tried in turn, all from the mirror if one is given. If no edition can be fetched,
    print the answer of every address and raise OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    print(f"downloading HWDB {name} into {folder}; run again to continue", file=sys.stderr)
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
    print("no address has all archives:", *answers, sep="\n  ", file=sys.stderr)
    raise OSError(
        f"HWDB {name} could not be downloaded; get it from {PAGE}, "
        f"put the archives into {folder} and run: python process_gnt.py {folder}"
    )


def _fetch(file: str, addresses: tuple[str, ...], folder: Path, answers: list[str]) -> Path | None:
    path, part = folder / file, folder / f"{file}.part"
    if part.exists() and _is_sound(part, file):
        os.replace(part, path)
    if path.exists():
        if _is_sound(path, file):
            print(f"{path} is already there", file=sys.stderr)
            return path
        print(f"{path} is damaged; fetching it again", file=sys.stderr)
    for address in addresses:
        answer = _transfer(address + file, part)
        if not answer and _is_sound(part, file):
            os.replace(part, path)
            return path
        if not answer:
            part.unlink()
            answer = "another file than expected" if file in MD5 else "not a whole .zip archive"
        answers.append(f"{address}{file}: {answer}")
    return None


def _is_sound(path: Path, file: str) -> bool:
    """Return whether a file has the MD5 known for `file` or, if none is, is a whole .zip."""
    if file not in MD5:
        return is_whole_zip(path)
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest() == MD5[file]


def _transfer(url: str, part: Path) -> str:
    """Bring `part` to its full length; return "", or why three attempts brought no byte."""
    pauses = list(PAUSES)
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _continue(url, part, before):
                return ""
            answer = "the connection broke off"
        except FAILURES as error:
            answer = str(error) or type(error).__name__
            if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                return answer
        if part.exists() and part.stat().st_size > before:
            pauses = [0, *PAUSES]
        if not pauses:
            return answer
        time.sleep(pauses.pop(0))


def _continue(url: str, part: Path, have: int) -> bool:
    """Append what is missing to `part`; return whether it is complete now."""
    request = urllib.request.Request(url, headers={"User-Agent": "process_gnt"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing after byte `have`: another file
            raise
        part.unlink(missing_ok=True)
        return False
    with response:
        span = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        resumed = response.status == 206 and span is not None and int(span[1]) == have
        have = have if resumed else 0
        total = None if response.length is None else have + response.length
        bar = progress(total=total, initial=have, unit="B", unit_scale=True, desc=part.stem)
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
