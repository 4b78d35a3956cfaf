"""A batch in the model thread: its fills, and whose fault it is when there are none.

A batch that raises is filled again one window at a time, one that does not fit into memory in
halves: only tasks whose windows raise alone are ended. When the device itself has failed, none is:
the error is raised, and other workers have to fill them.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inpaint.errors import InpaintError, ModelFailed, OutOfMemory
from inpaint.highres import Pixels
from models.filler import device_failed, out_of_memory

from .forming import Filler, Work

log = logging.getLogger("inpaint.worker")


@dataclass(eq=False)
class Filling:
    """Windows that were read, on their way through a filler.

    Attributes:
        model: the filler's name.
        owners: the task of each window.
        pixels: uint8 (B,h,w,3).
        holes: bool (B,h,w).
        loaded: what the filler has made of them; None: not yet, or that raised.
        fills: of each window, uint8 (h,w,3); None: its task has ended.
        seconds: that all of them took at once; None: they raised.
        too_large: pixels of the smallest part that did not fit into memory and was divided.
    """

    model: str
    filler: Filler
    owners: list[Work]
    pixels: NDArray[np.uint8]
    holes: NDArray[np.bool_]
    loaded: Any = None  # the filler's own affair
    fills: list[Pixels | None] = field(default_factory=list)
    seconds: float | None = None
    too_large: int | None = None

    def run(
        self, goes_on: Callable[[Work], bool], end: Callable[[Work, InpaintError], None]
    ) -> None:
        """Fill all windows.

        Args:
            goes_on: says whether a task is still wanted.
            end: ends a task whose window cannot be filled.
        """
        self.fills = [None] * len(self.owners)
        parts = [(0, len(self.owners))]
        while parts:
            start, stop = parts.pop(0)
            if not any(goes_on(work) for work in self.owners[start:stop]):
                continue
            refusal = self._try(start, stop)
            if refusal is None:
                continue
            if stop - start == 1:
                end(self.owners[start], refusal)
                continue
            step = 1
            if isinstance(refusal, OutOfMemory):
                self.too_large = (stop - start) * math.prod(self.pixels.shape[1:3])
                step = (stop - start + 1) // 2
            parts += [(first, min(first + step, stop)) for first in range(start, stop, step)]

    def _try(self, start: int, stop: int) -> InpaintError | None:
        """Fill some windows at once; return why that failed.

        The error itself is not kept: it holds what the frames that it went through hold, tensors
        on the device too.
        """
        loaded, self.loaded = self.loaded, None  # of all; used once
        try:
            if loaded is None:
                loaded = self.filler.load(self.pixels[start:stop], self.holes[start:stop])
            began = time.monotonic()
            fills = self.filler.run(loaded)
            if len(fills) != stop - start:
                raise ValueError(f"{len(fills)} fills for {stop - start} windows")
        except Exception as error:
            if device_failed(error):  # no fault of any picture: the thread dies, then the process
                raise
            if stop - start == 1:
                log.exception("%s raised, given windows %s", self.model, self.pixels.shape)
            else:
                log.warning("%s raised, given %d windows: %s", self.model, stop - start, error)
            return _refusal(error, self.pixels.shape[1:3])
        self.fills[start:stop] = fills
        if stop - start == len(self.owners):
            self.seconds = time.monotonic() - began
        return None


def _refusal(error: Exception, size: tuple[int, ...]) -> InpaintError:
    """Say to a user why a window could not be filled."""
    if out_of_memory(error):
        return OutOfMemory(f"A window of {size[1]} x {size[0]} pixels did not fit into memory.")
    if isinstance(error, InpaintError):
        return type(error)(error.detail, field=error.field)
    return ModelFailed(
        f"The model failed on this picture ({type(error).__name__}); another one may not."
    )
