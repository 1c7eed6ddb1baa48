"""From a picture to what the network sees: the one preprocessing."""

import sys
from collections.abc import Mapping

from jobs.command import load_opencv

cv2 = load_opencv()  # scripts import it from here, before anything else that needs it
# ruff: noqa: E402
from picture.files import PICTURE_SUFFIXES as PICTURE_SUFFIXES
from picture.files import decode_picture as decode_picture
from picture.files import from_pillow as from_pillow
from picture.files import read_picture as read_picture
from picture.glyph import fit as fit
from picture.glyph import is_clean as is_clean
from picture.glyph import to_glyph as to_glyph
from picture.glyph import to_grey as to_grey
from picture.proposals import Proposals as Proposals
from picture.proposals import find_proposals as find_proposals
from picture.proposals import proposals as proposals

# The constants of the preprocessing. Packs and checkpoints store them, so a change is noticed.
SETTINGS = {
    f"{module}.{name}": value
    for module in ("picture.glyph", "picture.proposals")
    for name, value in vars(sys.modules[module]).items()
    if name.isupper() and isinstance(value, int | float)
}


def changed_settings(stored: Mapping[str, float] | None) -> list[str]:
    """Return the names of constants that differ from stored ones; none if nothing was stored."""
    names = SETTINGS.keys() | stored.keys() if stored else ()
    return sorted(name for name in names if SETTINGS.get(name) != stored.get(name))
