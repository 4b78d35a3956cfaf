"""Score detection and filling together, on rendered damage: how much of what was lost comes back.

In: photographs, a detector, models. Out: `Repairs`, of the prints of one setting of the renderer.

The protocol. Each photograph is rendered as a damaged print; seeds count from 9000.
The hole that is found in it is grown and filled as the worker does it; so is the hole of the label,
which is what a perfect detector would find. All are compared with the truth, which the same print
is without damage: whole pictures by PSNR, SSIM and LPIPS, and, because most of a picture is known
anyway, by the mean absolute error in the zone around what is damaged or was found. The recovered
share is how much of the error goes, of what goes with the hole of the label and the first model.
The truth is repaired as well: there all that changes is harm.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from inpaint.highres import Filler
from inpaint.mask import Hole, grow
from inpaint.restore import restore
from models.damage import GROWN

from .damage import Damaged, render
from .evaluate import LPIPS_NAMES, central_square, compare
from .injuries import TRAIN, UNSEEN, Settings
from .lpips import LPIPS, Trunk

Pixels = NDArray[np.uint8]
Detect = Callable[[Pixels], Hole]  # from a picture (H,W,3) to its hole (H,W), not yet grown
Printing = Callable[[], Damaged]  # renders a damaged print

SETTINGS = {"seen": TRAIN, "unseen": UNSEEN}
FIRST_SEED = 9000
ZONE = 6  # pixels around damage, true or found
COMPARED = ("psnr", "ssim", *LPIPS_NAMES.values())  # of whole pictures


@dataclass(frozen=True)
class Way:
    """One way to deal with a damaged print, and what came of it.

    Attributes:
        hole: "none", nothing was filled; "found", by the detector; "true", that of the label.
        model: that filled it; "" for none.
        scores: means over the prints of `COMPARED`, as far as measured; `zone`, levels; and the
            shares `recovered`, of the zone's error, and `recovered_lpips`, which are absent where
            the true hole and the first model gain nothing.
    """

    hole: str
    model: str
    scores: dict[str, float]


@dataclass(frozen=True)
class Repairs:
    """What came of the prints.

    Attributes:
        prints: how many.
        damaged: share of their pixels.
        found: share of their pixels in the detected holes, before these are grown.
        flagged: the same of the clean prints.
        harm: mean absolute change of a clean print by its repair, levels.
        ways: leaving it, and each model with the hole found and the true one.
    """

    prints: int
    damaged: float
    found: float
    flagged: float
    harm: float
    ways: list[Way]


@dataclass(frozen=True)
class _Print:
    """What is counted of one print; arrays by way."""

    scores: list[dict[str, float]]
    errors: NDArray[np.int64]  # summed over the zone
    counts: NDArray[np.int64]  # zone, its samples; then pixels: all, damaged, found, flagged
    harm: int  # summed over the picture


def prints(
    photographs: Iterable[Pixels], settings: Settings, seed: int = FIRST_SEED
) -> list[Printing]:
    """Return what renders the print of each photograph, uint8 (H,W,3); none of them is clean.

    Seeds count from `seed`.
    """
    damaging = replace(settings, clean=0.0)
    return [
        partial(render, photograph, number, damaging)
        for number, photograph in enumerate(photographs, seed)
    ]


def measure(
    prints: Sequence[Printing],
    detect: Detect,
    fillers: Mapping[str, Filler],
    distances: Mapping[Trunk, LPIPS],
    *,
    workers: int = 1,
    progress: Callable[[], None] = lambda: None,
) -> Repairs:
    """Return how well a detector and models repair prints.

    Args:
        prints: called once each.
        detect: may be called by several threads.
        fillers: models by name; the first one's repair of the true hole recovers all.
        distances: LPIPS by the name of its network.
        workers: prints that are repaired at the same time.
        progress: called after each print.
    """
    found = []
    with ThreadPoolExecutor(workers) as pool:
        for each in pool.map(lambda one: _measure(one(), detect, fillers, distances), prints):
            found.append(each)  # in their order: sums stay the same
            progress()
    counts = np.sum([each.counts for each in found], axis=0)
    pixels = int(counts[1])
    damaged, holes, flagged = (counts[2:] / pixels).tolist()
    zone = np.sum([each.errors for each in found], axis=0) / max(counts[0], 1)
    names = [("none", ""), *((hole, model) for hole in ("found", "true") for model in fillers)]
    means = [
        {name: float(np.mean([row[name] for row in rows])) for name in COMPARED if name in rows[0]}
        for rows in zip(*(each.scores for each in found), strict=True)
    ]
    for mean, error in zip(means, zone.tolist(), strict=True):
        mean["zone"] = error
    best = means[names.index(("true", next(iter(fillers))))]
    for mean in means:
        for name, measured in (("recovered", "zone"), ("recovered_lpips", "lpips")):
            if measured in mean and best[measured] < means[0][measured]:
                mean[name] = recovered(means[0][measured], mean[measured], best[measured])
    return Repairs(
        prints=len(found),
        damaged=damaged,
        found=holes,
        flagged=flagged,
        harm=sum(each.harm for each in found) / (3 * pixels),
        ways=[Way(*name, mean) for name, mean in zip(names, means, strict=True)],
    )


def recovered(left: float, repaired: float, best: float) -> float:
    """Return how much of an error goes, of what can go: 0 as it was left, 1 as with the best."""
    return (left - repaired) / (left - best)


def repair(pixels: Pixels, hole: Hole, filler: Filler) -> Pixels:
    """Return the picture with the grown hole filled; as it is where no pixel would be known."""
    grown = grow(hole, GROWN)
    return pixels if grown.all() else restore(pixels, grown, filler)


def examples(
    prints: Sequence[Printing], detect: Detect, filler: Filler, count: int, side: int
) -> Iterator[list[Pixels]]:
    """Yield damaged, mask found, restored and truth of prints, squares (side,side,3).

    At most `count`, spread evenly.
    """
    count = min(count, len(prints))
    for place in range(count):
        damaged = prints[place * len(prints) // count]()
        hole = detect(damaged.image)
        mask = np.repeat(hole[..., None] * np.uint8(255), 3, axis=2)
        row = (damaged.image, mask, repair(damaged.image, hole, filler), damaged.truth)
        yield [central_square(pixels, side) for pixels in row]


def _measure(
    damaged: Damaged,
    detect: Detect,
    fillers: Mapping[str, Filler],
    distances: Mapping[Trunk, LPIPS],
) -> _Print:
    hole, alarm = detect(damaged.image), detect(damaged.truth)
    results = [damaged.image]
    for each in (hole, damaged.mask):
        results += [repair(damaged.image, each, filler) for filler in fillers.values()]
    zone = grow(hole | damaged.mask, ZONE)
    errors = [_change(damaged.truth, result)[zone].sum() for result in results]
    first = next(iter(fillers.values()))
    counts = [3 * zone.sum(), zone.size, damaged.mask.sum(), hole.sum(), alarm.sum()]
    return _Print(
        compare(damaged.truth, results, distances),
        np.array(errors, np.int64),
        np.array(counts, np.int64),
        int(_change(damaged.truth, repair(damaged.truth, alarm, first)).sum()),
    )


def _change(a: Pixels, b: Pixels) -> NDArray[np.int64]:
    """Return the absolute difference, levels summed over the colours, (H,W)."""
    return np.abs(a.astype(np.int64) - b).sum(axis=2)
