"""Crops of rendered damage for the training of detectors: a process renders, the loop draws.

In: photographs. Out: squares of old prints with their labels, in a pool on disk that is filled anew
while training goes on: the damaged ones in turn, of the clean ones those that fool nobody.
"""

import multiprocessing
import os
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any  # what a memory map's dtype is

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inpaint.errors import BadData, InpaintError
from inpaint.picture import decode
from models.damage import STEP

from . import data
from .ageing import BORDERS, DISTRACTORS
from .damage import Damaged, render
from .injuries import AREAS, KINDS, LINES, SPECKS, Settings

Pixels = NDArray[np.uint8]

HELD_OUT = 40  # one photograph in so many is kept for scores
FIRST_SEED = 1_000_000  # of renderings; those for scores have small ones
SHORTEST = 256  # side of a rendering for scores, pixels
CUT = 1.2  # times a print its crops cover together
MOST = 6  # crops of one print
CROWDED = 3.0  # times as likely as usual is each distractor on half of the prints
HARSH = 0.4  # share of photographs that are overexposed or printed too hard
BORDERED = 0.7  # share of these that have a border
PLAIN = 0.4  # share that is neither aged nor scanned: age alone must not tell what is harmed
IGNORED = 255  # in a label
UNIT = 64  # of weights: 1 as uint8
USUAL = 40  # pixels of a component, and more, that have weight 1
SNAPPED = 64  # pixels: a crop that comes as near to a side of the print begins at it
RIM = 24  # pixels along a cut that are ignored: who serves does not take them either

HEADS = np.zeros(len(KINDS), np.uint8)  # of a kind of damage: 1 line, 2 speck, 3 area
for _number, _kinds in enumerate((LINES, SPECKS, AREAS), start=1):
    HEADS[[KINDS.index(kind) for kind in _kinds]] = _number


@dataclass(frozen=True)
class Crop:
    """A square of a print.

    Attributes:
        pixels: uint8 (S,S,3).
        label: uint8 (S,S,2): 0 nothing, 1 line, 2 speck, 3 area, 255 ignored; and the weight of the
            pixel, in 64ths: that of a small component is larger.
        clean: nothing has happened to the print.
    """

    pixels: Pixels
    label: NDArray[np.uint8]
    clean: bool


def read(sources: Sequence[Path], *, held_out: bool) -> list[bytes]:
    """Return the files of the photographs that are trained on, or of those kept for scores.

    Raises:
        BadData: if a source does not exist, or there are no photographs.
    """
    files = []
    for source in sources:
        if not source.exists():
            raise BadData(f"data {source} does not exist")
        for name, file in data.encoded(source, []):
            if (zlib.crc32(name.encode()) % HELD_OUT == 0) == held_out:
                files.append(file)
    if not files:
        raise BadData(f"no photographs in {', '.join(str(source) for source in sources)}")
    return files


def printed(
    files: Sequence[bytes], rng: np.random.Generator, scales: tuple[float, float], size: int
) -> Pixels:
    """Return a photograph at a random scale, its short side at least `size`."""
    while True:
        try:
            pixels = decode(files[int(rng.integers(len(files)))]).pixels
            break
        except InpaintError:
            continue  # another one
    height, width = pixels.shape[:2]
    low, high = max(scales[0], size / min(height, width)), scales[1]
    scale = max(low, low * (high / low) ** rng.random()) if high > low else low
    target = max(size, round(width * scale)), max(size, round(height * scale))
    image = Image.fromarray(pixels).resize(target, Image.Resampling.BICUBIC)
    return np.asarray(image)


def label(damaged: Damaged) -> NDArray[np.uint8]:
    """Return the label (H,W,2) of a rendering, as in `Crop`."""
    heads = np.where(damaged.ignore, np.uint8(IGNORED), HEADS[damaged.kind])
    _, components, stats, _ = cv2.connectedComponentsWithStats(
        damaged.mask.astype(np.uint8), connectivity=8
    )
    weights = np.sqrt(USUAL / stats[:, cv2.CC_STAT_AREA]).clip(1, 2) * UNIT
    weights[0] = UNIT
    return np.stack([heads, weights.astype(np.uint8)[components]], axis=-1)


