"""The bare loop that `inpaint bench serve` compares with: `generator(batch)`, nothing around it.

    python -m worker.bare IMAGE MASK

The model is that of INPAINT_MODEL, on the same engine as in `inpaint worker`. The windows of the
picture are read once, and a batch is loaded once. Each line on stdin asks to run it again and again
for so many seconds; it is answered by a line of JSON: `images_per_second`, `windows` (of one
picture), `batch` (windows at once), `engine`, `precision`.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from inpaint.settings import load

from .pipeline import Restoration
from .standins import OPTIONS, open_zoo


def main(image: Path, mask: Path) -> None:
    """Answer the lines on stdin."""
    settings = load()
    zoo = open_zoo(settings)
    filler = zoo.filler(settings.model)
    restoration = Restoration(zoo, settings.model, OPTIONS, settings.limits)
    restoration.take(image.read_bytes(), mask.read_bytes())
    plan = restoration.open().plan
    windows = plan.windows
    height, width = windows[0].size
    batch = max(1, filler.batch_pixels // (height * width))
    pixels, holes = plan.inputs(windows[:batch])
    repeats = -(-batch // len(pixels))
    loaded = filler.load(
        np.tile(pixels, (repeats, 1, 1, 1))[:batch], np.tile(holes, (repeats, 1, 1))[:batch]
    )
    filler.run(loaded)
    for line in sys.stdin:
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < float(line):
            filler.run(loaded)
            count += batch
        rate = count / (time.perf_counter() - began) / len(windows)
        facts = {"windows": len(windows), "batch": batch, "engine": filler.engine}
        facts |= {"precision": filler.precision, "images_per_second": rate}
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
