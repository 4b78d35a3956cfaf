"""`inpaint train holes`: a picture of holes as training draws them, white = hole.

A row for each kind, or rows of one recipe's mixture; at its left the mean share of the square that
the holes of the row cover.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from inpaint.errors import BadData
from inpaint.mask import Hole

from . import plots
from .data import files_in
from .holes import KINDS, draw
from .options import Masks, Silhouettes
from .recipe import Holes, load

ACROSS = 8  # holes in a row
MIXED = 5  # rows of a recipe's mixture
LETTERS = 14  # pixels
FILES = {"files": "--masks", "silhouettes": "--silhouettes"}  # what kinds need


def draw_sheet(
    sheet: Annotated[Path, typer.Option(help="The PNG to write.", dir_okay=False)],
    recipe: Annotated[
        Path | None, typer.Option(help="Draw this recipe's mixture, not each kind alone.")
    ] = None,
    masks: Masks = None,
    silhouettes: Silhouettes = None,
    seed: Annotated[int, typer.Option(help="Same seed, same holes.", min=0)] = 1,
    size: Annotated[int, typer.Option(help="Side of a hole's square, pixels.", min=64)] = 128,
) -> None:
    """Draw a sheet of training holes: a row for each kind, or a recipe's mixture."""
    files, objects = files_in(masks), files_in(silhouettes)
    if recipe is not None:
        rows = [("mixture", load(recipe).holes)] * MIXED
    else:
        given = {"files": bool(files), "silhouettes": bool(objects)}
        rows = [(kind, _only(kind)) for kind in KINDS if given.get(kind, True)]
        for kind in given:
            if not given[kind]:
                typer.echo(f"{kind}: left out; name a folder with {FILES[kind]}")
    cells = []
    for number, (word, wanted) in enumerate(rows):
        # A kind's holes are the same, whether or not others are drawn.
        rng = np.random.default_rng([seed, number if recipe else KINDS.index(word)])
        drawn = [draw(wanted, size, rng, files, objects) for _ in range(ACROSS)]
        shares = [float(hole.mean()) for hole in drawn]
        line = f"{np.mean(shares):.1%} of the square, {min(shares):.1%} to {max(shares):.1%}"
        typer.echo(f"{word}: {line}")
        label = _label(f"{word}\n{np.mean(shares):.0%}", size)
        cells.append([label, *map(_cell, drawn)])
    try:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        plots.grid(cells, sheet)
    except OSError as error:
        raise BadData(f"the sheet {sheet} cannot be written: {error.strerror}") from error
    typer.echo(f"{len(rows) * ACROSS} holes: {sheet}")


def _only(kind: str) -> Holes:
    return Holes.model_validate(dict.fromkeys(KINDS, 0.0) | {kind: 1.0})


def _cell(hole: Hole) -> NDArray[np.uint8]:
    return np.repeat(hole[..., None] * np.uint8(255), 3, axis=2)


def _label(text: str, size: int) -> NDArray[np.uint8]:
    """Write black on white, (size,size,3)."""
    square = Image.new("RGB", (size, size), "white")
    pen, font = ImageDraw.Draw(square), ImageFont.load_default(LETTERS)
    pen.multiline_text((size / 2, size / 2), text, "black", font, anchor="mm", align="center")
    return np.asarray(square)
