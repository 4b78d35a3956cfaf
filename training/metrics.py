"""How far a restored picture is from the photograph: PSNR, SSIM and both L1 of whole pictures.

In: two pixel arrays uint8 (H,W,3) of one shape. Out: one number. LPIPS is in `lpips.py`, the
distance between whole sets of pictures in `frechet.py`.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

PEAK = 255.0  # levels
PSNR_OF_EQUALS = 100.0  # dB; infinite by the formula, which no mean and no JSON survives
SSIM_SIGMA = 1.5  # pixels; Wang et al. 2004, section III-B, as the three constants below
SSIM_RADIUS = 5  # pixels: a window of 11x11
SSIM_K1 = 0.01
SSIM_K2 = 0.03

Pixels = NDArray[np.uint8]


def l1(a: Pixels, b: Pixels) -> float:
    """Return the mean absolute difference in [0, 1]: levels / 255."""
    _check(a, b)
    return float(np.abs(a.astype(np.int16) - b).mean() / PEAK)


def l1_relative(a: Pixels, b: Pixels) -> float:
    """Return sum |a - b| / sum (a + b) in [0, 1], as AOT-GAN's evaluation has it under `mae`.

    Against `l1` it is larger the darker the pictures are. Two black pictures have 0.
    """
    _check(a, b)
    total = int(a.sum(dtype=np.int64) + b.sum(dtype=np.int64))
    return float(np.abs(a.astype(np.int16) - b).sum(dtype=np.int64) / max(total, 1))


def psnr(a: Pixels, b: Pixels) -> float:
    """Return the peak signal-to-noise ratio in dB, at most 100, which equal pictures have."""
    _check(a, b)
    error = float(np.square(a.astype(np.float64) - b).mean())
    if error == 0:
        return PSNR_OF_EQUALS
    return min(10 * math.log10(PEAK**2 / error), PSNR_OF_EQUALS)


def ssim(a: Pixels, b: Pixels) -> float:
    """Return the structural similarity, at most 1 (Wang et al. 2004, doi 10.1109/TIP.2003.819861).

    Gaussian window 11x11 with sigma 1.5 that stays inside the picture, population covariance, each
    colour channel by itself, then the mean over places and channels.

    Raises:
        ValueError: if the shapes differ, or a side is shorter than the window.
    """
    _check(a, b)
    if min(a.shape[:2]) <= 2 * SSIM_RADIUS:
        raise ValueError(f"SSIM needs at least 11x11 pixels, not {a.shape[1]}x{a.shape[0]}")
    x, y = a.astype(np.float64), b.astype(np.float64)
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    variance_x = _window_mean(x * x) - mean_x**2
    variance_y = _window_mean(y * y) - mean_y**2
    covariance = _window_mean(x * y) - mean_x * mean_y
    c1, c2 = (SSIM_K1 * PEAK) ** 2, (SSIM_K2 * PEAK) ** 2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    return float(similarity.mean())


def _window_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Gaussian mean at each place whose window lies inside, (H-10,W-10,3)."""
    side = 2 * SSIM_RADIUS + 1
    blurred = np.asarray(cv2.GaussianBlur(values, (side, side), SSIM_SIGMA), np.float64)
    return blurred[SSIM_RADIUS:-SSIM_RADIUS, SSIM_RADIUS:-SSIM_RADIUS]


def _check(a: Pixels, b: Pixels) -> None:
    if a.shape != b.shape or a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ValueError(f"{a.shape} {a.dtype} and {b.shape} {b.dtype} cannot be compared")
