"""How well damage is found, against rendered damage whose every pixel is known.

In: maps of probability and `Damaged`, one after another. Out: `DamageScores`. Counts are summed
over all pictures, with one threshold for all, because a service has no other: a picture with much
damage counts for much. Only histograms over 256 levels are kept, whatever the number of pictures.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .damage import Damaged, render
from .injuries import FOOTPRINTS, KINDS, TRAIN, Settings

# Within about two pixels: what cv2.MORPH_ELLIPSE of 5x5 was when the classical detectors were first
# compared, written out, because its shape differs among versions of OpenCV.
TOLERANCE = np.array(
    [[0, 0, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 1, 0, 0]], np.uint8
)
LEVELS = 256

Counts = NDArray[np.int64]
Map = NDArray[np.floating] | NDArray[np.uint8] | NDArray[np.bool_]


@dataclass(frozen=True)
class Curve:
    """Precision and recall by threshold, and what follows from them.

    At threshold t, 1 to 255, a pixel is predicted if its level is t or more. Precision is the share
    of predicted pixels with damage within the tolerance, recall the share of damaged pixels with a
    prediction within the tolerance; ignored pixels are neither predicted nor damaged. Precision of
    no prediction is 0.

    Attributes:
        precision: (255,), of thresholds 1 to 255.
        recall: (255,).
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]

    @property
    def f1(self) -> NDArray[np.float64]:
        """The harmonic mean of precision and recall, (255,); 0 where both are."""
        total = np.maximum(self.precision + self.recall, 1e-12)
        return 2 * self.precision * self.recall / total

    @property
    def average_precision(self) -> float:
        """The area under the best precision that is had at each recall or more.

        Recall that no threshold reaches counts as precision 0.
        """
        order = np.argsort(self.recall, kind="stable")
        best = np.maximum.accumulate(self.precision[order][::-1])[::-1]
        return float(np.sum(np.diff(self.recall[order], prepend=0) * best))

    @property
    def best_threshold(self) -> int:
        """The threshold with the highest F1, 1 to 255."""
        return int(np.argmax(self.f1)) + 1


class _Tally:
    """Counts behind a curve, (256,) by level."""

    def __init__(self) -> None:
        self.predicted, self.right, self.found = (np.zeros(LEVELS, np.int64) for _ in range(3))

    def add(
        self, levels: NDArray[np.uint8], mask: NDArray[np.bool_], ignore: NDArray[np.bool_]
    ) -> NDArray[np.uint8]:
        """Count one picture; return the highest level within the tolerance, (H,W)."""
        near = _widened(mask.astype(np.uint8)) > 0
        self.predicted += _histogram(levels[~ignore])
        self.right += _histogram(levels[near & ~ignore])
        highest = _widened(np.where(ignore, 0, levels).astype(np.uint8))
        self.found += _histogram(highest[mask])
        return highest

    def curve(self) -> Curve:
        predicted, right, found = map(_at_least, (self.predicted, self.right, self.found))
        damaged = max(int(self.found.sum()), 1)
        return Curve(right / np.maximum(predicted, 1), found / damaged)


class DamageScores:
    """What is counted of a detector's maps."""

    def __init__(self) -> None:
        self._all, self._thin = _Tally(), _Tally()
        self._kinds = np.zeros((len(KINDS), LEVELS), np.int64)
        self._clean = np.zeros(LEVELS, np.int64)

    def add(self, probability: Map, damaged: Damaged) -> None:
        """Count the map of a damaged picture.

        Args:
            probability: (H,W); float in [0, 1], uint8 with 255 = certain, or bool, a hole.
            damaged: the picture, with its label.

        Raises:
            ValueError: if the two differ in size, or the map has another type or range.
        """
        levels = to_levels(probability, damaged.mask.shape)
        highest = self._all.add(levels, damaged.mask, damaged.ignore)
        for number in np.unique(damaged.kind[damaged.mask]):
            self._kinds[number] += _histogram(highest[damaged.kind == number])
        area = areas(damaged)
        self._thin.add(levels, damaged.mask & ~area, damaged.ignore | area)

    def add_clean(self, probability: Map) -> None:
        """Count the map of a picture without damage."""
        self._clean += _histogram(to_levels(probability, probability.shape))

    @property
    def all(self) -> Curve:
        """The curve of all damage."""
        return self._all.curve()

    @property
    def thin(self) -> Curve:
        """The curve of lines, specks and stains: peel, wear and tear are ignored, with a rim."""
        return self._thin.curve()

    def recall_by_kind(self, threshold: int) -> dict[str, float]:
        """Return the share found, within the tolerance, of each kind that was met.

        Args:
            threshold: 1 to 255.
        """
        return {
            kind: float(counts[threshold:].sum() / counts.sum())
            for kind, counts in zip(KINDS, self._kinds, strict=True)
            if counts.any()
        }

    def flagged(self, threshold: int) -> float:
        """Return the share of clean pictures that is predicted at a threshold, 1 to 255."""
        return float(self._clean[threshold:].sum() / max(int(self._clean.sum()), 1))


def score(
    detect: Callable[[NDArray[np.uint8]], Map],
    photographs: Iterable[NDArray[np.uint8]],
    seeds: Iterable[int],
    settings: Settings = TRAIN,
) -> DamageScores:
    """Score a detector on renderings of photographs, damaged and clean.

    Args:
        detect: from pixels uint8 (H,W,3) to a map (H,W), as `DamageScores.add` takes it.
        photographs: undamaged ones, uint8 (H,W,3), not those that it was trained on.
        seeds: one for each photograph; the clean rendering has the ageing of the damaged one.
        settings: how damage looks.
    """
    scores = DamageScores()
    for photograph, seed in zip(photographs, seeds, strict=True):
        damaged = render(photograph, seed, settings)
        scores.add(detect(damaged.image), damaged)
        scores.add_clean(detect(damaged.truth))
    return scores


def areas(damaged: Damaged) -> NDArray[np.bool_]:
    """Return where peel, wear and tear are, with a rim of the tolerance, (H,W)."""
    footprint = np.isin(damaged.kind, [KINDS.index(kind) for kind in FOOTPRINTS])
    return _widened(footprint.astype(np.uint8)) > 0


def to_levels(probability: Map, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return a map as levels 0 to 255, rounded down, so that level t means at least t / 255.

    Raises:
        ValueError: if its shape is another, or its type or range is none of a map's.
    """
    if probability.shape != shape or probability.ndim != 2:
        raise ValueError(f"a map {probability.shape} of a picture {shape}")
    if probability.dtype == np.uint8:
        return probability.astype(np.uint8)
    if probability.dtype == np.bool_:
        return probability.astype(np.uint8) * np.uint8(255)
    values = probability.astype(np.float64) * 255
    if not (values.min() >= 0 and values.max() <= 255):  # false for not-a-number too
        raise ValueError(f"probabilities from {values.min() / 255} to {values.max() / 255}")
    return values.astype(np.uint8)


def _widened(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the highest value within the tolerance."""
    return np.asarray(cv2.dilate(values, TOLERANCE), np.uint8)


def _histogram(levels: NDArray[np.uint8]) -> Counts:
    return np.bincount(levels.ravel(), minlength=LEVELS)


def _at_least(counts: Counts) -> Counts:
    """Return how many have level t or more, for t of 1 to 255, (255,)."""
    return np.cumsum(counts[::-1])[::-1][1:]
