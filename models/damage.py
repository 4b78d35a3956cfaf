"""Finding damage: a picture in, probabilities for every pixel out, and of these a hole.

`Detector` is a network on a device, with the methods of a filler: windows in, and in the place of
fills probabilities uint8 (B,h,w,3) of line, speck and area, 255 = certain. `tiles` cuts a picture
into windows, `Probabilities` puts their answers together, `find` makes a hole of them.

Pictures whose long side is beyond 1600 pixels are searched at half their size as well: creases
are wider there than the network has seen. That pass adds areas, and lines where the first pass
has seen something. Above 4000 pixels both passes are at half of these sizes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inpaint.highres import Pixels, SizeRule, Window, read
from inpaint.mask import Hole

from . import checkpoint
from .checkpoint import Header
from .detector import SIDE, DamageUNet
from .engine import Precision
from .filler import Filler, fastest_filler
from .generator import Generator

LINE, SPECK, AREA = range(3)
Thresholds = tuple[float, float, float]  # at the sensitivities 0, 0.5 and 1

OVERLAP = 96  # pixels that neighbouring tiles share
STEP = 64  # sides of tiles are multiples of it: few sizes, so that batches form
GRID = 16  # pixels: tiles begin where the network's coarsest level has its pixels
TWICE = 1600  # pixels of the long side above which a second pass is at half size
HALVED = 4000  # above which the first pass is at half size
HINT = 77  # of 255: where the first pass has this, the second may add a line
LEVELS = 255

LOW = 0.5  # of the threshold: to here a hole goes on from where the threshold is reached
SMALLEST = 4  # pixels of a component
CERTAIN = 0.6  # of the threshold: mean probability of a component
JOINED = 4  # pixels between ends of lines in one direction
ENCLOSED = 12  # pixels of a gap within a hole, that is filled
GROWN = 2  # pixels by which a hole that was found grows before it is filled: what errs least


class Detector:
    """A copy of a detector on a device; a filler of `worker.forming` in its methods.

    Attributes:
        thresholds: for `find`.
        rule, batch_pixels, engine, precision, device: as of `models.filler.Filler`.
    """

    def __init__(
        self,
        network: DamageUNet,
        detection: checkpoint.Detection,
        device: str = "cpu",
        precision: Precision | None = None,
        engine: Literal["auto", "openvino", "torch"] = "auto",
    ) -> None:
        """Copy the network to the device; arguments as of `fastest_filler`."""
        filler = fastest_filler(_Painter(network, detection.temperature), device, precision, engine)
        self._filler: Filler = filler
        self.thresholds: Thresholds = detection.thresholds
        self.rule: SizeRule = filler.rule
        self.batch_pixels: int = filler.batch_pixels
        self.engine: str = filler.engine
        self.precision: Precision = filler.precision
        self.device: str = filler.device

    def load(self, pixels: NDArray[np.uint8], holes: NDArray[np.bool_]) -> Any:  # the filler's
        """Make windows (B,h,w,3) ready for `run`; holes (B,h,w) are ignored. In any thread."""
        return self._filler.load(pixels, holes)

    def run(self, loaded: Any) -> NDArray[np.uint8]:  # what `load` returned
        """Return probabilities (B,h,w,3), 255 = certain. In one thread.

        Raises:
            ModelFailed: if the network computes values that are not finite.
        """
        return self._filler.run(loaded)

    def __call__(self, pixels: NDArray[np.uint8], holes: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Return probabilities (B,h,w,3) of windows (B,h,w,3)."""
        return self.run(self.load(pixels, holes))

    def warm(self) -> None:
        """Search blank windows: the first of each size is slow."""
        self._filler.warm()

    def probabilities(self, pixels: Pixels) -> NDArray[np.uint8]:
        """Return the probabilities (H,W,3) of a whole picture (H,W,3), tile by tile."""
        plan = tiles(pixels)
        found = Probabilities(plan)
        for window in plan.windows:
            found.lay(self(*plan.inputs([window]))[0])
        return found.pixels()


