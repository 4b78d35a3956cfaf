"""Photographs for training: folders and tar shards, decoded once and kept in memory; random crops.

A batch depends on the seed and the step alone, so a run that starts again sees the same, whatever
the number of processes that share it.
"""

import queue
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inpaint.errors import BadData, InpaintError
from inpaint.picture import decode

from . import holes
from .recipe import Recipe, Stage

Pixels = NDArray[np.uint8]
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}
BROWN = 0.2, 1.0  # how brown sepia is: at 1, middle gray (128) is (169, 128, 64)
AHEAD = 4  # batches prepared while the network works


@dataclass
class Photographs:
    """Decoded photographs, each uint8 (H,W,3), with their names, and what could not be read.

    Names are paths below the source; of a shard's members, `SHARD:MEMBER`.
    """

    pixels: list[Pixels] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # "name: reason"


def image_files(folder: Path) -> list[Path]:
    """Return the image files under `folder`, sorted, by suffix."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in found if not path.is_dir())


def files_in(folder: Path | None) -> tuple[Path, ...]:
    """Return the image files under a folder that a user may name; without it there are none.

    Raises:
        BadData: if it holds none.
    """
    if folder is None:
        return ()
    if not (found := image_files(folder)):
        raise BadData(f"{folder} holds no image files")
    return tuple(found)


def encoded(source: Path, skipped: list[str]) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each image of a folder (its tar shards included) or of one shard."""
    shards = [source] if source.is_file() else sorted(source.rglob("*.tar"))
    for shard in shards:
        try:
            with tarfile.open(shard) as tar:
                for member in tar:
                    if member.isfile() and Path(member.name).suffix.lower() in SUFFIXES:
                        file = tar.extractfile(member)
                        if file is not None:
                            yield f"{shard.name}:{member.name}", file.read()
        except (tarfile.TarError, OSError) as error:
            reason = (
                str(error).partition("\n")[0].removesuffix(":")
            )  # a line per compression follows
            raise BadData(f"shard {shard} cannot be read: {reason}") from error
    if source.is_dir():
        for path in image_files(source):
            name = path.relative_to(source).as_posix()
            try:
                yield name, path.read_bytes()
            except OSError as error:
                skipped.append(f"{name}: {error.strerror}")


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
        for name, data in encoded(source, found.skipped):
            try:
                pixels = decode(data).pixels
            except InpaintError as error:
                found.skipped.append(f"{name}: {error.detail}")
                continue
            found.pixels.append(_reduced(pixels, longest))
            found.names.append(name)
            progress(len(found.pixels))
    if not found.pixels:
        raise BadData(f"no readable photographs in {', '.join(str(source) for source in sources)}")
    return found


def _reduced(pixels: Pixels, longest: int) -> Pixels:
    """Scale down to a short side of `longest`, if it is longer."""
    height, width = pixels.shape[:2]
    if min(height, width) <= longest:
        return pixels
    scale = longest / min(height, width)
    size = round(width * scale), round(height * scale)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def crop(pixels: Pixels, size: int, recipe: Recipe, rng: np.random.Generator) -> Pixels:
    """Cut a random square out of a photograph, scale it to (size,size,3), and vary it."""
    height, width = pixels.shape[:2]
    longest = min(height, width)
    shortest = min(longest, max(recipe.crops.smallest, round(size * 0.75)))
    side = int(rng.integers(shortest, longest + 1))
    top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
    square = Image.fromarray(pixels[top : top + side, left : left + side])
    if side != size:
        method = Image.Resampling.BOX if side >= 2 * size else Image.Resampling.BICUBIC
        square = square.resize((size, size), method)
    if rng.random() < recipe.crops.flip:
        square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if recipe.crops.colour:
        gain, shift = 1 + rng.uniform(-1, 1, 2) * recipe.crops.colour
        levels = np.arange(256) * gain + (shift - 1) * 255
        square = square.point(levels.clip(0, 255).astype(np.uint8).tolist() * 3)
    faded = rng.random()
    if faded < recipe.crops.gray + recipe.crops.sepia:
        square = square.convert("L").convert("RGB")
        if faded >= recipe.crops.gray:
            square = square.point(_sepia(rng.uniform(*BROWN)))
    return np.asarray(square)


def _sepia(brown: float) -> list[int]:
    """Return the levels of red, green and blue for each level of gray; black and white stay."""
    gray = np.arange(256) / 255
    levels = [255 * gray**power for power in (1 - 0.4 * brown, 1, 1 + brown)]
    return np.concatenate(levels).round().astype(np.uint8).tolist()


@dataclass(frozen=True)
class Material:
    """What batches are made of.

    Attributes:
        photographs: uint8 (H,W,3) each.
        labels: int64 (N,), the class of each photograph, -1 = unlabelled; None: there are none.
        masks: mask files.
        silhouettes: files of objects' shapes.
    """

    photographs: Sequence[Pixels]
    labels: NDArray[np.int64] | None = None
    masks: Sequence[Path] = ()
    silhouettes: Sequence[Path] = ()


@dataclass(frozen=True)
class Batch:
    """One step's pixels uint8 (B,S,S,3), holes bool (B,S,S), and labels int64 (B,), -1 = none."""

    pixels: Pixels
    holes: NDArray[np.bool_]
    labels: NDArray[np.int64]


def make_batch(
    material: Material, recipe: Recipe, step: int, *, rank: int = 0, ranks: int = 1
) -> Batch:
    """Return the batch of `step`, or a rank's share of it.

    Each square depends on the recipe's seed, the step and its place in the batch alone: ranks,
    however many there are, together see the same batch.
    """
    stage, _ = recipe.stage_at(step)
    places = range(rank, stage.batch, ranks)
    squares = [_square(material, recipe, stage, step, place) for place in places]
    pixels, drawn, labels = zip(*squares, strict=True)
    return Batch(np.stack(pixels), np.stack(drawn), np.array(labels, np.int64))


def _square(
    material: Material, recipe: Recipe, stage: Stage, step: int, place: int
) -> tuple[Pixels, NDArray[np.bool_], int]:
    """Return pixels (S,S,3), hole (S,S) and label of one place in a batch."""
    rng = np.random.default_rng([recipe.seed, step, place])
    number = int(rng.integers(len(material.photographs)))
    if material.labels is not None and place < recipe.labelled * stage.batch:
        number = int(rng.choice(np.flatnonzero(material.labels >= 0)))
    label = -1 if material.labels is None else int(material.labels[number])
    pixels = crop(material.photographs[number], stage.size, recipe, rng)
    hole = holes.draw(recipe.holes, stage.size, rng, material.masks, material.silhouettes)
    return pixels, hole, label


class Loader:
    """Prepares batches in a thread of its own, in order, a few ahead."""

    def __init__(
        self, material: Material, recipe: Recipe, first: int, *, rank: int = 0, ranks: int = 1
    ) -> None:
        self._queue: queue.Queue[Batch | Exception] = queue.Queue(AHEAD)
        self._stop = threading.Event()
        self._make = partial(make_batch, material, recipe, rank=rank, ranks=ranks)
        steps = range(first, recipe.steps)
        self._thread = threading.Thread(target=self._work, args=(steps,), daemon=True)
        self._thread.start()

    def _work(self, steps: range) -> None:
        item: Batch | Exception
        for step in steps:
            try:
                item = self._make(step)
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
