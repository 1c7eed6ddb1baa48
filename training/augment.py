"""Augmentation of whole batches (B,1,S,S) float in 0...1 on their device.

The config sets the strength of each part; 0 turns it off. Random numbers are drawn on the CPU, so
they are the same for every device.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from config import Config
from jobs.devices import send

PULLS = 4  # side of the grid of displacements of an elastic distortion
THICKER = 3  # pixels that a stroke gains at most on either side: at 80 px, 3 become 9
FEW_STROKES = 0.12  # mean ink of a glyph, 0...1, up to which it gets no leftovers
LEFTOVER_CONFIDENCE = 0.4  # of a view with leftovers beside the character


def augment(
    x: Tensor, maps: Tensor, config: Config, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Augment a batch (B,1,S,S), each sample in its own way; `maps` are those of `draw_maps`.

    Returns new memory of the same shape, and the confidence (B,) of `add_leftovers`.
    """
    x = warp(x, maps)
    if config.stroke:
        x = vary_stroke_width(x, config.stroke, generator)
    if config.blur:
        x = blur(x, config.blur, generator)
    if config.coarse:
        x = coarsen(x, config.coarse, generator)
    return add_leftovers(x, config.leftovers, generator)


def _uniform(generator: torch.Generator, *shape: int) -> Tensor:
    """Draw uniformly from -1...1."""
    return torch.rand(shape, generator=generator) * 2 - 1


def draw_maps(count: int, config: Config, generator: torch.Generator) -> Tensor:
    """Draw maps (B,2,3 + PULLS^2) for `warp`, (B,2,3) if not elastic: factors of `warp_basis`."""
    angle = _uniform(generator, count) * (config.rotation * torch.pi / 180)
    shear = _uniform(generator, count) * config.shear
    zoom = torch.exp(_uniform(generator, count, 2) * config.scale)
    cos, sin = torch.cos(angle), torch.sin(angle)
    x_axis = torch.stack([cos, sin], 1) * zoom
    y_axis = torch.stack([shear * cos - sin, shear * sin + cos], 1) * zoom
    shift = _uniform(generator, count, 2) * (2 * config.shift)
    maps = torch.stack([x_axis, y_axis, shift], 1)  # (B,3,2)
    if config.elastic:
        pulls = torch.randn(count, PULLS * PULLS, 2, generator=generator)
        # 2/64: pixels at 64 px to grid_sample's -1...1.
        maps = torch.cat([maps, pulls * (config.elastic * 2 / 64)], 1)
    return maps.transpose(1, 2)


def warp(x: Tensor, maps: Tensor, side: int = 0, extent: float = 1.0) -> Tensor:
    """Rotate, shear, scale, shift and distort each sample of (B,1,S,S), bilinear, paper outside.

    The result is `side` pixels wide (0: as x) and shows `extent` of the width of x.
    """
    side = side or x.shape[-1]
    basis = warp_basis(side, extent, x.device)[: maps.shape[2]]
    maps = send(maps.reshape(2 * len(x), -1), x.device)
    grid = (maps @ basis).view(len(x), 2, side, side).permute(0, 2, 3, 1)
    return F.grid_sample(x, grid, padding_mode="zeros", align_corners=False)


@lru_cache(maxsize=8)
def warp_basis(side: int, extent: float, device: torch.device) -> Tensor:
    """Return (3 + PULLS^2, side^2): x, y, 1, and the bicubic weight of each displacement.

    A coarse grid of random displacements, interpolated smoothly, replaces the Gaussian-smoothed
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
    """Draw which of `count` samples are changed: indices (n,) int64."""
    return torch.nonzero(torch.rand(count, generator=generator) < probability)[:, 0]


def vary_stroke_width(x: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Make the strokes of some samples thicker by up to THICKER pixels on either side, or thinner.

    A 3x3 maximum or minimum is mixed with the original. Small changes are more frequent.
    """
    rows = _chosen(generator, x.shape[0], probability)
    mix = _uniform(generator, len(rows))
    thicker = torch.where(mix > 0, THICKER * mix.square(), -1.0)
    ways = [(thicker > n, (thicker - n).clamp(max=1), torch.maximum) for n in range(THICKER)]
    # Thinning wipes out strokes of one or two pixels: go only part of the way there.
    ways.append((mix < 0, -0.6 * mix, torch.minimum))
    for chosen, share, extreme in ways:
        here = send(rows[chosen], x.device)
        part = send(share[chosen].view(-1, 1, 1, 1), x.device)
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
    """Draw matrices (S,s), (s,S) that reduce and enlarge a side to `least` ... `least` + 0.4."""
    side = x.shape[-1]
    small = max(4, round(side * (least + 0.4 * float(torch.rand((), generator=generator)))))
    down = F.interpolate(torch.eye(side)[None], small, mode="area")[0]
    up = F.interpolate(torch.eye(small)[None], side, mode="linear")[0]
    return down, up


