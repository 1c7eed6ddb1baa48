"""Measure what parts of the synthesizer are worth to a small network that saw nothing else.

    python -m benchmarks.value hwdb63/test icdar13_dev.gnt --fonts DIR
    python -m benchmarks.value hwdb63/train --only default "no joins" --seeds 3
    python -m benchmarks.value hwdb63/test --only default --also FOLDER   # another's pictures

For every variant the same number of pictures is drawn, each by a writer of its own, a network of
two layers is trained on them, and real pictures are read among all classes. What the network sees
is the strength of edges in eight directions on a grid of 8 x 8, so that it trains in minutes on a
CPU. The variants leave one part out, or bring one in.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from benchmarks import timing
from hwdb.characters import LEVEL1, SYMBOLS, select_classes
from jobs.command import progress
from jobs.pool import Workers, cores
from packing import open_pack
from picture import to_glyph
from synthesis.templates import open_fonts
from synthesis.writer import HARD, Writer, render

SIDE, GRID, DIRECTIONS = 64, 8, 8
HIDDEN = 256
STILL = {"shift": 0.0, "turn": 0.0, "stretch": 0.0, "bow": 0.0, "bow_spread": 0.0}
RIGID = {"component_shift": 0.0, "component_stretch": 0.0}
FRAME = {"unsteady_size": 0.0, "aspect": 0.84, "slant": 0.03, "rise": 0.11, "rotation": 0.0}
NO_JOINS = {"joining": -50.0, "tails": 0.0}
# What a variant changes: fields of every writer, or `hard`, `small`, `font_share` of the drawing.
VARIANTS: dict[str, dict] = {
    "default": {},
    "no joins": NO_JOINS,
    "no abbreviations": {"abbreviation": 0.0},
    "stroke order as printed": {"swapping": 0.0},
    "no strokes or hooks left out": {"skip": 0.0, "hookless": 0.0},
    "strokes stay": STILL,
    "components stay": RIGID,
    "no warp": {"warp": 0.0},
    "one size and slant": FRAME,
    "corners stay": {"smoothing": 0.0},
    "only pen and ink vary": NO_JOINS
    | {"abbreviation": 0.0, "swapping": 0.0, "skip": 0.0, "hookless": 0.0}
    | {"warp": 0.0, "smoothing": 0.0}
    | STILL
    | RIGID
    | FRAME,
    "careful writers": {"hard": (0.6, 0.6)},
    "wild writers": {"hard": (1.5, 1.5)},
    "small 0.2": {"small": 0.2},
    "fonts 0.4": {"font_share": 0.4},
    "fonts only": {"font_share": 1.0},
}


def features(glyphs: np.ndarray) -> np.ndarray:
    """Return the strength of edges (N,512) float16 of glyphs (N,64,64) uint8."""
    angles = np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS)
    axes = np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    found = np.empty((len(glyphs), GRID * GRID * DIRECTIONS), np.float16)
    for row, glyph in zip(found, glyphs, strict=True):
        soft = cv2.GaussianBlur(glyph, (0, 0), 1)
        edges = np.stack([cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1)], 2)
        planes = np.maximum(edges @ axes, 0)
        row[:] = np.sqrt(cv2.resize(planes, (GRID, GRID), interpolation=cv2.INTER_AREA)).ravel()
    return found


def draw(classes: str, change: dict, folder: str, seed: int, sample: int) -> np.ndarray:
    """Return the features (K,512) of one picture of every class, each by another writer."""
    cv2.setNumThreads(1)
    fonts = open_fonts(folder, classes)
    fields = {k: v for k, v in change.items() if k not in ("hard", "small", "font_share")}
    share = change.get("font_share", 0.0)
    glyphs = np.empty((len(classes), SIDE, SIDE), np.uint8)
    for k, character in enumerate(classes):
        rng = np.random.default_rng((seed, sample, k))
        writer = Writer.draw(rng, rng.uniform(*change.get("hard", HARD)), change.get("small", 0.0))
        picture = render(character, writer.but(**fields), rng, fonts if share else None, share)
        glyphs[k] = to_glyph(picture, SIDE)
    return features(glyphs)


def train(x: torch.Tensor, y: torch.Tensor, classes: int, epochs: int, seed: int) -> nn.Module:
    """Train the network of two layers on features (N,512) and labels (N,)."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.BatchNorm1d(x.shape[1]), nn.Linear(x.shape[1], HIDDEN), nn.BatchNorm1d(HIDDEN),
        nn.ReLU(), nn.Linear(HIDDEN, classes),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), 0.003, weight_decay=0.02)
    batches = -(-len(x) // 256)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.003, epochs * batches)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).tensor_split(batches):
            loss = nn.functional.cross_entropy(
                network(x[rows].float()), y[rows], label_smoothing=0.1
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def read_pictures(source: Path, classes: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features (N,512) and labels (N,) of a source's pictures of the classes."""
    pack = open_pack(source, SIDE)
    places = np.array([classes.find(name) for name in pack.classes])
    labels = places[pack.labels]
    known = labels >= 0
    return torch.from_numpy(features(pack.first(np.flatnonzero(known)))), torch.from_numpy(
        labels[known]
    )


@torch.inference_mode()
def score(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """Return top-1 and top-5 in percent."""
    best = torch.cat([network(part.float()).topk(5).indices for part in x.split(4096)])
    right = best == y[:, None]
    return 100 * float(right[:, 0].float().mean()), 100 * float(right.any(1).float().mean())


def contestants(given, classes: str, fonts: str, names: list[str]) -> Iterator[tuple]:
    """Yield seed, name, features (N,512) and labels (N,) of every set to train on."""
    labels = torch.arange(len(classes)).repeat(given.samples)
    with Workers(given.workers) as pool:
        for seed in range(1, given.seeds + 1):
            for name in names:
                make = partial(draw, classes, VARIANTS[name], fonts, seed)
                drawn = pool.map(make, range(given.samples))
                bar = progress(drawn, desc=name, total=given.samples)
                yield seed, name, torch.from_numpy(np.concatenate(list(bar))), labels
            for source in given.also:
                yield seed, str(source), *read_pictures(source, classes)


def main(argv: list[str] | None = None) -> int:
    """Print top-1 and top-5 on every real source for every variant and seed."""
    parser = timing.parser(__doc__)
    parser.add_argument("sources", nargs="+", type=Path, help="real pictures, as test.py")
    parser.add_argument("--fonts", type=Path, metavar="DIR", help="font files, for two variants")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, help="some of the variants")
    parser.add_argument(
        "--also", nargs="+", type=Path, default=[], metavar="PATH",
        help="sets to train on besides the variants, as they are: a tree or .gnt files each",
    )  # fmt: skip
    parser.add_argument("--classes", default="level1", metavar="SPEC", help="as synthesize_gnt.py")
    parser.add_argument("--samples", type=timing.at_least_one, default=24, help="pictures a class")
    parser.add_argument("--epochs", type=timing.at_least_one, default=8)
    parser.add_argument(
        "--seeds", type=timing.at_least_one, default=1, help="how often, each with other pictures"
    )
    parser.add_argument("--workers", type=timing.at_least_one, default=cores())
    given = parser.parse_args(argv)
    classes = select_classes(given.classes) or LEVEL1 + SYMBOLS
    fonts = str(given.fonts or "")
    open_fonts(fonts, classes)  # complains before the work begins
    real = {source: read_pictures(source, classes) for source in given.sources}
    names = given.only or [n for n, v in VARIANTS.items() if fonts or "font_share" not in v]
    if not fonts and any("font_share" in VARIANTS[name] for name in names):
        parser.error("the variants with fonts need --fonts DIR")
    rows, base = [], {}
    for seed, name, x, labels in contestants(given, classes, fonts, names):
        network = train(x, labels, len(classes), given.epochs, seed)
        for source, (seen, truth) in real.items():
            for top, value in zip((1, 5), score(network, seen, truth), strict=True):
                first = base.setdefault((seed, source, top), value)
                label = f"{name}, seed {seed}: {source.name} top-{top}"
                rows.append(timing.Row(label, value, "%", value / first, names[0]))
                if not given.json:
                    print(f"{label:60} {value:6.2f} %", flush=True)
    if given.json:
        timing.report(rows, True)
    return 0


if __name__ == "__main__":
    timing.start(main)
