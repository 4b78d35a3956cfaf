"""Which windows of a picture a generator sees, and how they are read.

A generator is trained at one size and pictures have any size. So each group of holes gets square
windows that are scaled down, never up, to the trained size T:

* A group that fits, with its context, in a window of at most 2 T gets one window, around it, at
  least T wide. Context is half the hole's width on each side, at least 64 pixels (T / 4 where
  that is less); but a window that would be scaled by less than 1.25 is T wide and not scaled.
* A larger group is cut into parts, each with a window of its own that overlaps its neighbours. How
  wide these windows are depends on how thick the hole is there, not on how long: a long scratch
  is filled at full resolution, T wide.
* A hole thicker than T is scaled down by more than 2, in windows 4 times as wide as it is thick, as
  far as the picture reaches: a window that sees little but hole could only guess. If it is about
  as long as it is thick, it is not cut at all.
* Parts that lie close together share a window: specks of dust do not get one each.
* A generator that fills only the central share of its window gets windows around the hole, even
  where they reach beyond the picture, and so wide that the hole, or the part, fits in that share.

All of this is planned on blocks of 16 pixels, so it costs little even for 40 megapixels. Where a
picture is smaller than a window, the window reaches beyond it and sees it mirrored there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from math import ceil
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .mask import BLOCK, Box, Hole, blocks, bounding_box, groups

Pixels = NDArray[np.uint8]  # (H,W,3), RGB
Sample = TypeVar("Sample", bound=np.generic)

CONTEXT = 64  # pixels known around a hole, at least
SHRINK = 2  # one window rather than several up to this scale
WORTH = 1.25  # the least scale: less would blur the fill and gain little context
# of a window's central share, in which parts of larger groups lie: what is left overlaps the parts
# beside it and is blended with them
CORE = 0.75
SEEN = 4  # times as wide as a hole thicker than T: a window, at least; docs/models.md, sizes
ROOM = 1.5  # likewise of any hole, and what a part of a larger group is measured by
# times as long as it is thick, at most: a hole that has one window, whatever its scale. In parts
# of it a window sees so little else that fills turned gray in the middle (four 4 MP photographs).
COMPACT = 1.75
BATCH_PIXELS = 8 * 512 * 512  # given to a generator at once


@dataclass(frozen=True)
class SizeRule:
    """Which window sizes a generator accepts, in pixels."""

    multiple: int = 1  # height and width are multiples of this
    minimum: int = 1  # and at least this
    fixed: int | None = None  # exactly this square, when the network has no choice
    trained: int = 256  # where it works best; windows aim at this
    hole_share: float = 1.0  # the hole fits in this central share of each side
    smaller: bool = False  # works as well below `trained`: windows may be as small as they can
    whole: bool = False  # wants the whole picture at once

    def accepts(self, height: int, width: int) -> bool:
        """Say whether a window of this size may be given to the generator."""
        if self.fixed is not None:
            return height == width == self.fixed
        return all(side >= self.minimum and side % self.multiple == 0 for side in (height, width))

    def fit(self, side: int) -> int:
        """Return the smallest side that is accepted and not below `side`; `fixed` if there is."""
        if self.fixed is not None:
            return self.fixed
        return -(-max(side, self.minimum, 1) // self.multiple) * self.multiple


@dataclass(frozen=True)
class Window:
    """A rectangle of the picture, with the size at which a generator sees it.

    Attributes:
        box: (top, left, bottom, right); may reach beyond the picture, which is mirrored there.
        size: (height, width) for the generator, of the same proportions.
    """

    box: Box
    size: tuple[int, int]

    @property
    def scale(self) -> float:
        """Pixels of the picture per pixel of the generator, 1 or more."""
        return (self.box[2] - self.box[0]) / self.size[0]

    def inside(self, height: int, width: int) -> Box:
        """The part of the box that lies in a picture of this size."""
        top, left, bottom, right = self.box
        return max(0, top), max(0, left), min(height, bottom), min(width, right)


class Filler(Protocol):
    """What is needed of a generator on a device."""

    @property
    def rule(self) -> SizeRule:
        """Which window sizes it accepts."""
        ...

    @property
    def learned(self) -> bool:
        """Whether a network fills, whose fills are refined unless something else is asked for."""
        ...

    def __call__(self, pixels: NDArray[np.uint8], holes: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Return fills (B,H,W,3) for pixels (B,H,W,3), RGB, and holes (B,H,W), True = hole.

        Fills are meaningful in the hole only.
        """
        ...


# --- planning ---------------------------------------------------------------------------------


