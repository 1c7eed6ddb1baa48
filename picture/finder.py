"""Which ink was written, and for the character: a small convolutional network, run by numpy alone.

    ink (h,w) uint8, 0 = paper -> log odds (h,w) float32 that ink there was written by hand, and
    that writing there is the middle character's

The weights, finder.npz, are made by `python -m training.finder` from drawn scenes; their card is in
checkpoints/README.md. Maps are (channels, height, width), one after the other as in LAYERS.
"""

from __future__ import annotations

import os
from functools import lru_cache

import cv2
import numpy as np

WEIGHTS = os.path.join(os.path.dirname(__file__), "finder.npz")
SIDE = 112
CERTAIN = 6.0  # log odds beyond say no more when they are interpolated
WAYS = ("row", "column")
PART = 1024  # pixels of a map that are laid out at a time
# Name: input channels, output channels, kernel, stride, dilation.
LAYERS = {
    "down1": (2, 12, 4, 2, 1),
    "down2": (12, 20, 3, 2, 1),
    "same2": (20, 20, 3, 1, 1),
    "down3": (20, 36, 3, 2, 1),
    "same3": (36, 36, 3, 1, 1),
    "down4": (36, 48, 3, 2, 1),
    "same4": (48, 48, 3, 1, 1),
    "wide4": (48, 48, 3, 1, 2),
    "wider4": (48, 48, 3, 1, 3),
    "up3": (48, 36, 1, 1, 1),
    "join3": (36, 36, 3, 1, 1),
    "up2": (36, 20, 1, 1, 1),
    "join2": (20, 20, 3, 1, 1),
    "up1": (20, 12, 1, 1, 1),
    "join1": (12, 12, 3, 1, 1),
    "out": (12, 4, 1, 1, 1),
    "middle": (20, 1, 1, 1, 1),
    # Lines go on along rows and columns: what these hold on the average is told to all of it.
    **{f"{way}{scale}": (n, n, 1, 1, 1) for scale, n in ((1, 12), (2, 20)) for way in WAYS},
}


