"""From a mask file, or a picture's transparency, to a hole; and what can be done to a hole.

In files white is the hole (luminance >= 128) unless `mask_mode` says otherwise; in arrays True is.
Foreign conventions are converted here and nowhere else.

Distances between pixels are the larger of the steps across and down, so that growing by n adds n
pixels above, below and beside a hole, and a square of one pixel becomes a square of 2n + 1.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from .errors import (
    ImageUnreadable,
    MaskEmpty,
    MaskFull,
    MaskMissing,
    MaskSizeMismatch,
    MaskUnreadable,
    UnsupportedImage,
)
from .header import Header, Limits
from .picture import Picture, decode, encode, luminance

ReadMode = Literal["luminance", "alpha", "luminance_inverted"]
MaskMode = Literal["auto", ReadMode]
MaskFit = Literal["exact", "resize"]
Hole = NDArray[np.bool_]  # (H,W), True = to be filled
Box = tuple[int, int, int, int]  # top, left, bottom, right; end exclusive
Part = tuple[slice, slice]  # rows and columns of a picture

THRESHOLD = 128  # of luminance and of alpha


def check_size(mask: Header, image: Header) -> None:
    """Compare the sizes that two headers state.

    Raises:
        MaskSizeMismatch: if they differ; the detail gives both.
    """
    _check_size(mask.height, mask.width, image.height, image.width)


def decode_hole(
    data: bytes,
    height: int,
    width: int,
    *,
    mode: MaskMode = "auto",
    fit: MaskFit = "exact",
    blank: bool = False,
    limits: Limits | None = None,
) -> tuple[Hole, ReadMode]:
    """Decode a mask file.

    Args:
        data: the file, of any kind that pictures may have.
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        mode: which pixels are the hole. `luminance`: white ones; `luminance_inverted`: black ones
            (in both, what is transparent is not); `alpha`: transparent ones; `auto`: `alpha` for
            a mask of one colour whose alpha varies, otherwise `luminance`.
        fit: `resize` stretches a mask of another size, by nearest neighbours.
        blank: whether an empty hole is an answer too.
        limits: as for pictures.

    Returns:
        bool (H,W), True = hole; not full. And the mode, which `auto` has chosen.

    Raises:
        MaskUnreadable, MaskSizeMismatch, MaskEmpty, MaskFull: by their names.
        FileTooLarge, TooManyPixels, ImageTooSmall: of the mask, as of any picture.
    """
    try:
        mask = decode(data, limits, field="mask")
    except (UnsupportedImage, ImageUnreadable) as error:
        raise MaskUnreadable(error.detail, field="mask") from error
    if fit == "exact":
        _check_size(mask.height, mask.width, height, width)
    chosen: ReadMode = mode if mode != "auto" else _best_mode(mask)
    hole = _hole(mask, chosen)
    if hole.shape != (height, width):
        resized = Image.fromarray(hole).resize((width, height), Image.Resampling.NEAREST)
        hole = np.array(resized)
    marks = {
        "luminance": f"white (luminance of {THRESHOLD} or more)",
        "luminance_inverted": f"black (luminance below {THRESHOLD})",
        "alpha": f"transparent (alpha below {THRESHOLD})",
    }[chosen]
    if not blank and not hole.any():
        raise MaskEmpty(f"No pixel of the mask is {marks}: nothing is to be filled.", field="mask")
    if hole.all():
        raise MaskFull(f"Every pixel of the mask is {marks}: nothing is known.", field="mask")
    return hole, chosen


def hole_of_alpha(picture: Picture) -> Hole:
    """Return the hole that a picture brings as its own transparency (alpha below 128).

    Raises:
        MaskMissing: if nothing is transparent.
        MaskFull: if everything is.
    """
    if (opacity := picture.opacity) is None or not (hole := opacity < THRESHOLD).any():
        raise MaskMissing(
            "No mask was sent, and the image has no transparent pixels to take its place.",
            field="mask",
        )
    if hole.all():
        raise MaskFull("Every pixel of the image is transparent: nothing is known.", field="image")
    return hole


def encode_hole(hole: Hole) -> bytes:
    """Return a hole as a PNG of 8-bit gray, white = hole: `decode_hole` reads it as it was."""
    return encode(Picture(hole.view(np.uint8) * np.uint8(255), None, "png"))


def _check_size(mask_height: int, mask_width: int, height: int, width: int) -> None:
    if (mask_height, mask_width) != (height, width):
        raise MaskSizeMismatch(
            f"The mask is {mask_width} x {mask_height} pixels, the image {width} x {height} "
            "(both upright); the sizes must agree, unless mask_fit is resize.",
            field="mask",
        )


def _best_mode(mask: Picture) -> ReadMode:
    """Say `alpha` of a mask of one colour whose alpha varies, else `luminance`."""
    if mask.alpha is None or mask.alpha.min() == mask.alpha.max():
        return "luminance"
    return "alpha" if (mask.samples == mask.samples[0, 0]).all() else "luminance"


def _hole(mask: Picture, mode: ReadMode) -> Hole:
    alpha = mask.opacity
    if mode == "alpha":
        if alpha is None:
            return np.zeros((mask.height, mask.width), bool)
        return alpha < THRESHOLD
    bright = mask.pixels[..., 0] if mask.gray else luminance(mask.pixels)
    inverted = mode == "luminance_inverted"
    if alpha is not None:  # laid on what is not the hole
        ground = 255 if inverted else 0
        share = alpha.astype(np.uint16)
        bright = ((bright * share + ground * (255 - share) + 127) // 255).astype(np.uint8)
    return bright < THRESHOLD if inverted else bright >= THRESHOLD


# --- what can be done to a hole ---------------------------------------------------------------


def bounding_box(hole: Hole) -> Box | None:
    """Return the smallest box that holds the hole; None for an empty one."""
    rows = np.flatnonzero(hole.any(axis=1))
    if not rows.size:
        return None
    columns = np.flatnonzero(hole[rows[0] : rows[-1] + 1].any(axis=0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def grow(hole: Hole, pixels: int) -> Hole:
    """Return the hole widened by `pixels` on every side."""
    if pixels < 0:
        raise ValueError(f"a hole cannot grow by {pixels} pixels")
    grown = hole.copy()
    if pixels:
        for tile, around, inner in _tiles(hole, pixels):
            wider = _spread(_spread(hole[around], pixels, axis=0), pixels, axis=1)
            grown[tile] = wider[inner]
    return grown


def feather_weights(hole: Hole, pixels: int) -> NDArray[np.uint8]:
    """Return how much of the fill each pixel takes, uint8 (H,W): 0 none, 255 all.

    0 outside the hole; rising over its outermost `pixels`; 255 further inside and, where the hole
    reaches it, along the border of the picture. A hole that was grown by at least `pixels` is thus
    filled wholly where it was before.
    """
    weights = hole.astype(np.uint8) * np.uint8(255)
    if pixels:
        for tile, around, inner in _tiles(hole, pixels):
            weights[tile] = _weights(hole[around], pixels)[inner]
    return weights


def rim(hole: Hole, pixels: int) -> Iterator[tuple[Part, Hole, NDArray[np.uint8]]]:
    """Yield the hole's pixels whose `feather_weights` are below 255, a part at a time.

    Yields:
        A part of the picture, which of its pixels are meant, and their weights (N,).
    """
    if not pixels:
        return
    for part, around, inner in _tiles(hole, pixels):
        weights = _weights(hole[around], pixels)[inner]
        blended: Hole = hole[part] & (weights < 255)
        yield part, blended, weights[blended]


def _weights(hole: Hole, pixels: int) -> NDArray[np.uint8]:
    """Return the weights of `feather_weights`, true where the hole is known `pixels` around."""
    # What lies deeper than the first half of the rim, blurred over the second half: 255 where
    # the blur sees nothing else, 0 where it sees nothing of it.
    half = (pixels + 1) // 2
    deep = ~_spread(_spread(~hole, half, axis=0), half, axis=1)
    blur = ImageFilter.BoxBlur(pixels - half)
    return np.asarray(Image.fromarray(deep.astype(np.uint8) * 255).filter(blur))


TILE = 256  # pixels on a side, at least


def _tiles(hole: Hole, reach: int) -> Iterator[tuple[Part, Part, Part]]:
    """Yield the parts of a picture that have some hole within `reach`, a tile of it at a time.

    Yields:
        The part, the part with its surroundings up to `reach` away, and its place in those.
    """
    side = max(TILE, 4 * reach)
    for top in range(0, hole.shape[0], side):
        rows = slice(max(0, top - reach), top + side + reach)
        filled = np.asarray(hole[rows].any(axis=0))
        for left in range(0, hole.shape[1], side):
            columns = slice(max(0, left - reach), left + side + reach)
            if not filled[columns].any():
                continue
            across = np.flatnonzero(filled[columns]) + columns.start
            down = np.flatnonzero(hole[rows, columns].any(axis=1)) + rows.start
            spans = (
                _span(down, top, min(top + side, hole.shape[0]), reach, hole.shape[0]),
                _span(across, left, min(left + side, hole.shape[1]), reach, hole.shape[1]),
            )
            part, around, inner = zip(*spans, strict=True)
            yield part, around, inner


def _span(
    places: NDArray[np.intp], start: int, end: int, reach: int, length: int
) -> tuple[slice, slice, slice]:
    """Return, along one axis, a tile's range near hole; with its surroundings; its place there."""
    start, end = max(start, int(places[0]) - reach), min(end, int(places[-1]) + 1 + reach)
    first = max(0, start - reach)
    inner = slice(start - first, end - first)
    return slice(start, end), slice(first, min(end + reach, length)), inner


