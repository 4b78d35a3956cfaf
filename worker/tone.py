"""What can be done to the tones of a whole picture, where it is asked for: nothing is by default.

In: the samples of a picture whose hole is filled. Out: as many, as deep: 8 and 16 bits go the same
way, gray stays gray, and alpha has no part in it. Whatever the order in which steps are named, they
are taken in that of `inpaint.jobs.TONES`.

* denoise: bilateral filter, Tomasi and Manduchi 1998, as wide as the noise that is measured; a
  clean picture stays as it is.
* fade: each channel gets its black and white points back, and with them a cast goes.
* contrast: CLAHE of the luminance, Zuiderveld 1994; colours move with it. The library counts 16
  bits in 65,536 bins, in which no limit holds, so how far a pixel moves is found in 8.
"""

from collections.abc import Collection
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from inpaint.jobs import TONES, Tone
from inpaint.picture import Picture, Samples, in_eight
from inpaint.strips import strips

SEEN = 1_000_000  # samples of a channel that are looked at, about
# Percentiles that become black and white. Without a second step aged renderings of 24 photographs
# come closest to what they were: equal medians moved them away.
POINTS = (0.2, 99.8)
MOST_GAIN = 4.0  # of contrast that fading has taken: more would be noise
NOISE_KERNEL = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)  # Immerkær 1996
MEDIAN = 0.6745  # of the absolute value of a normal distribution
LEAST_NOISE = 0.8  # of 255; less is not worth a filter
# Of three photographs with noise of 3 and of 8 it takes 2 to 7 dB of it, as non-local means do,
# which take thirty times as long and know no 16 bits in colour.
ALIKE = 2.0  # standard deviations of the noise, for each channel
NEAR, REACH = 1.5, 2  # pixels: standard deviation of the distance, and how far is looked
CLIP, GRID = 1.5, 8  # CLAHE: how far a histogram may rise above its mean, tiles on a side


def toned(picture: Picture, steps: Collection[Tone]) -> Picture:
    """Take the steps that are asked for.

    Args:
        picture: stays as it is.
        steps: without any the picture itself comes back.
    """
    samples = picture.samples
    for step in TONES:
        if step in steps:
            samples = STEPS[step](samples, picture.alpha)
    return replace(picture, samples=samples) if steps else picture


def _fade(samples: Samples, alpha: Samples | None) -> Samples:
    """Give each channel its black and its white back."""
    planes = samples.reshape(*samples.shape[:2], -1)
    top = int(np.iinfo(samples.dtype).max)
    seen = _seen(planes, alpha) / top
    ends = _at_most(np.percentile(seen, POINTS, axis=0), MOST_GAIN)
    every = np.arange(top + 1) / top
    faded = np.empty_like(planes)
    for channel, (black, white) in enumerate(ends.T):
        table = ((every - black) / (white - black)).clip(0, 1)
        np.take(
            np.rint(table * top).astype(samples.dtype),
            planes[..., channel],
            out=faded[..., channel],
        )
    return faded.reshape(samples.shape)


def _contrast(samples: Samples, alpha: Samples | None) -> Samples:
    """Even out the luminance, and move each channel by as much."""
    eight = in_eight(samples)
    gray = eight if eight.ndim == 2 else cv2.cvtColor(eight, cv2.COLOR_RGB2GRAY)
    before = np.ascontiguousarray(gray, np.uint8)
    after = cv2.createCLAHE(CLIP, (GRID, GRID)).apply(before)
    top, moved = int(np.iinfo(samples.dtype).max), np.empty_like(samples)
    for rows in strips(*samples.shape[:2]):
        step = (after[rows].astype(np.int32) - before[rows]) * (top // 255)
        step = step if samples.ndim == 2 else step[..., None]
        moved[rows] = (samples[rows] + step).clip(0, top)
    return moved


def _denoise(samples: Samples, alpha: Samples | None) -> Samples:
    """Compare each pixel with others that look alike, as far as the noise is strong."""
    noise = _noise(samples)
    if noise * 255 < LEAST_NOISE * np.iinfo(samples.dtype).max:
        return samples
    planes = samples.reshape(*samples.shape[:2], -1)
    channels, calm = planes.shape[2], np.empty_like(planes)
    for rows in strips(*samples.shape[:2]):
        above = min(rows.start, REACH)
        part = planes[rows.start - above : rows.stop + REACH].astype(np.float32)
        wide = ALIKE * channels * noise
        found = cv2.bilateralFilter(part, 2 * REACH + 1, wide, NEAR).reshape(part.shape)
        calm[rows] = np.rint(found[above:][: len(calm[rows])])
    return calm.reshape(samples.shape)


STEPS = {"denoise": _denoise, "fade": _fade, "contrast": _contrast}


def _noise(samples: Samples) -> float:
    """Return the standard deviation of the noise of the luminance, in steps of its samples.

    The median over the picture: edges and texture are in the larger half.
    """
    gray = samples if samples.ndim == 2 else samples[..., 1]
    rough = cv2.filter2D(np.ascontiguousarray(gray), cv2.CV_32F, NOISE_KERNEL)
    step = max(1, round((rough.size / SEEN) ** 0.5))
    return float(np.median(np.abs(rough[::step, ::step]))) / (6 * MEDIAN)


def _seen(planes: Samples, alpha: Samples | None) -> NDArray[np.float64]:
    """Return some of the pixels that are not transparent, (N,C)."""
    step = max(1, round((planes[..., 0].size / SEEN) ** 0.5))
    some = planes[::step, ::step]
    if alpha is not None and (shown := alpha[::step, ::step] > 0).any():
        return some[shown].astype(np.float64)
    return some.reshape(-1, planes.shape[2]).astype(np.float64)


def _at_most(ends: NDArray[np.float64], gain: float) -> NDArray[np.float64]:
    """Move black and white points (2,C) apart until they lie 1 / `gain` from each other."""
    lack = np.maximum(0, 1 / gain - (ends[1] - ends[0])) / 2
    centre = ends.mean(axis=0).clip(lack, 1 - lack)
    half = np.maximum(ends[1] - ends[0], 1 / gain) / 2
    return np.stack((centre - half, centre + half))
