"""Time a training step, and training as a whole against its steps alone.

    python -m benchmarks.step
    python -m benchmarks.step --variant large --batch-size 64

mobilenet   forward, backward and AdamW step of the paper's network on a batch in memory, against
            torchvision's of the same shape: 1 channel, 3755 classes, 64 px, dropout 0.2
train.py    its network, loss, EMA and clipping on a batch in memory, against the same with
            fetching and augmentation, as in an epoch
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from torch import nn

import train
from benchmarks.timing import (
    Row,
    alternate,
    at_least_one,
    parser,
    rate,
    ratio,
    report,
    start,
    write_tree,
)
from config import Config
from model import mobilenet_v3
from training.devices import Processes

CLASSES = 3755


def paper_step(network: nn.Module, batch_size: int) -> Callable[[], None]:
    """Return a function that takes a training step on one batch."""
    network.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, fused=True)
    x = torch.rand(batch_size, 1, 64, 64).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (batch_size,))

    def step() -> None:
        nn.functional.cross_entropy(network(x), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def torchvisions(variant: str) -> nn.Module:
    """Return torchvision's network with one input channel."""
    network = getattr(torchvision.models, f"mobilenet_v3_{variant}")(num_classes=CLASSES)
    stem = network.features[0][0]
    network.features[0][0] = nn.Conv2d(1, stem.out_channels, 3, 2, 1, bias=False)
    return network


def make_trainer(
    folder: Path, variant: str, batch_size: int, device: str = "cpu", compile: bool = False
) -> train.Trainer:
    """Return a trainer on a small tree, with the head of all level-1 characters."""
    tree = folder / "train"
    if not tree.is_dir():
        write_tree(tree, 8 * batch_size, distinct=500)
    config = Config(
        data=(str(tree),),
        variant=variant,
        batch_size=batch_size,
        epochs=1000,
        out=str(folder / "run"),
        device=device,
        compile=compile,
    )
    trainer = train.Trainer(config, None, Processes(0, 1, 0))
    trainer.model.classifier[3] = nn.Linear(config.head, CLASSES, device=trainer.device)
    trainer.optimizer = torch.optim.AdamW(
        train.parameter_groups(trainer.model, config.weight_decay), config.lr, fused=True
    )
    trainer.ema = train.Ema(trainer.model, config.ema)
    trainer.model.train()
    return trainer


def contestants(trainer: train.Trainer, steps: int) -> dict[str, Callable[[], None]]:
    """Return training for some steps: on one batch in memory, and as in an epoch."""
    glyphs, labels, _ = next(iter(trainer.batches(0, 0, 1)))
    x = trainer.prepare(glyphs)

    def pure() -> None:
        for _ in range(steps):
            trainer.train_step(x, labels, None)
        trainer.check_finite()  # waits for the device

    def whole() -> None:
        for batch, labels, soft in trainer.batches(0, 0, steps):
            trainer.train_step(trainer.prepare(batch), labels, soft)
        trainer.check_finite()

    return {"pure": pure, "whole": whole}


def measure(variant: str, batch_size: int, rounds: int) -> list[Row]:
    ours = mobilenet_v3(variant, CLASSES)
    seconds = alternate(
        {
            "torchvision": paper_step(torchvisions(variant), batch_size),
            "ours": paper_step(ours, batch_size),
        },
        rounds,
    )
    rows = [
        Row(
            f"step of torchvision's {variant}", rate(seconds["torchvision"], batch_size), "images/s"
        ),
        Row(
            f"step of mobilenet_v3 {variant}",
            rate(seconds["ours"], batch_size),
            "images/s",
            ratio(seconds, "ours", "torchvision"),
            "torchvision's time",
        ),
    ]
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(Path(folder), variant, batch_size)
        seconds = alternate(contestants(trainer, 1), rounds)
    rows += [
        Row("train.py, steps on a batch in memory", rate(seconds["pure"], batch_size), "images/s"),
        Row(
            "train.py, with fetching and augmentation",
            rate(seconds["whole"], batch_size),
            "images/s",
            1 / ratio(seconds, "whole", "pure"),
            "the steps alone",
        ),
    ]
    return rows


def main(argv: list[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--variant", choices=("small", "large"), default="small")
    options.add_argument("--batch-size", type=at_least_one, default=128)
    options.add_argument("--rounds", type=at_least_one, default=15, help="of each (default: 15)")
    given = options.parse_args(argv)
    report(measure(given.variant, given.batch_size, given.rounds), given.json)
    return 0


if __name__ == "__main__":
    start(main)
