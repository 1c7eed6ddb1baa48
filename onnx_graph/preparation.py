"""From a picture to the glyph as ONNX nodes: picture.to_glyph for drawings and clean scans.

    glyph = prepare(Value(graph, "picture"), size=80)

There are no loops and no slices: what is cropped and resampled is a product with two matrices whose
weights come from the box of the ink, and what is asked of brightness is asked of its histogram.
The same as in picture/glyph.py: polarity, what counts as a clean scan, box, area or linear
resampling, levelling. For what is no clean scan, light and paper are estimated on a coarse map,
and specks are what stands alone. Left out: rough paper, lines and neighbours.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from onnx import TensorProto, numpy_helper

from onnx_graph.graph import Value
from picture.glyph import CLEAN_NEAR_PAPER, CLEAN_PAPER, DENSE_PAPER, STRIP_PAPER

BINS = np.arange(256, dtype=np.float32)[None]  # (1,256)
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
    weights[weights < 1e-9] = 0  # products with the smallest numbers take many times as long
    weights /= weights.sum(1, keepdims=True)
    into = np.clip(places, 0, PAPER - 1)[:, None] == np.arange(PAPER)
    return (weights @ into).astype(np.float32)


PLANE, BLUR = _plane(), _blur()


class Side(NamedTuple):
    """A side of a picture."""

    length: Value  # float32
    pixels: Value  # 0, 1... (L,) float32

    @classmethod
    def of(cls, maps: Value, axis: int) -> Side:
        length = maps.length(axis)
        return cls(length, length.range())


def prepare(picture: Value, size: int) -> Value:
    """Return the glyph (N,S,S) uint8 of grey pictures (N,1,H,W) uint8; 0 = paper.

    It is all 0 if the picture is blank.
    """
    height, width = (Side.of(picture, axis) for axis in (2, 3))
    ink = to_ink(picture, height, width)  # (N,H,W)
    marks = ink.node("Cast", to=TensorProto.UINT8)  # faster to transpose and to look through
    # Nothing but this keeps onnxruntime from looking along columns, which takes ten times as long.
    turned = marks.transpose(0, 2, 1).node("Reshape", np.array([0, 0, -1]))
    of_rows, of_columns = (m.max().float() for m in (marks, turned))
    darkest = of_rows.max(1)  # of (N,H,1), so (N,1,1)
    edge = darkest * 3 / 20.0  # picture.INK_EDGE, exactly
    begin, last = spans(of_rows > edge, of_columns > edge)
    centre, reach, gain = resampling(begin, last, size)
    (at_row, at_column), (row_reach, column_reach) = halves(centre), halves(reach)
    rows = overlap(height.pixels - at_row.transpose(0, 2, 1), row_reach)  # (N,S,H)
    columns = overlap(column(width.pixels) - at_column, column_reach)  # (N,W,S)
    gain = gain * (darkest >= 10).float()
    return level((rows @ ink @ columns * gain).node("Round"))


def column(values: Value) -> Value:
    """Return values (L,) as (L,1), or (N,L) as (N,1,L)."""
    return values.node("Unsqueeze", np.array([1]))


def histogram(levels: Value) -> Value:
    """Return how often each of 1...255 occurs, (N,256), in maps (N,...) int32; 0 is not counted.

    Levels themselves are added up, and divided then: a map of ones would cost its time.
    """
    where = levels.node("Flatten", axis=1)
    shape = where.node("Shape", end=1).node("Concat", np.array([256]), axis=0)
    zeros = shape.node("ConstantOfShape", value=numpy_helper.from_array(np.zeros(1, np.int32)))
    sums = zeros.node("ScatterElements", where, where, axis=1, reduction="add")
    return sums.float() / np.maximum(BINS, 1)


def above(counts: Value) -> Value:
    """Return sums of counts (N,256) over the bins that are higher than each."""
    return counts.node("CumSum", np.array(1), exclusive=1, reverse=1)


def quantile(higher: Value, most: Value | float) -> Value:
    """Return the first bin (N,1) with so many, (N,1), or less `above` it, (N,256)."""
    return (higher > most).float().sum()


def to_ink(picture: Value, height: Side, width: Side) -> Value:
    """Return ink (N,H,W) float32, 0 = paper, whole, of (N,1,H,W) uint8 in any polarity."""
    grey = picture.node("Squeeze", np.array([1]))
    one = numpy_helper.from_array(np.ones(1, np.uint8))
    ones = picture.node("Shape", start=1, end=3).node("ConstantOfShape", value=one)  # (1,H)
    black = count_from(24, grey, ones) <= height.length * width.length * 0.5  # (N,1,1)
    clean = is_clean(grey, ones, black, height, width)

    def mixed() -> Value:
        plain = (clean | black).all()
        shown = plain.choose(
            lambda: grey.node("Identity"),
            lambda: clean.where(grey, from_paper(grey, black, height, width)),
            TensorProto.UINT8,
        )
        return strengthen(shown, clean, height, width)

    negative = (-1.0, np.array(255, np.uint8))  # 255 - grey
    return clean.all().choose(lambda: grey.node("DequantizeLinear", *negative), mixed)


def count_from(least: int, grey: Value, ones: Value) -> Value:
    """Return how many pixels (N,1,1) of (N,H,W) uint8 are so light or lighter; ones are (1,H)."""
    # uint8 is four times as fast as float32, but has few nodes: levels become two, then 1 and 0.
    below, zero = np.array(least - 1, np.uint8), np.array(0, np.uint8)
    two = grey.node("Clip", below, np.array(least, np.uint8))
    return ones.node("MatMulInteger", two, zero, below).float().sum()


def is_clean(grey: Value, ones: Value, black: Value, height: Side, width: Side) -> Value:
    """Return whether pictures (N,H,W) are clean scans, (N,1,1), as picture.is_clean does."""
    sides = height.length, width.length
    strip = sides[0].at_least(sides[1]) > sides[0].at_most(sides[1]) * 2.5
    needed = black.where(CLEAN_PAPER, strip.where(STRIP_PAPER, DENSE_PAPER))
    paper, pixels = count_from(255, grey, ones), sides[0] * sides[1]
    near = count_from(236, grey, ones) - paper
    return (near <= pixels * CLEAN_NEAR_PAPER) & (paper >= needed * pixels)


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
    height, width = (Side.of(half, axis) for axis in (1, 2))
    slopes = few.node("Flatten", axis=1) @ (PLANE.T * 0.5)  # (N,2)
    right, down = (slopes.node("Gather", np.array([[i]]), axis=1) for i in (0, 1))  # (N,1,1)
    down = down * column(centres(height))  # (N,H/2,1)
    level = half * 0.5 - (right * centres(width) + (down - 64))
    pixels = height.length * width.length
    higher = above(histogram(level.clip(0, 255).node("Cast", to=TensorProto.INT32)))
    low, middle, high = (quantile(higher, pixels * share) for share in (0.995, 0.5, 0.005))
    little = (high - middle).at_least(middle - low) < 2  # ink, less than 0.5 % of the page
    low = little.where(quantile(higher, pixels - 1), low)
    high = little.where(quantile(higher, 0.0), high)
    return (high - middle > middle - low).node("Unsqueeze", LAST)


def from_paper(grey: Value, black: Value, height: Side, width: Side) -> Value:
    """Return by how much pictures (N,H,W) uint8 differ from paper towards ink, as in glyph.lift.

    On mostly black paper, (N,1,1), light ink is itself the difference.
    """
    grey = grey.float()
    rows, columns = (coarse(side) for side in (height, width))
    few = rows @ grey @ columns.transpose(1, 0)  # (N,32,32)
    sign = (black | is_inverted(grey, few)).where(1.0, -1.0)  # times grey grows from paper to ink
    # Opening takes away what is strong and narrower than the window, so it leaves the paper alone.
    paper = column(black.where(0.0, few * (0.0 - sign)))
    window = {"kernel_shape": [WINDOW] * 2, "pads": [WINDOW // 2] * 4}
    paper = (0.0 - paper.node("MaxPool", **window)).node("MaxPool", **window)
    paper = paper.lift(BLUR) @ paper.node("Squeeze", np.array([1])) @ BLUR.T * sign
    apart = grey - enlarge(paper, height, width)
    return apart.node("QuantizeLinear", sign.node("Squeeze", np.array([1, 2])), axis=0)


def strengthen(ink: Value, clean: Value, height: Side, width: Side) -> Value:
    """Bring ink (N,H,W) uint8 to full strength; what is no stronger than its noise, and specks, go.

    Clean pictures (N,1,1) are grey still, and all of them becomes ink, 255 - grey.
    """
    levels = ink.node("Cast", to=TensorProto.INT32)
    table, edge = contrast(histogram(levels), height.length * width.length)
    table = clean.node("Squeeze", LAST).where(255 - BINS, table)
    edge = clean.where(-1.0, edge.node("Unsqueeze", LAST))
    marked = (levels > edge.node("Cast", to=TensorProto.INT32)).float()
    kept = column(without_specks(marked, clean, height, width))
    near = kept.node("MaxPool", kernel_shape=[3, 3], pads=[1] * 4)
    full = table.node("GatherElements", levels.node("Flatten", axis=1), axis=1)
    return full.node("Reshape", levels.node("Shape")) * near.node("Squeeze", np.array([1]))


def without_specks(marked: Value, clean: Value, height: Side, width: Side) -> Value:
    """Return a mask (N,H,W) of 0 and 1 without pieces that are small and alone.

    A piece that picture.glyph._drop_specks would keep has 0.5 % of the mask. If it is as thin as a
    hair, its middle still sees as much within half as many pixels. Clean pictures stay as they are.
    """
    ink = marked.node("ReduceSum", np.array([1, 2]), keepdims=1)  # (N,1,1)
    cells = shrink(marked, CELL)
    least = clean.where(0.0, ink * (0.005 / CELL**2))
    # Half a pixel more: every pixel reaches the middle of its own cell.
    reach, middle = (ink * 0.0025).node("Ceil") + 0.5, (CELL - 1) / 2
    down, right = (side.length.range(CELL) + middle for side in (height, width))

    def near(rows: Value, columns: Value, reach: Value) -> Value:
        rows, columns = ((apart.node("Abs") <= reach).float() for apart in (rows, columns))
        return rows @ cells @ columns

    def looked_at() -> Value:
        rows, columns = column(height.pixels) - down, width.pixels - column(right)
        return marked * (near(rows, columns, reach) >= least).float()

    # A cell sees no more than each of its pixels: mostly that says already that nothing is alone.
    seen = near(column(down) - down, right - column(right), reach - middle)
    return ((seen >= least) | (cells <= 0)).all().choose(lambda: marked.node("Identity"), looked_at)


def contrast(counts: Value, pixels: Value) -> tuple[Value, Value]:
    """Return the strength (N,256) of levels of ink, of which (N,256) are the counts, and an edge.

    Above the edge, (N,1), it is surely ink.
    """
    mass = counts * BINS
    higher, heavier, whole = above(counts), above(mass), mass.sum()
    # Otsu's threshold: of the splits into floor and ink, that of the largest variance between them.
    between = heavier * pixels - higher * whole
    between = between * between / (higher * (pixels - higher)).at_least(1)
    split = between.node("ArgMax", axis=1)
    ink, heavy = (sums.node("GatherElements", split, axis=1) for sums in (higher, heavier))
    floor, split = (pixels - ink).at_least(1), split.float()
    level = (whole - heavy) / floor
    squares = (mass * BINS * (split >= BINS).float()).sum()
    noise = (squares / floor - level * level).at_least(0).node("Sqrt")
    blank = quantile(higher, ink * 0.5) - level < (noise * 4).at_least(10)
    low = level + noise * 2
    gain = blank.where(0.0, 255 / (quantile(higher, ink * 0.05) - low).at_least(1))
    return ((BINS - low) * gain).clip(0, 255).node("Ceil"), (split + low) * 0.5


def coarse(side: Side) -> Value:
    """Return weights (32,L) that bring a side of L pixels to a few pixels."""
    step = side.length / PAPER
    low = np.arange(PAPER, dtype=np.float32)[:, None] * step
    ends = (side.pixels + 1).at_most(low + step) - side.pixels.at_least(low)
    return ends.node("Relu") / step


def centres(side: Side) -> Value:
    """Return where the centres of a side's pixels are in a map of 32, from its middle, (L,)."""
    middle = (PAPER - 1) / 2
    return ((side.pixels + 0.5) * (PAPER / side.length) - PAPER / 2).clip(-middle, middle)


