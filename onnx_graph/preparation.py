"""From a picture to the glyph as ONNX nodes: picture.to_glyph for drawings and clean scans.

    glyph = prepare(Value(graph, "picture"), size=80)

There are no loops and no slices: what is cropped and resampled is a product with two matrices whose
weights come from the box of the ink, and what is asked of brightness is asked of its histogram.
The same as in picture/glyph.py: polarity, what counts as a clean scan, box, area or linear
resampling, levelling. For what is no clean scan, light and paper are estimated on a coarse map,
and specks are what stands alone. Left out: rough paper, lines and neighbours.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, numpy_helper

from onnx_graph.graph import Value
from picture.glyph import CLEAN_NEAR_PAPER, CLEAN_PAPER, DENSE_PAPER, STRIP_PAPER

BINS = np.arange(256, dtype=np.float32)[None]  # (1,256)
ONE = np.ones(1, np.float32)
LAST = np.array([2])  # a third axis
PAPER = 32  # side of the map on which light and paper are estimated
CELL = 4  # pixels of a side in which specks are counted
WINDOW = 9  # of the paper's map, a quarter of the side as in picture.glyph.lift


def _plane() -> np.ndarray:
    """Return what finds the slopes of light to the right and to the bottom, (2,32*32)."""
    slope = np.arange(PAPER, dtype=np.float32) - (PAPER - 1) / 2
    both = np.stack(np.broadcast_arrays(slope, slope[:, None])).reshape(2, -1)
    return both / (both[0] ** 2).sum()


def _blur() -> np.ndarray:
    """Return weights (32,32) that smooth a side of the paper's map, which goes on as it ends."""
    places = np.arange(-PAPER, 2 * PAPER)
    weights = np.exp(-(((np.arange(PAPER)[:, None] - places) / (WINDOW / 6)) ** 2) / 2)
    weights /= weights.sum(1, keepdims=True)
    into = np.clip(places, 0, PAPER - 1)[:, None] == np.arange(PAPER)
    return (weights @ into).astype(np.float32)


PLANE, BLUR = _plane(), _blur()


