"""What `inpaint bench` serves in place of trained models; nothing else reaches it.

    python -m worker.standins work                    a worker with the stand-in of INPAINT_MODEL
    python -m worker.standins weights NAME FOLDER     a checkpoint with fresh weights

A stand-in fills with the pixels as they are, after a fixed time that leaves the cores free, as a
GPU does. All the rest of its worker is that of `inpaint worker`.
"""

import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inpaint.catalogue import Card
from inpaint.highres import SizeRule
from inpaint.settings import Settings, load
from models.checkpoint import SUFFIX, Header, save
from models.filler import Filler, Loaded
from models.registry import create

from .pipeline import Options
from .zoo import Zoo

SECONDS = {"noop": 0.0, "sleep": 0.008}  # of one window, by name of the stand-in
BATCH = 16  # windows of 512 px at once
TRAINED = 512  # pixels a side: a picture of this size is one window of the fresh networks
FRESH = {"fresh-aotgan": "aotgan", "fresh-compact": "aotgan-compact"}
OPTIONS = Options(refine="none")  # as of the requests that are compared with


class Standin(Filler):
    """A filler that computes nothing.

    Args:
        seconds: that one window takes.
    """

    rule = SizeRule(trained=TRAINED, whole=True)
    engine = "none"
    precision = "float32"
    batch_pixels = BATCH * TRAINED**2

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def warm(self) -> None:
        """Do nothing: the first run is as fast as the others."""

    def _compute(self, loaded: Loaded) -> tuple[NDArray[np.uint8], bool]:
        if self._seconds:
            time.sleep(self._seconds * len(loaded.pixels))
        return loaded.pixels.numpy(), True


def open_zoo(settings: Settings) -> Zoo:
    """Return the stand-in that is the default model, or else the models of `inpaint worker`."""
    name = settings.model
    if name not in SECONDS:
        return Zoo.load(settings)
    filler = Standin(SECONDS[name])
    return Zoo({name: filler}, {name: Card(name=name, architecture="none")}, engine="none")


def write_weights(name: str, folder: Path) -> None:
    """Write a checkpoint of a network of default size, untrained: speed needs no training."""
    generator = create(FRESH[name], {})
    rule = generator.rule
    generator.rule = SizeRule(multiple=rule.multiple, minimum=rule.minimum, trained=TRAINED)
    header = Header.of(generator, name=name, license="CC0-1.0")
    save(folder / f"{name}{SUFFIX}", generator, header)


def main(words: list[str]) -> None:
    """Run what the words ask for."""
    if words == ["work"]:
        from .commands import serve  # here, for the other users need no queue

        serve(load(), open_zoo)
    elif len(words) == 3 and words[0] == "weights":
        write_weights(words[1], Path(words[2]))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