def blur(x: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Blur some samples as if small images had been enlarged; the darkest ink stays as dark.

    The batch is reduced and enlarged; each sample gets its own mix with the original.
    """
    rows = _chosen(generator, x.shape[0], probability)
    mix = torch.rand(len(rows), 1, 1, 1, generator=generator)
    down, up = _resizing(x, 0.2, generator)
    rows, mix, step = (send(t, x.device) for t in (rows, mix, down @ up))
    some = x[rows]
    soft = step.T @ some @ step
    gain = some.amax((2, 3), keepdim=True) / soft.amax((2, 3), keepdim=True).clamp(min=1e-3)
    x[rows] = some.lerp(soft * gain, mix)
    return x


def coarsen(x: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Turn some samples into low-resolution binary images, as drawn with a mouse or on a pad."""
    rows = _chosen(generator, x.shape[0], probability)
    level = 0.25 + 0.35 * torch.rand(len(rows), 1, 1, 1, generator=generator)
    down, up = _resizing(x, 0.3, generator)
    rows, level, down, up = (send(t, x.device) for t in (rows, level, down, up))
    ink = (down.T @ x[rows] @ down > level).float()
    x[rows] = up.T @ ink @ up
    return x


def add_leftovers(
    x: Tensor, probability: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Add to some samples what an imperfect segmentation leaves beside a character.

    That is a neighbor, whole or cut (another sample of the batch), a line, a frame, or a grid with
    or without diagonals, solid or dashed. The character becomes smaller and leaves the center.

    Returns the batch (B,1,S,S) and the confidence (B,) float32 with which the network should
    predict each view: less where there are leftovers, so that its energy (log-sum-exp minus mean
    of the logits) tells a good proposal of a picture from a bad one.
    """
    confidence = torch.ones(len(x), device=x.device)
    rows = send(_chosen(generator, len(x), probability), x.device)
    if len(rows) == 0:
        return x, confidence
    some = x[rows]
    random = send(torch.rand(len(rows), 13, generator=generator), x.device)
    kind = (random[:, 0] * 5).floor()  # neighbor, line, frame, grid, grid with diagonals
    beside, level = kind == 0, random[:, 5] < 0.7
    # A whole neighbor needs half of the view, part of one and lines need less.
    scale = torch.where(beside, 0.45 + 0.5 * random[:, 1], 0.65 + 0.35 * random[:, 1])
    free = (1 - scale) / scale
    direction = torch.sign(random[:, 4] - 0.5)
    shift = (2 * random[:, 2:4] - 1) * free[:, None]
    # The character makes room: the neighbor is on the opposite side.
    along = torch.stack([level, ~level], 1)
    shift = torch.where(beside[:, None] & along, (direction * free)[:, None], shift)
    theta = torch.cat([torch.eye(2, device=x.device) / scale[:, None, None], shift[..., None]], 2)
    grid = F.affine_grid(theta, some.shape, align_corners=False)
    view = F.grid_sample(some, grid, align_corners=False)
    away = -direction * (1.7 + 0.4 * random[:, 6])
    theta[:, :, 2] += away[:, None] * along
    grid = F.affine_grid(theta, some.shape, align_corners=False)
    neighbor = F.grid_sample(some.roll(1, 0), grid, align_corners=False)
    view = torch.maximum(view, neighbor * beside[:, None, None, None])
    view = torch.maximum(view, _lines(kind, random[:, 7:], x.shape[-1])[:, None])
    # A line turns a character of few strokes into another one: 一 into 二, 人 into 囚.
    few = some.mean((1, 2, 3)) <= FEW_STROKES
    view = torch.where(few[:, None, None, None], some, view)
    less = torch.where(few, 1.0, LEFTOVER_CONFIDENCE)
    return x.index_copy(0, rows, view), confidence.index_copy(0, rows, less)


def _lines(kind: Tensor, random: Tensor, side: int) -> Tensor:
    """Draw a line (kind 1), a frame (2), a cross (3) or one with diagonals (4): (n,S,S) in 0...1.

    Other kinds are blank. Crosses are often framed. `random` (n,6) is uniform in 0...1.
    """
    at = torch.linspace(-1, 1, side, device=random.device)
    turn = (random[:, 0] - 0.5) * 0.16 + (random[:, 1] * 4).floor() * (torch.pi / 2)
    parts = [turn, *random[:, 2:].unbind(1)]
    turn, offset, dash, width, dark = (part[:, None, None] for part in parts)
    u = at * turn.cos() + at[:, None] * turn.sin()  # (n,S,S), turned axes
    v = at[:, None] * turn.cos() - at * turn.sin()
    line = (u - (1 - 0.9 * offset**2)).abs()
    frame = (torch.maximum(u.abs(), v.abs()) - (1 - 0.25 * offset)).abs()
    cross = torch.minimum(u.abs(), v.abs())
    star = torch.minimum(cross, torch.minimum((u - v).abs(), (u + v).abs()) / 2**0.5)
    framed = dash < 0.6
    cross, star = (torch.where(framed, torch.minimum(d, frame), d) for d in (cross, star))
    distances = torch.stack([line, line, frame, cross, star])  # by kind
    distance = distances[kind.long(), torch.arange(len(kind), device=kind.device)]
    ink = (1.2 + 0.8 * width - distance * (side / 2)).clamp(0, 1)
    dashed = (dash > 0.75) & (torch.sin((u + v) * (side / 3)) <= -0.2)
    return ink * ~dashed * (0.35 + 0.65 * dark) * (kind > 0)[:, None, None]