def prepare(picture: Value, size: int) -> Value:
    """Return the glyph (N,S,S) float32 in 0...255 of grey pictures (N,1,H,W) uint8; 0 = paper.

    It is all 0 if the picture is blank.
    """
    height, width = picture.length(2), picture.length(3)
    ink = to_ink(picture.node("Squeeze", np.array([1])).float(), height, width)  # (N,H,W)
    of_rows, of_columns = (m.node("GlobalMaxPool") for m in (ink, ink.transpose(0, 2, 1)))
    darkest = of_rows.max(1)  # of (N,H,1), so (N,1,1)
    edge = darkest * 3  # picture.INK_EDGE, exactly, for twenty times the ink
    (top, bottom), (left, right) = (span(m * 20 > edge) for m in (of_rows, of_columns))
    scale = (size - 2 * (size // 32)) / (bottom - top).at_least(right - left)
    rows, row_gain = resampling(top, bottom, scale, height, size)  # (N,S,H)
    columns, column_gain = resampling(left, right, scale, width, size)  # (N,S,W)
    gain = row_gain * column_gain * (darkest >= 10).float()
    small = rows @ ink @ columns.transpose(0, 2, 1) * gain  # (N,S,S)
    return level(small.node("Round"))


def histogram(values: Value) -> Value:
    """Return how often each of 0...255 occurs, (N,256), in maps (N,H,W) of whole numbers."""
    where = values.node("Flatten", axis=1).node("Cast", to=TensorProto.INT32)
    count = where.node("Shape", end=1).node("Concat", np.array([256]), axis=0)
    zeros = count.node("ConstantOfShape")
    ones = where.node("Shape").node("ConstantOfShape", value=numpy_helper.from_array(ONE))
    return zeros.node("ScatterElements", where, ones, axis=1, reduction="add")


def running(counts: Value) -> Value:
    """Return sums of counts (N,256) up to and with each bin."""
    return counts.node("CumSum", np.array(1))


def quantile(counts: Value, thousandths: int) -> Value:
    """Return the first bin (N,1) at which counts (N,256) reach a share of their sum."""
    return (running(counts) * 1000 < counts.sum() * thousandths).float().sum()


def to_ink(grey: Value, height: Value, width: Value) -> Value:
    """Return ink (N,H,W), 0 = paper, whole numbers in 0...255, of grey (N,H,W) in any polarity.

    height and width are (1,) float32.
    """
    black = share(grey < 24) >= 0.5  # (N,1,1)
    clean = is_clean(grey, black, height, width)

    def mixed() -> Value:
        on_black = (clean | black).all()
        ink = on_black.choose(
            lambda: grey.node("Identity"), lambda: from_paper(grey, black, height, width)
        )
        return clean.where(255 - grey, strengthen(ink, height, width))

    return clean.all().choose(lambda: 255 - grey, mixed)


def share(chosen: Value) -> Value:
    """Return the share (N,1,1) of true pixels (N,H,W)."""
    return chosen.float().node("ReduceMean", axes=[1, 2], keepdims=1)


def is_clean(grey: Value, black: Value, height: Value, width: Value) -> Value:
    """Return whether pictures (N,H,W) are clean scans, (N,1,1), as picture.is_clean does."""
    strip = height.at_least(width) > height.at_most(width) * 2.5
    needed = black.where(CLEAN_PAPER, strip.where(STRIP_PAPER, DENSE_PAPER))
    paper = share(grey >= 255)
    return (share(grey >= 236) - paper <= CLEAN_NEAR_PAPER) & (paper >= needed)


def shrink(maps: Value, times: int) -> Value:
    """Return the means of squares in maps (N,H,W); sides are so many times less, rounded up."""
    maps = maps.node("Unsqueeze", np.array([1]))
    pool = {"kernel_shape": [times] * 2, "strides": [times] * 2, "ceil_mode": 1}
    return maps.node("AveragePool", **pool).node("Squeeze", np.array([1]))


def is_inverted(grey: Value, few: Value) -> Value:
    """Return whether ink is lighter than paper in pictures (N,H,W), (N,1,1); at half their size.

    few is the same at 32 x 32, (N,32,32).
    """
    half = shrink(grey, 2)
    height, width = half.length(1), half.length(2)
    slopes = few.node("Flatten", axis=1) @ (PLANE.T * 0.5)  # (N,2)
    right, down = (slopes.node("Gather", np.array([[i]]), axis=1) for i in (0, 1))  # (N,1,1)
    down = down * centres(height).node("Unsqueeze", np.array([1]))  # (N,H/2,1)
    level = half * 0.5 - (right * centres(width) + (down - 64))
    counts = histogram(level.clip(0, 255))
    low, middle, high = (quantile(counts, share) for share in (5, 500, 995))
    little = (high - middle).at_least(middle - low) < 2  # ink, less than 0.5 % of the page
    ends = (end.node("Squeeze", LAST) for end in span((counts > 0).node("Unsqueeze", LAST)))
    low, high = (little.where(end, usual) for end, usual in zip(ends, (low, high), strict=True))
    return (high - middle > middle - low).node("Unsqueeze", LAST)


def from_paper(grey: Value, black: Value, height: Value, width: Value) -> Value:
    """Return by how much pictures (N,H,W) differ from paper towards ink, as in glyph.lift.

    On mostly black paper, (N,1,1), light ink is itself the difference.
    """
    rows, columns = (coarse(side) for side in (height, width))
    few = rows @ grey @ columns.transpose(1, 0)  # (N,32,32)
    sign = (black | is_inverted(grey, few)).where(1.0, -1.0)  # times grey grows from paper to ink
    # Opening takes away what is strong and narrower than the window, so it leaves the paper alone.
    paper = black.where(0.0, few * (0.0 - sign)).node("Unsqueeze", np.array([1]))
    window = {"kernel_shape": [WINDOW] * 2, "pads": [WINDOW // 2] * 4}
    paper = (0.0 - paper.node("MaxPool", **window)).node("MaxPool", **window)
    paper = paper.lift(BLUR) @ paper.node("Squeeze", np.array([1])) @ BLUR.T
    return (grey * sign - enlarge(paper, height, width)).node("Relu").node("Round")


def strengthen(ink: Value, height: Value, width: Value) -> Value:
    """Bring ink (N,H,W) to full strength; what is no stronger than its noise, and specks, go."""
    low, gain, edge = (v.node("Unsqueeze", LAST) for v in contrast(histogram(ink)))
    kept = without_specks((ink > edge).float(), height, width)
    near = kept.node("MaxPool", kernel_shape=[3, 3], pads=[1] * 4).node("Squeeze", np.array([1]))
    return ((ink - low) * gain).clip(0, 255).node("Ceil") * near


def without_specks(mask: Value, height: Value, width: Value) -> Value:
    """Return a mask (N,H,W) of 0 and 1 without pieces that are small and alone.

    A piece that picture.glyph._drop_specks would keep has 0.5 % of the mask. If it is as thin as a
    hair, its middle still sees as much within half as many pixels.
    """
    ink = mask.node("ReduceSum", np.array([1, 2]), keepdims=1)  # (N,1,1)
    cells = shrink(mask, CELL)
    # Half a pixel more: every pixel reaches the middle of its own cell.
    least, reach = ink * (0.005 / CELL**2), (ink * 0.0025).node("Ceil") + 0.5

    def band(axis: int, side: Value) -> Value:  # (N,L,cells)
        centre = cells.length(axis).range() * CELL + (CELL - 1) / 2
        apart = side.range().node("Unsqueeze", np.array([1])) - centre
        return (apart.node("Abs") <= reach).float()

    near = band(1, height) @ cells @ band(2, width).transpose(0, 2, 1)
    return (mask * (near >= least).float()).node("Unsqueeze", np.array([1]))


def contrast(counts: Value) -> tuple[Value, Value, Value]:
    """Return what takes ink, of which (N,256) are the counts, to 0...255, each (N,1).

    The level that becomes 0, the gain from there, and the level above which it is surely ink.
    """
    count, total = running(counts), counts.sum()
    mass = running(counts * BINS)
    # Otsu's threshold: of the splits into floor and ink, that of the largest variance between them.
    between = mass * total - count * (counts * BINS).sum()
    between = between * between / (count * (total - count)).at_least(1)
    split = between.node("ArgMax", axis=1).float()
    floor = counts * (split >= BINS).float()
    pixels = floor.sum().at_least(1)
    level = (floor * BINS).sum() / pixels
    variance = (floor * (BINS * BINS)).sum() / pixels - level * level
    noise = variance.at_least(0).node("Sqrt")
    ink = counts - floor
    blank = quantile(ink, 500) - level < (noise * 4).at_least(10)
    low = level + noise * 2
    gain = blank.where(0.0, 255 / (quantile(ink, 950) - low).at_least(1))
    return low, gain, (split + low) * 0.5


def coarse(side: Value) -> Value:
    """Return weights (32,L) that bring a side of L pixels, (1,) float32, to a few pixels."""
    step = side / PAPER
    pixel, place = side.range(), np.arange(PAPER, dtype=np.float32)[:, None]
    low = place * step
    return ((pixel + 1).at_most(low + step) - pixel.at_least(low)).node("Relu") / step


def centres(side: Value) -> Value:
    """Return where the centres of a side's pixels are in a map of 32, from its middle, (L,)."""
    middle = (PAPER - 1) / 2
    return ((side.range() + 0.5) * (PAPER / side) - PAPER / 2).clip(-middle, middle)


def enlarge(few: Value, height: Value, width: Value) -> Value:
    """Return maps (N,32,32) at the size of the picture (N,H,W), linear between centres."""
    places = np.arange(PAPER, dtype=np.float32) - (PAPER - 1) / 2

    def weights(side: Value) -> Value:  # (L,32)
        apart = centres(side).node("Unsqueeze", np.array([1])) - places
        return (1 - apart.node("Abs")).node("Relu")

    return weights(height) @ few @ weights(width).transpose(1, 0)


def span(marked: Value) -> tuple[Value, Value]:
    """Return begin and end (N,1,1) of what is true in (N,L,1)."""
    marked = marked.float()
    first, last = (marked.node("ArgMax", axis=1, select_last_index=i).float() for i in (0, 1))
    return first, last + 1


def resampling(
    begin: Value, end: Value, scale: Value, side: Value, size: int
) -> tuple[Value, Value]:
    """Return weights (N,S,L) that bring pixels begin...end of a side to its place in the glyph.

    And the gain (N,1,1) that they still lack. As cv2.resize: the area that two pixels share where
    the picture gets smaller, and else a linear course between centres. Both fall with the distance
    of the centres, and are 1 at most. begin, end and scale, glyph pixels a pixel, are (N,1,1), side
    is (1,) float32.
    """
    place = np.arange(size, dtype=np.float32)[:, None]  # (S,1)
    count = ((end - begin) * scale).node("Round").at_least(1)
    first = ((size - count) * 0.5).node("Floor")
    step = (end - begin) / count  # pixels of the picture in one of the glyph
    smaller = scale < 1
    centre = (place - first) * step + (begin + step * 0.5 - 0.5)  # (N,S,1), of pixel 0 at 0
    centre = smaller.where(centre, centre.at_least(begin).at_most(end - 1))
    inside = (place >= first) & (place < first + count)
    apart = (side.range() - inside.where(centre, -1e6)).node("Abs")
    reach = smaller.where(step * 0.5 + 0.5, 1.0)
    return (reach - apart).clip(0, 1), smaller.where(1 / step, 1.0)


def level(ink: Value) -> Value:
    """Return ink (N,S,S) so that its 95th percentile is 255: picture.level."""
    counts = histogram(ink)
    highest = ink.node("Flatten", axis=1).max()
    edge = (highest * 0.25).node("Floor")  # edges and noise say nothing of the ink's strength
    counts = counts * (edge < BINS).float()
    gain = 255 / quantile(counts, 950).at_least(1)
    return (ink * gain.node("Unsqueeze", LAST)).node("Round").at_most(255)
