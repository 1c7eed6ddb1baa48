"""Preprocessing, from a picture to the input of the network."""

import sys
from collections.abc import Mapping

from jobs.command import load_opencv

cv2 = load_opencv()  # scripts import it from here, before anything else that needs it
# ruff: noqa: E402, F401
from picture.files import PICTURE_SUFFIXES, decode_picture, find_pictures, from_pillow, read_picture
from picture.glyph import fit, is_clean, to_glyph, to_grey
from picture.proposals import Proposals, find_proposals

# The constants of the preprocessing. Packs and checkpoints store them, so a change is noticed. Of a
# checkpoint those of the glyph matter: the network is trained on all ink.
SETTINGS = {
    f"{module}.{name}": value
    for module in ("picture.glyph", "picture.proposals")
    for name, value in vars(sys.modules[module]).items()
    if name.isupper() and isinstance(value, int | float)
}


def changed_settings(stored: Mapping[str, float] | None) -> list[str]:
    """Return the constants of the glyph that differ from stored ones; none if none are stored."""
    names = SETTINGS.keys() | stored.keys() if stored else ()
    changed = (name for name in names if SETTINGS.get(name) != stored.get(name))
    return sorted(name for name in changed if name.startswith("picture.glyph."))
