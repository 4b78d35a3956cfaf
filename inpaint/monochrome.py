"""A photograph of one colour is restored in it: gray stays gray, and a toned print toned.

In: a picture and its hole. Out: a `Tone`, the colour that goes with each brightness, which a fill
then takes; None for a picture in colour, whose fills stay as they are. Networks that were trained
on photographs in colour leave a cast in a gray one.
"""

import numpy as np
from numpy.typing import NDArray

from .highres import Pixels
from .mask import Hole
from .picture import luminance

Tone = NDArray[np.uint8]  # (256,3): RGB by luminance

SEEN = 16_384  # pixels that are looked at, about
FEWEST = 64  # known ones among them: of fewer nothing is said
FIRST_STEP = 4  # of so many of them one is looked at first
BINS = 32  # of luminance
BIN_FEWEST = 8  # pixels
RED, GREEN, BLUE = 0.299, 0.587, 0.114  # of luminance; Rec. 601
# Tried on 1,400 photographs: the 11 that pass are gray or toned, by eye. Beyond 6 come lemons, a
# ray in the sea; toned prints that were strongly compressed lie among them, and count as colour.
TOLERANCE = 6  # steps of 255, in red and in blue
OUTLIERS = 0.02  # share of the pixels that may be further off: dust, stamps, stains


def tone_of(pixels: Pixels, hole: Hole) -> Tone | None:
    """Return the colour of each luminance, if the known pixels have one each.

    Args:
        pixels: uint8 (H,W,3), RGB.
        hole: bool (H,W); what is in it is not looked at.
    """
    step = max(1, round((hole.size / SEEN) ** 0.5))
    seen, known = pixels[::step, ::step], np.flatnonzero(~hole[::step, ::step])
    if len(known) < FEWEST or _in_colour(*_measured(seen, known[::FIRST_STEP])):
        return None
    bright, away = _measured(seen, known)
    curve = _curve(bright, away)
    expected = np.stack([np.interp(bright, curve[0], each) for each in curve[1:]])
    if (np.abs(away - expected).max(axis=0) > TOLERANCE).mean() > OUTLIERS:
        return None
    every = np.arange(256)
    red, blue = (np.interp(every, curve[0], each) for each in curve[1:])
    green = -(RED * red + BLUE * blue) / GREEN  # so that the luminance stays
    table = every[:, None] + np.stack((red, green, blue), axis=1)
    tone: Tone = np.rint(table.clip(0, 255)).astype(np.uint8)
    return tone


def toned(fill: Pixels, tone: Tone) -> Pixels:
    """Return a fill, uint8 (h,w,3), in the colour of its picture."""
    return np.take(tone, luminance(fill), axis=0)


def _measured(
    pixels: Pixels, places: NDArray[np.intp]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return luminance (N,) of the pixels at places, and how far red and blue are from it (2,N)."""
    colours = np.take(pixels.reshape(-1, 3), places, axis=0).T.astype(np.float32, order="C")
    bright = np.array((RED, GREEN, BLUE), np.float32) @ colours
    return bright, colours[::2] - bright


def _in_colour(bright: NDArray[np.float32], away: NDArray[np.float32]) -> bool:
    """Say at little cost that most photographs in colour are, and of none else that it is.

    Two pixels of almost one luminance that are both near the curve are near one another.
    """
    rising = np.argsort((bright * 256).astype(np.uint16), kind="stable")  # fast: of 16 bits
    leaps = np.abs(np.diff(np.take(away, rising, axis=1))).max(axis=0) > 2 * TOLERANCE + 1
    return len(leaps) > SEEN // 16 and float(leaps.mean()) > 3 * OUTLIERS


def _curve(bright: NDArray[np.float32], away: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return nodes (3,N): luminance, rising; how far red and blue are from it, their medians."""
    number = np.minimum((bright * (BINS / 256)).astype(np.intp), BINS - 1)
    nodes = []
    for each in np.unique(number):
        here = number == each
        if np.count_nonzero(here) >= BIN_FEWEST:
            nodes.append((bright[here].mean(), *np.median(away[:, here], axis=1)))
    nodes = nodes or [(128.0, *np.median(away, axis=1))]
    return np.array(nodes, np.float32).T
