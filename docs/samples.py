"""Draw the pictures of samples/: synthetic handwriting in the forms in which users submit it.

    python -m docs.samples

Each file is named by the code point of its character: U+6C38.png is 永. Scan, photo, light on dark,
page, transparent layer, mouse: all pass through the same preprocessing.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

from hwdb.characters import folder_name
from synthesis.templates import stroke_data
from synthesis.writer import Writer, render

ROOT = Path(__file__).resolve().parents[1]


def page(ink: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """Put a bitmap somewhere on white paper."""
    h, w = ink.shape
    canvas = np.full((side, side), 255, np.uint8)
    y, x = rng.integers(0, side - h), rng.integers(0, side - w)
    canvas[y : y + h, x : x + w] = ink
    return canvas


def photo(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Photograph blue ink on yellowish paper in light that falls off."""
    ink = page(ink, 180, rng).astype(np.float32) / 255
    ink = cv2.resize(ink, (360, 360), interpolation=cv2.INTER_CUBIC)[..., None].clip(0, 1)
    light = np.linspace(0.55, 1, 360)[None, :, None] * np.linspace(1, 0.8, 360)[:, None, None]
    colour = ink * np.array([190, 225, 235]) + (1 - ink) * np.array([120, 60, 45])
    return (colour * light + rng.normal(0, 4, (360, 360, 1))).clip(0, 255).astype(np.uint8)


def layer(ink: np.ndarray) -> np.ndarray:
    """Return black ink on a transparent layer."""
    picture = np.zeros((*ink.shape, 4), np.uint8)
    picture[..., 3] = 255 - ink
    return picture


def mouse(character: str) -> np.ndarray:
    """Draw the strokes as thin white lines on black."""
    canvas = np.zeros((320, 320), np.uint8)
    for stroke in stroke_data()[character][0]:
        at = np.stack([stroke.real, stroke.imag], 1) * 240 + 40
        cv2.polylines(canvas, [np.rint(at * 16).astype(np.int32)], False, 255, 3, cv2.LINE_AA, 4)
    return canvas


def main() -> int:
    """Write the pictures to samples/."""
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    for i, character in enumerate("永和九年岁在癸丑暮春之初"):
        rng = np.random.default_rng(i)
        ink = render(character, Writer.draw(100 + i, hard=0.8), rng)
        kinds = (
            lambda ink=ink: ink,
            lambda ink=ink, rng=rng: photo(ink, rng),
            lambda ink=ink: 255 - ink,
            lambda ink=ink, rng=rng: page(ink, 400, rng),
            lambda ink=ink: layer(ink),
            lambda character=character: mouse(character),
        )
        suffix = ".jpg" if i % len(kinds) == 1 else ".png"
        data = cv2.imencode(suffix, kinds[i % len(kinds)]())[1]
        data.tofile(ROOT / "samples" / f"{folder_name(character)}{suffix}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
