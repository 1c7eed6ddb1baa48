"""Time training batches of the packed data set against torchvision's ImageFolder.

    python -m benchmarks.load

packed        CharacterDataset.fetch of random indices -> input (B,1,64,64) float -> augment
DataLoader    the same data set in DataLoader(dataset, 256, shuffle=True), in this process
ImageFolder   Grayscale, Resize((64, 64)), RandomAffine, ToTensor -> DataLoader, two workers that
              stay alive

All read the same PNG files; packing them is not timed. `affine` is the same distortion for both;
`all` is what train.py does: elastic distortion, stroke width, blur and leftovers as well.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import v2

from benchmarks import timing
from config import Config
from dataset import CharacterDataset, epoch_order
from model import to_input
from training.augment import Augmentation, augment

BATCH, SIZE = 256, 64


def usual(root: Path, augmented: bool) -> DataLoader:
    """Return the loader found in most repositories."""
    steps: list = [v2.Grayscale(), v2.Resize((SIZE, SIZE))]
    if augmented:
        steps.append(v2.RandomAffine(10, (0.04, 0.04), (0.85, 1.15), 11, fill=255))
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    data = datasets.ImageFolder(str(root), v2.Compose(steps))
    return DataLoader(data, BATCH, shuffle=True, num_workers=2, persistent_workers=True)


def packed(glyphs: CharacterDataset, strength: Augmentation | None) -> None:
    """Read an epoch of batches, and augment them."""
    order = epoch_order(len(glyphs), 0, 0)
    generator = torch.Generator().manual_seed(0)
    chosen = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    for batch, _ in glyphs.batches(chosen):
        x = to_input(batch)
        if strength:
            augment(x, strength, generator)


def measure(images: int, rounds: int) -> list[timing.Row]:
    config = Config()
    everything = Augmentation(**{key: getattr(config, key) for key in Augmentation._fields})
    affine = everything._replace(elastic=0, stroke=0, blur=0, leftovers=0)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = timing.write_tree(Path(folder) / "train", images)
        glyphs = CharacterDataset(root, size=SIZE)
        for augmented, kinds in (
            (False, {"no augmentation": None}),
            (True, {"affine": affine, "all": everything}),
        ):
            loader = usual(root, augmented)
            contestants = {"ImageFolder": lambda loader=loader: [len(x) for x, _ in loader]}
            for kind, strength in kinds.items():
                contestants[f"packed, {kind}"] = lambda strength=strength: packed(glyphs, strength)
            if not augmented:
                ours = DataLoader(glyphs, BATCH, shuffle=True)
                contestants["packed, DataLoader"] = lambda ours=ours: [len(x) for x, _ in ours]
            seconds = timing.alternate(contestants, rounds)
            name = f"ImageFolder, {next(iter(kinds))}"
            rows.append(timing.Row(name, timing.rate(seconds["ImageFolder"], images), "images/s"))
            for kind in list(contestants)[1:]:
                gain = timing.ratio(seconds, "ImageFolder", kind)
                fast = timing.rate(seconds[kind], images)
                rows.append(timing.Row(kind, fast, "images/s", gain, name))
    return rows


def main(argv: list[str] | None = None) -> int:
    options = timing.parser(__doc__)
    options.add_argument(
        "--images", type=timing.at_least_one, default=4096, help="files to make (default: 4096)"
    )
    options.add_argument(
        "--rounds", type=timing.at_least_one, default=5, help="of each (default: 5)"
    )
    given = options.parse_args(argv)
    timing.report(measure(given.images, given.rounds), given.json)
    return 0


if __name__ == "__main__":
    timing.start(main)
