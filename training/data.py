"""Photographs for training: folders and tar shards, decoded once and kept in memory; random crops.

A batch depends on the seed and the step alone, so a run that starts again sees the same.
"""

import io
import queue
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from inpaint.errors import BadData

from . import holes
from .recipe import Recipe

Pixels = NDArray[np.uint8]
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}
AHEAD = 4  # batches prepared while the network works


@dataclass
class Photographs:
    """Decoded photographs, each uint8 (H,W,3), and the names of files that could not be read."""

    pixels: list[Pixels] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def image_files(folder: Path) -> list[Path]:
    """Return the image files under `folder`, sorted, by suffix."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def _files(source: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each image of a folder (its tar shards included) or of one shard."""
    shards = [source] if source.is_file() else sorted(source.rglob("*.tar"))
    for shard in shards:
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.isfile() and Path(member.name).suffix.lower() in SUFFIXES:
                    file = tar.extractfile(member)
                    if file is not None:
                        yield f"{shard.name}:{member.name}", file.read()
    if source.is_dir():
        for path in image_files(source):
            yield str(path), path.read_bytes()


def read(
    sources: Sequence[Path], *, longest: int, progress: Callable[[int], None] = lambda count: None
) -> Photographs:
    """Decode every photograph of `sources`: folders, folders of tar shards, or shards.

    Args:
        sources: where to look.
        longest: photographs whose short side is longer are scaled down to it, pixels.
        progress: called with the count so far.

    Raises:
        BadData: if a source does not exist or is no tar file, or nothing could be decoded.
    """
    found = Photographs()
    for source in sources:
        if not source.exists():
            raise BadData(f"data {source} does not exist")
        try:
            for name, data in _files(source):
                try:
                    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
                except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
                    found.skipped.append(name)
                    continue
                if min(picture.size) > longest:
                    scale = longest / min(picture.size)
                    size = (round(picture.width * scale), round(picture.height * scale))
                    picture = picture.resize(size, Image.Resampling.LANCZOS)
                found.pixels.append(np.asarray(picture))
                progress(len(found.pixels))
        except tarfile.TarError as error:
            raise BadData(f"shard in {source} cannot be read: {error}") from error
    if not found.pixels:
        raise BadData(f"no readable photographs in {', '.join(str(source) for source in sources)}")
    return found


def crop(pixels: Pixels, size: int, recipe: Recipe, rng: np.random.Generator) -> Pixels:
    """Cut a random square out of a photograph, scale it to (size,size,3), and vary it."""
    height, width = pixels.shape[:2]
    longest = min(height, width)
    shortest = min(longest, max(recipe.crops.smallest, round(size * 0.75)))
    side = int(rng.integers(shortest, longest + 1))
    top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
    square = pixels[top : top + side, left : left + side]
    if side != size:
        method = Image.Resampling.BOX if side >= 2 * size else Image.Resampling.BICUBIC
        square = np.asarray(Image.fromarray(square).resize((size, size), method))
    if rng.random() < recipe.crops.flip:
        square = square[:, ::-1]
    if recipe.crops.colour:
        gain, shift = 1 + rng.uniform(-1, 1, 2) * recipe.crops.colour
        levels = square.astype(np.float32) * gain + (shift - 1) * 255
        square = levels.clip(0, 255).astype(np.uint8)
    if rng.random() < recipe.crops.gray:
        square = np.repeat(np.asarray(Image.fromarray(square).convert("L"))[..., None], 3, axis=2)
    return np.ascontiguousarray(square)


@dataclass(frozen=True)
class Batch:
    """One step's pixels uint8 (B,S,S,3) and holes bool (B,S,S)."""

    pixels: Pixels
    holes: NDArray[np.bool_]


def make_batch(
    photographs: Sequence[Pixels], recipe: Recipe, step: int, masks: Sequence[Path] = ()
) -> Batch:
    """Return the batch of `step`; nothing else decides what is in it but the recipe's seed."""
    rng = np.random.default_rng([recipe.seed, step])
    stage, _ = recipe.stage_at(step)
    chosen = rng.integers(0, len(photographs), stage.batch)
    squares = [crop(photographs[index], stage.size, recipe, rng) for index in chosen]
    drawn = [holes.draw(recipe.holes, stage.size, rng, masks) for _ in range(stage.batch)]
    return Batch(np.stack(squares), np.stack(drawn))


class Loader:
    """Prepares batches in a thread of its own, in order, a few ahead."""

    def __init__(
        self, photographs: Sequence[Pixels], recipe: Recipe, first: int, masks: Sequence[Path] = ()
    ) -> None:
        self._queue: queue.Queue[Batch | Exception] = queue.Queue(AHEAD)
        self._stop = threading.Event()
        arguments = (photographs, recipe, first, masks)
        self._thread = threading.Thread(target=self._work, args=arguments, daemon=True)
        self._thread.start()

    def _work(
        self, photographs: Sequence[Pixels], recipe: Recipe, first: int, masks: Sequence[Path]
    ) -> None:
        item: Batch | Exception
        for step in range(first, recipe.steps):
            try:
                item = make_batch(photographs, recipe, step, masks)
            except Exception as error:  # noqa: BLE001  # raised again where the batch is awaited
                item = error
            while not self._stop.is_set():
                try:
                    self._queue.put(item, timeout=0.5)
                    break
                except queue.Full:
                    continue
            if self._stop.is_set() or isinstance(item, Exception):
                return

    def next(self) -> Batch:
        """Return the next batch, waiting for it.

        Raises:
            BadData: if it could not be made.
        """
        item = self._queue.get()
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        """Stop the thread."""
        self._stop.set()
        self._thread.join()
