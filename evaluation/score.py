"""Evaluate a network on labelled samples in float32, on one or more processes."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from dataset import CharacterDataset
from jobs.devices import Processes
from model import to_input
from recognizer import Recognizer, choose

TOP = 10


class Result(NamedTuple):
    """Evaluation of n samples, in the order of the indices."""

    top: np.ndarray  # (n,T) int64, best labels, T = min(10, K)
    probability: np.ndarray  # (n,T) float32
    labels: np.ndarray  # (n,) int64
    losses: np.ndarray  # (n,) float32, cross-entropy without smoothing, twins apart
    energies: np.ndarray  # (n,) float32, see recognizer.energy
    proposals: np.ndarray  # (n,) int64, which proposal was read
    indices: np.ndarray  # (n,) int64

    @property
    def correct(self) -> np.ndarray:
        """(n,) bool: whether top-1 is right."""
        return self.top[:, 0] == self.labels

    def topk(self, k: int) -> float:
        """Return the share of samples whose label is among the best k."""
        return float((self.top[:, :k] == self.labels[:, None]).any(1).mean())

    @property
    def loss(self) -> float:
        return float(self.losses.mean())


@torch.no_grad()
def evaluate(
    network: nn.Module | Recognizer,
    dataset: CharacterDataset,
    indices: np.ndarray,
    device: torch.device | str,
    batch_size: int = 256,
    processes: Processes | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> Result:
    """Score samples.

    A Recognizer reads as in prediction: it chooses among proposals and merges twins. A module reads
    the first proposal; it is put into eval mode and back. With several processes each takes a
    share, every sample counts once, and all return the whole result.
    """
    rank, world, _ = processes or (0, 1, 0)
    if training := isinstance(network, nn.Module) and network.training:
        network.eval()
    parts: list[tuple[np.ndarray, ...]] = []
    batches = read(network, dataset, indices[rank::world], device, batch_size)
    for chosen, labels, logits, places in batches:
        merged, energies = logits, logits.logsumexp(1) - logits.mean(1)
        if isinstance(network, Recognizer):
            if not energies.isfinite().all():
                raise ValueError(f"{network.network.source}: its logits are not finite")
            merged, logits = network.select(logits), logits[:, network.labels]
        labels = labels.to(logits.device)
        best = merged.softmax(1).topk(min(TOP, merged.shape[1]))
        losses = F.cross_entropy(logits, labels.clamp(min=0), reduction="none")
        columns = best.indices, best.values, labels, losses, energies
        parts.append((*(column.cpu().numpy() for column in columns), places, chosen))
        progress(len(chosen))
    if training:
        network.train()
    if world > 1:
        gathered: list[list] = [[] for _ in range(world)]
        dist.all_gather_object(gathered, parts)
        parts = [part for share in gathered for part in share]
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(columns[-1], kind="stable")
    return Result(*(column[order] for column in columns))


def read(
    network: nn.Module | Recognizer,
    dataset: CharacterDataset,
    indices: np.ndarray,
    device: torch.device | str,
    batch_size: int = 256,
) -> Iterator[tuple[np.ndarray, Tensor, Tensor, np.ndarray]]:
    """Yield indices, labels (B,), logits (B,K) float32 of all classes, and proposals read (B,)."""
    reads = isinstance(network, Recognizer)
    logits_of = network.network.logits if reads else network
    for start in range(0, len(indices), batch_size):
        chosen = indices[start : start + batch_size]
        if reads:
            found = dataset.proposals(chosen)
            glyphs = torch.from_numpy(np.concatenate([proposals.glyphs for proposals in found]))
            labels = torch.from_numpy(dataset.targets[chosen])
        else:  # labels of synthetic samples come with the glyphs
            glyphs, labels = dataset.fetch(chosen)
        inputs = to_input(glyphs, device).contiguous(memory_format=torch.channels_last)
        logits = torch.cat([logits_of(part).float() for part in inputs.split(batch_size)])
        places = np.zeros(len(chosen), np.int64)
        if len(glyphs) > len(chosen):
            ends = np.cumsum([len(proposals.glyphs) for proposals in found])
            parts = np.split(logits.cpu().numpy(), ends[:-1])
            places[:] = [choose(part, one.priors) for part, one in zip(parts, found, strict=True)]
            starts = ends - [len(part) for part in parts]
            logits = logits[torch.from_numpy(starts + places)]
        yield chosen, labels, logits, places
