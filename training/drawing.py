"""Shapes of damage, and of what looks like it: noise, paths, antialiased strokes, ragged patches.

Canvases are float32 (H,W) in [0, 1] and keep the stronger of two values. Points are (x, y), pixels,
with pixel centres at whole numbers. Every draw depends on its random generator alone.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Plane = NDArray[np.float32]
Points = NDArray[np.float64]

STEP = 0.5  # pixels from point to point of a path
# Sideways deviation of a path: knots that many points apart, so many pixels each. Such paths stray
# from a straight line by 0.3 to 0.5 px a step, as cracks traced on real prints do.
KINKS = ((110, 3.2), (44, 1.3), (18, 0.75), (8, 0.42), (3, 0.22))
FELT = 0.05  # pixels; kinks smaller than this are not worth their time
LOBES = (3, 5, 11, 23, 47)  # knots around the edge of a patch
OCTAVES = 4  # of fractal noise, each half as wide as the last
SUBPIXEL = 4  # bits of a fraction in coordinates handed to OpenCV


def blur(values: Plane, sigma: float) -> Plane:
    """Return (H,W) or (H,W,3) under a Gaussian of `sigma` pixels."""
    return np.asarray(cv2.GaussianBlur(values, (0, 0), sigma), np.float32)


def fractal(rng: np.random.Generator, height: int, width: int, scale: float) -> Plane:
    """Smooth noise (H,W), mean 0, deviation about 1, features of `scale` pixels and finer."""
    out = np.zeros((height, width), np.float32)
    for octave in range(OCTAVES):
        step = max(scale / 2**octave, 1.0)
        shape = int(height / step) + 3, int(width / step) + 3
        grid = rng.standard_normal(shape, np.float32) * np.float32(0.55**octave / 0.95)
        out += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return out


def wobble(
    rng: np.random.Generator, count: int, step: float, *, kinked: bool = False, ring: bool = False
) -> Points:
    """Noise along a line, (count,), mean 0, deviation about 0.8.

    Args:
        rng: decides everything.
        count: of samples.
        step: from knot to knot, samples.
        kinked: straight between knots, not smooth.
        ring: the end meets the beginning.
    """
    knots = rng.normal(0, 1, int(count / max(step, 1)) + 3)
    last = len(knots) - 1.001
    if ring:
        knots[-1] = knots[0]
        place = np.linspace(0, last, count)
    else:
        place = (np.arange(count) / max(step, 1) + rng.random()).clip(0, last)
    whole = place.astype(int)
    part = place - whole
    if not kinked:
        part = part * part * (3 - 2 * part)
    return knots[whole] * (1 - part) + knots[whole + 1] * part


def trace(
    rng: np.random.Generator,
    start: ArrayLike,
    angle: float,
    length: float,
    jag: float,
    bend: float = 0.0,
) -> Points:
    """Return a path (N,2): kinked at every scale by `jag`, turned by `bend` radians in all."""
    count = max(4, int(length / STEP))
    heading = angle + bend * np.linspace(-0.5, 0.5, count)
    if bend:
        heading += wobble(rng, count, count / 3) * abs(bend) * 0.5
    along = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1) * STEP, 0)
    side = np.zeros(count)
    for knots, pixels in KINKS:
        if pixels * jag > FELT:
            side += wobble(rng, count, knots, kinked=True) * pixels * jag
    return np.asarray(start) + along + side[:, None] * (-math.sin(angle), math.cos(angle))


def stamp(canvas: Plane, points: Points, radius: Points, opacity: Points) -> None:
    """Lay antialiased discs on the canvas.

    Args:
        canvas: changed in place; contiguous.
        points: centres (N,2), also off the canvas.
        radius: (N,), pixels.
        opacity: (N,) in [0, 1].
    """
    height, width = canvas.shape
    reach = math.ceil(float(radius.max()) + 0.5)
    side = np.arange(-reach, reach + 2)
    corner = np.floor(points).astype(int)
    x = corner[:, 0, None] + np.tile(side, len(side))  # (N,cells)
    y = corner[:, 1, None] + np.repeat(side, len(side))
    distance = np.hypot(x - points[:, :1], y - points[:, 1:])
    value = opacity[:, None] * np.clip(radius[:, None] + 0.5 - distance, 0, 1)
    seen = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (value > 0)
    place = (y * width + x)[seen]
    np.maximum.at(canvas.reshape(-1), place, value[seen].astype(np.float32))


def stroke(
    canvas: Plane,
    rng: np.random.Generator,
    path: Points,
    radius: float,
    opacity: float,
    *,
    vary: float = 0.3,
    gaps: float = 0.0,
) -> None:
    """Draw a path, its width and opacity drifting by `vary` (logarithms), `gaps` of it left out."""
    count = len(path)
    wide = np.exp(vary * (0.8 * wobble(rng, count, 9) + 0.5 * wobble(rng, count, 50)))
    strong = np.exp(vary * (1.1 * wobble(rng, count, 10) + wobble(rng, count, 60)))
    if gaps:
        hold = wobble(rng, count, 36)
        strong *= np.clip((hold - np.quantile(hold, min(gaps, 0.8))) * 3 + 0.3, 0, 1)
    stamp(canvas, path, np.maximum(radius * wide, 0.1), np.clip(opacity * strong, 0, 1))


def tapered(canvas: Plane, path: Points, radius: float, opacity: float) -> None:
    """Draw a path that thins out to nothing at its end."""
    left = np.linspace(1, 0, len(path)) ** 0.7
    stamp(canvas, path, np.maximum(radius * left, 0.1), opacity * np.minimum(1, 2 * left))


def patch(
    canvas: Plane,
    rng: np.random.Generator,
    centre: Sequence[float] | Points,
    radius: float,
    *,
    rough: float = 0.4,
    stretch: float = 1.0,
) -> None:
    """Fill a closed shape: small ones angular like a flake, large ones lobed and ragged."""
    count = int(np.clip(radius * 6, 12, 500))
    if radius < 3:  # four to seven corners: what breaks off is not round
        count = int(rng.integers(4, 8))
        reach = radius * rng.uniform(0.55, 1.45, count)
        turns = (np.arange(count) + rng.uniform(-0.35, 0.35, count)) * 2 * math.pi / count
    else:
        turns = np.linspace(0, 2 * math.pi, count, endpoint=False)
        edge = np.zeros(count)
        for lobes in LOBES:
            if 2 * lobes < count:
                edge += wobble(rng, count, count / lobes, kinked=True, ring=True) / lobes**0.55
        reach = radius * np.exp(rough * edge)
    x, y = np.cos(turns) * reach * stretch, np.sin(turns) * reach / stretch
    angle = rng.uniform(0, math.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    fill(canvas, np.stack([x * cos - y * sin, x * sin + y * cos], 1) + np.asarray(centre))


def fill(canvas: Plane, corners: Points) -> None:
    """Fill a polygon (N,2)."""
    height, width = canvas.shape
    left, top = np.maximum(np.floor(corners.min(0)).astype(int) - 1, 0)
    right, bottom = np.minimum(np.ceil(corners.max(0)).astype(int) + 2, (width, height))
    if left >= right or top >= bottom:
        return
    layer = np.zeros((bottom - top, right - left), np.uint8)
    whole = np.round((corners - (left, top)) * 2**SUBPIXEL).astype(np.int32)
    cv2.fillPoly(layer, [whole], (255,), cv2.LINE_AA, SUBPIXEL)
    part = canvas[top:bottom, left:right]
    np.maximum(part, layer / np.float32(255), out=part)


def line(canvas: Plane, points: Points, thickness: int, opacity: float) -> None:
    """Draw an even line through the points (N,2): ink, thread or wire."""
    layer = np.zeros(canvas.shape, np.uint8)
    whole = np.round(points * 2**SUBPIXEL).astype(np.int32)
    cv2.polylines(layer, [whole], False, (255,), thickness, cv2.LINE_AA, SUBPIXEL)
    np.maximum(canvas, layer * np.float32(opacity / 255), out=canvas)
