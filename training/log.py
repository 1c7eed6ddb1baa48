"""The log of a run: one line per epoch on stdout and in log.jsonl, and TensorBoard files.

tag in TensorBoard             from
accuracy/top1, accuracy/top5   validation
loss/train, loss/validation    with and without label smoothing and augmentation
pace/...                       learning rate, images per second
pictures/inputs                the first batch as the network sees it
pictures/mistakes              the most confident mistakes of the validation
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from config import Config
from jobs.files import write_file

SCALARS = {
    "accuracy/top1": "top1",
    "accuracy/top5": "top5",
    "loss/train": "loss",
    "loss/validation": "val_loss",
    "pace/learning_rate": "lr",
    "pace/images_per_second": "samples_per_second",
}


class Log:
    """The log of a run in `folder`, with `done` epochs finished before."""

    def __init__(self, folder: Path, config: Config, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self.path = folder / "log.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_text().splitlines() if self.path.exists() and done else []
        # Drop a line that is cut off, and those of epochs that are repeated.
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["epoch"] <= done]
        write_file(self.path, "".join(f"{line}\n" for line in kept).encode())
        self.board = SummaryWriter(str(folder), purge_step=done + 1)
        settings = [f"| {key} | `{value}` |" for key, value in config.to_dict().items()]
        self.board.add_text("settings", "\n".join(["| setting | value |", "|---|---|", *settings]))
        print(
            f"{'epoch':>7}{'loss':>8}{'top-1':>8}{'top-5':>8}{'val loss':>9}"
            f"{'lr':>9}{'images/s':>10}{'time':>8}",
            flush=True,
        )

    def inputs(self, x: Tensor, epoch: int) -> None:
        """Log inputs (B,1,S,S) in 0...1 as an image."""
        from torchvision.utils import make_grid

        self.board.add_image("pictures/inputs", make_grid(1 - x, nrow=8, pad_value=0.5), epoch)

    def epoch(self, row: Mapping[str, float], sheet: np.ndarray) -> None:
        """Log the figures of an epoch and an image (H,W) uint8 of the mistakes."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        for tag, key in SCALARS.items():
            self.board.add_scalar(tag, row[key], row["epoch"])
        self.board.add_image("pictures/mistakes", sheet, row["epoch"], dataformats="HW")
        self.board.flush()
        print(
            f"{row['epoch']:>7}{row['loss']:>8.4f}{row['top1']:>8.2%}{row['top5']:>8.2%}"
            f"{row['val_loss']:>9.4f}{row['lr']:>9.2e}{row['samples_per_second']:>10.0f}"
            f"{row['seconds']:>7.0f}s",
            flush=True,
        )