def enlarge(few: Value, height: Side, width: Side) -> Value:
    """Return maps (N,32,32) at the size of the picture (N,H,W), linear between centres."""
    places = np.arange(PAPER, dtype=np.float32) - (PAPER - 1) / 2
    rows, columns = column(centres(height)) - places, centres(width) - places[:, None]
    rows, columns = ((1 - apart.node("Abs")).node("Relu") for apart in (rows, columns))
    return rows @ few @ columns


def spans(rows: Value, columns: Value) -> list[Value]:
    """Return the first and the last place, each (N,2,1), of what is true in (N,H,1) and (N,W,1)."""
    marked, ends = (rows.float(), columns.float()), []
    for last in (0, 1):
        row, place = (m.node("ArgMax", axis=1, select_last_index=last) for m in marked)
        ends.append(row.node("Concat", place, axis=1).float())
    return ends


def halves(both: Value) -> list[Value]:
    """Return what is of rows and what is of columns, (N,1,L), in (N,2,L)."""
    return [both.node("Gather", np.array([i]), axis=1) for i in (0, 1)]


def resampling(begin: Value, last: Value, size: int) -> tuple[Value, Value, Value]:
    """Return where pixels of the glyph are in the picture, how far they reach, and a gain (N,1,1).

    begin and last, the ink's ends, and the reach are (N,2,1), of rows and columns, places (N,2,S).
    As cv2.resize: the area that two pixels share where the picture gets smaller, and else a linear
    course between centres. The gain is what the weights, `overlap`, lack of that.
    """
    length = last - begin + 1
    scale = (size - 2 * (size // 32)) / length.max(1)  # glyph pixels a pixel
    count = (length * scale).node("Round").at_least(1)
    place = np.arange(0.5, size, dtype=np.float32) - ((size - count) * 0.5).node("Floor")
    step = length / count  # pixels of the picture in one of the glyph
    inside = (place > 0) & (place < count)
    centre = (place * step + (begin - 0.5)).at_least(begin).at_most(last)  # of pixel 0 at 0
    step = step.at_least(1)  # to enlarge, two pixels as far apart as in the picture
    gain = 1 / step.node("ReduceProd", axes=[1], keepdims=1)
    return inside.where(centre, -1e6), (step + 1) * 0.5, gain


def overlap(apart: Value, reach: Value) -> Value:
    """Return weights, which fall with the distance of the centres, and are 1 at most."""
    return (reach - apart.node("Abs")).clip(0, 1)


def level(ink: Value) -> Value:
    """Return ink (N,S,S) uint8 so that its 95th percentile is 255: picture.level."""
    levels = ink.node("Flatten", axis=1)
    edge = levels.max() * 0.25  # edges and noise say nothing of the ink's strength
    counts = histogram(levels.node("Cast", to=TensorProto.INT32)) * (edge < BINS).float()
    gain = 255 / quantile(above(counts), counts.sum() * 0.05).at_least(1)
    return (ink * gain.node("Unsqueeze", LAST)).node("QuantizeLinear", 1.0)
