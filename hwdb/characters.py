"""The characters of HWDB: level 1 of GB2312, the 171 symbols, class folders, selections."""

import contextlib
import re
import unicodedata
from functools import cache
from pathlib import Path

# Level 1 of GB2312, B0A1..D7F9: the 3755 characters of HWDB1.1, in GB order.
LEVEL1 = "".join(
    bytes([row, cell]).decode("gb18030")
    for row in range(0xB0, 0xD8)
    for cell in range(0xA1, 0xFF if row < 0xD7 else 0xFA)
)

# The 171 other classes of HWDB1.0 to 1.2, in the order of their tags. Certain: there are 171, and
# among them 10 digits and 52 letters. The rest follows the class list of 7356 characters that users
# of the online sister set (same pages, same writers) have published, which counts 171 too: 92 of
# the 94 printable ASCII characters (without ' and _) and 79 GB symbols. That list writes ASCII as
# full-width forms; the .gnt files are taken to tag them as ASCII. Not to be had: an official list.
# Nothing is dropped for not being listed here unless `--classes symbols` asks for it.
SYMBOLS = (
    '!"#$%&()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^`abcdefghijklmnopqrstuvwxyz{|}~'
    "、。々…‘’“”《》±×÷∧∨∑∏∪∩∈√⊥∥⊙∫∮≡≌≈∽∝≠≤≥∞∵∴℃￡‰§№☆○◎◇□△※→←↑↓"
    "①②③④⑤⑥⑦⑧⑨⑩￥℅℉↖↗↘↙▽⊕㎎㎏㎜㎝㎞㎡㏄"
)


# Characters that no picture of one character can tell apart: the same strokes in the same
# proportions, only larger or smaller, higher or lower on the line, or of another meaning. Chosen
# by that rule, not from mistakes of a network. Pairs within level 1 (日 and 曰, 已 and 己) are not
# among them: their proportions differ. A group are twins of each other; `test.py` counts them
# apart.
TWINS = ("0Oo○。", "口□", "1lI|", "I工", "一-", "二=", "三≡", "十+", "丁T", "丫Yy", ",’", "、`",
         '"”', "~∽", "∧^", "∨Vv", "∪Uu", "×Xx", "Cc", "Kk", "Pp", "Ss", "Ww", "Zz")  # fmt: skip


def select_classes(spec: str, option: str = "--classes") -> str | None:
    """Return the characters that `spec` names, or None for all that are there.

    `level1` (3755), `symbols` (171), `digits`, `letters`, `punctuation` (the other symbols),
    `all`, a number N (the first N of level 1 in GB order), or the path of a UTF-8 file of
    characters: one text in which white space and repetitions do not count, or lines of an index, a
    tab, comma or space, and a character. Errors name the option that it was given by.
    """
    letters = "".join(c for c in SYMBOLS if c.isascii() and c.isalpha())
    digits = "".join(c for c in SYMBOLS if c.isascii() and c.isdigit())
    rest = "".join(c for c in SYMBOLS if c not in letters + digits)
    named = {"level1": LEVEL1, "symbols": SYMBOLS, "all": None}
    named |= {"digits": digits, "letters": letters, "punctuation": rest}
    if spec in named:
        return named[spec]
    if re.fullmatch(r"\d+", spec):
        if not 1 <= int(spec) <= len(LEVEL1):
            raise ValueError(f"{option} {spec}: a number is from 1 to {len(LEVEL1)} (level 1)")
        return LEVEL1[: int(spec)]
    path = Path(spec)
    if not path.is_file():
        expected = ", ".join(named)
        raise ValueError(f"{option} {spec}: expected {expected}, a number, or a file of characters")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{spec}: not a UTF-8 text of characters ({error})") from None
    characters = "".join(dict.fromkeys(_listed(text, spec)))
    if not characters:
        raise ValueError(f"{spec}: holds no characters")
    return characters


def _listed(text: str, name: str) -> str:
    """Return the characters of a list; ValueError for a line that is not read as all others are.

    If the first line is an index and a character, so must be all.
    """
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1)]
    lines = [(number, words) for number, words in lines if words]
    indexed = [re.fullmatch(r"\d+[\t ,;:]+(\S)", " ".join(words)) for _, words in lines]
    if not any(indexed):
        return "".join("".join(words) for _, words in lines)
    for (number, words), match in zip(lines, indexed, strict=True):
        if not match:
            found = " ".join(words)[:20]
            raise ValueError(f"{name}, line {number}: {found!r}; expected an index and a character")
    return "".join(match[1] for match in indexed)


def folder_name(character: str) -> str:
    """Return the class folder of a character: 啊 -> U+554A."""
    return f"U+{ord(character):04X}"


@cache
def character_of(folder: str, gbk: bool = False) -> str:
    """Return the label of a class folder: its character, or else its name.

    The character is understood in all of these forms: U+4E09, u+4e09, 0x4E09, "U+4E09 三", 三, as
    base and combining mark (macOS), and as bytes in GBK that the file system could not decode. With
    `gbk` also as bytes in GBK that happen to be UTF-8.
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
