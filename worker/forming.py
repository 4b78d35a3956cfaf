"""Which windows make the next batch. No threads here: `worker.batching` calls this under its lock.

A task goes through passes, each with a model and windows of its own: one that finds the hole, one
that fills it. A batch holds windows of one model and one size, whichever pass their tasks are in.
Those of the interactive lane go first, taken in turn from its tasks, but every fourth batch begins
with an album's. Of those the oldest goes on until it has ended: it holds a whole picture. A batch
is no larger than its filler finds worth giving at once, than has fitted into memory, and, while
interactive tasks are under way, than is filled in a short time: who comes next waits for it.
"""

import math
import time
from bisect import insort
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from inpaint.highres import Pixels, Window

TURNS = 4  # of so many batches one begins with an album's windows
RECENT_SECONDS = 1.0  # after an interactive task has ended, batches are still kept short
FORGET = 1.05  # a filler may become slower by this from batch to batch, to be believed at once
NEWEST = 0.2  # weight of the newest of a mean


class Filler(Protocol):
    """What is needed of a model; `models.filler` and `models.damage` have them."""

    batch_pixels: int  # worth giving at once

    def load(self, pixels: NDArray[np.uint8], holes: NDArray[np.bool_]) -> Any:  # its own affair
        """Make windows (B,H,W,3) and holes (B,H,W) ready for `run`; in any thread."""
        ...

    def run(self, loaded: Any) -> NDArray[np.uint8]:
        """Return fills (B,H,W,3); in one thread."""
        ...


