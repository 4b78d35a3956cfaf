"""A pile of damaged prints for `inpaint bench album`, made of a few photographs.

    python -m training.scans PHOTOGRAPHS SCANS COUNT

In: a folder of photographs. Out: COUNT different JPEG files in the folder SCANS. Damage is rendered
once for each photograph; further scans are its turns and mirror images, the next ones a little
cropped, every third in gray. Masks of the true damage lie beside them in SCANS-masks.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .damage import render

SEED = 20_000
WAYS = 8  # a picture may lie: four turns, of it and of its mirror image
CROP = 16  # pixels less for each further round
GRAY_EVERY = 3
QUALITY = 92  # of JPEG


def main(photographs: Path, scans: Path, count: int) -> None:
    """Write the files."""
    masks = scans.with_name(f"{scans.name}-masks")
    for folder in (scans, masks):
        folder.mkdir()
    files = sorted(photographs.iterdir())
    for place, file in enumerate(files):
        with Image.open(file) as image:
            damaged = render(np.asarray(image.convert("RGB")), SEED + place)
        for number in range(place, count, len(files)):
            turn = number // len(files)
            pixels = _turned(damaged.image, turn)
            scan = Image.fromarray(pixels)
            scan = scan.convert("L") if number % GRAY_EVERY == 0 else scan
            scan.save(scans / f"scan-{number:04}.jpg", quality=QUALITY)
            mask = _turned(damaged.mask.astype(np.uint8) * np.uint8(255), turn)
            cv2.imwrite(str(masks / f"scan-{number:04}.png"), mask)


def _turned(samples: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    """The same picture, in so many ways."""
    crop = CROP * (turn // WAYS)
    turned = np.rot90(samples[crop:, crop:], turn % 4)
    return np.ascontiguousarray(turned[::-1] if turn // 4 % 2 else turned)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
