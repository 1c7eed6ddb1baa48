"""The characters of HWDB (GB2312 level 1 and 171 symbols), class folders, class selection."""

import contextlib
import re
import string
import unicodedata
from functools import cache
from pathlib import Path

# Level 1 of GB2312, B0A1..D7F9: the 3755 characters of HWDB1.1, in GB order.
LEVEL1 = "".join(
    bytes([row, cell]).decode("gb18030")
    for row in range(0xB0, 0xD8)
    for cell in range(0xA1, 0xFF if row < 0xD7 else 0xFA)
)

# The 171 other classes of HWDB1.0 to 1.2 in the order of their tags. No official list was found;
# their number, the 10 digits and the 52 letters are published. The rest follows a public class list
# of the related online set: all printable ASCII characters but ' and _, and 79 GB symbols. It has
# ASCII as full-width forms; the .gnt files are assumed to tag ASCII itself.
SYMBOLS = (
    '!"#$%&()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^`abcdefghijklmnopqrstuvwxyz{|}~'
    "、。々…‘’“”《》±×÷∧∨∑∏∪∩∈√⊥∥⊙∫∮≡≌≈∽∝≠≤≥∞∵∴℃￡‰§№☆○◎◇□△※→←↑↓"
    "①②③④⑤⑥⑦⑧⑨⑩￥℅℉↖↗↘↙▽⊕㎎㎏㎜㎝㎞㎡㏄"
)

# Characters that a picture of one character cannot tell apart: the same strokes in the same
# proportions, at another size or height on the line, or with another meaning. 日 and 曰, 已 and 己
# are not among them: their proportions differ. A Chinese character stands first.
TWINS = ("口□", "工I", "一-", "二=", "三≡", "十+", "丁T", "丫Yy")


def select_classes(spec: str, option: str = "--classes") -> str | None:
    """Return the characters of a selection, or None for all that the data has.

    `spec` is `level1` (3755), `symbols` (171), `digits`, `letters`, `punctuation` (the other
    symbols), `all`, a number N (the first N of level 1 in GB order), or a UTF-8 file of characters:
    a text in which white space and repetitions do not count, or lines of an index and a character.
    Raises ValueError, naming `option`, for anything else.
    """
    letters = string.ascii_uppercase + string.ascii_lowercase
    named = {"level1": LEVEL1, "symbols": SYMBOLS, "digits": string.digits, "letters": letters}
    named["punctuation"] = "".join(c for c in SYMBOLS if c not in string.digits + letters)
    named["all"] = None
    if spec in named:
        return named[spec]
    if re.fullmatch(r"\d+", spec):
        if not 1 <= int(spec) <= len(LEVEL1):
            raise ValueError(f"{option} {spec}: a number is from 1 to {len(LEVEL1)} (level 1)")
        return LEVEL1[: int(spec)]
    if not Path(spec).is_file():
        expected = ", ".join(named)
        raise ValueError(f"{option} {spec}: expected {expected}, a number, or a file of characters")
    try:
        text = Path(spec).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{spec}: not a UTF-8 text of characters") from None
    characters = "".join(dict.fromkeys(_listed(text, spec)))
    if not characters:
        raise ValueError(f"{spec}: holds no characters")
    return characters


def _listed(text: str, name: str) -> str:
    """Return the characters of a list; ValueError if only some lines are index and character."""
    lines = [line.strip() for line in text.splitlines()]
    indexed = [re.fullmatch(r"\d+[\s,;:]+(\S)|", line) for line in lines]
    if not any(match and match[1] for match in indexed):
        return "".join(text.split())
    if None in indexed:
        line = indexed.index(None)
        what = f"{name}, line {line + 1}: {lines[line][:20]!r}"
        raise ValueError(f"{what}; expected an index and a character")
    return "".join(match[1] or "" for match in indexed)


def folder_name(character: str) -> str:
    """Return the class folder of a character: 啊 -> U+554A."""
    return f"U+{ord(character):04X}"


@cache
def character_of(folder: str, gbk: bool = False) -> str:
    """Return the label of a class folder: its character, or else its name.

    Forms of a character: U+4E09, u+4e09, 0x4E09, "U+4E09 三", 三, base and combining mark (macOS),
    and bytes in GBK that the file system could not decode, with `gbk` also those that are UTF-8.
    """
    code = r"(?:[Uu]\+([0-9A-Fa-f]{4,6})|0[Xx]([0-9A-Fa-f]{2,6}))(?:[ _-]?(.))?"
    if match := re.fullmatch(code, folder):
        number = int(match[1] or match[2], 16)
        if number <= 0x10FFFF and match[3] in (None, chr(number)):
            return chr(number)
    with contextlib.suppress(UnicodeError):
        data = folder.encode("utf-8" if gbk else "ascii", "surrogateescape")
        if len(character := data.decode("gbk")) == 1:
            return character
    return unicodedata.normalize("NFC", folder) if len(folder) > 1 else folder


def class_order(label: str) -> tuple:
    """Sort key of labels: single characters in GB order, then other names by code point."""
    if len(label) == 1:
        return 0, label.encode("gb18030", "replace"), label
    return 1, label.encode("utf-8", "surrogatepass"), label
