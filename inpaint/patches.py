"""Patch synthesis: a fill made of pieces of the known region, guided by the generator's fill.

In: a picture whose hole is filled, and the hole. Out, in place: the hole with real texture.

A generator knows what belongs where but leaves it blurred. So each patch of the picture that
touches the hole is compared, blurred too, with patches that are known as a whole, and the most
similar one gives its pixels, a little brighter or darker where that fits better. Where patches
overlap the result is their mean, weighted towards their middles. This repeats in rounds, from large
patches to small ones. Sources: Wexler, Shechtman, Irani 2007, "Space-Time Completion of Video" (the
mean over patches, in rounds); Yang et al. 2017, arXiv:1611.09969 (guided by a network's fill);
Yi et al. 2020, arXiv:2005.09704 (detail borrowed from the context).

A round first finds the patches for all of the hole, a tile at a time, then writes. Only known
pixels are copied and only the hole is written, so it writes in place, and tiles leave no seams.
Levels that are compared are small integers, so that sums in float32 are exact: no order of
summation, and so no number of threads, changes the result.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from .highres import Pixels
from .mask import Hole, bounding_box

Refine = Literal["auto", "none", "patches", "full"]  # auto: patches for learned generators
Refinement = Literal["none", "patches", "full"]
Places = tuple[NDArray[np.intp], NDArray[np.intp]]  # rows and columns, (N,) each
# For patches of the hole on a grid, as `_starts` has them: (n,m) 1 + the flat index of the first
# pixel of the known patch that is most similar, 0 for none; and (n,m,3) levels to be added to it.
Matches = tuple[NDArray[np.int32], NDArray[np.int8]]


@dataclass(frozen=True)
class Round:
    """How patches are taken and compared, once over the hole.

    Attributes:
        size: side of a patch, pixels.
        stride: pixels from one patch of the hole to the next.
        apart: pixels between the samples of a patch that are compared.
        blur: of what is compared, standard deviation, pixels; 0: none.
        every: pixels from one known patch to the next; the stride is a multiple of it, so that a
            texture that repeats is met where it repeats.
        most: known patches that are compared, at most.
    """

    size: int
    stride: int
    apart: int
    blur: float
    every: int
    most: int


# Tried on 28 photographs with three holes each, and on large ones, by LPIPS and time
# (docs/models.md). The last round, of small patches that overlap well, takes out what the others
# misplaced.
ROUNDS: dict[Refinement, tuple[Round, ...]] = {
    "none": (),
    "patches": (
        Round(13, 8, 3, 1.5, 2, 4500),
        Round(9, 6, 2, 1.0, 2, 4500),
        Round(5, 3, 1, 0, 1, 9000),
    ),
    "full": (
        Round(13, 8, 3, 1.5, 1, 18_000),
        Round(9, 6, 2, 1.0, 1, 18_000),
        Round(5, 3, 1, 0, 1, 18_000),
    ),
}
TILE = 256  # pixels on a side, whose patches are searched for together
MARGIN = 96  # pixels around a tile in which is searched; less around a speck
WIDEST = 768  # and at most, where less is known than is not
FEWEST = 64  # known patches, to choose among
KNOWN = 16  # times as much a known pixel counts as one that is filled
SHIFT = 12  # levels of 255 by which a patch may become brighter or darker, at most
AT_ONCE = 128  # patches of the hole that are compared: what comes of it stays in a core's cache
BELL = 4  # times as wide a patch is as the standard deviation of its weights
STRIP = 64  # rows
PIXELS = 1 << 14  # that are written at once


def chosen(refine: Refine, learned: bool) -> Refinement:
    """Return what is done to fills: "auto" is "patches" for a learned generator, else "none"."""
    if refine == "auto":
        return "patches" if learned else "none"
    return refine


def synthesize(pixels: Pixels, hole: Hole, refinement: Refinement) -> Iterator[None]:
    """Make the fill of a hole from known patches that resemble it, a small part at each step.

    Where no patch is known as a whole nearby, the fill stays.

    Args:
        pixels: uint8 (H,W,3), RGB, filled; written in the hole only.
        hole: bool (H,W), True = filled.
        refinement: the quality.
    """
    for each in ROUNDS[refinement]:
        if min(hole.shape) >= each.size:
            matches = yield from _matches(pixels, hole, each)
            yield from _write(pixels, hole, each, matches)


def _matches(pixels: Pixels, hole: Hole, each: Round) -> Generator[None, None, Matches]:
    """Return the most similar known patch for each patch of the hole."""
    height, width = hole.shape
    rows, columns = _starts(height, each), _starts(width, each)
    sources = np.zeros((len(rows), len(columns)), np.int32)  # pages never touched cost nothing
    shifts = np.zeros((*sources.shape, 3), np.int8)
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            box = bounding_box(hole[top : top + TILE + each.size, left : left + TILE + each.size])
            if box is None:
                continue
            down = _touching(rows, top, box[0], box[2], each)
            across = _touching(columns, left, box[1], box[3], each)
            if down.start < down.stop and across.start < across.stop:
                matches = sources[down, across], shifts[down, across]
                _match_tile(pixels, hole, each, (rows[down], columns[across]), matches)
                yield
    return sources, shifts


def _touching(starts: NDArray[np.intp], tile: int, first: int, last: int, each: Round) -> slice:
    """Return which patches, along an axis, are a tile's and reach into its hole."""
    low, high = max(tile, tile + first - each.size + 1), min(tile + TILE, tile + last)
    return slice(*np.searchsorted(starts, (low, high)).tolist())


