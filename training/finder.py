"""Train the finder of picture/: which ink was written, and which for the middle character.

    python -m training.finder                      # picture/finder.npz, from scenes that it draws
    python -m training.finder --resume             # goes on where it was stopped

Every sample is a drawn scene (synthesis/scenes.py), lifted from its paper as a user's picture is.
The loss counts where there is ink. Left out: real pictures, GPUs.
"""

import argparse
import math
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from jobs.command import command
from jobs.files import replacing
from picture import finder
from picture.glyph import lift
from synthesis.scenes import characters, scene

BATCH = 16
FRESH = 7  # scenes drawn for each batch
HANDS = 800  # characters that scenes are made of at a time
HELD = 128  # scenes to check on
PARTS = ("model", "average", "optimizer")
PLAIN = ("out", "middle")  # layers without batch norm
STORE = 512  # scenes that batches are drawn from


class Finder(nn.Module):
    """The network of picture/finder.py in training, with batch norm.

    (B,2,S,S) -> logits (B,S,S) that ink was written, (B,S,S) that it is the middle character's
    """

    def __init__(self) -> None:
        super().__init__()
        for name, (inputs, outputs, kernel, stride, dilation) in finder.LAYERS.items():
            rim = dilation * ((kernel - 1) // 2)
            conv = nn.Conv2d(inputs, outputs, kernel, stride, rim, dilation, bias=name in PLAIN)
            layer = conv if name in PLAIN else nn.Sequential(conv, nn.BatchNorm2d(outputs))
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x1 = self.along(1, self.down1(x).relu())
        x2 = self.along(2, self.same2(self.down2(x1).relu()).relu())
        x3 = self.same3(self.down3(x2).relu()).relu()
        x4 = self.same4(self.down4(x3).relu()).relu()
        x4 = x4 + self.wide4(x4).relu()
        x4 = x4 + self.wider4(x4).relu()
        x3 = self.join3(self.raised(self.up3(x4), x3)).relu()
        x2 = self.join2(self.raised(self.up2(x3), x2)).relu()
        x1 = self.join1(self.raised(self.up1(x2), x1)).relu()
        middle = F.interpolate(self.middle(x2), scale_factor=4.0, mode="bilinear")
        return F.pixel_shuffle(self.out(x1), 2)[:, 0], middle[:, 0]

    def along(self, scale: int, x: Tensor) -> Tensor:
        for dim, way in zip((3, 2), finder.WAYS, strict=True):
            x = x + getattr(self, f"{way}{scale}")(x.mean(dim, keepdim=True))
        return x.relu()

    @staticmethod
    def raised(x: Tensor, finer: Tensor) -> Tensor:
        return (F.interpolate(x, scale_factor=2.0) + finer).relu()


def weights(model: Finder) -> dict[str, np.ndarray]:
    """Return the arrays of finder.npz, of a network in eval mode: batch norm folded in, float16."""
    arrays = {}
    for name in finder.LAYERS:
        layer = getattr(model, name)
        conv = layer if name in PLAIN else fuse_conv_bn_eval(*layer)
        weight = conv.weight.detach().permute(2, 3, 1, 0).reshape(-1, conv.out_channels)
        arrays[name], arrays[f"{name}.bias"] = weight.half().numpy(), conv.bias.detach().numpy()
    return arrays


def sample(hands: list[np.ndarray], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scene: input (2,S,S) float32; (4,S,S) float32: both targets 0 or 1, their weights."""
    while True:
        picture, written, beside, others = scene(hands, rng)
        try:
            ink = 255 - lift(picture)
        except ValueError:
            continue
        strong = written > 90
        if (ink[strong] > 48).mean() > 0.5:  # else nobody could see it
            break
    x = finder.to_finder(ink)
    inks = written, beside, others
    near, far, line = (part.astype(np.float32) + cv2.blur(part, (7, 7)) / 64 for part in inks)
    own = strong | (beside > 90) | (np.maximum(near, far) > line)  # the stronger, or the nearer
    own, middle = (
        finder.to_finder(255 * part.view(np.uint8))[0] > 0.5 for part in (own, near >= far)
    )
    seen = x[0] > 0.12
    weight = np.where(seen, np.where(own, 1, 2), 0.02) * x[1]
    hand = np.where(seen & own, np.where(middle, 1, 2), 0.002) * x[1]
    parts = own, middle, weight / weight.sum(), hand / hand.sum()
    return x, np.stack(parts).astype(np.float32)


class Scenes:
    """A store of drawn scenes; a part of it is drawn anew for every batch."""

    def __init__(self, seed: tuple[int, int]) -> None:
        self.rng = np.random.default_rng(seed)
        self.hands: list[np.ndarray] = []
        self.store: list[tuple[np.ndarray, np.ndarray]] = []

    def batch(self, size: int, fresh: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets (size,C,S,S), after `fresh` more scenes have been drawn."""
        self.hands = [*self.hands[-HANDS:], *characters(1 if self.hands else HANDS, self.rng)]
        self.store = [*self.store[-STORE:], *(sample(self.hands, self.rng) for _ in range(fresh))]
        chosen = self.rng.integers(0, len(self.store), size)
        x, y = (np.stack(part) for part in zip(*(self.store[i] for i in chosen), strict=True))
        return torch.from_numpy(x), torch.from_numpy(y)


def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the mean over pictures of the weighted means over their pixels."""
    loss = torch.zeros(())
    for part, logits in enumerate(model(x)):
        each = F.binary_cross_entropy_with_logits(logits.float(), y[:, part], reduction="none")
        loss = loss + (each * y[:, part + 2]).sum() / len(x)
    return loss


@torch.no_grad()
def check(model: nn.Module, x: Tensor, y: Tensor) -> str:
    """Say how much ink is misjudged, and in how many pictures more than 3 % of it is."""
    said = []
    ink = x[:, 0] > 0.12
    for part, logits in enumerate(model(x)):
        seen = ink & (y[:, 0] > 0.5) if part else ink
        wrong = ((logits > 0) != (y[:, part] > 0.5)) & seen
        share = wrong.sum((1, 2)) / seen.sum((1, 2))
        bad = (share > 0.03).float().mean()
        said.append(f"{100 * share.mean():.2f} % of the ink, {100 * bad:.1f} % bad")
    return "; middle: ".join(said)


class Learner:
    """Network, its average, optimizer and step: what --resume goes on from."""

    def __init__(self, rate: float, steps: int) -> None:
        self.model = Finder().to(memory_format=torch.channels_last)
        decay = get_ema_multi_avg_fn(0.997)
        self.average = AveragedModel(self.model, multi_avg_fn=decay, use_buffers=True)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), rate, weight_decay=0.01)
        self.rate, self.steps, self.step = rate, steps, 0

    def learn(self, x: Tensor, y: Tensor, bf16: bool) -> float:
        """Take one step; return its loss."""
        rate = self.rate * min(1, (self.step + 1) / 200)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * (1 + math.cos(math.pi * self.step / self.steps)) / 2
        with torch.autocast("cpu", torch.bfloat16, bf16):
            x = x.contiguous(memory_format=torch.channels_last)
            loss = loss_of(self.model.train(), x, y)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.average.update_parameters(self.model)
        self.step += 1
        return loss.item()

    def save(self, path: Path) -> None:
        parts = {name: getattr(self, name).state_dict() for name in PARTS}
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            torch.save(parts | {"step": self.step}, temporary)

    def resume(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.step = state["step"]
        for name in PARTS:
            getattr(self, name).load_state_dict(state[name])


@command
def main(argv: list[str] | None = None) -> int:
    """Train, say every 250 steps how much is misjudged, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=finder.WEIGHTS, help="weights to write")
    parser.add_argument("--state", type=Path, default=Path("runs/finder.pt"), help="to resume from")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--lr", type=float, default=0.003)
    parser.add_argument("--bf16", action="store_true", help="for processors that compute in it")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    torch.manual_seed(given.seed)
    cv2.setNumThreads(1)
    learner = Learner(given.lr, given.steps)
    if given.resume:
        learner.resume(given.state)
    held = Scenes((given.seed, 1)).batch(HELD, HELD)
    scenes = Scenes((given.seed, 2 + learner.step))
    losses = []
    while learner.step < given.steps:
        losses.append(learner.learn(*scenes.batch(BATCH, FRESH), given.bf16))
        if learner.step % 250 == 0 or learner.step == given.steps:
            said = check(learner.average.eval(), *held)
            print(f"{learner.step} {np.mean(losses[-250:]):.4f} {said}", flush=True)
            learner.save(given.state)
            with replacing(given.out) as temporary:
                np.savez(temporary, **weights(learner.average.module))
    return 0


if __name__ == "__main__":
    sys.exit(main())
