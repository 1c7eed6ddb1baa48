"""The official numbering of writers and files: who trains and who tests."""

from __future__ import annotations

import re


def writer_and_split(file_name: str) -> tuple[str | None, str | None]:
    """Return (writer, "train" | "test") of an official file name; None for what it does not tell.

    HWDB1.1 (1001..1240 train, 1241..1300 test) and the competition set (C001..C060, test) tell
    both by number. HWDB1.0 (001..420) and 1.2 (501..800) mix train and test numbers, so there the
    archive or folder the file comes from decides: give it as part of the name
    ("Gnt1.0Test.zip/006-t.gnt", "HWDB1.0trn_gnt/001-f.gnt").
    """
    *parents, name = re.split(r"[/\\]", file_name)
    match = re.match(r"([Cc]?\d{3,})(?!\d)", name)
    if not match:
        return None, None
    writer = match[1].upper()
    if writer.startswith("C"):
        return writer, "test" if 1 <= int(writer[1:]) <= 60 else None
    number = int(writer)
    if len(writer) == 4 and 1001 <= number <= 1300:
        return writer, "train" if number <= 1240 else "test"
    if len(writer) == 5 and 10001 <= number <= 29999 and number != 20000:  # synthesize_gnt.py
        return writer, "train" if number < 20000 else "test"
    if len(writer) == 3 and (1 <= number <= 420 or 501 <= number <= 800):
        for parent in reversed(parents):
            if match := re.search(r"(?i)(?:HWDB|Gnt)1\.[02]_?(tr|te?st)", parent):
                return writer, "train" if match[1].lower() == "tr" else "test"
    return writer, None
