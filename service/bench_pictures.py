"""The pictures that benchmarks send: made here, from fixed seeds, in no time.

They compress about as badly as photographs: soft shapes and grain.
"""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inpaint.errors import InpaintError

QUALITY = 92  # of JPEG
CLOSE = 6.0  # mean difference between a JPEG and a JPEG of it, levels, at most
SPECK = 12  # pixels across


def photograph(width: int, height: int, *, seed: int = 0, grain: float = 4.0) -> Image.Image:
    """Return an RGB picture; `grain` is a deviation in levels."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    shapes = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noise = random.normal(0, grain, (min(height, 1024), min(width, 1024), 3)).astype(np.int16)
    repeats = -(-height // noise.shape[0]), -(-width // noise.shape[1]), 1
    tiled = np.tile(noise, repeats)[:height, :width]
    return Image.fromarray(np.clip(shapes + tiled, 0, 255).astype(np.uint8))


def box(width: int, height: int, side: int) -> Image.Image:
    """Return a mask with one square hole in its middle."""
    hole = np.zeros((height, width), np.uint8)
    top, left = (height - side) // 2, (width - side) // 2
    hole[top : top + side, left : left + side] = 255
    return Image.fromarray(hole)


def specks(width: int, height: int, count: int, *, seed: int = 0) -> Image.Image:
    """Return a mask with so many small square holes, anywhere."""
    random = np.random.default_rng(seed)
    hole = np.zeros((height, width), np.uint8)
    tops = random.integers(0, height - SPECK, count)
    lefts = random.integers(0, width - SPECK, count)
    for top, left in zip(tops, lefts, strict=True):
        hole[top : top + SPECK, left : left + SPECK] = 255
    return Image.fromarray(hole)


def strokes(side: int) -> Image.Image:
    """Return a mask with three thin strokes, about 3 % of the picture."""
    hole = np.zeros((side, side), np.uint8)
    rows = np.arange(side)
    for left in (100, 230, 400):
        begin = left * side // 512
        columns = begin + rows * (side - 2 * begin) // side
        for thick in range(5):
            hole[rows, np.clip(columns + thick, 0, side - 1)] = 255
    return Image.fromarray(hole)


def jpeg(picture: Image.Image) -> bytes:
    """Return the file."""
    return _file(picture, "JPEG", quality=QUALITY)


def png(picture: Image.Image) -> bytes:
    """Return the file, written fast."""
    return _file(picture, "PNG", compress_level=1)


def tiff(picture: Image.Image) -> bytes:
    """Return the file, not compressed."""
    return _file(picture, "TIFF")


def compare(sent: bytes, mask: bytes, received: bytes) -> None:
    """Look at an answer's pixels: the size, and what is known.

    Raises:
        InpaintError: if the answer is not the picture that was sent, outside the hole.
    """
    before, after = (Image.open(BytesIO(data)).convert("RGB") for data in (sent, received))
    if before.size != after.size:
        raise InpaintError(f"a picture of {before.size} came back as one of {after.size}")
    known = _array(Image.open(BytesIO(mask)).convert("L")) < 128
    difference = np.abs(_array(before).astype(np.int16) - _array(after))[known].mean()
    if difference > CLOSE:
        raise InpaintError(f"known pixels came back changed, by {difference:.1f} levels on average")


def _array(picture: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(picture, np.uint8)


def _file(picture: Image.Image, kind: str, **options: int) -> bytes:
    file = BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()
