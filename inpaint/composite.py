"""Put fills into the hole of a picture.

Everywhere here the known region stays byte for byte what it was.
"""

import numpy as np
from numpy.typing import NDArray

from .highres import Pixels, Window
from .mask import Box, Hole, bounding_box, rim


def composite(pixels: Pixels, fill: Pixels, hole: Hole) -> Pixels:
    """Return `pixels` with `fill` inside `hole`.

    Raises:
        ValueError: if the three do not agree in height and width.
    """
    if pixels.shape != fill.shape or pixels.shape[:2] != hole.shape:
        raise ValueError(f"pixels {pixels.shape}, fill {fill.shape}, hole {hole.shape} disagree")
    return np.where(hole[..., None], fill, pixels)


STRIP = 256  # rows
Slopes = tuple[NDArray[np.float32], NDArray[np.float32]]  # down and across a window's box


class Canvas:
    """A picture into which the fills of overlapping windows are laid, one after the other.

    Where windows overlap, the result is the mean of their fills, each weighted by how far inside
    its window a pixel lies: from one window to the next it changes without an edge. Windows at a
    larger scale, which know less detail, count less.
    """

    def __init__(
        self, pixels: Pixels, hole: Hole, *, hole_share: float = 1.0, feather: int = 0
    ) -> None:
        """Begin with the picture as it is.

        Args:
            pixels: uint8 (H,W,3), writable; written in the hole only.
            hole: bool (H,W), True = to be filled.
            hole_share: the central share of each window that is used.
            feather: the hole's outermost pixels that `feather` will blend.
        """
        self.pixels = pixels
        self._hole = hole
        self._share = hole_share
        self._laid: list[tuple[Box, Slopes]] = []  # where, within the picture, and how heavy
        self._rim = Rim(pixels, hole, feather)

    def lay(self, window: Window, fill: Pixels) -> None:
        """Lay a fill, as large as the window's box, into the hole."""
        top, left, bottom, right = inside = window.inside(*self._hole.shape)
        above, before = top - window.box[0], left - window.box[1]  # of the fill: not the picture's
        down, across = _slopes(window, self._share)
        down, across = down[above:][: bottom - top], across[before:][: right - left]
        fill = fill[above:, before:]
        box = bounding_box(self._hole[top:bottom, left:right])
        if box is None:
            return
        for start in range(box[0], box[2], STRIP):  # a strip at a time: the rest is memory
            rows, columns = slice(start, min(start + STRIP, box[2])), slice(box[1], box[3])
            place = top + rows.start, left + columns.start, top + rows.stop, left + columns.stop
            here = slice(place[0], place[2]), slice(place[1], place[3])
            weight = np.outer(down[rows], across[columns])
            old, new = self.pixels[here], fill[rows, columns]
            wanted = self._hole[here] & (weight > 0)
            earlier = self._earlier(place)
            if earlier is not None:
                share = weight / np.maximum(earlier + weight, np.finfo(np.float32).tiny)
                new = np.rint(old + (new.astype(np.float32) - old) * share[..., None])
            threefold = np.repeat(wanted, 3, axis=1).reshape(old.shape)  # faster than broadcast
            np.copyto(old, new, where=threefold, casting="unsafe")
        self._laid.append((inside, (down, across)))

    def _earlier(self, place: Box) -> NDArray[np.float32] | None:
        """Return the weight (h,w) of all that has been laid over a place; None for none."""
        total = None
        top, left, bottom, right = place
        for box, (down, across) in self._laid:
            first_row, first_column = max(top, box[0]), max(left, box[1])
            height, width = min(bottom, box[2]) - first_row, min(right, box[3]) - first_column
            if height <= 0 or width <= 0:
                continue
            if total is None:
                total = np.zeros((bottom - top, right - left), np.float32)
            shared = total[first_row - top :, first_column - left :][:height, :width]
            down, across = down[first_row - box[0] :], across[first_column - box[1] :]
            shared += np.outer(down[:height], across[:width])
        return total

    def feather(self) -> None:
        """Blend the outermost pixels of the hole with the picture as it was; once, at the end."""
        self._rim.blend(self.pixels)


class Rim:
    """The outermost pixels of a hole as they are before they are written over."""

    def __init__(
        self, samples: NDArray[np.uint8] | NDArray[np.uint16], hole: Hole, feather: int
    ) -> None:
        """Keep them.

        Args:
            samples: (H,W) or (H,W,C).
            hole: bool (H,W), True = to be filled.
            feather: how many pixels deep.
        """
        self._kept = [(*part, samples[part[0]][part[1]]) for part in rim(hole, feather)]

    def blend(self, samples: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
        """Blend with them what is filled now, in place and as deep as the samples are."""
        for place, blended, weights, before in self._kept:
            part = samples[place]
            old = before.astype(np.float32)
            share = (weights / np.float32(255)).reshape(-1, *[1] * (old.ndim - 1))
            new = old + (part[blended] - old) * share
            part[blended] = np.rint(new).astype(samples.dtype)


def _slopes(window: Window, share: float) -> Slopes:
    """Return two vectors whose outer product is the weight of a window's fill.

    It is a pyramid over the central share of the window's box, 0 at its rim, and lower where the
    window is scaled down.
    """
    top, left, bottom, right = window.box
    slopes = []
    for side in (bottom - top, right - left):
        place = np.arange(side, dtype=np.float32) + 0.5
        inward = np.minimum(place, side - place) - (1 - share) * side / 2
        slopes.append(np.clip(inward / (share * side / 2), 0, 1).astype(np.float32))
    return slopes[0] / np.float32(window.scale**2), slopes[1]