def crops_of(
    files: Sequence[bytes],
    number: int,
    *,
    seed: int,
    size: int,
    scales: tuple[float, float],
    clean: float,
) -> list[Crop]:
    """Return crops of the print of this number; the same for the same arguments."""
    rng = np.random.default_rng([seed, number])
    photograph = printed(files, rng, scales, size)
    if rng.random() < 0.5:
        photograph = photograph[:, ::-1]
    if rng.random() < HARSH:
        photograph = _harsh(photograph, rng)
    unharmed = bool(rng.random() < clean)
    crowd = _crowd(rng) if rng.random() < 0.5 else None
    plain = bool(rng.random() < PLAIN)
    damaged = render(
        np.ascontiguousarray(photograph),
        FIRST_SEED + number,
        kinds=() if unharmed else None,
        distractors=() if plain else crowd,
    )
    image, labels = damaged.image, label(damaged)
    if plain:
        change = damaged.image.astype(np.int16) - damaged.truth
        image = (photograph + change).clip(0, 255).astype(np.uint8)
    # tiles reach beyond a print, where it is mirrored
    beyond = [(0, int(rng.integers(STEP))) for _ in range(2)] + [(0, 0)]
    image = np.pad(image, beyond, mode="symmetric")
    labels = np.pad(labels, beyond, constant_values=IGNORED)
    height, width = labels.shape[:2]
    count = int(np.clip(CUT * height * width / size**2, 1, MOST))
    room = np.array((height - size, width - size))
    found = []
    for _ in range(count):
        corners = rng.integers(-SNAPPED, room + SNAPPED + 1, (2, 2)).clip(0, room)
        parts = [(slice(top, top + size), slice(left, left + size)) for top, left in corners]
        # light cloth and sky are what looks most like bare paper
        worth = image[..., 1] if unharmed else (labels[..., 0] > 0) & (labels[..., 0] != IGNORED)
        most = max(parts, key=lambda part: int(worth[part].sum()))
        found.append(Crop(image[most].copy(), _cut(labels, most), unharmed))
    return found


def _cut(labels: NDArray[np.uint8], part: tuple[slice, slice]) -> NDArray[np.uint8]:
    """Cut out a part of a label; what is near a cut is ignored, what is near a true side counts."""
    taken = labels[part].copy()
    for axis, (span, length) in enumerate(zip(part, labels.shape[:2], strict=True)):
        heads = np.moveaxis(taken[..., 0], axis, 0)  # a view
        if span.start > 0:
            heads[:RIM] = IGNORED
        if span.stop < length:
            heads[-RIM:] = IGNORED
    return taken


def _harsh(photograph: Pixels, rng: np.random.Generator) -> Pixels:
    """Raise the contrast until lights are without detail: burnt-out cloth is no bare paper."""
    gain, middle = rng.uniform(1.2, 2.2), rng.uniform(30, 160)
    levels = ((np.arange(256) - middle) * gain + middle).clip(0, 255).round().astype(np.uint8)
    return levels[photograph]


def _crowd(rng: np.random.Generator) -> list[str]:
    """Draw more distractors than usual, and mostly a border: thin ones look like folds."""
    chosen = [
        name
        for name, share in DISTRACTORS.items()
        if name not in BORDERS and rng.random() < share * CROWDED
    ]
    return [*chosen, rng.choice(BORDERS)] if rng.random() < BORDERED else chosen


