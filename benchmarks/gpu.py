"""Time training and inference on a GPU; on a CPU with small batches.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --batch-size 2048 --json

For Small and Large with the default settings and 3755 classes, with and without --compile, it
prints images per second of training steps on a batch in memory (`steps`) and with fetching and
augmentation (`training`), the share of time of the latter two, and the peak of allocated memory.
Inference uses autocast.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import median

import torch

from benchmarks import timing
from benchmarks.step import CLASSES, contestants, start_run
from config import Config
from jobs import devices
from model import VARIANTS, mobilenet_v3


def training(
    folder: Path, variant: str, batch_size: int, device: str, compile: bool, rounds: int
) -> list[timing.Row]:
    """Return the rows of one network."""
    cuda = device == "cuda"
    steps = 7 if cuda else 1  # the tree holds eight batches, a tenth of them for validation
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    run, state = start_run(folder, variant, batch_size, device, compile)
    seconds = timing.alternate(contestants(run, state, steps), rounds, warmup=3 if compile else 1)
    name = variant + (" compiled" if compile else "")
    gain = 1 / timing.ratio(seconds, "whole", "pure")
    images = steps * batch_size
    rows = [
        timing.Row(f"{name}, steps", timing.rate(seconds["pure"], images), "images/s"),
        timing.Row(
            f"{name}, training",
            timing.rate(seconds["whole"], images),
            "images/s",
            gain,
            "the steps alone",
        ),
        timing.Row(f"{name}, share of data and augmentation", 100 * (1 - gain), "%"),
    ]
    if cuda:
        used = torch.cuda.max_memory_allocated() / 2**20
        rows.append(timing.Row(f"{name}, peak of memory, batch {batch_size}", used, "MiB"))
    return rows


def inference(variant: str, batch_size: int, device: torch.device, rounds: int) -> timing.Row:
    """Return the images per second from input to logits."""
    config = Config()
    network = mobilenet_v3(variant, CLASSES, last_stride=config.last_stride, head=config.head)
    network.eval().to(device, memory_format=torch.channels_last)
    x = torch.rand(batch_size, 1, config.size, config.size, device=device)
    x = x.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def read() -> None:
        dtype = devices.pick_dtype("auto", device)
        with torch.autocast(device.type, dtype, dtype != torch.float32):
            network(x)
        if device.type == "cuda":
            torch.cuda.synchronize()

    seconds = timing.alternate({"read": read}, rounds, warmup=3)["read"]
    return timing.Row(f"{variant}, inference", batch_size / median(seconds), "images/s")


def measure(variants: tuple[str, ...], batch_size: int, rounds: int) -> list[timing.Row]:
    """Return the rows of all variants."""
    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    batch_size = batch_size or (1024 if cuda else 32)
    named = (
        torch.cuda.get_device_name() if cuda else f"no GPU here, small form on {timing.machine()}"
    )
    print(f"device: {named}; batch {batch_size}", file=sys.stderr)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for variant in variants:
            rows.append(inference(variant, batch_size, torch.device(device), rounds))
            for compile in (False, True) if cuda else (False,):
                done = training(Path(folder), variant, batch_size, device, compile, rounds)
                print(*(f"{row.what}: {row.value:,.0f} {row.unit}" for row in done), sep="; ",
                      file=sys.stderr)  # fmt: skip
                rows += done
    return rows


def main(argv: list[str] | None = None) -> int:
    """Print the figures."""
    options = timing.parser(__doc__)
    options.add_argument("--variant", choices=VARIANTS, help="MobileNetV3 variant (default: both)")
    options.add_argument("--batch-size", type=int, default=0, help="0: 1024 on a GPU, else 32")
    options.add_argument(
        "--rounds", type=timing.at_least_one, default=7, help="rounds per measurement (default: 7)"
    )
    given = options.parse_args(argv)
    variants = (given.variant,) if given.variant else tuple(VARIANTS)
    timing.report(measure(variants, given.batch_size, given.rounds), given.json)
    return 0


if __name__ == "__main__":
    timing.start(main)
