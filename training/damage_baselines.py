"""Classical detectors of damage: what a learned one has to beat.

Each takes pixels uint8 (H,W,3) and returns float32 (H,W) in [0, 1], higher where damage is more
likely: an order, not a calibrated probability.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from .ageing import LUMA
from .drawing import Plane, blur

SIZES = ((3, 1.3), (5, 1.1), (9, 0.9), (15, 0.7))  # width, pixels, and weight: wide is commoner
DARK = 0.7  # weight of dark damage, which is rarer
MEDIAN = 11  # pixels
FLOOR = 3.0  # levels; contrast below it is noise
SIGMAS = (0.9, 1.8)  # half widths of lines, pixels
ANGLES = 8


def top_hat(pixels: NDArray[np.uint8]) -> Plane:
    """White and black top-hats over local contrast: small things lighter or darker than around."""
    grey = _grey(pixels)
    return _squashed(np.maximum(_white(grey), DARK * _white(-grey)) / _contrast(grey), 3)


def white_top_hat(pixels: NDArray[np.uint8]) -> Plane:
    """The white top-hat over local contrast: small things lighter than around."""
    grey = _grey(pixels)
    return _squashed(_white(grey) / _contrast(grey), 3)


def median_difference(pixels: NDArray[np.uint8]) -> Plane:
    """The difference from the median of the neighbourhood, as films are often despeckled."""
    grey = _grey(pixels)
    middle = cv2.medianBlur(grey.round().astype(np.uint8), MEDIAN)
    return _squashed(np.abs(grey - middle), 30)


def oriented_lines(pixels: NDArray[np.uint8]) -> Plane:
    """Long thin second derivatives in eight directions, over local contrast."""
    grey = _grey(pixels)
    light, dark = np.zeros_like(grey), np.zeros_like(grey)
    for sigma in SIGMAS:
        for angle in np.arange(ANGLES) * np.pi / ANGLES:
            answer = cv2.filter2D(grey, -1, _line(sigma, angle), borderType=cv2.BORDER_REFLECT)
            light, dark = np.maximum(light, answer), np.maximum(dark, -answer)
    return _squashed(np.maximum(light, DARK * dark) / _contrast(grey), 3)


BASELINES: dict[str, Callable[[NDArray[np.uint8]], Plane]] = {
    "top-hat / local contrast": top_hat,
    "white top-hat / local contrast": white_top_hat,
    "median difference": median_difference,
    "oriented lines / local contrast": oriented_lines,
}


def _grey(pixels: NDArray[np.uint8]) -> Plane:
    return blur(pixels.astype(np.float32) @ LUMA, 0.5)


def _contrast(grey: Plane) -> Plane:
    """Return the mean difference from a blur, over 31 px, never 0."""
    return np.asarray(cv2.blur(np.abs(grey - blur(grey, 3)), (31, 31)) + FLOOR, np.float32)


def _white(grey: Plane) -> Plane:
    """Return how much lighter than what is left of discs of four sizes, levels."""
    best = np.zeros_like(grey)
    for side, weight in SIZES:
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        best = np.maximum(best, weight * cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, disc))
    return best


def _line(sigma: float, angle: float) -> Plane:
    """Return a kernel: a second derivative across, a Gaussian three times as wide along."""
    reach = int(np.ceil(6 * sigma))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    across, along = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    kernel = (1 - (across / sigma) ** 2) * np.exp(
        -((across / sigma) ** 2 + (along / sigma / 3) ** 2) / 2
    )
    kernel -= kernel.mean()
    return (kernel / np.abs(kernel).sum() * 2).astype(np.float32)


def _squashed(values: NDArray[np.floating], middle: float) -> Plane:
    """Return values of 0 and more in [0, 1), 0.5 at `middle`."""
    return (values / (values + middle)).astype(np.float32)
