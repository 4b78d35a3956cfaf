"""Patch synthesis: a fill made of pieces of the known region, guided by the generator's fill.

In: a picture whose hole is filled, and the hole. Out, in place: the hole with real texture.

A generator knows what belongs where but leaves it blurred. So each patch of the picture that
touches the hole is compared with patches that are known as a whole, and the most similar one gives
its pixels; where patches overlap the result is their mean, weighted towards their middles. This
repeats in rounds, from large patches to small ones. Sources: Wexler, Shechtman, Irani 2007, "Space-
Time Completion of Video" (the mean over patches, in rounds); Yang et al. 2017, arXiv:1611.09969
(guided by a network's fill); Yi et al. 2020, arXiv:2005.09704 (detail borrowed from the context).

Only known pixels are ever copied and only the hole is written, so a round may write in place.
Levels that are compared are small integers, so that sums in float32 are exact: no order of
summation, and so no number of threads, changes the result.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from .highres import Pixels
from .mask import Hole, bounding_box

Refine = Literal["auto", "none", "patches", "full"]  # auto: patches for learned generators
Refinement = Literal["none", "patches", "full"]


@dataclass(frozen=True)
class Round:
    """How patches are taken and compared, once over the hole.

    Attributes:
        size: side of a patch, pixels.
        stride: pixels from one patch of the hole to the next.
        apart: pixels between the samples of a patch that are compared.
    """

    size: int
    stride: int
    apart: int


ROUNDS: dict[Refinement, tuple[Round, ...]] = {
    "none": (),
    "patches": (Round(9, 4, 2),),
    "full": (Round(17, 8, 4), Round(11, 5, 2), Round(7, 3, 2)),
}
TILE = 128  # pixels on a side, whose patches are searched for together
MARGIN = 96  # pixels around a tile in which is searched, at first
WIDEST = 512  # and at most, where little is known
FEWEST = 64  # known patches, to choose among
MOST = 8192  # that are compared
EVERY = 2  # pixels from one known patch to the next, at least
BLUR = 1.5  # pixels, standard deviation, of what is compared
KNOWN = 5  # times as much a known pixel counts as one that is filled
AT_ONCE = 512  # patches of the hole: what is computed stays in a core's cache
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
            found = yield from _matches(pixels, hole, each)
            yield from _vote(pixels, hole, each, found)


def _matches(pixels: Pixels, hole: Hole, each: Round) -> Generator[None, None, NDArray[np.int32]]:
    """Return the best known patch for each patch of the hole.

    Returns:
        For patches on a grid of `each.stride`, as `_starts` has them, 1 + the flat index of the
        known patch's first pixel; 0 for none.
    """
    height, width = hole.shape
    rows, columns = _starts(height, each), _starts(width, each)
    found = np.zeros((len(rows), len(columns)), np.int32)  # pages never touched cost nothing
    for top in range(0, height, TILE):
        if not hole[top : top + TILE + each.size].any():
            continue
        mine = slice(*np.searchsorted(rows, (top, top + TILE)))
        for left in range(0, width, TILE):
            beside = slice(*np.searchsorted(columns, (left, left + TILE)))
            _match_tile(pixels, hole, each, (rows[mine], columns[beside]), found[mine, beside])
            yield
    return found


def _match_tile(
    pixels: Pixels,
    hole: Hole,
    each: Round,
    starts: tuple[NDArray[np.intp], NDArray[np.intp]],
    found: NDArray[np.int32],
) -> None:
    """Find the matches of a tile's patches, which begin at rows and columns."""
    rows, columns = starts
    if not len(rows) or not len(columns):
        return
    box = rows[0], columns[0], rows[-1] + each.size, columns[-1] + each.size
    if bounding_box(hole[box[0] : box[2], box[1] : box[3]]) is None:
        return
    margin = MARGIN
    while True:
        top, left = max(0, box[0] - margin), max(0, box[1] - margin)
        near = slice(top, box[2] + margin), slice(left, box[3] + margin)
        counts = _counts(hole[near], each.size)
        known = np.argwhere(counts[::EVERY, ::EVERY] == 0) * EVERY
        if len(known) >= FEWEST or margin >= WIDEST:
            break
        margin *= 2
    if len(known) < FEWEST:
        return
    known = known[:: -(-len(known) // MOST)]
    wanted = np.argwhere(counts[np.ix_(rows - top, columns - left)] > 0)
    levels = _levels(pixels[near])
    spread = (
        slice(None),
        slice(None),
        slice(None, None, each.apart),
        slice(None, None, each.apart),
    )
    patches = sliding_window_view(levels, (each.size, each.size), axis=(0, 1))
    patches = patches.transpose(0, 1, 3, 4, 2)[spread]
    gaps = sliding_window_view(hole[near], (each.size, each.size))[spread]
    keys = patches[known[:, 0], known[:, 1]]
    table = np.hstack([(keys**2).sum(axis=-1).reshape(len(keys), -1), keys.reshape(len(keys), -1)])
    for start in range(0, len(wanted), AT_ONCE):
        some = wanted[start : start + AT_ONCE]
        at = rows[some[:, 0]] - top, columns[some[:, 1]] - left
        weights = np.where(gaps[at], np.float32(1), np.float32(KNOWN))
        asked = (-2 * weights[..., None] * patches[at]).reshape(len(some), -1)
        asked = np.hstack([weights.reshape(len(some), -1), asked])
        best = known[(asked @ table.T).argmin(axis=1)]
        source = (best[:, 0] + top) * hole.shape[1] + best[:, 1] + left
        found[some[:, 0], some[:, 1]] = source + 1


def _vote(pixels: Pixels, hole: Hole, each: Round, found: NDArray[np.int32]) -> Iterator[None]:
    """Write the weighted mean of the patches that were found, into the hole."""
    height, width = hole.shape
    starts = _starts(height, each), _starts(width, each)
    place = (np.arange(each.size) - (each.size - 1) / 2) / (each.size / 4)
    bell = np.exp(-(place**2) / 2).astype(np.float32)
    strip = max(1, PIXELS // width)
    for first in range(0, height, strip):
        places = np.flatnonzero(hole[first : first + strip]) + first * width
        if not len(places):
            continue
        row, column = np.divmod(places, width)
        total = np.zeros((len(places), 3), np.float32)
        weight = np.zeros(len(places), np.float32)
        back = range((each.size - 1) // each.stride + 1)
        for above in back:
            down, across = row // each.stride - above, column // each.stride
            at_row = down.clip(0, len(starts[0]) - 1)
            dy = row - starts[0][at_row]
            for before in back:
                at_column = (across - before).clip(0, len(starts[1]) - 1)
                dx = column - starts[1][at_column]
                inside = (at_row == down) & (at_column == across - before)
                source = found[at_row, at_column]
                inside &= (dy < each.size) & (dx < each.size) & (source > 0)
                here = np.flatnonzero(inside)
                share = bell[dy[here]] * bell[dx[here]]
                from_row, from_column = np.divmod(source[here] - 1, width)
                copied = pixels[from_row + dy[here], from_column + dx[here]]
                total[here] += share[:, None] * copied
                weight[here] += share
        made = np.flatnonzero(weight)
        pixels[row[made], column[made]] = np.rint(total[made] / weight[made, None])
        yield


def _starts(length: int, each: Round) -> NDArray[np.intp]:
    """Return where patches of the hole begin along an axis; the last one ends with it."""
    return np.minimum(
        np.arange(0, length - each.size + each.stride, each.stride), length - each.size
    )


def _counts(hole: Hole, size: int) -> NDArray[np.int32]:
    """Return for each patch of a hole (h,w) how many of its pixels are hole."""
    sums = np.zeros((hole.shape[0] + 1, hole.shape[1] + 1), np.int32)
    sums[1:, 1:] = hole.cumsum(axis=0, dtype=np.int32).cumsum(axis=1)
    across = sums[:, size:] - sums[:, :-size]
    counts: NDArray[np.int32] = across[size:] - across[:-size]
    return counts


def _levels(pixels: Pixels) -> NDArray[np.float32]:
    """Return blurred levels (h,w,3), whole numbers from -64 to 63."""
    reach = round(2 * BLUR)
    bell = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * BLUR**2)).astype(np.float32)
    bell /= bell.sum()
    blurred = np.pad(pixels, ((reach, reach), (reach, reach), (0, 0)), mode="symmetric")
    for axis in (0, 1):
        blurred = sum(
            share * np.take(blurred, np.arange(n, n + pixels.shape[axis]), axis)
            for n, share in enumerate(bell)
        )
    return np.rint(blurred / 2 - 64).astype(np.float32)