def to_finder(ink: np.ndarray) -> np.ndarray:
    """Bring ink (h,w) uint8 into the middle of (2,SIDE,SIDE) float32: ink in 0...1; 1 inside."""
    small = shrink(ink)
    page = np.zeros((2, SIDE, SIDE), np.float32)
    top, left = ((SIDE - side) // 2 for side in small.shape)
    view = page[:, top : top + small.shape[0], left : left + small.shape[1]]
    np.multiply(small, np.float32(1 / 255), out=view[0])
    view[1] = 1
    return page


def shrink(ink: np.ndarray) -> np.ndarray:
    """Bring the longer side of ink (h,w) uint8 to SIDE."""
    scale = SIDE / max(ink.shape)
    w, h = (max(1, round(side * scale)) for side in ink.shape[::-1])
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(ink, (w, h), interpolation=way)


def evidence(ink: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the log odds of ink (h,w) uint8: that it was written; that it is the middle's."""
    scale = SIDE / max(ink.shape)
    w, h = (max(1, round(side * scale)) for side in ink.shape[::-1])
    top, left = (SIDE - h) // 2, (SIDE - w) // 2
    found = []
    for y in run(to_finder(ink)):
        y = cv2.resize(y, (SIDE, SIDE)) if len(y) < SIDE else y
        y = y[top : top + h, left : left + w].clip(-CERTAIN, CERTAIN)
        found.append(cv2.resize(y, ink.shape[::-1], interpolation=cv2.INTER_LINEAR))
    return tuple(found)


def run(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits (SIDE,SIDE) and (SIDE/4,SIDE/4) float32 of an input (2,SIDE,SIDE)."""
    x1 = _along(1, _apply("down1", x))
    x2 = _along(2, _apply("same2", _apply("down2", x1)))
    x3 = _apply("same3", _apply("down3", x2))
    x4 = _apply("same4", _apply("down4", x3))
    x4 = x4 + _apply("wide4", x4)
    x4 = x4 + _apply("wider4", x4)
    x3 = _apply("join3", _apply("up3", x4, x3))
    x2 = _apply("join2", _apply("up2", x3, x2))
    x1 = _apply("join1", _apply("up1", x2, x1))
    parts = _apply("out", x1)
    written = np.empty((SIDE, SIDE), np.float32)
    for part in range(4):
        written[part // 2 :: 2, part % 2 :: 2] = parts[part]
    return written, _apply("middle", x2)[0]


def _along(scale: int, x: np.ndarray) -> np.ndarray:
    """Add to a map what its rows and its columns hold on the average."""
    mean = np.full(x.shape[2], 1 / x.shape[2], np.float32)
    weight, bias = weights()[f"row{scale}"]
    x = x + (weight @ (x @ mean) + bias)[..., None]
    weight, bias = weights()[f"column{scale}"]
    x += (weight @ (mean @ x) + bias)[:, None]
    return np.maximum(x, 0, out=x)


def _apply(name: str, x: np.ndarray, finer: np.ndarray | None = None) -> np.ndarray:
    """Return the map of a layer; where a finer one is given, that with the map added, doubled."""
    _, channels, kernel, stride, dilation = LAYERS[name]
    weight, bias = weights()[name]
    if weight.ndim == 3:
        y = _convolve(x, weight, dilation)
    else:
        x = _windows(x, kernel, stride) if kernel > 1 else x
        y = weight @ x.reshape(weight.shape[1], -1)
        y = y.reshape(channels, *x.shape[-2:])
    y += bias[..., None]
    if finer is not None:
        rows = y.repeat(2, 1)
        finer[..., ::2] += rows
        finer[..., 1::2] += rows
        y = finer
    return y if name in ("out", "middle") else np.maximum(y, 0, out=y)


def _convolve(x: np.ndarray, weight: np.ndarray, apart: int) -> np.ndarray:
    """Return the products (N,h,w) of a map's windows of 3 x 3 with weights (3,N,3*C).

    Three copies are laid out, moved by a column each; moved by a row they are a later part of the
    same memory. Some rows at a time stay in the cache.
    """
    channels, h, w = x.shape
    count = min(h, PART // w)
    y = np.empty((weight.shape[1], h * w), np.float32)
    laid = np.zeros((3, channels, count + 2 * apart, w), np.float32)
    flat = laid.reshape(3 * channels, -1)
    for top in range(0, h, count):
        first, last = max(0, top - apart), min(h, top + count + apart)
        given, rows = x[:, first:last], laid[:, :, first - top + apart : last - top + apart]
        rows[0, ..., apart:] = given[..., :-apart]
        rows[1] = given
        rows[2, ..., :-apart] = given[..., apart:]
        laid[:, :, last - top + apart :] = 0
        part = y[:, top * w : (top + count) * w]
        wide = part.shape[1]
        np.matmul(weight[0], flat[:, :wide], out=part)
        for row in (1, 2):
            start = row * apart * w
            part += weight[row] @ flat[:, start : start + wide]
    return y.reshape(-1, h, w)


def _windows(x: np.ndarray, kernel: int, stride: int) -> np.ndarray:
    """Return the windows (kernel,kernel,C,h',w') of a map with a border of zeros."""
    channels, h, w = x.shape
    rim = (kernel - 1) // 2
    padded = np.zeros((channels, h + 2 * rim, w + 2 * rim), np.float32)
    padded[:, rim : rim + h, rim : rim + w] = x
    deep, down, right = padded.strides
    return np.lib.stride_tricks.as_strided(
        padded,
        (kernel, kernel, channels, h // stride, w // stride),
        (down, right, deep, down * stride, right * stride),
    )


@lru_cache(maxsize=1)
def weights() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read weights and biases (N,1) of all layers.

    Weights are (N,K*K*C), or (3,N,3*C) for `_convolve`; in the file (K*K*C,N).
    """
    found = {}
    with np.load(WEIGHTS) as file:
        for name, (inputs, _, kernel, stride, _) in LAYERS.items():
            weight = file[name].astype(np.float32)
            if kernel == 3 and stride == 1:
                weight = weight.reshape(3, 3 * inputs, -1)
            weight = np.ascontiguousarray(weight.swapaxes(-1, -2))
            found[name] = weight, file[f"{name}.bias"].astype(np.float32)[:, None]
    return found
