"""Augmentation of whole batches on their device: input (B,1,S,S) float in 0...1 -> the same.

x = augment(to_input(glyphs), Augmentation(rotation=10), torch.Generator().manual_seed(0))
"""

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from jobs.devices import send

# Side of the grid of pulls that bends a glyph.
PULLS = 4
# Pixels that a stroke gains at most on either side: at 80 px, pens of 3 become pens of 9.
THICKER = 3


class Augmentation(NamedTuple):
    """Strengths of the batch augmentation, see config.py; 0 switches a part off."""

    rotation: float = 0.0
    shear: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    elastic: float = 0.0
    stroke: float = 0.0
    blur: float = 0.0
    coarse: float = 0.0
    erase: float = 0.0
    remains: float = 0.0


def augment(x: Tensor, strength: Augmentation, generator: torch.Generator) -> Tensor:
    """Distort a whole batch of inputs, each sample in its own way, on the batch's device.

    One warp (affine and elastic together), then what makes a picture worse without moving a stroke.
    Random numbers come from `generator`, which lives on the CPU, so that every device draws the
    same ones. From (B,1,S,S) float in 0...1 to the same, in a memory of its own.
    """
    return spoil(warp(x, draw_maps(len(x), strength, generator)), strength, generator)


def spoil(x: Tensor, strength: Augmentation, generator: torch.Generator) -> Tensor:
    """Change stroke width, blur, coarsen, erase, add remains: (B,1,S,S), in place where it can."""
    ways = {"stroke": vary_stroke_width, "blur": blur, "coarse": coarsen, "erase": erase,
            "remains": add_remains}  # fmt: skip
    for name, way in ways.items():
        if probability := getattr(strength, name):
            x = way(x, probability, generator)
    return x


def _uniform(generator: torch.Generator, *shape: int) -> Tensor:
    """Draw from -1...1."""
    return torch.rand(shape, generator=generator) * 2 - 1


def draw_maps(count: int, strength: Augmentation, generator: torch.Generator) -> Tensor:
    """Draw where points come from: maps (B,2,3 + PULLS^2) for `warp`, (B,2,3) without bending.

    That is linear in the affine map and in the pulls, see `warp_basis`: one matrix product.
    """
    angle = _uniform(generator, count) * (strength.rotation * torch.pi / 180)
    shear = _uniform(generator, count) * strength.shear
    zoom = torch.exp(_uniform(generator, count, 2) * strength.scale)
    cos, sin = torch.cos(angle), torch.sin(angle)
    maps = torch.empty(count, 3 + PULLS * PULLS, 2)
    maps[:, 0, 0] = cos * zoom[:, 0]
    maps[:, 1, 0] = (shear * cos - sin) * zoom[:, 0]
    maps[:, 0, 1] = sin * zoom[:, 1]
    maps[:, 1, 1] = (shear * sin + cos) * zoom[:, 1]
    maps[:, 2] = _uniform(generator, count, 2) * (2 * strength.shift)
    if strength.elastic:
        # 2/64: pixels at 64 px to grid_sample's -1...1.
        pulls = torch.randn(count, PULLS * PULLS, 2, generator=generator)
        maps[:, 3:] = pulls * (strength.elastic * 2 / 64)
    else:
        maps = maps[:, :3]
    return maps.transpose(1, 2)


def warp(x: Tensor, maps: Tensor, side: int = 0, extent: float = 1.0) -> Tensor:
    """Rotate, shear, scale, shift and bend each sample of (B,1,S,S), bilinear, paper outside.

    The result is `side` pixels wide (0: as x) and shows `extent` of the picture's width.
    """
    side = side or x.shape[-1]
    basis = warp_basis(side, extent, x.device)[: maps.shape[2]]
    maps = send(maps.reshape(2 * len(x), -1), x.device)
    grid = (maps @ basis).view(len(x), 2, side, side).permute(0, 2, 3, 1)
    return F.grid_sample(x, grid.to(x.dtype), padding_mode="zeros", align_corners=False)


