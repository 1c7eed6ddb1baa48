"""Augmentation of batches: each part does what its strength says."""

import pytest
import torch

from training.augment import (
    LEFTOVER_CONFIDENCE,
    Augmentation,
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


def warped(x: torch.Tensor, strength: Augmentation) -> torch.Tensor:
    return warp(x, draw_maps(len(x), strength, generator()))


def stroke(count: int = 64, side: int = 64, wide: int = 6) -> torch.Tensor:
    """Return (B,1,S,S) with one upright stroke in the middle."""
    x = torch.zeros(count, 1, side, side)
    middle = slice(side // 2 - wide // 2, side // 2 + wide // 2)
    x[:, :, side // 4 : side * 3 // 4, middle] = 1
    return x


def moments(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return centre (B,), (B,) and covariance (B,), (B,), (B,) of the ink: x, y; xx, xy, yy."""
    side = x.shape[-1]
    at = (torch.arange(side) + 0.5) / side - 0.5
    weight = x[:, 0] / x[:, 0].sum((1, 2), keepdim=True)
    cx, cy = (weight.sum(1) * at).sum(1), (weight.sum(2) * at).sum(1)
    dx, dy = at - cx[:, None], at - cy[:, None]
    xx, yy = (weight.sum(1) * dx**2).sum(1), (weight.sum(2) * dy**2).sum(1)
    return cx, cy, xx, (weight * dx[:, None] * dy[:, :, None]).sum((1, 2)), yy


def test_rotation_reaches_its_degrees_and_not_more():
    y = warped(stroke(), Augmentation(rotation=20))
    _, _, xx, xy, yy = moments(y)
    angle = torch.rad2deg(0.5 * torch.atan2(2 * xy, yy - xx))  # of the stroke to the vertical
    assert angle.abs().max() < 21 and angle.max() > 15 and angle.min() < -15
    # Round its middle, and keeping its size.
    assert y.sum((1, 2, 3)).sub(stroke().sum((1, 2, 3))).abs().max() < 8
    assert moments(y)[0].abs().max() < 0.01 and moments(y)[1].abs().max() < 0.01


def test_shear_slants_rows():
    y = warped(stroke(), Augmentation(shear=0.3))
    _, _, _, xy, yy = moments(y)
    slope = xy / yy
    assert slope.abs().max() < 0.31 and slope.max() > 0.2 and slope.min() < -0.2
    assert (yy - moments(stroke())[4]).abs().max() < 1e-3  # heights stay


def test_scale_is_drawn_for_each_axis():
    _, _, xx, _, yy = moments(warped(stroke(wide=16), Augmentation(scale=0.3)))
    _, _, xx0, _, yy0 = moments(stroke(wide=16))
    for now, before in ((xx, xx0), (yy, yy0)):
        log = 0.5 * (now / before).log()
        assert log.abs().max() < 0.32 and log.max() > 0.2 and log.min() < -0.2
    assert (xx / xx0 - yy / yy0).abs().max() > 0.1


def test_shift_has_both_directions():
    cx, cy, *_ = moments(warped(stroke(), Augmentation(shift=0.1)))
    for moved in (cx, cy):
        assert moved.abs().max() < 0.101 and moved.max() > 0.06 and moved.min() < -0.06


def test_bending_has_the_stated_size_at_any_side():
    """A grid of dots moves by about as many pixels as the pulls say, of 64."""
    found = []
    for side in (64, 128):
        x = torch.linspace(0, 1, side).expand(256, 1, side, side).contiguous()
        y = warped(x, Augmentation(elastic=2.0))
        inner = slice(side // 4, side * 3 // 4)
        moved = (y - x)[:, 0, inner, inner] * (side - 1) * 64 / side
        assert moved.std(0).mean().item() == pytest.approx(
            1.4, abs=0.5
        )  # in between pulls it is less
        assert (moved[:, 0, 0] - moved[:, -1, -1]).abs().mean() > 1  # not one shift for all
        found.append(moved.std().item())
    assert found[0] == pytest.approx(found[1], rel=0.15)


def test_strokes_become_thicker_and_thinner():
    before = stroke()
    y = vary_stroke_width(before.clone(), 1.0, generator())
    change = y.sum((1, 2, 3)) / before.sum((1, 2, 3)) - 1
    assert 1.0 < change.max() < 1.4  # six pixels of six, and the ends
    assert (change > 0.7).sum() < (change > 0).sum() / 2  # much is rarer than little
    assert -0.25 < change.min() < -0.12  # thinning goes only part of the way
    assert (change == 0).sum() == 0
    some = vary_stroke_width(before.clone(), 0.25, generator())
    changed = (some != before).any((1, 2, 3)).float().mean()
    assert 0.1 < changed < 0.4


def test_coarse_drawings_are_of_few_pixels_black_or_white():
    before = stroke(side=80) * torch.linspace(0.3, 1, 80)
    y = coarsen(before.clone(), 1.0, generator())
    assert y.min() >= 0 and y.max() == 1
    assert ((y == 0) | (y == 1)).float().mean() > 0.9  # but for the edges, softened by enlarging
    assert y.sum((1, 2, 3)).std() > 0  # each has a level of its own
    some = coarsen(before.clone(), 0.25, generator())
    assert 0.1 < (some != before).any((1, 2, 3)).float().mean() < 0.4


def test_a_wider_view_of_the_same_warp_shows_the_same():
    x = torch.rand(4, 1, 10, 10).repeat_interleave(8, 2).repeat_interleave(8, 3)
    maps = draw_maps(4, Augmentation(rotation=10, elastic=1.5, shift=0.03), generator())
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
    x = blur(before.clone(), 0.25, generator())
    assert 0.1 < (x != before).any((1, 2, 3)).float().mean() < 0.4


def test_everything_together_repeats_and_stays_in_range():
    strength = Augmentation(10, 0.2, 0.15, 0.04, 1.5, 0.5, 0.3, 0.1, 0.3)
    x = stroke()
    kept = x.clone()
    one = augment(x, strength, generator(1))
    assert torch.equal(x, kept)  # a memory of its own
    assert torch.equal(one, augment(x, strength, generator(1)))
    assert not torch.equal(one, augment(x, strength, generator(2)))
    assert one.shape == x.shape and one.dtype == x.dtype
    assert one.min() >= 0 and one.max() <= 1 + 1e-5
    assert torch.equal(augment(x, Augmentation(), generator()).round(decimals=4), x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_stay_what_they_are(dtype):
    strength = Augmentation(10, 0.2, 0.15, 0.04, 1.5, 1.0, 1.0, 0.0, 0.0)
    x = stroke(8).to(dtype)
    y = augment(x, strength, generator())
    assert y.dtype == dtype
    expected = augment(x.float(), strength, generator())
    assert (y.float() - expected).abs().max() < (1e-5 if dtype == torch.float64 else 0.15)


def test_all_steps_are_on_the_device_of_the_batch():
    """A device that computes shapes alone refuses tensors of another, as a GPU does."""
    strength = Augmentation(10, 0.2, 0.15, 0.04, 1.5, 1.0, 1.0, 1.0, 1.0)
    y = augment(torch.empty(8, 1, 64, 64, device="meta"), strength, generator())
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
    x = stroke(400)
    y, confidence = add_leftovers(x.clone(), 0.25, generator())
    less = confidence < 1
    assert 0.15 < less.float().mean() < 0.35 and torch.equal(y[~less], x[~less])
    assert (y[less] != x[less]).any((1, 2, 3)).all() and y.min() >= 0 and y.max() <= 1 + 1e-5
    y, confidence = add_leftovers(x.clone(), 0.0, generator())
    assert torch.equal(y, x) and (confidence == 1).all()
