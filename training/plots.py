"""Pictures about training: loss curves from the scalars, grids of samples.

In: the JSON lines that the loop writes, or pixels uint8 (H,W,3). Out: PNG files, replaced whole, so
that a viewer never meets half of one.
"""

import json
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Curve = tuple[list[float], list[float]]  # steps, values

COUNTS = {"step", "images", "seconds"}  # not drawn: they only grow
COLUMNS = 3  # of curves
SMOOTHED_SHARE = 0.05  # of a curve's points go into each point of its smooth line
GAP = 4  # pixels between the pictures of a grid
TITLE = 18  # pixels above a grid for a line of titles


def curves(scalars: Path, path: Path) -> None:
    """Draw each scalar over the steps, pale as logged and dark as its running mean.

    Args:
        scalars: JSON lines, as `read_scalars` takes them; nothing is drawn of an empty file.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure  # here, because it costs half a second; needs no display

    series = read_scalars(scalars)
    if not series:
        return
    rows = math.ceil(len(series) / COLUMNS)
    figure = Figure(figsize=(4.2 * COLUMNS, 2.6 * rows), layout="constrained")
    for place, (name, (steps, values)) in enumerate(series.items(), start=1):
        axes = figure.add_subplot(rows, COLUMNS, place)
        axes.plot(steps, values, color="tab:blue", alpha=0.3, linewidth=0.8)
        axes.plot(steps, _running_mean(values), color="tab:blue", linewidth=1.4)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        axes.set_xlim(min(steps), max(max(steps), min(steps) + 1))
        if all(math.isfinite(value) for value in values):
            axes.set_ylim(*_limits(values))
    part = path.with_name(path.name + ".part")
    figure.savefig(part, format="png")
    part.replace(path)


def grid(
    rows: Sequence[Sequence[NDArray[np.uint8]]],
    path: Path,
    *,
    titles: Sequence[str] = (),
    colours: int | None = None,
) -> None:
    """Put pictures of one size into a table, pixel for pixel.

    Args:
        rows: pixels uint8 (H,W,3), all of one shape; rows may differ in length.
        path: the PNG to write.
        titles: a name above each column, in lines of its width; none, no line for them.
        colours: of the file, at most 256, so that it is small; by default all.

    Raises:
        ValueError: if there is no picture, or their shapes differ.
    """
    shapes = {pixels.shape for row in rows for pixels in row}
    if len(shapes) != 1:
        raise ValueError(f"a grid takes pictures of one shape, not {sorted(shapes)}")
    height, width, _ = shapes.pop()
    font = ImageFont.load_default(12)
    heads = [_lines(title, width, font) for title in titles]
    top = TITLE * max(map(len, heads), default=0) + GAP
    columns = max(len(row) for row in rows)
    size = (GAP + columns * (width + GAP), top + len(rows) * (height + GAP))
    sheet = Image.new("RGB", size, "white")
    for down, row in enumerate(rows):
        for across, pixels in enumerate(row):
            place = (GAP + across * (width + GAP), top + down * (height + GAP))
            sheet.paste(Image.fromarray(pixels), place)
    draw = ImageDraw.Draw(sheet)
    for across, lines in enumerate(heads):
        for down, line in enumerate(lines):
            place = (GAP + across * (width + GAP), GAP + down * TITLE)
            draw.text(place, line, fill="black", font=font)
    part = path.with_name(path.name + ".part")
    if colours is not None:
        sheet = sheet.quantize(colours)
    sheet.save(part, format="PNG", optimize=colours is not None)
    part.replace(path)


def _lines(title: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Break a title, after hyphens if possible, into lines of about `width` pixels."""
    letters = int(width * len(title) / font.getlength(title))
    return textwrap.wrap(title, max(letters, 1))


def read_scalars(path: Path) -> dict[str, Curve]:
    """Return steps and values by name, in the order of first appearance.

    Args:
        path: JSON lines, each an object with `step` and numbers by name. A last line that a kill
            cut short is passed over, and so are `COUNTS`.

    Raises:
        ValueError: if a line other than the last is not JSON.
    """
    series: dict[str, Curve] = {}
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(f"line {number} of {path} is not JSON") from error
        for name, value in record.items():
            if name not in COUNTS:
                steps, values = series.setdefault(name, ([], []))
                steps.append(record["step"])
                values.append(value)
    return series


def _running_mean(values: Sequence[float]) -> NDArray[np.float64]:
    """Return the mean over a centred window, narrower towards the ends."""
    reach = int(len(values) * SMOOTHED_SHARE / 2)
    total = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    reach_here = np.minimum(reach, np.minimum(places, len(values) - 1 - places))
    first, last = places - reach_here, places + reach_here + 1
    return np.asarray((total[last] - total[first]) / (last - first), np.float64)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Return a range that a few outliers, as at the start of a run, do not stretch."""
    low, high = np.percentile(values, [0.5, 99.5])
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    return float(low - margin), float(high + margin)