@lru_cache(maxsize=8)
def warp_basis(side: int, extent: float, device: torch.device) -> Tensor:
    """Return (3 + PULLS^2, side^2): x, y, 1, and the bicubic weight of each pull at each pixel.

    Bending by a coarse grid of random pulls, smooth in between, stands for the Gaussian-smoothed
    noise of Simard et al. 2003 ("Best Practices for CNNs Applied to Visual Document Analysis").
    """
    at = ((torch.arange(side) * 2 + 1) / side - 1) * extent
    y, x = torch.meshgrid(at, at, indexing="ij")
    unit = torch.eye(PULLS * PULLS).view(-1, 1, PULLS, PULLS)
    grid = torch.stack([x, y], -1).expand(len(unit), -1, -1, -1)
    smooth = F.grid_sample(unit, grid, mode="bicubic", padding_mode="border", align_corners=True)
    affine = torch.stack([x, y, torch.ones_like(x)]).view(3, -1)
    return torch.cat([affine, smooth.view(PULLS * PULLS, -1)]).to(device)


def _chosen(generator: torch.Generator, count: int, probability: float) -> Tensor:
    """Draw which of `count` samples something happens to."""
    return torch.nonzero(torch.rand(count, generator=generator) < probability)[:, 0]


def vary_stroke_width(x: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Make the strokes of some samples thicker by up to THICKER pixels on either side, or thinner.

    A 3x3 maximum thickens by a pixel, a 3x3 minimum thins; each sample gets its own mix with what
    was there before. Much is rarer than little.
    """
    rows = _chosen(generator, x.shape[0], probability)
    mix = _uniform(generator, len(rows))
    thicker = torch.where(mix > 0, THICKER * mix.square(), -1.0)
    ways = [(thicker > n, (thicker - n).clamp(max=1), torch.maximum) for n in range(THICKER)]
    # Thinning wipes out strokes of one or two pixels: go only part of the way there.
    ways.append((mix < 0, -0.6 * mix, torch.minimum))
    for chosen, share, extreme in ways:
        here = send(rows[chosen], x.device)
        part = send(share[chosen].view(-1, 1, 1, 1), x.device).to(x.dtype)
        some = x[here]
        # Slices, not max_pool2d: that takes six times as long on a CPU.
        wide = some.clone()  # the extreme of the pixel and its two neighbours, along rows
        extreme(wide[..., 1:], some[..., :-1], out=wide[..., 1:])
        extreme(wide[..., :-1], some[..., 1:], out=wide[..., :-1])
        both = wide.clone()  # and along columns
        extreme(both[..., 1:, :], wide[..., :-1, :], out=both[..., 1:, :])
        extreme(both[..., :-1, :], wide[..., 1:, :], out=both[..., :-1, :])
        x[here] = some.lerp_(both, part)
    return x


def _resizing(x: Tensor, least: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw matrices (S,s), (s,S) that reduce and enlarge a side; s is `least` to 0.4 more of it.

    A product is quick on every device.
    """
    side = x.shape[-1]
    small = max(4, round(side * (least + 0.4 * float(torch.rand((), generator=generator)))))
    down = F.interpolate(torch.eye(side)[None], small, mode="area")[0]
    up = F.interpolate(torch.eye(small)[None], side, mode="linear")[0]
    return down.to(x.dtype), up.to(x.dtype)


def blur(x: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Soften some samples as if small pictures had been enlarged; full ink stays full.

    A batch is reduced to between 0.2 and 0.6 of its side, enlarged and levelled to its old maxima;
    each sample gets its own mix with the original.
    """
    rows = _chosen(generator, x.shape[0], probability)
    mix = torch.rand(len(rows), 1, 1, 1, generator=generator)
    down, up = _resizing(x, 0.2, generator)
    rows, mix, step = (send(t, x.device) for t in (rows, mix, down @ up))
    some = x[rows]
    soft = step.T @ some @ step
    gain = some.amax((2, 3), keepdim=True) / soft.amax((2, 3), keepdim=True).clamp(min=1e-3)
    x[rows] = some.lerp(soft * gain, mix.to(x.dtype))
    return x


def coarsen(x: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Make drawings of few pixels, black or white, of some samples, as of a mouse or a pad.

    A batch is reduced to between 0.3 and 0.7 of its side, each sample parted into ink and paper at
    a level of its own, and enlarged.
    """
    rows = _chosen(generator, x.shape[0], probability)
    level = 0.25 + 0.35 * torch.rand(len(rows), 1, 1, 1, generator=generator)
    down, up = _resizing(x, 0.3, generator)
    rows, level, down, up = (send(t, x.device) for t in (rows, level, down, up))
    ink = (down.T @ x[rows] @ down > level).to(x.dtype)
    x[rows] = up.T @ ink @ up
    return x


def join_halves(x: Tensor, probability: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Give some samples one half of the sample before; return (B,1,S,S) and which, (n,) int64.

    They are cut at the same place near the middle, level or upright, as CutMix does (Yun et al.
    2019), so that components meet that no character joins. What they are, a teacher has to say.
    """
    rows = _chosen(generator, len(x), probability)
    cut = 0.35 + 0.3 * torch.rand(len(rows), 1, generator=generator)
    swap, level = torch.rand(2, len(rows), 1, generator=generator) < 0.5
    side = x.shape[-1]
    own = ((torch.arange(side) + 0.5) / side < cut) ^ swap  # (n,S)
    own = torch.where(level[..., None], own[:, :, None], own[:, None, :])
    rows, own = send(rows, x.device), send(own[:, None], x.device)
    return x.index_copy(0, rows, torch.where(own, x[rows], x.roll(1, 0)[rows])), rows


def erase(x: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Make paper of one random rectangle, a tenth to a third of the side long, in some samples."""
    side = x.shape[-1]
    rows = _chosen(generator, x.shape[0], probability)
    box = torch.rand(len(rows), 4, generator=generator)
    length = 0.1 + box[:, :2] * 0.23
    start = box[:, 2:] * (1 - length)
    rows, start, end = (send(t, x.device) for t in (rows, start * side, (start + length) * side))
    at = torch.arange(side, device=x.device)
    inside = (at >= start[..., None]) & (at < end[..., None])  # (n,2,S): rows, columns
    hole = inside[:, 0, :, None] & inside[:, 1, None, :]
    x[rows] = x[rows].masked_fill(hole.unsqueeze(1), 0)
    return x


def add_remains(x: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Put what an imperfect crop leaves beside some characters: lines, pieces of neighbours.

    The character becomes smaller and leaves the middle, as its box does when there is more in it
    than the character. The neighbours are other samples of the batch.
    """
    chosen = _chosen(generator, len(x), probability)
    n, side = len(chosen), x.shape[-1]
    if n == 0:
        return x
    chosen = send(chosen, x.device)
    some = x[chosen]
    random = send(torch.rand(n, 12, generator=generator), x.device)
    scale = 0.7 + 0.3 * random[:, 0]
    theta = torch.zeros(n, 2, 3, device=x.device)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / scale
    theta[:, :, 2] = (2 * random[:, 1:3] - 1) * (1 - scale)[:, None] / scale[:, None]
    size = [n, 1, side, side]
    page = F.grid_sample(some, F.affine_grid(theta, size, align_corners=False), align_corners=False)
    # A neighbour stands one and a half to two sides away, along one axis.
    away = (1.5 + 0.45 * random[:, 3]) * torch.sign(random[:, 4] - 0.5)
    along = (random[:, 5] < 0.7).float()
    theta[:, 0, 2] = theta[:, 0, 2] + away * along
    theta[:, 1, 2] = theta[:, 1, 2] + away * (1 - along)
    grid = F.affine_grid(theta, size, align_corners=False)
    neighbour = F.grid_sample(some.roll(1, 0), grid, align_corners=False)
    neighbour = neighbour * (random[:, 6] < 0.6).float()[:, None, None, None]
    # A line: level or upright, a few degrees off, at times a diagonal; mostly near the border.
    turn = (random[:, 7] - 0.5) * 0.2 + (random[:, 8] * 4).floor() * (torch.pi / 2)
    turn = turn + (random[:, 9] < 0.15) * (torch.pi / 4)
    offset = 1 - 0.9 * random[:, 10] ** 2
    cos, sin, offset = (part[:, None, None] for part in (turn.cos(), turn.sin(), offset))
    axis = torch.linspace(-1, 1, side, device=x.device)
    distance = (axis * cos + axis[:, None] * sin - offset).abs() * (side / 2)
    strength = (0.3 + 0.7 * random[:, 11]) * (random[:, 6] > 0.4)
    line = (1.5 - distance).clamp(0, 1) * strength[:, None, None]
    page = torch.maximum(torch.maximum(page, neighbour), line[:, None])
    return x.index_copy(0, chosen, page.to(x.dtype))
