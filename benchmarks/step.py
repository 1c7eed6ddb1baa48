"""Time a training step, and an epoch against its steps without data loading.

    python -m benchmarks.step
    python -m benchmarks.step --variant large --batch-size 64

mobilenet   forward, backward and AdamW step of the paper's network on a batch in memory, against
            torchvision's of the same shape: 1 channel, 3755 classes, 64 px, dropout 0.2
train.py    its network, loss, EMA and gradient clipping on a batch in memory, against the same with
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
from benchmarks import timing
from config import Config
from hwdb.characters import LEVEL1
from jobs.devices import Processes
from model import mobilenet_v3

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


def start_run(
    folder: Path, variant: str, batch_size: int, device: str = "cpu", compile: bool = False
) -> tuple[train.Run, train.State]:
    """Return a run on a small tree, with the head of all level-1 characters."""
    tree = folder / "train"
    if not tree.is_dir():
        timing.write_tree(tree, 8 * batch_size, distinct=500)
    config = Config(
        data=(str(tree),),
        variant=variant,
        batch_size=batch_size,
        epochs=1000,
        out=str(folder / "run"),
        device=device,
        compile=compile,
    )
    run = train.open_run(config, Processes(0, 1, 0), list(LEVEL1))
    return run, train.State(run)


def contestants(run: train.Run, state: train.State, steps: int) -> dict[str, Callable[[], None]]:
    """Return training for some steps: on one batch in memory, and as in an epoch."""
    network = train.wrap(run, state.model.train())
    view = next(run.samples.views(0, 0, 1))

    def pure() -> None:
        for _ in range(steps):
            train.train_step(run, state, network, view)
        train.check_finite(run, state)  # waits for the device

    def whole() -> None:
        for view in run.samples.views(0, 0, steps):
            train.train_step(run, state, network, view)
        train.check_finite(run, state)

    return {"pure": pure, "whole": whole}


def measure(variant: str, batch_size: int, rounds: int) -> list[timing.Row]:
    ours = mobilenet_v3(variant, CLASSES)
    seconds = timing.alternate(
        {
            "torchvision": paper_step(torchvisions(variant), batch_size),
            "ours": paper_step(ours, batch_size),
        },
        rounds,
    )
    rows = [
        timing.Row(
            f"step of torchvision's {variant}",
            timing.rate(seconds["torchvision"], batch_size),
            "images/s",
        ),
        timing.Row(
            f"step of mobilenet_v3 {variant}",
            timing.rate(seconds["ours"], batch_size),
            "images/s",
            timing.ratio(seconds, "ours", "torchvision"),
            "torchvision's time",
        ),
    ]
    with tempfile.TemporaryDirectory() as folder:
        seconds = timing.alternate(
            contestants(*start_run(Path(folder), variant, batch_size), 1), rounds
        )
    rows += [
        timing.Row(
            "train.py, steps on a batch in memory",
            timing.rate(seconds["pure"], batch_size),
            "images/s",
        ),
        timing.Row(
            "train.py, with fetching and augmentation",
            timing.rate(seconds["whole"], batch_size),
            "images/s",
            1 / timing.ratio(seconds, "whole", "pure"),
            "the steps alone",
        ),
    ]
    return rows


def main(argv: list[str] | None = None) -> int:
    options = timing.parser(__doc__)
    options.add_argument("--variant", choices=("small", "large"), default="small")
    options.add_argument("--batch-size", type=timing.at_least_one, default=128)
    options.add_argument(
        "--rounds", type=timing.at_least_one, default=15, help="rounds per candidate (default: 15)"
    )
    given = options.parse_args(argv)
    timing.report(measure(given.variant, given.batch_size, given.rounds), given.json)
    return 0


if __name__ == "__main__":
    timing.start(main)
