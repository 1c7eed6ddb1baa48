"""Time training batches of the packed dataset against torchvision's ImageFolder.

    python -m benchmarks.load

ImageFolder   Grayscale, Resize((64, 64)), RandomAffine, ToTensor -> DataLoader, two persistent
              workers
packed        CharacterDataset.fetch of random indices -> input (B,1,64,64) float -> augment
DataLoader    the same dataset in DataLoader(dataset, 256, shuffle=True), in this process

All read the same PNG files; packing them is not timed. `affine` is the same augmentation for both;
`all` is that of train.py, with elastic distortion, stroke width, blur and leftovers.
"""

from __future__ import annotations

import tempfile
from collections import deque
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import v2

from benchmarks import timing
from config import Config
from dataset import CharacterDataset
from model import to_input
from training.augment import augment, draw_maps

BATCH, SIZE = 256, 64


def usual(root: Path, augmented: bool) -> DataLoader:
    """Return the loader found in most repositories."""
    steps: list = [v2.Grayscale(), v2.Resize((SIZE, SIZE))]
    if augmented:
        steps.append(v2.RandomAffine(10, (0.04, 0.04), (0.85, 1.15), 11, fill=255))
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    data = datasets.ImageFolder(str(root), v2.Compose(steps))
    return DataLoader(data, BATCH, shuffle=True, num_workers=2, persistent_workers=True)


def packed(dataset: CharacterDataset, config: Config | None = None) -> None:
    """Read an epoch of batches with `fetch`, and augment them."""
    generator = torch.Generator().manual_seed(0)
    for indices in torch.randperm(len(dataset), generator=generator).split(BATCH):
        x = to_input(dataset.fetch(indices.numpy())[0])
        if config:
            augment(x, draw_maps(len(x), config, generator), config, generator)


def measure(images: int, rounds: int) -> list[timing.Row]:
    everything = Config()
    affine = replace(everything, elastic=0, stroke=0, blur=0, leftovers=0)
    with tempfile.TemporaryDirectory() as folder:
        root = timing.write_tree(Path(folder) / "train", images)
        dataset = CharacterDataset(root, size=SIZE)
        plain, augmented = usual(root, False), usual(root, True)
        ours = DataLoader(dataset, BATCH, shuffle=True)
        contestants = {
            "ImageFolder": lambda: deque(plain, maxlen=0),
            "packed": lambda: packed(dataset),
            "packed, DataLoader": lambda: deque(ours, maxlen=0),
            "ImageFolder, affine": lambda: deque(augmented, maxlen=0),
            "packed, affine": lambda: packed(dataset, affine),
            "packed, all": lambda: packed(dataset, everything),
        }
        seconds = timing.alternate(contestants, rounds)
    rows = []
    for name, times in seconds.items():
        if name.startswith("ImageFolder"):
            baseline = name
        gain = timing.ratio(seconds, baseline, name)
        rows.append(timing.Row(name, timing.rate(times, images), "images/s", gain, baseline))
    return rows


def main(argv: list[str] | None = None) -> int:
    options = timing.parser(__doc__)
    options.add_argument(
        "--images", type=timing.at_least_one, default=4096, help="images to make (default: 4096)"
    )
    options.add_argument(
        "--rounds", type=timing.at_least_one, default=5, help="rounds per candidate (default: 5)"
    )
    given = options.parse_args(argv)
    timing.report(measure(given.images, given.rounds), given.json)
    return 0


if __name__ == "__main__":
    timing.start(main)
