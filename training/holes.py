"""Random holes for training: strokes, boxes and mask files. True = hole.

Every draw depends on its random generator alone: same seed, same hole.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from inpaint.errors import BadData, InpaintError
from inpaint.mask import Hole, decode_hole

from .recipe import Holes

TRIES = 20  # shapes tried for one hole


def strokes(size: int, rng: np.random.Generator) -> Hole:
    """Bent lines of a brush, some hair-thin and some broad, (size,size).

    After the free-form masks of Yu et al., arXiv:1806.03589, section 3.4, and the wide ones of
    LaMa, arXiv:2109.07161, section 2.3.
    """
    canvas = Image.new("L", (size, size))
    draw = ImageDraw.Draw(canvas)
    broad = rng.random() < 0.6
    for _ in range(rng.integers(1, 6 if broad else 9)):
        width = size * (rng.uniform(0.06, 0.3) if broad else rng.uniform(0.008, 0.06))
        x, y = rng.uniform(0, size, 2)
        angle = rng.uniform(0, 2 * math.pi)
        points = [(x, y)]
        for _ in range(rng.integers(2, 9)):
            angle += rng.normal(0, 0.8)
            length = size * rng.uniform(0.05, 0.3)
            x = float(np.clip(x + length * math.cos(angle), 0, size))
            y = float(np.clip(y + length * math.sin(angle), 0, size))
            points.append((x, y))
        draw.line(points, fill=255, width=max(1, round(width)), joint="curve")
        radius = width / 2
        for x, y in points:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return np.asarray(canvas) > 0


def boxes(size: int, rng: np.random.Generator) -> Hole:
    """One to four rectangles with sides of an eighth to a half, (size,size)."""
    hole = np.zeros((size, size), dtype=np.bool_)
    for _ in range(rng.integers(1, 5)):
        height, width = rng.integers(size // 8, size // 2 + 1, 2)
        top, left = rng.integers(0, size - height + 1), rng.integers(0, size - width + 1)
        hole[top : top + height, left : left + width] = True
    return hole


def from_file(path: Path, size: int, rng: np.random.Generator) -> Hole:
    """A mask file, read as serving reads it and scaled to (size,size), turned and mirrored.

    Raises:
        BadData: if the file is no mask, or its hole is empty or full.
    """
    try:
        hole, _ = decode_hole(path.read_bytes(), size, size, fit="resize")
    except InpaintError as error:
        raise BadData(f"mask {path} cannot be used: {error.detail}") from error
    hole = np.rot90(hole, int(rng.integers(4)))
    return hole[:, ::-1] if rng.random() < 0.5 else hole


def draw(holes: Holes, size: int, rng: np.random.Generator, files: Sequence[Path] = ()) -> Hole:
    """Draw one hole (size,size) of a kind chosen by weight.

    Its share of the image is spread evenly over the recipe's range: shapes are put together until
    they cover about as much as was drawn, and one that would cover far more is left out.

    Raises:
        BadData: if the recipe wants mask files and none are given.
    """
    weights = np.array([holes.strokes, holes.boxes, holes.files])
    if holes.files and not files:
        raise BadData("the recipe draws holes from mask files: name their folder with --masks")
    if not weights.sum():
        raise BadData("the recipe draws no holes: strokes, boxes and files all weigh 0")
    kind = rng.choice(3, p=weights / weights.sum())
    wanted = rng.uniform(holes.smallest, holes.largest)
    hole = last = np.zeros((size, size), dtype=np.bool_)
    for _ in range(TRIES):
        if kind == 0:
            shape = strokes(size, rng)
        elif kind == 1:
            shape = boxes(size, rng)
        else:
            shape = from_file(files[int(rng.integers(len(files)))], size, rng)
        if holes.smallest <= shape.mean() <= holes.largest or not last.any():
            last = shape
        both = hole | shape
        if holes.smallest <= both.mean() <= min(1.25 * wanted, holes.largest):
            hole = both
        if hole.mean() >= 0.8 * wanted:
            break
    return hole if hole.any() else last