class Pool:
    """Crops on disk, and how well the clean ones fool the network."""

    def __init__(self, folder: Path, size: int, damaged: int, clean: int) -> None:
        """Open a pool, or make one.

        Args:
            folder: of the pool.
            size: side of its squares.
            damaged: how many damaged crops it holds at most.
            clean: how many clean ones.
        """
        folder.mkdir(parents=True, exist_ok=True)
        total = damaged + clean
        self._damaged, self._clean = damaged, clean
        self.pixels = _map(folder / "pixels.npy", (total, size, size, 3))
        self.labels = _map(folder / "labels.npy", (total, size, size, 2))
        self.count = 0  # damaged crops so far
        self.clean_count = 0
        self.fooled = np.zeros(clean)  # by clean crops

    def add(self, crop: Crop) -> None:
        """Put a crop in the place of the oldest one, or of the clean one that fools least."""
        if not crop.clean:
            place = self.count % self._damaged
            self.count += 1
        else:
            kept = min(self.clean_count, self._clean)
            seat = kept if kept < self._clean else int(self.fooled.argmin())
            self.fooled[seat] = np.inf  # not tried yet
            self.clean_count += 1
            place = self._damaged + seat
        self.labels[place, ..., 0] = IGNORED  # a kill in between leaves nothing false
        self.pixels[place] = crop.pixels
        self.labels[place] = crop.label

    def draw(self, count: int, rng: np.random.Generator, clean: float, hard: float) -> list[int]:
        """Return the places of a batch.

        Args:
            count: of crops.
            rng: decides.
            clean: share of clean crops.
            hard: share of the clean crops that is drawn from the tenth that fools most.
        """
        kept = min(self.clean_count, self._clean)
        worst = np.argsort(-self.fooled[:kept], kind="stable")[: max(1, kept // 10)]
        places = []
        for _ in range(count):
            if kept and rng.random() < clean:
                seat = rng.choice(worst) if rng.random() < hard else rng.integers(kept)
                places.append(self._damaged + int(seat))
            else:
                places.append(int(rng.integers(min(self.count, self._damaged))))
        return places

    def judged(self, place: int, fooled: float) -> None:
        """Learn how much a crop fooled the network; of clean ones alone it is kept."""
        if place >= self._damaged:
            self.fooled[place - self._damaged] = fooled

    def state(self) -> dict[str, Any]:
        """Return what is not on disk."""
        counts = {"count": self.count, "clean_count": self.clean_count}
        return counts | {"fooled": self.fooled.tolist()}

    def restore(self, saved: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        self.count, self.clean_count = saved["count"], saved["clean_count"]
        self.fooled = np.array(saved["fooled"])


def _map(path: Path, shape: tuple[int, ...]) -> Any:  # np.memmap
    if path.exists():
        found = np.load(path, mmap_mode="r+")
        if found.shape == shape:
            return found
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)


class Renderer:
    """A process that renders prints, one ahead of what is taken; it ends when this one does."""

    def __init__(self, sources: Sequence[Path], first: int, **how: Any) -> None:
        """Begin.

        Args:
            sources: of photographs.
            first: number of the first print.
            how: for `crops_of`.
        """
        self.number = first  # of the next print
        context = multiprocessing.get_context("spawn")
        self._crops, there = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_render, args=(there, list(sources), first, how), daemon=True
        )
        self._process.start()
        there.close()
        self._lock = threading.Lock()

    def next(self) -> list[Crop]:
        """Return the crops of the next print, waiting for it.

        Raises:
            BadData: if the process has ended.
        """
        try:
            with self._lock:
                found: list[Crop] = self._crops.recv()
        except (EOFError, OSError) as error:
            raise BadData("the process that renders training crops has ended") from error
        self.number += 1
        return found

    def ready(self) -> bool:
        """Say whether `next` need not wait."""
        return self._crops.poll()

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()
        self._crops.close()


def _render(out: Connection, sources: list[Path], first: int, how: dict[str, Any]) -> None:
    """Send the crops of print after print, for as long as somebody listens."""
    os.setsid()  # Ctrl-C is for the loop, which saves and then ends this process
    cv2.setNumThreads(1)
    files = read(sources, held_out=False)
    number = first
    while True:
        try:
            out.send(crops_of(files, number, **how))
        except (BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
            return
        number += 1


def renderings(
    sources: Sequence[Path], count: int, scales: tuple[float, float], settings: Settings
) -> Iterator[Damaged]:
    """Yield renderings of photographs that are kept for scores; always the same ones.

    Args:
        sources: of photographs.
        count: of renderings.
        scales: of the photographs.
        settings: how damage looks.
    """
    files = read(sources, held_out=True)
    for number in range(count):
        rng = np.random.default_rng([number])
        yield render(printed(files, rng, scales, SHORTEST), number, settings)
