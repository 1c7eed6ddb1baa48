"""Tell characters from what is none: energies, how they part, the numbers a checkpoint keeps.

    inside = energies(recognizer, glyphs)                  # of labelled characters
    outside = folder_energies(recognizer, "scribbles/")    # of pictures that hold none
    auroc(inside, outside), fit(inside, outside)

The score itself is recognizer.character_score, a logistic of the energy.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from jobs.command import progress
from picture import PICTURE_SUFFIXES
from recognizer import Recognizer, character_score, energy

KEPT = 0.985  # share of the characters above the fitted threshold
BATCH = 256


def energies(recognizer: Recognizer, glyphs: np.ndarray) -> np.ndarray:
    """Return the energies (n,) of glyphs (n,S,S) uint8."""
    parts = np.array_split(glyphs[:, None], max(1, -(-len(glyphs) // BATCH)))
    logits = (recognizer.network.logits(part.astype(np.float32) / 255) for part in parts)
    return np.concatenate([energy(part) for part in logits])


def folder_energies(recognizer: Recognizer, folder: str | Path) -> np.ndarray:
    """Return the energies (n,) of all pictures below a folder; -inf of those that are refused."""
    paths = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
    if not paths:
        raise ValueError(f"{folder}: holds no pictures; expected some without a character")
    glyphs = []
    for path in progress(paths, desc=str(folder), unit=" pictures"):
        try:
            glyphs.append(recognizer.glyph(path))
        except (ValueError, OSError):  # nothing was read there
            continue
    found = energies(recognizer, np.stack(glyphs)) if glyphs else np.empty(0)
    return np.concatenate([found, np.full(len(paths) - len(glyphs), -np.inf)])


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Return the chance that a character has more energy than what is none; ties count half."""
    ordered = np.sort(outside)
    below = np.searchsorted(ordered, inside, "left") + np.searchsorted(ordered, inside, "right")
    return float(below.mean() / 2 / len(outside))


def fit(inside: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    """Fit scale and offset of the logistic, both sides weighing the same, and the threshold.

    The threshold keeps a share of `KEPT` of the characters. Refused pictures have no energy.
    """
    outside = outside[np.isfinite(outside)]
    x = torch.from_numpy(np.concatenate([inside, outside])).double()
    middle, spread = x.mean(), x.std() + 1e-9
    x = (x - middle) / spread
    truth = torch.cat([torch.ones(len(inside)), torch.zeros(len(outside))]).double()
    weight = torch.where(truth > 0, 1 / max(1, len(inside)), 1 / max(1, len(outside)))
    line = torch.zeros(2, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([line], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        errors = torch.nn.functional.binary_cross_entropy_with_logits(
            x * line[0] + line[1], truth, weight, reduction="sum"
        )
        value = errors + 1e-5 * line.square().sum()  # finite where the two do not overlap
        value.backward()
        return value

    optimizer.step(loss)
    slope, height = line.tolist()
    scale = slope / float(spread)
    fitted = {"scale": scale, "offset": height - scale * float(middle)}
    return fitted | {"threshold": float(np.quantile(character_score(inside, fitted), 1 - KEPT))}


def summarize(
    inside: np.ndarray, outside: np.ndarray, reject: Mapping[str, float] | None
) -> dict[str, object]:
    """Return how well the two are told apart, at the checkpoint's threshold where it has one."""
    fitted = fit(inside, outside)
    used = reject or fitted
    kept, mistaken = (character_score(x, used) >= used["threshold"] for x in (inside, outside))
    return {
        "characters": len(inside),
        "others": len(outside),
        "auroc": auroc(inside, outside),
        "fitted": fitted,
        "of_checkpoint": reject is not None,
        "kept": float(kept.mean()),
        "told": 1 - float(mistaken.mean()),
        "curve": curve(inside, outside),
    }


def curve(inside: np.ndarray, outside: np.ndarray, points: int = 200) -> list[Sequence[float]]:
    """Return (share of characters kept, share of others told) from strict to lenient."""
    levels = np.quantile(inside, np.linspace(1, 0, points))
    return [(float((inside >= at).mean()), float((outside < at).mean())) for at in levels]
