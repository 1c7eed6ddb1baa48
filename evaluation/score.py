"""Run a network over labelled glyphs: every sample once, on one or many processes."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dataset import CharacterDataset
from jobs.devices import Processes
from model import to_input

TOP = 10


class Result(NamedTuple):
    """Evaluation of n samples, in the order of the indices."""

    top: np.ndarray  # (n,T) int64, best labels, T = min(10, K)
    probability: np.ndarray  # (n,T) float32
    labels: np.ndarray  # (n,) int64
    losses: np.ndarray  # (n,) float32, cross-entropy without smoothing
    indices: np.ndarray  # (n,) int64

    def topk(self, k: int) -> float:
        """Return the share of samples whose label is among the best k."""
        return float((self.top[:, :k] == self.labels[:, None]).any(1).mean())

    @property
    def loss(self) -> float:
        return float(self.losses.mean())


@torch.no_grad()
def evaluate(
    network: nn.Module | Callable[[Tensor], Tensor],
    glyphs: CharacterDataset,
    indices: np.ndarray,
    device: torch.device,
    batch_size: int = 256,
    processes: Processes | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> Result:
    """Score glyphs in float32, as they are read in prediction.

    With several processes each takes a share, every sample counts once, and all processes return
    the whole result. A module is put into eval mode and back.
    """
    rank, world, _ = processes or (0, 1, 0)
    mine = indices[rank::world]
    module = network if isinstance(network, nn.Module) else nn.Identity()
    training = module.training
    module.eval()
    parts: list[tuple[np.ndarray, ...]] = []
    for start in range(0, len(mine), batch_size):
        chosen = mine[start : start + batch_size]
        images, labels = glyphs.fetch(chosen)
        x = to_input(images, device).contiguous(memory_format=torch.channels_last)
        logprob = network(x).float().log_softmax(1).cpu()
        best = logprob.topk(min(TOP, logprob.shape[1]))
        losses = -logprob.gather(1, labels.clamp(min=0)[:, None])[:, 0]
        columns = best.indices, best.values.exp(), labels, losses
        parts.append((*(column.numpy() for column in columns), chosen))
        progress(len(chosen))
    module.train(training)
    if world > 1:
        gathered: list[list] = [[] for _ in range(world)]
        dist.all_gather_object(gathered, parts)
        parts = [part for share in gathered for part in share]
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(columns[-1], kind="stable")
    return Result(*(column[order] for column in columns))
