"""Random holes for training: strokes, boxes, mask files, and the shapes of Context Encoders.

True = hole. Every draw depends on its random generator alone: same seed, same hole. `KINDS` are the
kinds that a recipe weighs. Centre, blocks, silhouettes and noise are those of Pathak et al.,
"Context Encoders", arXiv:1604.07379, section 3.3, and of its published code.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from inpaint.errors import BadData, InpaintError, MaskEmpty, MaskFull
from inpaint.mask import THRESHOLD, Hole, bounding_box, decode_hole
from inpaint.picture import decode, luminance

from .recipe import Holes

# New kinds come last: recipes that weigh them 0 then draw what they always drew.
KINDS = ("strokes", "boxes", "files", "centre", "blocks", "silhouettes", "noise")
TRIES = 20  # shapes tried for one hole
REGION = 0.2, 0.3  # share of the image that silhouettes and noise cover, from the published code
LARGEST_BLOCKS = 0.25  # share of the image that blocks cover together, section 3.3
NOISE_CELLS = 7.68  # values of noise along a side: 0.06 per pixel of 128 in the published code

# Luminance or alpha from GRAY to 255 - GRAY is gray, and so much of a mask may be. 100 irregular
# masks of 512 px had none; as JPEG of quality 30 up to 0.6 %, scaled down to 128 px with
# interpolation up to 7.8 %. Blurred by a Gaussian of 8 px, 14 % in the mean.
GRAY = 64
LARGEST_GRAY = 0.1

KEPT = 1024  # mask files and objects that stay in memory
OBJECT = 256  # pixels on the longer side of an object in memory
TILES = 5  # along a side, in which an object is bent
SMALLEST_OBJECT = 0.03  # share of the image
STRETCH = 0.3  # an object is up to exp(0.3) times as high and as wide; the same share is sheared
BEND = 0.05  # deviation of an object's pixels from where they were, share of the side


def draw(
    holes: Holes,
    size: int,
    rng: np.random.Generator,
    files: Sequence[Path] = (),
    silhouettes: Sequence[Path] = (),
) -> Hole:
    """Draw one hole (size,size) of a kind chosen by weight.

    Args:
        holes: the weights, and what strokes, boxes and files are to cover.
        size: of a side, pixels.
        rng: decides everything.
        files: mask files.
        silhouettes: files of objects' shapes, white = object.

    Raises:
        BadData: if the recipe wants files and none are given, or one cannot be used.
    """
    weights = np.array([getattr(holes, kind) for kind in KINDS])
    if holes.files and not files:
        raise BadData("the recipe draws holes from mask files: name their folder with --masks")
    if holes.silhouettes and not silhouettes:
        raise BadData("the recipe draws silhouettes: name their folder with --silhouettes")
    if not weights.sum():
        raise BadData(f"the recipe draws no holes: {', '.join(KINDS)} all weigh 0")
    match KINDS[rng.choice(len(KINDS), p=weights / weights.sum())]:
        case "strokes":
            return _together(partial(strokes, size, rng), holes, size, rng)
        case "boxes":
            return _together(partial(boxes, size, rng), holes, size, rng)
        case "files":
            return _together(lambda: from_file(_one(files, rng), size, rng), holes, size, rng)
        case "centre":
            return centre(size, holes.centre_side)
        case "blocks":
            return blocks(size, rng)
        case "silhouettes":
            return objects(silhouettes, size, rng)
        case _:
            return noise(size, rng)


def read_mask_file(path: Path, size: int) -> Hole:
    """Read a mask file as serving reads it, scaled to (size,size).

    Raises:
        BadData: naming the file, if it cannot be read, or its grays say neither hole nor known.
        MaskEmpty, MaskFull: if all of it is known, or hole.
    """
    return _read(path, "mask", size)


def from_file(path: Path, size: int, rng: np.random.Generator) -> Hole:
    """A mask file, read as serving reads it and scaled to (size,size), turned and mirrored.

    Raises:
        BadData: if the file is no mask, or its hole is empty or full.
    """
    hole = np.rot90(_mask(path, size), int(rng.integers(4)))
    return hole[:, ::-1] if rng.random() < 0.5 else hole


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
        bent_line(draw, (size, size), size, width, rng)
    return np.asarray(canvas) > 0


def bent_line(
    pen: ImageDraw.ImageDraw,
    sides: tuple[int, int],
    reach: int,
    thickness: float,
    rng: np.random.Generator,
) -> None:
    """Draw one line of two to eight pieces with round ends, bent at random.

    Args:
        pen: of a canvas.
        sides: width and height of the canvas, pixels; the line stays within.
        reach: pixels; a piece is 5 % to 30 % of it long.
        thickness: pixels.
        rng: decides everything.
    """
    x, y = rng.uniform(0, sides).tolist()
    angle = rng.uniform(0, 2 * math.pi)
    points = [(x, y)]
    for _ in range(rng.integers(2, 9)):
        angle += rng.normal(0, 0.8)
        length = reach * rng.uniform(0.05, 0.3)
        x = min(max(x + length * math.cos(angle), 0.0), float(sides[0]))
        y = min(max(y + length * math.sin(angle), 0.0), float(sides[1]))
        points.append((x, y))
    pen.line(points, fill=255, width=max(1, round(thickness)), joint="curve")
    radius = thickness / 2
    for x, y in points:
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)


def boxes(size: int, rng: np.random.Generator) -> Hole:
    """One to four rectangles with sides of an eighth to a half, (size,size)."""
    hole = np.zeros((size, size), dtype=np.bool_)
    for _ in range(rng.integers(1, 5)):
        height, width = rng.integers(size // 8, size // 2 + 1, 2)
        top, left = rng.integers(0, size - height + 1), rng.integers(0, size - width + 1)
        hole[top : top + height, left : left + width] = True
    return hole


def centre(size: int, side: float) -> Hole:
    """A square exactly in the middle, its side `side` of the image's, (size,size)."""
    margin = min(max(round(size * (1 - side) / 2), 1), (size - 1) // 2)
    hole = np.zeros((size, size), dtype=np.bool_)
    hole[margin : size - margin, margin : size - margin] = True
    return hole


def blocks(size: int, rng: np.random.Generator) -> Hole:
    """Four to eight squares, some overlapping, up to a quarter of the image, (size,size)."""
    hole = np.zeros((size, size), dtype=np.bool_)
    for _ in range(rng.integers(4, 9)):
        side = rng.integers(size // 8, size // 4 + 1)
        top, left = rng.integers(0, size - side + 1, 2)
        wider = hole.copy()
        wider[top : top + side, left : left + side] = True
        if _share(wider) <= LARGEST_BLOCKS:
            hole = wider
    return hole


def objects(files: Sequence[Path], size: int, rng: np.random.Generator) -> Hole:
    """Objects deformed and put anywhere, one or more, about a quarter of the image, (size,size).

    Each is as large as what is wanting yet; where the border cuts much of it off, another follows.

    Raises:
        BadData: if a file is no mask, or its object is empty or full.
    """
    hole = np.zeros((size, size), dtype=np.bool_)
    wanted = rng.uniform(*REGION)
    for _ in range(TRIES):
        share = max(wanted - _share(hole), SMALLEST_OBJECT)
        both = hole | _deformed(_object(_one(files, rng)), share, size, rng)
        if _share(both) <= REGION[1]:
            hole = both
        if _share(hole) >= REGION[0]:
            break
    return hole


def noise(size: int, rng: np.random.Generator) -> Hole:
    """Blotches: where smooth noise is lowest, (size,size).

    The published code scales uniform noise up bicubically, takes what is below 0.25, and looks for
    windows of which 20 to 30 % are; here the threshold is the quantile that gives such a share.
    """
    values = rng.random((math.ceil(NOISE_CELLS) + 5,) * 2)
    left, top = rng.uniform(2, 3, 2)  # the window's corner, away from the rim
    field = _smooth(values, size, (left, top, left + NOISE_CELLS, top + NOISE_CELLS))
    return field < np.quantile(field, rng.uniform(*REGION))


def _one(files: Sequence[Path], rng: np.random.Generator) -> Path:
    return files[int(rng.integers(len(files)))]


def _share(hole: Hole) -> float:
    return np.count_nonzero(hole) / hole.size  # much quicker than the mean


def _together(shape: Callable[[], Hole], holes: Holes, size: int, rng: np.random.Generator) -> Hole:
    """Put shapes together, (size,size), until they cover about as much as is drawn here.

    The share of the image is spread evenly over the recipe's range; a shape that would cover far
    more is left out.
    """
    wanted = rng.uniform(holes.smallest, holes.largest)
    hole = last = np.zeros((size, size), dtype=np.bool_)
    for _ in range(TRIES):
        one = shape()
        if holes.smallest <= _share(one) <= holes.largest or not last.any():
            last = one
        both = hole | one
        if holes.smallest <= _share(both) <= min(1.25 * wanted, holes.largest):
            hole = both
        if _share(hole) >= 0.8 * wanted:
            break
    return hole if hole.any() else last


def _deformed(shape: Hole, share: float, size: int, rng: np.random.Generator) -> Hole:
    """Return an object turned, stretched, sheared and bent, some pixel of it anywhere, (size,size).

    Args:
        shape: the object, (H,W).
        share: of the image that it covers if all of it lies within.
        size: of a side, pixels.
        rng: decides everything.
    """
    pixel = divmod(int(rng.choice(np.flatnonzero(shape))), shape.shape[1])
    angle = rng.uniform(0, 2 * math.pi)
    stretch, shear = rng.uniform(-STRETCH, STRETCH, 2)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    turn = turn @ [[math.exp(stretch), shear], [0, math.exp(-stretch)]]  # keeps areas
    turn *= math.sqrt(shape.sum() / (share * size**2))

    # Where the corners of the image's tiles are in the object: (2,TILES+1,TILES+1), (row, column).
    edges = np.linspace(0, size, TILES + 1).round()
    corners = np.stack(np.meshgrid(edges, edges, indexing="ij"))
    corners += [_smooth(rng.normal(0, BEND * size, (4, 4)), TILES + 1) for _ in range(2)]
    corners -= rng.uniform(0, size, (2, 1, 1))  # from where the pixel comes to lie
    corners = np.tensordot(turn, corners, 1) + np.reshape(pixel, (2, 1, 1))
    xy = corners[::-1].transpose(1, 2, 0).tolist()
    sides = [int(edge) for edge in edges]
    mesh = [
        (
            (sides[j], sides[i], sides[j + 1], sides[i + 1]),
            (*xy[i][j], *xy[i + 1][j], *xy[i + 1][j + 1], *xy[i][j + 1]),  # against the clock
        )
        for i in range(TILES)
        for j in range(TILES)
    ]
    return np.asarray(Image.fromarray(shape).transform((size, size), Image.Transform.MESH, mesh))


def _smooth(
    values: NDArray[np.float64], size: int, box: tuple[float, float, float, float] | None = None
) -> NDArray[np.float32]:
    """Scale a grid of values, or the box (left, top, right, bottom) of it, up to (size,size)."""
    grid = Image.fromarray(values.astype(np.float32))
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC, box=box))


