"""The official sets: archives, addresses, training and test writers, published counts."""

import os
import re
from typing import NamedTuple

PAGE = "https://nlpr.ia.ac.cn/databases/handwriting/Download.html"
# The site moved more than once; these are all addresses that are publicly named.
HOST, OLD_HOST = "https://nlpr.ia.ac.cn/Download/", "http://www.nlpr.ia.ac.cn/databases/"
NEW = (f"{HOST}Offline/CharData/", f"{OLD_HOST}Download/Offline/CharData/")
OLD = (f"{OLD_HOST}download/feature_data/", f"{OLD_HOST}Download/feature_data/")
COMPETITION = (f"{HOST}competition/", f"{OLD_HOST}Download/competition/")


class Edition(NamedTuple):
    """The archives of one set as published together, and the addresses they were seen under."""

    addresses: tuple[str, ...]
    names: tuple[str, ...]


EDITIONS = {
    "1.1": (
        Edition(NEW, ("Gnt1.1TrainPart1.zip", "Gnt1.1TrainPart2.zip", "Gnt1.1Test.zip")),
        Edition(OLD, ("HWDB1.1trn_gnt_P1.zip", "HWDB1.1trn_gnt_P2.zip", "HWDB1.1tst_gnt.zip")),
        Edition(OLD, ("HWDB1.1trn_gnt.zip", "HWDB1.1tst_gnt.zip")),
    ),
    "1.0": (
        Edition(NEW, (*(f"Gnt1.0TrainPart{part}.zip" for part in (1, 2, 3)), "Gnt1.0Test.zip")),
        Edition(OLD, ("HWDB1.0trn_gnt.zip", "HWDB1.0tst_gnt.zip")),
    ),
    "1.2": (Edition(NEW, ("Gnt1.2TrainPart1.zip", "Gnt1.2TrainPart2.zip", "Gnt1.2Test.zip")),),
    "competition": (Edition(COMPETITION, ("competition-gnt.zip",)),),
}

MD5 = {
    "Gnt1.1TrainPart1.zip": "72bac7b6a5ce37f184f277421adfacfd",
    "Gnt1.1TrainPart2.zip": "a8b76e4eccfb1fd8d56c448f6a096c27",
    "Gnt1.1Test.zip": "e74f9a4863e73d8b80ed402452c97448",
}

# Writers and images as published, train + test where both are known.
PUBLISHED = {
    "HWDB1.0": "420 writers, 1,680,258 images",
    "HWDB1.1": "240 + 60 writers, 938,679 + 234,228 images (897,758 + 223,991 of level 1)",
    "HWDB1.2": "300 writers, 1,041,970 images",
    "competition": "60 writers, 224,419 images of level 1",
}

# Which writers a set has: letter or number of digits, first and last, and their split.
NUMBERS = (
    ("competition", "C", 1, 60, "test"),
    ("HWDB1.1", 4, 1001, 1240, "train"),
    ("HWDB1.1", 4, 1241, 1300, "test"),
    ("HWDB1.0", 3, 1, 420, None),
    ("HWDB1.2", 3, 501, 800, None),
    ("synthetic", 5, 10001, 19999, "train"),
    ("synthetic", 5, 20001, 29999, "test"),
)
WRITER = re.compile(r"([Cc]?)([0-9]{3,18})(?![0-9])")
ARCHIVE = r"(?i)(?:HWDB|Gnt)1\.[02]_?(tr|te?st)"


def origin(file_name: str) -> tuple[str, str | None, str | None]:
    """Return set, writer and split ("train" | "test") of a .gnt file by its name.

    An unknown set is "other", unknown writers and splits are None. The writer's number decides. In
    HWDB1.0 and 1.2 the archive or folder does ("Gnt1.0Test.zip/006-t.gnt").
    """
    *parents, name = re.split(r"[/\\]", file_name)
    match = WRITER.match(name)
    if not match:
        return "other", None, None
    letter, writer = match[1].upper(), match[0].upper()
    parts = [m[1] for parent in reversed(parents) if (m := re.search(ARCHIVE, parent))]
    for known, form, first, last, split in NUMBERS:
        if (letter or len(writer)) == form and first <= int(match[2]) <= last:
            if split is None and parts:
                split = "train" if parts[0].lower() == "tr" else "test"
            if split is not None:
                return known, writer, split
    return "other", writer, None


def writer_of(file_name: str) -> str:
    """Return the writer of a .gnt file or of an image; "" if an image's name does not tell.

    The identity is the same wherever a sample is stored: 1001-c.gnt, 1001-s.gnt and the images
    converted from them (1001_00017.png, 1001+2_00017.png) belong to writer 1001. A .gnt file of any
    other name is a writer of its own: my_file.gnt and my-file_00017.png belong to my-file.
    """
    stem, suffix = os.path.splitext(re.split(r"[/\\]", file_name)[-1])
    if suffix.lower() != ".gnt":
        match = re.match(r"(.+?)(?:\+\d+)?_\d{5,6}$|([A-Za-z]?\d+)_", stem)
        if not match:
            return ""
        stem = match[1] or match[2]
    if number := WRITER.match(stem):
        return number[0].upper()
    return re.sub(r"[^\w.-]|_", "-", stem)[:60].strip(".") or "file"