def plan(hole: Hole, rule: SizeRule) -> list[Window]:
    """Return the windows that together cover every pixel of the hole; none for an empty one.

    They have one size, so that any of them can share a batch, unless smaller ones do as well.
    """
    counts = blocks(hole)
    if not counts.any():
        return []
    height, width = hole.shape
    if rule.whole:
        return [_whole(height, width, rule)]
    labels, boxes = groups(counts > 0)
    squares = _squares(counts >= BLOCK * BLOCK // 2)
    parts = [
        part
        for label, box in enumerate(boxes, start=1)
        for part in _parts(labels, label, box, squares, rule)
    ]
    return [_around(box, side, height, width, rule) for box, side in _gathered(parts, rule)]


def batches(windows: Sequence[Window], *, pixels: int = BATCH_PIXELS) -> Iterator[list[Window]]:
    """Divide windows, in their order, into lists of one size and of at most `pixels` each."""
    for size, alike in groupby(windows, key=lambda window: window.size):
        same = list(alike)
        count = max(1, pixels // (size[0] * size[1]))
        for start in range(0, len(same), count):
            yield same[start : start + count]


def _whole(height: int, width: int, rule: SizeRule) -> Window:
    if rule.fixed is not None:
        side = max(rule.fixed, height, width)
        return Window((0, 0, side, side), (rule.fixed, rule.fixed))
    size = rule.fit(height), rule.fit(width)
    return Window((0, 0, *size), size)


def _parts(
    labels: NDArray[np.int32],
    label: int,
    box: Box,
    squares: NDArray[np.int16],
    rule: SizeRule,
    *,
    cut: bool = False,
) -> Iterator[tuple[Box, int]]:
    """Yield boxes, in blocks, that together hold a group, and the side of a window for each.

    Args:
        labels: the blocks' groups.
        label: which group.
        box: the part of it that is meant.
        squares: how thick the hole is where, from `_squares`.
        rule: of the generator.
        cut: whether the box is a part of a group, whose hole goes on in the next window.
    """
    top, left, bottom, right = box
    tight = bounding_box(labels[top:bottom, left:right] == label)
    if tight is None:
        return
    box = top + tight[0], left + tight[1], top + tight[2], left + tight[3]
    trained, extent = rule.fit(rule.trained), _extent(box) * BLOCK
    thick = min(extent, _thickness(squares, box) * BLOCK)
    share = CORE * rule.hole_share if cut else rule.hole_share
    wide = max(trained, min(2 * thick, SHRINK * trained), ceil(thick * max(ROOM, 1 / share)))
    if wide <= WORTH * trained:
        wide = trained
    large = rule.hole_share == 1 and thick > trained
    if cut:
        needed, most = ceil(extent / share), wide
    else:
        context = min(CONTEXT, trained // 4)
        needed = max(extent + 2 * context, ceil(extent / share))
        if rule.hole_share == 1 and trained < needed <= WORTH * trained:
            needed = trained
        most = max(wide, SHRINK * trained)
        if needed > most and extent <= COMPACT * thick:
            needed = most = ceil(extent * max(ROOM, 1 / share))
    if needed <= most or extent == BLOCK:
        side = max(wide, needed, SEEN * thick if large else 0)
        yield box, needed if rule.smaller and not cut else side
        return
    cell = max(1, int(wide * CORE * rule.hole_share) // BLOCK)  # blocks
    for rows in _divided(box[0], box[2], cell):
        for columns in _divided(box[1], box[3], cell):
            part = rows[0], columns[0], rows[1], columns[1]
            yield from _parts(labels, label, part, squares, rule, cut=True)


def _gathered(parts: list[tuple[Box, int]], rule: SizeRule) -> Iterator[tuple[Box, int]]:
    """Join parts that fit into one window together; the largest first, nearest to nearest.

    Nothing is joined to a window that would show it at a smaller scale than its own by much.
    """
    boxes = np.array([box for box, _ in parts])
    sides = np.array([side for _, side in parts])
    waiting = np.ones(len(parts), bool)
    for first in sorted(range(len(parts)), key=lambda number: -_extent(parts[number][0])):
        if not waiting[first]:
            continue
        waiting[first] = False
        box, side = parts[first]
        room = max(CORE * rule.hole_share * side / BLOCK, _extent(box))
        alike = (sides <= side) & (side <= np.maximum(sides, SHRINK * rule.fit(rule.trained)))
        while True:
            starts, ends = np.minimum(boxes[:, :2], box[:2]), np.maximum(boxes[:, 2:], box[2:])
            extents = (ends - starts).max(axis=1)
            fits = waiting & alike & (extents <= room)
            if not fits.any():
                break
            nearest = int(np.argmin(np.where(fits, extents, np.iinfo(np.int64).max)))
            waiting[nearest] = False
            (top, left), (bottom, right) = starts[nearest].tolist(), ends[nearest].tolist()
            box = top, left, bottom, right
        yield box, side


def _divided(start: int, end: int, longest: int) -> Iterator[tuple[int, int]]:
    """Divide a range into as few even pieces as are no longer than `longest`."""
    count = ceil((end - start) / longest)
    edges = [start + (end - start) * number // count for number in range(count + 1)]
    yield from pairwise(edges)


def _extent(box: Box) -> int:
    return max(box[2] - box[0], box[3] - box[1])


def _squares(solid: Hole) -> NDArray[np.int16]:
    """Return for each block the side of the largest solid square that begins there, in blocks.

    Args:
        solid: which blocks are mostly hole: dust may lie everywhere and is never thick.
    """
    sides = np.zeros(solid.shape, np.int16)
    full = solid  # whether a square of the present side fits
    while full.any():
        sides[: full.shape[0], : full.shape[1]] += full
        full = full[:-1, :-1] & full[1:, :-1] & full[:-1, 1:] & full[1:, 1:]
    return sides


def _thickness(squares: NDArray[np.int16], box: Box) -> int:
    """Return the side of the largest solid square that touches the box, in blocks."""
    top, left, bottom, right = box
    reach = max(0, int(squares.max()) - 1)
    first_row, first_column = max(0, top - reach), max(0, left - reach)
    near = squares[first_row:bottom, first_column:right]
    rows = np.arange(first_row, bottom)[:, None]
    columns = np.arange(first_column, right)[None, :]
    touching = (rows + near > top) & (columns + near > left)
    return int(near[touching].max(initial=0))


def _around(box: Box, side: int, height: int, width: int, rule: SizeRule) -> Window:
    """Return a window with a box of blocks in its middle, then moved into the picture."""
    longest = max(height, width)
    trained = rule.fit(rule.trained)
    if rule.smaller:
        side = rule.fit(min(side, longest))
    elif rule.hole_share == 1:  # else the hole must stay in the middle
        side = min(side, max(longest, trained))
    top = _start(box[0] * BLOCK, min(box[2] * BLOCK, height), side, height, rule)
    left = _start(box[1] * BLOCK, min(box[3] * BLOCK, width), side, width, rule)
    size = min(side, trained) if rule.smaller else trained
    return Window((top, left, top + side, left + side), (size, size))


def _start(start: int, end: int, side: int, length: int, rule: SizeRule) -> int:
    """Return where a window begins along one axis of a picture of this length."""
    if side > length:
        start, end = (0, length) if rule.hole_share == 1 else (start, end)
        return (start + end - side) // 2
    middle = (start + end - side) // 2
    return min(max(middle, 0), length - side) if rule.hole_share == 1 else middle


# --- reading and writing ----------------------------------------------------------------------


def read(pixels: Pixels, hole: Hole, window: Window) -> tuple[Pixels, Hole]:
    """Return what a generator sees in a window: pixels (h,w,3) and hole (h,w).

    Scaled down, a pixel has the mean colour of what is known beneath it, and is hole as soon as
    any of it is.
    """
    patch, gap = _cropped(pixels, window.box), _cropped(hole, window.box)
    if gap.shape == window.size:
        return patch, gap
    height, width = window.size
    image = Image.fromarray(patch)
    image.putalpha(Image.fromarray(np.where(gap, np.uint8(0), np.uint8(255))))
    # Pillow weighs colours by alpha; Hamming reaches little beyond a pixel and does not ring.
    small = np.asarray(image.resize((width, height), Image.Resampling.HAMMING))
    touched = _touched(_touched(gap, height, axis=0), width, axis=1)
    return np.ascontiguousarray(small[..., :3]), touched


def enlarge(fill: Pixels, window: Window) -> Pixels:
    """Return a fill (h,w,3) at the scale of the picture, as large as the window's box."""
    top, left, bottom, right = window.box
    if fill.shape[:2] == (bottom - top, right - left):
        return fill
    image = Image.fromarray(fill)
    return np.asarray(image.resize((right - left, bottom - top), Image.Resampling.BICUBIC))


def _cropped(array: NDArray[Sample], box: Box) -> NDArray[Sample]:
    """Cut out a box; beyond the picture, the picture mirrored at its border."""
    top, left, bottom, right = box
    height, width = array.shape[:2]
    inside = array[max(0, top) : bottom, max(0, left) : right]
    beyond = ((max(0, -top), max(0, bottom - height)), (max(0, -left), max(0, right - width)))
    if any(map(any, beyond)):
        rest = ((0, 0),) * (array.ndim - 2)
        return np.pad(inside, (*beyond, *rest), mode="symmetric")
    return np.ascontiguousarray(inside)


def _touched(hole: Hole, length: int, *, axis: int) -> Hole:
    """Scale down along one axis; True where any part of a pixel is."""
    before = hole.shape[axis]
    starts = np.arange(length) * before // length
    ends = -(-(np.arange(length) + 1) * before // length)
    # reduceat takes from each index to the next one: here every second of these ranges is wanted
    ranges = np.stack([starts, ends], axis=1).reshape(-1)[:-1]
    return np.take(np.logical_or.reduceat(hole, ranges, axis=axis), range(0, 2 * length, 2), axis)
