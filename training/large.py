"""Score fills at native size, on photographs of a megapixel and more.

In: photographs, and ways to fill: a model and what is done to its fill. Out: by way and kind of
hole, mean PSNR, SSIM and LPIPS around the holes, and seconds of the processor.

The protocol. Each photograph gets one hole of every kind, drawn by its name alone, and is filled
whole, through `inpaint.restore.restore`. Of a large photograph most is known, and its score says
little about the fill: compared are squares of 256 pixels that the hole touches, on a grid, at most
12, spread evenly. PSNR is that of the squares together, SSIM and LPIPS are means over them; the
scores are means over the photographs.
"""

import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from inpaint.errors import ModelFailed
from inpaint.highres import Filler
from inpaint.mask import Hole
from inpaint.patches import Refine
from inpaint.restore import restore

from . import metrics
from .evaluate import LPIPS_NAMES, Row, Scores, compare, masked
from .holes import bent_line
from .lpips import LPIPS, Trunk

Pixels = NDArray[np.uint8]
Way = tuple[Filler, Refine]
Place = tuple[slice, slice]  # rows and columns

# Kinds of holes: how many shapes, at least and at most, and how wide they are, pixels.
KINDS = {
    "scratches": ((6, 12), (2, 8)),
    "strokes": ((3, 6), (20, 80)),
    "boxes": ((3, 5), (100, 400)),
    "large": ((1, 1), (600, 1200)),  # an ellipse
}
LARGEST = 0.6  # of the photograph's short side, that a box or an ellipse is wide
SQUARE = 256  # pixels, side of what is compared
SQUARES = 12  # of a photograph and hole, at most: each costs two feature networks
CELL = 384  # pixels, side of an example
COMPARED = ("psnr", "ssim", *LPIPS_NAMES.values())


def ways(fillers: Mapping[str, Filler], refinements: Sequence[Refine]) -> dict[str, Way]:
    """Return by name: learned models with every refinement, classical ones as they are."""
    found: dict[str, Way] = {}
    for model, filler in fillers.items():
        for refine in refinements if filler.learned else ("none",):
            found[model if refine == "none" else f"{model}, {refine}"] = filler, refine
    return found


def draw(kind: str, name: str, shape: tuple[int, ...]) -> Hole:
    """Return the hole of a kind for the photograph of that name, (H,W) as its shape begins."""
    height, width = shape[:2]
    rng = np.random.default_rng(zlib.crc32(f"{name} {kind}".encode()))
    canvas = Image.new("L", (width, height))
    pen = ImageDraw.Draw(canvas)
    counts, sides = KINDS[kind]
    short, long = sorted((height, width))
    least, most = (min(side, int(LARGEST * short)) for side in sides)
    for _ in range(rng.integers(*counts, endpoint=True)):
        if kind in ("scratches", "strokes"):
            reach = long if kind == "scratches" else short
            bent_line(pen, (width, height), reach, rng.uniform(*sides), rng)
            continue
        across, down = rng.integers(least, most, 2, endpoint=True).tolist()
        left = int(rng.integers(width - across, endpoint=True))
        top = int(rng.integers(height - down, endpoint=True))
        paint = pen.ellipse if kind == "large" else pen.rectangle
        paint((left, top, left + across - 1, top + down - 1), fill=255)
    return np.asarray(canvas) > 0


def measure(
    photographs: Mapping[str, Pixels],
    kinds: Sequence[str],
    ways: Mapping[str, Way],
    distances: Mapping[Trunk, LPIPS],
    *,
    progress: Callable[[], None] = lambda: None,
) -> Scores:
    """Return the scores of every way with every kind of hole; `seconds` are of one photograph.

    Args:
        photographs: uint8 (H,W,3) by name, no side below 256 pixels.
        kinds: of holes, out of `KINDS`.
        ways: from `ways`.
        distances: LPIPS by the name of its network; a missing one is not scored.
        progress: called after each hole.

    Raises:
        ModelFailed: naming the way.
    """
    rows: dict[str, dict[str, list[Row]]] = {way: {kind: [] for kind in kinds} for way in ways}
    for name, photograph in photographs.items():
        for kind in kinds:
            hole = draw(kind, name, photograph.shape)
            filled = [_filled(photograph, hole, way, *parts) for way, parts in ways.items()]
            scored = around(photograph, [result for result, _ in filled], hole, distances)
            for way, row, (_, seconds) in zip(ways, scored, filled, strict=True):
                rows[way][kind].append(row | {"seconds": seconds})
            progress()
    return {
        way: {kind: {"n": len(each), **_means(each, each[0])} for kind, each in found.items()}
        for way, found in rows.items()
    }


def around(
    photograph: Pixels, results: Sequence[Pixels], hole: Hole, distances: Mapping[Trunk, LPIPS]
) -> list[Row]:
    """Return the scores of each result, like the photograph uint8 (H,W,3), around a hole."""
    places = squares(hole, SQUARE)
    places = [places[number] for number in _spread(len(places), SQUARES)]
    compared = [
        compare(photograph[place], [result[place] for result in results], distances)
        for place in places
    ]
    truth = np.stack([photograph[place] for place in places])
    scored = []
    for result, rows in zip(results, zip(*compared, strict=True), strict=True):
        found = np.stack([result[place] for place in places])
        scored.append(_means(rows, COMPARED) | {"psnr": metrics.psnr(truth, found)})
    return scored


def squares(hole: Hole, side: int) -> list[Place]:
    """Return the squares of a grid that a hole touches; the last ones end with the picture."""
    return [
        place
        for top in _starts(hole.shape[0], side)
        for left in _starts(hole.shape[1], side)
        if hole[place := (slice(top, top + side), slice(left, left + side))].any()
    ]


def examples(
    photographs: Mapping[str, Pixels], kinds: Sequence[str], ways: Mapping[str, Way]
) -> Iterator[list[Pixels]]:
    """Yield a row for each kind of hole: masked, filled in every way, photograph.

    They are details (384,384,3) at native size, of which about half is hole where it is so wide.
    """
    names = list(photographs)
    for number, kind in enumerate(kinds):
        name = names[number * len(names) // len(kinds)]
        photograph = photographs[name]
        hole = draw(kind, name, photograph.shape)
        place = min(squares(hole, CELL), key=lambda one: abs(float(hole[one].mean()) - 0.5))
        filled = [_filled(photograph, hole, way, *parts)[0] for way, parts in ways.items()]
        yield [each[place] for each in (masked(photograph, hole), *filled, photograph)]


def _filled(
    photograph: Pixels, hole: Hole, way: str, filler: Filler, refine: Refine
) -> tuple[Pixels, float]:
    """Return the filled photograph, and how many seconds of the processor that took."""
    before = time.process_time()
    try:
        result = restore(photograph, hole, filler, refine=refine)
    except ModelFailed as error:
        raise ModelFailed(f"{way}: {error.detail}") from error
    return result, time.process_time() - before


def _means(rows: Sequence[Row], names: Iterable[str]) -> Row:
    """Return the means of those scores that there are."""
    return {name: float(np.mean([row[name] for row in rows])) for name in names if name in rows[0]}


def _spread(count: int, most: int) -> list[int]:
    """Return at most `most` of the numbers below `count`, evenly spread."""
    return [number * count // min(count, most) for number in range(min(count, most))]


def _starts(length: int, side: int) -> list[int]:
    return [*range(0, length - side, side), length - side]