def load_detector(
    path: Path,
    device: str = "cpu",
    precision: Precision | None = None,
    engine: Literal["auto", "openvino", "torch"] = "auto",
) -> tuple[Detector, Header]:
    """Return the detector of a checkpoint, on a device, and the checkpoint's header.

    Raises:
        BadCheckpoint: naming the file and the reason.
        StartFailed: if OpenVINO is asked for and does not take the network.
    """
    network, header = checkpoint.load_detector(path)
    assert header.detection is not None
    return Detector(network, header.detection, device, precision, engine), header


class _Painter(Generator):
    """A detector as fillers know networks: probabilities in the place of colours."""

    def __init__(self, network: DamageUNet, temperature: float) -> None:
        super().__init__()
        self.rule = network.rule
        self.network = network.folded()
        self.temperature = temperature

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Return probabilities (B,3,H,W) of an image, [0, 1] as [-1, 1]; the mask is ignored."""
        return torch.sigmoid(self.network(image).float() / self.temperature) * 2 - 1


# --- tiles ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Tiles:
    """A picture and the windows in which it is searched.

    Attributes:
        pixels: uint8 (H,W,3), RGB; only read.
        windows: those of the first pass, then those of the second; may reach beyond the picture.
        kept: the part (top, left, bottom, right) of the picture that each window answers for.
    """

    pixels: Pixels
    windows: tuple[Window, ...]
    kept: tuple[tuple[int, int, int, int], ...]

    def inputs(self, windows: Sequence[Window]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return pixels (B,h,w,3) and holes (B,h,w), all False, for windows of one size."""
        nothing = np.broadcast_to(np.False_, self.pixels.shape[:2])  # takes no memory
        seen = [read(self.pixels, nothing, window) for window in windows]
        return np.stack([pixels for pixels, _ in seen]), np.stack([hole for _, hole in seen])


def tiles(pixels: Pixels) -> Tiles:
    """Plan the tiles of a picture, uint8 (H,W,3); each is at most 640 pixels wide and high."""
    height, width = pixels.shape[:2]
    first = 2 if max(height, width) > HALVED else 1
    scales = (first, 2 * first) if max(height, width) > TWICE else (first,)
    windows, kept = [], []
    for scale in scales:
        for top, bottom, down in _spans(height, scale):
            for left, right, across in _spans(width, scale):
                box = down[0], across[0], down[1], across[1]
                size = (down[1] - down[0]) // scale, (across[1] - across[0]) // scale
                windows.append(Window(box, size))
                kept.append((top, left, bottom, right))
    return Tiles(pixels, tuple(windows), tuple(kept))