def _match_tile(pixels: Pixels, hole: Hole, each: Round, starts: Places, matches: Matches) -> None:
    """Find the matches of a tile's patches, which begin at rows and columns."""
    rows, columns = starts
    last_row, last_column = int(rows[-1]) + each.size, int(columns[-1]) + each.size
    margin = min(MARGIN, max(last_row - int(rows[0]), last_column - int(columns[0])))
    while True:
        top, left = (max(0, int(axis[0]) - margin) // each.every * each.every for axis in starts)
        near = slice(top, last_row + margin), slice(left, last_column + margin)
        counts = _counts(hole[near], each.size)
        known = np.flatnonzero(counts[:: each.every, :: each.every] == 0)
        plenty = len(known) >= FEWEST and hole[near].mean() <= 0.5  # else tiles of a hole differ
        if plenty or margin >= WIDEST:
            break
        margin = min(2 * margin, WIDEST)
    if len(known) < FEWEST:
        return
    if len(known) > each.most:
        known = known[np.arange(each.most) * len(known) // each.most]
    down, across = np.divmod(known, -(-counts.shape[1] // each.every))
    down, across = down * each.every, across * each.every
    wanted = np.nonzero(counts[np.ix_(rows - top, columns - left)])

    width = hole[near].shape[1]
    levels = _levels(pixels[near], each.blur)
    weights = np.where(hole[near], np.float32(1), np.float32(KNOWN)).reshape(-1)
    line = np.arange((each.size - 1) % each.apart // 2, each.size, each.apart)
    samples = (line[:, None] * width + line).reshape(-1)
    # The weighted squared difference, less what all have in common: w k^2 - 2 w q k, one product.
    table = np.empty((len(samples), len(levels), len(known)), np.float32)
    for sample, row in zip(samples, table, strict=True):
        np.take(levels, down * width + across + sample, axis=1, out=row, mode="clip")
    keys = table.reshape(-1, len(known))
    places = (rows[wanted[0]] - top) * width + columns[wanted[1]] - left
    for start in range(0, len(places), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        seen = places[some, None] + samples
        weight = weights[seen]
        asked = np.stack([*(-2 * weight * levels[:3, seen]), weight], axis=2)
        best = (asked.reshape(len(seen), -1) @ keys).argmin(axis=1)
        here = wanted[0][some], wanted[1][some]
        matches[0][here] = (down[best] + top) * hole.shape[1] + across[best] + left + 1
        off = levels[:3, seen] - table[:, :3, best].transpose(1, 2, 0)
        shift = 2 * (weight * off).sum(axis=2) / weight.sum(axis=1)
        matches[1][here] = np.rint(shift.clip(-SHIFT, SHIFT)).T


def _write(pixels: Pixels, hole: Hole, each: Round, matches: Matches) -> Iterator[None]:
    """Write the weighted mean of the patches that were found, into the hole."""
    for top in range(0, len(hole), STRIP):
        rows, columns = np.nonzero(hole[top : top + STRIP])
        for start in range(0, len(rows), PIXELS):
            some = slice(start, start + PIXELS)
            _write_some(pixels, (rows[some] + top, columns[some]), each, matches)
            yield


def _write_some(pixels: Pixels, places: Places, each: Round, matches: Matches) -> None:
    """Write the pixels at places."""
    width = pixels.shape[1]
    middle = (each.size - 1) / 2
    bell = np.exp(-(((np.arange(each.size) - middle) * BELL / each.size) ** 2) / 2)
    bell = bell.astype(np.float32)
    total = np.zeros((len(places[0]), 3), np.float32)
    weight = np.zeros(len(places[0]), np.float32)
    reaching = [list(_reaching(*axis, each)) for axis in zip(places, pixels.shape, strict=False)]
    for patch_row, down in reaching[0]:
        for patch_column, across in reaching[1]:
            source, shift = (match[patch_row, patch_column] for match in matches)
            inside = np.flatnonzero((down < each.size) & (across < each.size) & (source > 0))
            dy, dx = down[inside], across[inside]
            from_row, from_column = np.divmod(source[inside] - 1, width)
            share = bell[dy] * bell[dx]
            copied = pixels[from_row + dy, from_column + dx] + shift[inside].astype(np.int16)
            total[inside] += share[:, None] * copied
            weight[inside] += share
    made = np.flatnonzero(weight)
    written = places[0][made], places[1][made]
    pixels[written] = np.rint(total[made] / weight[made, None]).clip(0, 255)


def _reaching(places: NDArray[np.intp], length: int, each: Round) -> Iterator[Places]:
    """Yield, along an axis, patches that reach places, and how far into them the places lie.

    Where a place has fewer patches than others, one that it does not lie in: `each.size` or more.
    """
    starts = _starts(length, each)
    for before in range((each.size - 1) // each.stride + 1):
        patch = places // each.stride - before
        valid = (patch >= 0) & (patch < len(starts))
        patch = np.where(valid, patch, 0)
        yield patch, np.where(valid, places - starts[patch], each.size)


def _starts(length: int, each: Round) -> NDArray[np.intp]:
    """Return where patches of the hole begin along an axis; the last one ends with it."""
    last = length - each.size
    return np.minimum(np.arange(0, last + each.stride, each.stride), last)


def _counts(hole: Hole, size: int) -> NDArray[np.int32]:
    """Return for each patch of a hole (h,w) how many of its pixels are hole."""
    sums = np.zeros((hole.shape[0] + 1, hole.shape[1] + 1), np.int32)
    np.cumsum(hole, axis=0, dtype=np.int32, out=sums[1:, 1:])
    np.cumsum(sums[1:, 1:], axis=1, out=sums[1:, 1:])
    across = sums[:, size:] - sums[:, :-size]
    counts: NDArray[np.int32] = across[size:] - across[:-size]
    return counts


def _levels(pixels: Pixels, blur: float) -> NDArray[np.float32]:
    """Return blurred levels, whole numbers from -64 to 63, and their squares' sum: (4,h*w)."""
    blurred = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(blur)))
    levels = np.empty((4, blurred.shape[0] * blurred.shape[1]), np.float32)
    levels[:3] = blurred.reshape(-1, 3).T // 2
    levels[:3] -= 64
    np.sum(levels[:3] ** 2, axis=0, out=levels[3])
    return levels
