"""Augmentation of batches: each part does what its strength says."""

import cv2
import numpy as np
import pytest
import torch

from training.augment import (
    Augmentation,
    add_remains,
    augment,
    blur,
    coarsen,
    draw_maps,
    erase,
    join_halves,
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


def test_a_coarse_drawing_was_reduced_and_parted_at_a_level():
    ramp = torch.linspace(0.5 / 80, 1 - 0.5 / 80, 80).expand(150, 1, 80, 80).clone()
    sizes, levels = set(), []
    for seed in range(40):
        x = ramp if seed % 2 else ramp.mT
        y = coarsen(x.clone(), 1.0, generator(seed))
        y = y if seed % 2 else y.mT
        torch.testing.assert_close(y, y[..., :1, :].expand_as(y))  # ink where the ramp is darker
        assert y.diff(dim=3).min() > -1e-5
        found = 1 - y.mean((1, 2, 3))
        edges = found.round(decimals=4).unique()  # at the borders of the few pixels
        sizes.add(round(1 / edges.diff().mean().item()))
        levels += found.tolist()
    assert min(sizes) in (24, 25) and max(sizes) in (55, 56)
    assert 0.22 < min(levels) < 0.27 and 0.58 < max(levels) < 0.63
    assert np.mean(levels) == pytest.approx(0.425, abs=0.01)
    blank = torch.zeros(2, 1, 8, 8)  # smaller than what it would be reduced to
    assert torch.equal(coarsen(blank.clone(), 1.0, generator()), blank)


def test_a_wider_view_of_the_same_warp_shows_the_same():
    x = torch.rand(4, 1, 10, 10).repeat_interleave(8, 2).repeat_interleave(8, 3)
    maps = draw_maps(4, Augmentation(rotation=10, elastic=1.5, shift=0.03), generator())
    student, teacher = warp(x, maps), warp(x, maps, 96, 0.9)
    inner = torch.nn.functional.interpolate(student[..., 4:76, 4:76], (96, 96), mode="bilinear")
    assert teacher.shape == (4, 1, 96, 96)
    assert (teacher - inner).abs().mean() < 0.02


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


def test_joined_halves_are_two_samples_cut_near_the_middle():
    x = torch.arange(1.0, 401).view(-1, 1, 1, 1).expand(-1, 1, 40, 40).contiguous()
    y, rows = join_halves(x, 0.25, generator())
    assert 60 < len(rows) < 140 and torch.equal(x[:, 0, 0, 0], torch.arange(1.0, 401))
    untouched = torch.ones(400, dtype=torch.bool).index_fill(0, rows, False)
    assert torch.equal(y[untouched], x[untouched])
    level, first = 0, 0
    for row in rows.tolist():
        own = y[row, 0] == x[row, 0]
        assert (y[row, 0][~own] == x[row - 1, 0, 0, 0]).all()
        lines = own.all(1) | ~own.any(1)
        level += lines.all().item()
        along = own[:, 0] if lines.all() else own[0]
        assert (along[1:] != along[:-1]).sum() == 1  # one cut
        first += along[0].item()
        kept = along.sum().item() if along[0] else 40 - along.sum().item()
        assert 13 <= kept <= 27
    assert 0.3 < level / len(rows) < 0.7 and 0.3 < first / len(rows) < 0.7
    assert torch.equal(join_halves(x, 0.0, generator())[0], x)


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
    strength = Augmentation(10, 0.2, 0.15, 0.04, 1.5, 1.0, 1.0, 0.0, 1.0)
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


def sources(strength: Augmentation, count: int = 200, side: int = 32) -> np.ndarray:
    """Return where (B,2,S,S) each pixel of a warped picture comes from, x and y in -1...1.

    Two warps alike, of pictures whose ink grows to the right and downwards, tell it.
    """
    ramp = torch.linspace(1, 2, side).expand(side, side)
    found = []
    for picture in (ramp, ramp.T):
        x = picture.expand(count, 1, side, side).contiguous()
        found.append(warped(x, strength)[:, 0].numpy())
    x, y = ((value - 1.5) * 2 * (side - 1) / side for value in found)
    return np.stack([x, y], 1)


def matrices(strength: Augmentation) -> tuple[np.ndarray, np.ndarray]:
    """Return the affine maps (B,2,2) and shifts (B,2) of warps, having checked that they are."""
    side = 32
    found = sources(strength)
    at = (np.arange(side) * 2 + 1) / side - 1
    middle = slice(side // 2 - 4, side // 2 + 4)  # never beyond the border
    y, x = np.meshgrid(at[middle], at[middle], indexing="ij")
    basis = np.stack([x, y, np.ones_like(x)]).reshape(3, -1).T  # (P,3)
    seen = found[:, :, middle, middle].reshape(len(found), 2, -1)
    solved = np.linalg.lstsq(basis, seen.reshape(-1, len(basis)).T, rcond=None)[0]
    assert np.abs(basis @ solved - seen.reshape(-1, len(basis)).T).max() < 1e-4
    solved = solved.T.reshape(-1, 2, 3)
    return solved[:, :, :2], solved[:, :, 2]


def is_spread(values: np.ndarray, most: float) -> None:
    """Check that values are spread evenly over -most...most."""
    assert np.abs(values).max() <= most * 1.001
    assert values.max() > 0.95 * most and values.min() < -0.95 * most
    assert abs(values.mean()) < 0.15 * most
    assert values.std() == pytest.approx(most / 3**0.5, rel=0.1)


def test_an_affine_map_turns_then_slants_then_stretches():
    turn, shift = matrices(Augmentation(rotation=20))
    angle = np.arctan2(turn[:, 1, 0], turn[:, 0, 0])
    is_spread(np.rad2deg(angle), 20)
    wanted = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    np.testing.assert_allclose(turn, np.moveaxis(wanted, 2, 0), atol=1e-4)
    assert np.abs(shift).max() < 1e-4

    slant, _ = matrices(Augmentation(shear=0.3))
    is_spread(slant[:, 0, 1], 0.3)
    for at, value in (((0, 0), 1), ((1, 0), 0), ((1, 1), 1)):
        np.testing.assert_allclose(slant[:, at[0], at[1]], value, atol=1e-4)

    size, _ = matrices(Augmentation(scale=0.25))
    logs = np.log(size[:, [0, 1], [0, 1]])
    is_spread(logs[:, 0], 0.25)
    is_spread(logs[:, 1], 0.25)
    assert abs(np.corrcoef(logs.T)[0, 1]) < 0.3  # each axis its own
    assert np.abs(size[:, [0, 1], [1, 0]]).max() < 1e-4

    both, _ = matrices(Augmentation(rotation=20, shear=0.3))
    cos, sin = both[:, 0, 0], both[:, 1, 0]
    np.testing.assert_allclose(cos**2 + sin**2, 1, atol=1e-3)
    slope = both[:, 0, 1] * cos + both[:, 1, 1] * sin
    is_spread(slope, 0.3)
    across = np.stack([-sin, cos], 1) + slope[:, None] * np.stack([cos, sin], 1)
    np.testing.assert_allclose(both[:, :, 1], across, atol=1e-3)

    both, _ = matrices(Augmentation(rotation=20, scale=0.25))
    assert np.abs((both[:, 0] * both[:, 1]).sum(1)).max() < 1e-3  # rows stay at right angles
    is_spread(np.log(np.hypot(*both[:, 0].T)), 0.25)
    is_spread(np.log(np.hypot(*both[:, 1].T)), 0.25)

    same, shift = matrices(Augmentation(shift=0.1))
    np.testing.assert_allclose(same, np.broadcast_to(np.eye(2), same.shape), atol=1e-4)
    is_spread(shift[:, 0], 0.2)  # of the side, which is 2 long
    is_spread(shift[:, 1], 0.2)
    assert abs(np.corrcoef(shift.T)[0, 1]) < 0.3


def test_bending_is_bicubic_between_four_by_four_pulls():
    side = 64  # so that pulls are at pixels 0, 21, 42 and 63
    at = (np.arange(side) * 2 + 1) / side - 1
    moved = sources(Augmentation(elastic=1.5), 200, side) - np.stack(np.meshgrid(at, at))
    pulls = moved[:, :, 21:43:21, 21:43:21] * side / 2  # pixels; at the border paper mixes in
    assert pulls.std() == pytest.approx(1.5, rel=0.06) and abs(pulls.mean()) < 0.2
    flat = pulls.reshape(200, -1)  # all drawn for themselves
    assert np.abs(np.corrcoef(flat.T) - np.eye(8)).max() < 0.3
    steps = np.abs(np.diff(moved[:, :, 12:-12, 12:-12] * side / 2, n=2))
    assert steps.max() < 0.1  # smooth in between


def test_a_changed_stroke_lies_between_itself_and_its_extreme():
    rng = np.random.default_rng(0)
    before = torch.from_numpy(rng.random((300, 1, 12, 9), np.float32))
    after = vary_stroke_width(before.clone(), 1.0, generator())
    kernel, shares = np.ones((3, 3), np.uint8), []
    for x, y in zip(before[:, 0].numpy(), after[:, 0].numpy(), strict=True):
        begin, extreme, pixels = x, cv2.dilate(x, kernel), 0
        if thinner := y.sum() < x.sum():
            extreme = cv2.erode(x, kernel)
        while not thinner and pixels < 2 and (y >= extreme).all():  # more than a pixel
            begin, extreme, pixels = extreme, cv2.dilate(extreme, kernel), pixels + 1
        way = extreme - begin
        share = float((y - begin).ravel() @ way.ravel() / (way.ravel() @ way.ravel()))
        np.testing.assert_allclose(y, begin + share * way, atol=1e-5)
        shares.append(-share if thinner else pixels + share)
    shares = np.array(shares)
    assert -0.6 <= shares.min() < -0.57 and 2.9 < shares.max() <= 3
    assert 0.4 < (shares > 0).mean() < 0.6 and np.abs(shares).min() < 0.02
    assert shares[shares > 0].mean() == pytest.approx(1, rel=0.15)  # 3 times a third
    assert shares[shares < 0].mean() == pytest.approx(-0.3, rel=0.12)


def test_a_soft_picture_was_reduced_and_enlarged():
    side = 30
    rng = np.random.default_rng(0)
    before = torch.from_numpy(rng.random((20, 1, side, side), np.float32) ** 4)
    sizes, mixes = set(), []
    for seed in range(40):
        after = blur(before.clone(), 1.0, generator(seed))
        fits = []
        for small in range(4, side):
            soft = torch.nn.functional.interpolate(before, (small, small), mode="area")
            soft = torch.nn.functional.interpolate(soft, (side, side), mode="bilinear")
            way = soft * (before.amax((2, 3)) / soft.amax((2, 3)))[..., None, None] - before
            mix = ((after - before) * way).sum((1, 2, 3)) / way.square().sum((1, 2, 3))
            error = (before + mix[:, None, None, None] * way - after).abs().max()
            fits.append((float(error), small, mix))
        error, small, mix = min(fits, key=lambda fit: fit[0])
        assert error < 1e-4
        sizes.add(small)
        mixes += mix.tolist()
    assert min(sizes) in (6, 7) and max(sizes) in (17, 18)
    assert 0 <= min(mixes) < 0.01 and 0.99 < max(mixes) <= 1
    assert np.mean(mixes) == pytest.approx(0.5, abs=0.03)
    tiny = torch.zeros(2, 1, 8, 8)  # blank, and smaller than what it would be reduced to
    assert torch.equal(blur(tiny.clone(), 1.0, generator()), tiny)


def remains(side: int = 64, count: int = 600) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what is added to blank pictures (B,S,S), and how each of numbered squares ends."""
    x = torch.zeros(count, 1, side, side)
    lines = add_remains(x.clone(), 1.0, generator())[:, 0]
    number = (torch.arange(count) % 5 + 1) * 100.0  # far above any line
    x[:, :, side // 8 : -side // 8, side // 8 : -side // 8] = number[:, None, None, None]
    return lines, add_remains(x, 1.0, generator())[:, 0]


def test_lines_of_remains_are_thin_level_or_upright_and_near_the_border():
    lines, _ = remains()
    has = lines.amax((1, 2)) > 0
    assert has.float().mean() == pytest.approx(0.57, abs=0.07)  # of 60 %, some lie outside
    some = lines[has]
    strength = some.flatten(1).amax(1)
    assert 0.28 < strength.min() < 0.45 and 0.9 < strength.max() <= 1
    inked = (some / strength[:, None, None]).double()
    at = torch.linspace(-1, 1, 64, dtype=torch.float64)
    weight = inked / inked.sum((1, 2), keepdim=True)
    cx, cy = (weight.sum(1) * at).sum(1), (weight.sum(2) * at).sum(1)
    dx, dy = at - cx[:, None], at - cy[:, None]
    xx = (weight.sum(1) * dx**2).sum(1)
    yy = (weight.sum(2) * dy**2).sum(1)
    xy = (weight * dx[:, None] * dy[:, :, None]).sum((1, 2))
    along = torch.rad2deg(0.5 * torch.atan2(2 * xy, xx - yy)).numpy() % 90
    long = (inked > 0.5).sum((1, 2)).numpy() > 100  # short ones in corners tell no angle
    off = np.minimum(along, 90 - along)[long]
    level = (off < 5.8).mean()
    assert 0.75 < level < 0.95 and off[off < 5.8].max() > 4.5
    assert ((off > 39) | (off < 5.9)).all() and off.max() <= 45
    distance = np.maximum(np.abs(cx.numpy()), np.abs(cy.numpy()))[long][off < 5.8]
    assert distance.max() < 1.01 and distance.min() < 0.3 and np.median(distance) > 0.6
    assert distance.mean() == pytest.approx(0.66, abs=0.03)
    upright = xx < yy
    sides = [float(v.mean()) for v in (upright.float(), (cx[upright] > 0).float(),
                                       (cy[~upright] > 0).float())]  # fmt: skip
    assert all(0.35 < side < 0.65 for side in sides)  # all four sides
    whole = inked[torch.from_numpy(long)][off < 1]
    thick = whole.sum((1, 2)) / 64  # a full pixel and its fading sides
    assert thick.max() == pytest.approx(2.0, abs=0.1)


def test_characters_of_remains_shrink_and_neighbours_look_in_from_a_side():
    _, pages = remains()
    side = 64
    sizes, places, along, near = [], [], 0, 0
    for i, page in enumerate(pages.numpy()):
        mine, theirs = (np.abs(page - (at % 5 + 1) * 100) < 1e-2 for at in (i, i - 1))
        rows, columns = np.flatnonzero(mine.any(1)), np.flatnonzero(mine.any(0))
        sizes.append((np.ptp(rows) + np.ptp(columns) + 2) / 2 / (side * 6 / 8))
        places.append((rows.mean(), columns.mean()))
        if theirs.sum() > 20:
            near += 1
            rows, columns = np.flatnonzero(theirs.any(1)), np.flatnonzero(theirs.any(0))
            beside = columns[0] == 0 or columns[-1] == side - 1
            along += beside
            assert beside or rows[0] == 0 or rows[-1] == side - 1
    assert 0.66 < min(sizes) < 0.74 and 0.95 < max(sizes) < 1.01
    assert np.mean(sizes) == pytest.approx(0.84, abs=0.03)
    places = np.array(places) - (side - 1) / 2
    assert np.abs(places.mean(0)).max() < 1 and 6 < np.abs(places).max() < 10
    assert near / len(sizes) > 0.25 and along / near == pytest.approx(0.7, abs=0.1)
