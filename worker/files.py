"""Picture files as the stages see them, and how each has ended, in the words of the report."""

import logging
import math
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from inpaint import disk, journal
from inpaint.disk import DiskFull
from inpaint.errors import (
    InpaintError,
    Internal,
    OutOfMemory,
)
from inpaint.header import Limits
from inpaint.highres import Pixels
from inpaint.journal import Journal
from inpaint.progress import Tally
from inpaint.report import Item, note_end
from inpaint.settings import Settings
from models.filler import out_of_memory

from .batching import Batching
from .forming import Pass
from .pipeline import Options, Restoration
from .zoo import Zoo

log = logging.getLogger("inpaint.worker")


class Stopped(Exception):
    """Another picture has failed, and none is to be worked on any more."""


@dataclass(frozen=True)
class Work:
    """What the pictures of one run share.

    Attributes:
        zoo: holds the model.
        model: its name.
        options: what is done to each picture.
        digest: of all that decides what a result looks like, as `inpaint.journal.digest`.
        limits: for the files.
        journal: of the folder of the results; None: the result is one file by name, and an empty
            mask is refused.
        ended: those that have.
        stopped: no more are to be worked on.
    """

    zoo: Zoo
    model: str
    options: Options
    digest: str
    limits: Limits
    journal: Journal | None
    ended: SimpleQueue[Item] = field(default_factory=SimpleQueue)
    stopped: threading.Event = field(default_factory=threading.Event)


class FileTask:
    """A picture of this run as the stages see it."""

    urgent = False
    alone = False

    def __init__(self, item: Item, work: Work) -> None:
        self.model = work.model
        self._item, self._work = item, work
        self._inputs: dict[str, Any] = {}
        blank = work.journal is not None
        self._restoration = Restoration(
            work.zoo, work.model, work.options, work.limits, blank=blank
        )

    def check(self) -> None:
        """Raise Stopped."""
        if self._work.stopped.is_set():
            raise Stopped

    def fetch(self) -> int:
        """Read the files; return the pixels of the picture."""
        pair, limits = self._item.pair, self._work.limits
        if isinstance(pair.mask, InpaintError):
            raise pair.mask
        self._inputs = journal.of(pair, self._work.digest)
        image = disk.read(pair.image, limits, "image")
        return self._restoration.take(
            image, disk.read(pair.mask, limits, "mask") if pair.mask else None
        )

    def open(self) -> Pass:
        """Decode and plan."""
        return self._restoration.open()

    def close(self, pixels: Pixels, *, infer: float, lay: float) -> Pass | None:
        """Go on to the next pass; after the last, write what has come of it."""
        following = self._restoration.close(pixels, infer=infer, lay=lay)
        if (done := self._restoration.restored) is not None:
            self._item.write(done.data, done.facts(), self._work.journal, self._inputs)
        return following

    def end(self, error: Exception | None) -> None:
        """Hand on how it has ended."""
        self._restoration.drop()
        if error is not None and not isinstance(error, Stopped):
            self._item.refusal = _refusal(error)
        self._work.ended.put(self._item)


def work_through(
    items: Sequence[Item], work: Work, settings: Settings, *, keep_going: bool
) -> None:
    """Take the items through the stages, and tell of each that ends.

    Args:
        items: of which none has ended.
        work: what they share.
        settings: of the stages.
        keep_going: whether others are worked on after one that fails.

    Raises:
        KeyboardInterrupt: at Ctrl-C; what is done by then is written.
        DiskFull: there is no room for results; items that found none have not ended.
    """
    full: list[DiskFull] = []
    stages = Batching(
        work.zoo.everything,
        batch_seconds=settings.batch_seconds,
        most_pixels=settings.max_pixels,
    )
    with closing(stages), Tally(len(items)) as tally:

        def note(item: Item) -> None:
            if isinstance(item.refusal, DiskFull):
                full.append(item.refusal)
                item.refusal = None
                work.stopped.set()
                return
            note_end(tally, item)
            if item.refusal is not None and not keep_going:
                work.stopped.set()

        try:
            _feed(items, work, stages, note)
        except KeyboardInterrupt:
            work.stopped.set()
            raise
    if full:
        raise full[0]


def _feed(
    items: Sequence[Item], work: Work, stages: Batching, note: Callable[[Item], None]
) -> None:
    """Give the stages as many as they have room for; `note` each that has ended."""
    waiting, under_way = list(reversed(items)), 0
    while under_way or (waiting and not work.stopped.is_set()):
        while waiting and not work.stopped.is_set() and stages.room(0)[1]:
            stages.put(FileTask(waiting.pop(), work))
            under_way += 1
        try:
            note(work.ended.get(timeout=1))
            under_way -= 1
        except Empty:
            if math.isinf(stages.stalled()):
                raise RuntimeError("a thread of the stages has died") from None


def _refusal(error: Exception) -> InpaintError:
    if out_of_memory(error):
        return OutOfMemory("The picture did not fit into memory.")
    if isinstance(error, InpaintError):
        return error
    log.error("a bug of ours", exc_info=error)
    return Internal(f"{type(error).__name__}: {error}")
