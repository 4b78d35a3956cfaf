"""Faces that are drawn: a labelled set of any size, made here, for comparing ways to learn.

Six classes, of two kinds of brows and three of mouths, small against all that varies beside them:
place, size, tilt, colours, hair, eyes, glasses, background, light and noise.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .data import Pixels

SIDE = 64  # pixels: the smallest square that CCGAN takes
LARGER = 3  # drawn at so many times the side, for smooth edges
BROWS = ("worried", "angry")
MOUTHS = ("smiling", "sad", "open")
CLASSES = tuple(f"{brows}-{mouth}" for mouth in MOUTHS for brows in BROWS)

Colour = tuple[int, int, int]


def faces(count: int, seed: int) -> tuple[list[Pixels], NDArray[np.int64]]:
    """Return faces as pixels uint8 (64,64,3), and the class of each, as many of every class.

    Args:
        count: how many; a smaller count gives the first of a larger one.
        seed: of everything that is random.
    """
    classes = np.arange(count, dtype=np.int64) % len(CLASSES)
    drawn = [
        draw(int(kind), np.random.default_rng([seed, number]))
        for number, kind in enumerate(classes)
    ]
    return drawn, classes


def draw(kind: int, rng: np.random.Generator) -> Pixels:
    """Return one face, uint8 (64,64,3), of the class with this number."""
    side = SIDE * LARGER
    picture = _background(side, rng)
    layer = Image.new("RGBA", (side, side))
    middle = side / 2 + rng.uniform(-0.1, 0.1, 2) * side
    _head(ImageDraw.Draw(layer), middle, rng.uniform(0.27, 0.4) * side, kind, rng)
    tilted = layer.rotate(
        rng.uniform(-20, 20), Image.Resampling.BICUBIC, center=(middle[0], middle[1])
    )
    picture.paste(tilted, (0, 0), tilted)
    small = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), np.float32)
    noise = rng.normal(0, rng.uniform(2, 10), small.shape)
    return (small * rng.uniform(0.7, 1.1) + noise).clip(0, 255).astype(np.uint8)


def _colour(rng: np.random.Generator, low: int, high: int) -> Colour:
    red, green, blue = rng.integers(low, high, 3).tolist()
    return red, green, blue


def _background(side: int, rng: np.random.Generator) -> Image.Image:
    """Return a plain colour with a few rectangles and ellipses, (side,side)."""
    picture = Image.new("RGB", (side, side), _colour(rng, 40, 220))
    canvas = ImageDraw.Draw(picture)
    for _ in range(rng.integers(2, 7)):
        x, y = rng.uniform(0, side, 2)
        width, height = rng.uniform(10, side / 2, 2)
        shape = canvas.ellipse if rng.random() < 0.5 else canvas.rectangle
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        shape(box, fill=_colour(rng, 20, 236))
    return picture


def _head(
    canvas: ImageDraw.ImageDraw,
    middle: NDArray[np.float64],
    radius: float,
    kind: int,
    rng: np.random.Generator,
) -> None:
    """Draw hair, skin and what is in a face, at a place and with a radius in pixels."""
    x, y = middle
    across = radius * rng.uniform(0.8, 1.1)
    skin = np.array([225, 175, 140]) * rng.uniform(0.45, 1.1) + rng.normal(0, 12, 3)
    red, green, blue = skin.clip(0, 255).astype(int).tolist()
    dark, hair = (red // 3, green // 3, blue // 3), _colour(rng, 10, 160)
    line = int(rng.integers(3, 7))
    crown = y + radius * rng.uniform(-0.2, 0.9)
    canvas.ellipse((x - 1.08 * across, y - 1.15 * radius, x + 1.08 * across, crown), fill=hair)
    canvas.ellipse((x - across, y - radius, x + across, y + radius), fill=(red, green, blue))
    apart, eye = across * rng.uniform(0.33, 0.45), radius * rng.uniform(0.08, 0.14)
    level, iris = y - radius * rng.uniform(0.1, 0.3), _colour(rng, 0, 90)
    glasses = _colour(rng, 0, 80) if rng.random() < 0.4 else None
    brow = hair if rng.random() < 0.5 else dark
    slope = 0.7 * eye * (1 if BROWS[kind % 2] == "angry" else -1)
    for sign in (-1, 1):
        middle_of_eye = x + sign * apart
        _disc(canvas, middle_of_eye, level, 1.4 * eye, eye, fill=(250, 250, 250))
        _disc(canvas, middle_of_eye, level, 0.6 * eye, 0.6 * eye, fill=iris)
        if glasses:
            _disc(canvas, middle_of_eye, level, 2 * eye, 2 * eye, outline=glasses, width=3)
        inner, outer = x + sign * (apart - 1.6 * eye), x + sign * (apart + 1.6 * eye)
        height = level - 2.4 * eye
        canvas.line((inner, height + slope, outer, height - slope), fill=brow, width=line + 2)
    nose = ((x, level + eye), (x - 0.6 * eye, y + 0.18 * radius), (x + 0.3 * eye, y + 0.2 * radius))
    canvas.line(nose, fill=dark, width=line - 1)
    _mouth(canvas, x, y, (across, radius), line, MOUTHS[kind // 2], rng)


def _mouth(
    canvas: ImageDraw.ImageDraw,
    x: float,
    y: float,
    radii: tuple[float, float],
    line: int,
    mouth: str,
    rng: np.random.Generator,
) -> None:
    y += radii[1] * rng.uniform(0.42, 0.55)
    width, height = radii[0] * rng.uniform(0.3, 0.45), radii[1] * rng.uniform(0.12, 0.22)
    red, (green, blue) = int(rng.integers(120, 210)), rng.integers(20, 85, 2).tolist()
    lips = (red, green, blue)
    if mouth == "smiling":
        box = (x - width, y - 1.6 * height, x + width, y + height)
        canvas.arc(box, 10, 170, fill=lips, width=line + 2)
    elif mouth == "sad":
        box = (x - width, y - height, x + width, y + 1.6 * height)
        canvas.arc(box, 190, 350, fill=lips, width=line + 2)
    else:
        _disc(canvas, x, y, 0.45 * width, 0.8 * height, outline=lips, width=line + 1)


def _disc(
    canvas: ImageDraw.ImageDraw,
    x: float,
    y: float,
    across: float,
    up: float,
    *,
    fill: Colour | None = None,
    outline: Colour | None = None,
    width: int = 0,
) -> None:
    """Draw an ellipse around a point."""
    canvas.ellipse((x - across, y - up, x + across, y + up), fill, outline, width)
