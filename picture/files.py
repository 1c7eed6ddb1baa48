"""Read picture files with Pillow: check the size before decoding, rotate photos upright."""

import contextlib
import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

PICTURE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pbm", ".pgm", ".ppm")
)
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
KINDS = "PNG, JPEG, BMP, TIFF, WebP, GIF, PBM, PGM or PPM"
MAX_PIXELS = 1 << 26
MAX_BYTES = 1 << 28  # of a file
# Each scan of a JPEG visits all pixels; progressive JPEGs have about ten, bombs have thousands.
MAX_SCANS = 99


def find_pictures(folder: str | Path) -> tuple[list[Path], list[Path]]:
    """Return pictures and other files below a folder, no hidden ones; ValueError if no pictures."""
    from jobs.files import is_hidden  # takes a while

    files = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    files = [p for p in files if not any(map(is_hidden, p.relative_to(folder).parts))]
    pictures = [path for path in files if path.suffix.lower() in PICTURE_SUFFIXES]
    if not pictures:
        raise ValueError(f"{folder}: holds no pictures ({', '.join(sorted(PICTURE_SUFFIXES))})")
    return pictures, [path for path in files if path.suffix.lower() not in PICTURE_SUFFIXES]


def read_picture(path: str | Path, notices: list[str] | None = None) -> np.ndarray:
    """Read a picture file: (h,w), (h,w,3) BGR or (h,w,4) BGRA; photos are turned upright.

    The type is uint8; of 16-bit grey uint16, of floating-point grey float32. `notices` gets a
    sentence if the file holds more than one page or frame. Raises FileNotFoundError, or ValueError
    for what is no picture, damaged, or too large.
    """
    if not os.path.isfile(path):  # reading a pipe or a device may never end
        reason = "no such file, or not a regular file"
        raise FileNotFoundError(f"{path}: {reason}; expected a picture ({KINDS})")
    if os.path.getsize(path) > MAX_BYTES:
        raise ValueError(f"{path}: larger than {MAX_BYTES >> 20} MB; crop it to the character")
    with open(path, "rb") as stream:
        return decode_picture(stream.read(), str(path), notices)


def decode_picture(
    data: bytes, name: str = "picture", notices: list[str] | None = None
) -> np.ndarray:
    """Decode the bytes of a picture file; see `read_picture`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of odd metadata
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            scans = data.count(b"\xff\xda") if image.format in ("JPEG", "MPO") else 1
            if image.width * image.height > MAX_PIXELS or scans > MAX_SCANS:
                raise Image.DecompressionBombError
            pixels = from_pillow(image)
        except Image.DecompressionBombError:
            most = f"{MAX_PIXELS / 1e6:.0f} million pixels or {MAX_SCANS} scans"
            raise ValueError(f"{name}: more than {most}; crop it and save it anew") from None
        except Exception:  # Pillow's decoders raise many kinds
            reason = f"not a picture that can be decoded; expected {KINDS}"
            raise ValueError(f"{name}: {reason}") from None
        if notices is not None and image.format != "MPO":  # a phone's photo, with its preview
            with contextlib.suppress(Exception):  # EOFError, or that of a damaged second frame
                image.seek(1)
                notices.append("the file holds more than one page or frame; the first is read")
    return pixels


def from_pillow(image: Image.Image) -> np.ndarray:
    """Return the pixels of a Pillow image, upright: (h,w), (h,w,3) BGR or (h,w,4) BGRA."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "I":  # PNG, PGM and TIFF of 16 bit
        return np.asarray(image).clip(0, 65535).astype(np.uint16)
    if image.mode == "F" or image.mode.startswith("I;16"):
        return np.array(image)
    if image.has_transparency_data:
        return np.array(image.convert("RGBA"))[..., [2, 1, 0, 3]]
    if image.mode in ("1", "L"):
        return np.array(image.convert("L"))
    return np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])