class Plan(Protocol):
    """The windows of a pass, as `inpaint.restore.Plan` has them."""

    @property
    def windows(self) -> tuple[Window, ...]:
        """In the order in which their fills are laid."""
        ...

    def inputs(self, windows: Sequence[Window]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return pixels (B,h,w,3) and holes (B,h,w) for windows of one size."""
        ...


class Canvas(Protocol):
    """What the fills of a pass are laid on, as `inpaint.restore.Finish`."""

    ending: Iterator[None]  # after the last fill: what is left to do, a part at a time

    def lay(self, fill: Pixels) -> None:
        """Lay the fill of the next window."""
        ...

    def pixels(self) -> Pixels:
        """Return what has come of all fills, uint8 (H,W,3)."""
        ...


@dataclass(frozen=True, eq=False)
class Pass:
    """What one model is to do for a task."""

    model: str  # the name of its filler
    plan: Plan
    canvas: Canvas


class Task(Protocol):
    """One picture on its way. All methods may raise, but `end`; `close` is called for each pass.

    Attributes:
        urgent: of the interactive lane.
        alone: it is run with nothing else under way.
    """

    urgent: bool
    alone: bool

    def check(self) -> None:
        """Raise if it should not go on."""
        ...

    def fetch(self) -> int:
        """Read the files; return how many pixels opening will decode."""
        ...

    def open(self) -> Pass:
        """Decode, and plan the first pass."""
        ...

    def close(self, pixels: Pixels, *, infer: float, lay: float) -> Pass | None:
        """Take the pixels of a pass and the seconds spent on its windows; return the next pass."""
        ...

    def end(self, error: Exception | None) -> None:
        """Hear that it is over: closed, or ended by an error. Called last, in any thread."""
        ...


@dataclass(eq=False)
class Work:
    """A task under way, and how far it has come in its present pass."""

    task: Task
    came: float = field(default_factory=time.monotonic)
    pixels: int = 0  # decoded, that count as in flight
    stage: Pass | None = None
    taken: int = 0  # windows given to batches
    laid: int = 0  # windows
    fills: list[Pixels] = field(default_factory=list)  # to be laid
    laying: bool = False
    infer: float = 0.0  # seconds that its windows were in the model
    lay: float = 0.0  # seconds
    ended: bool = False

    def enter(self, stage: Pass) -> None:
        """Begin a pass: nothing of it is done."""
        self.stage = stage
        self.taken, self.laid, self.infer, self.lay = 0, 0, 0.0, 0.0

    @property
    def model(self) -> str:
        """Of the pass."""
        assert self.stage is not None
        return self.stage.model

    @property
    def windows(self) -> tuple[Window, ...]:
        """Of the pass."""
        return self.stage.plan.windows if self.stage else ()


@dataclass(eq=False)
class Batch:
    """Windows to be filled at once."""

    model: str
    size: tuple[int, int]  # of each window
    parts: list[tuple[Work, list[Window]]]
    full: bool  # what comes later would not change it


class Former:
    """The tasks whose windows wait, and the sizes of batches."""

    def __init__(self, fillers: Mapping[str, Filler], batch_seconds: float) -> None:
        """Begin with none.

        Args:
            fillers: by the name of their model.
            batch_seconds: of a batch while interactive tasks come in.
        """
        self.waiting: dict[bool, deque[Work]] = {True: deque(), False: deque()}  # by urgency
        self._fillers = fillers
        self._batch_seconds = batch_seconds
        self._formed = 0
        self._urgent = 0  # interactive tasks under way
        self._left = -math.inf  # when the last of them ended
        self._fitted: dict[str, int] = {}  # pixels, after a batch did not fit into memory
        self._pace: dict[str, float] = {}  # seconds per pixel, of batches without trouble
        # Of each lane's tasks the latest model, and pixels of all windows, in the mean.
        self._model: dict[bool, str] = {}
        self._area: dict[tuple[bool, str], float] = {}

    def came(self, task: Task) -> None:
        """Hear of a new task."""
        self._urgent += task.urgent

    def gone(self, work: Work) -> None:
        """Hear that a task has ended, whether it waits or not."""
        urgent = work.task.urgent
        if work in self.waiting[urgent]:  # what a deque raises otherwise costs a repr of the work
            self.waiting[urgent].remove(work)
        if urgent:
            self._urgent -= 1
            self._left = time.monotonic()

    def add(self, work: Work) -> None:
        """Let a task with a pass begun wait."""
        urgent, model = work.task.urgent, work.model
        area: float = sum(math.prod(window.size) for window in work.windows)
        area = min(area, self._fillers[model].batch_pixels)  # one of many windows tells little
        mean = self._area.get((urgent, model), area)
        self._area[urgent, model] = area + (mean - area) * (1 - NEWEST)
        self._model[urgent] = model
        if urgent:
            self.waiting[urgent].append(work)
        else:
            insort(self.waiting[urgent], work, key=lambda work: work.came)

    def choose(self) -> Batch | None:
        """Return the next batch without taking it; None if nothing waits."""
        album_first = self._formed % TURNS == TURNS - 1
        batch = None
        for urgent in (not album_first, album_first):
            line = self.waiting[urgent]
            if line and batch is None:
                model, size = line[0].model, line[0].windows[line[0].taken].size
                waits = self.short and not urgent  # until an interactive one may have come
                left = max(1, self._most(model) // math.prod(size))
                chosen: dict[Work, list[Window]] = {}
                batch = Batch(model, size, [], full=False)
            if batch is None:
                continue
            turn = deque(work for work in line if work.model == batch.model)
            while turn and left:
                work = turn.popleft()
                windows = chosen.get(work, [])
                place = work.taken + len(windows)
                if place < len(work.windows) and work.windows[place].size == batch.size:
                    chosen.setdefault(work, windows).append(work.windows[place])
                    left -= 1
                    (turn.append if urgent else turn.appendleft)(work)
        if batch is not None:
            batch.parts = list(chosen.items())
            batch.full = left == 0 and not waits
        return batch

    def take(self, batch: Batch) -> None:
        """Take a batch out."""
        self._formed += 1
        for work, windows in batch.parts:
            work.taken += len(windows)
            line, left = self.waiting[work.task.urgent], work.taken < len(work.windows)
            if work.task.urgent or not left:
                line.remove(work)
                if left:
                    line.append(work)

    def tasks(self, *, urgent: bool) -> int:
        """How many tasks of a lane's latest kind fill a batch, 1 or more."""
        model = self._model.get(urgent)
        if model is None:
            return 1
        return max(1, math.ceil(self._most(model) / max(1.0, self._area[urgent, model])))

    def seconds(self, batch: Batch) -> float:
        """How long a batch will take at least, as far as is known."""
        count = sum(len(windows) for _, windows in batch.parts)
        return self._pace.get(batch.model, 0.0) * count * math.prod(batch.size)

    def task_seconds(self, *, urgent: bool) -> float:
        """How long the windows of a task of a lane's latest kind take, as far as is known."""
        model = self._model.get(urgent)
        if model is None:
            return 0.0
        return self._pace.get(model, 0.0) * self._area[urgent, model]

    def measured(self, model: str, pixels: int, seconds: float) -> None:
        """Learn how long a batch took."""
        pace = seconds / pixels
        self._pace[model] = min(pace, self._pace.get(model, pace) * FORGET)

    def too_large(self, model: str, pixels: int) -> None:
        """Learn that a batch of so many pixels did not fit into memory."""
        self._fitted[model] = min(pixels // 2, self._fitted.get(model, pixels))

    @property
    def short(self) -> bool:
        """Whether interactive tasks are, or were just now, under way: batches are kept short."""
        return self._urgent > 0 or time.monotonic() - self._left < RECENT_SECONDS

    def _most(self, model: str) -> int:
        """Pixels of a batch, at most."""
        most = self._fillers[model].batch_pixels
        most = min(most, self._fitted.get(model, most))
        if self.short and self._pace.get(model):
            most = min(most, int(self._batch_seconds / self._pace[model]))
        return most
