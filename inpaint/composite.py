"""Put fills into the hole of a picture.

Everywhere here the known region stays byte for byte what it was.
"""

import numpy as np
from numpy.typing import NDArray

from .highres import Pixels, Window
from .mask import Hole, feather_weights


def composite(pixels: Pixels, fill: Pixels, hole: Hole) -> Pixels:
    """Return `pixels` with `fill` inside `hole`.

    Raises:
        ValueError: if the three do not agree in height and width.
    """
    if pixels.shape != fill.shape or pixels.shape[:2] != hole.shape:
        raise ValueError(f"pixels {pixels.shape}, fill {fill.shape}, hole {hole.shape} disagree")
    return np.where(hole[..., None], fill, pixels)


STRIP = 256  # rows


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
        self._weight = np.zeros(hole.shape, np.float16)  # of what has been laid so far
        if feather:  # what is to be blended is kept, since it is about to be written over
            weights = feather_weights(hole, feather)
            self._rim = np.nonzero(hole & (weights < 255))
            self._rim_weights = weights[self._rim]
            self._rim_pixels = pixels[self._rim]

    def lay(self, window: Window, fill: Pixels) -> None:
        """Lay a fill, as large as the window's box, into the hole."""
        top, left, bottom, right = window.inside(*self._hole.shape)
        down, across = _slopes(window, self._share)
        columns = slice(left, right)
        across = across[left - window.box[1] : right - window.box[1]]
        for start in range(top, bottom, STRIP):  # a strip at a time: the rest is memory
            rows = slice(start, min(start + STRIP, bottom))
            in_fill = slice(rows.start - window.box[0], rows.stop - window.box[0])
            weight = np.outer(down[in_fill], across)
            weight *= self._hole[rows, columns]
            before = self._weight[rows, columns]
            new = fill[in_fill, left - window.box[1] : right - window.box[1]]
            old = self.pixels[rows, columns]
            if before.any():
                total = before + weight
                share = np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)
                new = np.rint(old + (new.astype(np.float32) - old) * share[..., None])
            inside = np.repeat(weight > 0, 3, axis=1).reshape(old.shape)  # faster than broadcast
            np.copyto(old, new, where=inside, casting="unsafe")
            before += weight.astype(np.float16)

    def feather(self) -> None:
        """Blend the outermost pixels of the hole with the picture as it was; once, at the end."""
        old = self._rim_pixels.astype(np.float32)
        new = self.pixels[self._rim] - old
        new *= self._rim_weights[:, None] / np.float32(255)
        new += old
        self.pixels[self._rim] = np.rint(new).astype(np.uint8)


def _slopes(window: Window, share: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
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