@lru_cache(KEPT)
def _mask(path: Path, size: int) -> Hole:
    """Return a mask file's hole (size,size), read-only; empty and full ones are refused too."""
    try:
        hole = read_mask_file(path, size)
    except (MaskEmpty, MaskFull) as error:
        raise BadData(f"mask {path} cannot be used: {error.detail}") from error
    hole.flags.writeable = False
    return hole


@lru_cache(KEPT)
def _object(path: Path) -> Hole:
    """Return what is white in a file, cut out and scaled, read-only."""
    try:
        shape = _read(path, "silhouette")
    except (MaskEmpty, MaskFull) as error:
        raise BadData(f"silhouette {path} cannot be used: {error.detail}") from error
    box = bounding_box(shape)
    assert box is not None  # the file was not empty
    top, left, bottom, right = box
    cut = Image.fromarray(shape[top:bottom, left:right].astype(np.uint8) * 255)
    scale = OBJECT / max(cut.size)
    size = max(1, round(cut.width * scale)), max(1, round(cut.height * scale))
    shape = np.asarray(cut.resize(size, Image.Resampling.BICUBIC)) >= THRESHOLD
    shape.flags.writeable = False
    return shape


def _read(path: Path, word: str, size: int | None = None) -> Hole:
    """Decode a mask file, scaled to (size,size) unless it keeps its own size."""
    try:
        data = path.read_bytes()
        picture = decode(data, field=word)
        levels = picture.pixels[..., 0] if picture.gray else luminance(picture.pixels)
        gray = _gray(levels)
        if (alpha := picture.opacity) is not None:  # what is transparent has no luminance
            gray = gray & (alpha >= THRESHOLD) | _gray(alpha)
        if (share := gray.mean()) > LARGEST_GRAY:
            raise BadData(
                f"{word} {path} cannot be used: {share:.0%} of it is gray ({GRAY} to {255 - GRAY} "
                f"of 255), neither black nor white; at most {LARGEST_GRAY:.0%} may be"
            )
        return decode_hole(data, size or picture.height, size or picture.width, fit="resize")[0]
    except OSError as error:
        raise BadData(f"{word} {path} cannot be read: {error.strerror}") from error
    except (MaskEmpty, MaskFull, BadData):
        raise
    except InpaintError as error:
        raise BadData(f"{word} {path} cannot be used: {error.detail}") from error


def _gray(levels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return (levels >= GRAY) & (levels <= 255 - GRAY)
