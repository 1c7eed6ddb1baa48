"""Augmentation of batches: each part does what its strength says."""

import pytest
import torch

from training.augment import (
    Augmentation,
    add_remains,
    augment,
    blur,
    erase,
    vary_stroke_width,
    warp,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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
    y = warp(stroke(), Augmentation(rotation=20), generator())
    _, _, xx, xy, yy = moments(y)
    angle = torch.rad2deg(0.5 * torch.atan2(2 * xy, yy - xx))  # of the stroke to the vertical
    assert angle.abs().max() < 21 and angle.max() > 15 and angle.min() < -15
    # Round its middle, and keeping its size.
    assert y.sum((1, 2, 3)).sub(stroke().sum((1, 2, 3))).abs().max() < 8
    assert moments(y)[0].abs().max() < 0.01 and moments(y)[1].abs().max() < 0.01


def test_shear_slants_rows():
    y = warp(stroke(), Augmentation(shear=0.3), generator())
    _, _, _, xy, yy = moments(y)
    slope = xy / yy
    assert slope.abs().max() < 0.31 and slope.max() > 0.2 and slope.min() < -0.2
    assert (yy - moments(stroke())[4]).abs().max() < 1e-3  # heights stay


def test_scale_is_drawn_for_each_axis():
    _, _, xx, _, yy = moments(warp(stroke(wide=16), Augmentation(scale=0.3), generator()))
    _, _, xx0, _, yy0 = moments(stroke(wide=16))
    for now, before in ((xx, xx0), (yy, yy0)):
        log = 0.5 * (now / before).log()
        assert log.abs().max() < 0.32 and log.max() > 0.2 and log.min() < -0.2
    assert (xx / xx0 - yy / yy0).abs().max() > 0.1


def test_shift_has_both_directions():
    cx, cy, *_ = moments(warp(stroke(), Augmentation(shift=0.1), generator()))
    for moved in (cx, cy):
        assert moved.abs().max() < 0.101 and moved.max() > 0.06 and moved.min() < -0.06


def test_bending_has_the_stated_size_at_any_side():
    """A grid of dots moves by about as many pixels as the pulls say, of 64."""
    found = []
    for side in (64, 128):
        x = torch.linspace(0, 1, side).expand(256, 1, side, side).contiguous()
        y = warp(x, Augmentation(elastic=2.0), generator())
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
    assert 0.6 < change.max() < 0.9  # four pixels of six, and the ends
    assert -0.25 < change.min() < -0.12  # thinning goes only part of the way
    assert (change == 0).sum() == 0
    some = vary_stroke_width(before.clone(), 0.25, generator())
    changed = (some != before).any((1, 2, 3)).float().mean()
    assert 0.1 < changed < 0.4


def test_remains_stand_beside_the_character():
    x = stroke()
    y = add_remains(x.clone(), 1.0, generator())
    assert y.min() >= 0 and y.max() <= 1 + 1e-5
    border = torch.ones_like(x[0], dtype=torch.bool)
    border[:, 4:-4, 4:-4] = False
    assert (x[:, border].amax(1) > 0.1).sum() == 0  # nothing there before
    assert (y[:, border].amax(1) > 0.1).float().mean() > 0.5  # lines and pieces of neighbours
    assert y.sum((1, 2, 3)).std() > 0
    some = add_remains(x.clone(), 0.25, generator())
    assert 0.1 < (some != x).any((1, 2, 3)).float().mean() < 0.4
    assert torch.equal(add_remains(x.clone(), 0.0, generator()), x)


def test_blur_softens_and_keeps_full_ink():
    before = stroke()
    y = blur(before.clone(), 1.0, generator())
    assert y.amax((1, 2, 3)).sub(1).abs().max() < 1e-5
    grey = ((y > 0.05) & (y < 0.95)).sum((1, 2, 3))
    assert grey.max() > 200 and grey.float().std() > 5  # each its own mix
    x = blur(before.clone(), 0.25, generator())
    assert 0.1 < (x != before).any((1, 2, 3)).float().mean() < 0.4


def test_erased_rectangles_are_a_tenth_to_a_third_of_the_side():
    y = erase(torch.ones(400, 1, 60, 60), 1.0, generator())
    holes = y[:, 0] == 0
    heights, widths = holes.any(2).sum(1), holes.any(1).sum(1)
    assert torch.equal(holes.sum((1, 2)), heights * widths)  # rectangles
    for lengths in (heights, widths):
        assert 5 <= lengths.min() <= 8 and 18 <= lengths.max() <= 20
    assert holes.any(0)[4:-4, 4:-4].all()  # anywhere
    assert holes[:, :2].any() and holes[:, -2:].any() and holes[..., :2].any()
    some = erase(torch.ones(400, 1, 60, 60), 0.25, generator())
    assert 0.15 < (some == 0).any((1, 2, 3)).float().mean() < 0.35


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


def test_blur_keeps_the_ink_of_each_sample_and_is_smooth():
    before = stroke()
    before[::2] *= 0.5
    y = blur(before.clone(), 1.0, generator())
    torch.testing.assert_close(y.amax((1, 2, 3)), before.amax((1, 2, 3)))
    across = y[:, 0, 32]  # (B,S): rises to the stroke and falls, without steps
    steps = (across.diff(dim=1).abs() > 0.01).sum(1)
    assert steps.float().mean() > 10
    thin = stroke(wide=2)
    assert blur(thin, 1.0, generator())[:, 0, 32, 31:33].min() > 0.9  # no pixel is passed over


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_stay_what_they_are(dtype):
    strength = Augmentation(10, 0.2, 0.15, 0.04, 1.5, 1.0, 1.0, 1.0)
    x = stroke(8).to(dtype)
    y = augment(x, strength, generator())
    assert y.dtype == dtype
    expected = augment(x.float(), strength, generator())
    assert (y.float() - expected).abs().max() < (1e-5 if dtype == torch.float64 else 0.15)


def test_all_steps_are_on_the_device_of_the_batch():
    """A device that computes shapes alone refuses tensors of another, as a GPU does."""
    strength = Augmentation(10, 0.2, 0.15, 0.04, 1.5, 1.0, 1.0, 1.0)
    y = augment(torch.empty(8, 1, 64, 64, device="meta"), strength, generator())
    assert y.shape == (8, 1, 64, 64) and y.device.type == "meta"