def _spread(hole: Hole, pixels: int, *, axis: int) -> Hole:
    """Widen along one axis; each pass doubles the reach, and more would tear holes at borders."""
    wide = np.moveaxis(hole, axis, 0)
    reached = 0
    while reached < pixels:
        step = min(reached + 1, pixels - reached)
        wider = wide.copy(order="K")
        wider[step:] |= wide[:-step]
        wider[:-step] |= wide[step:]
        wide, reached = wider, reached + step
    return np.moveaxis(wide, 0, axis)


# --- groups, found on a coarse grid -----------------------------------------------------------

BLOCK = 16  # pixels on a side


def blocks(hole: Hole) -> NDArray[np.uint16]:
    """Return how many pixels of each block are hole, (H/16, W/16) rounded up."""
    height, width = hole.shape
    rows = np.zeros((-(-height // BLOCK), -(-width // BLOCK) * BLOCK), np.uint8)
    ones = hole.view(np.uint8)
    for number, row in enumerate(rows):  # many times faster than reduceat
        strip = ones[number * BLOCK : (number + 1) * BLOCK]
        np.add.reduce(strip, axis=0, out=row[:width], dtype=np.uint8)
    counts: NDArray[np.uint16] = rows.reshape(len(rows), -1, BLOCK).sum(axis=2, dtype=np.uint16)
    return counts


def groups(grid: Hole) -> tuple[NDArray[np.int32], list[Box]]:
    """Divide a grid of blocks into groups that touch, also at corners.

    Holes less than a block apart are in one group; holes two blocks apart are not.

    Returns:
        The number of its group for each block, from 1 on, 0 where there is no hole; and the
        groups' boxes in blocks, in the order of their numbers.
    """
    labels = np.zeros((grid.shape[0] + 2, grid.shape[1] + 2), np.int32)  # with a rim of 0
    labels[1:-1, 1:-1][grid] = -1  # a part of the hole, not yet seen
    flat, width = labels.reshape(-1), labels.shape[1]
    steps = (-width - 1, -width, -width + 1, -1, 1, width - 1, width, width + 1)
    boxes: list[Box] = []
    for seed in np.flatnonzero(flat == -1).tolist():
        if flat[seed] != -1:
            continue
        flat[seed] = len(boxes) + 1
        members = [seed]
        for place in members:  # grows as it is walked
            for step in steps:
                if flat[place + step] == -1:
                    flat[place + step] = len(boxes) + 1
                    members.append(place + step)
        rows, columns = np.divmod(np.array(members), width)
        top, left = int(rows.min()) - 1, int(columns.min()) - 1
        boxes.append((top, left, int(rows.max()), int(columns.max())))
    return labels[1:-1, 1:-1], boxes
