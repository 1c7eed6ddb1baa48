"""Augmentation of batches: each part does what its strength says."""

import pytest
import torch
from conftest import STILL

from config import Config
from training.augment import (
    LEFTOVER_CONFIDENCE,
    add_leftovers,
    augment,
    blur,
    coarsen,
    draw_maps,
    vary_stroke_width,
    warp,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def only(**strengths: float) -> Config:
    """Return a config with these augmentations and no others."""
    return Config(**STILL | strengths)


def warped(x: torch.Tensor, config: Config) -> torch.Tensor:
    return warp(x, draw_maps(len(x), config, generator()))


def augmented(x: torch.Tensor, config: Config, seed: int) -> torch.Tensor:
    random = generator(seed)
    return augment(x, draw_maps(len(x), config, random), config, random)[0]


def stroke(count: int = 64, side: int = 64, wide: int = 6) -> torch.Tensor:
    """Return (B,1,S,S) with one upright stroke in the middle."""
    x = torch.zeros(count, 1, side, side)
    middle = slice(side // 2 - wide // 2, side // 2 + wide // 2)
    x[:, :, side // 4 : side * 3 // 4, middle] = 1
    return x


def moments(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what each strength changes, (B,): degrees, slope, logarithm of the height, shift."""
    at = (torch.arange(x.shape[-1]) + 0.5) / x.shape[-1] - 0.5
    weight = x[:, 0] / x[:, 0].sum((1, 2), keepdim=True)
    cx, cy = (weight.sum(1) * at).sum(1), (weight.sum(2) * at).sum(1)
    dx, dy = at - cx[:, None], at - cy[:, None]
    xx, yy = (weight.sum(1) * dx**2).sum(1), (weight.sum(2) * dy**2).sum(1)
    xy = (weight * dx[:, None] * dy[:, :, None]).sum((1, 2))
    degrees = torch.rad2deg(0.5 * torch.atan2(2 * xy, yy - xx))
    return {"rotation": degrees, "shear": xy / yy, "scale": 0.5 * yy.log(), "shift": cy}


@pytest.mark.parametrize(
    ("name", "largest"), [("rotation", 20), ("shear", 0.3), ("scale", 0.3), ("shift", 0.1)]
)
def test_a_map_reaches_its_strength_and_not_more(name, largest):
    """In both directions, and without changing what another strength changes."""
    before = moments(stroke())
    after = moments(warped(stroke(), only(**{name: largest})))
    change = (after[name] - before[name]) / largest
    assert change.abs().max() < 1.1 and change.max() > 0.6 and change.min() < -0.6
    if name != "shift":
        assert after["shift"].abs().max() < 0.01


def test_elastic_distortion_moves_parts_apart():
    x = torch.linspace(0, 1, 64).expand(64, 1, 64, 64).contiguous()
    moved = (warped(x, only(elastic=2.0)) - x)[:, 0, 16:48, 16:48] * 63  # pixels
    assert 0.9 < moved.std(0).mean() < 1.9  # at most 2, less between the points of the grid
    assert (moved[:, 0, 0] - moved[:, -1, -1]).abs().mean() > 1  # not one shift for all


def test_strokes_become_thicker_and_thinner():
    before = stroke()
    y = vary_stroke_width(before.clone(), 1.0, generator())
    change = y.sum((1, 2, 3)) / before.sum((1, 2, 3)) - 1
    assert 1.0 < change.max() < 1.4  # six pixels of six, and the ends
    assert -0.25 < change.min() < -0.12  # thinning goes only part of the way
    assert (change != 0).all()


def test_coarse_drawings_are_of_few_pixels_black_or_white():
    before = stroke(side=80) * torch.linspace(0.3, 1, 80)
    y = coarsen(before.clone(), 1.0, generator())
    assert y.min() >= 0 and y.max() == 1
    assert ((y == 0) | (y == 1)).float().mean() > 0.9  # but for the edges, softened by enlarging
    assert y.sum((1, 2, 3)).std() > 0  # each has a level of its own


def test_a_wider_view_of_the_same_warp_shows_the_same():
    x = torch.rand(4, 1, 10, 10).repeat_interleave(8, 2).repeat_interleave(8, 3)
    maps = draw_maps(4, only(rotation=10, elastic=1.5, shift=0.03), generator())
    student, teacher = warp(x, maps), warp(x, maps, 96, 0.9)
    inner = torch.nn.functional.interpolate(student[..., 4:76, 4:76], (96, 96), mode="bilinear")
    assert teacher.shape == (4, 1, 96, 96)
    assert (teacher - inner).abs().mean() < 0.02


def test_blur_softens_and_keeps_full_ink():
    before = stroke()
    y = blur(before.clone(), 1.0, generator())
    assert y.amax((1, 2, 3)).sub(1).abs().max() < 1e-5
    grey = ((y > 0.05) & (y < 0.95)).sum((1, 2, 3))
    assert grey.max() > 200 and grey.float().std() > 5  # each its own mix


@pytest.mark.parametrize("change", [vary_stroke_width, blur, coarsen])
def test_a_probability_is_the_share_of_samples_that_change(change):
    before = stroke() * torch.linspace(0.3, 1, 64)
    some = change(before.clone(), 0.25, generator())
    assert 0.1 < (some != before).any((1, 2, 3)).float().mean() < 0.4


def test_everything_together_repeats_and_stays_in_range():
    config = Config(coarse=0.1, leftovers=0.3)
    x = stroke()
    kept = x.clone()
    one = augmented(x, config, 1)
    assert torch.equal(x, kept)  # a memory of its own
    assert torch.equal(one, augmented(x, config, 1))
    assert not torch.equal(one, augmented(x, config, 2))
    assert one.shape == x.shape and one.dtype == x.dtype
    assert one.min() >= 0 and one.max() <= 1 + 1e-5
    assert torch.equal(augmented(x, only(), 0).round(decimals=4), x)


def test_all_steps_are_on_the_device_of_the_batch():
    """A device that computes shapes alone refuses tensors of another, as a GPU does."""
    config = Config(stroke=1.0, blur=1.0, coarse=1.0, leftovers=1.0)
    y = augmented(torch.empty(8, 1, 64, 64, device="meta"), config, 0)
    assert y.shape == (8, 1, 64, 64) and y.device.type == "meta"


def test_leftovers_are_added_beside_a_smaller_character_that_stays():
    count = 400
    number = torch.arange(1, count + 1).view(-1, 1, 1, 1) * 10.0  # far above any line
    x = torch.zeros(count, 1, 64, 64)
    x[:, :, 8:56, 8:56] = number
    y, confidence = add_leftovers(x.clone(), 1.0, generator())
    assert (confidence == LEFTOVER_CONFIDENCE).all()
    own = ((y - number).abs() < 1e-2)[:, 0]  # (B,S,S)
    sides = own.sum((1, 2)).sqrt() / 48
    assert 0.4 < sides.min() < 0.6 and sides.max() <= 1.01
    assert own.any(1).float().argmax(1).float().std() > 3  # it leaves the center
    neighbor = ((y - number.roll(1, 0)).abs() < 1e-2)[:, 0].sum((1, 2)) > 20
    lines = ((y > 0.3) & (y <= 1))[:, 0].sum((1, 2)) > 15
    assert 0.1 < neighbor.float().mean() < 0.25  # of five kinds
    assert lines.float().mean() > 0.6 and not (neighbor & lines).float().mean() > 0.05


def test_only_views_with_leftovers_are_less_confident():
    x = stroke(400, wide=24)
    y, confidence = add_leftovers(x.clone(), 0.25, generator())
    less = confidence < 1
    assert 0.15 < less.float().mean() < 0.35 and torch.equal(y[~less], x[~less])
    assert (y[less] != x[less]).any((1, 2, 3)).all() and y.min() >= 0 and y.max() <= 1 + 1e-5
    y, confidence = add_leftovers(x.clone(), 0.0, generator())
    assert torch.equal(y, x) and (confidence == 1).all()


def test_a_character_of_few_strokes_gets_no_leftovers():
    x = stroke(100, wide=6)  # a line beside it would make another character
    y, confidence = add_leftovers(x.clone(), 1.0, generator())
    assert torch.equal(y, x) and (confidence == 1).all()
