"""What turns a detector's logits into probabilities, and a user's sensitivity into a threshold.

In: a trained network and renderings of photographs that it was not trained on. Out: a `Detection`
for the checkpoint's header: one temperature, and the thresholds at the sensitivities 0, 0.5 and 1.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from models.checkpoint import Detection
from models.damage import LEVELS, find
from models.detector import DamageUNet
from models.filler import padding
from models.tensors import to_image

from . import crops
from .damage import Damaged
from .damage_scores import DamageScores
from .injuries import TRAIN, UNSEEN

PRECISE = 0.95  # precision at sensitivity 0
THOROUGH = 0.95  # recall at sensitivity 1
FLAGGED = 0.001  # share of clean prints at sensitivity 0.5, at most
# of clean prints, those flagged least: a thin drawn border costs more than all others together,
# and would leave nothing to be found on prints that have none
COUNTED = 0.9
TEMPERATURES = np.geomspace(0.25, 4, 65)
THRESHOLDS = (1 / (1 + np.exp(-np.linspace(-2.5, 4.25, 19)))).tolist()  # tried; even in logits
EDGES = np.linspace(-30, 30, 1201)  # of the histogram of logits


SEEN = 12  # renderings
UNSEEN_COUNT = 20
SCALES = (1.0, 2.0)  # of their photographs


def of_held_out(network: DamageUNet, sources: Sequence[Path]) -> Detection:
    """Calibrate a network on renderings of the photographs that its training has kept out."""
    network = network.eval()
    counts = {TRAIN: SEEN, UNSEEN: UNSEEN_COUNT}
    seen, unseen = (
        [
            answer(network, damaged)
            for damaged in crops.renderings(sources, count, SCALES, settings=settings)
        ]
        for settings, count in counts.items()
    )
    return calibrate(seen, unseen)


@dataclass(frozen=True)
class Answer:
    """A rendering and a network's logits for it, float32 (H,W,3); likewise for its truth."""

    damaged: Damaged
    found: NDArray[np.float32]
    clean: NDArray[np.float32]


@torch.no_grad()
def answer(network: DamageUNet, damaged: Damaged) -> Answer:
    """Return what a network (in eval mode) says to a rendering, as a whole."""
    logits = [_logits(network, pixels) for pixels in (damaged.image, damaged.truth)]
    return Answer(damaged, *logits)


def _logits(network: DamageUNet, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    height, width = pixels.shape[:2]
    down, right = padding(height, width, network.rule)
    image = F.pad(to_image(pixels[None]), (0, right, 0, down), mode="reflect")
    logits: NDArray[np.float32] = network(image)[0].permute(1, 2, 0).numpy()
    return np.ascontiguousarray(logits[:height, :width])


def calibrate(seen: Iterable[Answer], unseen: Sequence[Answer]) -> Detection:
    """Return the temperature that `seen` settings ask for, and thresholds by `unseen` ones."""
    temperature = best_temperature(seen)
    table = [_tried(unseen, temperature, threshold) for threshold in THRESHOLDS]
    precision, recall, flagged = (np.array(column) for column in zip(*table, strict=True))
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    low = len(THRESHOLDS) - 1
    precise = np.flatnonzero(precision >= PRECISE)
    strict = int(precise[0]) if len(precise) else int(precision.argmax())
    allowed = np.flatnonzero(flagged <= FLAGGED)
    usual = int(allowed[f1[allowed].argmax()]) if len(allowed) else low
    thorough = np.flatnonzero(recall >= THOROUGH)
    eager = int(thorough[-1]) if len(thorough) else 0
    strict, eager = max(strict, usual), min(eager, usual)
    thresholds = (THRESHOLDS[strict], THRESHOLDS[usual], THRESHOLDS[eager])
    return Detection(temperature=temperature, thresholds=thresholds)


def best_temperature(answers: Iterable[Answer]) -> float:
    """Return the divisor of logits that makes their probabilities the most likely."""
    counts = np.zeros((2, len(EDGES) - 1))
    for one in answers:
        highest = one.found.max(axis=2).clip(EDGES[0], EDGES[-1])
        counted = ~one.damaged.ignore
        for damaged in (False, True):
            chosen = highest[counted & (one.damaged.mask == damaged)]
            counts[int(damaged)] += np.histogram(chosen, EDGES)[0]
    middles = (EDGES[1:] + EDGES[:-1]) / 2
    losses = [
        (counts[0] * np.logaddexp(0, middles / t) + counts[1] * np.logaddexp(0, -middles / t)).sum()
        for t in TEMPERATURES
    ]
    return float(TEMPERATURES[int(np.argmin(losses))])


def probabilities(logits: NDArray[np.float32], temperature: float) -> NDArray[np.uint8]:
    """Return probabilities uint8 (H,W,3), 255 = certain, as a detector on a device does."""
    return np.asarray((LEVELS / (1 + np.exp(-logits / temperature))).round(), np.uint8)


def _tried(
    answers: Sequence[Answer], temperature: float, threshold: float
) -> tuple[float, float, float]:
    """Return precision and recall of the holes at a threshold, and the share of clean prints."""
    scores, shares = DamageScores(), []
    for one in answers:
        holes = [
            find(probabilities(logits, temperature), 0.5, (threshold, threshold, threshold))
            for logits in (one.found, one.clean)
        ]
        scores.add(holes[0], one.damaged)
        shares.append(float(holes[1].mean()))
    curve, least = scores.all, sorted(shares)[: max(1, round(COUNTED * len(shares)))]
    return float(curve.precision[-1]), float(curve.recall[-1]), float(np.mean(least))
