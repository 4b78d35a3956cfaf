"""Draw docs/damage.png: every kind of damage, and everything that looks like it, image | label.

Each is alone on a photograph that comes with scikit-image; labels are white where there is damage
and grey where pixels are ignored. `python -m training.damage_sheet OUT.png` makes it anew.
"""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from skimage import data

from .ageing import DISTRACTORS
from .damage import Damaged, render
from .injuries import KINDS, TRAIN, UNSEEN

Pixels = NDArray[np.uint8]

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")  # public domain and CC0
SIDE = 384  # short side of a photograph, pixels
CELL = 176  # pixels
GAP = 6
LINE = 20  # pixels of a line of text
ACROSS = 4  # pairs in a row
COLOURS = 256
BOX = Image.Resampling.BOX
GREY = 110  # level of ignored pixels
WHOLE = {"fold", "fern", "wear", "tear", "fading", "frame", "oval", "rule", "bed"}  # shown reduced
TRIES = 4  # renderings, of which the one that shows most is taken
CHANGED = 12  # levels by which a distractor must change a pixel to count
MIXED = (("all together", TRAIN), ("unseen settings", UNSEEN))
Pair = tuple[str, Pixels, Pixels]


def draw_sheet(
    sheet: Annotated[Path, typer.Argument(help="The PNG to write.", dir_okay=False)],
    seed: Annotated[int, typer.Option(help="Same seed, same sheet.", min=0)] = 1,
) -> None:
    """Draw each kind of damage and each distractor alone, image beside label."""
    photographs = [_reduced(getattr(data, name)()) for name in PHOTOGRAPHS]
    parts = (
        ("Damage: image | label, white = damage, grey = ignored", _damages(photographs, seed)),
        (
            "Not damage: drawn to be told apart from it, never labelled",
            _distractions(photographs, seed),
        ),
        (
            "Prints as they are rendered for training and for evaluation",
            _mixtures(photographs, seed),
        ),
    )
    picture = _laid_out([(title, list(pairs)) for title, pairs in parts])
    picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=COLOURS).save(sheet, optimize=True)


def _reduced(photograph: Pixels) -> Pixels:
    scale = SIDE / min(photograph.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(
        cv2.resize(photograph, None, fx=scale, fy=scale, interpolation=method), np.uint8
    )


def _damages(photographs: list[Pixels], seed: int) -> Iterator[Pair]:
    for number, kind in enumerate(KINDS[1:]):
        cells = []
        for drawn in range(seed, seed + TRIES):
            damaged = render(photographs[number % len(photographs)], drawn, TRAIN, (kind,), ())
            cells.append(_cells(damaged, damaged.mask, whole=kind in WHOLE))
        yield kind, *_clearest(cells)


def _distractions(photographs: list[Pixels], seed: int) -> Iterator[Pair]:
    seeds = range(seed, seed + TRIES)
    plain = [[render(one, drawn, TRAIN, (), ()).image for drawn in seeds] for one in photographs]
    for number, name in enumerate(DISTRACTORS):
        cells = []
        which = number % len(photographs)
        for drawn, before in zip(seeds, plain[which], strict=True):
            aged = render(photographs[which], drawn, TRAIN, (), (name,))
            change = np.abs(aged.image.astype(int) - before).max(axis=2) > CHANGED
            cells.append(_cells(aged, change, whole=name in WHOLE))
        yield name, *_clearest(cells)


def _clearest(cells: list[tuple[Pixels, Pixels, float]]) -> tuple[Pixels, Pixels]:
    """Return image and label of the rendering that shows most."""
    image, label, _ = max(cells, key=lambda cell: cell[2])
    return image, label


def _mixtures(photographs: list[Pixels], seed: int) -> Iterator[Pair]:
    drawn = count(seed)
    for title, settings in MIXED:
        for photograph in photographs:
            prints = (render(photograph, number, settings) for number in drawn)
            damaged = next(one for one in prints if one.mask.any())  # some are left clean
            image, label, _ = _cells(damaged, damaged.mask, whole=True)
            yield title, image, label


def _cells(
    damaged: Damaged, marked: NDArray[np.bool_], *, whole: bool
) -> tuple[Pixels, Pixels, float]:
    """Return image and label (CELL,CELL,3), and the share of the cell that is marked.

    Args:
        damaged: what is shown.
        marked: (H,W), what one should see.
        whole: show the middle square reduced; else, pixel for pixel, where most is marked.
    """
    label = np.zeros_like(damaged.image)
    label[damaged.ignore], label[damaged.mask] = GREY, 255
    height, width = marked.shape
    side = min(height, width) if whole else CELL
    heat = cv2.boxFilter(marked.astype(np.float32), -1, (side, side), anchor=(0, 0))
    heat = np.asarray(heat)[: height - side + 1, : width - side + 1]
    top, left = np.unravel_index(int(heat.argmax()), heat.shape)
    box = slice(top, top + side), slice(left, left + side)
    cells = [damaged.image[box], label[box]]
    if whole:
        cells = [np.asarray(Image.fromarray(x).resize((CELL, CELL), BOX)) for x in cells]
    return cells[0], cells[1], float(marked[box].mean())


def _laid_out(parts: list[tuple[str, list[Pair]]]) -> Image.Image:
    """Put pairs under their titles, part by part."""
    heights = [2 * LINE - (-len(pairs) // ACROSS) * (CELL + LINE) for _, pairs in parts]
    sheet = Image.new("RGB", (GAP + ACROSS * (2 * CELL + 2 * GAP), sum(heights)), "white")
    pen, small, large = (
        ImageDraw.Draw(sheet),
        ImageFont.load_default(13),
        ImageFont.load_default(16),
    )
    top = 0
    for (title, pairs), height in zip(parts, heights, strict=True):
        pen.text((GAP, top + LINE * 0.7), title, "black", large, anchor="lm")
        for place, (name, image, label) in enumerate(pairs):
            row, column = divmod(place, ACROSS)
            x, y = GAP + column * (2 * CELL + 2 * GAP), top + 2 * LINE + row * (CELL + LINE)
            pen.text((x, y - LINE / 2), name, "black", small, anchor="lm")
            sheet.paste(Image.fromarray(image), (x, y))
            sheet.paste(Image.fromarray(label), (x + CELL, y))
        top += height
    return sheet


if __name__ == "__main__":
    typer.run(draw_sheet)