def _spans(length: int, scale: int) -> list[tuple[int, int, tuple[int, int]]]:
    """Divide an axis: (from, to) that a tile answers for, and (from, to) of the tile itself."""
    seen = -(-length // scale)
    count = max(1, -(-(seen - OVERLAP) // (SIDE - OVERLAP)))
    side = -(-(seen + (count - 1) * OVERLAP) // count)  # of even tiles
    side = -(-side // STEP) * STEP
    room = max(0, -(-(seen - side) // GRID))
    starts = [room * number // max(1, count - 1) * GRID for number in range(count)]
    middles = [(after + before + side) // 2 for before, after in pairwise(starts)]
    edges = [0, *(middle * scale for middle in middles), length]
    return [
        (*edge, (start * scale, (start + side) * scale))
        for edge, start in zip(pairwise(edges), starts, strict=True)
    ]


class Probabilities:
    """Puts the answers of tiles together; used as `inpaint.restore.Finish`."""

    def __init__(self, plan: Tiles) -> None:
        """Begin with none laid."""
        self.ending: Iterator[None] = iter(())  # nothing is left after the last one
        self._plan = plan
        self._found = np.zeros(plan.pixels.shape, np.uint8)
        self._laid = 0

    def lay(self, fill: NDArray[np.uint8]) -> None:
        """Lay the probabilities of the next window, uint8 (h,w,3), in the plan's order.

        Raises:
            ValueError: if all are laid already, or these are not of the window's size.
        """
        if self._laid == len(self._plan.windows):
            raise ValueError(f"a tile too many: there are {self._laid} windows")
        window = self._plan.windows[self._laid]
        if fill.shape != (*window.size, 3) or fill.dtype != np.uint8:
            raise ValueError(f"tile {fill.shape} {fill.dtype} for a window of {window.size}")
        top, left, bottom, right = self._plan.kept[self._laid]
        if window.scale != 1:
            size = window.box[3] - window.box[1], window.box[2] - window.box[0]
            fill = np.asarray(cv2.resize(fill, size, interpolation=cv2.INTER_LINEAR), np.uint8)
        rows = slice(top - window.box[0], bottom - window.box[0])
        part = fill[rows, left - window.box[1] : right - window.box[1]]
        below = self._found[top:bottom, left:right]
        if window.scale == self._plan.windows[0].scale:
            below[...] = part
        else:
            below[..., AREA] = np.maximum(below[..., AREA], part[..., AREA])
            hinted = below[..., LINE] >= HINT
            np.maximum(below[..., LINE], part[..., LINE], out=below[..., LINE], where=hinted)
        self._laid += 1

    def pixels(self) -> NDArray[np.uint8]:
        """Return the probabilities, uint8 (H,W,3): line, speck, area.

        Raises:
            ValueError: if tiles are missing.
        """
        if self._laid < len(self._plan.windows):
            raise ValueError(f"{self._laid} tiles for {len(self._plan.windows)} windows: too few")
        return self._found


# --- from probabilities to a hole -------------------------------------------------------------


def threshold(sensitivity: float, thresholds: Thresholds) -> float:
    """Return the least probability that counts as damage: linear in its logit between the three.

    Args:
        sensitivity: in [0, 1]; more finds more.
        thresholds: at 0, 0.5 and 1.
    """
    logits = [log(value / (1 - value)) for value in thresholds]
    return 1 / (1 + exp(-float(np.interp(sensitivity, (0, 0.5, 1), logits))))


def find(probabilities: NDArray[np.uint8], sensitivity: float, thresholds: Thresholds) -> Hole:
    """Return the hole, bool (H,W), that a picture's damage makes.

    Where the threshold is reached, and from there as far as half of it is. Components that are tiny
    or doubtful in the mean are dropped, ends of lines that face each other are joined, and small
    gaps within filled. A pixel's answer depends on no threshold taken from the picture.

    Args:
        probabilities: uint8 (H,W,3), of line, speck and area.
        sensitivity: in [0, 1].
        thresholds: of the detector.
    """
    least = threshold(sensitivity, thresholds) * LEVELS
    certain = probabilities.max(axis=2)
    hole = _components(certain, least)
    hole |= _joined(hole & (probabilities[..., LINE] >= certain))
    return _without_gaps(hole)


def _components(certain: NDArray[np.uint8], least: float) -> Hole:
    """Return the components above `LOW` of the threshold that reach it, and are no chance."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        (certain >= LOW * least).astype(np.uint8), connectivity=8
    )
    inside = np.flatnonzero(labels)
    members, values = labels.ravel()[inside], certain.ravel()[inside]
    reached = np.zeros(count, bool)
    reached[members[values >= least]] = True
    areas = stats[:, cv2.CC_STAT_AREA]
    means = np.bincount(members, values, count) / np.maximum(areas, 1)  # no ground: 0
    kept = reached & (areas >= SMALLEST) & (means >= CERTAIN * least)
    kept[0] = False
    return np.asarray(kept[labels], bool)


def _joined(lines: Hole) -> Hole:
    """Return what closes gaps between ends of lines, along eight directions."""
    marks, out = lines.astype(np.uint8), np.zeros(lines.shape, np.uint8)
    reach = JOINED // 2 + 1
    middle = (reach, reach)
    for turn in range(8):
        along = np.pi * turn / 8
        end = round(reach * np.cos(along)), round(reach * np.sin(along))
        element = np.zeros((2 * reach + 1, 2 * reach + 1), np.uint8)
        cv2.line(element, (reach - end[0], reach - end[1]), (reach + end[0], reach + end[1]), 1)
        out |= np.asarray(
            cv2.morphologyEx(marks, cv2.MORPH_CLOSE, element, anchor=middle), np.uint8
        )
    return out > 0


def _without_gaps(hole: Hole) -> Hole:
    """Fill gaps that the hole encloses, if they are small."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~hole).astype(np.uint8), connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] < ENCLOSED
    small[0] = True  # label 0 is the hole
    return np.asarray(small[labels], bool)
