"""`picture.to_glyph` for drawings and clean scans as a PyTorch module, so that it can be exported.

There are no data-dependent branches: brightness is decided on the histogram, and the crop is
resampled by two matrix products whose weights follow from the bounding box of the ink. N, H and W
are dynamic.

Clean scans are treated as in picture/glyph.py, up to rounding. Of all other pictures, the polarity
and the contrast are corrected for the whole picture at once. Not handled: uneven light, paper
texture, lines and neighbouring characters. This file needs torch, the rest of picture/ does not.
"""

import torch
from torch import Tensor, nn

from picture.glyph import CLEAN_NEAR_PAPER, CLEAN_PAPER, DENSE_PAPER, FLAT, STRIP_PAPER

LEAST_INK = 10  # levels between paper and ink; below that, the picture is blank


class ToGlyph(nn.Module):
    """Turn grey pictures (N,1,H,W) uint8 into glyphs (N,S,S) uint8; a blank one becomes all 0."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("levels", torch.arange(256.0), persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        height = torch.arange(pictures.shape[2], device=pictures.device)  # (H,)
        width = torch.arange(pictures.shape[3], device=pictures.device)  # (W,)
        grey = pictures.flatten(1).long()
        sides = torch.stack([height[-1], width[-1]]) + 1
        strip = sides.amax() * 2 > sides.amin() * 5
        table = self.ink_of_levels(histogram(grey), strip)
        ink = table.gather(1, grey).view_as(pictures).squeeze(1)  # (N,H,W)
        darkest = ink.amax((1, 2)).view(-1, 1)
        edge = darkest * 3 / 20  # glyph.INK_EDGE, exact in float32
        top, bottom = ends(ink.amax(2) > edge, height)
        left, right = ends(ink.amax(1) > edge, width)
        margin = self.size // 32
        scale = (self.size - 2 * margin) / torch.maximum(bottom - top, right - left)
        rows = self.resampling(top, bottom, scale, height)  # (N,S,H)
        columns = self.resampling(left, right, scale, width)  # (N,S,W)
        glyph = (rows @ ink @ columns.transpose(1, 2)).round()
        return self.level(glyph * (darkest >= LEAST_INK).unsqueeze(2))

    def ink_of_levels(self, shares: Tensor, strip: Tensor) -> Tensor:
        """Return the ink (N,256), 0...255, of each grey level of pictures with histograms (N,256).

        A clean scan keeps its levels. Otherwise ink grows from two standard deviations off the
        paper's mean to full strength, as in glyph.lift.
        """
        clean = self.is_clean(shares, strip)
        light = self.is_light(shares) & ~clean
        shares = torch.where(light, shares.flip(1), shares)
        dark = self.levels <= otsu(shares, self.levels)
        paper, ink = shares * ~dark, shares * dark
        whole = paper.sum(1, keepdim=True).clamp(min=1e-6)
        mean = (paper * self.levels).sum(1, keepdim=True) / whole
        deviation = ((paper * (self.levels - mean) ** 2).sum(1, keepdim=True) / whole).sqrt()
        low = mean - 2 * deviation
        full, middle = quantile(ink, 0.05), quantile(ink, 0.5)
        blank = mean - middle < (4 * deviation).clamp(min=LEAST_INK)
        strength = ((low - self.levels) / (low - full).clamp(min=1)).clamp(0, 1) * 255
        strength = strength.ceil() * ~blank
        strength = torch.where(light, strength.flip(1), strength)
        return torch.where(clean, 255 - self.levels, strength)

    def is_clean(self, shares: Tensor, strip: Tensor) -> Tensor:
        """Return whether pictures are clean scans, (N,1), as glyph.is_clean does."""
        tight = torch.where(strip, STRIP_PAPER, DENSE_PAPER)
        black = shares[:, :24].sum(1, keepdim=True) >= 0.5
        near = shares[:, 236:255].sum(1, keepdim=True)
        white = shares[:, 255:]
        flat = shares[:, 24:236].amax(1, keepdim=True) > white.clamp(min=FLAT)
        least = torch.where(black, CLEAN_PAPER, tight)
        return (near <= CLEAN_NEAR_PAPER) & (white >= least) & (black | ~flat)

    def is_light(self, shares: Tensor) -> Tensor:
        """Return whether ink is lighter than paper, (N,1): the histogram is skewed upwards."""
        return (shares * (self.levels - quantile(shares, 0.5)) ** 3).sum(1, keepdim=True) > 0

    def resampling(self, begin: Tensor, end: Tensor, scale: Tensor, pixels: Tensor) -> Tensor:
        """Return weights (N,S,L) that bring begin...end (N,1) of a side of L pixels to the glyph.

        As cv2.resize: the shared area of two pixels where the picture gets smaller, else linear
        interpolation between pixel centres. Rows outside the character are 0.
        """
        count = ((end - begin) * scale).round().clamp(min=1)  # pixels of the glyph
        place = torch.arange(0.5, self.size, device=pixels.device)  # (S,)
        place = place - ((self.size - count) / 2).floor()  # (N,S)
        step = (end - begin) / count  # pixels of the picture in one of the glyph
        centre = (place * step + begin - 0.5).maximum(begin).minimum(end - 1)
        inside = (place > 0) & (place < count)
        step = step.clamp(min=1).unsqueeze(2)
        apart = (pixels - centre.unsqueeze(2)).abs()  # (N,S,L)
        return ((step + 1) / 2 - apart).clamp(0, 1) / step * inside.unsqueeze(2)

    def level(self, glyph: Tensor) -> Tensor:
        """Scale glyphs (N,S,S) so that the 95th percentile of the ink is 255: glyph.level."""
        edge = glyph.amax((1, 2)).view(-1, 1) / 4  # below: edges, and noise
        shares = histogram(glyph.flatten(1).long()) * (self.levels >= edge.floor() + 1)
        strength = quantile(shares, 0.95).clamp(min=1).unsqueeze(2)
        return (glyph * (255 / strength)).round().clamp(max=255).to(torch.uint8)


def histogram(levels: Tensor) -> Tensor:
    """Return the share (N,256) of each of the levels 0...255 in (N,L) int64."""
    counts = torch.zeros(levels.shape[0], 256, device=levels.device)
    counts = counts.scatter_add(1, levels, torch.ones_like(levels, dtype=torch.float32))
    return counts / counts.sum(1, keepdim=True)


def quantile(shares: Tensor, share: float) -> Tensor:
    """Return the first level (N,1) up to which lies a share of the sum of each row in (N,256)."""
    total = shares.cumsum(1)
    return (total < share * total[:, -1:]).sum(1, keepdim=True).float()


def otsu(shares: Tensor, levels: Tensor) -> Tensor:
    """Return Otsu's threshold (N,1) of histograms (N,256), the last level of the darker part."""
    below, mass = shares.cumsum(1), (shares * levels).cumsum(1)
    between = (mass[:, -1:] * below - mass) ** 2 / (below * (1 - below)).clamp(min=1e-6)
    return between.argmax(1, keepdim=True)


def ends(marked: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first index (N,1) that is true in (N,L), and one more than the last."""
    first = torch.where(marked, pixels, pixels[-1]).amin(1, keepdim=True)
    last = torch.where(marked, pixels, 0).amax(1, keepdim=True)
    return first, last.maximum(first) + 1
