"""From a picture to what the network sees: the one preprocessing."""

from picture.files import PICTURE_SUFFIXES as PICTURE_SUFFIXES
from picture.files import decode_picture as decode_picture
from picture.files import read_picture as read_picture
from picture.glyph import find_glyph as find_glyph
from picture.glyph import is_clean as is_clean
from picture.glyph import to_glyph as to_glyph
from picture.glyph import to_grey as to_grey


def proposals(picture, size=64, margin=None):
    """Return proposals (P,S,S) uint8 of the glyph in a picture; the first keeps all ink."""
    return to_glyph(picture, size, margin)[None]
