"""Download the official archives of CASIA-HWDB: `python process_gnt.py --download`.

The addresses of hwdb/sets.py are tried in order. An interrupted transfer (`NAME.part`) is resumed,
now or in the next run. A finished file is renamed if its MD5 is the published one or, where none is
published, if it ends like a .zip file; the converter verifies all checksums.
"""

import hashlib
import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from hwdb.sets import EDITIONS, MD5, PAGE
from jobs.command import progress

TIMEOUT = 30  # seconds without a byte
ATTEMPTS = 3  # in a row that bring no byte
OPENER = urllib.request.OpenerDirector()  # not urlopen, which follows redirects to FTP
for kind in ("Proxy", "Unknown", "HTTP", "HTTPS", "HTTPDefaultError", "HTTPRedirect"):
    OPENER.add_handler(getattr(urllib.request, f"{kind}Handler")())
OPENER.add_handler(urllib.request.HTTPErrorProcessor())


def download_set(name: str, folder: Path, mirror: str | None = None) -> list[Path]:
    """Fetch all archives of a set into a folder and return their paths.

    Editions are tried in turn, all from the mirror if one is given. If no edition can be fetched,
    print the answer of every address and raise OSError; ValueError if a mirror is not HTTP(S).
    """
    if mirror and not mirror.lower().startswith(("http://", "https://")):
        raise ValueError(f"--mirror {mirror}: expected an address with http:// or https://")
    size = " (2.3 GB)" if name == "1.1" else ""
    print(f"downloading HWDB {name}{size} into {folder}; run again to continue", file=sys.stderr)
    answers: list[str] = []
    for edition in EDITIONS[name]:
        addresses = (mirror.rstrip("/") + "/",) if mirror else edition.addresses
        paths = [folder / file for file in edition.names]
        if all(_fetch(path, addresses, answers) for path in paths):
            return paths
    print("no address has all archives:", *answers, sep="\n  ", file=sys.stderr)
    raise OSError(
        f"HWDB {name} could not be downloaded; get it from {PAGE}, "
        f"put the archives into {folder} and run: python process_gnt.py {folder}"
    )


def _fetch(path: Path, addresses: tuple[str, ...], answers: list[str]) -> bool:
    """Fetch an archive from the first address that has it; append why the others failed."""
    part = path.with_name(f"{path.name}.part")
    for there in (path, part):
        if there.exists() and _is_sound(there, path.name):
            os.replace(there, path)
            print(f"{path} is already there", file=sys.stderr)
            return True
    for address in addresses:
        answer = _transfer(address + path.name, part)
        if not answer and _is_sound(part, path.name):
            os.replace(part, path)
            return True
        if not answer:
            part.unlink()
            answer = "not the whole archive"
        answers.append(f"{address}{path.name}: {answer}")
    return False


def _is_sound(path: Path, name: str) -> bool:
    """Return whether a file has the MD5 known for `name` or, if none is, is a .zip to its end."""
    if name not in MD5:
        return zipfile.is_zipfile(path)
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest() == MD5[name]


def _transfer(url: str, part: Path) -> str:
    """Bring `part` to its full length; return "", or why the last attempts brought no byte."""
    failures = 0
    while failures < ATTEMPTS:
        time.sleep(failures)
        before = part.stat().st_size if part.exists() else 0
        try:
            if _continue(url, part, before):
                return ""
            answer = "the connection broke off"
        except (OSError, http.client.HTTPException) as error:
            answer = str(error) or type(error).__name__
            if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                break
        grown = part.exists() and part.stat().st_size > before
        failures = 0 if grown else failures + 1
    return answer


def _continue(url: str, part: Path, have: int) -> bool:
    """Append what is missing to `part`; return whether it is complete now."""
    request = urllib.request.Request(url, headers={"User-Agent": "process_gnt"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = OPENER.open(request, timeout=TIMEOUT)
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
                stream.write(chunk)
                have += len(chunk)
                bar.update(len(chunk))
    return total is None or have == total
